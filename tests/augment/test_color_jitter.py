"""Color jitter and PCA lighting: their random draws and the resulting pixels."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from scipy import stats
from torchvision.transforms.v2 import functional

from agmax.augment import color, policies
from agmax.augment.operations import CODES, NAMES
from agmax.core.rng import generator
from helpers.augment import make_pipeline, raw_batch
from helpers.operations import torchvision_answer
from helpers.policies import NUM_DRAWS, assert_drawn_from, assert_independent, normalized, policy_rng


def jitter(strengths: tuple[float, float, float], count: int = NUM_DRAWS) -> tuple[Any, Any]:
    brightness, contrast, saturation = strengths
    rng = np.random.default_rng(0)
    return policies.color_jitter(count, brightness=brightness, contrast=contrast, saturation=saturation, rng=rng)


def test_color_jitter_draws_uniform_factors_in_each_of_six_orders() -> None:
    codes, factors = jitter((0.4, 0.2, 1.5))
    orders = itertools.permutations(["Brightness", "Contrast", "Color"])
    assert_drawn_from(dict.fromkeys(orders, 1 / 6), (tuple(NAMES[code] for code in image) for image in codes.tolist()))
    by_name = []
    for name, low, high in [("Brightness", 0.6, 1.4), ("Contrast", 0.8, 1.2), ("Color", 0.0, 2.5)]:
        numbers = factors[codes == CODES[name]]
        assert len(numbers) == NUM_DRAWS
        assert stats.kstest(numbers, stats.uniform(low, high - low).cdf).pvalue > 1e-3
        by_name.append(numbers > (low + high) / 2)
    for first, second in itertools.combinations(by_name, 2):
        assert_independent(first, second)
    assert_independent(by_name[0], codes[:, 0])


def test_color_jitter_of_strength_0_is_left_out() -> None:
    codes, _ = jitter((0.4, 0.0, 0.0), 50)
    for image in codes.tolist():
        assert sorted(NAMES[code] for code in image) == ["Brightness", "Identity", "Identity"]


JITTER = {f"augment__color_jitter__{name}": 0.4 for name in ("brightness", "contrast", "saturation")}
ADJUST = {
    "Brightness": functional.adjust_brightness,
    "Contrast": functional.adjust_contrast,
    "Color": functional.adjust_saturation,
}


def test_color_jitter_equals_torchvisions_adjustments_in_the_drawn_order() -> None:
    raw = raw_batch(60)
    make = make_pipeline("ResNet8-no_basic_augment", **JITTER)
    batch = make(raw, step=2)
    codes, factors = policies.color_jitter(
        60, brightness=0.4, contrast=0.4, saturation=0.4, rng=generator(0, "augment", 2, "color jitter", 0)
    )
    expected = []
    for place, image in enumerate(raw.images):
        for code, factor in zip(codes[place].tolist(), factors[place].tolist(), strict=True):
            image = ADJUST[NAMES[code]](image, factor)
        expected.append(image)
    levels = (batch.images[:, 0] * make.std[:, None, None] + make.mean[:, None, None]) * 255
    assert torch.equal(levels.round(), torch.stack(expected).float())
    assert (levels.round() != raw.images).float().mean() > 0.5


def test_color_jitter_follows_the_policy() -> None:
    raw = raw_batch(16)
    make = make_pipeline("ResNet8-no_basic_augment-trivial_augment", augment__color_jitter__brightness=0.4)
    codes, values = policies.trivial_augment(16, 32, 32, rng=policy_rng(0, 0))
    jitters, factors = policies.color_jitter(
        16, brightness=0.4, contrast=0.0, saturation=0.0, rng=generator(0, "augment", 0, "color jitter", 0)
    )
    batch = make(raw, step=0)
    for place, image in enumerate(raw.images):
        factor = float(factors[place][jitters[place] == CODES["Brightness"]][0])
        changed = torchvision_answer(image, NAMES[codes[place, 0]], float(values[place, 0]))
        expected = normalized(functional.adjust_brightness(changed, factor), make)
        assert torch.equal(batch.images[place, 0], expected)


PRINCIPAL = [(-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)]
DEVIATIONS = (0.2175, 0.0188, 0.0045)


def test_pca_lighting_equals_adding_principal_components_before_normalization() -> None:
    """Channel c of the image on the scale 0 to 1 gets the sum over k of V[c][k] * alpha_k * lambda_k."""
    raw = raw_batch(20)
    make = make_pipeline("ResNet8-no_basic_augment-agmax", augment__pca_lighting__std=0.1)
    batch = make(raw, step=4)
    for view in (0, 1):
        amounts = generator(0, "augment", 4, "lighting", view).normal(0, 0.1, (20, 3))
        for place, image in enumerate(raw.images):
            shifted = image.double() / 255
            for channel in range(3):
                shift = sum(PRINCIPAL[channel][k] * amounts[place, k] * DEVIATIONS[k] for k in range(3))
                shifted[channel] += float(shift)
            expected = functional.normalize(shifted, make.mean.tolist(), make.std.tolist()).float()
            torch.testing.assert_close(batch.images[place, view], expected, atol=1e-5, rtol=1e-5)


def test_pca_lighting_amounts_are_normal() -> None:
    amounts = color.pca_lighting_amounts(NUM_DRAWS, std=0.1, rng=np.random.default_rng(0))
    assert amounts.shape == (NUM_DRAWS, 3)
    for k in range(3):
        assert stats.kstest(amounts[:, k].numpy(), stats.norm(0, 0.1).cdf).pvalue > 1e-3
    correlation = np.corrcoef(amounts.numpy().T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(NUM_DRAWS)
