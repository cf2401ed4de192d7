"""The old words are gone: settings, flags, messages, pages, configurations and study tables have one language."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.config import resolve
from helpers.command import Answer
from helpers.docs import PAGES
from helpers.places import REPOSITORY

WORDS = {
    r"\barms?\b": "variant",
    r"\bcells?\b": "run",
    r"\breplicates?\b": "seed",
    r"\bimage[ _]passes\b": "samples seen",
    r"\basides?\b": "off center, offset",
    r"\btwins?\b": "an unfinished run of the same configuration",
    r"\bwindows?\b": "crop",
    r"\bhid(?:e|es|ing|den)\b(?![ _-]units?)": "occlude",
    r"\b(?:kept|held) apart\b": "held out",
    r"\bshares? of\b|\bas a share\b|\b(?:visible|test|final|class|a|the|its|this) shares?\b|\w_shares?\b": "fraction",
    r"\bfinal_divisor\b|\b(?:final|light) epochs\b": "weak-augmentation epochs",
    r"\bcopied ahead\b": "prefetch",
    r"\bover devices\b": "data-parallel",
    r"\bnumber format\b": "dtype",
    r"\bprincipal colours\b|(?<!pca_)(?<!pca )\blighting\b": "PCA lighting",
    r"\bthe link\b|\bwithout the link\b": "confidence source",
}
"""Old words, as regular expressions, and what is said today."""

OF_NAMES = {
    r"normalis|initialis|colour|centre": "American spelling",
    r"probability$|num_operations|\btable$|softening\.link|cutmix\.beta|auto_augment\.scale|\bshare|\blighting": "",
}
"""Beside them, what no name of a setting or flag has."""

AUTHORS_FLAGS = {"--beta", "--cutmix-prob"}


def found(text: str, *tables: dict[str, str]) -> list[str]:
    """Return the old words of a text with what stands around them, and the new ones."""
    plain = " ".join(text.split())
    return [
        f"{plain[max(0, match.start() - 30) : match.end() + 20]!r}: write {new}"
        for table in tables
        for old, new in table.items()
        for match in re.finditer(old, plain, flags=re.IGNORECASE)
    ]


def names_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def files(*patterns: str) -> list[Path]:
    """Return the files of the repository that patterns find, made by nobody's tools."""
    return sorted(path for pattern in patterns for path in REPOSITORY.glob(pattern) if path.is_file())


TEXTS = files("configs/**/*.yaml", "figures/**/study.*", "CHANGELOG.md", "checkpoints/README.md")
MODULES = files("main.py", "agmax/**/*.py")


def test_an_old_word_would_be_found() -> None:
    for text in ("an arm", "Cells", "image_passes", "crops far aside", "what is hidden", "test_share", "the window"):
        assert found(text, WORDS), text
    for text in ("hidden units", "hidden_units", "an alarm", "PCA lighting", "pca_lighting", "they share a file"):
        assert not found(text, WORDS), text


def test_settings_have_no_old_names() -> None:
    assert [hit for key in sorted(resolve.KEYS | resolve.SECTIONS) for hit in found(key, WORDS, OF_NAMES)] == []


def test_flags_and_their_help_have_no_old_words(run: Callable[..., Answer]) -> None:
    said = run("--help").out
    assert found(said, WORDS) == []
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", said)) - AUTHORS_FLAGS
    assert [hit for flag in sorted(flags) for hit in found(flag, OF_NAMES)] == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_no_old_words(page: str) -> None:
    assert found(PAGES[page], WORDS) == []


@pytest.mark.parametrize("path", TEXTS, ids=names_of)
def test_configurations_and_tables_have_no_old_words(path: Path) -> None:
    assert found(path.read_text(), WORDS) == []


@pytest.mark.parametrize("path", files("configs/study/results/*.jsonl"), ids=names_of)
def test_records_have_no_old_names(path: Path) -> None:
    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for each in value.values() for key in keys(each)}
        return {key for each in value for key in keys(each)} if isinstance(value, list) else set()

    names = set().union(*(keys(json.loads(line)) for line in path.read_text().splitlines()))
    assert [hit for name in sorted(names) for hit in found(name, WORDS, OF_NAMES)] == []


def test_no_file_has_an_old_name() -> None:
    paths = [*TEXTS, *MODULES, *files("figures/**/*.png")]
    assert [hit for path in paths for hit in found(names_of(path).replace("/", " "), WORDS)] == []


@pytest.mark.parametrize("path", MODULES, ids=names_of)
def test_messages_have_no_old_words(path: Path) -> None:
    """Messages are the texts of a module that are not its docstrings: those of several words."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    assert [hit for text in texts if " " in text.strip() for hit in found(text, WORDS)] == []
