"""What the program writes: nothing that an earlier command has made is lost, and all goes through one module."""

import ast
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Answer
from helpers.files import names
from helpers.places import REPOSITORY
from helpers.training import tree

Run = Callable[..., Answer]

DIGITS = ("--dataset=digits", "dataset.train_limit=128")


def test_a_training_that_goes_on_sweeps_its_run_folder(run: Run) -> None:
    from agmax.experiments.run_folder import RunFolder

    folder = RunFolder.create("runs", "name", "stem")
    (folder.path / "tensorboard").mkdir()
    for place in (folder.path, folder.checkpoints, folder.path / "tensorboard"):
        (place / ".config.yaml.tmp-7").write_text("half")
    with folder.lock():
        assert sorted(path.name for path in folder.path.rglob("*")) == [".lock", "checkpoints", "tensorboard"]


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
    assert f"error: the file exists already ({path}). Give --force to replace it\n" in again.err
    assert run(*words, *DIGITS, "--force").status == 0
    assert len(path.read_bytes()) == num_bytes and names(Path()) == [path.name]


def test_an_evaluation_replaces_neither_checkpoint_nor_device_nor_file(run: Run) -> None:
    trained = run("--config=ResNet8", "--train", *DIGITS, "--epochs=1", "--json").json
    checkpoint = Path(trained["checkpoint"])
    before = tree(Path("runs"))
    os.mkfifo("pipe.npz")
    Path("link.npz").symlink_to(checkpoint)
    for path, why in (
        (str(checkpoint), "it is in the run folder"),
        (f"{trained['run_folder']}/new.npz", "it is in the run folder"),
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
    assert answer.err == "error: flag not supported (--force): it belongs to --eval, --preview or --export\n"


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
    assert found.pop("core/storage.py") >= {"fsync", "replace", "link", "open"}
    assert found.pop("core/locks.py") >= {"fcntl", "flock", "symlink", "open"}
    kept = {"studies/runner.py": {"open"}}  # the text of a training goes into a file that the training itself writes
    assert {name: how for name, how in found.items() if how} == kept


def test_one_name_for_two_files_is_refused_before_the_work(run: Run) -> None:
    answer = run("--eval", "--resume=nowhere", "--predictions=a.png", "--output=a.png")
    assert answer.status == 2 and "one file for two outputs (a.png)" in answer.err
