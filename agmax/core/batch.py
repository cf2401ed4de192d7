"""The named tuples that pass between data, augmentation, model and loss.

The axes have the same names everywhere:

    N  images of a batch             K  classes
    V  views of each image           F  features before the classifier
    B  N·V images, views side by side  C, H, W  channels, height, width

N comes first and V second: DataParallel splits dimension 0, so each device keeps all views of its images.
"""

from typing import NamedTuple

from torch import Tensor


class RawBatch(NamedTuple):
    """A batch as a loader delivers it: pixels as stored, before augmentation."""

    images: Tensor  # uint8 [N, C, H, W], or [N, V, C, H, W] if the workers crop each view
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N], positions in the data set


class Batch(NamedTuple):
    """A batch as a model trains on it: normalized views and a row of class probabilities for each."""

    images: Tensor  # float [N, V, C, H, W]
    targets: Tensor  # float [N, V, K], every row sums to 1
    weights: Tensor  # float [N, V], the weight of each view in the loss
    visible: Tensor | None = None  # float [N, V], visible fraction of the image; None if nothing can occlude it


class Outputs(NamedTuple):
    """The outputs of a model."""

    logits: Tensor  # [N, V, K]
    joint_logits: Tensor | None = None  # [N, K], the Q network's prediction from all views together
    features: Tensor | None = None  # [N, V, F], pooled; only when an objective asks
