"""Softened targets, alone and combined: fractions by counting pixels, variants, the weak-augmentation epochs."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from agmax import builders
from agmax.augment import Key, Softening, erasing
from agmax.augment.targets import blend_with_uniform, confidence
from agmax.config import names
from agmax.config.resolve import Setting, resolve
from agmax.core.batch import Batch, Outputs
from agmax.losses import objective, soft_cross_entropy, target_entropy
from helpers.augment import Augmentation, make_pipeline, raw_batch
from helpers.places import golden
from helpers.soft_crop import expected_rows, visible_pixels, white

NO_BACKGROUND: dict[str, Any] = {"augment__soft__background": 0.0}


def config_of(name: str, dataset: str = "cifar10", **settings: Any) -> Any:
    typed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve(name, dataset=dataset, settings=typed).config


# --- losses of the reference program ---------------------------------------------------------------------------------

LOSSES = golden("soft_augmentation.json")["losses"]


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: f"{case['num_images']}-{case['num_classes']}")
@pytest.mark.parametrize(
    ("expected", "applies_to", "reweight"),
    [
        ("soft_target", "target", "image"),
        ("soft_target_reweight_sample", "target_and_weight", "image"),
        ("soft_target_reweight_batch_mean", "target_and_weight", "batch_mean"),
        ("weight_only", "weight", "image"),
    ],
)
def test_the_losses_of_the_variants_equal_the_reference_programs(
    case: dict[str, Any], expected: str, applies_to: str, reweight: str
) -> None:
    """Visible fractions with the confidence of the case: v = 1 - sqrt((1 - p) / (1 - 1/K)), for power 2."""
    num_classes, labels = case["num_classes"], torch.tensor(case["labels"])
    rng = np.random.RandomState(case["seed"])
    logits = (rng.randn(case["num_images"], num_classes) * case["scale"]).astype(np.float32)
    certain = torch.tensor(case["confidence"], dtype=torch.float64)[:, None]
    visible = 1 - ((1 - certain) / (1 - 1 / num_classes)).sqrt()
    rows = torch.eye(num_classes, dtype=torch.float64)[labels][:, None]
    soften = Softening(applies_to=applies_to, reweight=reweight)
    targets, weights = soften(rows, visible, key=Key(0))
    outputs = Outputs(torch.from_numpy(logits).double()[:, None])
    losses = objective("classification", subtract_entropy=True)
    loss = losses(outputs, Batch(torch.empty(0), targets, weights)).terms["classification"]
    assert loss.item() == pytest.approx(case["expected"][expected], abs=1e-6)


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: f"{case['num_images']}-{case['num_classes']}")
def test_the_focal_loss_is_the_reference_programs(case: dict[str, Any]) -> None:
    num_classes, labels = case["num_classes"], torch.tensor(case["labels"])
    rng = np.random.RandomState(case["seed"])
    logits = (rng.randn(case["num_images"], num_classes) * case["scale"]).astype(np.float32)
    rows = torch.eye(num_classes, dtype=torch.float64)[labels][:, None]
    batch = Batch(torch.empty(0), rows, torch.ones(len(labels), 1).double())
    config = config_of("ResNet8-focal")
    losses = builders.objective(config)(Outputs(torch.from_numpy(logits).double()[:, None]), batch)
    assert losses.terms["classification"].item() == pytest.approx(case["expected"]["focal_gamma2"], abs=1e-6)


def test_the_focal_factor_does_not_depend_on_subtract_entropy() -> None:
    """A mixed row that is predicted exactly has loss 0; the entropy of a certain class is 0 anyway."""
    rows = torch.tensor([[0.6, 0.4, 0.0]]).repeat(2, 1)[None]
    logits = rows.clamp(min=1e-9).log()
    for subtract_entropy in (True, False):
        loss = soft_cross_entropy(logits, rows, torch.ones(1, 2), subtract_entropy=subtract_entropy, focal_gamma=2.0)
        assert abs(loss.item()) < 1e-6
    logits, hard = torch.randn(1, 2, 3, generator=torch.manual_seed(0)), torch.eye(3)[None, :2]
    ones = torch.ones(1, 2)
    with_entropy, without = (
        soft_cross_entropy(logits, hard, ones, subtract_entropy=is_subtracted, focal_gamma=2.0)
        for is_subtracted in (True, False)
    )
    assert with_entropy == without > 0


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0, 8.0])
def test_no_number_of_classes_makes_a_row_negative(power: float) -> None:
    """With 31 and with 18,631 classes the blend rounds to a little more than 1."""
    visible = torch.cat([torch.linspace(0, 1, 101), 1 - torch.logspace(-8, -3, 50)])
    for num_classes in (*range(2, 400), 1000, 18631):
        confidences = confidence(visible, num_classes=num_classes, power=power, max_confidence=1.0)
        rows = blend_with_uniform(torch.eye(num_classes)[:1].expand(len(visible), -1), confidences)
        assert rows.min() >= 0 and rows.max() <= 1, num_classes
        assert target_entropy(rows).isfinite().all(), num_classes


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_loss_has_finite_gradients_at_exact_predictions(gamma: float) -> None:
    logits = torch.tensor([[[200.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]], requires_grad=True)
    rows = torch.tensor([[[1.0, 0.0, 0.0]], [[1 / 3, 1 / 3, 1 / 3]]])
    losses = objective("classification", subtract_entropy=True, focal_gamma=gamma)
    losses(Outputs(logits), Batch(torch.empty(0), rows, torch.ones(2, 1))).total.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_smoothing_over_the_other_classes_leaves_1_minus_smoothing_on_the_class() -> None:
    """0.1 over 9 others: 0.9 and 0.0111; the authors' rows, where torch's would be 0.91 and 0.01."""
    rows = make_pipeline("ResNet8-label_smoothing_others")(raw_batch(), step=0).targets[:, 0]
    assert rows.max(-1).values.tolist() == pytest.approx([0.9] * 12)
    assert rows.min(-1).values.tolist() == pytest.approx([0.1 / 9] * 12)


# --- what is visible -------------------------------------------------------------------------------------------------


def test_the_visible_fraction_of_boxes_equals_counting_pixels() -> None:
    rng = np.random.default_rng(0)
    edges = [torch.from_numpy(np.sort(rng.integers(-6, 20, (2, 200)), axis=0)) for _ in range(2)]
    boxes = erasing.Boxes(*edges[0], *edges[1])
    seen = erasing.erase_(torch.ones(200, 1, 11, 14), boxes)
    fraction = erasing.visible_fraction(boxes, height=11, width=14)
    torch.testing.assert_close(fraction, seen.mean((1, 2, 3)))
    assert {0.0, 1.0} <= {float(value) for value in fraction}


@pytest.mark.parametrize("parts", ["no_basic_augment-soft_cutout", "no_basic_augment-soft_random_erasing", "soft_crop"])
@pytest.mark.parametrize("method", ["", "-agmax"])
def test_targets_soften_by_the_occlusion_of_each_view(parts: str, method: str) -> None:
    raw = white(80)
    batch = make_pipeline(f"ResNet8-{parts}{method}", **NO_BACKGROUND)(raw, step=1)
    visible = visible_pixels(batch)
    assert batch.visible is not None
    torch.testing.assert_close(batch.visible, visible, atol=1e-6, rtol=0)
    confidence = 1 - 0.9 * (1 - visible) ** 2
    torch.testing.assert_close(batch.weights, confidence, atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.targets, expected_rows(raw.labels, confidence), atol=1e-6, rtol=0)
    assert (visible < 1).float().mean() > 0.3


def test_a_soft_box_and_a_soft_crop_soften_by_the_product_of_their_fractions() -> None:
    """The box occludes a fraction of the image before soft crop occludes a fraction of the rest."""
    both, crop, box = (
        make_pipeline(f"ResNet8-{parts}-agmax", **NO_BACKGROUND)(white(80), step=1)
        for parts in ("soft_crop-soft_cutout", "soft_crop", "no_basic_augment-soft_cutout")
    )
    assert both.visible is not None and crop.visible is not None and box.visible is not None
    product = crop.visible * box.visible
    torch.testing.assert_close(both.visible, product)
    torch.testing.assert_close(both.weights, 1 - 0.9 * (1 - product) ** 2)


def test_hard_boxes_and_wide_crops_occlude_without_softening() -> None:
    hard = make_pipeline("ResNet8-wide_crop-cutout-agmax", **NO_BACKGROUND)(white(60), step=1)
    assert torch.equal(hard.targets.max(-1).values, torch.ones(60, 2))
    assert torch.equal(hard.weights, torch.ones(60, 2))
    assert hard.visible is not None and hard.visible.mean() < 0.6
    box = make_pipeline("ResNet8-no_basic_augment-soft_cutout-agmax")(white(60), step=1)
    mixed = make_pipeline("ResNet8-wide_crop-soft_cutout-agmax")(white(60), step=1)
    assert torch.equal(mixed.weights, box.weights)
    assert torch.equal(mixed.targets, box.targets)


# --- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["", "-agmax"])
def test_the_variants_change_the_target_the_weight_or_both(method: str) -> None:
    batches = {
        variant: make_pipeline(f"ResNet8-soft_crop{method}", augment__softening__applies_to=variant)(
            raw_batch(60), step=0
        )
        for variant in ("target_and_weight", "target", "weight")
    }
    both, target, weight = batches.values()
    assert torch.equal(target.targets, both.targets)
    assert torch.equal(target.weights, torch.ones_like(both.weights))
    assert torch.equal(weight.targets.max(-1).values, torch.ones_like(both.weights))
    assert torch.equal(weight.weights, both.weights)
    assert both.weights.std() > 0.1
    for batch in batches.values():
        assert torch.equal(batch.images, both.images)


def test_batch_mean_gives_all_views_the_same_weight() -> None:
    own, mean = (
        make_pipeline("ResNet8-soft_crop-agmax", augment__softening__reweight=reweight)(raw_batch(60), step=0)
        for reweight in ("image", "batch_mean")
    )
    torch.testing.assert_close(mean.weights, own.weights.mean().expand(60, 2))
    assert torch.equal(mean.targets, own.targets)


def test_shuffled_confidences_are_those_of_other_views() -> None:
    raw = white(200)
    own, shuffled = (
        make_pipeline("ResNet8-soft_crop-agmax", augment__softening__confidence_source=source, **NO_BACKGROUND)(
            raw, step=0
        )
        for source in ("own", "shuffled")
    )
    assert torch.equal(shuffled.images, own.images)
    assert torch.equal(shuffled.weights.flatten().sort().values, own.weights.flatten().sort().values)
    assert abs(np.corrcoef(shuffled.weights.flatten(), visible_pixels(own).flatten())[0, 1]) < 4 / np.sqrt(400)
    torch.testing.assert_close(shuffled.targets, expected_rows(raw.labels, shuffled.weights), atol=1e-6, rtol=0)
    again = make_pipeline("ResNet8-soft_crop-agmax", augment__softening__confidence_source="shuffled", **NO_BACKGROUND)(
        raw, step=1
    )
    assert not torch.equal(again.weights.argsort(0), shuffled.weights.argsort(0))


def test_the_mean_confidence_smooths_every_target_alike() -> None:
    raw = white(200)
    own, mean = (
        make_pipeline("ResNet8-soft_crop", augment__softening__confidence_source=source)(raw, step=0)
        for source in ("own", "mean")
    )
    confidence = own.weights.mean().expand(200, 1)
    torch.testing.assert_close(mean.weights, confidence)
    torch.testing.assert_close(mean.targets, expected_rows(raw.labels, confidence))


# --- every combination -----------------------------------------------------------------------------------------------

POLICIES = ("", "auto_augment", "rand_augment", "trivial_augment")
CROPS = ("", "soft_crop", "wide_crop", "no_basic_augment")
ERASERS = ("", "cutout", "random_erasing", "soft_cutout", "soft_random_erasing")
MIXES = ("", "mixup", "cutmix")
METHODS = ("", "agmax", "two_views", "label_smoothing", "label_smoothing_others-agmax", "focal", "js")
EVERY = list(itertools.product(POLICIES, CROPS, ERASERS, MIXES, METHODS))


def test_every_part_is_among_the_combinations() -> None:
    tried = {part for row in EVERY for word in row for part in word.split("-")} | {"standard"}
    assert {item.part for item in names.examples("augment")} == tried - {
        item.part for item in names.examples("method")
    } - {""}


class Linear(torch.nn.Module):
    """A linear model with logits for each view and joint logits for all views."""

    def __init__(self, num_views: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3 * 8 * 8, 10, generator=rng) / 200)
        self.joint = torch.nn.Parameter(torch.randn(10 * num_views, 10, generator=rng) / 10)

    def forward(self, images: Tensor) -> Outputs:
        logits = images.flatten(2) @ self.weight
        return Outputs(logits, logits.flatten(1) @ self.joint)


@pytest.mark.parametrize("part", range(8))
def test_every_combination_gives_valid_rows_and_weights_and_lowers_the_loss(part: int) -> None:
    """Rows sum to 1, weights lie in (0, 1], every parameter has a gradient, and a small step lowers the loss."""
    raw = raw_batch(12, size=8)
    for words in EVERY[part::8]:
        name = "-".join(["ResNet8", *filter(None, words)])
        config = config_of(name, dataset__image_size=8, augment__standard__padding=1, augment__cutmix__p=1.0)
        batch = Augmentation(config)(raw, step=1)
        torch.testing.assert_close(batch.targets.sum(-1), torch.ones(12, config.objective.num_views))
        assert (batch.targets >= 0).all(), name
        assert (batch.weights > 0).all() and (batch.weights <= 1 + 1e-6).all(), name
        model, losses_of = Linear(config.objective.num_views), builders.objective(config)
        needs_joint = config.objective.name == "agmax"

        def loss(model: Linear = model, losses_of: Any = losses_of, batch: Batch = batch) -> Tensor:
            return losses_of(model(batch.images), batch).total

        before = loss()
        before.backward()
        parameters = [model.weight, model.joint] if needs_joint else [model.weight]
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in parameters), name
        with torch.no_grad():
            length = torch.stack([p.grad.square().sum() for p in parameters if p.grad is not None]).sum()
            for parameter in parameters:
                assert parameter.grad is not None
                parameter -= 1e-3 * parameter.grad / length.sqrt()
        assert loss() < before, name


# --- weak-augmentation epochs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "epochs", "expected"),
    [(0.04, 500, 20), (0.04, 24, 0), (0.04, 25, 1), (0.29, 100, 29), (0.0, 100, 0), (1.0, 7, 7), (0.07, 100, 7)],
)
def test_the_number_of_weak_augmentation_epochs_is_rounded_down(fraction: float, epochs: int, expected: int) -> None:
    assert config_of("ResNet8", augment__weak_fraction=fraction, train__epochs=epochs).num_weak_epochs == expected


def test_the_published_recipe_ends_with_20_of_500_epochs() -> None:
    for name in ("CifarResNet18-soft_crop", "PyramidNet272-soft_crop-rand_augment", "CifarWideResNet28-10-soft_crop"):
        assert config_of(name, "cifar100").num_weak_epochs == 20
    for name in ("CifarResNet18-standard", "CifarResNet18-wide_crop", "CifarResNet18-soft_cutout"):
        assert config_of(name, "cifar100").num_weak_epochs == 0


WEAK = {"augment__weak_fraction": 0.5, "train__epochs": 4, "augment__cutmix__p": 1.0}


@pytest.mark.parametrize("occlusion", ["soft_crop", "wide_crop", "cutout", "random_erasing", "soft_cutout", "standard"])
@pytest.mark.parametrize("mix", ["", "-mixup", "-cutmix"])
def test_in_the_weak_augmentation_epochs_nothing_is_occluded_or_mixed(occlusion: str, mix: str) -> None:
    """Of 4 epochs of 3 steps, those from step 6 on are weak."""
    config = config_of(f"ResNet8-{occlusion}{mix}-agmax", **WEAK, augment__random_erasing__p=1.0)
    augment = builders.augmentation(config, steps_per_epoch=3)
    before, after = (augment(white(40), step=step) for step in (5, 6))
    is_changed = bool((before.targets.max(-1).values < 1).any()) or bool(
        before.visible is not None and (before.visible < 1).any()
    )
    assert is_changed == (occlusion != "standard" or bool(mix))
    assert torch.equal(after.targets.max(-1).values, torch.ones(40, 2))
    assert torch.equal(after.weights, torch.ones(40, 2))
    assert after.visible is None or torch.equal(after.visible, torch.ones(40, 2))


def test_in_the_weak_augmentation_epochs_flips_crops_and_policies_stay() -> None:
    raw = raw_batch(20)
    for name in ("standard-auto_augment-cutmix", "standard-rand_augment-mixup"):
        config = config_of(f"ResNet8-{name}", **WEAK)
        plain = make_pipeline(f"ResNet8-{name.rpartition('-')[0]}")
        assert torch.equal(builders.augmentation(config, 3)(raw, step=6).images, plain(raw, step=6).images)


def test_weak_divisor_divides_the_strength() -> None:
    config = config_of("ResNet8-soft_crop", **WEAK, augment__weak_divisor=4.0)
    augment = builders.augmentation(config, 3)
    early, late = (augment(white(400), step=step).visible for step in (0, 6))
    assert early is not None and late is not None
    same = make_pipeline("ResNet8-soft_crop", augment__soft__sigma=0.375 / 4)(white(400), step=6).visible
    assert torch.equal(late, same)
    assert early.mean() < 0.6 < 0.8 < late.mean() < 1


# --- visible fractions sampled through the pipeline -------------------------------------------------------------------


def test_sampled_visible_fractions_have_the_exact_mean() -> None:
    """Sigma 12 of 32 pixels: mean visible fraction .5221, mean confidence .7240 with 100 classes (the recipe)."""
    fractions = builders.sample_visible_fractions(config_of("CifarResNet18-soft_crop", "cifar100"), num_images=40_000)
    assert fractions is not None
    error = fractions.std() / len(fractions) ** 0.5
    assert abs(fractions.mean() - 0.5221) < 3 * error
    confidence = 1 - 0.99 * (1 - fractions) ** 2
    assert abs(confidence.mean() - 0.7240) < 3 * confidence.std() / len(fractions) ** 0.5
    assert builders.sample_visible_fractions(config_of("CifarResNet18-wide_crop-cutout", "cifar100")) is None


def test_soft_random_erasing_leaves_half_of_the_views_unchanged() -> None:
    fractions = builders.sample_visible_fractions(
        config_of("ResNet8-no_basic_augment-soft_random_erasing"), num_images=4096
    )
    assert fractions is not None
    assert stats.binomtest(int((fractions == 1).sum()), len(fractions), 0.5).pvalue > 1e-3
