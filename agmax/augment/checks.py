"""Refuse settings of a transform that make no sense, saying which and what to give."""

import math
from collections.abc import Iterable


def check_range(owner: object, *names: str, low: float = 0, high: float = math.inf) -> None:
    """Raise ValueError where one of the owner's settings, or a number in it, lies outside of `low` to `high`."""
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                span = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more"
                raise ValueError(f"{name} ({type(owner).__name__}): {number!r} is out of range. Give a number {span}")


def check_span(owner: object, *names: str) -> None:
    """Raise ValueError where one of the owner's settings is not a smallest and a largest number."""
    for name in names:
        value = getattr(owner, name)
        if len(value) != 2 or value[0] > value[1]:
            where = f"{name} ({type(owner).__name__})"
            raise ValueError(f"{where}: {value!r} is no span. Give two numbers, the smallest first")


def check_choice(owner: object, name: str, choices: Iterable[str]) -> None:
    """Raise ValueError where one of the owner's settings is not among the choices."""
    value, known = getattr(owner, name), list(choices)
    if value not in known:
        raise ValueError(f"{name} ({type(owner).__name__}): {value!r} is not known. Give one of {', '.join(known)}")
