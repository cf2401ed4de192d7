"""Policies in the pipeline: the pixels of batches against torchvision's, image by image."""

import pytest
import torch

from agmax.augment import policies
from agmax.augment.operations import NAMES
from helpers.augment import make_pipeline, raw_batch
from helpers.operations import torchvision_answer
from helpers.policies import normalized, policy_rng

POLICIES = ["auto_augment", "rand_augment", "trivial_augment"]
OFF = {"augment__crop": "none", "augment__flip": False}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_gives_views_steps_and_seeds_different_images(policy: str) -> None:
    raw = raw_batch()
    make = make_pipeline(f"ResNet8-{policy}-agmax", **OFF)
    other = make_pipeline(f"ResNet8-{policy}-agmax", **OFF, train__seed=1)
    first, again, later = (make(raw, step=step).images for step in (5, 5, 6))
    assert torch.equal(first, again)
    for one, two in [(first[:, 0], first[:, 1]), (first, later), (first, other(raw, step=5).images)]:
        differing = (one != two).flatten(1).any(1)
        assert differing.float().mean() > 0.5


@pytest.mark.parametrize("method", ["", "-agmax"])
@pytest.mark.parametrize(("table", "scale"), [("cifar10", "agmax"), ("imagenet", "torchvision"), ("svhn", "agmax")])
def test_auto_augmented_batches_equal_torchvision_image_by_image(table: str, scale: str, method: str) -> None:
    raw = raw_batch(16)
    make = make_pipeline(
        f"ResNet8-no_basic_augment-auto_augment{method}",
        augment__auto_augment__policy=table,
        augment__auto_augment__magnitudes=scale,
    )
    met = set()
    for step in range(6):
        batch = make(raw, step=step)
        for view in range(batch.images.shape[1]):
            codes, values = policies.auto_augment(
                16, 32, 32, policy=table, magnitudes=scale, rng=policy_rng(step, view)
            )
            for place, image in enumerate(raw.images):
                for code, value in zip(codes[place].tolist(), values[place].tolist(), strict=True):
                    image = torchvision_answer(image, NAMES[code], value)
                    met.add(NAMES[code])
                assert torch.equal(batch.images[place, view], normalized(image, make))
    assert len(met) >= 9


def test_the_policy_sees_the_cropped_and_mirrored_image() -> None:
    """Crop and flip come before it: the same crops without the policy, then torchvision's operations."""
    raw = raw_batch(16)
    plain, make = make_pipeline("ResNet8"), make_pipeline("ResNet8-trivial_augment")
    cropped = plain(raw, step=3).images[:, 0]
    pixels = (cropped * plain.std[:, None, None] + plain.mean[:, None, None]) * 255
    codes, values = policies.trivial_augment(16, 32, 32, rng=policy_rng(3, 0))
    for place, image in enumerate(pixels.round().to(torch.uint8)):
        changed = torchvision_answer(image, NAMES[codes[place, 0]], float(values[place, 0]))
        assert torch.equal(make(raw, step=3).images[place, 0], normalized(changed, make))
