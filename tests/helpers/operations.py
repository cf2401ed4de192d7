"""One image at a time: torchvision's operations and ours."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from agmax.augment import operations
from agmax.augment.operations import CODES

FACTORS = ("Brightness", "Contrast", "Color", "Sharpness")
TORCHVISION = v2.AutoAugment()


def torchvision_answer(image: Tensor, name: str, value: float) -> Tensor:
    """Apply an operation to one image [C, H, W] as torchvision's AutoAugment does, by its measure of strength."""
    magnitude = value - 1 if name in FACTORS else value / 255 if name == "Solarize" else value
    answer = TORCHVISION._apply_image_or_video_transform(
        image, name, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={}
    )
    assert isinstance(answer, Tensor)
    return answer


def apply_one(image: Tensor, name: str, value: float = 0.0) -> Tensor:
    return operations.apply_operations(image[None], np.array([CODES[name]]), np.array([value]))[0]


def assert_same(result: Tensor, image: Tensor, name: str, value: float) -> None:
    """Compare with torchvision, bit for bit.

    In one case it does not agree with itself: the Contrast of an image of one level can be n or n - 1 in the last few
    pixels and the other in the rest, because its vector and scalar loops round differently; then either is right.
    """
    expected = torchvision_answer(image, name, value)
    wrong = result != expected
    if name == "Contrast":
        for level in image[wrong].unique():
            here = image == level
            answers = expected[here].unique()
            if len(answers) == 2 and len(result[here].unique()) == 1 and result[here][0] in answers:
                wrong &= ~here
    gaps = (result.int() - expected.int()).abs()[wrong]
    where = f"{name} {value} of an image {tuple(image.shape)}"
    assert not wrong.any(), f"{where}: {len(gaps)} values differ, by up to {gaps.max()}"


def random_image(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
    levels = {
        "any levels": np.arange(256),
        "one level": rng.integers(0, 256, 1),
        "two levels": rng.integers(0, 256, 2),
        "black and white": np.array([0, 255]),
        "a narrow range": np.arange(10) + rng.integers(0, 247),
    }
    return torch.from_numpy(rng.choice(levels[kind], shape).astype(np.uint8))


KINDS = ("any levels", "one level", "two levels", "black and white", "a narrow range")
