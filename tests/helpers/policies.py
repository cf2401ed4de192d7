"""What the policies may draw, worked out from torchvision and the AgMax program, and chi-square tests of it."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from agmax.augment import policies
from agmax.augment.operations import CODES, NAMES
from agmax.core.rng import generator
from helpers.augment import Augmentation
from helpers.operations import FACTORS

NUM_DRAWS = 100_000
SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
TABLES = {
    "cifar10": v2.AutoAugmentPolicy.CIFAR10,
    "svhn": v2.AutoAugmentPolicy.SVHN,
    "imagenet": v2.AutoAugmentPolicy.IMAGENET,
}
Outcome = tuple[str, float]
Distribution = dict[Any, float]


def learned(table: str) -> list[Any]:
    """Return torchvision's sub-policies, each two of (operation, probability, level or None)."""
    return list(v2.AutoAugment(TABLES[table])._policies)


def as_value(name: str, magnitude: float) -> float:
    """Return the value of an operation from torchvision's magnitude, as its kernels read it."""
    if name in FACTORS:
        return 1 + magnitude
    if name == "Solarize":
        return 255 * magnitude
    return float(int(magnitude)) if name in ("TranslateX", "TranslateY", "Posterize") else magnitude


SPACES: dict[str, tuple[Callable[[int, int], policies.MagnitudeScale], Any, int]] = {
    "AutoAugment": (policies.torchvision_scale, v2.AutoAugment, 10),
    "RandAugment": (policies.torchvision_random, v2.RandAugment, 31),
    "TrivialAugment": (policies.torchvision_wide, v2.TrivialAugmentWide, 31),
}


def torchvision_levels(policy: str, name: str, height: int, width: int) -> tuple[list[float], bool]:
    """Return torchvision's magnitude at each level, and whether it can be negative; 0 where it has none."""
    _, transform, num_levels = SPACES[policy]
    magnitudes, has_sign = transform._AUGMENTATION_SPACE[name]
    drawn = magnitudes(num_levels, height, width)
    return [0.0] * num_levels if drawn is None else [float(number) for number in drawn], has_sign


def agmax_value(name: str, level: int, height: int, width: int) -> float:
    """Return what the AgMax program's formulas say (its table of magnitudes), moves in whole pixels."""
    formulas: dict[str, Callable[[], float]] = {
        "ShearX": lambda: 0.03 * level,
        "ShearY": lambda: 0.03 * level,
        "TranslateX": lambda: round(0.045 * level * width),
        "TranslateY": lambda: round(0.045 * level * height),
        "Rotate": lambda: 3 * level,
        "Solarize": lambda: 25.6 * level,
        "Posterize": lambda: int(4 + 0.4 * level),
    }
    return formulas.get(name, lambda: 0.1 + 0.18 * level if name in FACTORS else 0.0)()


def outcomes(codes: Any, values: Any) -> list[list[Outcome]]:
    """Return what happens to each image, as tuples that can be counted; a value counts where the operation has one."""
    has_value = {CODES[name] for name in (*SIGNED, *FACTORS, "Solarize", "Posterize")}
    rounded = np.round(values, 4) + 0.0  # no -0.0
    return [
        [(NAMES[code], value if code in has_value else 0.0) for code, value in zip(*image, strict=True)]
        for image in zip(codes.tolist(), rounded.tolist(), strict=True)
    ]


def assert_drawn_from(expected: Distribution, drawn: Iterable[Any]) -> None:
    """Compare counts with exact probabilities by chi-square; rare outcomes are taken together."""
    counts = Counter(drawn)
    total = sum(counts.values())
    assert sum(expected.values()) == pytest.approx(1)
    impossible = [outcome for outcome in counts if expected.get(outcome, 0) == 0]
    assert impossible == []
    common = [outcome for outcome, probability in expected.items() if probability * total >= 10]
    rare = [outcome for outcome, probability in expected.items() if 0 < probability * total < 10]
    observed = [counts[outcome] for outcome in common]
    ideal = [expected[outcome] * total for outcome in common]
    if sum(expected[outcome] for outcome in rare) * total >= 5:
        observed.append(sum(counts[outcome] for outcome in rare))
        ideal.append(sum(expected[outcome] for outcome in rare) * total)
    else:
        observed[0] += sum(counts[outcome] for outcome in rare)
        ideal[0] += sum(expected[outcome] for outcome in rare) * total
    assert stats.chisquare(observed, ideal).pvalue > 1e-3


def assert_independent(first: Any, second: Any) -> None:
    """Compare the joint counts of two things with the products of their own, by chi-square."""
    table = stats.contingency.crosstab(first, second).count
    assert min(table.shape) > 1
    assert stats.chi2_contingency(table, correction=False).pvalue > 1e-3


def spread(distribution: Distribution, outcome: Any, probability: float) -> None:
    distribution[outcome] = distribution.get(outcome, 0.0) + probability


def normalized(image: Tensor, make: Augmentation) -> Tensor:
    """Bring a uint8 image to the network's numbers as torchvision's ToTensor and Normalize do."""
    floats = transforms.ToTensor()(image.permute(1, 2, 0).numpy())
    return transforms.Normalize(make.mean.tolist(), make.std.tolist())(floats)


def policy_rng(step: int, view: int) -> np.random.Generator:
    return generator(0, "augment", step, "policy", view)
