"""What the tests share: main() in a folder of its own, and small data sets in their on-disk formats."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests run side by side, one thread each

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from agmax.experiments import environment
from main import main

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parent.parent


def golden(name: str) -> Any:
    """Read a file of numbers that the reference programs computed."""
    return json.loads((GOLDEN / name).read_text())


def skip_or_fail(reason: str) -> None:
    """Skip a check whose needs are missing here; where CI=true they must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


class Answer(NamedTuple):
    """What main() did: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=_refuse)


@pytest.fixture(scope="session", autouse=True)
def without_flushes_and_git() -> Iterator[None]:
    """Leave out what takes time at every checkpoint and in every run and is not looked at: disk flushes, git."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(environment, "_commit", functools.cache(environment._commit))
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call main() with words, in an empty folder; `run("--list", "--json").json`."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as stop:  # argparse's own
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return Answer(status, printed.out, printed.err)

    return call


def write_images(
    folder: Path, count: int, *, size: tuple[int, int] = (40, 40), seed: int = 0, mode: str = "RGB"
) -> None:
    """Write `count` PNG files of random pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")


def write_tree(root: Path, classes: list[str], splits: dict[str, int], **options: Any) -> Path:
    """Write <root>/<split>/<class>/<n>.png; `splits` maps a split to its images in each class."""
    for split, count in splits.items():
        for label, name in enumerate(classes):
            write_images(root / split / name, count, seed=label + 100 * len(split), **options)
    return root
