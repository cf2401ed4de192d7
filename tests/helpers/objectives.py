"""Random outputs of a model, and the terms that compare its views."""

from collections.abc import Callable

import torch
from torch import Tensor

from agmax.core.batch import Outputs
from agmax.losses import feature_distance, jensen_shannon, stop_gradient_kl, symmetric_kl

Term = Callable[[Outputs], Tensor]

NUM_IMAGES, NUM_CLASSES, NUM_FEATURES = 6, 5, 7

OF_LOGITS: dict[str, Term] = {
    "js": lambda outputs: jensen_shannon(outputs.logits),
    "symmetric_kl": lambda outputs: symmetric_kl(outputs.logits),
    "stop_gradient": lambda outputs: stop_gradient_kl(outputs.logits),
}
TERMS = OF_LOGITS | {"tied_features": lambda outputs: feature_distance(some(outputs.features))}


def some(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def random_outputs(num_views: int = 2, *, seed: int = 0) -> Outputs:
    """Make outputs of a model in float64 that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (NUM_IMAGES, num_views, NUM_CLASSES),
        (NUM_IMAGES, NUM_CLASSES),
        (NUM_IMAGES, num_views, NUM_FEATURES),
    ]
    drawn = [3 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return Outputs(*(values.requires_grad_() for values in drawn))
