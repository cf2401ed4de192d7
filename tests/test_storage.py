"""Writing to disk: files are whole or not at all, have one writer, and replace nothing that must not be replaced."""

import ast
import errno
import os
import platform
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.checkpoints.write import save
from agmax.core import storage
from agmax.core.download import fetch
from agmax.core.errors import OutputError, UsageError
from agmax.core.storage import (
    TakenError,
    append,
    atomic_file,
    check_output,
    check_writable,
    output_file,
    sweep,
    write_file,
)
from helpers.command import Answer
from helpers.places import REPOSITORY, skip_or_fail
from helpers.training import tree

Run = Callable[..., Answer]

DIGITS = ("--dataset=digits", "dataset.train_limit=128")


def names(folder: Path) -> list[str]:
    """Return what is in a folder, hidden files too."""
    return sorted(os.listdir(folder))


# --- whole files -----------------------------------------------------------------------------------------------------


def test_a_file_is_there_when_the_block_has_ended_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]


class Stop(BaseException):
    """What ends a program in the middle of a block."""


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


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_of_the_system_leaves_the_old_file_and_nothing_else(
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


def test_a_file_system_whose_folders_are_not_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(storage.os, "fsync", sync)
    write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_not_to_be_replaced_stays_even_if_it_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(storage.os, "link", refuse)
    with atomic_file(tmp_path / "new", replace=False) as file:
        file.write(b"new")
    assert (tmp_path / "new").read_bytes() == b"new"
    with pytest.raises(TakenError), atomic_file(tmp_path / "a", replace=False) as file:
        (tmp_path / "a").write_bytes(b"another's")
    assert (tmp_path / "a").read_bytes() == b"another's" and names(tmp_path) == ["a", "new"]


def test_of_two_that_finish_in_the_same_instant_the_first_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def other_is_faster(source: Path, path: Path) -> None:
        Path(path).write_bytes(b"another's")
        link(source, path)

    monkeypatch.setattr(storage.os, "link", other_is_faster)
    with pytest.raises(TakenError), atomic_file(tmp_path / "a", replace=False) as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"another's" and names(tmp_path) == ["a"]


def test_a_name_as_long_as_may_be_can_be_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "ä" * 127):
        write_file(tmp_path / name, "new")
    assert names(tmp_path) == ["a" * 255, "ä" * 127]


def test_what_a_killed_program_of_the_same_number_has_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".a.tmp-{os.getpid()}").symlink_to(tmp_path / "elsewhere")
    write_file(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]


def test_leftovers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", ".a.tmp-12", ".config.yaml.tmp-3", ".lock", "b.tmp-3", ".a.pth.part"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert names(tmp_path) == [".a.pth.part", ".lock", "a", "b.tmp-3"]


def test_a_training_that_goes_on_sweeps_its_run_folder(run: Run) -> None:
    from agmax.experiments.run_folder import Run as RunFolder

    folder = RunFolder.create("runs", "name", "stem")
    (folder.path / ".config.yaml.tmp-7").write_text("half")
    with folder.locked():
        assert names(folder.path) == [".lock", "checkpoints"]


def test_lines_are_appended(tmp_path: Path) -> None:
    append(tmp_path / "a", "one\n")
    append(tmp_path / "a", b"two\n")
    assert (tmp_path / "a").read_text() == "one\ntwo\n"
    with pytest.raises(OutputError, match="cannot write"):
        append(tmp_path, "line\n")


# --- one writer ------------------------------------------------------------------------------------------------------


def test_a_lock_says_who_holds_it_and_the_second_gets_none(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("process 1 on the host of before")
    with storage.lock(path) as first:
        assert first is not None
        with storage.lock(path) as second:
            assert second is None
        assert storage.holder(path) == f"process {os.getpid()} on {platform.node()}"
    with storage.lock(path) as third:
        assert third is not None
    with pytest.raises(OutputError), storage.lock(tmp_path / "nowhere" / ".lock"):
        pass


HOLD = """
import sys
from pathlib import Path
from agmax.core import storage
with storage.lock(Path(".lock")) as held:
    print(held is not None, flush=True)
    sys.stdin.read()
"""


def test_the_lock_of_a_killed_program_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", HOLD]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with storage.lock(tmp_path / ".lock") as ours:
            assert ours is None
        assert storage.holder(tmp_path / ".lock").startswith(f"process {other.pid} on ")
        other.kill()
        other.wait()
    with storage.lock(tmp_path / ".lock") as ours:
        assert ours is not None


def test_a_file_that_was_replaced_while_its_lock_was_waited_for_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    flock, calls = storage.fcntl.flock, []

    def replaced_at_first(file: Any, how: int) -> None:
        if not calls:
            path.unlink()
            path.write_bytes(b"new")
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(storage.fcntl, "flock", replaced_at_first)
    with storage.open_alone(path, wait=True) as file:
        assert file is not None
        file.seek(0)
        assert file.read() == b"new" and len(calls) == 2


def test_an_error_in_a_block_that_holds_a_lock_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage.lock(tmp_path / ".lock"):
        (tmp_path / "nowhere").read_bytes()


# --- what must not be replaced ---------------------------------------------------------------------------------------


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
def test_what_is_no_plain_file_stays(tmp_path: Path, kind: str, force: bool) -> None:
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


def test_what_comes_while_a_file_is_made_stays_too(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a pipe"), output_file(tmp_path / "a", force=True):
        os.mkfifo(tmp_path / "a")
    assert names(tmp_path) == ["a"] and stat.S_ISFIFO((tmp_path / "a").lstat().st_mode)


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_devices_stay_devices(device: str) -> None:
    before = names(Path("/dev"))
    for force in (False, True):
        with pytest.raises(OutputError, match=f"cannot write \\({device}\\): it is a device"):
            check_output(Path(device), force=force)
        with pytest.raises(OutputError, match="it is a device"), output_file(Path(device), force=force):
            pytest.fail("it was opened")
    assert stat.S_ISCHR(os.lstat(device).st_mode) and names(Path("/dev")) == before


def test_a_file_that_is_there_is_replaced_by_force_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TakenError, match=r"there is a file already \(.*a\)\. Give --force to replace it") as caught:
        check_output(path)
    assert isinstance(caught.value, UsageError) and caught.value.exit_code == 2
    with pytest.raises(TakenError), output_file(path):
        pytest.fail("it was opened")
    assert path.read_bytes() == b"old"
    check_output(path, force=True)
    with output_file(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Return what looks like a run folder, with a checkpoint."""
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
        with pytest.raises(OutputError, match=r"in the run folder .*digits-s0, which its training alone"):
            check_output(path, force=True)
    (tmp_path / "by-link").unlink()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("mark", ["metrics.jsonl", "environment.json", ".lock"])
def test_a_run_without_a_checkpoint_is_one_too(run_folder: Path, mark: str) -> None:
    (run_folder / "checkpoints" / "step-00000012.pth").unlink()
    check_output(run_folder / "a.png")
    (run_folder / mark).touch()
    with pytest.raises(OutputError, match="it lies in the run folder"):
        check_output(run_folder / "a.png")


def test_beside_a_configuration_and_downloaded_checkpoints_files_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "imagenet-agmax.pth").touch()
    check_output(tmp_path / "a.png")
    check_output(tmp_path / "checkpoints" / "features.pth")


# --- before the work, and what went wrong ----------------------------------------------------------------------------


def test_what_can_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
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
        ("nowhere/a", "its folder is not there"),
        ("file/a", "Not a directory"),
        ("a" * 256, "File name too long"),
        ("loop/a", "Too many levels of symbolic links"),
    ],
)
def test_what_is_wrong_with_a_path_is_said(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for write in (check_output, lambda path: write_file(path, "new")):
        with pytest.raises(OutputError, match=why):
            write(tmp_path / name)
    assert names(tmp_path) == ["file", "loop"]


@contextmanager
def no_longer_than(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_that_torch_hides_is_told(tmp_path: Path) -> None:
    save(tmp_path / "a.pth", {"weights": torch.zeros(10)})
    before = (tmp_path / "a.pth").read_bytes()
    with pytest.raises(OutputError, match=r"cannot write \(.*a\.pth\): File too large"), no_longer_than(50_000):
        save(tmp_path / "a.pth", {"weights": torch.zeros(100_000)})
    assert (tmp_path / "a.pth").read_bytes() == before and names(tmp_path) == ["a.pth"]


def test_an_error_of_torch_without_any_cause_is_laid_to_a_full_disk_where_it_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, kind in ((storage.NEARLY_FULL - 1, OutputError), (storage.NEARLY_FULL, RuntimeError)):
        monkeypatch.setattr(storage, "_free_bytes", lambda _, free=free: free)
        why = "disk full" if kind is OutputError else "unexpected pos"
        with pytest.raises(kind, match=why), atomic_file(tmp_path / "a"):
            raise RuntimeError("unexpected pos 704 vs 598")
    with pytest.raises(RuntimeError, match="a worker died"), atomic_file(tmp_path / "a"):
        raise RuntimeError("a worker died")
    assert names(tmp_path) == []


IN_SMALL = """
import sys
from pathlib import Path
import torch
from agmax.checkpoints.write import save
from agmax.core.errors import OutputError
from agmax.core.storage import check_output, check_writable, write_file
def told(write, *words, **settings):
    try:
        write(*words, **settings)
    except OutputError as error:
        print(error)
path = Path("small/a.pth")
save(path, {"weights": torch.zeros(10)})
before = path.read_bytes()
told(save, path, {"weights": torch.zeros(1_000_000)})
told(write_file, Path("small/b"), b"x" * 2_000_000)
assert path.read_bytes() == before and list(Path("small").iterdir()) == [path]
for folder in (Path("sealed"), Path("sealed/new")):
    told(check_writable, folder, is_folder=True)
told(check_output, Path("sealed/a"))
told(write_file, Path("sealed/a"), "new")
"""


def test_a_full_disk_and_a_read_only_one_are_told_as_what_they_are(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:
        skip_or_fail("needs user namespaces")
    (tmp_path / "small").mkdir()
    (tmp_path / "sealed").mkdir()
    script = 'mount -t tmpfs -o size=1m small small && mount -t tmpfs -o ro sealed sealed && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", IN_SMALL],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line, name in zip(lines, ("a.pth", "b"), strict=False):
        assert line.startswith(f"disk full (small/{name}): No space left on device, ")
        assert "MiB are free. Free space and start again" in line
    assert all(line.startswith("cannot write (sealed") and "Read-only file system" in line for line in lines[2:])


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--preview", "--config=ResNet8-cutmix"),
        ("--preview=curves", "--config=ResNet8-soft_crop"),
        ("--export", "--config=ResNet8"),
        ("--export=extractor", "--config=ResNet8"),
    ],
    ids=lambda words: words[0],
)
def test_a_file_of_an_earlier_command_needs_force(run: Run, monkeypatch: pytest.MonkeyPatch, words: Any) -> None:
    first = run(*words, *DIGITS, "--json")
    assert first.status == 0, first.err
    path = Path(first.json["file"])
    num_bytes = path.stat().st_size
    path.write_bytes(b"mine")
    with monkeypatch.context() as patch:
        from agmax import builders

        patch.setattr(builders, "split", lambda *_: pytest.fail("the data were read"))
        again = run(*words, *DIGITS)
    assert (again.status, path.read_bytes()) == (2, b"mine")
    assert f"error: there is a file already ({path}). Give --force to replace it\n" in again.err
    assert run(*words, *DIGITS, "--force").status == 0
    assert len(path.read_bytes()) == num_bytes and names(Path()) == [path.name]


def test_an_evaluation_replaces_neither_checkpoint_nor_device_nor_file(run: Run) -> None:
    trained = run("--config=ResNet8", "--train", *DIGITS, "--epochs=1", "--json").json
    checkpoint = Path(trained["checkpoint"])
    before = tree(Path("runs"))
    os.mkfifo("pipe.npz")
    Path("link.npz").symlink_to(checkpoint)
    for path, why in (
        (str(checkpoint), "it lies in the run folder"),
        (f"{trained['run_folder']}/new.npz", "it lies in the run folder"),
        ("/dev/full", "it is a device"),
        ("pipe.npz", "it is a pipe"),
        ("link.npz", "it is a link"),
    ):
        for flags in ([], ["--force"]):
            for words in (["--eval", f"--predictions={path}"], ["--export", f"--output={path}"]):
                answer = run(*words, f"--resume={checkpoint}", *flags)
                assert answer.status == 6 and f"error: cannot write ({path}): {why}" in answer.err
                assert "top1" not in answer.err
    assert tree(Path("runs")) == before and stat.S_ISCHR(os.lstat("/dev/full").st_mode)
    copy = Path("copy.pth")
    copy.write_bytes(checkpoint.read_bytes())
    for words in (["--eval", "--predictions=copy.pth"], ["--export", "--output=copy.pth"]):
        assert run(*words, f"--resume={copy}").status == 2
        assert copy.read_bytes() == checkpoint.read_bytes()
    drawn = ["--eval", f"--resume={checkpoint}", "--occlusion", "--output=seen.png", "--predictions=p.npz"]
    assert [run(*drawn).status, run(*drawn).status, run(*drawn, "--force").status] == [0, 2, 0]


def test_force_goes_with_what_writes_a_file(run: Run) -> None:
    answer = run("--train", "--config=ResNet8", "--force")
    assert answer.err == "error: flag not followed (--force): it goes with --eval, --preview or --export\n"


# --- everything goes through here ------------------------------------------------------------------------------------


OF_OS = ("replace", "rename", "renames", "link", "symlink", "truncate", "mkfifo")
OF_FILES = ("write_bytes", "touch", "fsync", "flock", "copy", "copy2", "copyfile", "move")


def writes(path: Path) -> set[str]:
    """Return by what a module writes files itself: fcntl, a call of os, shutil or a path, open() with such a mode."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {"fcntl"}
        elif isinstance(node, ast.ImportFrom) and node.module in ("fcntl", "os", "shutil"):
            found |= {alias.name for alias in node.names} & {*OF_OS, *OF_FILES}
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [str(word.value) for word in given if isinstance(word, ast.Constant) and len(str(word.value)) < 4]
        is_method_of_run = name == "write_text" and len(node.args) == 2  # the file's name, and the text
        if (
            (owner == "os" and name in OF_OS)
            or (name in OF_FILES and (owner == "shutil" or name not in ("copy", "move")))
            or (name == "write_text" and not is_method_of_run)
            or (name == "open" and any(set(mode) & set("wax+") for mode in modes))
        ):
            found.add(name)
    return found


def test_no_other_module_writes_files_by_itself() -> None:
    package = REPOSITORY / "agmax"
    found = {str(path.relative_to(package)): writes(path) for path in sorted(package.rglob("*.py"))}
    assert found.pop("core/storage.py") >= {"fcntl", "flock", "fsync", "replace", "link", "open"}
    kept = {"studies/runner.py": {"open"}}  # the text of a training goes into a file that the training itself writes
    assert {name: how for name, how in found.items() if how} == kept


def test_one_name_for_two_files_is_refused_before_the_work(run: Run) -> None:
    answer = run("--eval", "--resume=nowhere", "--predictions=a.png", "--output=a.png")
    assert answer.status == 2 and "one name given twice (a.png)" in answer.err
