"""The shipped studies say what they claim: cells, budgets, published numbers."""

import re

import pytest
import yaml

from agmax.config import resolve
from agmax.config.schema import Config
from agmax.studies import plan, spec, tuning
from agmax.studies.plan import Typed
from helpers.configurations import value_of
from helpers.study_cells import SHIPPED, cell_of, first_trials, leaves, result_cells, shipped, tuning_cells

DATASETS = {"agmax_imagenet_resnet50": "imagenet", "agmax_cifar": "cifar10", "soft_augmentation_cifar100": "cifar100"}
AUGMENTS = [
    policy + mix
    for policy in ("", "auto_augment-")
    for mix in ("standard", "cutout", "mixup", "cutmix")
    if policy + mix != "auto_augment-standard"
] + ["auto_augment"]


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
