"""The installed program: a wheel that carries main.py and the configurations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agmax.config import names
from helpers.places import REPOSITORY


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the project without its dependencies into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(target), str(REPOSITORY)], check=True, capture_output=True, text=True)
    return target


def agmax(installed: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    code = "import sys; from agmax.__main__ import main; sys.argv[0] = 'agmax'; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_the_installed_command_lists_and_resolves_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert (installed / "bin" / "agmax").is_file()
    listed = agmax(installed, tmp_path, "--list")
    assert listed.returncode == 0, listed.stderr
    expected = {path.stem for path in names.CONFIGS.glob("*.yaml")} | set(names.compositions())
    assert {line.split()[0] for line in listed.stdout.splitlines()} == expected
    shown = agmax(installed, tmp_path, "--config=WideResNet28-10-cutout-agmax", "--print-config")
    assert shown.returncode == 0, shown.stderr
    assert "backbone: agmax_wide_resnet" in shown.stdout


def test_the_package_holds_every_fragment_and_the_digits(installed: Path) -> None:
    for path in names.CONFIGS.rglob("*.yaml"):
        packed = installed / "agmax" / "configs" / path.relative_to(names.CONFIGS)
        assert packed.read_bytes() == path.read_bytes()
    assert (installed / "agmax" / "__main__.py").read_bytes() == (REPOSITORY / "main.py").read_bytes()
    assert (installed / "agmax" / "data" / "digits.csv.gz").is_file()
    assert (installed / "agmax" / "reports" / "page.html.j2").is_file()
