"""Hash the code that decides results, to tell whether two results come from the same program."""

import ast
import hashlib
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

DECIDES = (
    "core/batch.py",
    "core/devices.py",
    "core/rng.py",
    "augment/*.py",
    "builders/*.py",
    "config/augmentation.py",
    "config/schema.py",
    "data/*.py",
    "evaluation/*.py",
    "losses/*.py",
    "models/*.py",
    "optim/*.py",
    "training/loop.py",
)
"""The files that decide the numbers of a training."""


IMPORTED: list[Path] = []
"""The user's own files that were imported; they decide results too."""


@lru_cache
def source_hash() -> str:
    """Return 12 hexadecimal digits of the hash; comments, docstrings and formatting do not change it."""
    digest = hashlib.sha256()
    for pattern in DECIDES:
        for path in sorted(PACKAGE.glob(pattern)):
            text = ast.unparse(_remove_docstrings(ast.parse(path.read_bytes())))
            digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n{text}\n".encode())
    for path in IMPORTED:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _remove_docstrings(tree: ast.Module) -> ast.Module:
    """Remove the statements that are only a string."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [
                item
                for item in body
                if not (isinstance(item, ast.Expr) and isinstance(getattr(item.value, "value", None), str))
            ]
    return tree
