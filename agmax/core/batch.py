"""The three shapes that travel through everything.

The axes have one name everywhere:

    N  images of a batch             K  classes
    V  views of each image           F  features before the classifier
    B  N·V images, views side by side  C, H, W  channels, height, width

N stands first and V second: DataParallel cuts dimension 0, so each device keeps all views of its images.
"""

from typing import NamedTuple

from torch import Tensor


class RawBatch(NamedTuple):
    """What the data set delivers: pixels as they are in the files."""

    images: Tensor  # uint8 [N, C, H, W], or [N, V, C, H, W] where the workers cut each view
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N], positions in the data set


class Batch(NamedTuple):
    """What a model trains on: normalised views and a row of class probabilities for each."""

    images: Tensor  # float [N, V, C, H, W]
    targets: Tensor  # float [N, V, K], every row sums to 1
    weights: Tensor  # float [N, V], of each view in the loss
    visible: Tensor | None = None  # float [N, V], of the image; None where no crop or box hides any of it


class Outputs(NamedTuple):
    """What a model answers."""

    logits: Tensor  # [N, V, K]
    joint_logits: Tensor | None = None  # [N, K], the Q network's, from all views together
    features: Tensor | None = None  # [N, V, F], pooled; only when an objective asks
