"""Tell whether two results were made by the same program."""

import ast
import hashlib
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent

DECIDES = (
    "batch.py",
    "build.py",
    "optim.py",
    "parallel.py",
    "randomness.py",
    "schedules.py",
    "trainer.py",
    "augment/*.py",
    "config/augmentation.py",
    "config/schema.py",
    "data/*.py",
    "evaluation/*.py",
    "models/*.py",
    "objectives/*.py",
)
"""The files that a training's numbers go through."""


@lru_cache
def fingerprint() -> str:
    """Return 12 hexadecimal digits for the code that decides results; comments and layout do not count."""
    digest = hashlib.sha256()
    for pattern in DECIDES:
        for path in sorted(PACKAGE.glob(pattern)):
            tree = ast.dump(ast.parse(path.read_bytes()))
            digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n{tree}\n".encode())
    return digest.hexdigest()[:12]
