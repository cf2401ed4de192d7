"""A checkpoint that cannot be written: tried again, with the space of older ones, then saved elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.checkpoints.write import copy_checkpoint, save_checkpoint
from agmax.core import storage
from agmax.core.errors import DiskFullError, OutputError
from agmax.training import checkpoint_folder
from agmax.training.checkpoint_folder import ATTEMPTS, CheckpointFolder
from helpers.files import names

STATE = {"model": {"weight": torch.zeros(3)}}


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_folder, "RETRY_SECONDS", 0.0)


def failing(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    error: type[OutputError],
    *,
    times: int = 99,
    seen: list[list[str]] | None = None,
) -> None:
    """Let the next writes of checkpoints into a folder fail, and record what is in the folder at each attempt."""
    left = [times]

    def maybe(write: Callable[..., None], path: Path, *arguments: Any) -> None:
        if path.parent == folder:
            if seen is not None:
                seen.append(names(folder))
            if left[0]:
                left[0] -= 1
                raise error("no", where=path)
        write(*arguments)

    monkeypatch.setattr(
        checkpoint_folder, "save_checkpoint", lambda path, state: maybe(save_checkpoint, path, path, state)
    )
    monkeypatch.setattr(
        checkpoint_folder, "copy_checkpoint", lambda source, path: maybe(copy_checkpoint, path, source, path)
    )


def filled(folder: Path, *steps: int, **options: Any) -> CheckpointFolder:
    checkpoints = CheckpointFolder(folder, **options)
    for step in steps:
        save_checkpoint(checkpoints.path(step), STATE)
    return checkpoints


def files(*steps: int) -> list[str]:
    return [f"step-{step:08d}.pth" for step in steps]


@pytest.mark.parametrize(("error", "remaining"), [(DiskFullError, (2,)), (OutputError, (1, 2))])
def test_only_on_a_full_disk_older_checkpoints_are_removed_and_the_newest_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OutputError], remaining: tuple[int, ...]
) -> None:
    checkpoints, seen = filled(tmp_path, 1, 2), list[list[str]]()
    failing(monkeypatch, tmp_path, error, times=1, seen=seen)
    checkpoints.save(3, STATE)
    assert seen == [files(1, 2), files(*remaining)]
    assert names(tmp_path) == files(2, 3)


def test_the_best_is_kept_with_the_space_of_an_older_checkpoint_but_none_that_is_kept_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = filled(tmp_path, 2, 3, 4, 5, keep_every_steps=2)
    failing(monkeypatch, tmp_path, DiskFullError, times=1)
    checkpoints.keep_best(5)
    assert names(tmp_path) == ["best.pth", *files(2, 4, 5)]


def test_a_checkpoint_that_fails_every_time_is_an_error_that_names_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    checkpoints = filled(tmp_path, 1, 2)
    failing(monkeypatch, tmp_path, OutputError, seen=seen)
    with pytest.raises(
        OutputError, match=r"no \(.*step-00000003\.pth\). The newest checkpoint is .*step-00000002\.pth"
    ):
        checkpoints.save(3, STATE)
    assert len(seen) == ATTEMPTS and names(tmp_path) == files(1, 2)
    empty = CheckpointFolder(tmp_path / "gone")
    with pytest.raises(OutputError, match=r"its folder does not exist\. There is no checkpoint"):
        empty.save(3, STATE)


def test_the_state_goes_to_the_fallback_where_the_newest_is_found_until_one_is_saved_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fallback = tmp_path / "a", tmp_path / "b" / "c"
    folder.mkdir()
    checkpoints = filled(folder, 1, fallback=fallback)
    with monkeypatch.context() as patch:
        failing(patch, folder, DiskFullError)
        with pytest.raises(OutputError, match=r"The state after step 2 is in .*c/step-00000002.pth, where --resume"):
            checkpoints.save(2, STATE)
    assert names(folder) == files(1) and names(fallback) == files(2)
    newest = CheckpointFolder(folder, fallback=fallback).newest()
    assert newest is not None and newest[0] == fallback / "step-00000002.pth"
    without = CheckpointFolder(folder).newest()
    assert without is not None and without[0] == folder / "step-00000001.pth"
    (fallback / ".step-00000003.pth.tmp-7").write_bytes(b"half")
    checkpoints.save(2, STATE)
    assert names(folder) == files(1, 2) and not fallback.exists()


def test_a_fallback_that_fails_too_is_named_beside_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    checkpoints = filled(tmp_path, 1, fallback=tmp_path / "file" / "b")
    failing(monkeypatch, tmp_path, OutputError)
    with pytest.raises(OutputError, match=r"no \(.*\); cannot write \(.*file/b\): Not a directory. The newest"):
        checkpoints.save(2, STATE)


def test_the_space_of_three_checkpoints_is_needed_and_those_that_exist_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = filled(tmp_path)
    size, free = 1_000_000, [2_999_999]
    monkeypatch.setattr(storage, "free_bytes", lambda folder: free[0] if folder == tmp_path else 0)
    with pytest.raises(DiskFullError, match=r"and the best need 2\.9 MiB, 2\.9 MiB are free\. Free space, or set"):
        checkpoints.check_space(size)
    free[0] = 3_000_000
    checkpoints.check_space(size)
    for number, file in enumerate(("step-00000001.pth", "step-00000002.pth", "best.pth"), start=1):
        (tmp_path / file).write_bytes(bytes(size))
        free[0] = 3_000_000 - number * size
        checkpoints.check_space(size)
        free[0] -= 1
        if free[0] >= 0:
            with pytest.raises(DiskFullError):
                checkpoints.check_space(size)
