"""What a run is continued from, and what must not hinder it: damaged neighbours, empty folders, moved images."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.core import locks, storage
from agmax.experiments.run_folder import RunFolder
from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.files import names
from helpers.images import write_tree
from helpers.training import TINY, Killed, kill_at, rows, train

Run = Callable[..., Answer]
WORDS = ("--config=ResNet8-standard", "--train", *TINY)
FOLDER = Path("runs/ResNet8-standard/digits-s0")


def steps(folder: Path = FOLDER) -> list[str]:
    return [path.stem for path in CheckpointFolder(folder / "checkpoints").list_checkpoints()]


def test_damaged_checkpoints_of_later_steps_are_set_aside_and_never_count_as_the_newest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            run(*WORDS)
    assert steps() == ["step-00000004", "step-00000008"]
    (FOLDER / "checkpoints" / "step-00000008.pth").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            run(*WORDS, "--resume", "train.save_every_steps=1")
    assert steps() == ["step-00000005", "step-00000006"]
    assert (FOLDER / "checkpoints" / "step-00000008.pth.damaged").read_bytes() == b"damaged"


def test_a_folder_killed_before_its_folder_of_checkpoints_is_continued(run: Run) -> None:
    FOLDER.mkdir(parents=True)
    assert run(*WORDS, "--resume", "auto", "train.epochs=1").status == 0
    assert names(FOLDER.parent) == [FOLDER.name] and steps() == ["step-00000004"]


def test_an_empty_folder_that_another_program_prepares_does_not_hinder_a_start(run: Run) -> None:
    (FOLDER / "checkpoints").mkdir(parents=True)
    with locks.lock(FOLDER / ".lock"):
        assert run(*WORDS, "--resume", "auto", "train.epochs=1").status == 0
    assert names(FOLDER.parent) == [FOLDER.name, f"{FOLDER.name}-2"]


def test_an_empty_folder_has_its_settings_as_soon_as_it_is_taken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax import builders

    (FOLDER / "checkpoints").mkdir(parents=True)

    def look(*_: Any) -> None:
        assert "lr: 0.2" in (FOLDER / "config.yaml").read_text()
        raise Killed

    monkeypatch.setattr(builders, "description", look)
    with pytest.raises(Killed):
        run(*WORDS, "--resume", "auto", "optimizer.lr=0.2")


def test_a_run_can_be_prolonged_before_its_first_evaluation(run: Run) -> None:
    words = ("train.epochs=3", "train.keep_every_epochs=1", "evaluation.every_epochs=3")
    first = train(run, "ResNet8-standard", *words)["run_folder"]
    answer = run("--train", "--resume", f"{first}/checkpoints/step-00000004.pth", "train.epochs=4", "--json")
    assert answer.status == 0, answer.err
    assert [row["epoch"] for row in rows(answer.json["run_folder"])] == [1, 2, 3, 4]
    assert answer.json["best"]["epoch"] in (3, 4)
    assert (Path(answer.json["run_folder"]) / "checkpoints" / "best.pth").exists()


def test_rows_whose_best_checkpoint_is_not_kept_do_not_count_for_the_best(run: Run) -> None:
    first = Path(train(run, "ResNet8-standard", "train.keep_every_epochs=1")["run_folder"])
    changed = [row | {"test_top1": top1} for row, top1 in zip(rows(first), (98.0, 97.0, 99.0), strict=True)]
    (first / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    answer = run("--train", "--resume", str(first / "checkpoints" / "step-00000008.pth"), "train.epochs=4", "--json")
    assert answer.json["best"]["epoch"] in (3, 4)
    assert (Path(answer.json["run_folder"]) / "checkpoints" / "best.pth").exists()


@pytest.mark.parametrize("mode", ["--train", "--eval"])
def test_a_checkpoint_in_the_fallback_is_found_though_all_others_are_damaged(run: Run, mode: str) -> None:
    train(run, "ResNet8-standard", "train.fallback_dir=spare")
    fallback = RunFolder(FOLDER).fallback("spare")
    assert fallback is not None
    fallback.mkdir()
    newest = FOLDER / "checkpoints" / "step-00000012.pth"
    shutil.copy(newest, fallback)
    (FOLDER / "result.json").unlink()
    for path in (FOLDER / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    answer = run(mode, "--resume", str(FOLDER), "--json")
    assert answer.status == 0, answer.err
    assert answer.json["epochs"] == 3


def test_a_finished_run_without_a_measurement_that_is_asked_for_says_how_to_get_it(run: Run) -> None:
    words = (*WORDS, "--resume", "auto", "train.epochs=1")
    assert run(*words).status == 0
    answer = run(*words, "--occlusion")
    assert (
        answer.status == 2 and f"without occlusion. Measure it with --eval --resume {FOLDER} --occlusion" in answer.err
    )
    assert run("--eval", "--resume", str(FOLDER), "--occlusion").status == 0


def test_the_settings_of_a_run_are_those_it_was_continued_with(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            run(*WORDS)
    assert run(*WORDS, "--resume", "auto", "evaluation.every_epochs=2").status == 0
    assert "every_epochs: 2" in (FOLDER / "config.yaml").read_text()


def test_moved_images_continue_a_run_and_others_do_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(Path("first"), ["cat", "dog"], {"train": 6, "test": 2}, size=(16, 16))
    shutil.copytree("first", "second")
    words = ("--config=ResNet8-standard", "--train", "--dataset=folder", "dataset.image_size=16", "train.batch_size=4")
    words += ("train.epochs=2", "train.num_workers=0", "--resume", "auto")
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            run(*words, "dataset.root=first")
    shutil.rmtree("first")
    answer = run(*words, "dataset.root=second")
    assert answer.status == 0 and "continuing after step 3 of 6" in answer.err
    assert "changed dataset.root: first -> second" in answer.err
    assert names(Path("runs/ResNet8-standard")) == ["folder-s0"]


def test_the_time_limit_of_a_job_is_not_that_of_the_next(run: Run) -> None:
    assert run(*WORDS, "train.time_limit=1e-9").status == 138
    assert run("--train", "--resume", str(FOLDER)).status == 0


def test_a_failure_in_the_set_up_is_recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            run(*WORDS)
    checkpoint = FOLDER / "checkpoints" / "step-00000004.pth"
    state = torch.load(checkpoint)
    torch.save({**state, "num_images": 99}, checkpoint)
    answer = run(*WORDS, "--resume", "auto")
    record = json.loads((FOLDER / "state.json").read_text())
    assert answer.status == 3 and (record["state"], record["exit_code"]) == ("failed", 3)
    assert (FOLDER / "train.log").read_text().splitlines()[-1] == f"{record['reason']} (exit code 3)"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("environment.json", b'{"code": null}'),
        (
            "metrics.jsonl",
            b'{"epoch": 1, "step": 4, "test_top1": "x", "timing": {"images_per_second": 1, "train_seconds": 1}}\n',
        ),
        ("metrics.jsonl", b'{"epoch": 1, "step": 4, "timing": {"images_per_sfcond": 1, "train_seconds": 1}}\n'),
    ],
)
def test_files_with_values_of_another_kind_do_not_stop_a_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Killed):
            run(*WORDS)
    (FOLDER / name).write_bytes(content)
    assert run(*WORDS, "--resume").status == 0


def test_states_of_the_optimizer_on_another_device_are_checked_too(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """torch keeps the step counts of Adam on the CPU: their checks are moved to the device of the training."""
    stacked: list[set[torch.device]] = []
    stack = torch.stack

    def noting(tensors: Any, *words: Any, **more: Any) -> Any:
        if all(tensor.dtype == torch.bool and tensor.ndim == 0 for tensor in tensors):
            stacked.append({tensor.device for tensor in tensors})
            return torch.tensor([True])
        return stack(tensors, *words, **more)

    original = Trainer.save

    def save(trainer: Trainer) -> None:
        trainer.make_step.device = torch.device("meta")
        original(trainer)
        trainer.make_step.device = torch.device("cpu")

    monkeypatch.setattr(torch, "stack", noting)
    monkeypatch.setattr(Trainer, "save", save)
    train(run, "ResNet8-standard", "optimizer.name=adam", "optimizer.lr=0.001", "train.epochs=1")
    assert stacked == [{torch.device("meta")}]


def test_a_second_ctrl_c_while_the_first_is_handled_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax.cli import parser

    def interrupt(argv: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parser, "parse", interrupt)
    answer = run("--list")
    assert answer.status == 128 + signal.SIGINT and answer.err == "error: stopped by SIGINT\n"


def test_space_is_made_before_a_save_that_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax.training import checkpoint_folder

    store, before = CheckpointFolder(tmp_path), list[list[str]]()
    for step in (1, 2):
        store.save(step, {"model": {"weight": torch.zeros(1000)}})
    save = checkpoint_folder.save_checkpoint
    monkeypatch.setattr(checkpoint_folder, "free_bytes", lambda folder: os.stat(store.path(2)).st_size)
    monkeypatch.setattr(
        checkpoint_folder, "save_checkpoint", lambda *words: (before.append(names(tmp_path)), save(*words))
    )
    store.save(3, {"model": {"weight": torch.zeros(1000)}})
    assert before == [["step-00000002.pth"]] and names(tmp_path) == ["step-00000002.pth", "step-00000003.pth"]


def test_the_end_of_a_training_is_recorded_on_a_full_disk_in_the_blocks_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(str(tmp_path), "name", "stem")
    folder.record_state({"state": "running", "reason": "x" * 500})
    inode = (folder.path / "state.json").stat().st_ino

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "replace", full)
    folder.record_state({"state": "failed", "exit_code": 6})
    assert json.loads((folder.path / "state.json").read_text()) == {"state": "failed", "exit_code": 6}
    assert (folder.path / "state.json").stat().st_ino == inode
