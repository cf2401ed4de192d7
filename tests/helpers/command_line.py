"""Settings as --print-config shows them."""

from collections.abc import Callable
from typing import Any

from helpers.command import Answer

Run = Callable[..., Answer]


def leaves(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        result |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return result


def printed(run: Run, *words: str) -> dict[str, Any]:
    """Return the settings by dotted key that --print-config shows."""
    answer = run("--print-config", "--json", *words)
    assert answer.status == 0, answer.err
    return leaves(answer.json)
