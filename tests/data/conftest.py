"""Fixtures of the data sets' tests: no network, and a few photographs."""

import urllib.error
from pathlib import Path

import pytest
from PIL import Image

from agmax.data import decode
from agmax.data.splits import FileDataset
from helpers.streaming import files_of, scene


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every download fail as it does without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)
    monkeypatch.setattr("agmax.core.download.WAIT", 0.0)


@pytest.fixture
def photographs(tmp_path: Path) -> FileDataset:
    """Write five JPEG files of different sizes and sampling, one of them to be turned upright."""
    sizes = [(96, 70), (60, 111), (128, 128), (200, 40), (51, 67)]
    for number, (width, height) in enumerate(sizes):
        exif = Image.Exif()
        exif[decode.ORIENTATION_TAG] = 6 if number == 1 else 1
        image = Image.fromarray(scene(width, height, seed=number))
        image.save(tmp_path / f"{number}.jpg", quality=90, subsampling=number % 3, exif=exif)
    return files_of(*(tmp_path / f"{number}.jpg" for number in range(len(sizes))))
