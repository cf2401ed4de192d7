"""Policies: their tables and levels against torchvision's and the AgMax program's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from agmax.augment import operations, policies
from agmax.augment import transforms as slots
from agmax.augment.operations import CODES, NAMES
from agmax.config.schema import choices
from helpers.augment import random_images
from helpers.policies import SIGNED, SPACES, TABLES, agmax_value, as_value, learned, torchvision_levels


@pytest.mark.parametrize("table", TABLES)
def test_the_learned_policies_equal_torchvisions(table: str) -> None:
    codes, probabilities, levels = policies._learned_policy(table)
    assert codes.shape == probabilities.shape == levels.shape == (25, 2)
    for pair, expected in enumerate(learned(table)):
        for place, (name, probability, level) in enumerate(expected):
            assert NAMES[codes[pair, place]] == name
            assert probabilities[pair, place] == probability
            assert level is None or levels[pair, place] == level


def test_color_of_sub_policy_13_has_the_level_of_the_paper() -> None:
    """AgMax's program says 6, the paper and torchvision 8."""
    codes, probabilities, levels = policies._learned_policy("cifar10")
    assert NAMES[codes[13, 1]] == "Color"
    assert (probabilities[13, 1], levels[13, 1]) == (0.2, 8)


SIZES = [(32, 32), (28, 28), (8, 8), (224, 224), (96, 64), (299, 331)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("policy", SPACES)
def test_levels_have_the_values_of_torchvision(policy: str, height: int, width: int) -> None:
    make, transform, _ = SPACES[policy]
    strength = make(height, width)
    for name in transform._AUGMENTATION_SPACE:
        magnitudes, has_sign = torchvision_levels(policy, name, height, width)
        code = CODES[name]
        assert strength.has_sign[code] == has_sign
        for sign in (1, -1) if has_sign else (1,):
            values = strength.center[code] + sign * strength.magnitude[code]
            expected = [as_value(name, sign * magnitude) for magnitude in magnitudes]
            if magnitudes != [0.0] * len(magnitudes):
                assert values.tolist() == expected, name


@pytest.mark.parametrize("policy", SPACES)
def test_every_operation_of_every_strength_equals_torchvisions_pixels(policy: str) -> None:
    make, transform, _ = SPACES[policy]
    images = random_images(1, 3, 48, 64, seed=7)
    strength = make(48, 64)
    for name in transform._AUGMENTATION_SPACE:
        magnitudes, has_sign = torchvision_levels(policy, name, 48, 64)
        signs = np.array([1, -1] if has_sign else [1])
        code = CODES[name]
        values = (strength.center[code] + signs[:, None] * strength.magnitude[code]).ravel()
        results = operations.apply_operations(images.repeat(len(values), 1, 1, 1), np.full(len(values), code), values)
        signed = [sign * magnitude for sign in signs.tolist() for magnitude in magnitudes]
        for result, magnitude in zip(results, signed, strict=True):
            expected = v2.AutoAugment()._apply_image_or_video_transform(
                images[0], name, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            assert torch.equal(result, expected), f"{name} {magnitude}"


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (8, 8), (224, 224), (96, 64)])
def test_levels_have_the_values_of_the_agmax_program(height: int, width: int) -> None:
    strength = policies.agmax_scale(height, width)
    for name in NAMES:
        code = CODES[name]
        assert strength.has_sign[code] == (name in SIGNED)
        values = strength.center[code] + strength.magnitude[code]
        expected = [agmax_value(name, level, height, width) for level in range(11)]
        assert values.tolist() == pytest.approx(expected, abs=1e-12), name


def test_levels_of_the_agmax_program_by_hand() -> None:
    """At 32 pixels 0.045 * m * 32 = 1.44 m; half of 0.1 to 1.9 is 1.0; int(4 + 0.4 m) from 4 to 8."""
    strength = policies.agmax_scale(32, 32)
    by_hand = {
        "TranslateX": [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 14],
        "Posterize": [4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8],
        "Brightness": [0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72, 1.9],
        "Rotate": [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30],
        "Solarize": [0, 25.6, 51.2, 76.8, 102.4, 128, 153.6, 179.2, 204.8, 230.4, 256],
        "ShearY": [0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27, 0.3],
    }
    for name, expected in by_hand.items():
        assert strength.magnitude[CODES[name]].tolist() == pytest.approx(expected)
        assert strength.center[CODES[name]] == 0


@pytest.mark.parametrize("size", [28, 32, 64, 96, 224])
@pytest.mark.parametrize("sign", [1, -1])
def test_fractions_of_a_pixel_move_an_image_as_far_as_pillow_moves_it(size: int, sign: int) -> None:
    image = random_images(1, 1, size, size)
    strength = policies.agmax_scale(size, size)
    for level in range(11):
        shift = sign * 0.045 * level * size
        for name, matrix in [("TranslateX", (1, 0, -shift, 0, 1, 0)), ("TranslateY", (1, 0, 0, 0, 1, -shift))]:
            moved = Image.fromarray(image[0, 0].numpy()).transform((size, size), Image.Transform.AFFINE, matrix)
            value = sign * strength.magnitude[CODES[name], level]
            result = operations.apply_operations(image, np.array([CODES[name]]), np.array([value]))
            assert np.array_equal(result[0, 0].numpy(), np.array(moved))


def test_the_tables_are_the_choices_of_the_configuration() -> None:
    assert set(policies.AUTO_AUGMENT) == set(choices("augment.auto_augment.policy"))
    assert set(policies.MAGNITUDES) == set(choices("augment.auto_augment.magnitudes"))
    assert set(slots.POLICIES) == set(choices("augment.policy")) - {"none"}
    draws = {
        definition: policies.rand_augment(
            1000, 32, 32, definition=definition, num_ops=2, magnitude=9, rng=np.random.default_rng(0)
        )[0]
        for definition in choices("augment.rand_augment.definition")
    }
    assert {name: CODES["Invert"] in codes for name, codes in draws.items()} == {"torchvision": False, "agmax": True}
