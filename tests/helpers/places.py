"""Where things lie, and what to do where something is missing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"


def golden(name: str) -> Any:
    """Read a file of numbers that the reference programs computed."""
    return json.loads((GOLDEN / name).read_text())


def skip_or_fail(reason: str) -> None:
    """Skip a check whose needs are missing here; where CI=true they must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
