"""The interface of loaders, for images in memory and in files alike."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from agmax.core.batch import RawBatch


class Loader(Protocol):
    """A loader of the images of one split."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        """Yield a batch for each tensor of positions [N], in order."""
        ...
