"""Checkpoints of every version of the format are read for ever; a later one is refused by its number."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.checkpoints import read
from agmax.checkpoints.read import UPGRADES, check_state, load
from agmax.checkpoints.write import FORMAT, VERSION
from agmax.core.errors import CheckpointError
from helpers.places import REPOSITORY
from helpers.training import Run, train

FROZEN_RUN = REPOSITORY / "tests" / "golden" / "version_1_run"
FROZEN_FILE = FROZEN_RUN / "checkpoints" / "step-00000004.pth"

FIRST = {
    "format",
    "version",
    "config",
    "class_names",
    "num_images",
    "step",
    "model",
    "optimizer",
    "plateau",
    "sums",
}

ENTRIES = {1: FIRST, 2: FIRST | {"fingerprint"}}
"""The entries of each version; they never change: other entries are another version."""


def test_the_entries_of_a_version_are_frozen(run: Run) -> None:
    assert set(ENTRIES) == {*UPGRADES, VERSION} == set(range(1, VERSION + 1))
    assert torch.load(FROZEN_FILE, weights_only=True).keys() == ENTRIES[1]
    written = torch.load(train(run, "ResNet8-standard", "train.epochs=1")["checkpoint"], weights_only=True)
    assert (written["version"], written.keys()) == (VERSION, ENTRIES[VERSION])
    assert set(written["fingerprint"]) == {"pixels", "labels"}


def test_a_checkpoint_of_version_1_has_the_entries_of_today() -> None:
    raw, loaded = torch.load(FROZEN_FILE, weights_only=True), load(FROZEN_FILE)
    assert (loaded["version"], loaded.keys()) == (VERSION, ENTRIES[VERSION])
    assert loaded["fingerprint"] is None and loaded["step"] == raw["step"] == 4
    assert all(torch.equal(loaded["model"][name], value) for name, value in raw["model"].items())


def test_a_run_of_version_1_is_evaluated_and_continued(run: Run, tmp_path: Path) -> None:
    shutil.copytree(FROZEN_RUN, tmp_path / "old")
    assert run("--eval", "--resume", "old", "dataset.test_image_size=8").status == 0
    answer = run("--train", "--resume", "old", "--json")
    assert answer.status == 0 and answer.json["run_folder"] == "old"
    assert torch.load(answer.json["checkpoint"], weights_only=True).keys() == ENTRIES[VERSION]


def test_versions_are_upgraded_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(name: str) -> Any:
        return lambda state: {**state, "way": [*state.get("way", []), name]}

    monkeypatch.setattr(read, "VERSION", 4)
    monkeypatch.setattr(read, "UPGRADES", {number: add(f"{number} to {number + 1}") for number in (1, 2, 3)})
    for version in (1, 2, 3, 4):
        found = check_state({"format": FORMAT, "version": version}, Path("a.pth"))
        expected = [f"{number} to {number + 1}" for number in range(version, 4)]
        assert found["version"] == 4 and found.get("way", []) == expected


@pytest.mark.parametrize("version", [VERSION + 1, 99, 0, -1, "1", 1.0, None, [1]])
def test_an_unknown_version_is_refused_with_those_that_are_read(tmp_path: Path, version: object) -> None:
    torch.save({"format": FORMAT, "version": version}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"this program reads 1 to {VERSION}. Update this program, or"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize("words", [("--eval",), ("--train",), ("--train", "optimizer.lr=0.3")])
def test_a_setting_of_version_1_that_is_unknown_today_is_named(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    shutil.copytree(FROZEN_RUN, tmp_path / "old")
    state = torch.load(FROZEN_FILE, weights_only=True)
    state["config"]["optimizer"]["learning_rate"] = state["config"]["optimizer"].pop("lr")
    torch.save(state, tmp_path / "old" / "checkpoints" / FROZEN_FILE.name)
    for name in ("old", f"old/checkpoints/{FROZEN_FILE.name}"):
        answer = run(*words, "--resume", name)
        assert answer.status == 4 and answer.err.count("\n") == 1, answer.err
        assert "its settings belong to another release" in answer.err
        assert "unknown key optimizer.learning_rate" in answer.err
