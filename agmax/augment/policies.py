"""Augmentation policies: AutoAugment, RandAugment, TrivialAugment and color jitter, as tables and random draws.

A draw returns, for N images of one size, the codes and values [N, P] of P operations that are applied in turn by
`operations.apply_operations`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agmax.augment.operations import CODES, NAMES, Codes, Values

Plan = tuple[Codes, Values]

AUTO_AUGMENT = {
    "cifar10": """
        Invert .1 7 / Contrast .2 6, Rotate .7 2 / TranslateX .3 9, Sharpness .8 1 / Sharpness .9 3,
        ShearY .5 8 / TranslateY .7 9, AutoContrast .5 8 / Equalize .9 2, ShearY .2 7 / Posterize .3 7,
        Color .4 3 / Brightness .6 7, Sharpness .3 9 / Brightness .7 9, Equalize .6 5 / Equalize .5 1,
        Contrast .6 7 / Sharpness .6 5, Color .7 7 / TranslateX .5 8, Equalize .3 7 / AutoContrast .4 8,
        TranslateY .4 3 / Sharpness .2 6, Brightness .9 6 / Color .2 8, Solarize .5 2 / Invert 0 3,
        Equalize .2 0 / AutoContrast .6 0, Equalize .2 8 / Equalize .6 4, Color .9 9 / Equalize .6 6,
        AutoContrast .8 4 / Solarize .2 8, Brightness .1 3 / Color .7 0, Solarize .4 5 / AutoContrast .9 3,
        TranslateY .9 9 / TranslateY .7 9, AutoContrast .9 2 / Solarize .8 3, Equalize .8 8 / Invert .1 3,
        TranslateY .7 9 / AutoContrast .9 1""",
    "svhn": """
        ShearX .9 4 / Invert .2 3, ShearY .9 8 / Invert .7 5, Equalize .6 5 / Solarize .6 6,
        Invert .9 3 / Equalize .6 3, Equalize .6 1 / Rotate .9 3, ShearX .9 4 / AutoContrast .8 3,
        ShearY .9 8 / Invert .4 5, ShearY .9 5 / Solarize .2 6, Invert .9 6 / AutoContrast .8 1,
        Equalize .6 3 / Rotate .9 3, ShearX .9 4 / Solarize .3 3, ShearY .8 8 / Invert .7 4,
        Equalize .9 5 / TranslateY .6 6, Invert .9 4 / Equalize .6 7, Contrast .3 3 / Rotate .8 4,
        Invert .8 5 / TranslateY 0 2, ShearY .7 6 / Solarize .4 8, Invert .6 4 / Rotate .8 4,
        ShearY .3 7 / TranslateX .9 3, ShearX .1 6 / Invert .6 5, Solarize .7 2 / TranslateY .6 7,
        ShearY .8 4 / Invert .8 8, ShearX .7 9 / TranslateY .8 3, ShearY .8 5 / AutoContrast .7 3,
        ShearX .7 2 / Invert .1 5""",
    "imagenet": """
        Posterize .4 8 / Rotate .6 9, Solarize .6 5 / AutoContrast .6 5, Equalize .8 8 / Equalize .6 3,
        Posterize .6 7 / Posterize .6 6, Equalize .4 7 / Solarize .2 4, Equalize .4 4 / Rotate .8 8,
        Solarize .6 3 / Equalize .6 7, Posterize .8 5 / Equalize 1 2, Rotate .2 3 / Solarize .6 8,
        Equalize .6 8 / Posterize .4 6, Rotate .8 8 / Color .4 0, Rotate .4 9 / Equalize .6 2,
        Equalize 0 7 / Equalize .8 8, Invert .6 4 / Equalize 1 8, Color .6 4 / Contrast 1 8,
        Rotate .8 8 / Color 1 2, Color .8 8 / Solarize .8 7, Sharpness .4 7 / Invert .6 8,
        ShearX .6 5 / Equalize 1 9, Color .4 0 / Equalize .6 3, Equalize .4 7 / Solarize .2 4,
        Solarize .6 5 / AutoContrast .6 5, Invert .6 4 / Equalize 1 8, Color .6 4 / Contrast 1 8,
        Equalize .8 8 / Equalize .6 3""",
}
"""The learned policies (Cubuk et al. 2019): 25 pairs of operation, probability and level (0 to 10)."""

RANDOM = (
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""The operations of all random policies. A draw is a position in this list, so a new operation changes all draws."""

TRIVIAL_AUGMENT = ("Identity", *RANDOM)
"""The operations of TrivialAugment, chosen uniformly."""

RAND_AUGMENT = {"torchvision": ("Identity", *RANDOM), "agmax": (*RANDOM, "Invert")}
"""The operations of RandAugment by its two definitions, chosen uniformly."""

NUM_LEVELS = 31
"""Number of levels of RandAugment and TrivialAugment, 0 to 30, as in torchvision."""


class MagnitudeScale(NamedTuple):
    """The value of each operation at each level: center + magnitude, or center ± magnitude if it has a sign."""

    center: Values  # [operations]
    magnitude: Values  # [operations, levels]
    has_sign: NDArray[np.bool_]  # [operations]

    def values(self, codes: Codes, levels: Codes, rng: np.random.Generator) -> Values:
        """Return the value of each operation at its level, with a random sign if it has one."""
        signs = np.where(self.has_sign[codes] & (rng.random(codes.shape) < 0.5), -1.0, 1.0)
        return self.center[codes] + signs * self.magnitude[codes, levels]


def auto_augment(
    num_images: int, height: int, width: int, *, policy: str, magnitudes: str, rng: np.random.Generator
) -> Plan:
    """Draw one of the 25 pairs of a learned policy for each image, and each of its operations by its probability.

    Cubuk et al. 2019. `magnitudes` chooses the values of the levels, those of `agmax` or `torchvision`.
    """
    codes, probabilities, levels = _learned_policy(policy)
    chosen = rng.integers(len(codes), size=num_images)
    happens = rng.random((num_images, 2)) < probabilities[chosen]
    values = MAGNITUDES[magnitudes](height, width).values(codes[chosen], levels[chosen], rng)
    return np.where(happens, codes[chosen], CODES["Identity"]), values


def rand_augment(
    num_images: int,
    height: int,
    width: int,
    *,
    definition: str,
    num_ops: int,
    magnitude: int,
    rng: np.random.Generator,
) -> Plan:
    """Draw `num_ops` operations for each image (Cubuk et al. 2020).

    Definition `torchvision`: all have the level `magnitude`, 0 to 30. Definition `agmax`: half of the images are not
    changed; the others get operations of random levels from 1 to 10, and `magnitude` is not used.
    """
    shape = (num_images, num_ops)
    if definition == "torchvision":
        codes = _choose(RAND_AUGMENT[definition], shape, rng)
        levels = np.full(shape, magnitude)
        return codes, torchvision_random(height, width).values(codes, levels, rng)
    codes = np.where(
        rng.random((num_images, 1)) < 0.5, CODES["Identity"], _choose(RAND_AUGMENT[definition], shape, rng)
    )
    return codes, agmax_scale(height, width).values(codes, rng.integers(1, 11, shape), rng)


def trivial_augment(num_images: int, height: int, width: int, *, rng: np.random.Generator) -> Plan:
    """Draw one operation of a random level for each image (Müller and Hutter 2021, the wide ranges)."""
    codes = _choose(TRIVIAL_AUGMENT, (num_images, 1), rng)
    levels = rng.integers(NUM_LEVELS, size=codes.shape)
    return codes, torchvision_wide(height, width).values(codes, levels, rng)


def color_jitter(
    num_images: int, *, brightness: float, contrast: float, saturation: float, rng: np.random.Generator
) -> Plan:
    """Draw factors of brightness, contrast and saturation for each image, in random order.

    Each factor is uniform between 1 - strength (at least 0) and 1 + strength.
    """
    strengths = np.array([brightness, contrast, saturation])
    codes = np.tile([CODES["Brightness"], CODES["Contrast"], CODES["Color"]], (num_images, 1))
    factors = rng.uniform(np.maximum(1 - strengths, 0), 1 + strengths, size=codes.shape)
    codes = np.where(strengths > 0, codes, CODES["Identity"])
    order = rng.permuted(np.tile(np.arange(3), (num_images, 1)), axis=1)
    return np.take_along_axis(codes, order, 1), np.take_along_axis(factors, order, 1)


def _choose(names: Sequence[str], shape: tuple[int, int], rng: np.random.Generator) -> Codes:
    return np.array([CODES[name] for name in names])[rng.integers(len(names), size=shape)]


@lru_cache
def _learned_policy(policy: str) -> tuple[Codes, Values, Codes]:
    """Return the operations, probabilities and levels of a learned policy, each [25, 2]."""
    pairs = [[step.split() for step in pair.split("/")] for pair in AUTO_AUGMENT[policy].split(",")]
    codes = np.array([[CODES[name] for name, _, _ in pair] for pair in pairs])
    probabilities = np.array([[float(probability) for _, probability, _ in pair] for pair in pairs])
    return codes, probabilities, np.array([[int(level) for _, _, level in pair] for pair in pairs])


@lru_cache
def agmax_scale(height: int, width: int) -> MagnitudeScale:
    """Return the values of levels 0 to 10 in the AgMax program.

    Its factors have no sign, and higher levels of Solarize and Posterize change less. It translates by fractions of a
    pixel, which Pillow rounds.
    """
    level = np.arange(11)
    return _magnitudes(
        shear=0.03 * level,
        translate_x=np.floor(0.045 * level * width + 0.5),
        translate_y=np.floor(0.045 * level * height + 0.5),
        rotate=3.0 * level,
        factor=0.1 + 0.18 * level,
        solarize=25.6 * level,
        posterize=np.floor(4 + 0.4 * level),
        factor_center=0.0,
    )


@lru_cache
def torchvision_scale(height: int, width: int) -> MagnitudeScale:
    """Return the values of AutoAugment's levels 0 to 9 in torchvision; level 10 does not occur."""
    return _torchvision(10, 150 / 331 * height, 150 / 331 * width, 0.3, 30.0, 0.9, 4)


@lru_cache
def torchvision_random(height: int, width: int) -> MagnitudeScale:
    """Return the values of RandAugment's 31 levels in torchvision."""
    return _torchvision(NUM_LEVELS, 150 / 331 * height, 150 / 331 * width, 0.3, 30.0, 0.9, 4)


@lru_cache
def torchvision_wide(height: int, width: int) -> MagnitudeScale:
    """Return the values of TrivialAugment's 31 levels in torchvision: up to 32 pixels for images of any size."""
    return _torchvision(NUM_LEVELS, 32.0, 32.0, 0.99, 135.0, 0.99, 6)


MAGNITUDES = {"agmax": agmax_scale, "torchvision": torchvision_scale}
"""The values of AutoAugment's levels."""


def _torchvision(
    num_levels: int, down: float, right: float, shear: float, degrees: float, factor: float, bits: int
) -> MagnitudeScale:
    def spread(first: float, last: float) -> Values:
        return torch.linspace(first, last, num_levels).double().numpy()

    return _magnitudes(
        shear=spread(0, shear),
        translate_x=np.trunc(spread(0, right)),
        translate_y=np.trunc(spread(0, down)),
        rotate=spread(0, degrees),
        factor=spread(0, factor),
        solarize=255 * spread(1, 0),
        posterize=(8 - torch.arange(num_levels) / ((num_levels - 1) / bits)).round().double().numpy(),
        factor_center=1.0,
    )


def _magnitudes(
    *,
    shear: Values,
    translate_x: Values,
    translate_y: Values,
    rotate: Values,
    factor: Values,
    solarize: Values,
    posterize: Values,
    factor_center: float,
) -> MagnitudeScale:
    """Combine the magnitudes of all operations; factors have a sign if their center is not 0."""
    moves = {"ShearX": shear, "ShearY": shear, "TranslateX": translate_x, "TranslateY": translate_y, "Rotate": rotate}
    factors = dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), factor)
    magnitudes = {**moves, **factors, "Solarize": solarize, "Posterize": posterize}
    nothing = np.zeros_like(shear)
    return MagnitudeScale(
        center=np.array([factor_center if name in factors else 0.0 for name in NAMES]),
        magnitude=np.stack([magnitudes.get(name, nothing) for name in NAMES]),
        has_sign=np.array([name in moves or (name in factors and factor_center > 0) for name in NAMES]),
    )
