"""The program as a process: what it imports, what it lacks, what its terminal can show."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.cli import packages, parser
from agmax.cli.commands import list as listing
from agmax.cli.commands import train as training
from helpers.command import Answer
from helpers.places import REPOSITORY

Run = Callable[..., Answer]


@pytest.mark.parametrize(
    ("attempt", "why"),
    [
        (lambda: torch.empty(1 << 60), "DefaultCPUAllocator: can't allocate memory"),
        (lambda: bytearray(1 << 62), "no memory is left"),
        (lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), "CUDA out of memory"),
        (lambda: _raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")), "CUBLAS_STATUS_ALLOC"),
    ],
)
def test_full_memory_is_told_in_one_line(
    attempt: Callable[[], Any], why: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda start, remarks, began: attempt())
    answer = run("--config=ResNet8", "--train", "--dataset=digits")
    assert answer.status == 8 and answer.err.count("\n") == 1
    assert why in answer.err and "Reduce train.batch_size and evaluation.batch_size" in answer.err


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be",
        "No CUDA GPUs are available: no CUDA-capable device is detected",
        "Found no NVIDIA driver on your system. Please check",
        "CUDA driver version is insufficient for CUDA runtime version",
    ],
)
def test_a_gpu_that_is_busy_or_has_no_driver_ends_with_8(
    message: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda start, remarks, began: _raise(torch.AcceleratorError(message)))
    answer = run("--config=ResNet8", "--train", "--dataset=digits")
    assert answer.status == 8 and answer.err.count("\n") == 1
    assert answer.err.startswith(f"error: the GPU cannot be used: {message.splitlines()[0]}. Choose another one by ")
    assert answer.err.endswith("or give --device cpu\n")


def _raise(error: Exception) -> None:
    raise error


def test_another_fault_of_torch_is_no_full_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda start, remarks, began: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        run("--config=ResNet8", "--train", "--dataset=digits")


def main_py(*words: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run main.py with `code` before it, as `python main.py WORDS` would."""
    program = "runpy.run_path('main.py', run_name='__main__')"
    start = f"import runpy, sys\nsys.argv = ['main.py', *sys.argv[1:]]\n{code}\n{program}"
    return subprocess.run(
        [sys.executable, "-c", start, *words],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def hidden(package: str) -> str:
    """Return code after which `import package` fails as if it were not installed."""
    return f"sys.modules[{package!r}] = None"


@pytest.mark.parametrize(
    "words",
    [["--config=ResNet50-cutmix-auto_augment-agmax", "--print-config", "--dataset=imagenet"], ["--list", "configs"]],
    ids=["print-config", "list"],
)
def test_printing_and_listing_import_no_torch_timm_or_numpy(words: list[str]) -> None:
    slow = "{'torch', 'torchvision', 'timm', 'numpy'}"
    report = f"import atexit\natexit.register(lambda: print(sorted({slow} & {{*sys.modules}}), file=sys.stderr))"
    done = main_py(*words, code=report)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("pydantic", ["--print-config", "--config=ResNet8"]),
        ("yaml", ["--list"]),
        ("torch", ["--train", "--config=ResNet8", "--dataset=digits"]),
        ("torch", ["--eval", "--resume=x.pth"]),
        ("timm", ["--list=models"]),
        ("timm", ["--print-config", "--config=resnet18"]),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(package: str, words: list[str]) -> None:
    done = main_py(*words, code=hidden(package))
    remedy = "Run python3 -m pip install -r requirements.txt"
    wanted = f"error: missing package ({package}). {remedy}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


@pytest.mark.parametrize("mode", ["--train", "--eval", "--summary", "--preview"])
def test_a_torch_that_loads_checkpoints_unsafely_is_refused(
    mode: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.__version__", "2.9.1")
    answer = run(mode, "--config=ResNet8", "--dataset=digits")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: torch is too old (2.9.1): 2.10 or newer is needed. Run python3 -m pip install")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "found", "needed"),
    [("torchvision", "0.24.1+cpu", "0.25"), ("timm", "1.0.11", "1.0.12"), ("numpy", "1.26", "1.26.4")],
)
def test_a_package_that_is_too_old_is_named_with_both_versions_before_the_data_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, found: str, needed: str
) -> None:
    original = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: found if name == package else original(name))
    answer = run("--train", "--config=ResNet8", "--dataset=imagenet", "dataset.root=nowhere")
    remedy = "Run python3 -m pip install -r requirements.txt"
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == f"error: {package} is too old ({found}): {needed} or newer is needed. {remedy}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", [*packages.SMALLEST, *packages.OTHERS])
def test_every_required_package_is_looked_for_before_the_data_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    answer = run("--train", "--config=ResNet8", "--dataset=imagenet", "dataset.root=nowhere")
    remedy = "Run python3 -m pip install -r requirements.txt"
    assert (answer.status, answer.out, answer.err) == (2, "", f"error: missing package ({package}). {remedy}\n")


def test_exactly_the_requirements_are_looked_for_and_none_newer_is_asked_for() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().replace("pyyaml", "yaml").split()
    asked = dict(line.split(">=") for line in lines)
    assert set(asked) == {*packages.SMALLEST, *packages.OTHERS}
    for package, smallest in packages.SMALLEST.items():
        assert packages._numbers(smallest) <= packages._numbers(asked[package])


def test_an_old_python_is_named_with_the_version_that_is_needed() -> None:
    done = main_py("--list", code="sys.version_info, sys.version = (3, 10, 9), '3.10.9 (main)'")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: Python 3.11 or newer is needed (found 3.10.9)\n"


def test_a_terminal_without_unicode_gets_escaped_text() -> None:
    done = main_py("--print-config", "--config=ünï-类\n", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (2, "")
    assert "\\xfcn\\xef-\\u7c7b\\n" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_unicode_in_the_terminal_is_printed_escaped() -> None:
    done = main_py("--print-config", "--config=ResNet8", "dataset.root=类", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "root: \\u7c7b  # the command line" in done.stdout


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    words = [sys.executable, str(REPOSITORY / "main.py"), "--list", "models"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 141


def test_a_bug_of_ours_is_not_called_a_missing_package(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def broken(request: parser.Request) -> None:
        raise ModuleNotFoundError("No module named 'agmax.gone'", name="agmax.gone")

    monkeypatch.setattr(listing, "run", broken)
    with pytest.raises(ModuleNotFoundError, match=r"agmax\.gone"):
        run("--list")
