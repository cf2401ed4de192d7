"""Runs of studies: seeds, the test images, and a key that stands for a result."""

import hashlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agmax.config import resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config, DatasetConfig, ModelConfig, TrainConfig, choices
from agmax.studies import plan
from agmax.studies.plan import TypedSettings
from helpers.configurations import value_of
from helpers.study_runs import SHIPPED, leaves, planned_of, runs_of_results, runs_of_tuning, shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_keys_name_one_run_each(name: str) -> None:
    keys = [planned.key for planned in (*runs_of_results(name), *runs_of_tuning(name))]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


@pytest.mark.parametrize("name", SHIPPED)
def test_only_results_read_the_test_images(name: str) -> None:
    assert all(planned.config.evaluation.test for planned in runs_of_results(name))
    assert not any(planned.config.evaluation.test for planned in runs_of_tuning(name))
    assert all(planned.config.dataset.validation for planned in runs_of_tuning(name))


@pytest.mark.parametrize("name", SHIPPED)
def test_seeds_pair_the_variants(name: str) -> None:
    """Seed k of every variant has one subset, split, model and order; an offset changes all but subset and split."""
    of = shipped(name)
    for planned in (*runs_of_results(name), *runs_of_tuning(name)):
        config, offset = planned.config, of.variants[planned.variant].seed_offset
        assert config.train.seed == config.model_seed == planned.seed + offset
        assert config.dataset_seed == planned.seed
        assert config.split_seed == (planned.seed if config.dataset.split_seed is None else config.dataset.split_seed)
    seeds = {variant.name: variant.seeds for variant in of.variants.values()}
    longest = max(seeds.values(), key=len)
    assert all(each == longest[: len(each)] for each in seeds.values())
    assert not set(longest) & set(of.tune_seeds)


def test_variants_with_an_offset_exist_to_be_tested() -> None:
    for name in ("digits_smoke", "fashion_mnist_agmax"):
        assert any(variant.seed_offset for variant in shipped(name).variants.values())


def test_results_are_ordered_by_seed_so_that_all_variants_progress_equally() -> None:
    several = shipped("digits_smoke")._replace(tune_seeds=(50, 51))
    for planned_runs in (runs_of_results("fashion_mnist_agmax"), plan.tuning_runs(several, TypedSettings())):
        seeds = [planned.seed for planned in planned_runs]
        assert seeds == sorted(seeds) and len(set(seeds)) > 1
        assert len({planned.variant for planned in planned_runs if planned.seed == seeds[0]}) > 1


@pytest.mark.parametrize("name", ["digits_smoke", "fashion_mnist_agmax", "fashion_mnist_soft"])
def test_a_trial_and_the_result_of_its_settings_differ_only_in_the_test_images(name: str) -> None:
    of = shipped(name)
    seeds = of.tune_seeds
    everywhere = of._replace(variants={variant: each._replace(seeds=seeds) for variant, each in of.variants.items()})
    for trial in runs_of_tuning(name):
        chosen = {trial.variant: of.trials[trial.variant][trial.trial or 0]}
        result = planned_of(plan.result_runs(everywhere, TypedSettings(), chosen), trial.variant, trial.seed)
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
    "train.fallback_dir",
    "train.keep_every_epochs",
    "train.log_every_steps",
    "train.num_workers",
    "train.runs_dir",
    "train.save_every_minutes",
    "train.save_every_steps",
    "train.time_limit",
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
    if isinstance(value, str) or key.endswith(("_file", "_dir")):
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
    "augment.cutmix.p": [0.5, 1.0],
    "augment.views": ["independent", "identical"],
    "objective.label_smoothing": [0.0, 0.1],
    "evaluation.test": [True, False],
}
HARMLESS: dict[str, list[Any]] = {
    "train.device": ["auto", "cpu"],
    "train.num_workers": [None, 0, 3],
    "train.runs_dir": ["runs", "elsewhere"],
    "train.save_every_steps": [None, 5],
    "train.time_limit": [None, 60.0],
    "train.fallback_dir": [None, "elsewhere"],
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
    class LaterTrain(TrainConfig):
        warm_restarts: int = 3

    class LaterConfig(Config):
        train: LaterTrain = LaterTrain()
        distillation: float = 0.5

    for name in ("digits_smoke", "fashion_mnist_agmax"):
        config = runs_of_results(name)[0].config
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


def test_keys_of_finished_runs_are_found_by_every_later_release() -> None:
    """Committed results are looked up by these digits: the text they are hashed from must never change."""
    data = DatasetConfig(name="digits", num_classes=10, channels=1, train_limit=100, root="elsewhere")
    config = Config(model=ModelConfig(backbone="agmax_resnet8"), dataset=data, train=TrainConfig(epochs=20))
    text = (
        '{"dataset.channels": 1, "dataset.name": "digits", "dataset.num_classes": 10, "dataset.train_limit": 100, '
        '"model.backbone": "agmax_resnet8", "train.epochs": 20, "train.seed": 0}'
    )
    assert plan.key(config) == hashlib.sha256(text.encode()).hexdigest()[:16]
