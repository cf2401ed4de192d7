"""The checkpoints of one run: the newest two and the best."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agmax.checkpoints.read import load
from agmax.checkpoints.write import copy_checkpoint, save_checkpoint
from agmax.core.errors import CheckpointError, DiskFullError, OutputError
from agmax.core.logs import log
from agmax.core.storage import check_space, explain, free_bytes, make_folder, sweep

KEEP = 2
"""Number of checkpoints kept, in addition to the best."""

SPARE = 1.1
"""Free space, as a multiple of the newest checkpoint, with which the next one is written beside the older ones."""

ATTEMPTS, RETRY_SECONDS = 3, 1.0
"""How often a checkpoint is written if that fails, and the seconds between two attempts."""


class CheckpointFolder:
    """The folder `checkpoints/` of a run. The newest checkpoint is found by the file names; no file points to it."""

    def __init__(self, folder: Path, *, keep_every_steps: int | None = None, fallback: Path | None = None) -> None:
        """The checkpoint of every `keep_every_steps`-th step is kept for good.

        If a checkpoint cannot be written to `folder`, it goes to the folder `fallback`, where `newest` finds it.
        """
        self.folder, self.fallback = folder, fallback
        self.best = folder / "best.pth"
        self._keep_every_steps = keep_every_steps

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}.pth"

    def list_checkpoints(self) -> list[Path]:
        """Return the paths of all checkpoints but the best, in the order of their steps."""
        return _checkpoints_in(self.folder)

    def check_space(self, checkpoint_bytes: int) -> None:
        """Check that the disk has space for three checkpoints; those that exist count.

        Raises:
            DiskFullError: it has not.
        """
        make_folder(self.folder)
        existing = [*self.list_checkpoints()[-KEEP:], *([self.best] if self.best.is_file() else [])]
        needed = (KEEP + 1) * checkpoint_bytes - sum(path.stat().st_size for path in existing)
        remedy = "Free space, or set train.runs_dir to a folder on a larger disk"
        check_space(self.folder, needed, purpose="the newest two checkpoints and the best", remedy=remedy)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save a checkpoint and remove all but the newest two and those kept for good.

        Raises:
            OutputError: it cannot be written, after ATTEMPTS and with the space of older checkpoints. The newest
                complete checkpoint is intact, and the state is in `fallback` if there is one.
        """
        try:
            self._write(lambda: save_checkpoint(self.path(step), state))
        except OutputError as error:
            raise self._save_elsewhere(step, state, error) from error
        self._remove_old(keep=KEEP)
        if self.fallback is not None and self.fallback.is_dir():
            sweep(self.fallback)
            for path in _checkpoints_in(self.fallback):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds other files
                self.fallback.rmdir()

    def keep_best(self, step: int) -> None:
        """Keep the checkpoint of a step as the best so far.

        Raises:
            OutputError: it cannot be written.
            CheckpointError: the checkpoint of the step cannot be read.
        """
        self._write(lambda: copy_checkpoint(self.path(step), self.best))

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Load the undamaged checkpoint of the highest step, with a warning for each damaged one; None without any.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        failures: list[str] = []
        paths = sorted([*self.list_checkpoints(), *_checkpoints_in(self.fallback)], key=_step_of)
        while paths:
            path = paths.pop()
            try:
                return path, load(path)
            except CheckpointError as error:
                log.warning("warning: %s%s", error.summary, "; trying the previous checkpoint" if paths else "")
                failures.append(path.name)
        if failures:
            raise CheckpointError("no undamaged checkpoint", where=self.folder, why=f"damaged: {', '.join(failures)}")
        return None

    def set_aside_after(self, step: int) -> None:
        """Rename the checkpoints of later steps, which are damaged: they must not count as the newest.

        Raises:
            OutputError: a file cannot be renamed.
        """
        for path in self.list_checkpoints():
            if _step_of(path) > step:
                with explain(path, what="cannot rename"):
                    path.rename(path.with_name(f"{path.name}.damaged"))

    def _write(self, write: Callable[[], None]) -> None:
        """Write a checkpoint; try again if that fails. On a full disk the older checkpoints are removed first."""
        paths = self.list_checkpoints()
        if len(paths) > 1 and free_bytes(self.folder) < SPARE * paths[-1].stat().st_size:
            self._remove_old(keep=1)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                write()
            except OutputError as error:
                if attempt == ATTEMPTS:
                    raise
                log.warning("warning: %s; trying again", error.summary)
                if isinstance(error, DiskFullError):
                    self._remove_old(keep=1)
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _remove_old(self, *, keep: int) -> None:
        """Remove all but the newest checkpoints and those kept for good."""
        for old in self.list_checkpoints()[:-keep]:
            step = _step_of(old)
            if not self._keep_every_steps or step == 0 or step % self._keep_every_steps:
                old.unlink(missing_ok=True)

    def _save_elsewhere(self, step: int, state: dict[str, Any], error: OutputError) -> OutputError:
        """Save a checkpoint to the fallback folder, and return the error that says where the state is."""
        newest = self.list_checkpoints()
        known = f"The newest checkpoint is {newest[-1]}" if newest else "There is no checkpoint"
        if self.fallback is None:
            return OutputError(str(error), remedy=known)
        path = self.fallback / self.path(step).name
        try:
            make_folder(self.fallback)
            save_checkpoint(path, state)
        except OutputError as second:
            return OutputError(f"{error.summary}; {second.summary}", remedy=known)
        return OutputError(str(error), remedy=f"The state after step {step} is in {path}, where --resume finds it")


def _checkpoints_in(folder: Path | None) -> list[Path]:
    """Return the paths of the checkpoints of steps in a folder, in the order of their steps."""
    paths = [] if folder is None else folder.glob("step-*.pth")
    return sorted((path for path in paths if re.fullmatch(r"step-\d{8,}", path.stem)), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
