"""Fixtures that write configuration files and replace fragments."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agmax.config import names
from helpers.places import REPOSITORY


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a YAML file and return its path."""

    def to(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return to


def copy_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]) -> None:
    """Use a copy of the repository's fragments, some of them changed."""
    if not (tmp_path / "configs").exists():
        shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for name, text in changed.items():
        (tmp_path / "configs" / name).write_text(text)
    monkeypatch.setattr(names, "CONFIGS", tmp_path / "configs")
    names.files.cache_clear()
    names._read_fragment.cache_clear()


@pytest.fixture
def fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Replace fragments for one test."""
    yield lambda changed: copy_with(tmp_path, monkeypatch, changed)
    monkeypatch.undo()
    names.files.cache_clear()
    names._read_fragment.cache_clear()
