"""The benchmark: it times the same work for all, says what it compared, and the pipeline keeps within its memory."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from agmax import builders
from agmax.augment import color, mixing, transforms
from agmax.benchmarks import augment, evaluation, files, other_programs, saving, timing
from agmax.config.resolve import resolve
from agmax.data.splits import FileDataset
from helpers.command import Answer
from helpers.places import REPOSITORY

Run = Callable[..., Answer]

KEYS = {
    "pipeline",
    "device",
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
    monkeypatch.setattr(timing, "REPEATS", 1)
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    monkeypatch.setattr(
        augment, "ROWS", (("auto_augment", 32, 16), ("crop-flip-normalize-cutout", 32, 16), ("flip-normalize", 224, 2))
    )


@pytest.mark.usefixtures("quick")
def test_every_row_names_the_pipeline_and_the_other_programs(run: Run) -> None:
    answer = run("--benchmark", "augment", "--json")
    assert answer.status == 0, answer.err
    rows = answer.json["rows"]
    assert [row["pipeline"] for row in rows] == [
        "auto_augment",
        "crop-flip-normalize-cutout",
        "flip-normalize",
        "decode-random_resized",
        "decode-random_resized-flip-normalize",
    ]
    for row in rows:
        assert set(row) == KEYS
        assert row["device"] == "cpu"
        assert row["views_per_second"] == pytest.approx(row["ratio"] * row["per_image_views_per_second"])
    assert {"torchvision tensors per image", "timm PIL per image (ImageNet's policy)"} <= set(rows[0]["others"])
    assert {"torch", "torchvision", "timm", "pillow"} <= set(answer.json["versions"])
    assert "torchvision PIL per image, decode-random_resized-flip-normalize" in rows[3]["others"]
    assert answer.err.count("\n") == 5  # a line for each row, beside the JSON


@pytest.mark.usefixtures("quick")
def test_without_json_the_table_is_the_result(run: Run) -> None:
    answer = run("--benchmark")
    assert answer.status == 0
    assert answer.out.splitlines()[1].startswith("crop-flip-normalize-cutout ")
    assert answer.err == ""


@pytest.mark.parametrize("word", ["--config=ResNet8", "--dataset=digits", "train.epochs=3"])
def test_a_setting_that_the_benchmark_would_ignore_is_refused(run: Run, word: str) -> None:
    answer = run("--benchmark", "augment", word)
    assert (answer.status, answer.out) == (2, "")
    assert "settings not supported (--benchmark)" in answer.err


def test_an_evaluation_is_timed_together_with_timms(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "NUM_IMAGES", 4)
    monkeypatch.setattr(evaluation, "REPEATS", 1)
    monkeypatch.setattr(evaluation, "NETWORK", "ResNet8")
    answer = run("--benchmark=evaluation", "--json")
    assert answer.status == 0, answer.err
    assert [row["what"] for row in answer.json["rows"]] == ["loader", "evaluation"]
    for row in answer.json["rows"]:
        assert row["ratio"] == pytest.approx(row["images_per_second"] / row["timm_images_per_second"])
    assert answer.err.count("\n") == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves the files open
def test_the_saving_of_a_checkpoint_is_timed_and_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "NAME", "ResNet8-cutmix-agmax")
    monkeypatch.setattr(saving, "REPEATS", 3)
    answer = run("--benchmark=saving", "--json")
    assert answer.status == 0 and os.listdir() == []
    median = sorted(answer.json["seconds"])[1]
    assert answer.json["share_by_minutes"] == {"15": median / 900, "1": median / 60}
    assert answer.json["bytes"] > 600_000 and "1 MiB saved in 0." in answer.err


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm leaves its files open
def test_both_evaluations_see_the_same_images_and_measure_the_same() -> None:
    config = resolve("ResNet8", dataset="imagenet", settings=[]).config
    config = config.model_copy(update={"train": config.train.model_copy(update={"num_workers": 0})})
    device = torch.device("cpu")
    with files.jpeg_files(5) as paths:
        data = FileDataset(tuple(map(str, paths)), torch.zeros(5, dtype=torch.int64), tuple(map(str, range(1000))))
        config = builders.with_num_classes(config, lambda: data)
        loader = other_programs.timm_loader(paths[0].parent, image_size=224, batch_size=5, num_workers=0, device=device)
        (theirs, labels), *_ = loader
        (ours,) = builders.test_loader(config, data, device).batches([torch.arange(5)], epoch=0)
        mean, std = map(torch.tensor, config.normalization)
        torch.testing.assert_close(color.normalize(ours.images, mean, std), theirs)
        assert torch.equal(labels, ours.labels)
        classifier = builders.model(config)
        top1, loss = other_programs.timm_evaluation(loader, classifier.backbone, None)
        found = builders.evaluator(config, classifier, data, device)()
    assert (top1, loss) == (pytest.approx(found["top1"]), pytest.approx(found["nll"], rel=1e-4))


def test_speeds_are_medians_of_programs_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the programs move: 256 views in 2 s, and 16 in 4 s but for one bad turn of 400 s."""
    now, turns = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def program(name: str, seconds: float) -> Callable[[int], None]:
        def work(call: int) -> None:
            turns.append(name)
            now[0] += 400 if name == "slow" and turns.count("slow") == 4 else seconds

        return work

    speeds = timing.median_speeds({"fast": (program("fast", 2), 256), "slow": (program("slow", 4), 16)})
    assert speeds == {"fast": 128.0, "slow": 4.0}
    assert turns[4:] == ["fast", "slow"] * timing.REPEATS


def test_a_timing_ends_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is launched in 1 s and takes the device 9 s more; what was left of the warm-up counts for nobody."""
    now, waiting = [0.0], [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing, "SHORTEST", 25.0)

    def synchronize(device: torch.device) -> None:
        assert device.type == "cuda"
        now[0] += waiting[0]
        waiting[0] = 0.0

    def work(call: int) -> None:
        now[0] += 1
        waiting[0] += 100 if now[0] == 1 else 9  # the first call warms up

    monkeypatch.setattr(timing.devices, "synchronize", synchronize)
    row = timing.time_programs("crop", 32, 20, 4, {"ours": (work, 20)}, device=torch.device("cuda"))
    assert (row["views_per_second"], row["device"], waiting) == (2.0, "cuda", [0.0])
    assert now[0] == 101 + 10 + timing.REPEATS * 2 * 10  # two calls a turn: 25 s hold two of 10 s


def test_what_another_program_cannot_do_is_left_out_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("tensors on two devices")

    said: list[str] = []
    monkeypatch.setattr(augment.log, "warning", lambda text, *values: said.append(text % values))
    images = files.photographs(4, 32, 32)
    for program, is_timed in ((torch.nn.Identity(), True), (Broken(), False)):
        monkeypatch.setattr(other_programs, "kornia_batched", lambda words, size, program=program: program)
        assert ("kornia batched" in augment._other_programs(["crop"], images)) == is_timed
    assert said == ["left out: Broken(): tensors on two devices"]


def test_all_programs_normalize_to_the_same_numbers() -> None:
    images = files.photographs(4, 32, 32)
    ours = color.normalize(images, torch.tensor(other_programs.MEAN), torch.tensor(other_programs.STD))
    for from_pil, given in ((True, other_programs.pil_images(images)), (False, list(images))):
        change = other_programs.torchvision_per_image(["normalize"], size=32, from_pil=from_pil)
        torch.testing.assert_close(torch.stack([change(image) for image in given]), ours)


@pytest.mark.parametrize("word", augment.PARTS)
def test_every_part_changes_its_images_and_has_a_counterpart_per_image(word: str) -> None:
    images = files.photographs(16, 32, 32)
    work, count = augment._own_program([word], images)
    assert count == 16
    given = augment._normalize(images) if word in augment.ON_FLOATS else images
    changed = work(1)
    assert changed.shape == images.shape
    assert changed.dtype == (torch.float32 if word == "normalize" else given.dtype)
    assert not torch.equal(changed.float(), given.float())
    assert "torchvision PIL per image" in augment._other_programs([word], images)


def test_every_word_of_the_tables_is_timed() -> None:
    timed = {word for pipeline, _, _ in augment.ROWS for word in pipeline.split("-")}
    assert {*transforms.POLICIES, *transforms.ERASERS, *mixing.MIXES, "crop", "flip", "soft_crop"} <= timed


@pytest.mark.parametrize("word", augment.PIPELINE_ONLY)
def test_parts_that_change_targets_are_timed_as_a_pipeline(word: str) -> None:
    images = files.photographs(16, 32, 32)
    batch = augment._own_program(["normalize", word], images)[0](1)
    assert not torch.equal(batch.images[:, 0], augment._normalize(images))
    assert not ((batch.targets == 0) | (batch.targets == 1)).all()


def test_programs_per_image_run_on_one_thread_and_are_multiplied_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes a second: ours makes 10 views a second, the other 4 a second with each of two workers."""
    now, threads = [0.0], {}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def program(name: str) -> Callable[[int], None]:
        def work(call: int) -> None:
            threads[name] = torch.get_num_threads()
            now[0] += 1

        return work

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        programs = {"ours": (program("ours"), 10), "torchvision PIL per image": (program("pil"), 4)}
        row = timing.time_programs("crop", 32, 10, 2, programs)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == {"ours": 2, "pil": 1}
    assert (row["views_per_second"], row["per_image_views_per_second"], row["ratio"]) == (10, 8, 1.25)


def test_kornia_is_timed_on_batches_if_installed() -> None:
    pytest.importorskip("kornia", reason="compared with where installed")
    images = files.photographs(4, 32, 32).float() / 255
    for word in ("crop", "flip", "auto_augment", "rand_augment", "trivial_augment", "color_jitter", "random_erasing"):
        batched = other_programs.kornia_batched([word], size=32)
        assert batched is not None and batched(images).shape == images.shape
    assert other_programs.kornia_batched(["cutout"], size=32) is None


def test_the_images_have_the_smoothness_of_photographs_and_are_always_the_same() -> None:
    first, second = files.photographs(2, 64, 64), files.photographs(2, 64, 64)
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
from agmax import builders
from agmax.core.batch import RawBatch
from agmax.config.resolve import resolve
config = resolve("ResNet50-auto_augment-cutout-agmax", dataset="imagenet").config
make = builders.augmentation(config, 1)
small = RawBatch(torch.zeros(2, 2, 3, 32, 32, dtype=torch.uint8), torch.arange(2), torch.arange(2))
make(small, step=0)
def kilobytes(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
images = torch.randint(0, 256, (128, 2, 3, 224, 224), dtype=torch.uint8)
batch = make(RawBatch(images, torch.arange(128), torch.arange(128)), step=0)
assert batch.images.shape == (128, 2, 3, 224, 224)
print((kilobytes("VmHWM") - before) * 1024)
"""
    answer = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    taken, batch = int(answer.stdout), 256 * 3 * 224 * 224 * 4
    assert batch < taken < 1e9  # the batch itself is 154 MB
    assert taken < 4 * batch
