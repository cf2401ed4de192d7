"""Damaged files of a run folder: its training is continued, its evaluation is not hindered, nothing is lost."""

import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agmax.config import resolve
from agmax.experiments.run_folder import RunFolder
from agmax.training.loop import Trainer
from helpers.training import TINY, Killed, Run, kill_at, loss_log, rows, train, tree
from main import main

FOLDER = Path("runs/ResNet8-standard/digits-s0")
WORDS = ("--config=ResNet8-standard", "--train", *TINY)

RESUMES = {
    "newest": (*WORDS, "--resume"),
    "auto": (*WORDS, "--resume", "auto"),
    "folder": ("--train", "--resume", str(FOLDER)),
}
"""The ways to continue a run."""

DAMAGES = {
    "empty": b"",
    "null": b"null",
    "cut short": b'{"top1": 9',
    "not text": b"\xff\xfe\0\x80",
    "list": b"[3]",
    "no keys": b"{}",
    "nested": b"[" * 100_000,
}


CASES = [*(("newest", name) for name in DAMAGES), ("auto", "empty"), ("folder", "empty")]
"""A way to continue a run, and the damage of a file."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*WORDS]) == 0
    return folder / FOLDER


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no step be trained."""
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("a step was trained"))


def copy(finished: Path) -> None:
    FOLDER.parent.mkdir(parents=True)
    shutil.copytree(finished, FOLDER)


@pytest.mark.parametrize(("resume", "damage"), [*CASES, *(("newest", key) for key in ("steps", "nll", "top1"))])
def test_a_damaged_result_is_written_again_from_the_last_checkpoint(
    run: Run, finished: Path, untrained: None, resume: str, damage: str
) -> None:
    copy(finished)
    before = (FOLDER / "result.json").read_bytes()
    damaged = DAMAGES.get(damage)
    if damaged is None:
        kept = {key: value for key, value in json.loads(before).items() if key != damage}
        damaged = json.dumps(kept | ({"top1": "high"} if damage == "top1" else {})).encode()
    (FOLDER / "result.json").write_bytes(damaged)
    (FOLDER / "predictions.npz").write_bytes(damaged)
    answer = run(*RESUMES[resume], "--json")
    assert answer.status == 0, answer.err
    assert f"warning: {FOLDER}/result.json is damaged, the run counts as unfinished" in answer.err
    assert (FOLDER / "result.json").read_bytes() == before and answer.json == json.loads(before)
    for name in ("predictions.npz", "metrics.jsonl", "config.yaml", "checkpoints/best.pth"):
        assert (FOLDER / name).read_bytes() == (finished / name).read_bytes(), name
    assert [path.name for path in FOLDER.parent.iterdir()] == [FOLDER.name]


@pytest.mark.parametrize("resume", RESUMES)
def test_a_run_that_has_lost_its_checkpoints_is_not_trained_again_over_its_files(
    run: Run, finished: Path, untrained: None, resume: str
) -> None:
    copy(finished)
    for path in (FOLDER / "checkpoints").iterdir():
        path.unlink()
    (FOLDER / "result.json").write_bytes(b"")
    before = tree(FOLDER)
    answer = run(*RESUMES[resume])
    message = f"error: no checkpoint left ({FOLDER}/checkpoints): and {FOLDER}/result.json is damaged. Restore the"
    assert answer.status == 4 and message in answer.err
    (FOLDER / "result.json").unlink()
    answer = run(*RESUMES[resume])
    assert answer.status == 4 and "its epochs are in metrics.jsonl. Restore the checkpoints, or leave" in answer.err
    assert tree(FOLDER) == {name: content for name, content in before.items() if name != "result.json"}


def test_a_finished_run_without_checkpoints_gives_its_result_but_no_weights(
    run: Run, finished: Path, untrained: None
) -> None:
    copy(finished)
    for path in (FOLDER / "checkpoints").iterdir():
        path.unlink()
    for words in RESUMES.values():
        assert run(*words, "--json").json == json.loads((finished / "result.json").read_text())
    answer = run(*RESUMES["folder"], "train.epochs=5")
    assert answer.status == 4 and "no checkpoint left" in answer.err


def test_damaged_checkpoints_and_a_damaged_result_are_both_named(run: Run, finished: Path, untrained: None) -> None:
    copy(finished)
    for path in (FOLDER / "checkpoints").iterdir():
        path.write_bytes(b"")
    (FOLDER / "result.json").write_bytes(b"")
    answer = run(*RESUMES["newest"])
    assert answer.status == 4 and "error: no undamaged checkpoint" in answer.err
    assert f"warning: {FOLDER}/result.json is damaged" in answer.err


@pytest.mark.parametrize(("resume", "damage"), CASES)
def test_a_damaged_configuration_is_that_of_the_checkpoint_and_is_written_again(
    run: Run, finished: Path, untrained: None, resume: str, damage: str
) -> None:
    copy(finished)
    (FOLDER / "result.json").unlink()
    (FOLDER / "config.yaml").write_bytes(DAMAGES[damage])
    answer = run(*RESUMES[resume], "--json")
    assert answer.status == 0, answer.err
    assert answer.json["run_folder"] == str(FOLDER)
    one, other = (resolve.resolve(str(path / "config.yaml")).config for path in (FOLDER, finished))
    assert resolve.differences(one, other) == []


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_configuration_without_a_checkpoint_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 1)
        with pytest.raises(Killed):
            run(*WORDS)
    (FOLDER / "config.yaml").write_bytes(damaged)
    answer = run(*RESUMES["folder"])
    assert answer.status == 2 and answer.err.startswith("error: ") and f"({FOLDER}/config.yaml" in answer.err
    assert "Traceback" not in answer.err
    assert run(*RESUMES["newest"]).status == 4
    assert json.loads(run(*RESUMES["auto"], "--json").out)["run_folder"] == f"{FOLDER}-2"


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_do_not_hinder_an_evaluation_and_it_does_not_mend_them(
    run: Run, finished: Path, damaged: bytes
) -> None:
    copy(finished)
    expected = json.loads((finished / "result.json").read_text())
    for name in ("result.json", "environment.json", "metrics.jsonl", "state.json", "predictions.npz", "config.yaml"):
        (FOLDER / name).write_bytes(damaged)
    before = tree(FOLDER)
    answer = run("--eval", "--resume", str(FOLDER), "--json")
    assert answer.status == 0 and (answer.json["top1"], answer.json["nll"]) == (expected["top1"], expected["nll"])
    assert tree(FOLDER) == before


@pytest.mark.parametrize("damaged", [b"\xff\xfe\0\n", b'{"epoch": 1, "st\n', b"[3]\n", b'{"step": 4}\n', b"\n\n"])
def test_damaged_rows_are_dropped_and_the_others_are_kept_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            run(*WORDS)
    path = FOLDER / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damaged + second + first)
    answer = run(*RESUMES["newest"])
    assert answer.status == 0 and [row["step"] for row in rows(FOLDER)] == [4, 8, 12]
    assert ("metrics.jsonl: 1 damaged lines are dropped" in answer.err) == bool(damaged.strip())


def test_metrics_and_tensorboard_have_each_epoch_once_after_a_kill_and_a_damaged_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in epoch 3 while a row was written; the checkpoint of epoch 2 is damaged: epoch 2 is trained again."""
    whole = train(run, "ResNet8-standard", "train.runs_dir=whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            run(*WORDS)
    path = FOLDER / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[-1][:70])
    (FOLDER / "checkpoints" / "step-00000008.pth").write_bytes(b"")
    answer = run(*RESUMES["newest"])
    assert "continuing after step 4 of 12" in answer.err
    assert loss_log(FOLDER) == loss_log(whole["run_folder"])
    events = EventAccumulator(str(FOLDER / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "test_top1", "lr"):
        assert [event.step for event in events.Scalars(name)] == [4, 8, 12], name


def test_a_run_is_finished_when_its_result_can_be_read(finished: Path, run: Run) -> None:
    copy(finished)
    assert RunFolder(FOLDER).is_finished
    (FOLDER / "result.json").write_bytes(b"")
    assert not RunFolder(FOLDER).is_finished
    answer = run(*WORDS)
    assert answer.status == 0 and f"note: {FOLDER} has the same configuration and is not finished" in answer.err
