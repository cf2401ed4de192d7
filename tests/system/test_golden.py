"""Our numbers against those that the reference programs computed, every case in tests/golden."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agmax.augment.mixing import Box, cutmix
from agmax.augment.targets import smoothed_one_hot
from agmax.core.batch import Batch, Outputs
from agmax.evaluation.metrics import expected_calibration_error
from agmax.losses import objective
from agmax.losses.objectives import hidden_units
from agmax.models import backbones
from agmax.models.classifier import Classifier, QNetwork
from agmax.optim.lr_schedules import learning_rate
from agmax.optim.optimizers import optimizer
from helpers.places import golden
from helpers.reference import reference_key, reference_value


def names(cases: list[dict[str, Any]], *keys: str) -> list[str]:
    return ["-".join(str(case[key]) for key in keys) for case in cases]


def rows(labels: list[int], num_classes: int, smoothing: float = 0.0) -> Tensor:
    return smoothed_one_hot(torch.tensor(labels), num_classes, smoothing=smoothing).double()


LOSSES = golden("agmax_losses.json")["cases"]


@pytest.mark.parametrize("case", LOSSES, ids=names(LOSSES, "num_images", "num_classes"))
class TestLosses:
    def outputs(self, case: dict[str, Any]) -> Outputs:
        rng = np.random.RandomState(case["seed"])
        shape = (case["num_images"], case["num_classes"])
        views = [torch.from_numpy((rng.randn(*shape) * case["scale"]).astype(np.float32)).double() for _ in range(3)]
        joint = views[2].requires_grad_()
        return Outputs(torch.stack(views[:2], dim=1).requires_grad_(), joint)

    def batch(self, targets: list[Tensor]) -> Batch:
        stacked = torch.stack(targets, dim=1)
        return Batch(torch.empty(0), stacked, torch.ones(stacked.shape[:2], dtype=torch.float64))

    def test_terms_and_gradients_of_agmax(self, case: dict[str, Any]) -> None:
        outputs, expected = self.outputs(case), case["expected"]
        hard = rows(case["labels"], case["num_classes"])
        losses = objective("agmax")(outputs, self.batch([hard, hard]))
        assert set(losses.terms) == {"classification", "agreement", "consistency"}
        for name, value in losses.terms.items():
            assert value.item() == pytest.approx(expected[name], abs=1e-6)
        losses.total.backward()
        assert outputs.logits.grad is not None
        assert outputs.joint_logits is not None
        joint = outputs.joint_logits.grad
        assert joint is not None
        first, second = outputs.logits.grad.unbind(1)
        assert first.norm().item() == pytest.approx(expected["grad_view1_l2"], abs=1e-6)
        assert second.norm().item() == pytest.approx(expected["grad_view2_l2"], abs=1e-6)
        assert joint.norm().item() == pytest.approx(expected["grad_joint_l2"], abs=1e-6)
        for gradient, name in ((first, "grad_view1_first_row"), (joint, "grad_joint_first_row")):
            head = expected[name]
            assert gradient[0, : len(head)].tolist() == pytest.approx(head, abs=1e-6)

    def test_classification_of_smoothed_and_mixed_rows(self, case: dict[str, Any]) -> None:
        outputs, expected, num_classes = self.outputs(case), case["expected"], case["num_classes"]
        only_classification = objective("classification")
        soft = rows(case["labels"], num_classes, 0.1)
        value = only_classification(outputs, self.batch([soft, soft])).terms["classification"].item()
        assert value == pytest.approx(expected["classification_smoothing_0p1"], abs=1e-6)
        hard = rows(case["labels"], num_classes)
        mixed = []
        for view in ("view1", "view2"):
            ratio, partners = case[f"mix_lambda_{view}"], rows(case[f"mix_partner_labels_{view}"], num_classes)
            mixed.append(ratio * hard + (1 - ratio) * partners)
        value = only_classification(outputs, self.batch(mixed)).terms["classification"].item()
        assert value == pytest.approx(expected["classification_mixed"], abs=1e-6)

    @pytest.mark.parametrize("name", ["agmax_mse", "agmax_kl", "agmax_ce"])
    def test_other_agreements(self, case: dict[str, Any], name: str) -> None:
        outputs = self.outputs(case)
        hard = rows(case["labels"], case["num_classes"])
        value = objective(name)(outputs, self.batch([hard, hard])).terms["agreement"].item()
        assert value == pytest.approx(case["expected"][name.replace("agmax", "agreement")], abs=1e-6)


# --- five steps of training ----------------------------------------------------------------------------------------

STEPS = golden("training_steps.json")["cases"]


@pytest.mark.parametrize("case", STEPS, ids=names(STEPS, "backbone", "kind"))
def test_five_steps_of_training_equal_the_reference_program(case: dict[str, Any]) -> None:
    depth, width = map(int, case["backbone"].removeprefix("WideResNet").split("-"))
    num_classes, num_images, size = case["num_classes"], case["num_images"], case["image_size"]
    is_agmax, num_views = case["agmax"], 2 if case["agmax"] else 1
    backbone = backbones.create(
        "agmax_wide_resnet",
        num_classes=num_classes,
        channels=3,
        image_size=size,
        arguments={"depth": depth, "width": width},
    )
    units = case["hidden_units"]
    model = Classifier(backbone, QNetwork(2, num_classes, units) if units else None).double()
    keys = {reference_key(key, is_agmax=is_agmax): value for key, value in model.state_dict().items()}
    for key, value in keys.items():
        value.copy_(torch.from_numpy(reference_value(key, tuple(value.shape))))
    name = {"mi": "agmax", "cutmix": "agmax", "mse": "agmax_mse", "baseline": "classification"}[case["kind"]]
    losses_of = objective(name)
    optimize = optimizer(
        model,
        "sgd",
        lr=case["lr"],
        weight_decay=case["weight_decay"],
        momentum=case["momentum"],
        nesterov=case["nesterov"],
        decay_bias_and_norm=True,
    )
    for step, expected in enumerate(case["losses_before_each_step"]):
        shape = (num_images, 3, size, size)
        images = [torch.from_numpy(np.random.RandomState(k + step).randn(*shape)) for k in (1000, 2000)[:num_views]]
        labels = np.random.RandomState(3000 + step).randint(0, num_classes, num_images)
        targets = [rows(labels.tolist(), num_classes)] * num_views
        if case["kind"] == "cutmix":
            rng = np.random.RandomState(4000 + step)
            partners = [torch.from_numpy(rng.permutation(num_images)) for _ in range(2)]
            for view, partner in enumerate(partners):
                top, bottom = rng.randint(0, 12), rng.randint(13, 32)
                left, right = rng.randint(0, 12), rng.randint(13, 32)
                box = Box(top, bottom, left, right)
                images[view], targets[view] = cutmix(images[view], targets[view], partner=partner, box=box)
        batch = Batch(torch.stack(images, 1), torch.stack(targets, 1), torch.ones(num_images, num_views).double())
        losses = losses_of(model(batch.images), batch)
        assert set(losses.terms) == set(expected)
        for term, value in losses.terms.items():
            assert value.item() == pytest.approx(expected[term], abs=1e-6)
        optimize.zero_grad()
        losses.total.backward()
        optimize.step()
    for key, length in case["l2_after"].items():
        assert keys[key].norm().item() == pytest.approx(length, rel=1e-5)
    total = sum(value.square().sum().item() for value in model.parameters())
    assert total == pytest.approx(case["sum_of_squares_of_all_parameters_after"], rel=1e-5)


# --- small tables ----------------------------------------------------------------------------------------------------

SCHEDULES = golden("schedules.json")


@pytest.mark.parametrize("epochs", list(SCHEDULES["multistep"]))
@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_multistep_divides_at_the_epochs_of_the_reference(epochs: str, steps_per_epoch: int) -> None:
    for epoch, expected in SCHEDULES["multistep"][epochs].items():
        for step in (int(epoch) * steps_per_epoch, (int(epoch) + 1) * steps_per_epoch - 1):
            lr = learning_rate(step, name="multistep", base=0.1, epochs=int(epochs), steps_per_epoch=steps_per_epoch)
            assert lr == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", [key for key in SCHEDULES if key.startswith("cosine_")])
def test_cosine_falls_epoch_by_epoch_as_in_the_reference(case: str) -> None:
    epochs = int(case.removeprefix("cosine_"))
    for epoch, expected in SCHEDULES[case].items():
        lr = learning_rate(int(epoch) * 3 + 2, name="cosine", base=0.1, epochs=epochs, steps_per_epoch=3)
        assert lr == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("num_classes", "expected"), golden("q_network_units.json").items())
def test_hidden_units_follow_the_number_of_classes(num_classes: str, expected: int) -> None:
    assert hidden_units(int(num_classes)) == expected


ECE = golden("soft_augmentation.json")["ece"]


@pytest.mark.parametrize("case", ECE, ids=names(ECE, "num_images", "num_classes"))
def test_calibration_error_equals_the_reference_program(case: dict[str, Any]) -> None:
    rng = np.random.RandomState(case["seed"])
    logits = (rng.randn(case["num_images"], case["num_classes"]) * case["scale"]).astype(np.float32)
    value = expected_calibration_error(torch.from_numpy(logits), torch.tensor(case["labels"]))
    assert value == pytest.approx(case["expected_ece_10_bins"], abs=1e-6)


# --- shapes of the published networks -----------------------------------------------------------------------------

RELEASED = golden("released_checkpoints.json")


def backbone_of(name: str, num_classes: int) -> nn.Module:
    from agmax import builders
    from agmax.config.resolve import Setting, resolve

    classes = Setting("dataset.num_classes", num_classes, "test")
    return builders.model(resolve(f"{name}-standard", dataset="imagenet", settings=[classes]).config).backbone


@pytest.mark.parametrize("name", list(RELEASED["keys"]))
def test_every_tensor_of_a_published_network_has_its_shape_here(name: str) -> None:
    """Compare the sorted shapes; the dead 1000-class head inside `features.` is not built here."""
    dead = ("feature_extractor.features.head.fc", "feature_extractor.features.classifier")
    published = {key: tuple(shape) for key, shape in RELEASED["keys"][name].items() if not key.startswith(dead)}
    ours = backbone_of(name, published["classifier.bias"][0]).state_dict()
    assert sorted(published.values()) == sorted(tuple(value.shape) for value in ours.values())
