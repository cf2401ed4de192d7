"""Files that are there whole or not at all."""

import os
from pathlib import Path


def put_in_place(temporary: Path, path: Path) -> None:
    """Move a finished file to its name, at once and durably."""
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
