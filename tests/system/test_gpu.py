"""What a GPU computes is what the CPU computes: `make gpu` runs this on a card.

Most checks also run in the default suite, with the CPU as the device: there they compare a whole batch with its images
one by one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import scatter_gather

from agmax import builders
from agmax.augment import (
    AutoAugment,
    ColorJitter,
    CutMix,
    CutOut,
    Key,
    MixUp,
    OccludingTransform,
    PCALighting,
    Pipeline,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    SoftCrop,
    Softening,
    Transform,
    TrivialAugmentWide,
    operations,
    pipeline,
    policies,
)
from agmax.benchmarks import augment, timing
from agmax.benchmarks.files import photographs
from agmax.core import devices
from agmax.core.batch import Batch, Outputs, RawBatch
from agmax.models.classifier import Classifier, QNetwork
from helpers.bits import CASES, configured, samples
from helpers.command import Answer
from helpers.places import REPOSITORY, skip_or_fail
from helpers.training import KILL_ITSELF, TINY, assert_same_weights, loss_log

Run = Callable[..., Answer]

STD = 0.25
"""What the images here are divided by, when they are normalized."""

FASHION_MNIST = os.environ.get("FASHION_MNIST") and Path(os.environ["FASHION_MNIST"]).resolve()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(request.param)


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")


def some_images(count: int = 64, channels: int = 3, size: int = 32) -> Tensor:
    """Return uint8 images, half of them photographs and half of pure noise."""
    noise = torch.randint(0, 256, (count // 2, channels, size, size), generator=torch.Generator().manual_seed(0))
    return torch.cat([photographs(count - count // 2, size, size)[:, :channels], noise.to(torch.uint8)])


def assert_alike(found: Tensor, expected: Tensor, *, fraction: float = 0.0, level: float | Tensor = 1.0) -> None:
    """Check that at most `fraction` of the values differ by more than a gray level, which is `level` in their scale."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    gaps = (found.cpu().double() - expected.double()).abs() / level
    apart = (gaps > 1.001).double().mean().item()
    assert apart <= fraction, f"{apart:.3%} of the values are apart, by up to {gaps.max().item():.1f} gray levels"


def test_what_is_two_levels_apart_is_not_alike() -> None:
    """Of 100 values one is changed: by one level, by two, and by two where one in a hundred may be."""
    values = torch.arange(100, dtype=torch.uint8)
    for by, fraction, is_alike in ((1, 0.0, True), (2, 0.0, False), (2, 0.01, True)):
        changed = values.clone()
        changed[7] += by
        if is_alike:
            assert_alike(changed, values, fraction=fraction)
        else:
            with pytest.raises(AssertionError, match=r"1\.000% of the values are apart, by up to 2\.0"):
                assert_alike(changed, values, fraction=fraction)
    with pytest.raises(AssertionError, match="by up to 2"):
        assert_alike(torch.full((4,), 2 / 255 / STD), torch.zeros(4), level=1 / 255 / STD)


# --- operations and transforms ----------------------------------------------------------------------------------------

EXACT = {"Identity", "TranslateX", "TranslateY", "Posterize", "Solarize", "Equalize", "Invert"}
"""Operations on whole numbers."""

WARPS = {"ShearX", "ShearY", "Rotate"}
"""Of these a pixel may come from its neighbour, where its place lies between the two but for the last bit."""

AT_TIES = 1e-3
"""The fraction of the pixels at such places, where the amounts are drawn from all numbers."""


def strengths(name: str, count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Draw values of an operation, up to the strongest of TrivialAugment."""
    scale = policies.torchvision_wide(32, 32)
    code = operations.CODES[name]
    if name in {"TranslateX", "TranslateY", "Posterize", "Solarize"}:
        return scale.values(np.full(count, code), rng.integers(policies.NUM_LEVELS, size=count), rng)
    return scale.center[code] + rng.uniform(-1, 1, count) * scale.magnitude[code].max()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", operations.NAMES)
def test_an_operation_gives_what_the_cpu_gives(device: torch.device, name: str, channels: int) -> None:
    images = some_images(channels=channels)
    values = strengths(name, len(images), np.random.default_rng(1))
    codes = np.full(len(images), operations.CODES[name])
    found = operations.apply_operations(images.to(device), codes, values)
    expected = torch.cat(
        [
            operations.apply_operations(images[i : i + 1], codes[i : i + 1], values[i : i + 1])
            for i in range(len(images))
        ]
    )
    assert found.device.type == device.type
    if name in EXACT or device.type == "cpu":
        assert torch.equal(found.cpu(), expected)
    else:
        assert_alike(found, expected, fraction=AT_TIES if name in WARPS else 0.0)


OF_POLICIES = 0.02
"""The fraction of the values that policies may leave more than one gray level apart.

Their tables have amounts at which places lie between two pixels, and one level's difference grows where an operation
that stretches the levels follows.
"""

TRANSFORMS: tuple[tuple[Transform, float | None], ...] = (
    (RandomCrop(4), None),
    (RandomHorizontalFlip(), None),
    *((AutoAugment(policy, scale), OF_POLICIES) for policy in policies.AUTO_AUGMENT for scale in policies.MAGNITUDES),
    *((RandAugment(definition=definition), OF_POLICIES) for definition in policies.RAND_AUGMENT),
    (TrivialAugmentWide(), OF_POLICIES),
    (ColorJitter(0.4, 0.4, 0.4), OF_POLICIES),
    (PCALighting(0.1, image_std=(STD,) * 3), 0.0),
    (CutOut(), None),
    (RandomErasing(p=0.9), None),
    (SoftCrop(), None),
)
"""Each with the fraction of its values that may be apart; None: it only moves values, and not a bit may differ."""


def test_every_transform_is_compared() -> None:
    from agmax.augment import transforms

    kinds = {kind for kind in vars(transforms).values() if isinstance(kind, type) and hasattr(kind, "stream")}
    assert kinds == {type(transform) for transform, _ in TRANSFORMS}


@pytest.mark.parametrize(("transform", "fraction"), TRANSFORMS, ids=lambda value: str(value))
def test_a_transform_gives_what_the_cpu_gives(
    device: torch.device, transform: Transform, fraction: float | None
) -> None:
    images, key = some_images(), Key(3, 1)
    is_late = pipeline.ORDER.index(transform.slot) > pipeline.ORDER.index("normalize")
    given = (images / 255 - 0.5) / STD if is_late else images
    numbers = transform.draw(len(given), given.shape[1:], key)
    expected = torch.cat(
        [transform.apply(given[i : i + 1], *(n[i : i + 1] for n in numbers)) for i in range(len(given))]
    )
    found = transform(given.to(device), key=key)
    assert found.device.type == device.type
    if fraction is None or device.type == "cpu":
        assert torch.equal(found.cpu(), expected)
    else:
        assert_alike(found, expected, fraction=fraction, level=1 / 255 / STD if is_late else 1.0)
    if isinstance(transform, OccludingTransform):
        shown, visible = transform.with_visible(given.to(device), key=key)
        assert torch.equal(shown.cpu(), expected) and visible.device.type == device.type
        assert torch.equal(visible.cpu(), transform.visible(given.shape[1:], *numbers))


@pytest.mark.parametrize("mix", [MixUp(0.4), CutMix()], ids=str)
def test_a_mix_gives_what_the_cpu_gives(device: torch.device, mix: MixUp | CutMix) -> None:
    images, key = (some_images() / 255 - 0.5) / STD, Key(3, 1)
    targets = torch.eye(10)[torch.arange(len(images)) % 10]
    partner, how = mix.draw(len(images), images.shape[1:], key)
    found, rows = mix(images.to(device), targets.to(device), key=key)
    if isinstance(how, float):
        expected, ratio = images * how + images[partner] * (1 - how), how
    else:
        area = (how.bottom - how.top) * (how.right - how.left)
        expected, ratio = images.clone(), 1 - area / 1024
        for image, other in enumerate(partner.tolist()):
            for y in range(how.top, how.bottom):
                expected[image, :, y, how.left : how.right] = images[other, :, y, how.left : how.right]
    torch.testing.assert_close(found.cpu(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(rows.cpu(), targets * ratio + targets[partner] * (1 - ratio), atol=1e-6, rtol=1e-6)


# --- pipelines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_augments_as_on_the_cpu(
    device: torch.device, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 0, 1 and a short one, of every part and the usual mixtures; on the CPU the images go one by one."""
    config = configured(*CASES[case])
    make = builders.augmentation(config, steps_per_epoch=3)
    level = 1 / 255 / torch.tensor(config.normalization[1]).double().view(-1, 1, 1)
    for step, sample in enumerate(samples(config)):
        with monkeypatch.context() as patch:
            patch.setitem(pipeline.CHUNK, "cpu", 1)
            expected = make(sample, step=step)
        found = make(sample._replace(images=sample.images.to(device), labels=sample.labels.to(device)), step=step)
        assert found.images.device.type == found.targets.device.type == found.weights.device.type == device.type
        assert_alike(found.images, expected.images, fraction=OF_POLICIES, level=level)
        for one, other in zip(found[1:], expected[1:], strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one.cpu(), other, atol=1e-6, rtol=1e-6)


def make_pipeline(*more: Transform, **settings: Any) -> Pipeline:
    parts = (RandomCrop(4), RandomHorizontalFlip(), CutOut(), *more)
    return Pipeline(*parts, mean=(0.5,) * 3, std=(STD,) * 3, num_classes=10, num_views=2, **settings)


@pytest.mark.parametrize("mix", [None, CutMix()], ids=str)
def test_rows_and_chunks_have_the_values_of_the_whole(
    device: torch.device, mix: CutMix | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = some_images(40).to(device), torch.arange(40, device=device) % 10
    for more, fraction in (((), None), ((TrivialAugmentWide(),), OF_POLICIES)):
        make = make_pipeline(*more, mix=mix)
        whole = make(images, labels, key=Key(0, 2))
        rows = [31, 4, 5, 39]
        chosen = make(images, labels, key=Key(0, 2), rows=rows)
        monkeypatch.setitem(pipeline.CHUNK, device.type, 7 * 2 * images[0].numel())
        in_chunks = make(images, labels, key=Key(0, 2))
        for found, expected in ((chosen.images, whole.images[rows]), (in_chunks.images, whole.images)):
            if fraction is None:
                assert torch.equal(found, expected)
            else:
                assert_alike(found, expected.cpu(), fraction=fraction, level=1 / 255 / STD)
        assert torch.equal(chosen.targets, whole.targets[rows]) and torch.equal(in_chunks.targets, whole.targets)


@pytest.mark.gpu
def test_the_pipeline_takes_less_than_four_times_its_result(gpu: torch.device) -> None:
    """2,048 views of ImageNet's size make 1.2 GB."""
    parts = (RandomCrop(4), RandomHorizontalFlip(), AutoAugment("imagenet"), CutOut())
    make = Pipeline(*parts, mean=(0.5,) * 3, std=(STD,) * 3, num_classes=10, num_views=2)
    images = photographs(32, 224, 224).to(gpu).repeat(32, 1, 1, 1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    batch = make(images, torch.zeros(1024, dtype=torch.int64, device=gpu), key=Key(0, 0))
    taken = torch.cuda.max_memory_allocated() - before
    assert batch.images.nbytes == 2048 * 3 * 224 * 224 * 4
    assert batch.images.nbytes <= taken < 4 * batch.images.nbytes


def test_no_operation_mixes_the_tensors_of_two_devices() -> None:
    """Torch's tensors without numbers stand in for those of a GPU: they know their device, which need not be there."""
    codes = np.arange(len(operations.NAMES))
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(len(codes), 3, 32, 32, dtype=torch.uint8, device="cuda")
        labels = torch.empty(len(codes), dtype=torch.int64, device="cuda")
        assert operations.apply_operations(images, codes, np.ones(len(codes))).is_cuda
        for mix in (None, CutMix(), MixUp()):
            more = (PCALighting(0.1, image_std=(STD,) * 3), SoftCrop())
            make = make_pipeline(*more, mix=mix, softening=Softening(confidence_source="shuffled"))
            for rows in (None, [3, 1]):
                batch = make(images, labels, key=Key(0, 0), rows=rows)
                assert all(part is not None and part.is_cuda for part in batch)
        with pytest.raises(RuntimeError, match=r"two devices|different devices|same device"):
            images + torch.empty(3, 32, 32, dtype=torch.uint8)


# --- training ---------------------------------------------------------------------------------------------------------


def test_killed_with_signal_9_and_resumed_a_training_comes_to_the_same_bits(
    device: torch.device, run: Run, tmp_path: Path
) -> None:
    """Three epochs, killed in the third: of Fashion-MNIST, where a GPU has its files, else of digits."""
    data = TINY
    if device.type == "cuda" and FASHION_MNIST:
        data = ("--dataset=fashion_mnist", f"dataset.root={FASHION_MNIST}", "dataset.train_limit=2000")
        data += ("train.batch_size=500", "train.epochs=3")
    words = ("--config=ResNet8-auto_augment-cutout-cutmix-agmax", "--train", *data, f"--device={device.type}")
    words += ("train.deterministic=true", "train.save_every_steps=5", "--json")
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILL_ITSELF, *words]
    killed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    try:
        resumed, whole = run(*words, "--resume"), run(*words, "train.runs_dir=whole")
    finally:
        devices.choose_algorithms(deterministic=False)
    assert resumed.status == whole.status == 0, resumed.err + whole.err
    assert "continuing after step 10 of 12" in resumed.err
    first, second = whole.json, resumed.json
    assert len(loss_log(first["run_folder"])) == 3
    assert loss_log(first["run_folder"]) == loss_log(second["run_folder"])
    assert_same_weights(first["checkpoint"], second["checkpoint"])
    assert run("--eval", "--json", "--resume", first["checkpoint"]).json["top1"] == first["top1"]


def test_auto_is_bf16_where_the_device_is_fast_at_it(device: torch.device) -> None:
    found = devices.autocast_dtype("auto", device)
    if device.type == "cuda":
        assert found == (torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else None)
    assert devices.autocast_dtype("fp32", device) is None
    assert devices.autocast_dtype("bf16", device) == torch.bfloat16


class Small(nn.Module):
    """A backbone of one convolution, which keeps the number format that it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        self.number_format = maps.dtype
        logits: Tensor = self.linear(maps.relu().mean((2, 3)))
        return logits


def test_in_bf16_the_network_computes_in_it_and_answers_in_float32(device: torch.device) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Small(), QNetwork(2, 10, 16)).to(device)
    images = torch.randn(8, 2, 3, 16, 16).to(device)
    exact = classifier(images)
    assert classifier.backbone.number_format == torch.float32
    classifier.autocast = torch.bfloat16
    coarse = classifier(images)
    assert classifier.backbone.number_format == torch.bfloat16
    assert coarse.logits.dtype == coarse.joint_logits.dtype == torch.float32
    torch.testing.assert_close(coarse.logits, exact.logits, atol=0.03, rtol=0.03)
    assert not torch.equal(coarse.logits, exact.logits)


def test_agmax_of_joined_outputs_is_that_of_one_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is cut for two replicas, or one on each of several GPUs, and objective and gradients stay the same."""
    torch.manual_seed(0)
    classifier = Classifier(Small(), QNetwork(2, 10, 16)).double().to(device)
    images = torch.randn(12, 2, 3, 16, 16, dtype=torch.float64).to(device)
    targets = torch.rand(12, 2, 10, dtype=torch.float64).softmax(-1).to(device)
    batch = Batch(images, targets, torch.ones(12, 2, dtype=torch.float64).to(device))
    objective = builders.objective(configured("ResNet8-agmax", "cifar10", {}))

    def measured(outputs: Outputs) -> list[Tensor]:
        classifier.zero_grad()
        losses = objective(outputs, batch)
        losses.total.backward()
        gradients = [parameter.grad.clone() for parameter in classifier.parameters()]
        return [losses.total.detach(), *losses.terms.values(), *gradients]

    class OnTheCpu:
        @staticmethod
        def apply(device: object, dim: int, *parts: Tensor) -> Tensor:
            return torch.cat(parts, dim)

    if device.type == "cpu":
        monkeypatch.setattr(scatter_gather, "Gather", OnTheCpu)
    place = -1 if device.type == "cpu" else 0
    expected = measured(classifier(images))
    halves = scatter_gather.scatter(images, [place, place])
    assert [len(half) for half in halves] == [6, 6]
    joined = scatter_gather.gather([classifier(half) for half in halves], "cpu" if device.type == "cpu" else 0)
    torch.testing.assert_close(measured(joined), expected)
    torch.testing.assert_close(measured(devices.data_parallel(classifier, device)(images)), expected)
    apart = [objective(classifier(half), Batch(half, *(part[:6] for part in batch[1:3]))).total for half in halves]
    assert not torch.isclose(torch.stack(apart).mean(), expected[0])  # the agreement is no mean over the images


# --- samples and timings ----------------------------------------------------------------------------------------------


def test_the_device_gets_equal_samples_in_their_order_whatever_it_does_meanwhile(device: torch.device) -> None:
    closed: list[bool] = []

    def numbered(count: int) -> Iterator[RawBatch]:
        try:
            for number in range(count):
                images = torch.full((2, 3, 4, 4), number, dtype=torch.uint8)
                labels = torch.tensor([number, 7])
                if device.type == "cuda":
                    images, labels = images.pin_memory(), labels.pin_memory()
                yield RawBatch(images, labels, torch.tensor([number, number]))
        finally:
            closed.append(True)

    work, sums = torch.ones(500, 500, device=device), []
    for sample in devices.prefetch(numbered(20), device):
        work = (work @ work).clamp(max=1)
        assert sample.images.device.type == sample.labels.device.type == device.type and not sample.indices.is_cuda
        sums.append(torch.stack([sample.images.double().sum(), sample.labels.double().sum()]))
    assert torch.stack(sums).tolist() == [[96 * number, number + 7] for number in range(20)]
    with closing(devices.prefetch(numbered(4), device)) as ahead:
        assert next(ahead).indices.tolist() == [0, 0]
    assert closed == [True, True]


def test_the_rows_of_a_gpu_have_both_sizes_and_the_pipelines_that_kornia_has() -> None:
    timed = {(pipeline, size) for pipeline, size, _ in augment.ROWS_ON_GPU}
    assert {(pipeline, size) for pipeline, size, _ in augment.ROWS} <= timed
    assert {("crop-flip-auto_augment-normalize", size) for size in (32, 224)} <= timed
    assert len(timed) == len(augment.ROWS_ON_GPU)


def test_a_row_is_timed_on_the_device_of_its_images(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REPEATS", 1)
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    for word in ("crop", "random_erasing", "color_jitter-normalize-lighting", "normalize-soft_crop", "normalize-mixup"):
        row = augment._row(word, photographs(8, 32, 32).to(device), threads=1)
        assert (row["device"], row["batch_size"]) == (device.type, 8)
        assert row["views_per_second"] > 0


# --- make gpu ---------------------------------------------------------------------------------------------------------


def make(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        skip_or_fail("make is not installed")
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "OUT", "MAKEFLAGS"}}
    return subprocess.run(
        ["make", *words], cwd=REPOSITORY, env={**environment, **variables}, capture_output=True, text=True
    )


def test_a_python_that_is_given_is_used_without_a_venv() -> None:
    assert ".venv/bin/python -m pytest" in make("-n", "gpu").stdout
    for answer in (make("-n", "gpu", PYTHON="python3"), make("-n", "gpu", "PYTHON=python3")):
        assert answer.returncode == 0, answer.stderr
        assert ".venv" not in answer.stdout and "python3 -m pytest" in answer.stdout
    assert ".venv/bin/python -m pytest" in make("-n", "test", PYTHON="python3").stdout


@pytest.mark.parametrize(("tests", "benchmark"), [(0, 0), (3, 0), (0, 5)])
def test_the_status_of_the_tests_is_kept_and_the_rows_are_one_file(tmp_path: Path, tests: int, benchmark: int) -> None:
    """A program in the place of Python notes what it is called with and ends with the given status."""
    python, out = tmp_path / "python", tmp_path / "out of it"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'case "$*" in *pytest*) exit {tests};; *benchmark*) echo \'{{"rows": []}}\'; exit {benchmark};; esac\n'
    )
    python.chmod(0o755)
    answer = make("gpu", PYTHON=str(python), OUT=str(out))
    assert (answer.returncode == 0) == (tests == benchmark == 0)
    assert f"Error {tests or benchmark}" in answer.stderr or answer.returncode == 0
    assert (out / "gpu.json").read_text() == '{"rows": []}\n'
    assert (f"are in {out}/gpu.json\n" in answer.stdout) == (benchmark == 0)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls[1:]] == ["tests/system/test_gpu.py", "--json"]


def test_all_tests_for_a_gpu_are_here() -> None:
    """`make gpu` reads this file alone: the others import packages that a bare machine lacks."""
    marked = {path.name for path in (REPOSITORY / "tests").rglob("*.py") if re.search(r"mark\.gpu\b", path.read_text())}
    assert marked == {Path(__file__).name}
