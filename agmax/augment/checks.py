"""Check the settings of transforms; the errors name the setting, its value and what to give."""

import math
from collections.abc import Iterable


def check_range(owner: object, *names: str, low: float = 0, high: float = math.inf) -> None:
    """Raise ValueError if a setting of the owner, or a number in it, is outside the range from `low` to `high`."""
    for name in names:
        value = getattr(owner, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                allowed = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more"
                where = f"{name} ({type(owner).__name__})"
                raise ValueError(f"{where}: {number!r} is out of range. Give a number {allowed}")


def check_span(owner: object, *names: str) -> None:
    """Raise ValueError if a setting of the owner is not a pair of a smallest and a largest number."""
    for name in names:
        value = getattr(owner, name)
        if len(value) != 2 or value[0] > value[1]:
            where = f"{name} ({type(owner).__name__})"
            raise ValueError(f"{where}: {value!r} is not a range. Give two numbers, the smaller one first")


def check_choice(owner: object, name: str, choices: Iterable[str]) -> None:
    """Raise ValueError if a setting of the owner is not one of the choices."""
    value, known = getattr(owner, name), list(choices)
    if value not in known:
        raise ValueError(f"{name} ({type(owner).__name__}): {value!r} is not known. Give one of {', '.join(known)}")
