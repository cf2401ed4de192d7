"""The terms that compare views: formulas as loops, their symmetries and their gradients."""

import math

import pytest
import torch
from torch import Tensor

from agmax.core.batch import Outputs
from agmax.losses import feature_distance, jensen_shannon, stop_gradient_kl, symmetric_kl
from helpers.objectives import NUM_CLASSES, NUM_FEATURES, NUM_IMAGES, OF_LOGITS, TERMS, Term, random_outputs


def of_probabilities(*views: list[float]) -> Outputs:
    """Return outputs for one image with these class probabilities of its views."""
    return Outputs(torch.tensor([views], dtype=torch.float64).log().requires_grad_())


def reordered(outputs: Outputs, order: list[int]) -> Outputs:
    assert outputs.features is not None
    return outputs._replace(logits=outputs.logits[:, order], features=outputs.features[:, order])


def probabilities(logits: Tensor) -> list[list[list[float]]]:
    """Return the softmax of [N, V, K] as lists, by plain arithmetic."""
    rows = []
    for image in logits.tolist():
        exponentials = [[math.exp(value) for value in view] for view in image]
        rows.append([[value / sum(view) for value in view] for view in exponentials])
    return rows


def kl(first: list[float], second: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


# --- formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_views", [2, 3, 5])
def test_jensen_shannon_is_the_mean_divergence_of_the_views_from_their_mean(num_views: int) -> None:
    outputs = random_outputs(num_views)
    total = 0.0
    for views in probabilities(outputs.logits):
        mixture = [sum(view[label] for view in views) / num_views for label in range(NUM_CLASSES)]
        total += sum(kl(view, mixture) for view in views) / num_views
    assert jensen_shannon(outputs.logits).item() == pytest.approx(total / NUM_IMAGES, rel=1e-12)


def test_symmetric_kl_is_half_of_both_divergences() -> None:
    outputs = random_outputs()
    pairs = probabilities(outputs.logits)
    expected = sum(kl(first, second) + kl(second, first) for first, second in pairs) / 2 / NUM_IMAGES
    assert symmetric_kl(outputs.logits).item() == pytest.approx(expected, rel=1e-12)


def test_stop_gradient_kl_is_that_of_the_second_view_from_the_first() -> None:
    outputs = random_outputs()
    expected = sum(kl(first, second) for first, second in probabilities(outputs.logits)) / NUM_IMAGES
    assert stop_gradient_kl(outputs.logits).item() == pytest.approx(expected, rel=1e-12)


def test_feature_distance_is_the_mean_square_over_images_and_features() -> None:
    outputs = random_outputs()
    assert outputs.features is not None
    total = 0.0
    for first, second in outputs.features.tolist():
        for a, b in zip(first, second, strict=True):
            total += (a - b) ** 2
    value = feature_distance(outputs.features).item()
    assert value == pytest.approx(total / (NUM_IMAGES * NUM_FEATURES), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "views", "expected"),
    [
        ("symmetric_kl", [[1 / 2, 1 / 2], [1 / 4, 3 / 4]], math.log(3) / 8),  # half of 1/4 log 2 - 1/4 log 2/3
        ("stop_gradient", [[1 / 2, 1 / 2], [1 / 4, 3 / 4]], math.log(4 / 3) / 2),  # 1/2 log 2 + 1/2 log 2/3
        ("stop_gradient", [[1 / 4, 3 / 4], [1 / 2, 1 / 2]], math.log(27 / 16) / 4),  # 1/4 log 1/2 + 3/4 log 3/2
        (
            "js",
            [[3 / 4, 1 / 4], [1 / 4, 3 / 4]],
            math.log(27 / 16) / 4,
        ),  # each is that far from their mean, 1/2 and 1/2
    ],
)
def test_values_worked_by_hand(name: str, views: list[list[float]], expected: float) -> None:
    assert OF_LOGITS[name](of_probabilities(*views)).item() == pytest.approx(expected, rel=1e-12)


def test_the_feature_distance_of_two_images_worked_by_hand() -> None:
    """(1, 2) to (3, 5) is 4 and 9, and (0, 0) to itself is nothing: 13 over four numbers."""
    features = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert feature_distance(features).item() == 13 / 4


# --- what stays the same -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_equal_views_have_no_distance_and_others_a_positive_one(term: Term) -> None:
    outputs = random_outputs()
    assert term(reordered(outputs, [0, 0])).item() == pytest.approx(0, abs=1e-12)
    assert term(outputs).item() > 0.1


@pytest.mark.parametrize("name", TERMS)
def test_the_order_of_the_views_matters_to_asymmetric_terms(name: str) -> None:
    outputs = random_outputs()
    there, back = TERMS[name](outputs).item(), TERMS[name](reordered(outputs, [1, 0])).item()
    assert (there == pytest.approx(back, rel=1e-9)) == (name != "stop_gradient")


def test_jensen_shannon_is_the_same_in_every_order_of_four_views() -> None:
    outputs = random_outputs(4)
    expected = jensen_shannon(outputs.logits).item()
    for order in ([3, 2, 1, 0], [1, 2, 3, 0], [0, 2, 1, 3]):
        assert jensen_shannon(reordered(outputs, order).logits).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("term", OF_LOGITS.values(), ids=OF_LOGITS)
def test_a_constant_added_to_the_logits_of_a_view_changes_nothing(term: Term) -> None:
    outputs = random_outputs()
    moved = outputs._replace(logits=outputs.logits + torch.tensor([[[5.0], [-70.0]]]))
    assert term(moved).item() == pytest.approx(term(outputs).item(), rel=1e-9)


@pytest.mark.parametrize("num_views", [2, 3, 5])
def test_jensen_shannon_is_at_most_the_logarithm_of_the_number_of_views(num_views: int) -> None:
    """Views sure of different classes reach it: log 2 of two."""
    for seed in range(20):
        outputs = random_outputs(num_views, seed=seed)
        wilder = outputs._replace(logits=outputs.logits * 20)
        assert 0 < jensen_shannon(wilder.logits).item() < math.log(num_views)
    sure = Outputs(1e4 * torch.eye(5)[None, :num_views])
    assert jensen_shannon(sure.logits).item() == pytest.approx(math.log(num_views), rel=1e-6)


@pytest.mark.parametrize("term", OF_LOGITS.values(), ids=OF_LOGITS)
def test_views_that_are_certain_of_different_classes_have_finite_gradients(term: Term) -> None:
    logits = (1e4 * torch.eye(3)[None, :2]).requires_grad_()
    value = term(Outputs(logits))
    value.backward()
    assert logits.grad is not None
    assert value.isfinite() and logits.grad.isfinite().all()


# --- gradients -----------------------------------------------------------------------------------------------------


def gradients(term: Term, outputs: Outputs) -> dict[str, Tensor | None]:
    inputs = [values for values in outputs if values is not None]
    found = torch.autograd.grad(term(outputs), inputs, allow_unused=True)
    return dict(zip(Outputs._fields, found, strict=True))


def test_no_gradient_flows_through_the_detached_view() -> None:
    """The other's is that of cross-entropy with the first prediction as target: their difference, over N."""
    outputs = random_outputs()
    gradient = gradients(TERMS["stop_gradient"], outputs)["logits"]
    assert gradient is not None
    first, second = outputs.logits.detach().softmax(-1).unbind(1)
    assert gradient[:, 0].count_nonzero() == 0
    torch.testing.assert_close(gradient[:, 1], (second - first) / NUM_IMAGES)


@pytest.mark.parametrize("name", ["js", "symmetric_kl"])
def test_gradients_of_both_views_equal_finite_differences(name: str) -> None:
    term, outputs = OF_LOGITS[name], random_outputs()
    gradient = gradients(term, outputs)["logits"]
    assert gradient is not None
    assert (gradient.abs().amax((0, 2)) > 1e-3).all()
    assert torch.autograd.gradcheck(lambda logits: term(Outputs(logits)), (outputs.logits,))


def test_tied_features_have_gradients_for_both_features_and_no_logits() -> None:
    outputs = random_outputs()
    found = gradients(TERMS["tied_features"], outputs)
    assert outputs.features is not None and found["features"] is not None
    first, second = outputs.features.detach().unbind(1)
    expected = 2 * (first - second) / first.numel()
    torch.testing.assert_close(found["features"], torch.stack([expected, -expected], 1))
    assert found["logits"] is None
