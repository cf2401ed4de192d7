"""Configuration files: their bases, and that a printed configuration reads back as the same one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agmax.config import names, reader, resolve
from agmax.config.resolve import Setting
from helpers.command import Answer
from helpers.configurations import CONSTANTS, config_of, errors_of, fuzz, resolved_of
from helpers.places import REPOSITORY

Run = Callable[..., Answer]


# Files


def test_a_file_can_be_based_on_a_file_and_wins_over_it(write: Callable[[str, str], str], tmp_path: Path) -> None:
    write("a.yaml", "base: ResNet8-cutmix\ntrain: {epochs: 3, batch_size: 32}\ndataset: {name: digits}\n")
    (tmp_path / "inner").mkdir()
    path = write("inner/b.yaml", "base: ../a.yaml\nname: mine\ntrain: {epochs: 5}\n")
    config = config_of(path)
    assert (config.name, config.train.epochs, config.train.batch_size) == ("mine", 5, 32)
    assert (config.dataset.name, config.augment.flip) == ("digits", False)


@pytest.mark.parametrize(
    "bases",
    [
        {"a.yaml": "a.yaml"},
        {"a.yaml": "b.yaml", "b.yaml": "a.yaml"},
        {"a.yaml": "sub/b.yaml", "sub/b.yaml": "../a.yaml"},
    ],
    ids=["itself", "two", "through a folder"],
)
def test_files_that_are_based_on_each_other_are_refused(
    write: Callable[[str, str], str], tmp_path: Path, bases: dict[str, str]
) -> None:
    (tmp_path / "sub").mkdir()
    for name, base in bases.items():
        write(name, f"base: {base}\n")
    [line] = errors_of(str(tmp_path / "a.yaml"))
    assert line.startswith("configurations are based on each other")


def test_a_file_without_base_must_be_complete_and_the_error_says_what_is_missing(
    write: Callable[[str, str], str],
) -> None:
    config = config_of(write("whole.yaml", "name: whole\nmodel: {backbone: resnet18}\ndataset: {name: digits}\n"))
    assert (config.name, config.model.backbone, config.dataset.num_classes) == ("whole", "resnet18", 10)
    [line] = errors_of(write("part.yaml", "optimizer: {lr: 0.1}\n"))
    assert "it names no model. Write `base: NAME` at the top" in line
    assert "it names no model" in errors_of(write("empty.yaml", ""))[0]


def test_another_data_set_takes_nothing_from_the_one_that_a_file_describes(write: Callable[[str, str], str]) -> None:
    whole = resolve.as_yaml(resolve.resolve("ResNet8-cutmix-agmax", dataset="imagenet"))
    config = resolve.resolve(write("mine.yaml", whole), dataset="digits").config
    assert config == resolve.resolve("ResNet8-cutmix-agmax", dataset="digits").config
    chosen = whole.replace("hidden_units: 4096", "hidden_units: 2048")
    assert resolve.resolve(write("mine.yaml", chosen), dataset="digits").config.objective.hidden_units == 2048


@pytest.mark.parametrize(
    ("name", "overrides", "notes"),
    [
        ("ResNet8-soft_crop", [], ["augment.weak_fraction: no effect, because 0.04 of 20 epochs is less than one"]),
        ("ResNet8-soft_crop", ["train.epochs=25"], []),
        (
            "ResNet8-wide_crop",
            ["augment.softening.power=3"],
            ["augment.softening: no effect without soft_crop, soft_cutout or soft_random_erasing"],
        ),
        ("ResNet8-soft_cutout", ["augment.softening.power=3"], []),
        (
            "ResNet8-standard",
            ["evaluation.offsets=true", "evaluation.test=false", "dataset.validation=0.1"],
            ["evaluation.occlusion, evaluation.offsets: no effect in a training without test images"],
        ),
    ],
)
def test_settings_without_effect_are_noted(name: str, overrides: list[str], notes: list[str]) -> None:
    assert resolved_of(name, *overrides).notes == notes


def test_another_data_set_replaces_that_of_a_complete_file_with_a_note(write: Callable[[str, str], str]) -> None:
    path = write("whole.yaml", resolve.as_yaml(resolve.resolve("ResNet8-cutmix", dataset="imagenet")))
    resolved = resolve.resolve(path, dataset="digits")
    composed = config_of("ResNet8-cutmix", dataset="digits")
    assert resolved.config.augment == composed.augment
    assert (resolved.config.dataset.name, resolved.config.dataset.num_classes) == ("digits", 10)
    assert (resolved.config.dataset.image_size, resolved.config.normalization) == (32, composed.normalization)
    assert resolved.notes == ["the data set digits replaces imagenet of the file; see configs/dataset/digits.yaml"]
    assert resolve.resolve(path, dataset="imagenet").notes == []


def test_a_file_of_configs_wins_over_composition(
    fragments: Callable[[dict[str, str]], None],
) -> None:
    fragments({"ResNet8-cutmix.yaml": "name: ResNet8-cutmix\nmodel: {backbone: resnet18}\n"})
    assert config_of("ResNet8-cutmix").model.backbone == "resnet18"
    assert config_of("ResNet8-mixup").model.backbone == "agmax_resnet8"


@pytest.mark.parametrize("dataset", CONSTANTS)
def test_the_shipped_files_equal_their_compositions_on_every_data_set(dataset: str) -> None:
    """The parts in reverse order are no file's name, so they are composed."""
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        composed = "-".join(reversed(names.parse(path.stem).parts))
        assert config_of(path.stem, dataset=dataset) == config_of(composed, dataset=dataset)


# Round trip


KINDS = [
    ("ResNet50-auto_augment-cutmix-agmax", "imagenet"),
    ("WideResNet28-10-mixup", "cifar100"),
    ("RegNetX002-cutmix", "folder"),
    ("EfficientNetB0-agmax_kl", "svhn-core"),
    ("CifarResNet18-soft_crop-rand_augment", "cifar100"),
    ("ResNet8-cutout-agmax-label_smoothing", "digits"),
    ("ResNet20-no_basic_augment-two_views", "fashion_mnist"),
]


@pytest.mark.parametrize(("name", "dataset"), KINDS)
def test_a_printed_configuration_is_a_complete_file_of_the_same_configuration(
    name: str, dataset: str, write: Callable[[str, str], str]
) -> None:
    resolved = resolve.resolve(name, dataset=dataset)
    again = resolve.resolve(write("config.yaml", resolve.as_yaml(resolved)))
    assert again.config == resolved.config
    assert again.notes == []


@pytest.mark.parametrize(("name", "dataset"), KINDS)
def test_json_and_yaml_of_print_config_say_the_same(name: str, dataset: str, run: Run) -> None:
    words = ["--print-config", f"--config={name}", f"--dataset={dataset}"]
    printed, as_json = run(*words), run(*words, "--json")
    assert as_json.json == reader.parse_yaml(printed.out, "printed").mapping
    assert as_json.json == yaml.safe_load(printed.out)  # another reader agrees


ODD_TEXTS = [
    "1e-3",
    "010",
    "on",
    "null",
    "~",
    "1.",
    ".inf",
    "=",
    "",
    "# x",
    "a: b",
    "a\nb",
    "\u2028",
    "'",
    '"',
    "ü 类",
    "5",
]


@fuzz
@given(
    st.text(max_size=30)
    | st.sampled_from(ODD_TEXTS)
    | st.floats(allow_nan=False)
    | st.integers(-(2**64), 2**64)
    | st.lists(st.floats(allow_nan=False), max_size=3)
)
def test_a_value_is_written_on_one_line_that_reads_back_as_itself(value: Any) -> None:
    text = reader.format_value(value)
    assert (reader.parse_value(text), type(reader.parse_value(text))) == (value, type(value))
    assert "\n" not in text


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_an_odd_text_survives_as_a_setting_and_as_a_key(text: str) -> None:
    setting = Setting("model.arguments", {text.replace(".", "x"): text}, "test")
    resolved = resolve.resolve("ResNet8", settings=[setting, Setting("dataset.root", text, "test")])
    read = reader.parse_yaml(resolve.as_yaml(resolved), "printed").mapping
    assert resolve.from_mapping(read, "printed") == resolved.config


def test_an_origin_with_a_line_break_does_not_break_the_printed_file(write: Callable[[str, str], str]) -> None:
    resolved = resolve.resolve(write("a\nb.yaml", "base: ResNet8\nname: x\noptimizer: {lr: 0.2}\n"))
    assert resolve.from_mapping(reader.parse_yaml(resolve.as_yaml(resolved), "printed").mapping, "x") == resolved.config
