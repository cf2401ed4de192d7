"""Run the program as a user does: main() with words, and what came of it."""

import json
from typing import Any, NamedTuple


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


class Answer(NamedTuple):
    """What main() did: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=_refuse)
