"""The checkpoints of one run: the newest two and the best."""

import re
from pathlib import Path
from typing import Any

from agmax.checkpoints.read import load
from agmax.checkpoints.write import copy_checkpoint, save_checkpoint
from agmax.core.errors import CheckpointError
from agmax.core.logs import log
from agmax.core.storage import sweep

KEEP = 2
"""Number of checkpoints kept, in addition to the best."""


class CheckpointFolder:
    """The folder `checkpoints/` of a run. The newest checkpoint is found by the file names; no file points to it."""

    def __init__(self, folder: Path, *, keep_every_steps: int | None = None) -> None:
        """The checkpoint of every `keep_every_steps`-th step is kept for good."""
        self.folder = folder
        self.best = folder / "best.pth"
        self._keep_every_steps = keep_every_steps

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}.pth"

    def list_checkpoints(self) -> list[Path]:
        """Return the paths of all checkpoints but the best, in the order of their steps."""
        return sorted(path for path in self.folder.glob("step-*.pth") if re.fullmatch(r"step-\d{8,}", path.stem))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save a checkpoint and remove all but the newest two and those kept for good."""
        save_checkpoint(self.path(step), state)
        for old in self.list_checkpoints()[:-KEEP]:
            if not self._keep_every_steps or _step_of(old) % self._keep_every_steps:
                old.unlink(missing_ok=True)

    def keep_best(self, step: int) -> None:
        """Keep the checkpoint of a step as the best so far."""
        copy_checkpoint(self.path(step), self.best)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the undamaged checkpoint of the highest step, with a warning for each damaged one; None without any.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        failures: list[str] = []
        for path in reversed(self.list_checkpoints()):
            try:
                return path, load(path)
            except CheckpointError as error:
                log.warning("warning: %s; trying the previous checkpoint", error)
                failures.append(path.name)
        if failures:
            raise CheckpointError("no undamaged checkpoint", where=self.folder, why=f"damaged: {', '.join(failures)}")
        return None

    def sweep(self) -> None:
        """Remove the partial files of a killed training."""
        sweep(self.folder)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
