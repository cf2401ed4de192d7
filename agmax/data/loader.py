"""What delivers images: resident in memory or streamed from files, the rest of the program need not know."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from agmax.core.batch import RawBatch


class Loader(Protocol):
    """The images of one split."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        """Deliver a sample for each tensor of positions [N], in order."""
        ...
