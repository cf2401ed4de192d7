"""How the reference programs name their tensors and fill them."""

import zlib
from typing import Any

import numpy as np


def reference_value(key: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Fill a tensor by its key in the reference program, as released_checkpoints.json says."""
    if key.endswith("num_batches_tracked"):
        return np.array(7)
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        values = 0.5 + rng.rand(*shape)
    elif len(shape) >= 2:
        values = rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        values = 0.5 + rng.rand(*shape)
    else:
        values = 0.1 * rng.randn(*shape)
    return values.astype(np.float32)


def reference_key(key: str, *, is_agmax: bool) -> str:
    """Name one of our tensors as the reference program does."""
    if key.startswith("q_network."):
        return key.replace("q_network.", "qnet.")
    inside = key.removeprefix("backbone.")
    inside = inside.replace("head.", "classifier.") if inside.startswith("head.") else f"feature_extractor.{inside}"
    return f"backbone.{inside}" if is_agmax else inside
