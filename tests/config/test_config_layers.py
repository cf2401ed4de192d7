"""The order of a configuration's layers, and the settings that follow from the data set."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.config import resolve
from agmax.config.augmentation import CutMixConfig
from helpers.command import Answer
from helpers.configurations import CONSTANTS, config_of, errors_of
from helpers.places import REPOSITORY, golden

Run = Callable[..., Answer]


def line_of(path: Path | str, start: str) -> int:
    """Return the number of the one line of a file that starts with `start`, counted from 1."""
    lines = Path(path).read_text().splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.lstrip().startswith(start)]
    return number


# Layers


@pytest.mark.parametrize("dataset", CONSTANTS)
def test_the_constants_of_augmentation_follow_the_data_set(dataset: str) -> None:
    augment = config_of("ResNet8", dataset=dataset).augment
    padding = augment.standard.padding if augment.crop == "standard" else None
    found = (augment.crop, padding, augment.flip, augment.cutout.size, augment.mixup.alpha, augment.cutmix.p)
    assert found == CONSTANTS[dataset]


def test_the_table_of_constants_holds_every_data_set(run: Run) -> None:
    assert set(run("--list=datasets", "--json").json["datasets"]) == set(CONSTANTS)


@pytest.mark.parametrize(
    ("dataset", "side", "pixels"),
    [("cifar10", 32, 16), ("svhn", 32, 20), ("svhn-core", 32, 20), ("imagenet", 224, 112)],
)
def test_cutout_has_the_published_side_in_pixels(dataset: str, side: int, pixels: int) -> None:
    config = config_of("ResNet50-cutout", dataset=dataset)
    assert config.dataset.image_size == side
    assert config.augment.cutout.size * side == pixels


def test_the_old_statistics_are_a_setting() -> None:
    own, old = (config_of("ResNet8", f"dataset.statistics={word}", dataset="cifar100") for word in ("own", "agmax"))
    assert old.normalization == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    assert own.normalization != old.normalization
    assert "has no constants for digits" in errors_of("ResNet8", "dataset.statistics=agmax", dataset="digits")[0]


def test_a_data_set_wins_over_the_defaults() -> None:
    assert CutMixConfig().p == 1.0
    assert config_of("ResNet8-cutmix", dataset="cifar10").augment.cutmix.p == 0.5


LAYERS = ["dataset/digits.yaml", "model/ResNet8.yaml", "augment/cutmix.yaml", "method/agmax.yaml"]


@pytest.mark.parametrize("highest", range(4))
def test_of_data_set_model_augment_and_method_the_later_wins(
    fragments: Callable[[dict[str, str]], None], highest: int
) -> None:
    """All fragments up to the highest set the same key, each to its position in the order."""
    base = {name: (REPOSITORY / "configs" / name).read_text() for name in LAYERS}
    lines = {name: f"\nevaluation: {{batch_size: {place}}}\n" for place, name in enumerate(LAYERS, 1)}
    fragments({name: base[name] + lines[name] for name in LAYERS[: highest + 1]})
    resolved = resolve.resolve("ResNet8-cutmix-agmax", dataset="digits")
    assert resolved.config.evaluation.batch_size == highest + 1
    assert resolved.origins["evaluation.batch_size"].startswith(f"configs/{LAYERS[highest]}:")


def test_a_users_file_wins_over_its_base(write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", "base: ResNet8-cutmix\noptimizer: {lr: 0.3}\naugment: {cutmix: {p: 0.75}}\n")
    config = config_of(path)
    assert (config.optimizer.lr, config.augment.cutmix.p, config.name) == (0.3, 0.75, "mine")
    assert config.model == config_of("ResNet8-cutmix").model


def test_a_flag_wins_over_a_users_file_and_an_override_over_the_flag(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: ResNet8\noptimizer: {lr: 0.3}\n")
    words = ["--config=mine.yaml", "--print-config", "--json"]
    lrs = [run(*words, *more).json["optimizer"]["lr"] for more in ([], ["--lr=0.4"], ["optimizer.lr=0.5", "--lr=0.4"])]
    assert lrs == [0.3, 0.4, 0.5]


def test_the_last_of_two_equal_overrides_wins() -> None:
    assert config_of("ResNet8", "train.epochs=3", "train.epochs=4").train.epochs == 4


def test_parts_given_as_flags_are_added_to_a_name_or_on_top_of_a_file(write: Callable[[str, str], str]) -> None:
    assert config_of("ResNet50", parts=["cutmix", "agmax"]) == config_of("ResNet50-cutmix-agmax")
    path = write("mine.yaml", "base: ResNet8-cutmix\n")
    assert config_of(path, parts=["mixup"]).augment.mix == "mixup"
    assert errors_of(path, parts=["ResNet50"])[0].startswith("a second model (ResNet50): the file names its model")


def test_print_config_names_where_each_value_came_from(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: ResNet8-agmax\n\noptimizer:\n  momentum: 0.8\n")
    words = ["--config=mine.yaml", "--dataset=digits", "--epochs=7", "optimizer.lr=0.2", "--print-config"]
    lines = {line.strip() for line in run(*words).out.splitlines()}
    digits, network = (REPOSITORY / "configs" / name for name in ("dataset/digits.yaml", "model/ResNet8.yaml"))
    assert {
        "name: mine  # the name of the configuration",
        f"flip: false  # configs/dataset/digits.yaml:{line_of(digits, 'flip:')}",
        f"backbone: agmax_resnet8  # configs/model/ResNet8.yaml:{line_of(network, 'backbone:')}",
        "hidden_units: 128  # dataset.num_classes",
        "momentum: 0.8  # mine.yaml:4",
        "epochs: 7  # --epochs",
        "lr: 0.2  # the command line",
        "precision: fp32  # default",
    } <= lines


# Hidden units


@pytest.mark.parametrize(("num_classes", "units"), golden("q_network_units.json").items())
def test_the_q_network_is_as_wide_as_published_for_its_classes(num_classes: str, units: int) -> None:
    config = config_of("ResNet8-agmax", f"dataset.num_classes={num_classes}", dataset="cifar10")
    assert config.objective.hidden_units == units


def test_hidden_units_stay_as_given_and_are_0_without_q_network() -> None:
    assert config_of("ResNet50-agmax", "objective.hidden_units=2048", dataset="imagenet").objective.hidden_units == 2048
    assert config_of("ResNet50", dataset="imagenet").objective.hidden_units == 0
    assert config_of("ResNet50-agmax_mse", dataset="imagenet").objective.hidden_units == 0


def test_hidden_units_follow_the_number_of_classes_once_it_is_counted() -> None:
    config = config_of("ResNet50-agmax", dataset="folder")
    assert (config.dataset.num_classes, config.objective.hidden_units) == (None, 0)
    assert resolve.with_classes(config, 100).objective.hidden_units == 512
