"""Output files replace nothing that must stay, and a path that cannot be written is reported before the run."""

import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from agmax.checkpoints.write import save_checkpoint
from agmax.core import storage
from agmax.core.download import fetch
from agmax.core.errors import OutputError, UsageError
from agmax.core.storage import (
    AlreadyExistsError,
    atomic_file,
    check_output,
    check_writable,
    output_file,
    write_file,
)
from helpers.files import names
from helpers.processes import run_code
from helpers.training import tree

# --- paths that must not be replaced ---------------------------------------------------------------------------------


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    (path.parent / "linked").write_bytes(b"old")
    path.symlink_to("linked")


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a pipe": make_fifo,
    "a link": make_link,
    "a link to nowhere": make_dangling_link,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_path_that_is_not_a_plain_file_is_never_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    path = tmp_path / "a"
    SPECIAL[kind](path)
    before = path.lstat()
    written = names(tmp_path)
    why = rf"cannot write \(.*/a\): it is {kind.removesuffix(' to nowhere')}"
    with pytest.raises(OutputError, match=why) as caught:
        check_output(path, force=force)
    assert caught.value.exit_code == 6
    for write in (lambda: write_file(path, "new"), lambda: fetch("https://127.0.0.1:1/a", path)):
        with pytest.raises(OutputError, match=why):
            write()
    with pytest.raises(OutputError, match=why), output_file(path, force=force) as file:
        file.write(b"new")
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert names(tmp_path) == written
    assert not (tmp_path / "linked").exists() or (tmp_path / "linked").read_bytes() == b"old"


def test_a_pipe_created_during_the_write_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a pipe"), output_file(tmp_path / "a", force=True):
        os.mkfifo(tmp_path / "a")
    assert names(tmp_path) == ["a"] and stat.S_ISFIFO((tmp_path / "a").lstat().st_mode)


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_devices_are_never_replaced(device: str) -> None:
    before = names(Path("/dev"))
    for force in (False, True):
        with pytest.raises(OutputError, match=f"cannot write \\({device}\\): it is a device"):
            check_output(Path(device), force=force)
        with pytest.raises(OutputError, match="it is a device"), output_file(Path(device), force=force):
            pytest.fail("it was opened")
    assert stat.S_ISCHR(os.lstat(device).st_mode) and names(Path("/dev")) == before


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(
        AlreadyExistsError, match=r"the file exists already \(.*a\)\. Give --force to replace it"
    ) as caught:
        check_output(path)
    assert isinstance(caught.value, UsageError) and caught.value.exit_code == 2
    with pytest.raises(AlreadyExistsError), output_file(path):
        pytest.fail("it was opened")
    assert path.read_bytes() == b"old"
    check_output(path, force=True)
    with output_file(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return a folder that looks like a run folder, with a checkpoint."""
    folder = tmp_path / "runs" / "ResNet8" / "digits-s0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "checkpoints" / "step-00000012.pth").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("name", ["new.png", "checkpoints/new.pth", "checkpoints/step-00000012.pth", "config.yaml"])
def test_nothing_is_written_into_a_run_folder(run_folder: Path, tmp_path: Path, name: str) -> None:
    before = tree(tmp_path)
    (tmp_path / "by-link").symlink_to(run_folder)
    for path in (run_folder / name, tmp_path / "by-link" / name):
        with pytest.raises(OutputError, match=r"in the run folder .*digits-s0, which only its training may write"):
            check_output(path, force=True)
    (tmp_path / "by-link").unlink()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("mark", ["metrics.jsonl", "environment.json", ".lock"])
def test_a_run_folder_without_a_checkpoint_is_recognized(run_folder: Path, mark: str) -> None:
    (run_folder / "checkpoints" / "step-00000012.pth").unlink()
    check_output(run_folder / "a.png")
    (run_folder / mark).touch()
    with pytest.raises(OutputError, match="it is in the run folder"):
        check_output(run_folder / "a.png")


def test_a_folder_with_a_configuration_and_downloaded_checkpoints_is_not_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "imagenet-agmax.pth").touch()
    check_output(tmp_path / "a.png")
    check_output(tmp_path / "checkpoints" / "features.pth")


# --- checks before a run, and explanations of errors -----------------------------------------------------------------


def test_checking_that_a_path_can_be_written_leaves_no_file(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder", is_folder=True)
    check_writable(tmp_path / "new" / "results.jsonl")
    check_output(tmp_path / "new" / "a.png")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "folder"]
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(OutputError, match="cannot write"):
            check_writable(path, is_folder=True)
    for path in (tmp_path / "file" / "a", tmp_path):
        with pytest.raises(OutputError, match="cannot write"):
            check_writable(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/a", "its folder does not exist"),
        ("file/a", "Not a directory"),
        ("a" * 256, "File name too long"),
        ("loop/a", "Too many levels of symbolic links"),
    ],
)
def test_an_error_says_what_is_wrong_with_a_path(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for write in (check_output, lambda path: write_file(path, "new")):
        with pytest.raises(OutputError, match=why):
            write(tmp_path / name)
    assert names(tmp_path) == ["file", "loop"]


@contextmanager
def no_longer_than(num_bytes: int) -> Iterator[None]:
    """Limit the size of every file that this process writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_system_error_inside_a_torch_error_is_reported(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pth", {"weights": torch.zeros(10)})
    before = (tmp_path / "a.pth").read_bytes()
    with pytest.raises(OutputError, match=r"cannot write \(.*a\.pth\): File too large"), no_longer_than(50_000):
        save_checkpoint(tmp_path / "a.pth", {"weights": torch.zeros(100_000)})
    assert (tmp_path / "a.pth").read_bytes() == before and names(tmp_path) == ["a.pth"]


def test_a_torch_error_without_a_cause_is_reported_as_a_full_disk_if_the_disk_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, kind in ((storage.NEARLY_FULL - 1, OutputError), (storage.NEARLY_FULL, RuntimeError)):
        monkeypatch.setattr(storage, "free_bytes", lambda _, free=free: free)
        why = "disk full" if kind is OutputError else "unexpected pos"
        with pytest.raises(kind, match=why), atomic_file(tmp_path / "a"):
            raise RuntimeError("unexpected pos 704 vs 598")
    with pytest.raises(RuntimeError, match="a worker died"), atomic_file(tmp_path / "a"):
        raise RuntimeError("a worker died")
    assert names(tmp_path) == []


IN_SMALL = """
import subprocess
from pathlib import Path
import torch
from agmax.checkpoints.write import save_checkpoint
from agmax.core.errors import OutputError
from agmax.core.storage import check_output, check_writable, write_file
def print_error(write, *arguments, **keywords):
    try:
        write(*arguments, **keywords)
    except OutputError as error:
        print(error)
mounts = "mount -t tmpfs -o size=1m small small && mount -t tmpfs -o ro sealed sealed"
subprocess.run(mounts, shell=True, check=True)
path = Path("small/a.pth")
save_checkpoint(path, {"weights": torch.zeros(10)})
before = path.read_bytes()
print_error(save_checkpoint, path, {"weights": torch.zeros(1_000_000)})
print_error(write_file, Path("small/b"), b"x" * 2_000_000)
assert path.read_bytes() == before and list(Path("small").iterdir()) == [path]
for folder in (Path("sealed"), Path("sealed/new")):
    print_error(check_writable, folder, is_folder=True)
print_error(check_output, Path("sealed/a"))
print_error(write_file, Path("sealed/a"), "new")
"""


def test_a_full_disk_and_a_read_only_one_are_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "sealed").mkdir()
    done = run_code(IN_SMALL, folder=tmp_path, mounts=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line, name in zip(lines, ("a.pth", "b"), strict=False):
        assert line.startswith(f"disk full (small/{name}): No space left on device, ")
        assert "MiB are free. Free space and start again" in line
    assert all(line.startswith("cannot write (sealed") and "Read-only file system" in line for line in lines[2:])
