"""Objectives: terms times their weights, the settings that choose them, and weights of 0."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import agmax
from agmax import builders
from agmax.checkpoints.read import load
from agmax.config import names
from agmax.config.resolve import Setting, resolve
from agmax.core.batch import Batch, Outputs
from agmax.core.errors import UsageError
from agmax.losses import OBJECTIVES, AgMaxLoss, objective, soft_cross_entropy
from helpers.command import Answer
from helpers.objectives import NUM_CLASSES, NUM_IMAGES, TERMS, random_outputs, some

Run = Callable[..., Answer]


def config_of(name: str, **settings: Any) -> Any:
    typed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve(name, dataset="digits", settings=typed).config


# --- objectives ----------------------------------------------------------------------------------------------------


def batch_of(outputs: Outputs) -> Batch:
    targets = torch.full_like(outputs.logits, 1 / NUM_CLASSES)
    return Batch(torch.empty(0), targets, torch.ones(targets.shape[:2], dtype=torch.float64))


@pytest.mark.parametrize("name", TERMS)
def test_an_objective_adds_its_term_times_its_weight(name: str) -> None:
    outputs = random_outputs()
    losses = objective(name, {"classification": 0.5, "agreement": 12.0})(outputs, batch_of(outputs))
    alone = objective("classification", {"classification": 1.0})(outputs, batch_of(outputs))
    assert losses.terms.keys() == {"classification", "agreement"}
    assert losses.terms["agreement"].item() == pytest.approx(12 * TERMS[name](outputs).item())
    assert losses.terms["classification"].item() == pytest.approx(alone.terms["classification"].item() / 2)
    assert losses.total.item() == pytest.approx(sum(value.item() for value in losses.terms.values()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_without_weights_has_the_published_ones(name: str) -> None:
    outputs, row = random_outputs(), OBJECTIVES[name]
    losses = objective(name)(outputs, batch_of(outputs))
    assert losses.terms.keys() == {"classification", *row.terms}
    plain = objective(name, dict.fromkeys(("classification", *row.terms), 1.0))(outputs, batch_of(outputs))
    for term, value in losses.terms.items():
        weight = row.terms[term].weight if term in row.terms else 1.0
        assert value.item() == pytest.approx(weight * plain.terms[term].item(), rel=1e-12)


def test_a_weight_of_an_unknown_term_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown weight \(agreemnt\): js has no such term. Known: classification"):
        objective("js", {"agreemnt": 1.0})


def test_agmax_loss_is_the_objective_agmax_bit_for_bit() -> None:
    found = []
    for is_class in (True, False):
        outputs = random_outputs()
        batch = batch_of(outputs)
        if is_class:
            losses = AgMaxLoss()(outputs.logits, some(outputs.joint_logits), batch.targets)
        else:
            losses = objective("agmax")(outputs, batch)
        found.append((losses, torch.autograd.grad(losses.total, [outputs.logits, some(outputs.joint_logits)])))
    (ours, gradients_of_ours), (theirs, gradients_of_theirs) = found
    assert ours.terms.keys() == theirs.terms.keys() == {"classification", "agreement", "consistency"}
    assert ours.total == theirs.total and all(ours.terms[name] == value for name, value in theirs.terms.items())
    assert all(torch.equal(*pair) for pair in zip(gradients_of_ours, gradients_of_theirs, strict=True))


def test_agmax_loss_weights_its_terms_and_its_views() -> None:
    """One image of six has weight 1, the others 0: classification is a sixth of that image's."""
    outputs = random_outputs()
    targets = batch_of(outputs).targets
    weights = torch.zeros(NUM_IMAGES, 2, dtype=torch.float64)
    weights[2] = 1
    losses = AgMaxLoss(2.0, 8.0)(outputs.logits, some(outputs.joint_logits), targets, weights=weights)
    published = AgMaxLoss()(outputs.logits, some(outputs.joint_logits), targets)
    assert losses.terms["agreement"] == 2 * published.terms["agreement"]
    assert losses.terms["consistency"] == 2 * published.terms["consistency"]
    alone = soft_cross_entropy(outputs.logits[2:3], targets[2:3])
    assert losses.terms["classification"].item() == pytest.approx(alone.item() / NUM_IMAGES, rel=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_table_lists_the_outputs_that_an_objective_needs(name: str) -> None:
    outputs = random_outputs()
    losses_of = objective(name)
    for lacking in ("joint_logits", "features"):
        poorer = outputs._replace(**{lacking: None})  # type: ignore[arg-type]
        if lacking in OBJECTIVES[name].needs:
            with pytest.raises(AssertionError, match=f"the objective {name} needs {lacking}"):
                losses_of(poorer, batch_of(outputs))
        else:
            assert losses_of(poorer, batch_of(outputs))
    assert OBJECTIVES[name].needs == {"agmax": {"joint_logits"}, "tied_features": {"features"}}.get(name, set())


@pytest.mark.parametrize("term", ["agreement", "consistency"])
def test_a_weight_of_0_gives_the_gradients_of_a_loss_without_the_term(term: str) -> None:
    """AgMax, its other term written out here."""
    weights = {"classification": 1.0, "agreement": 1.0, "consistency": 4.0} | {term: 0.0}
    found = []
    for is_whole in (True, False):
        outputs = random_outputs()
        joint, logits = outputs.joint_logits, outputs.logits
        assert joint is not None
        if is_whole:
            loss = objective("agmax", weights)(outputs, batch_of(outputs)).total
        elif term == "agreement":
            loss = -(batch_of(outputs).targets * logits.log_softmax(-1)).sum(-1).mean()
            loss = loss + 4 * (joint.softmax(-1)[:, None] - logits.softmax(-1)).abs().mean()
        else:
            loss = -(batch_of(outputs).targets * logits.log_softmax(-1)).sum(-1).mean()
            fractions = torch.stack([*logits.softmax(-1).mean(0), joint.softmax(-1).mean(0)])
            loss = loss + (fractions * fractions.log()).sum(-1).mean()
        found.append(torch.autograd.grad(loss, [logits, joint]))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [item.part for item in names.examples("method")])
def test_methods_take_the_views_that_they_can_compare(part: str) -> None:
    takes_any = ("two_views", "label_smoothing", "label_smoothing_others", "focal", "fine_tune")
    takes_many = ("agmax", "js")
    for num_views in (1, 2, 3, 8):
        is_fit = part in takes_any or num_views == 2 or (part in takes_many and num_views > 2)
        try:
            config = config_of(f"ResNet8-{part}", objective__num_views=num_views)
        except UsageError as error:
            expected = "needs at least 2 views" if part in takes_many else "compares 2 views"
            assert f"{part} {expected}. Write objective.num_views=2" in str(error)
            assert not is_fit
        else:
            assert is_fit
            assert config.objective.num_views == num_views


def test_the_weights_of_the_parts_are_those_of_their_sources() -> None:
    """R-Drop weighs 0.3 (KL + KL) beside CE + CE: with means of both, 0.3 again. That of tied_features is ours."""
    weights = {part: config_of(f"ResNet8-cutmix-{part}").objective.agreement_weight for part in TERMS}
    assert weights == {"js": 12, "symmetric_kl": 0.3, "stop_gradient": 1, "tied_features": 10}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_method_part_has_the_weights_and_views_of_the_table(name: str) -> None:
    settings = config_of("ResNet8" if name == "classification" else f"ResNet8-{name}").objective
    row = OBJECTIVES[name]
    assert settings.name == name
    assert settings.num_views == row.min_views
    for key, term in row.terms.items():
        assert getattr(settings, f"{key}_weight") == term.weight


@pytest.mark.parametrize("part", [item.part for item in names.examples("method")])
def test_a_model_returns_features_only_for_an_objective_that_needs_them(part: str) -> None:
    config = config_of(f"ResNet8-{part}", model__pretrained=False)
    outputs = builders.model(config)(torch.randn(2, 2, config.input_channels, 8, 8))
    assert (outputs.features is not None) == (part == "tied_features")
    if outputs.features is not None:
        assert outputs.features.shape == (2, 2, 64)


def test_a_network_without_one_last_layer_cannot_tie_its_features() -> None:
    size = {"dataset__image_size": 32, "model__channels": 3}
    assert builders.model(config_of("deit_tiny_distilled_patch16_224-js", **size))
    with pytest.raises(
        UsageError, match="the classifier of deit_tiny_distilled_patch16_224 is not one linear layer"
    ) as caught:
        builders.model(config_of("deit_tiny_distilled_patch16_224-tied_features", **size))
    assert "objective.name=agmax_mse" in str(caught.value)


# --- training ------------------------------------------------------------------------------------------------------

TINY = {
    "dataset.train_limit": 64,
    "dataset.image_size": 8,
    "augment.standard.padding": 1,
    "train.batch_size": 32,
    "train.epochs": 2,
}

Trained = tuple[dict[str, Tensor], list[dict[str, Any]], agmax.Result]


def train(folder: Path, name: str, settings: dict[str, float] | None = None) -> Trained:
    """Train four steps; return the weights, the rows of metrics and the result."""
    overrides = {**TINY, **(settings or {}), "train.runs_dir": str(folder)}
    result = agmax.train(name, dataset="digits", overrides=overrides)
    lines = (Path(result.run_folder) / "metrics.jsonl").read_text().splitlines()
    return load(Path(result.checkpoint))["model"], [json.loads(line) for line in lines], result


def same(first: dict[str, Tensor], second: dict[str, Tensor], prefix: str = "") -> bool:
    keys = [key for key in first if key.startswith(prefix)]
    assert keys
    return all(torch.equal(first[key], second[key]) for key in keys)


@pytest.mark.parametrize("term", ["agreement", "consistency"])
def test_agmax_with_a_weight_of_0_trains_as_without_the_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    full, _, _ = train(tmp_path, "ResNet8-cutmix-agmax")
    silent, rows, _ = train(tmp_path, "ResNet8-cutmix-agmax", {f"objective.{term}_weight": 0.0})
    row = OBJECTIVES["agmax"]
    rest = {key: other for key, other in row.terms.items() if key != term}
    monkeypatch.setitem(OBJECTIVES, "agmax", row._replace(terms=rest))
    lacking, expected, _ = train(tmp_path, "ResNet8-cutmix-agmax")
    assert same(silent, lacking)
    assert not same(silent, full, "backbone.")
    for row, other in zip(rows, expected, strict=True):
        assert row[term] == 0 and term not in other
        for key in other.keys() - {"timing"}:
            assert row[key] == other[key], key


@pytest.fixture(scope="module")
def two_views(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train without agreement; not to be changed."""
    return train(tmp_path_factory.mktemp("two_views"), "ResNet8-cutmix-two_views")


@pytest.mark.parametrize("part", TERMS)
def test_a_method_of_weight_0_is_two_views_bit_for_bit_and_of_its_own_weight_is_not(
    tmp_path: Path, part: str, two_views: Trained
) -> None:
    control, rows, _ = two_views
    silent, others, _ = train(tmp_path, f"ResNet8-cutmix-{part}", {"objective.agreement_weight": 0.0})
    acting, _, result = train(tmp_path, f"ResNet8-cutmix-{part}")
    assert silent.keys() == control.keys()
    assert same(silent, control)
    assert not same(acting, control)
    assert [row["test_nll"] for row in others] == [row["test_nll"] for row in rows]
    assert result.config == f"ResNet8-cutmix-{part}"


def test_a_model_with_tied_features_gives_the_same_logits_without_them(run: Run, tmp_path: Path) -> None:
    _, _, result = train(tmp_path, "ResNet8-tied_features")
    assert agmax.evaluate(result.checkpoint).nll == result.nll
    words = ("--dataset=digits", *(f"{key}={value}" for key, value in TINY.items()))
    as_js = run("--eval", "--json", "--config=ResNet8-js", *words, "--resume", result.checkpoint)
    assert as_js.json["nll"] == result.nll
