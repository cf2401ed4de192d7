"""The shipped studies say what they claim: runs, budgets, published numbers."""

import re

import pytest
import yaml

from agmax.config import resolve
from agmax.config.schema import Config
from agmax.studies import plan, spec, tuning
from agmax.studies.plan import TypedSettings
from helpers.configurations import value_of
from helpers.study_runs import (
    SHIPPED,
    first_trials,
    leaves,
    planned_of,
    runs_of_results,
    runs_of_tuning,
    shipped,
)

DATASETS = {"agmax_imagenet_resnet50": "imagenet", "agmax_cifar": "cifar10", "soft_augmentation_cifar100": "cifar100"}
AUGMENTS = [
    policy + mix
    for policy in ("", "auto_augment-")
    for mix in ("standard", "cutout", "mixup", "cutmix")
    if policy + mix != "auto_augment-standard"
] + ["auto_augment"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_run_of_a_shipped_study_is_a_valid_configuration(name: str) -> None:
    of, raw = shipped(name), yaml.safe_load(spec.find_study(name).read_text())
    assert len(runs_of_results(name)) == sum(
        (variant or {}).get("seeds", raw["seeds"]) for variant in raw["variants"].values()
    )
    tune = raw.get("tune", {"seeds": [], "trials": {}})
    assert len(runs_of_tuning(name)) == len(tune["seeds"]) * sum(map(len, tune["trials"].values()))
    assert {planned.variant for planned in runs_of_results(name)} == set(of.variants)
    for planned in (*runs_of_results(name), *runs_of_tuning(name)):
        trial = "" if planned.trial is None else f"-trial{planned.trial}"
        assert planned.config.name == f"{name}-{planned.variant}{trial}"
        assert planned.config.dataset.name == of.dataset


def test_the_published_studies_have_the_runs_of_their_tables() -> None:
    assert set(SHIPPED) == {*DATASETS, "digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"}
    assert len(AUGMENTS) == len(set(AUGMENTS)) == 8
    assert [len(runs_of_results(name)) for name in DATASETS] == [8 * 3, 8 * 2, 4]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_runs_of_a_variant_have_the_settings_that_its_lines_say(name: str) -> None:
    of, chosen = shipped(name), first_trials(shipped(name))
    for planned in runs_of_results(name):
        variant = of.variants[planned.variant]
        like = of.variants.get(variant.like or "")
        layers = [*of.settings, *(like.settings if like else ()), *chosen.get(variant.like, ()), *variant.settings]
        said = {setting.key: setting.value for setting in (*layers, *chosen.get(variant.name, ()))}
        assert {key: value_of(planned.config, key) for key in said} == said
        parts = [*(like.parts if like else ()), *variant.parts]
        alone = resolve.resolve("-".join([of.base, *parts]), dataset=of.dataset).config
        others = (*said, "name", "train.seed", "dataset.seed")
        assert leaves(planned.config, without=others) == leaves(alone, without=others)


def samples_seen(config: Config, num_images: int | None = None) -> float:
    """Return the samples seen in a training: images, times views, times epochs."""
    return config.train.epochs * (config.dataset.train_limit or num_images or 0) * config.objective.num_views


@pytest.mark.parametrize("name", [name for name in SHIPPED if shipped(name).budget])
def test_variants_that_are_compared_spend_the_budget_and_others_say_that_they_do_not(name: str) -> None:
    """The exceptions stand in no contrast, and their `about` speaks of compute or of the number of images."""
    of = shipped(name)
    compared = {variant for contrast in of.contrasts for variant in (contrast.of, *contrast.against)}
    assert compared
    exceptions = {
        planned.variant
        for planned in runs_of_results(name)
        if abs(samples_seen(planned.config) / (of.budget or 0) - 1) > 0.01
    }
    assert not exceptions & compared
    for variant in exceptions:
        assert re.search("compute|training images", of.variants[variant].about), variant
    for planned in runs_of_tuning(name):
        assert samples_seen(planned.config) == pytest.approx(of.budget, rel=0.01)


def test_the_exceptions_of_fashion_mnist_are_the_two_that_its_plan_names() -> None:
    passes = {planned.variant: samples_seen(planned.config) for planned in runs_of_results("fashion_mnist_agmax")}
    assert {variant: number for variant, number in passes.items() if number != 400_000} == {
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
    for planned in runs_of_results(name):
        views = 2 if planned.variant.endswith("agmax") else 1
        assert samples_seen(planned.config, num_images) == epochs * num_images * views
        assert planned.config.dataset.train_limit is None and not planned.config.dataset.validation


@pytest.mark.parametrize(
    ("name", "model", "methods"),
    [
        ("agmax_imagenet_resnet50", "ResNet50", ["", "label_smoothing", "agmax"]),
        ("agmax_cifar", "WideResNet40-2", ["", "agmax"]),
    ],
)
def test_the_runs_of_the_published_tables_are_the_published_configurations(
    name: str, model: str, methods: list[str]
) -> None:
    expected = {}
    for augment in AUGMENTS:
        for method in methods:
            words = "-".join(word for word in (augment, method) if word)
            expected[words.replace("-", "_")] = resolve.resolve(f"{model}-{words}", dataset=DATASETS[name]).config
    found = {planned.variant: planned.config for planned in runs_of_results(name)}
    assert found.keys() == expected.keys()
    for variant, config in expected.items():
        assert leaves(found[variant], without=("name",)) == leaves(config, without=("name",)), variant


@pytest.mark.parametrize(
    ("dataset", "typed", "model"),
    [
        ("cifar100", (), "WideResNet40-2"),
        (None, ("model.arguments.depth=28", "model.arguments.width=10"), "WideResNet28-10"),
    ],
)
def test_the_other_tables_of_cifar_are_overrides_of_the_study(
    dataset: str | None, typed: tuple[str, ...], model: str
) -> None:
    text = spec.find_study("agmax_cifar").read_text()
    assert all(word in text for word in (f"--dataset {dataset}" if dataset else "--study agmax_cifar", *typed))
    planned_runs = runs_of_results("agmax_cifar", dataset=dataset, typed=typed)
    config = planned_of(planned_runs, "auto_augment_cutmix_agmax").config
    published = resolve.resolve(f"{model}-auto_augment-cutmix-agmax", dataset=dataset or "cifar10").config
    assert leaves(config, without=("name",)) == leaves(published, without=("name",))
    own = {planned.key for planned in runs_of_results("agmax_cifar")}
    assert not own & {planned.key for planned in planned_runs}


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
    assert {name: variant.paper["top1"] for name, variant in variants.items()} == imagenet
    top5 = {"standard": 93.2, "standard_agmax": 93.5, "mixup_agmax": 93.9, "auto_augment_cutmix": 92.7}
    assert {variant: variants[variant].paper["top5"] for variant in top5} == top5
    assert all(("top5" in variant.paper) != name.endswith("label_smoothing") for name, variant in variants.items())
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
    assert {variant: shipped("agmax_cifar").variants[variant].paper for variant in cifar} == {
        variant: {"top1": number} for variant, number in cifar.items()
    }
    soft = {name: variant.paper for name, variant in shipped("soft_augmentation_cifar100").variants.items()}
    assert soft == {
        "standard_crop": {"error": 20.80},
        "far_crop": {"error": 22.99},
        "wide_crop": {},
        "soft_crop": {"error": 18.31},
    }
    for name in ("digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"):
        assert not any(variant.paper for variant in shipped(name).variants.values())


def test_the_crops_of_soft_augmentation_reach_as_far_as_its_figure_says() -> None:
    config = {planned.variant: planned.config for planned in runs_of_results("soft_augmentation_cifar100")}
    assert [config[variant].augment.crop for variant in config] == ["standard", "standard", "wide", "soft"]
    assert [config[variant].augment.standard.padding for variant in ("standard_crop", "far_crop")] == [4, 16]
    for key in ("sigma", "background"):  # the control has exactly the crops of the method
        assert getattr(config["wide_crop"].augment.soft, key) == getattr(config["soft_crop"].augment.soft, key)
    assert {variant: each.num_weak_epochs for variant, each in config.items()} == {
        "standard_crop": 0,
        "far_crop": 0,
        "wide_crop": 20,
        "soft_crop": 20,
    }
    assert config["soft_crop"].augment.soft.sigma * 32 == 12
    assert all(one.augment.flip for one in config.values())


def test_the_study_of_soft_augmentation_is_as_it_was_fixed() -> None:
    """Variants of equal compute, the last epoch final in all, at most six trials a variant, AgMax as chosen before."""
    of = shipped("fashion_mnist_soft")
    variants = {planned.variant: planned.config for planned in runs_of_results("fashion_mnist_soft")}
    assert {variant: (each.augment.crop, each.augment.softening.applies_to, each.augment.softening.confidence_source)
            for variant, each in variants.items()} == {
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
    choices = tuning.read_choices(tuning.plan_tuning(before, TypedSettings()))
    chosen_before = plan.result_runs(before, TypedSettings(), tuning.chosen_settings(choices))
    for variant, config in variants.items():
        has_agmax = config.objective.name == "agmax"
        assert has_agmax == (variant in ("agmax", "agmax_soft_crop"))
        compute = (config.train.epochs, config.num_weak_epochs, config.objective.num_views)
        assert compute == ((20, 1, 2) if has_agmax else (40, 1, 1)), variant
        like = planned_of(chosen_before, "agmax" if has_agmax else "baseline_longer", 0).config
        assert (config.optimizer, config.dataset, config.schedule) == (like.optimizer, like.dataset, like.schedule), (
            variant
        )
        if has_agmax:
            objective = {"subtract_entropy": variant == "agmax_soft_crop"}
            assert config.objective == like.objective.model_copy(update=objective)
    assert [(pair.of, pair.against) for pair in of.contrasts] == [
        ("target_and_weight", ["wide_crop"]),
        ("target_and_weight", ["shuffled_confidence"]),
        ("agmax_soft_crop", ["target_and_weight"]),
        ("agmax_soft_crop", ["agmax"]),
    ]
    assert {variant: len(trials) for variant, trials in of.trials.items()} == {
        "wide_crop": 4,
        "target_and_weight": 6,
        "target": 6,
        "weight": 6,
    }
    chosen = {setting.value for trials in of.trials.values() for trial in trials for setting in trial}
    assert chosen == {0.07, 0.14, 0.21, 0.375, 2.0, 4.0}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_lines_above_a_shipped_study_name_the_command_that_runs_it(name: str) -> None:
    text = spec.find_study(name).read_text()
    assert f"# python3 main.py --study {name}" in text
    assert text.startswith("about: ")


@pytest.mark.parametrize("name", ["digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"])
def test_all_runs_hold_out_the_same_images(name: str) -> None:
    planned_runs = [planned.config for planned in (*runs_of_results(name), *runs_of_tuning(name))]
    kept = {(each.dataset.validation, each.dataset.extra_test, each.split_seed) for each in planned_runs}
    assert len(kept) == 1 and len({each.dataset_seed for each in planned_runs}) > 1


@pytest.mark.parametrize("name", ["digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"])
def test_the_variants_of_a_tuned_study_start_from_one_rule(name: str) -> None:
    """In a study of variants with and without a Q network, that network alone may have a rule of its own."""
    rules: dict[bool, set[str]] = {}
    for config in (planned.config for planned in runs_of_results(name)):
        assert config.model.initialization.scope in ("none", "q_network")
        rules.setdefault(config.objective.name == "agmax", set()).add(config.model.initialization.model_dump_json())
    assert all(len(alike) == 1 for alike in rules.values())
