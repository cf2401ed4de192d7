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
"""Checkpoints kept beside the best."""


class CheckpointFolder:
    """The folder `checkpoints/` of a run; what is newest is computed from the files, no pointer can lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = folder / "best.pth"

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pth"

    def list_checkpoints(self) -> list[Path]:
        """Return the checkpoints by step, the newest last."""
        return sorted(path for path in self.folder.glob("step-*.pth") if re.fullmatch(r"step-\d{8,}", path.stem))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save a checkpoint and remove all but the newest two."""
        save_checkpoint(self.path(step), state)
        for old in self.list_checkpoints()[:-KEEP]:
            old.unlink(missing_ok=True)

    def keep_best(self, step: int) -> None:
        """Keep the checkpoint of a step as the best so far."""
        copy_checkpoint(self.path(step), self.best)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the checkpoint of the highest step that is whole, saying so where a newer one is not.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        failures: list[str] = []
        for path in reversed(self.list_checkpoints()):
            try:
                return path, load(path)
            except CheckpointError as error:
                log.warning("warning: %s; taking the one before", error)
                failures.append(path.name)
        if failures:
            raise CheckpointError("no whole checkpoint", where=self.folder, why=f"damaged: {', '.join(failures)}")
        return None

    def sweep(self) -> None:
        """Remove what a killed training left half written."""
        sweep(self.folder)
