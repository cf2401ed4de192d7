"""Files of a folder."""

import os
from pathlib import Path


def names(folder: Path) -> list[str]:
    """Return what is in a folder, hidden files too."""
    return sorted(os.listdir(folder))
