"""--predict: files and folders, the most probable classes, and files that are not images."""

import csv
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import agmax
from agmax.experiments.predict import class_names
from helpers.command import Answer
from helpers.images import write_tree
from helpers.released import file_of
from helpers.training import TINY
from main import main

Run = Callable[..., Answer]

FORMATS = {"png": "RGB", "jpg": "L", "bmp": "RGB", "webp": "RGBA", "tiff": "I;16", "ppm": "RGB", "jpeg": "CMYK"}


def write_photos(folder: Path, count: int = 47) -> list[Path]:
    """Write images of mixed formats and color modes, some of them in a subfolder."""
    (folder / "inside").mkdir(parents=True)
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        ending, mode = list(FORMATS.items())[number % len(FORMATS)]
        path = folder / ("inside" if number % 5 == 0 else "") / f"{number:02d}.{ending}"
        pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else None
        (image or Image.fromarray(pixels).convert(mode)).save(path)
        made.append(path)
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("--config=ResNet8-cutout", "--train", *TINY, "train.epochs=1", f"train.runs_dir={folder}")
    assert main(list(words)) == 0
    return folder / "ResNet8-cutout" / "digits-s0"


@pytest.fixture
def weights(trained: Path, tmp_path: Path) -> str:
    shutil.copytree(trained, tmp_path / "trained")
    return "trained"


def test_a_folder_of_mixed_formats_is_classified_and_broken_files_are_named(
    run: Run, weights: str, tmp_path: Path
) -> None:
    """Fifty files, three of them broken: cut short, a page, and empty."""
    made = write_photos(tmp_path / "mixed")
    broken = [tmp_path / "mixed" / name for name in ("cut.png", "page.jpg", "inside/empty.bmp")]
    broken[0].write_bytes(made[0].read_bytes()[:300])
    broken[1].write_text("<!doctype html>")
    broken[2].write_bytes(b"")
    (tmp_path / "mixed" / "notes.txt").write_text("no image")
    (tmp_path / "mixed" / "._00.png").write_text("of another system")
    none = run("--predict", *map(str, broken), f"--resume={weights}")
    assert (none.status, none.out) == (3, "")
    assert "no image classified (3 files): none is a readable image" in none.err
    answer = run("--predict", "mixed", f"--resume={weights}")
    assert answer.status == 0, answer.err
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert sorted(row["file"] for row in rows) == sorted(str(path.relative_to(tmp_path)) for path in made)
    for path in broken:
        assert f"image cannot be read ({path.relative_to(tmp_path)})" in answer.err
    assert "47 of 50 images classified" in answer.err
    for row in rows:
        fractions = [float(row[f"probability_{k}"]) for k in range(1, 6)]
        assert fractions == sorted(fractions, reverse=True) and 0 < sum(fractions) <= 1 + 1e-5
        assert len({row[f"class_{k}"] for k in range(1, 6)}) == 5
    as_json = run("--predict", "mixed", f"--resume={weights}", "--json").json
    assert sorted(as_json["unreadable"]) == sorted(str(path.relative_to(tmp_path)) for path in broken)
    assert [item["file"] for item in as_json["predictions"]] == [row["file"] for row in rows]


def test_the_classes_are_those_of_the_model(run: Run, weights: str, tmp_path: Path) -> None:
    made = write_photos(tmp_path / "few", count=6)
    words = (
        "--predict",
        *map(str, made),
        str(made[0]),
        f"--resume={weights}",
        "--top-k=10",
        "evaluation.batch_size=4",
        "--json",
    )
    found = run(*words).json["predictions"]
    model = agmax.load_model(weights)
    for path, item in zip(made, found, strict=True):
        with Image.open(path) as image, torch.inference_mode():
            fractions = model(model.preprocess(image)[None]).softmax(-1)[0]
        assert item["file"] == str(path)
        named = {model.class_names.index(each["class"]): each["probability"] for each in item["classes"]}
        assert len(named) == 10
        assert [named[k] for k in range(10)] == pytest.approx(fractions.tolist(), abs=1e-5)


def test_photographs_are_rotated_once_and_odd_files_are_named(run: Run, tmp_path: Path) -> None:
    """A photograph on its side is classified like the upright one; a very narrow one and a pipe are not classified."""
    write_tree(tmp_path / "photos", ["a", "b"], {"train": 4, "test": 2}, size=(60, 44))
    words = ("--dataset=folder", f"dataset.root={tmp_path / 'photos'}", "dataset.image_size=32", "train.num_workers=0")
    trained = run("--config=ResNet8", "--train", *words, "--epochs=1", "train.batch_size=4", "--json")
    assert trained.status == 0, trained.err
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    (tmp_path / "odd").mkdir()
    Image.fromarray(pixels).save(tmp_path / "odd" / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "odd" / "lying.png", exif=exif)
    Image.new("L", (1, 200_000)).save(tmp_path / "odd" / "narrow.png")
    os.mkfifo(tmp_path / "odd" / "pipe.jpg")
    answer = run("--predict", "odd", f"--resume={trained.json['run_folder']}", "--json")
    assert answer.status == 0, answer.err
    lying, upright = answer.json["predictions"]
    assert lying["classes"] == upright["classes"]
    assert list(answer.json["unreadable"]) == ["odd/narrow.png"]
    assert "it is too narrow: 1 by 200000 pixels" in answer.err
    assert run("--predict", "odd/pipe.jpg", f"--resume={trained.json['run_folder']}").status == 3
    exported = run("--export", "--config=ResNet8", *words, "--epochs=1", "train.batch_size=4", "--resume", "--json")
    assert exported.status == 0, exported.err
    assert exported.json["checkpoint"] == trained.json["checkpoint"]


def test_classes_without_saved_names_are_imagenets_or_numbers(tmp_path: Path) -> None:
    for classes, expected in ((1000, "Norwegian elkhound"), (300, "class 174")):
        torch.save(file_of("WideResNet40-2", classes=classes), tmp_path / "imagenet-a.pth")
        found = class_names(agmax.load_model(tmp_path / "imagenet-a.pth"))
        assert len(found) == classes and expected in found[174]


def test_top_k_is_limited_to_the_number_of_classes(run: Run, weights: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "photos", ["a"], {"x": 1})
    (item,) = run("--predict", "photos", f"--resume={weights}", "--top-k=99", "--json").json["predictions"]
    assert len(item["classes"]) == 10


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["--predict", "nowhere", "--resume=RUN"], 3, "there is no such file or folder"),
        (["--predict", "empty", "--resume=RUN"], 3, "no file ends in .jpg"),
        (["--predict", "empty"], 2, "Give --checkpoint FILE"),
        (["--predict", "empty", "--resume=RUN", "--top-k=0"], 2, "it must be 1 or more"),
        (["--predict", "empty", "--resume=none.pth"], 4, "checkpoint not found"),
        (["--predict", "empty", "--config=ResNet8"], 2, "checkpoints have their own configuration"),
        (["--eval", "--resume=RUN", "--top-k=3"], 2, "it belongs to --predict"),
    ],
)
def test_mistakes_give_an_error_that_says_why(
    run: Run, weights: str, tmp_path: Path, words: list[str], status: int, why: str
) -> None:
    (tmp_path / "empty").mkdir()
    answer = run(*(word.replace("RUN", weights) for word in words))
    assert answer.status == status
    assert why in answer.err and answer.err.count("\n") == 1
