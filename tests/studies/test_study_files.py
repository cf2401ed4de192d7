"""Study files: the shipped ones say what they claim, mistakes are named, and a key stands for a result."""

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agmax.config import names, reader, resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config, Dataset, Model, Train, choices
from agmax.core.errors import UsageError
from agmax.studies import plan, spec, tuning
from agmax.studies import study as running
from agmax.studies.plan import Cell, Typed
from agmax.studies.spec import Study, Variant
from helpers.command import Answer

Run = Callable[..., Answer]

SHIPPED = sorted(path.stem for path in (names.CONFIGS / "study").glob("*.yaml"))
DATASETS = {"agmax_imagenet_resnet50": "imagenet", "agmax_cifar": "cifar10", "soft_augmentation_cifar100": "cifar100"}
AUGMENTS = [
    policy + mix
    for policy in ("", "auto_augment-")
    for mix in ("standard", "cutout", "mixup", "cutmix")
    if policy + mix != "auto_augment-standard"
] + ["auto_augment"]


@functools.lru_cache
def shipped(name: str) -> Study:
    return spec.read(spec.find(name))


def first_trials(of: Study) -> dict[str, Any]:
    """Return what a tuning would choose if the first trial of every arm were the best."""
    return {arm: trials[0] for arm, trials in of.trials.items()}


@functools.lru_cache
def result_cells(name: str, *, dataset: str | None = None, typed: tuple[str, ...] = ()) -> list[Cell]:
    """Return the cells of a shipped study that read the test images, under settings written as on the command line."""
    given = [Setting(key, reader.parse_value(value), "typed") for key, _, value in (t.partition("=") for t in typed)]
    of = shipped(name)
    return plan.results(of, Typed(dataset, (), tuple(given)), first_trials(of))


def tuning_cells(name: str) -> list[Cell]:
    return plan.tuning(shipped(name), Typed())


def value_of(config: Config, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def leaves(config: Config, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in names.leaves(config.model_dump()) if key not in without}


def cell_of(cells: list[Cell], variant: str, seed: int = 0, trial: int | None = None) -> Cell:
    [found] = [cell for cell in cells if (cell.variant, cell.seed, cell.trial) == (variant, seed, trial)]
    return found


# --- the shipped studies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_cell_of_a_shipped_study_is_a_valid_configuration(name: str) -> None:
    of, raw = shipped(name), yaml.safe_load(spec.find(name).read_text())
    assert len(result_cells(name)) == sum(
        (arm or {}).get("replicates", raw["replicates"]) for arm in raw["variants"].values()
    )
    tune = raw.get("tune", {"replicates": [], "trials": {}})
    assert len(tuning_cells(name)) == len(tune["replicates"]) * sum(map(len, tune["trials"].values()))
    assert {cell.variant for cell in result_cells(name)} == set(of.variants)
    for cell in (*result_cells(name), *tuning_cells(name)):
        trial = "" if cell.trial is None else f"-trial{cell.trial}"
        assert cell.config.name == f"{name}-{cell.variant}{trial}"
        assert cell.config.dataset.name == of.dataset


def test_the_published_studies_have_the_cells_of_their_tables() -> None:
    assert set(SHIPPED) == {*DATASETS, "digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"}
    assert len(AUGMENTS) == len(set(AUGMENTS)) == 8
    assert [len(result_cells(name)) for name in DATASETS] == [8 * 3, 8 * 2, 4]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_cells_of_an_arm_have_the_settings_that_its_lines_say(name: str) -> None:
    of, chosen = shipped(name), first_trials(shipped(name))
    for cell in result_cells(name):
        arm = of.variants[cell.variant]
        like = of.variants.get(arm.like or "")
        layers = [*of.settings, *(like.settings if like else ()), *chosen.get(arm.like, ()), *arm.settings]
        said = {setting.key: setting.value for setting in (*layers, *chosen.get(arm.name, ()))}
        assert {key: value_of(cell.config, key) for key in said} == said
        parts = [*(like.parts if like else ()), *arm.parts]
        alone = resolve.resolve("-".join([of.base, *parts]), dataset=of.dataset).config
        others = (*said, "name", "train.seed", "dataset.seed")
        assert leaves(cell.config, without=others) == leaves(alone, without=others)


def image_passes(config: Config, num_images: int | None = None) -> float:
    """Return how many images, counting views, a training goes through."""
    return config.train.epochs * (config.dataset.train_limit or num_images or 0) * config.objective.num_views


@pytest.mark.parametrize("name", [name for name in SHIPPED if shipped(name).budget])
def test_arms_that_are_compared_spend_the_budget_and_others_say_that_they_do_not(name: str) -> None:
    """The exceptions stand in no contrast, and their `about` speaks of compute or of the number of images."""
    of = shipped(name)
    compared = {arm for contrast in of.contrasts for arm in (contrast.of, *contrast.against)}
    assert compared
    exceptions = {
        cell.variant for cell in result_cells(name) if abs(image_passes(cell.config) / (of.budget or 0) - 1) > 0.01
    }
    assert not exceptions & compared
    for arm in exceptions:
        assert re.search("compute|training images", of.variants[arm].about), arm
    for cell in tuning_cells(name):
        assert image_passes(cell.config) == pytest.approx(of.budget, rel=0.01)


def test_the_exceptions_of_fashion_mnist_are_the_two_that_its_plan_names() -> None:
    passes = {cell.variant: image_passes(cell.config) for cell in result_cells("fashion_mnist_agmax")}
    assert {arm: number for arm, number in passes.items() if number != 400_000} == {
        "baseline_half": 200_000,
        "two_views_13000_images": 520_000,
    }


@pytest.mark.parametrize(
    ("name", "num_images"),
    [("agmax_imagenet_resnet50", 1_281_167), ("agmax_cifar", 50_000), ("soft_augmentation_cifar100", 50_000)],
)
def test_published_studies_keep_the_published_epochs_where_agmax_passes_every_image_twice(
    name: str, num_images: int
) -> None:
    epochs = {"agmax_imagenet_resnet50": 90, "agmax_cifar": 200, "soft_augmentation_cifar100": 500}[name]
    for cell in result_cells(name):
        views = 2 if cell.variant.endswith("agmax") else 1
        assert image_passes(cell.config, num_images) == epochs * num_images * views
        assert cell.config.dataset.train_limit is None and not cell.config.dataset.validation


@pytest.mark.parametrize(
    ("name", "model", "methods"),
    [
        ("agmax_imagenet_resnet50", "ResNet50", ["", "label_smoothing", "agmax"]),
        ("agmax_cifar", "WideResNet40-2", ["", "agmax"]),
    ],
)
def test_the_cells_of_the_published_tables_are_the_published_configurations(
    name: str, model: str, methods: list[str]
) -> None:
    expected = {}
    for augment in AUGMENTS:
        for method in methods:
            words = "-".join(word for word in (augment, method) if word)
            expected[words.replace("-", "_")] = resolve.resolve(f"{model}-{words}", dataset=DATASETS[name]).config
    found = {cell.variant: cell.config for cell in result_cells(name)}
    assert found.keys() == expected.keys()
    for arm, config in expected.items():
        assert leaves(found[arm], without=("name",)) == leaves(config, without=("name",)), arm


@pytest.mark.parametrize(
    ("dataset", "typed", "model"),
    [
        ("cifar100", (), "WideResNet40-2"),
        (None, ("model.arguments.depth=28", "model.arguments.width=10"), "WideResNet28-10"),
    ],
)
def test_the_other_tables_of_cifar_are_typed_beside_the_study(
    dataset: str | None, typed: tuple[str, ...], model: str
) -> None:
    text = spec.find("agmax_cifar").read_text()
    assert all(word in text for word in (f"--dataset {dataset}" if dataset else "--study agmax_cifar", *typed))
    cells = result_cells("agmax_cifar", dataset=dataset, typed=typed)
    config = cell_of(cells, "auto_augment_cutmix_agmax").config
    published = resolve.resolve(f"{model}-auto_augment-cutmix-agmax", dataset=dataset or "cifar10").config
    assert leaves(config, without=("name",)) == leaves(published, without=("name",))
    own = {cell.key for cell in result_cells("agmax_cifar")}
    assert not own & {cell.key for cell in cells}


def test_published_numbers_are_those_of_the_papers() -> None:
    """Typed again from the README tables and the plotting script of AgMax, and the figure of Soft Augmentation."""
    readme = """
        standard 76.4 76.8 76.9, cutout 76.2 76.5 77.1, mixup 76.5 76.7 77.6, cutmix 76.3 76.4 77.4,
        auto_augment 76.2 76.2 77.1, auto_augment_cutout 75.7 75.7 76.6, auto_augment_mixup 75.9 76.5 77.1,
        auto_augment_cutmix 75.5 75.5 77.0
    """
    imagenet = {}
    for line in readme.split(","):
        augment, *numbers = line.split()
        methods = ("", "_label_smoothing", "_agmax")
        imagenet |= {augment + method: float(number) for method, number in zip(methods, numbers, strict=True)}
    variants = shipped("agmax_imagenet_resnet50").variants
    assert {arm: variant.paper["top1"] for arm, variant in variants.items()} == imagenet
    top5 = {"standard": 93.2, "standard_agmax": 93.5, "mixup_agmax": 93.9, "auto_augment_cutmix": 92.7}
    assert {arm: variants[arm].paper["top5"] for arm in top5} == top5
    assert all(("top5" in variant.paper) != arm.endswith("label_smoothing") for arm, variant in variants.items())
    cifar = {
        "standard": 95.1,
        "standard_agmax": 95.6,
        "auto_augment_agmax": 96.4,
        "auto_augment_cutout_agmax": 97.1,
        "mixup": 95.8,
        "auto_augment_mixup": 96.0,
        "cutmix_agmax": 96.7,
        "auto_augment_cutmix_agmax": 96.8,
    }
    assert {arm: shipped("agmax_cifar").variants[arm].paper for arm in cifar} == {
        arm: {"top1": number} for arm, number in cifar.items()
    }
    soft = {arm: variant.paper for arm, variant in shipped("soft_augmentation_cifar100").variants.items()}
    assert soft == {
        "standard_crop": {"error": 20.80},
        "far_crop": {"error": 22.99},
        "wide_crop": {},
        "soft_crop": {"error": 18.31},
    }
    for name in ("digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"):
        assert not any(variant.paper for variant in shipped(name).variants.values())


def test_the_crops_of_soft_augmentation_reach_as_far_as_its_figure_says() -> None:
    config = {cell.variant: cell.config for cell in result_cells("soft_augmentation_cifar100")}
    assert [config[arm].augment.crop for arm in config] == ["standard", "standard", "wide", "soft"]
    assert [config[arm].augment.standard.padding for arm in ("standard_crop", "far_crop")] == [4, 16]
    for key in ("sigma", "background"):  # the control sees the very windows of the method
        assert getattr(config["wide_crop"].augment.soft, key) == getattr(config["soft_crop"].augment.soft, key)
    assert {arm: each.num_final_epochs for arm, each in config.items()} == {
        "standard_crop": 0,
        "far_crop": 0,
        "wide_crop": 20,
        "soft_crop": 20,
    }
    assert config["soft_crop"].augment.soft.sigma * 32 == 12
    assert all(one.augment.flip for one in config.values())


def test_the_study_of_soft_augmentation_is_as_it_was_fixed() -> None:
    """Arms of equal compute, the last epoch final in all, at most six trials an arm, AgMax as chosen before."""
    of = shipped("fashion_mnist_soft")
    arms = {cell.variant: cell.config for cell in result_cells("fashion_mnist_soft")}
    assert {arm: (each.augment.crop, each.augment.softening.applies_to, each.augment.softening.link)
            for arm, each in arms.items()} == {
        "standard_crop": ("standard", "target_and_weight", "own"),
        "wide_crop": ("wide", "target_and_weight", "own"),
        "target_and_weight": ("soft", "target_and_weight", "own"),
        "target": ("soft", "target", "own"),
        "weight": ("soft", "weight", "own"),
        "mean_confidence": ("soft", "target", "mean"),
        "shuffled_confidence": ("soft", "target_and_weight", "shuffled"),
        "wide_crop_as_published": ("wide", "target_and_weight", "own"),
        "soft_crop_as_published": ("soft", "target_and_weight", "own"),
        "agmax": ("standard", "target_and_weight", "own"),
        "agmax_soft_crop": ("soft", "target_and_weight", "own"),
    }  # fmt: skip
    before = shipped("fashion_mnist_agmax")
    chosen_before = plan.results(before, Typed(), tuning.settings(tuning.read(tuning.tuning(before, Typed()))))
    for arm, config in arms.items():
        has_agmax = config.objective.name == "agmax"
        assert has_agmax == (arm in ("agmax", "agmax_soft_crop"))
        compute = (config.train.epochs, config.num_final_epochs, config.objective.num_views)
        assert compute == ((20, 1, 2) if has_agmax else (40, 1, 1)), arm
        like = cell_of(chosen_before, "agmax" if has_agmax else "baseline_longer", 0).config
        assert (config.optimizer, config.dataset, config.schedule) == (like.optimizer, like.dataset, like.schedule), arm
        if has_agmax:
            objective = {"subtract_entropy": arm == "agmax_soft_crop"}
            assert config.objective == like.objective.model_copy(update=objective)
    assert [(pair.of, pair.against) for pair in of.contrasts] == [
        ("target_and_weight", ["wide_crop"]),
        ("target_and_weight", ["shuffled_confidence"]),
        ("agmax_soft_crop", ["target_and_weight"]),
        ("agmax_soft_crop", ["agmax"]),
    ]
    assert {arm: len(trials) for arm, trials in of.trials.items()} == {
        "wide_crop": 4,
        "target_and_weight": 6,
        "target": 6,
        "weight": 6,
    }
    chosen = {setting.value for trials in of.trials.values() for trial in trials for setting in trial}
    assert chosen == {0.07, 0.14, 0.21, 0.375, 2.0, 4.0}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_lines_above_a_shipped_study_name_the_command_that_runs_it(name: str) -> None:
    text = spec.find(name).read_text()
    assert f"# python3 main.py --study {name}" in text
    assert text.startswith("about: ")


@pytest.mark.parametrize("name", ["digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"])
def test_all_cells_keep_the_same_images_apart(name: str) -> None:
    cells = [cell.config for cell in (*result_cells(name), *tuning_cells(name))]
    kept = {(each.dataset.validation, each.dataset.extra_test, each.split_seed) for each in cells}
    assert len(kept) == 1 and len({each.dataset_seed for each in cells}) > 1


@pytest.mark.parametrize("name", ["digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"])
def test_the_arms_of_a_tuned_study_start_from_one_rule(name: str) -> None:
    """In a study of arms with and without a Q network, that network alone may have a rule of its own."""
    rules: dict[bool, set[str]] = {}
    for config in (cell.config for cell in result_cells(name)):
        assert config.model.initialisation.scope in ("none", "q_network")
        rules.setdefault(config.objective.name == "agmax", set()).add(config.model.initialisation.model_dump_json())
    assert all(len(alike) == 1 for alike in rules.values())


# --- cells: seeds, the test images, keys ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_keys_name_one_cell_each(name: str) -> None:
    keys = [cell.key for cell in (*result_cells(name), *tuning_cells(name))]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


@pytest.mark.parametrize("name", SHIPPED)
def test_only_results_read_the_test_images(name: str) -> None:
    assert all(cell.config.evaluation.test for cell in result_cells(name))
    assert not any(cell.config.evaluation.test for cell in tuning_cells(name))
    assert all(cell.config.dataset.validation for cell in tuning_cells(name))


@pytest.mark.parametrize("name", SHIPPED)
def test_seeds_pair_the_arms(name: str) -> None:
    """Replicate k of every arm has one subset, split, model and order; an offset changes all but subset and split."""
    of = shipped(name)
    for cell in (*result_cells(name), *tuning_cells(name)):
        config, offset = cell.config, of.variants[cell.variant].seed_offset
        assert config.train.seed == config.model_seed == cell.seed + offset
        assert config.dataset_seed == cell.seed
        assert config.split_seed == (cell.seed if config.dataset.split_seed is None else config.dataset.split_seed)
    seeds = {arm.name: arm.seeds for arm in of.variants.values()}
    longest = max(seeds.values(), key=len)
    assert all(each == longest[: len(each)] for each in seeds.values())
    assert not set(longest) & set(of.tune_seeds)


def test_arms_with_an_offset_are_there_to_be_tested() -> None:
    for name in ("digits_smoke", "fashion_mnist_agmax"):
        assert any(variant.seed_offset for variant in shipped(name).variants.values())


def test_results_come_replicate_by_replicate_so_that_all_arms_are_equally_far() -> None:
    several = shipped("digits_smoke")._replace(tune_seeds=(50, 51))
    for cells in (result_cells("fashion_mnist_agmax"), plan.tuning(several, Typed())):
        seeds = [cell.seed for cell in cells]
        assert seeds == sorted(seeds) and len(set(seeds)) > 1
        assert len({cell.variant for cell in cells if cell.seed == seeds[0]}) > 1


@pytest.mark.parametrize("name", ["digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"])
def test_a_trial_and_the_result_of_its_settings_differ_in_the_test_images_alone(name: str) -> None:
    of = shipped(name)
    seeds = of.tune_seeds
    everywhere = of._replace(variants={arm: each._replace(seeds=seeds) for arm, each in of.variants.items()})
    for trial in tuning_cells(name):
        chosen = {trial.variant: of.trials[trial.variant][trial.trial or 0]}
        result = cell_of(plan.results(everywhere, Typed(), chosen), trial.variant, trial.seed)
        assert result.key != trial.key
        tested = trial.config.evaluation.model_copy(update={"test": True})
        assert plan.key(trial.config.model_copy(update={"evaluation": tested})) == result.key


IGNORED = {
    "name",
    "dataset.root",
    "dataset.license",
    "dataset.source",
    "dataset.on_bad_image",
    "train.device",
    "train.log_every_steps",
    "train.num_workers",
    "train.runs_dir",
    "train.save_every_steps",
}
"""Settings that say nothing about a result, or only where its data lie."""


def another(key: str, value: Any) -> Any:
    """Return another value of the same type."""
    if choices(key):
        return next(word for word in choices(key) if word != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 1.0]
    if isinstance(value, dict):
        return {"depth": 10}
    if isinstance(value, str) or key.endswith("_file"):
        return f"{value}2"
    return [1.0] if key.endswith(("mean", "std", "milestones")) else 7


def changed(config: Config, key: str, value: Any) -> Config:
    """Return the configuration with one setting replaced, unchecked."""
    section, _, last = key.rpartition(".")
    if not section:
        return config.model_copy(update={last: value})
    inner = value_of(config, section).model_copy(update={last: value})
    return changed(config, section, inner)


@pytest.mark.parametrize("key", sorted(resolve.KEYS))
def test_the_key_changes_with_every_setting_but_those_that_do_not_matter(key: str) -> None:
    config = resolve.resolve("ResNet8-cutmix-agmax", dataset="digits").config
    value = value_of(config, key)
    other = changed(config, key, another(key, value))
    assert value_of(other, key) != value
    assert (plan.key(other) == plan.key(config)) == (key in IGNORED)


DECISIVE: dict[str, list[Any]] = {
    "train.seed": [0, 1, 10],
    "train.epochs": [1, 10, 20],
    "optimizer.lr": [0.1, 1.0, 1],
    "dataset.seed": [None, 0, 1],
    "dataset.train_limit": [None, 100],
    "augment.cutmix.probability": [0.5, 1.0],
    "augment.views": ["independent", "identical"],
    "objective.label_smoothing": [0.0, 0.1],
    "evaluation.test": [True, False],
}
HARMLESS: dict[str, list[Any]] = {
    "train.device": ["auto", "cpu"],
    "train.num_workers": [None, 0, 3],
    "train.runs_dir": ["runs", "elsewhere"],
    "train.save_every_steps": [None, 5],
    "train.log_every_steps": [50, 1],
    "dataset.root": ["data", "/data"],
    "dataset.on_bad_image": ["error", "skip"],
    "name": ["one", "two"],
}


def some_of(pool: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in pool.items()})


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(some_of(DECISIVE), some_of(DECISIVE), some_of(HARMLESS), some_of(HARMLESS), st.randoms())
def test_keys_are_equal_exactly_where_all_that_matters_is(
    one: dict[str, Any], two: dict[str, Any], harmless: dict[str, Any], other: dict[str, Any], random: Any
) -> None:
    configs = []
    for layer in (one | harmless, two | other):
        written = [Setting(key, value, "test") for key, value in {"dataset.validation": 0.1, **layer}.items()]
        random.shuffle(written)
        configs.append(resolve.resolve("ResNet8-cutmix", dataset="digits", settings=written).config)
    first, second = (leaves(config, without=tuple(IGNORED)) for config in configs)
    assert (plan.key(configs[0]) == plan.key(configs[1])) == (first == second)


def test_a_setting_that_a_later_release_adds_leaves_the_keys_as_they_are() -> None:
    class LaterTrain(Train):
        warm_restarts: int = 3

    class LaterConfig(Config):
        train: LaterTrain = LaterTrain()
        distillation: float = 0.5

    for name in ("digits_smoke", "fashion_mnist_agmax"):
        config = result_cells(name)[0].config
        mapping = config.model_dump()
        assert plan.key(LaterConfig.model_validate(mapping)) == plan.key(config)
        assert plan.key(LaterConfig.model_validate(mapping | {"distillation": 0.6})) != plan.key(config)
        used = mapping | {"train": mapping["train"] | {"warm_restarts": 4}}
        assert plan.key(LaterConfig.model_validate(used)) != plan.key(config)


def test_writing_a_default_out_leaves_the_key_as_it_is() -> None:
    plain = resolve.resolve("ResNet8", dataset="digits").config
    written = [("optimizer.momentum", 0.9), ("objective.classification_weight", 1), ("augment.views", "independent")]
    layer = [Setting(key, value, "test") for key, value in written]
    assert plan.key(resolve.resolve("ResNet8", dataset="digits", settings=layer).config) == plan.key(plain)


def test_keys_of_finished_cells_are_found_by_every_later_release() -> None:
    """Committed results are looked up by these digits: the text they are hashed from must never change."""
    data = Dataset(name="digits", num_classes=10, channels=1, train_limit=100, root="elsewhere")
    config = Config(model=Model(backbone="agmax_resnet8"), dataset=data, train=Train(epochs=20))
    text = (
        '{"dataset.channels": 1, "dataset.name": "digits", "dataset.num_classes": 10, "dataset.train_limit": 100, '
        '"model.backbone": "agmax_resnet8", "train.epochs": 20, "train.seed": 0}'
    )
    assert plan.key(config) == hashlib.sha256(text.encode()).hexdigest()[:16]


# --- reading: arms, seeds, layers ----------------------------------------------------------------------------------

SMALL = """\
about: small
base: ResNet8
dataset: digits
settings: {train.epochs: 2, dataset.validation: 0.1}
replicates: 2
variants:
  plain: {}
  agmax: {parts: agmax}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a study file and return its path."""

    def to(text: str) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return to


Write = Callable[[str], Path]


def test_a_study_that_says_little_has_one_replicate_and_the_usual_metrics(write: Write) -> None:
    found = spec.read(write("base: ResNet8\nvariants:\n  plain:\n  cutout: cutout\nsettings:\ntune:\n"))
    assert (found.name, found.about, found.dataset, found.settings) == ("small", "", None, ())
    assert (found.metrics, found.margin, found.budget) == (("error", "nll", "ece"), 0.2, None)
    assert (found.contrasts, found.checks, found.tune_seeds, found.trials) == ((), (), (), {})
    assert found.variants == {
        "plain": Variant("plain", "", (), (), None, (0,), 0, {}),
        "cutout": Variant("cutout", "", ("cutout",), (), None, (0,), 0, {}),
    }
    assert found.results == found.path.parent / "results" / "small.jsonl"


@pytest.mark.parametrize(
    ("replicates", "third", "expected"), [("3", 2, (0, 1)), ("[7, 5, 6]", 2, (7, 5)), ("[4]", 1, (4,))]
)
def test_replicates_are_counted_or_listed_and_an_arm_may_have_fewer(
    write: Write, replicates: str, third: int, expected: tuple[int, ...]
) -> None:
    text = SMALL.replace("replicates: 2", f"replicates: {replicates}") + f"  third: {{replicates: {third}}}\n"
    found = spec.read(write(text))
    assert found.variants["third"].seeds == expected
    cells = plan.results(found, Typed(), {})
    assert {cell.seed for cell in cells if cell.variant == "third"} == set(expected)
    assert {cell.seed for cell in cells} == set(found.variants["plain"].seeds)


def test_an_arm_like_another_takes_its_parts_settings_and_chosen_trial_and_its_own_win(write: Write) -> None:
    text = SMALL + (
        "  tuned: {parts: cutout-agmax, train: {batch_size: 32}, optimizer.momentum: 0.5, optimizer.lr: 0.9}\n"
        "  alike: {like: tuned, parts: mixup, optimizer.momentum: 0.6, objective.agreement_weight: 9.0}\n"
        "tune:\n  replicates: [50]\n  trials:\n    tuned:\n"
        "      - {optimizer.lr: 0.2, objective: {agreement_weight: 3.0, consistency_weight: 5.0}}\n"
        "      - {optimizer.lr: 0.3}\n"
    )
    found = spec.read(write(text))
    cells = plan.results(found, Typed(), {"tuned": found.trials["tuned"][0]})
    tuned, alike = cell_of(cells, "tuned").config, cell_of(cells, "alike").config
    assert (tuned.augment.erase, tuned.augment.mix) == ("cutout", "none")
    assert (alike.augment.erase, alike.augment.mix) == ("cutout", "mixup")
    for key, of_tuned, of_alike in (
        ("train.batch_size", 32, 32),  # the other's own setting
        ("optimizer.lr", 0.2, 0.2),  # chosen: it wins over the other's own
        ("optimizer.momentum", 0.5, 0.6),  # its own wins over the other's
        ("objective.agreement_weight", 3.0, 9.0),  # and over what was chosen
        ("objective.consistency_weight", 5.0, 5.0),
        ("train.epochs", 2, 2),
    ):
        assert (value_of(tuned, key), value_of(alike, key)) == (of_tuned, of_alike), key
    trials = plan.tuning(found, Typed())
    assert [(cell.trial, cell.config.optimizer.lr) for cell in trials] == [(0, 0.2), (1, 0.3)]
    assert trials[1].config.optimizer.momentum == 0.5  # a trial lies on the arm's own settings


def test_what_is_typed_beside_a_study_holds_for_every_cell(write: Write) -> None:
    text = SMALL + "  slow: {optimizer.lr: 0.01}\ntune: {replicates: [50], trials: {slow: [{optimizer.lr: 0.2}, {}]}}\n"
    found = spec.read(write(text))
    typed = Typed("fashion_mnist", ("cutout",), (Setting("optimizer.lr", 0.7, "typed"),))
    for cell in (*plan.results(found, typed, {}), *plan.tuning(found, typed)):
        config = cell.config
        assert (config.dataset.name, config.augment.erase, config.optimizer.lr) == ("fashion_mnist", "cutout", 0.7)
        assert config.train.epochs == 2 and config.train.seed == cell.seed


def test_the_base_may_be_a_file_beside_the_study(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("base: ResNet20-cutout\ntrain: {epochs: 7}\n")
    path = write(SMALL.replace("ResNet8", "mine.yaml").replace("train.epochs: 2, ", ""))
    monkeypatch.chdir("/")
    config = cell_of(plan.results(spec.read(path), Typed(), {}), "agmax").config
    assert (config.model.backbone, config.augment.erase, config.train.epochs) == ("agmax_resnet20", "cutout", 7)
    assert config.objective.name == "agmax"


def test_studies_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_smoke.yaml").write_text(SMALL)
    assert spec.find("digits_smoke") == names.CONFIGS / "study" / "digits_smoke.yaml"
    assert spec.find("digits_smoke.yaml") == Path("digits_smoke.yaml")
    assert spec.find(f"{tmp_path}/digits_smoke.yaml").parent == tmp_path
    for text, answer in (
        ("digit_smoke", "Did you mean 'digits_smoke'?"),
        ("nowhere/x.yaml", "no such study (nowhere/x.yaml). Known: agmax_cifar, "),
        ("x" * 5000, "cannot read the study"),
        ("\0", "no such study"),
    ):
        with pytest.raises(UsageError, match=re.escape(answer)):
            spec.find(text)


# --- mistakes ------------------------------------------------------------------------------------------------------

TUNE = "tune:\n  replicates: [50]\n  trials:\n    agmax: [{optimizer.lr: 0.1}, {optimizer.lr: 0.2}]\n"
THIRD = "  third: "  # the ninth line


def test_arms_may_have_unequal_trials_where_the_file_says_why(write: Callable[[str], Path]) -> None:
    trials = (
        TUNE + "    plain: [{optimizer.lr: 0.1}, {optimizer.lr: 0.2}, {optimizer.lr: 0.3}]\n  unequal: plain has more\n"
    )
    of = spec.read(write(SMALL + trials))
    assert of.unequal_trials == "plain has more"
    assert [len(each) for each in of.trials.values()] == [2, 3]
    said = running.analysed(of, running.phase_of(of, Typed()), {}, Typed())
    assert "arms have unequal numbers of trials: plain has more" in said.notes


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "an unknown key": (SMALL + "metric: [error]\n", ["unknown key metric (small.yaml:9). Did you mean 'metrics'?"]),
    "an unknown key of a contrast": (
        SMALL + "contrasts:\n  - {of: agmax, against: [plain], agianst: [plain]}\n",
        ["unknown key agianst in entry 1 of contrasts (small.yaml:9). Did you mean 'against'?"],
    ),
    "an unknown key of a check": (
        SMALL + "checks:\n  - {of: agmax, against: plain, expect: no gain, expects: no}\n",
        ["unknown key expects in entry 1 of checks (small.yaml:9). Did you mean 'expect'?"],
    ),
    "an unknown key of the tuning": (
        SMALL + TUNE + "  trial: 3\n",
        ["unknown key tune.trial (small.yaml:13). Did you mean 'trials'?"],
    ),
    "an unknown setting of an arm": (
        SMALL + THIRD + "{optimzer.lr: 0.1}\n",
        ["unknown key optimzer.lr (small.yaml:9). Did you mean 'optimizer.lr'?"],
    ),
    "an unknown setting of the study": (
        SMALL.replace("train.epochs", "train.epoch"),
        ["unknown key train.epoch (small.yaml:4). Did you mean 'train.epochs'?"],
    ),
    "an unknown setting of a trial": (
        SMALL + TUNE.replace("optimizer.lr: 0.2", "optimizer.rl: 0.2"),
        ["unknown key optimizer.rl (small.yaml:12). Did you mean 'optimizer.lr'?"],
    ),
    "a wrong value of an arm": (
        SMALL + THIRD + "\n    optimizer:\n      lr: fast\n",
        ["wrong value optimizer.lr='fast' (small.yaml:11): it must be a valid number"],
    ),
    "settings of an arm that do not fit": (
        SMALL + THIRD + "{parts: agmax, objective.num_views: 1}\n",
        [
            "settings do not fit: objective.num_views (small.yaml:9): agmax needs at least 2 views. "
            "Write objective.num_views=2"
        ],
    ),
    "an unknown part": (
        SMALL + THIRD + "{parts: mixup-cutot}\n",
        ["unknown part cutot (small.yaml:9). Did you mean 'cutout'?"],
    ),
    "an unknown part on a line of its own": (
        SMALL + THIRD + "\n    about: it\n    parts: agmx\n",
        ["unknown part agmx (small.yaml:11). Did you mean 'agmax'?"],
    ),
    "a model as part": (
        SMALL + THIRD + "ResNet20\n",
        ["unknown part ResNet20 (small.yaml:9). The model is the study's base"],
    ),
    "parts that clash": (
        SMALL + THIRD + "cutmix-mixup\n",
        ["variant third (small.yaml:9): 'cutmix' and 'mixup' both set augment.mix; keep one (ResNet8-cutmix-mixup)"],
    ),
    "an unknown base": (
        SMALL.replace("ResNet8", "ResNt8"),
        ["wrong base (small.yaml:2): unknown part 'ResNt8' (ResNt8). Did you mean 'ResNet8'?"],
    ),
    "an unknown data set": (
        SMALL.replace("digits", "digit"),
        ["unknown data set digit (small.yaml:3). Did you mean 'digits'?"],
    ),
    "unknown arms of a contrast": (
        SMALL + "contrasts:\n  - {of: agmx, against: [plan]}\n",
        [
            "unknown variant agmx (small.yaml:9). Did you mean 'agmax'?",
            "unknown variant plan (small.yaml:9). Did you mean 'plain'?",
        ],
    ),
    "an unknown arm of a check": (
        SMALL + "checks:\n  - {of: agmax, against: plane, expect: no gain}\n",
        ["unknown variant plane (small.yaml:9). Did you mean 'plain'?"],
    ),
    "an unknown arm to be like": (
        SMALL + THIRD + "\n    like: agmx\n",
        ["unknown variant agmx (small.yaml:10). Did you mean 'agmax'?"],
    ),
    "an unknown arm to tune": (
        SMALL + TUNE.replace("agmax:", "agmx:"),
        ["unknown variant agmx (small.yaml:12). Did you mean 'agmax'?"],
    ),
    "an arm like itself": (
        SMALL + THIRD + "{like: third}\n",
        [
            "variant third cannot be like third (small.yaml:9): "
            "an arm like another has no trials of its own, and that other stands by itself"
        ],
    ),
    "an arm like one that is like another": (
        SMALL + THIRD + "{like: agmax}\n  fourth: {like: third}\n",
        [
            "variant fourth cannot be like third (small.yaml:10): "
            "an arm like another has no trials of its own, and that other stands by itself"
        ],
    ),
    "trials of an arm like another": (
        SMALL + THIRD + "{like: plain}\n" + TUNE.replace("agmax:", "third:"),
        [
            "variant third cannot be like plain (small.yaml:9): "
            "an arm like another has no trials of its own, and that other stands by itself"
        ],
    ),
    "an arm compared with itself": (
        SMALL + "contrasts:\n  - {of: agmax, against: [agmax]}\n",
        ["agmax is compared with itself (small.yaml:9)"],
    ),
    "a contrast with nothing": (
        SMALL + "contrasts:\n  - {of: agmax, against: []}\n",
        ["wrong value against=[] in entry 1 of contrasts (small.yaml:9): it must hold 1 or more"],
    ),
    "an expectation that is none": (
        SMALL + "checks:\n  - {of: agmax, against: plain, expect: gain}\n",
        [
            "wrong value expect='gain' in entry 1 of checks (small.yaml:9): "
            "it must be 'no difference', 'a difference' or 'no gain'. Did you mean 'no gain'?"
        ],
    ),
    "unequal numbers of trials": (
        SMALL + TUNE + "    plain: [{}, {}, {}]\n",
        [
            "arms with more trials than others (small.yaml:11): a fair tuning gives all equally many: agmax 2, "
            "plain 3. Or say in tune.unequal why they are not"
        ],
    ),
    "a single trial": (
        SMALL + TUNE.replace(", {optimizer.lr: 0.2}", ""),
        ["wrong value tune.trials.agmax=[{'optimizer.lr': 0.1}] (small.yaml:12): it must hold 2 or more"],
    ),
    "a trial that is no section": (
        SMALL + TUNE.replace("{optimizer.lr: 0.2}", "0.2"),
        ["wrong value 0.2 in entry 2 of tune.trials.agmax (small.yaml:12): it must be a section, `key: value`"],
    ),
    "a tuning of nothing": (
        SMALL + "tune: {replicates: [50], trials: {}}\n",
        ["wrong value tune.trials={} (small.yaml:9): it must hold 1 or more"],
    ),
    "a tuning without seeds": (
        SMALL + TUNE.replace("  replicates: [50]\n", ""),
        ["tune.replicates is missing (small.yaml:9). See configs/study for examples"],
    ),
    "seeds shared by tuning and results": (
        SMALL + TUNE.replace("[50]", "[50, 1, 0]"),
        ["seeds [0, 1] are replicates of the study too (small.yaml:10): they would be chosen on"],
    ),
    "a seed twice": (
        SMALL.replace("replicates: 2", "replicates: [4, 4]") + TUNE.replace("[50]", "[50, 50]"),
        ["a seed stands twice (small.yaml:5)", "a seed stands twice (small.yaml:10)"],
    ),
    "more replicates of an arm than there are": (
        SMALL + THIRD + "{replicates: 9}\n",
        ["variant third has more replicates than the study (small.yaml:9): 9, of 2"],
    ),
    "the best of several without trials": (
        SMALL + THIRD + "cutout\n" + TUNE + "contrasts:\n  - {of: agmax, against: [plain, third]}\n",
        [
            "no trials of plain, third (small.yaml:14): the best of several is chosen on the validation of the tuning. "
            "Name one arm, or give them trials"
        ],
    ),
    "replicates that are no number": (
        SMALL.replace("replicates: 2", "replicates: many"),
        ["wrong value replicates='many' (small.yaml:5): it must be how many there are, or a list of their seeds"],
    ),
    "true for one replicate": (
        SMALL.replace("replicates: 2", "replicates: true"),
        ["wrong value replicates=True (small.yaml:5): it must be how many there are, or a list of their seeds"],
    ),
    "no replicates": (
        SMALL.replace("replicates: 2", "replicates: 0"),
        ["wrong value replicates=0 (small.yaml:5): it must be how many there are, or a list of their seeds"],
    ),
    "a negative seed": (
        SMALL.replace("replicates: 2", "replicates: [3, -1]"),
        ["wrong value -1 in entry 2 of replicates (small.yaml:5): it must be greater than or equal to 0"],
    ),
    "a setting that the study makes": (
        SMALL.replace("{train.epochs: 2,", "{train.seed: 2, name: mine,") + THIRD + "{evaluation.test: false}\n",
        [
            "train.seed is the study's to set (small.yaml:4). Write replicates: [5, 6, 7] in the study",
            "name is the study's to set (small.yaml:4). Leave it out",
            "evaluation.test is the study's to set (small.yaml:9). Leave it out",
        ],
    ),
    "an unknown metric": (
        SMALL + "metrics: [error, top_1]\n",
        [
            "wrong value 'top_1' in entry 2 of metrics (small.yaml:9): "
            "it must be 'error', 'top1', 'top5', 'nll' or 'ece'. Did you mean 'top1'?"
        ],
    ),
    "a published number of no metric": (
        SMALL + THIRD + "{paper: {accuracy: 76.4}}\n",
        ["wrong name variants.third.paper.accuracy (small.yaml:9): it must be 'error', 'top1', 'top5', 'nll' or 'ece'"],
    ),
    "a published number that is none": (
        SMALL + THIRD + "{paper: {top1: high}}\n",
        ["wrong value variants.third.paper.top1='high' (small.yaml:9): it must be a number"],
    ),
    "a margin below zero": (
        SMALL + "margin: -0.1\n",
        ["wrong value margin=-0.1 (small.yaml:9): it must be greater than 0"],
    ),
    "an arm that is a list": (
        SMALL + THIRD + "[cutout]\n",
        ["wrong value variants.third=['cutout'] (small.yaml:9): it must be parts of a name, or a section of settings"],
    ),
    "an arm that is a number": (
        SMALL + THIRD + "3\n",
        ["wrong value variants.third=3 (small.yaml:9): it must be parts of a name, or a section of settings"],
    ),
    "an arm whose name is no word": (
        SMALL + "  'a+b': cutout\n",
        ["wrong name variants.a+b (small.yaml:9): letters, digits and _ . - make a name"],
    ),
    "no arms": ("base: ResNet8\nvariants: {}\n", ["wrong value variants={} (small.yaml:2): it must hold 1 or more"]),
    "nothing behind variants": (
        "base: ResNet8\nvariants:\n",
        ["variants is missing (small.yaml:2). See configs/study for examples"],
    ),
    "a list of arms": (
        "base: ResNet8\nvariants: [a]\n",
        ["wrong value variants=['a'] (small.yaml:2): it must be a section, `key: value`"],
    ),
    "an empty file": (
        "",
        [
            "base is missing (small.yaml). See configs/study for examples",
            "variants is missing (small.yaml). See configs/study for examples",
        ],
    ),
    "no YAML": (
        SMALL + THIRD + "{parts: [}\n",
        ["not valid YAML (small.yaml:9): expected the node content, but found '}'"],
    ),
    "a list": ("- a\n", ["configuration is no mapping (small.yaml). Write lines of the form `section:`"]),
    "a key twice": (SMALL + "about: again\n", ["key about stands twice (small.yaml:9): first on line 1"]),
    "several of one kind, wrong words": (
        SMALL + "  third: {replicates: x}\n  fourth: {like: 3}\nmargin: -1\nmetric: 3\n",
        [
            "wrong value variants.third.replicates='x' (small.yaml:9): it must be a whole number",
            "wrong value variants.fourth.like=3 (small.yaml:10): it must be text",
            "wrong value margin=-1 (small.yaml:11): it must be greater than 0",
            "unknown key metric (small.yaml:12). Did you mean 'metrics'?",
        ],
    ),
    "wrong values of arms, trials and what they are like": (
        SMALL.replace("train.epochs: 2", "train.epochs: 0")
        + "  third: {parts: cutout, optimizer.lr: -1}\n  fourth: {like: agmax, objective.num_views: 1}\n"
        + TUNE.replace("optimizer.lr: 0.2", "optimizer.lr: soon"),
        [
            "wrong value train.epochs=0 (small.yaml:4): it must be greater than or equal to 1",
            "wrong value optimizer.lr='soon' (small.yaml:14): it must be a valid number",
            "wrong value optimizer.lr=-1 (small.yaml:9): it must be greater than 0",
        ],
    ),
    "an arm that does not fit what it is like": (
        SMALL + "  third: {like: agmax, objective.num_views: 1}\n",
        [
            "settings do not fit: objective.num_views (small.yaml:9): agmax needs at least 2 views. "
            "Write objective.num_views=2"
        ],
    ),
    "several of one kind, wrong arms": (
        SMALL
        + "  third: {like: agmx, optimzer.lr: 1}\n  fourth: cutot\ncontrasts:\n  - {of: agmx, against: [plain]}\n",
        [
            "unknown variant agmx (small.yaml:9). Did you mean 'agmax'?",
            "unknown variant agmx (small.yaml:11). Did you mean 'agmax'?",
            "unknown key optimzer.lr (small.yaml:9). Did you mean 'optimizer.lr'?",
            "unknown part cutot (small.yaml:10). Did you mean 'cutout'?",
        ],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_study_file_ends_with_2_and_names_its_line(run: Run, write: Write, mistake: str) -> None:
    text, expected = MISTAKES[mistake]
    write(text)
    answer = run("--study", "small.yaml", "--dry-run")
    assert answer.status == 2
    assert answer.err.splitlines() == [f"error: {line}" for line in expected]
    assert answer.out == ""
    with pytest.raises(UsageError):  # no arm has to come to its training
        spec.read(Path("small.yaml"))


def test_the_file_that_the_mistakes_are_made_in_has_none(write: Write) -> None:
    for more in ("", TUNE, "contrasts:\n  - {of: agmax, against: [plain]}\n"):
        spec.read(write(SMALL + more))


def test_a_file_whose_name_could_name_no_run_folder_is_refused(tmp_path: Path) -> None:
    for name in ("my study", "ünï", "a" * 101):
        path = tmp_path / f"{name}.yaml"
        path.write_text(SMALL)
        with pytest.raises(UsageError, match="not a name for a study"):
            spec.read(path)


@settings(
    deadline=None,
    max_examples=150,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-3, 3)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["agmax", "plain", "x", "top1", "ResNet8"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["plain", "of", "against", "like", "parts", "trials", "replicates", "optimizer.lr"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["base", "dataset", "settings", "variants", "replicates", "contrasts", "checks", "tune", "about"]),
)
def test_whatever_stands_behind_a_key_is_read_or_refused_in_lines(tmp_path: Path, value: Any, key: str) -> None:
    lines = {"base": "ResNet8", "variants": "{plain: {}, agmax: agmax}"} | {key: reader.format_value(value)}
    path = tmp_path / "small.yaml"
    path.write_text("".join(f"{word}: {text}\n" for word, text in lines.items()))
    try:
        found = spec.read(path)
    except UsageError as error:
        assert all(str(path) in line for line in error.lines)
    else:
        assert plan.results(found, Typed(), {})
