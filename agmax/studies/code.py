"""Tell whether two results were made by the same program."""

import ast
import hashlib
from functools import lru_cache

from agmax.config import names

DECIDES = (
    "*.py",
    "augment/*.py",
    "config/*.py",
    "data/*.py",
    "evaluation/*.py",
    "models/*.py",
    "objectives/*.py",
)
DECIDES_NOT = ("__init__.py", "cli.py", "modes.py", "config/study.py")


@lru_cache
def fingerprint() -> str:
    """Return 12 hexadecimal digits for the code that a training runs through; comments and layout do not count."""
    digest = hashlib.sha256()
    for pattern in DECIDES:
        for path in sorted(names.PACKAGE.glob(pattern)):
            name = path.relative_to(names.PACKAGE).as_posix()
            if name not in DECIDES_NOT:
                digest.update(f"{name}\n{ast.dump(ast.parse(path.read_bytes()))}\n".encode())
    return digest.hexdigest()[:12]
