"""The benchmark: it times the same work for all, says what it compared, and the pipeline keeps within its memory."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from conftest import REPOSITORY, Answer
from torchvision.transforms.v2 import functional

from agmax.augment import color
from agmax.benchmarks import augment, rivals

Run = Callable[..., Answer]

KEYS = {
    "pipeline",
    "image_size",
    "batch_size",
    "threads",
    "views_per_second",
    "per_image_views_per_second",
    "ratio",
    "others",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "REPEATS", 1)
    monkeypatch.setattr(augment, "SHORTEST", 0.0)
    monkeypatch.setattr(augment, "ROWS", (("auto_augment", 32, 16), ("crop-flip-normalise-cutout", 32, 16)))


@pytest.mark.usefixtures("quick")
def test_every_row_says_what_was_timed_and_beside_what(run: Run) -> None:
    answer = run("--benchmark", "augment", "--json")
    assert answer.status == 0, answer.err
    rows = answer.json["rows"]
    assert [row["pipeline"] for row in rows] == ["auto_augment", "crop-flip-normalise-cutout", "decode-random_resized"]
    for row in rows:
        assert set(row) == KEYS
        assert row["views_per_second"] == pytest.approx(row["ratio"] * row["per_image_views_per_second"])
    assert {"torchvision tensors per image", "timm PIL per image"} <= set(rows[0]["others"])
    assert {"torch", "torchvision", "timm", "pillow"} <= set(answer.json["versions"])
    assert answer.err.count("\n") == 3  # a line for each row, beside the JSON


@pytest.mark.usefixtures("quick")
def test_without_json_the_table_is_the_result(run: Run) -> None:
    answer = run("--benchmark")
    assert answer.status == 0
    assert answer.out.splitlines()[1].startswith("crop-flip-normalise-cutout ")
    assert answer.err == ""


@pytest.mark.parametrize("word", ["--config=ResNet8", "--dataset=digits", "train.epochs=3"])
def test_a_setting_that_the_benchmark_would_ignore_is_refused(run: Run, word: str) -> None:
    answer = run("--benchmark", "augment", word)
    assert (answer.status, answer.out) == (2, "")
    assert "settings not followed (--benchmark)" in answer.err


def test_speeds_are_medians_of_programs_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the programs move: 256 views in 2 s, and 16 in 4 s but for one bad turn of 400 s."""
    now, turns = [0.0], []
    monkeypatch.setattr(augment.time, "perf_counter", lambda: now[0])

    def program(name: str, seconds: float) -> Callable[[int], None]:
        def work(call: int) -> None:
            turns.append(name)
            now[0] += 400 if name == "slow" and turns.count("slow") == 4 else seconds

        return work

    speeds = augment.median_speeds({"fast": (program("fast", 2), 256), "slow": (program("slow", 4), 16)})
    assert speeds == {"fast": 128.0, "slow": 4.0}
    assert turns[4:] == ["fast", "slow"] * augment.REPEATS


def test_all_programs_normalise_to_the_same_numbers() -> None:
    images = augment.photographs(4, 32, 32)
    ours = color.normalised(images, torch.tensor(rivals.MEAN), torch.tensor(rivals.STD))
    for from_pil, given in ((True, rivals.pil_images(images)), (False, list(images))):
        change = rivals.torchvision_per_image(["normalise"], size=32, from_pil=from_pil)
        torch.testing.assert_close(torch.stack([change(image) for image in given]), ours)


@pytest.mark.parametrize("word", [word for word in augment.PARTS if word != "wide_crop"])
def test_every_part_has_a_rival_per_image_and_changes_images(word: str) -> None:
    images = augment.photographs(16, 32, 32)
    work, count = augment._ours([word], images)
    assert count == 16
    changed = work(1)
    assert changed.shape == images.shape
    assert not torch.equal(changed.float(), images.float())
    assert "torchvision PIL per image" in augment._rivals([word], images)


def test_the_photographs_are_smooth_as_photographs_are_and_always_the_same() -> None:
    first, second = augment.photographs(2, 64, 64), augment.photographs(2, 64, 64)
    assert torch.equal(first, second)
    levels = first.float()
    neighbours, strangers = (levels - levels.roll(1, -1)).abs().mean(), (levels - levels.flip(-1)).abs().mean()
    assert neighbours < 0.7 * strangers  # of pure noise they are equal
    assert functional.rgb_to_grayscale(first).float().std() > 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_pipeline_takes_less_than_a_gigabyte_for_256_views_of_imagenet() -> None:
    program = """
import re, torch
from pathlib import Path
from agmax import build
from agmax.batch import Sample
from agmax.config.resolve import resolve
config = resolve("ResNet50-auto_augment-cutout-agmax", dataset="imagenet").config
make = build.pipeline(config)
small = Sample(torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8), torch.arange(2), torch.arange(2))
make(small, step=0)
def kilobytes(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
images = torch.randint(0, 256, (128, 2, 3, 224, 224), dtype=torch.uint8)
batch = make(Sample(images, torch.arange(128), torch.arange(128)), step=0)
assert batch.images.shape == (128, 2, 3, 224, 224)
print((kilobytes("VmHWM") - before) * 1024)
"""
    answer = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    taken, batch = int(answer.stdout), 256 * 3 * 224 * 224 * 4
    assert batch < taken < 1e9  # the batch itself is 154 MB
    assert taken < 4 * batch
