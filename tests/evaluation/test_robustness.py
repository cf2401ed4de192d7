"""Occlusion and offsets: compared with loops over single images, and from the command line to the figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from agmax.core.batch import Outputs
from agmax.core.rng import generator
from agmax.data.in_memory import InMemoryLoader
from agmax.data.splits import InMemoryDataset
from agmax.evaluation import robustness
from agmax.reports import robustness as robustness_report
from helpers.command import Answer
from helpers.datasets import without_checksums, write_cifar  # noqa: F401  a fixture
from helpers.soft_crop import on_a_canvas
from helpers.training import TINY, assert_same_weights, interrupted_and_resumed, loss_log, rows, train

Run = Callable[..., Answer]
CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"mean": [0.5], "std": [0.25], "device": CPU}


class RowSums(nn.Module):
    """The logits are sums of the image's rows, so that they depend on what is occluded and where."""

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(images.sum(dim=(2, 4))[:, :, :5])


def images_of(count: int, size: int) -> InMemoryDataset:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 1, size, size), dtype=np.uint8))
    return InMemoryDataset(pixels, torch.from_numpy(rng.integers(0, 5, count)), tuple("abcde"))


def evaluate_one_by_one(images: list[Tensor], labels: Tensor) -> tuple[float, float]:
    """Return top1 and nll of images [C, H, W], one by one."""
    num_correct, nll = 0.0, 0.0
    for image, label in zip(images, labels.tolist(), strict=True):
        logits = RowSums()(image[None, None]).logits[0, 0].double()
        num_correct += float(logits.argmax() == label)
        nll -= float(logits.log_softmax(-1)[label])
    return 100 * num_correct / len(labels), nll / len(labels)


@pytest.mark.parametrize("batch_size", [7, 40])
def test_occlusion_occludes_a_square_of_each_image_at_its_own_place(batch_size: int) -> None:
    data = images_of(40, 12)
    found = robustness.occlusion(
        RowSums(), InMemoryLoader(data, image_size=12, device=CPU), image_size=12, batch_size=batch_size, **OPTIONS
    )
    places = generator("occlusion").random((40, 2))
    assert found["num_images"] == 40
    for number, side in enumerate([0, 4, 5, 7, 8, 8, 9, 10, 11, 11]):
        occluded = []
        for image, (y, x) in zip((data.images / 255 - 0.5) / 0.25, places, strict=True):
            top, left = int(y * (13 - side)), int(x * (13 - side))
            occluded.append(image.clone())
            occluded[-1][:, top : top + side, left : left + side] = 0
        top1, nll = evaluate_one_by_one(occluded, data.labels)
        assert found["fraction"][number] == side**2 / 144
        assert found["top1"][number] == pytest.approx(top1)
        assert found["nll"][number] == pytest.approx(nll, rel=1e-5)
    assert len(set(found["nll"])) >= 7


def test_offsets_crop_off_center_on_a_background_of_the_mean_color() -> None:
    data = images_of(30, 12)
    found = robustness.offsets(
        RowSums(), InMemoryLoader(data, image_size=12, device=CPU), image_size=12, batch_size=8, **OPTIONS
    )
    assert found["pixels"] == [-9, -7, -4, -2, 0, 2, 4, 7, 9]
    images = (data.images / 255 - 0.5) / 0.25
    for row, down in enumerate(found["pixels"]):
        for column, right in enumerate(found["pixels"]):
            crops = [on_a_canvas(image, down, right, torch.zeros(1)) for image in images]
            top1, nll = evaluate_one_by_one(crops, data.labels)
            assert found["top1"][row][column] == pytest.approx(top1)
            assert found["nll"][row][column] == pytest.approx(nll, rel=1e-5)
            assert found["visible"][row][column] == pytest.approx((12 - abs(down)) * (12 - abs(right)) / 144)
    top1 = torch.tensor(found["top1"], dtype=torch.float64)
    along_axes = found["along_axes"]
    assert along_axes["pixels"] == [0, 2, 4, 7, 9]
    for step, value in enumerate(along_axes["top1"]):
        four = [top1[4 + step, 4], top1[4 - step, 4], top1[4, 4 + step], top1[4, 4 - step]]
        assert value == pytest.approx(float(sum(four)) / 4)


# --- from the command line -------------------------------------------------------------------------------------------


def test_an_evaluation_measures_and_plots_occlusion_and_offsets_on_request(run: Run, tmp_path: Path) -> None:
    trained = train(run, "ResNet8-soft_crop", "train.epochs=1")
    words = ("--config=ResNet8-soft_crop", "--eval", "--dataset=digits", "--resume", trained["run_folder"])
    plain = run(*words, "--json").json
    assert "occlusion" not in plain and "offsets" not in plain
    both = run(*words, "--occlusion", "--offsets", "--output=seen.png", "--json")
    assert both.status == 0, both.err
    assert both.json["top1"] == plain["top1"]
    assert both.json["occlusion"]["top1"][0] == both.json["offsets"]["top1"][4][4] == plain["top1"]
    assert both.json["occlusion"]["nll"][0] == pytest.approx(plain["nll"])
    assert f"0 % top1 {plain['top1']:.2f}" in both.err and f"0 px top1 {plain['top1']:.2f}" in both.err
    with Image.open(tmp_path / "seen.png") as image:
        assert image.width > 1000
    few = run(*words, "--occlusion", "evaluation.robustness_limit=100", "--json").json
    assert few["occlusion"]["num_images"] == 100 and few["num_images"] == 360


def test_a_training_measures_occlusion_at_its_end_on_request(run: Run) -> None:
    result = train(run, "ResNet8-standard", "train.epochs=2", "--occlusion", "evaluation.robustness_limit=50")
    assert result["occlusion"]["num_images"] == 50
    assert len(result["occlusion"]["top1"]) == len(robustness.OCCLUDED_FRACTIONS)
    assert "offsets" not in result
    assert result["robustness_seconds"] > 0
    untested = train(run, "ResNet8-standard", "--occlusion", "evaluation.test=false", "dataset.validation=50")
    assert "occlusion" not in untested  # it is measured on test images only


def test_a_figure_without_a_measurement_is_an_error(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    answer = run("--eval", "--resume", trained["run_folder"], "--output=seen.png")
    assert answer.status == 2
    assert "Add --occlusion or --offsets" in answer.err


def test_the_figure_shows_the_numbers() -> None:
    table = {"num_images": 5, "fraction": [0.0, 0.25], "top1": [90.0, 40.0], "nll": [0.1, 2.0]}
    pixels, rows = [-2, 0, 2], [[1.0, 2.0, 3.0], [4.0, 99.0, 6.0], [7.0, 8.0, 9.0]]
    result = {
        "config": "a",
        "dataset": "b",
        "occlusion": table,
        "offsets": {"num_images": 5, "pixels": pixels, "top1": rows},
    }
    curve, heat = robustness_report.draw(result).axes
    (line,) = curve.lines
    assert list(line.get_xdata()) == [0, 25] and list(line.get_ydata()) == [90, 40]
    assert [text.get_text() for text in heat.texts] == ["1", "2", "3", "4", "99", "6", "7", "8", "9"]
    assert np.asarray(heat.images[0].get_array()).tolist() == rows
    assert len(robustness_report.draw({key: result[key] for key in ("config", "dataset", "offsets")}).axes) == 1


# --- CIFAR-100, end to end -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_checksums")
def test_the_published_recipe_trains_and_evaluates_on_cifar100_files(run: Run, tmp_path: Path) -> None:
    write_cifar(tmp_path / "data", "cifar100", count=32)
    words = (
        "--dataset=cifar100",
        "dataset.root=data",
        "train.batch_size=16",
        "--epochs=2",
        "augment.weak_fraction=0.5",
    )
    name = "CifarResNet18-soft_crop-rand_augment"
    trained = run(f"--config={name}", "--train", *words, "--json")
    assert trained.status == 0, trained.err
    assert trained.json["num_images"] == 32
    assert trained.json["steps"] == 4
    first, last = rows(trained.json["run_folder"])
    assert first["target_entropy"] > 0.1  # targets that soften
    assert last["target_entropy"] == 0  # nothing softens in the weak-augmentation epochs
    again = run("--eval", "--resume", trained.json["run_folder"], "--json")
    assert again.json["nll"] == trained.json["nll"]


@pytest.mark.parametrize("step", [4, 6, 9])
def test_a_training_resumes_bit_for_bit_before_and_in_its_weak_augmentation_epochs(
    run: Run, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Three epochs of four steps, the last two with weak augmentation."""
    words = ("--config=ResNet8-soft_crop-mixup", *TINY, "augment.weak_fraction=0.67", "train.save_every_steps=1")
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    entropy = [row["target_entropy"] for row in rows(whole["run_folder"])]
    assert entropy[0] > 0.1 and entropy[1:] == [0, 0]
    again = interrupted_and_resumed(run, monkeypatch, step, *words)
    assert loss_log(again["run_folder"]) == loss_log(whole["run_folder"])
    assert_same_weights(again["checkpoint"], whole["checkpoint"])
