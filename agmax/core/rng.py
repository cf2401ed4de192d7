"""Random generators seeded by a hash of their purpose, so that any single step can be reproduced."""

import hashlib

import numpy as np


def seed_for(*key: str | int) -> int:
    """Return the 64-bit seed of `key`, the same on every machine and in every run of Python.

    The parts are joined by '/' and hashed with BLAKE2b.

    Raises:
        TypeError: a part is neither str nor int; a bool does not count as int.
    """
    for part in key:
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise TypeError(f"seed_for takes str and int, not {part!r} of type {type(part).__name__}")
    digest = hashlib.blake2b("/".join(str(part) for part in key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(*key: str | int) -> np.random.Generator:
    """Return a random generator that depends on `key` alone; its state is never saved."""
    return np.random.Generator(np.random.PCG64(seed_for(*key)))
