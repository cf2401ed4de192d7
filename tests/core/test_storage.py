"""Files are written atomically and have one writer."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from agmax.core import storage
from agmax.core.errors import DiskFullError, OutputError
from agmax.core.storage import (
    AlreadyExistsError,
    append,
    atomic_file,
    sweep,
    write_file,
)
from agmax.experiments.run_folder import RunFolder
from helpers.files import names

# --- atomic files ----------------------------------------------------------------------------------------------------


def test_a_file_exists_only_after_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]


class Stop(BaseException):
    """An exception that ends a program in the middle of a block."""


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, Stop])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def write() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"ne")
            raise failure

    with pytest.raises(failure):
        write()
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize(("number", "what"), [("ENOSPC", "disk full"), ("EDQUOT", "disk quota reached")])
def test_a_full_disk_and_a_quota_are_told_from_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, what: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(DiskFullError, match=rf"{what} \(.*a\): .*, [0-9.]+ MiB are free\. Free space and start again"):
        write_file(tmp_path / "a", "new")


def test_the_names_of_new_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(storage.os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    append(tmp_path / "a", "one\n")
    append(tmp_path / "a", "two\n")
    assert synced == [str(tmp_path / "a"), str(tmp_path), str(tmp_path / "a")]
    synced.clear()
    run = RunFolder.create(str(tmp_path), "name", "stem")
    assert synced == [str(run.path), str(run.path.parent), str(tmp_path)]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_system_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage.os, step, fail)
    with pytest.raises(OutputError, match=r"cannot write \(.*a\): Input/output error"):
        write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_file_that_does_not_verify_is_not_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def refuse(path: Path) -> None:
        assert path.read_bytes() == b"new"
        raise OSError("it is not what it should be")

    with (
        pytest.raises(OutputError, match="it is not what it should be"),
        atomic_file(tmp_path / "a", verify=refuse) as f,
    ):
        f.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_content_is_synced_before_it_is_put_in_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = os.replace

    def sync(number: int) -> None:
        done.append("sync folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "sync file")

    monkeypatch.setattr(storage.os, "fsync", sync)
    monkeypatch.setattr(storage.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_file(tmp_path / "a", "new")
    assert done == ["sync file", "replace", "sync folder"]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(storage.os, "fsync", sync)
    write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_created_during_the_write_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(storage.os, "link", refuse)
    with atomic_file(tmp_path / "new", replace=False) as file:
        file.write(b"new")
    assert (tmp_path / "new").read_bytes() == b"new"
    with pytest.raises(AlreadyExistsError), atomic_file(tmp_path / "a", replace=False) as file:
        (tmp_path / "a").write_bytes(b"another's")
    assert (tmp_path / "a").read_bytes() == b"another's" and names(tmp_path) == ["a", "new"]


def test_of_two_files_finished_at_the_same_time_the_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def other_is_faster(source: Path, path: Path) -> None:
        Path(path).write_bytes(b"another's")
        link(source, path)

    monkeypatch.setattr(storage.os, "link", other_is_faster)
    with pytest.raises(AlreadyExistsError), atomic_file(tmp_path / "a", replace=False) as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"another's" and names(tmp_path) == ["a"]


def test_a_name_of_the_maximum_length_can_be_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "ä" * 127):
        write_file(tmp_path / name, "new")
    assert names(tmp_path) == ["a" * 255, "ä" * 127]


def test_a_temporary_file_left_by_a_killed_program_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".a.tmp-{os.getpid()}").symlink_to(tmp_path / "elsewhere")
    write_file(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]


def test_sweep_removes_temporary_files_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", ".a.tmp-12", ".config.yaml.tmp-3", ".lock", "b.tmp-3", ".a.pth.part"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert names(tmp_path) == [".a.pth.part", ".lock", "a", "b.tmp-3"]


def test_lines_are_appended(tmp_path: Path) -> None:
    append(tmp_path / "a", "one\n")
    append(tmp_path / "a", b"two\n")
    assert (tmp_path / "a").read_text() == "one\ntwo\n"
    with pytest.raises(OutputError, match="cannot write"):
        append(tmp_path, "line\n")
