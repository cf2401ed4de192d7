"""Show a training in TensorBoard: `tensorboard --logdir runs`."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Board:
    """Write the numbers of each row of metrics.jsonl as scalars by step."""

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        """Continue after `first_step`; later points of an interrupted training are dropped."""
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def __call__(self, row: dict[str, Any]) -> None:
        """Add one row."""
        numbers = {**row, **row["timing"]}
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()
