"""Names, YAML files, layers and errors of the configuration."""

import functools
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agmax.builders.trainers import learning_rate
from agmax.config import names, reader, resolve
from agmax.config.augmentation import CutMix
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.errors import ConfigErrors, UsageError
from helpers.command import Answer
from helpers.places import REPOSITORY, golden

Run = Callable[..., Answer]

PUBLISHED = golden("named_configs.json")
FRAGMENTS = sorted(path for path in (REPOSITORY / "configs").glob("*/*.yaml") if path.parent.name != "study")
NETWORKS = {
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "WideResNet28-10": "agmax_wide_resnet",
    "WideResNet40-2": "agmax_wide_resnet",
    "RegNetX002": "regnetx_002",
    "RegNetY004": "regnety_004",
    "EfficientNetB0": "efficientnet_b0",
    "EfficientNetB1": "efficientnet_b1",
}
fuzz = settings(
    database=None,
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def resolved_of(source: str, *overrides: str, **options: Any) -> resolve.Resolved:
    """Resolve a name or file under overrides written as on the command line."""
    typed = [Setting(key, reader.parse_value(value), "test") for key, _, value in (o.partition("=") for o in overrides)]
    return resolve.resolve(str(source), settings=typed, **options)


def config_of(source: str, *overrides: str, **options: Any) -> Config:
    return resolved_of(source, *overrides, **options).config


def errors_of(source: str, *overrides: str, **options: Any) -> list[str]:
    """Return the lines of the error that resolving ends with."""
    with pytest.raises(UsageError) as caught:
        config_of(source, *overrides, **options)
    assert caught.value.exit_code == 2
    return caught.value.lines


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> list[str]:
    """Call and return the lines of our error with status 2, none where it went well; others go through."""
    try:
        call(*arguments, **options)
    except UsageError as error:
        return error.lines
    return []


def value_of(config: Config, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a YAML file and return its path."""

    def to(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return to


def line_of(path: Path | str, start: str) -> int:
    """Return the number of the one line of a file that starts with `start`, counted from 1."""
    lines = Path(path).read_text().splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.lstrip().startswith(start)]
    return number


# Names: the published ones


def permutations(name: str, backbone: str) -> Iterator[str]:
    rest = name.removeprefix(backbone).strip("-").split("-")
    return ("-".join(words) for words in itertools.permutations([backbone, *rest]))


def initialisation_rule(config: Config) -> tuple[bool, float | None]:
    """Return whether the whole network is drawn anew, and from which deviation."""
    rule = config.model.initialisation
    return rule.scope == "all", rule.std if rule.scope == "all" else None


@pytest.mark.parametrize("backbone", NETWORKS)
def test_every_published_name_in_every_order_resolves_to_its_published_settings(backbone: str) -> None:
    """All 94 names over the eight backbones, every permutation of their parts, all 16 fields."""
    published = {name: fields for name, fields in PUBLISHED.items() if fields["backbone"] == backbone}
    for name, fields in published.items():
        for written in permutations(name, backbone):
            config = config_of(written)
            augment, optimizer = config.augment, config.optimizer
            found = {
                "backbone": config.model.backbone,
                "agmax": (config.objective.name, config.objective.num_views),
                "cutout": augment.erase == "cutout",
                "auto_augment": augment.policy == "auto_augment",
                "cutmix": augment.mix == "cutmix",
                "mixup": augment.mix == "mixup",
                "no_basic_augment": augment.crop == "none",
                "lr": optimizer.lr,
                "epochs": config.train.epochs,
                "weight_decay": optimizer.weight_decay,
                "batch_size": config.train.batch_size,
                "nesterov": optimizer.nesterov,
                "dropout": config.model.dropout,
                # init_backbone, init_extractor and weights_std act together, with agmax alone:
                "initialisation": initialisation_rule(config),
                "name": config.name,
            }
            drawn_anew = fields["agmax"] and fields["init_backbone"] and fields["init_extractor"]
            wanted = fields | {
                "backbone": NETWORKS[backbone],
                "agmax": ("agmax", 2) if fields["agmax"] else ("classification", 1),
                "dropout": 0.0,  # 0.2 of the RegNets reaches no layer in the published program
                "initialisation": (drawn_anew, fields["weights_std"] if drawn_anew else None),
                "name": name,
            }
            assert found == {key: wanted[key] for key in found}, written
            together = {"init_backbone", "init_extractor", "weights_std"}
            assert found.keys() - {"initialisation", "name"} | together == fields.keys()


def test_the_published_names_are_94_over_these_eight_backbones() -> None:
    assert len(PUBLISHED) == 94
    assert {fields["backbone"] for fields in PUBLISHED.values()} == set(NETWORKS)
    assert all(len(fields) == 16 for fields in PUBLISHED.values())


def test_depth_and_width_of_a_wide_resnet_are_read_from_its_name() -> None:
    assert config_of("WideResNet40-2-cutmix").model.arguments == {"depth": 40, "width": 2}
    assert config_of("cutmix-WideResNet16-8").model.arguments == {"depth": 16, "width": 8}


@pytest.mark.parametrize(
    ("name", "published", "key", "here"),
    [
        ("RegNetX002-standard", {"dropout": 0.2}, "model.dropout", 0.0),
        ("RegNetY004-cutmix", {"dropout": 0.2}, "model.dropout", 0.0),
        ("ResNet50-standard", {"weights_std": 0.01, "init_extractor": True}, "model.initialisation.scope", "none"),
        (
            "RegNetX002-auto_augment-mixup",
            {"weights_std": 0.01, "init_extractor": True},
            "model.initialisation.scope",
            "none",
        ),
        (
            "WideResNet28-10-cutmix-agmax",
            {"weights_std": 0.2, "init_extractor": False},
            "model.initialisation.scope",
            "none",
        ),
    ],
)
def test_values_that_never_acted_in_the_published_program_do_not_act_here(
    name: str, published: dict[str, Any], key: str, here: Any
) -> None:
    assert {field: PUBLISHED[name][field] for field in published} == published
    assert value_of(config_of(name), key) == here


@pytest.mark.parametrize(
    ("name", "library", "scope", "zero_last_norm"),
    [
        ("ResNet50-standard", "torch", "none", True),
        ("ResNet101-standard-agmax", "torch", "all", True),
        ("ResNet50-agmax_mse", "torch", "all", False),
        ("ResNet101-agmax_kl", "torch", "all", False),
        ("RegNetX002-standard", "timm", "none", False),
        ("RegNetY004-agmax", "timm", "all", False),
        ("EfficientNetB1-agmax", "timm", "all", False),
        ("EfficientNetB0-agmax_ce", "timm", "all", False),
        ("WideResNet40-2-agmax", "timm", "none", False),
        ("WideResNet40-2-agmax_mse", "timm", "none", False),
        ("ResNet8-agmax", "timm", "q_network", False),
        ("ResNet8-cutout", "timm", "none", False),
        ("CifarResNet18-agmax", "timm", "q_network", False),
    ],
)
def test_each_family_starts_from_the_weights_it_was_published_with(
    name: str, library: str, scope: str, zero_last_norm: bool
) -> None:
    rule = config_of(name).model.initialisation
    assert (rule.library, rule.scope, rule.zero_last_norm, rule.std) == (library, scope, zero_last_norm, 0.2)


def test_pretrained_weights_are_never_drawn_anew() -> None:
    config = config_of("ResNet50-cutmix-agmax", "model.pretrained=true")
    assert config.model.initialisation.scope == "q_network"


@pytest.mark.parametrize(
    ("name", "schedule", "warmup"),
    [
        ("ResNet50", "multistep", 0),
        ("RegNetX002", "cosine", 5),
        ("EfficientNetB1", "cosine", 5),
        ("ResNet8", "cosine", 0),
    ],
)
def test_each_family_has_the_schedule_of_its_training_scripts(name: str, schedule: str, warmup: float) -> None:
    config = config_of(name)
    assert (config.schedule.name, config.schedule.warmup_epochs) == (schedule, warmup)


@pytest.mark.parametrize(
    "name", ["CifarResNet18", "CifarResNet50", "CifarResNet101", "CifarWideResNet28-10", "PyramidNet272"]
)
def test_the_networks_of_soft_augmentation_have_its_recipe(name: str) -> None:
    """Its program, 391 steps an epoch: 0.05 half-way, about 4.3e-4 where the last 20 epochs begin, 0 at the end."""
    config = config_of(name, dataset="cifar100")
    assert (config.train.epochs, config.train.batch_size, config.schedule.interval) == (500, 128, "step")
    sgd = config.optimizer
    assert (sgd.name, sgd.lr, sgd.momentum, sgd.nesterov, sgd.weight_decay) == ("sgd", 0.1, 0.9, True, 5e-4)
    assert not config.objective.label_smoothing and config.augment.final_share == 0

    rate = learning_rate(config, 391)
    assert rate(250 * 391) == pytest.approx(0.05) and rate(480 * 391) == pytest.approx(4.3e-4, rel=0.1)
    assert 0 < rate(500 * 391 - 1) < 1e-9


# Names: what the published grid lacks


def test_a_combination_that_the_published_grid_lacks_is_composed() -> None:
    config = config_of("RegNetX002-cutmix-agmax")
    assert "RegNetX002-cutmix-agmax" not in PUBLISHED
    assert (config.model.backbone, config.augment.mix, config.objective.name) == ("regnetx_002", "cutmix", "agmax")


def test_no_basic_augment_takes_away_crop_and_flip() -> None:
    with_both, without = (
        config_of(f"ResNet50-{part}", dataset="imagenet") for part in ("standard", "no_basic_augment")
    )
    assert (with_both.augment.crop, with_both.augment.flip) == ("random_resized", True)
    assert (without.augment.crop, without.augment.flip) == ("none", False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet50-cutmix-mixup", "'cutmix' and 'mixup' both set augment.mix; keep one (ResNet50-cutmix-mixup)"),
        (
            "ResNet8-label_smoothing-label_smoothing_others",
            "'label_smoothing' and 'label_smoothing_others' both set objective.smoothing_over; keep one "
            "(ResNet8-label_smoothing-label_smoothing_others)",
        ),
        ("mixup-ResNet50-cutmix", "'mixup' and 'cutmix' both set augment.mix; keep one (mixup-ResNet50-cutmix)"),
        (
            "ResNet8-auto_augment-rand_augment",
            "'auto_augment' and 'rand_augment' both set augment.policy; keep one (ResNet8-auto_augment-rand_augment)",
        ),
        (
            "ResNet8-soft_crop-no_basic_augment",
            "'soft_crop' and 'no_basic_augment' both set augment.crop; keep one (ResNet8-soft_crop-no_basic_augment)",
        ),
        ("ResNet8-agmax-agmax_kl", "'agmax' and 'agmax_kl' both set objective.name; keep one (ResNet8-agmax-agmax_kl)"),
        (
            "ResNet8-ResNet50",
            "a name needs one model part (ResNet8-ResNet50): it has 'ResNet8' and 'ResNet50'. See --list parts",
        ),
        ("cutmix-agmax", "a name needs one model part (cutmix-agmax): it has none. See --list parts"),
        ("ResNet8-cutmx", "unknown part 'cutmx' (ResNet8-cutmx). Did you mean 'cutmix'?"),
        ("ResNet8-AGMAX", "unknown part 'AGMAX' (ResNet8-AGMAX). Did you mean 'agmax'?"),
        ("ResNet8--cutmix", "unknown part '' (ResNet8--cutmix). Known: "),
    ],
)
def test_a_name_that_is_no_configuration_is_answered_with_the_part_to_change(name: str, message: str) -> None:
    [line] = errors_of(name)
    assert line == message or (message.endswith("Known: ") and line.startswith(message))


def test_a_misspelt_model_is_answered_with_the_nearest_one() -> None:
    assert errors_of("RestNet50-cutmix") == ["unknown part 'RestNet50' (RestNet50-cutmix). Did you mean 'ResNet50'?"]


def test_a_network_of_timm_is_a_model_part_with_the_recipe_of_resnet50() -> None:
    config, recipe = config_of("resnet18-cutmix"), config_of("ResNet50-cutmix")
    assert (config.name, config.model.backbone) == ("resnet18-cutmix", "resnet18")
    assert (config.optimizer, config.schedule, config.train) == (recipe.optimizer, recipe.schedule, recipe.train)
    assert config.model.initialisation.library == "timm"


# Names: the canonical order


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("agmax-cutmix-cutout-soft_crop-auto_augment-ResNet8", "ResNet8-auto_augment-soft_crop-cutout-cutmix-agmax"),
        ("label_smoothing-agmax-ResNet8-cutout", "ResNet8-cutout-agmax-label_smoothing"),
        ("ResNet8", "ResNet8-standard"),
        ("ResNet8-agmax", "ResNet8-standard-agmax"),
        ("standard-ResNet8-cutmix", "ResNet8-cutmix"),
        ("ResNet8-cutmix-cutmix", "ResNet8-cutmix"),
        ("agmax-no_basic_augment-WideResNet40-2", "WideResNet40-2-no_basic_augment-agmax"),
    ],
)
def test_a_name_is_written_model_policy_crop_erase_mix_methods(written: str, canonical: str) -> None:
    assert config_of(written).name == canonical
    assert config_of(written) == config_of(canonical)


def test_another_order_is_noted_and_the_canonical_one_is_not(run: Run) -> None:
    answer = run("--config=ResNet101-cutmix-auto_augment-agmax", "--print-config")
    wanted = "note: ResNet101-cutmix-auto_augment-agmax is written ResNet101-auto_augment-cutmix-agmax\n"
    assert (answer.status, answer.err) == (0, wanted)
    assert run("--config=ResNet101-auto_augment-cutmix-agmax", "--print-config").err == ""


def test_every_listed_composition_is_its_own_canonical_name(run: Run) -> None:
    listed = run("--list", "--json").json["configs"]
    assert set(PUBLISHED) <= set(listed)
    assert [name for name, file in listed.items() if not file and config_of(name).name != name] == []


# Layers


CONSTANTS = {  # crop, padding, flip, CutOut's share, MixUp's alpha, CutMix's probability
    "digits": ("standard", 4, False, 0.5, 1.0, 0.5),
    "fashion_mnist": ("standard", 2, True, 0.5, 1.0, 0.5),
    "cifar10": ("standard", 4, True, 0.5, 1.0, 0.5),
    "cifar100": ("standard", 4, True, 0.5, 1.0, 0.5),
    "svhn": ("standard", 4, False, 0.625, 1.0, 0.5),
    "svhn-core": ("standard", 4, False, 0.625, 1.0, 0.5),
    "imagenet": ("random_resized", None, True, 0.5, 0.2, 1.0),
    "imagenet-v2": ("random_resized", None, True, 0.5, 0.2, 1.0),
    "folder": ("random_resized", None, True, 0.5, 0.2, 1.0),
}


@pytest.mark.parametrize("dataset", CONSTANTS)
def test_the_constants_of_augmentation_follow_the_data_set(dataset: str) -> None:
    augment = config_of("ResNet8", dataset=dataset).augment
    padding = augment.standard.padding if augment.crop == "standard" else None
    found = (augment.crop, padding, augment.flip, augment.cutout.share, augment.mixup.alpha, augment.cutmix.probability)
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
    assert config.augment.cutout.share * side == pixels


def test_the_old_statistics_are_a_setting() -> None:
    own, old = (config_of("ResNet8", f"dataset.statistics={word}", dataset="cifar100") for word in ("own", "agmax"))
    assert old.normalisation == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    assert own.normalisation != old.normalisation
    assert "has no constants for digits" in errors_of("ResNet8", "dataset.statistics=agmax", dataset="digits")[0]


def test_a_data_set_wins_over_the_defaults() -> None:
    assert CutMix().probability == 1.0
    assert config_of("ResNet8-cutmix", dataset="cifar10").augment.cutmix.probability == 0.5


def copy_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]) -> None:
    """Let the fragments be those of the repository, some of them written anew."""
    if not (tmp_path / "configs").exists():
        shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for name, text in changed.items():
        (tmp_path / "configs" / name).write_text(text)
    monkeypatch.setattr(names, "CONFIGS", tmp_path / "configs")
    names.files.cache_clear()
    names._read_fragment.cache_clear()


@pytest.fixture
def fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """Replace fragments for one test."""
    yield lambda changed: copy_with(tmp_path, monkeypatch, changed)
    monkeypatch.undo()
    names.files.cache_clear()
    names._read_fragment.cache_clear()


LAYERS = ["dataset/digits.yaml", "model/ResNet8.yaml", "augment/cutmix.yaml", "method/agmax.yaml"]


@pytest.mark.parametrize("highest", range(4))
def test_of_data_set_model_augment_and_method_the_later_wins(
    fragments: Callable[[dict[str, str]], None], highest: int
) -> None:
    """All fragments up to the highest set the same key, each to its place in the order."""
    base = {name: (REPOSITORY / "configs" / name).read_text() for name in LAYERS}
    lines = {name: f"\nevaluation: {{batch_size: {place}}}\n" for place, name in enumerate(LAYERS, 1)}
    fragments({name: base[name] + lines[name] for name in LAYERS[: highest + 1]})
    resolved = resolve.resolve("ResNet8-cutmix-agmax", dataset="digits")
    assert resolved.config.evaluation.batch_size == highest + 1
    assert resolved.origins["evaluation.batch_size"].startswith(f"configs/{LAYERS[highest]}:")


def test_a_users_file_wins_over_the_parts_it_stands_on(write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", "base: ResNet8-cutmix\noptimizer: {lr: 0.3}\naugment: {cutmix: {probability: 0.75}}\n")
    config = config_of(path)
    assert (config.optimizer.lr, config.augment.cutmix.probability, config.name) == (0.3, 0.75, "mine")
    assert config.model == config_of("ResNet8-cutmix").model


def test_a_flag_wins_over_a_users_file_and_an_override_over_the_flag(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: ResNet8\noptimizer: {lr: 0.3}\n")
    words = ["--config=mine.yaml", "--print-config", "--json"]
    lrs = [run(*words, *more).json["optimizer"]["lr"] for more in ([], ["--lr=0.4"], ["optimizer.lr=0.5", "--lr=0.4"])]
    assert lrs == [0.3, 0.4, 0.5]


def test_the_last_of_two_equal_overrides_wins() -> None:
    assert config_of("ResNet8", "train.epochs=3", "train.epochs=4").train.epochs == 4


def test_parts_given_as_flags_stand_in_the_name_or_on_top_of_a_file(write: Callable[[str, str], str]) -> None:
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


# Files


def test_files_stand_on_files_and_the_nearer_wins(write: Callable[[str, str], str], tmp_path: Path) -> None:
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
def test_files_that_stand_on_each_other_are_refused(
    write: Callable[[str, str], str], tmp_path: Path, bases: dict[str, str]
) -> None:
    (tmp_path / "sub").mkdir()
    for name, base in bases.items():
        write(name, f"base: {base}\n")
    [line] = errors_of(str(tmp_path / "a.yaml"))
    assert line.startswith("configurations that stand on each other")


def test_a_file_without_base_is_complete_and_says_what_it_lacks(write: Callable[[str, str], str]) -> None:
    config = config_of(write("whole.yaml", "name: whole\nmodel: {backbone: resnet18}\ndataset: {name: digits}\n"))
    assert (config.name, config.model.backbone, config.dataset.num_classes) == ("whole", "resnet18", 10)
    [line] = errors_of(write("part.yaml", "optimizer: {lr: 0.1}\n"))
    assert "it names no model. Write `base: NAME` on top" in line
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
        ("ResNet8-soft_crop", [], ["augment.final_share: 0.04 of 20 epochs is not one"]),
        ("ResNet8-soft_crop", ["train.epochs=25"], []),
        (
            "ResNet8-wide_crop",
            ["augment.softening.power=3"],
            ["augment.softening: nothing softens here; soft_crop, soft_cutout and soft_random_erasing do"],
        ),
        ("ResNet8-soft_cutout", ["augment.softening.power=3"], []),
        (
            "ResNet8-standard",
            ["evaluation.offsets=true", "evaluation.test=false", "dataset.validation=0.1"],
            ["evaluation.occlusion and .offsets: a training measures them on the test images it leaves out"],
        ),
    ],
)
def test_what_is_set_without_effect_is_noted(name: str, overrides: list[str], notes: list[str]) -> None:
    assert resolved_of(name, *overrides).notes == notes


def test_another_data_set_is_laid_over_a_complete_file_and_said(write: Callable[[str, str], str]) -> None:
    path = write("whole.yaml", resolve.as_yaml(resolve.resolve("ResNet8-cutmix", dataset="imagenet")))
    resolved = resolve.resolve(path, dataset="digits")
    composed = config_of("ResNet8-cutmix", dataset="digits")
    assert resolved.config.augment == composed.augment
    assert (resolved.config.dataset.name, resolved.config.dataset.num_classes) == ("digits", 10)
    assert (resolved.config.dataset.image_size, resolved.config.normalisation) == (32, composed.normalisation)
    assert resolved.notes == ["the data set digits replaces imagenet of the file, with configs/dataset/digits.yaml"]
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
    assert as_json.json == reader.parse(printed.out, "printed").mapping
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
    read = reader.parse(resolve.as_yaml(resolved), "printed").mapping
    assert resolve.from_mapping(read, "printed") == resolved.config


def test_an_origin_with_a_line_break_does_not_break_the_printed_file(write: Callable[[str, str], str]) -> None:
    resolved = resolve.resolve(write("a\nb.yaml", "base: ResNet8\nname: x\noptimizer: {lr: 0.2}\n"))
    assert resolve.from_mapping(reader.parse(resolve.as_yaml(resolved), "printed").mapping, "x") == resolved.config


# Hidden units


@pytest.mark.parametrize(("num_classes", "units"), golden("q_network_units.json").items())
def test_the_q_network_is_as_wide_as_published_for_its_classes(num_classes: str, units: int) -> None:
    config = config_of("ResNet8-agmax", f"dataset.num_classes={num_classes}", dataset="cifar10")
    assert config.objective.hidden_units == units


def test_hidden_units_are_kept_when_given_and_left_alone_without_q_network() -> None:
    assert config_of("ResNet50-agmax", "objective.hidden_units=2048", dataset="imagenet").objective.hidden_units == 2048
    assert config_of("ResNet50", dataset="imagenet").objective.hidden_units == 0
    assert config_of("ResNet50-agmax_mse", dataset="imagenet").objective.hidden_units == 0


def test_hidden_units_wait_for_classes_that_are_counted() -> None:
    config = config_of("ResNet50-agmax", dataset="folder")
    assert (config.dataset.num_classes, config.objective.hidden_units) == (None, 0)
    assert resolve.with_classes(config, 100).objective.hidden_units == 512


# Wrong input: scalars, keys, YAML, names


ODD_SCALARS: list[tuple[str, str, Any]] = [  # as written, of a key, what it reads as (None: refused)
    ("optimizer.lr", "1e-4", 0.0001),
    ("optimizer.lr", "1E-4", 0.0001),
    ("optimizer.lr", ".5", 0.5),
    ("optimizer.lr", "+1.", 1.0),
    ("optimizer.lr", "2", 2.0),
    ("optimizer.lr", "010", None),
    ("optimizer.lr", "0x10", None),
    ("optimizer.lr", "1_000", None),
    ("optimizer.lr", "12:30", None),
    ("optimizer.lr", ".nan", None),
    ("optimizer.lr", ".inf", None),
    ("optimizer.lr", "1e400", None),
    ("optimizer.lr", "-0.1", None),
    ("optimizer.lr", "0", None),
    ("optimizer.lr", "true", None),
    ("optimizer.lr", "null", None),
    ("optimizer.lr", "'0.1'", None),
    ("optimizer.lr", "2026-01-01", None),
    ("train.epochs", "true", None),
    ("train.epochs", "1.5", None),
    ("train.epochs", "010", None),
    ("train.epochs", "9" * 5000, None),
    ("optimizer.nesterov", "True", True),
    ("optimizer.nesterov", "on", None),
    ("optimizer.nesterov", "no", None),
    ("optimizer.nesterov", "1", None),
    ("dataset.mean", "[1e-1, .2, 3]", [0.1, 0.2, 3.0]),
    ("dataset.mean", "[]", None),
    ("dataset.mean", "0.5", None),
]


@pytest.mark.parametrize(("key", "text", "wanted"), ODD_SCALARS, ids=lambda item: str(item)[:12])
def test_an_odd_scalar_is_the_number_it_looks_like_or_refused(
    key: str, text: str, wanted: Any, write: Callable[[str, str], str]
) -> None:
    section, word = key.split(".")
    path = write("mine.yaml", f"base: ResNet8\n{section}:\n  {word}: {text}\n")
    if wanted is None:
        [from_file] = errors_of(path)
        [from_override] = errors_of("ResNet8", f"{key}={text}")
        assert from_file.startswith(f"wrong value {key}=") and "mine.yaml:3" in from_file
        assert from_override.startswith(f"wrong value {key}=")
    else:
        assert value_of(config_of(path), key) == value_of(config_of("ResNet8", f"{key}={text}"), key) == wanted


@pytest.mark.parametrize("text", ["0.1", "1e-4", "7", "-3", "true", "null", "~", "text", "[1, 2]", "'5'", "''"])
def test_scalars_read_as_json_would_where_json_has_them(text: str) -> None:
    as_json = {"~": None, "text": "text", "'5'": "5", "''": ""}
    assert reader.parse_value(text) == (as_json[text] if text in as_json else json.loads(text))


def test_a_float_that_is_no_number_is_read_as_such_and_refused_later() -> None:
    assert math.isnan(reader.parse_value(".nan"))
    assert reader.parse_value("-.inf") == -math.inf


def test_a_duplicate_key_names_both_lines(write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", "base: ResNet8\ntrain:\n  epochs: 3\n  seed: 1\n  epochs: 4\ntrain:\n  seed: 2\n")
    assert errors_of(path) == [
        f"key train.epochs stands twice ({path}:5): first on line 3",
        f"key train stands twice ({path}:6): first on line 2",
    ]


def test_all_errors_are_reported_at_once_each_with_its_line(write: Callable[[str, str], str]) -> None:
    text = "base: ResNet8\noptimizer:\n  lrr: 0.1\n  momentum: 2\naugment: {mix: cutmx}\nmodle: {backbone: x}\n"
    path = write("mine.yaml", f"{text}schedule: 5\n")
    lines = errors_of(path, "train.epochs=0", "trian.epochs=3")
    assert {line.partition(": ")[0] for line in lines if "(" in line} == {
        f"unknown key optimizer.lrr ({path}:3). Did you mean 'optimizer.lr'?",
        f"wrong value optimizer.momentum=2 ({path}:4)",
        f"wrong value augment.mix='cutmx' ({path}:5)",
        f"unknown key modle.backbone ({path}:6). Did you mean 'model.backbone'?",
        f"wrong value for schedule ({path}:7)",
        "wrong value train.epochs=0 (test)",
        "unknown key trian.epochs (test). Did you mean 'train.epochs'?",
    }
    assert any("one of none, mixup, cutmix. Did you mean 'cutmix'?" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: ResNet8\noptimzer: {}\n", "unknown key optimzer (FILE:2). Did you mean"),
        ("base: ResNet8\noptimizer:\n  lr: {}\n", "wrong value optimizer.lr={} (FILE:3)"),
        (
            "base: ResNet8\noptimizer:\n  lr: {low: 1}\n",
            "unknown key optimizer.lr.low (FILE:3): optimizer.lr takes one value",
        ),
        ("base: ResNet8\noptimizer: [1]\n", "wrong value for optimizer (FILE:2): it is a section, not a value"),
        ("base: 5\n", "wrong value (FILE:1): base is 5, not a name"),
        ("base: ResNet8\nname: ../x\n", "not a configuration name (FILE:2)"),
        ("base: ResNet8\nname: ..\n", "not a configuration name (FILE:2)"),
        ("base: ResNet8\ndataset: {name: cifr10}\n", "unknown data set cifr10 (FILE:2). Did you mean 'cifar10'?"),
        ("base: ResNet8-cutmx\n", "unknown part 'cutmx' (ResNet8-cutmx). Did you mean 'cutmix'?"),
        ("- base: ResNet8\n", "configuration is no mapping (FILE)"),
        ("just text\n", "configuration is no mapping (FILE)"),
        ("base: ResNet8\ntrain:\n\tepochs: 3\n", "not valid YAML (FILE:3): found character '\\t'"),
        ("base: ResNet8\n---\nbase: ResNet8\n", "second document in YAML (FILE:2)"),
        ("base: [ResNet8\n", "not valid YAML (FILE:2)"),
        ("base: ResNet8\n? [a, b]\n: 1\n", "key is no word (FILE:2)"),
        ("base: ResNet8\ndataset: {mean: [{[a]: 1}]}\n", "wrong value dataset.mean="),
        ("base: &x ResNet8\nname: *x\n", "anchor or alias in YAML (FILE:1)"),
        (
            "base: !!python/object/apply:os.system ['true']\n",
            "tag in YAML (FILE:1): tag:yaml.org,2002:python/object/apply:os",
        ),
        ("base: !!str ResNet8\n", "tag in YAML (FILE:1)"),
        ("base: !include x\n", "tag in YAML (FILE:1): !include is not read"),
        ("base: \0\n", "not valid YAML (FILE)"),
        ("<<: {lr: 1}\nbase: ResNet8\n", "unknown key <<.lr (FILE:1)"),
    ],
)
def test_a_wrong_file_is_answered_with_its_line(text: str, message: str, write: Callable[[str, str], str]) -> None:
    path = write("mine.yaml", text)
    assert errors_of(path)[0].startswith(message.replace("FILE", path))


@pytest.mark.parametrize("before", ["---\n", "# a comment\n---\n", "%YAML 1.2\n---\n", "\n\n"])
def test_a_single_document_may_be_marked_as_one(before: str, write: Callable[[str, str], str]) -> None:
    assert config_of(write("ResNet8.yaml", f"{before}base: ResNet8\n")).model == config_of("ResNet8").model


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xef\xbb\xbfbase: ResNet8\n", "byte-order mark in a configuration"),
        ("base: ResNet8\nname: ü\n".encode("latin-1"), "configuration is not UTF-8"),
        ("base: ResNet8\n".encode("utf-16"), "configuration is not UTF-8"),
        (b"# " + b"x" * 300_000, "configuration too large"),
        (b"base: ResNet8\nx: [" + b"1," * 100_000 + b"]", "configuration too large"),
        (b"a: 1\n" * 50_000, "configuration too large"),
        (b"x: " + b"[" * 10_000, "YAML nested too deeply"),
        (b"x: " + b"{a: " * 10_000, "YAML nested too deeply"),
        (b"- " * 10_000, "YAML nested too deeply"),
        (b"".join(b" " * depth + b"a:\n" for depth in range(400)), "YAML nested too deeply"),
        (b"a: &a [x]\n" + b"b: [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" * 9, "anchor or alias in YAML"),
        (b"a: &a [*a]\n", "anchor or alias in YAML"),
    ],
    ids=[
        "BOM",
        "latin-1",
        "utf-16",
        "bytes",
        "values",
        "lines",
        "lists",
        "mappings",
        "dashes",
        "indent",
        "bomb",
        "cycle",
    ],
)
def test_a_file_that_is_odd_as_a_whole_is_refused_before_it_is_built(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(raw)
    [line] = errors_of(str(path))
    assert line.startswith(f"{message} ({path}")


@fuzz
@given(text=st.text(max_size=60) | st.text("ab:-[]{},#&*!|>'\"%@\n \t01.", max_size=40))
def test_no_text_makes_the_reader_fail_in_any_other_way(text: str) -> None:
    lines = outcome(reader.parse, text, "text") + outcome(reader.parse_value, text)
    assert all(line.isprintable() for line in lines)


WRONG: list[Any] = [[], [[1]], {}, {"x": 1}, "word", -1.5, True, None]


@functools.cache
def fragment_documents() -> dict[Path, reader.Document]:
    return {path: reader.read(path) for path in FRAGMENTS}


NULLABLE = ("dataset.num_classes", "dataset.agmax_mean", "dataset.agmax_std")


def key_paths(mapping: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in mapping.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in key_paths(value))


def mutated(
    mapping: dict[str, Any], path: tuple[str, ...], change: Callable[[str, Any], dict[str, Any]]
) -> dict[str, Any]:
    """Return a mapping in which `change` has replaced one entry."""
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        if key != path[0]:
            result[key] = value
        else:
            result |= change(key, value) if len(path) == 1 else {key: mutated(value, path[1:], change)}
    return result


def misspelt(key: str, value: Any) -> dict[str, Any]:
    return {f"{key}x": value}


def user_of(path: Path, key: tuple[str, ...] = ()) -> dict[str, str]:
    """Return a name and data set whose configuration reads this key of this fragment, with nothing laid over it."""
    part = path.stem.format(depth=28, width=10)
    if path.parent.name == "dataset":
        return {"source": "ResNet8", "dataset": part}
    if path.parent.name == "model":
        return {"source": "-".join([part, *key[1:2]] if key[:1] == ("with",) else [part])}
    return {"source": f"ResNet8-{part}"}


def may_stand(key: str, old: Any, new: Any) -> bool:
    """Tell whether `new` may be as good as `old`: a word for a word, nothing where nothing is allowed."""
    if isinstance(old, dict):
        return new in ({}, None) or (key == "model.arguments" and isinstance(new, dict))
    if key.startswith("model.arguments."):  # the network's own: any word, any value
        return not isinstance(new, list | dict)
    return (new is None and key in NULLABLE) or (type(new) is type(old) and not isinstance(new, list))


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_every_key_misspelt_and_every_value_of_another_type_is_an_error_that_names_its_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = dict(fragment_documents())
    whole = documents[path]
    monkeypatch.setattr(reader, "read", lambda asked: documents[asked])
    accepted = []
    try:
        for keys in key_paths(whole.mapping):
            key = (
                ".".join(keys)
                .removeprefix("with.")
                .removeprefix(f"{keys[1]}." if keys[0] == "with" and keys[1:] else "")
            )
            for wrong in ["misspelt", *WRONG]:
                old: list[Any] = []

                def change(word: str, value: Any, wrong: Any = wrong, old: list[Any] = old) -> dict[str, Any]:
                    old.append(value)
                    return misspelt(word, value) if wrong == "misspelt" else {word: wrong}

                documents[path] = whole._replace(mapping=mutated(whole.mapping, keys, change))
                names._read_fragment.cache_clear()
                lines = outcome(resolve.resolve, **user_of(path, keys))
                is_wrong = not may_stand(key, old[0], wrong)
                if wrong == "misspelt":
                    is_wrong = not key.startswith("model.arguments.")
                if is_wrong and not any(path.name in line for line in lines):
                    accepted.append((keys, wrong))
    finally:
        names._read_fragment.cache_clear()
    assert accepted == []


@fuzz
@given(data=st.data())
def test_a_shipped_file_with_anything_in_one_place_never_ends_in_another_way(
    data: st.DataObject, run: Run, tmp_path: Path
) -> None:
    """A mutated fragment, as a user's own file: exit 0 or 2, nothing written, no traceback."""
    path = data.draw(st.sampled_from(FRAGMENTS))
    mapping = {key: value for key, value in fragment_documents()[path].mapping.items() if key not in ("about", "with")}
    keys = data.draw(st.sampled_from([("base",), *key_paths(mapping)]))
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=4,
    )
    value = data.draw(anything)
    changed = mutated({"base": "ResNet8", **mapping}, keys, lambda key, _: {key: value})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    answer = run("--config=mine.yaml", "--print-config")
    assert answer.status in (0, 2)
    assert all(line.startswith(("error: ", "note: ")) for line in answer.err.splitlines())
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "configs/../../x",
        "..",
        ".",
        "a\0b",
        "x" * 5000,
        "x" * 201,
        "x/" * 200 + "y.yaml",
        "y" * 300 + ".yaml",
        "~nobody-here/x.yaml",
        "~",
        "",
        " ",
        "ResNet8 ",
        "ResNet8\n",
        "Rés",
        "file:///x.yaml",
        "https://host/x.yaml",
        "/dev/null",
        ".yaml",
        "/",
    ],
    ids=lambda name: repr(name)[:20],
)
def test_a_name_that_is_a_path_or_odd_is_refused_in_one_line(name: str, run: Run, tmp_path: Path) -> None:
    answer = run(f"--config={name}", "--print-config")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_out_of_configs_is_refused(
    fragments: Callable[[dict[str, str]], None], tmp_path: Path
) -> None:
    (tmp_path / "outside.yaml").write_text("base: ResNet8\n")
    fragments({})
    (tmp_path / "configs" / "inside.yaml").symlink_to(tmp_path / "outside.yaml")
    assert errors_of("inside")[0].startswith("configuration leads out of configs/")
    assert config_of(str(tmp_path / "configs" / "inside.yaml")).model == config_of("ResNet8").model


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "../../x", "a b", "", "x" * 201, "a\n"])
def test_no_setting_leads_a_run_folder_out_of_the_runs(name: str) -> None:
    with pytest.raises(ConfigErrors, match="wrong value name="):
        resolve.resolve("ResNet8", settings=[Setting("name", name, "test")])


@pytest.mark.parametrize("file", ["mine with blanks.yaml", "ünï 类.yaml", "a'b.yml", "....yaml"])
def test_a_run_is_named_after_its_file_in_plain_letters(file: str, write: Callable[[str, str], str]) -> None:
    name = config_of(write(file, "base: ResNet8\n")).name
    assert name.isascii() and "/" not in name and " " not in name and not name.startswith(".")


@fuzz
@given(name=st.text(max_size=40) | st.text("ResNt58-cutmixag/.~_{}\\ ", max_size=25))
def test_no_configuration_name_makes_the_program_fail_in_any_other_way(name: str, run: Run) -> None:
    answer = run(f"--config={name}", "--print-config")
    assert answer.status in (0, 2)
    assert all(line.startswith(("error: ", "note: ")) for line in answer.err.splitlines())


@pytest.mark.parametrize(
    "backbone", ["hf-hub:evil/x", "local-dir:/x", "hf_hub:x", "../x", "a/b", "x y", "", "5", "[x]"]
)
def test_a_network_from_elsewhere_is_refused_before_anything_is_built(backbone: str, run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", f"model.backbone={backbone}")
    assert answer.status == 2
    assert answer.err.startswith("error: wrong value model.backbone=")


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=5"],
        ["optimizer={lr: 0.1}"],
        ["model.arguments=5", "model.arguments.depth=2"],
        ["model.arguments.depth=1", "model.arguments.depth.more=2"],
        ["model.arguments={a: 1, a: 2}"],
        ["model.arguments.depth=[1]"],
        ["augment..mix=cutmix"],
        ["lr=0.1"],
        ["optimizer.lr=[1"],
        ["optimizer.lr=a: b: c"],
        ["optimizer.lr"],
        ["=5"],
        ["dataset.name=7"],
    ],
    ids=" ".join,
)
def test_an_override_that_fits_no_setting_is_refused(overrides: list[str], run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", *overrides)
    assert (answer.status, answer.out) == (2, "")
    assert all(line.startswith("error: ") for line in answer.err.splitlines())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.num_views=1"], "agmax needs at least 2 views. Write objective.num_views=2"),
        (["objective.name=agmax_kl", "objective.num_views=3"], "agmax_kl compares 2 views"),
        (["objective.name=js", "objective.num_views=1"], "js needs at least 2 views. Write objective.num_views=2"),
        (["objective.name=tied_features", "objective.num_views=3"], "tied_features compares 2 views"),
        (["optimizer.momentum=0"], "needs momentum. Write optimizer.nesterov=false or a momentum above 0"),
        (["dataset.mean=[0.5]"], "mean and std need 3 numbers each"),
        (["model.channels=1"], "colour images do not fit a model with 1 channel. Write model.channels=3"),
        (["augment.random_resized.scale=[1, 0.5]"], "[1, 0.5] is no range. Write the smaller first"),
        (["augment.random_resized.ratio=[2, 0.5]"], "[2, 0.5] is no range. Write the smaller first"),
        (["augment.random_erasing.scale=[0, 0]"], "[0, 0] is no range. Write the smaller first, the larger above 0"),
        (["augment.lighting.std=0.1", "dataset.name=digits"], "the images are gray. Write augment.lighting.std=0"),
        (["schedule.milestones=[20, 10]"], "write them in rising order"),
        (
            ["augment.softening.reweight=batch_mean", "augment.softening.applies_to=target"],
            "no view is weighted where targets alone soften. Write augment.softening.applies_to=target_and_weight",
        ),
        (["augment.softening.max_confidence=0.09"], "0.09 is below chance"),
        (["augment.final_divisor=1e160"], "less than or equal to 1000000"),
        (["train.epochs=5", "schedule.warmup_epochs=5"], "5 epochs of warm-up leave nothing of 5"),
    ],
    ids=lambda item: item[-1] if isinstance(item, list) else "",
)
def test_settings_that_do_not_fit_each_other_say_what_to_write(overrides: list[str], message: str) -> None:
    assert any(message in line for line in errors_of("ResNet8-agmax", *overrides))
