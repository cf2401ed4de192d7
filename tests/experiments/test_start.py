"""--resume: which run is continued, which weights are used, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.training.loop import Trainer
from helpers.images import write_images, write_tree
from helpers.training import TINY, Killed, Run, assert_same_weights, kill_at, loss_log, rows, train, tree


def test_without_a_terminal_there_are_plain_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "0")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--json", "train.log_every_steps=2")
    assert answer.status == 0, answer.err
    assert "\r" not in answer.out + answer.err
    assert answer.json["mode"] == "train"
    lines = answer.err.splitlines()
    assert [f"epoch {epoch}/3 step {step}/4" in lines for epoch in (1, 2, 3) for step in (1, 2, 3, 4)] == 3 * [
        False,
        True,
        False,
        True,
    ]
    assert any(line.startswith("epoch 3/3  loss") for line in lines)


def test_a_finished_run_prints_its_result_again(run: Run) -> None:
    first = train(run, "ResNet8-standard")
    before = tree(Path("runs"))
    assert train(run, "ResNet8-standard", "--resume") == first
    assert tree(Path("runs")) == before


def test_a_result_with_a_metric_of_another_release_is_printed_as_it_is(run: Run) -> None:
    result = train(run, "ResNet8-standard", "train.epochs=1")
    path = Path(result["run_folder"]) / "result.json"
    path.write_text(json.dumps({**result, "brier": 0.5}))
    assert train(run, "ResNet8-standard", "train.epochs=1", "--resume") == {**result, "brier": 0.5}


def test_a_finished_run_needs_no_checkpoint(run: Run) -> None:
    result = train(run, "ResNet8-standard", "train.epochs=1")
    Path(result["checkpoint"]).write_bytes(b"damaged")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "train.epochs=1", "--resume", "--json")
    assert answer.status == 0 and answer.json == result


def test_typed_mistakes_are_reported_before_a_checkpoint_is_looked_for(run: Run) -> None:
    for words in (("--config=ResNet8-cutout", "--train"), ("--eval",), ("--predict", "a.png")):
        answer = run(*words, "optimizer.lrr=3", "--resume", "nowhere")
        assert answer.status == 2 and "unknown key optimizer.lrr" in answer.err, words
    assert not Path("runs").exists()


def test_a_run_that_gives_only_its_weights_is_not_changed(run: Run) -> None:
    first = Path(train(run, "ResNet8-standard", "train.epochs=1")["run_folder"])
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    (first / ".lock").chmod(0o400)
    answer = run("--train", "--resume", str(first), "train.epochs=2", "--json")
    assert answer.status == 0 and answer.json["run_folder"] != str(first)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_run_without_a_checkpoint_starts_again_in_its_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    for resume in ("--resume", "--resume=runs/ResNet8-standard/digits-s0"):
        with monkeypatch.context() as patch:
            kill_at(patch, 1)
            with pytest.raises(Killed):
                run("--config=ResNet8-standard", "--train", *TINY, resume)
    assert train(run, "ResNet8-standard", "--resume")["run_folder"] == "runs/ResNet8-standard/digits-s0"


def test_resume_without_an_equal_run_says_what_was_looked_for(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
    assert answer.status == 4
    assert "runs/ResNet8-standard/digits-s0[-n]" in answer.err
    train(run, "ResNet8-standard")
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume", "optimizer.lr=0.2")
    assert answer.status == 4
    assert "optimizer.lr: 0.1 -> 0.2" in answer.err


def test_resume_with_other_settings_starts_a_new_folder_from_those_weights(run: Run) -> None:
    first = train(run, "ResNet8-standard")
    before = tree(Path(first["run_folder"]))
    answer = run("--train", "--json", "--resume", first["run_folder"], "train.epochs=5", "optimizer.lr=0.01")
    assert "changed optimizer.lr: 0.1 -> 0.01" in answer.err
    assert "changed train.epochs: 3 -> 5" in answer.err
    assert "continuing after step 12 of 20" in answer.err
    assert answer.json["run_folder"] == "runs/ResNet8-standard/digits-s0-2"
    assert [row["epoch"] for row in rows(answer.json["run_folder"])] == [1, 2, 3, 4, 5]
    assert tree(Path(first["run_folder"])) == before


def test_each_setting_that_changes_the_training_is_listed_and_gets_a_folder_of_its_own(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(train(run, "ResNet8-standard", "train.epochs=1")["run_folder"])
    before = tree(first)
    monkeypatch.setattr(Trainer, "fit", lambda trainer, began: pytest.skip("started"))
    for number, (setting, difference) in enumerate(
        (
            ("train.batch_size=50", "train.batch_size: 32 -> 50"),
            ("augment.mix=cutmix", "augment.mix: none -> cutmix"),
            ("schedule.name=constant", "schedule.name: cosine -> constant"),
            ("dataset.mean=[0.4]", "dataset.mean: [0.3057] -> [0.4]"),
        ),
        start=2,
    ):
        answer = run("--config=ResNet8-standard", "--train", *TINY, "train.epochs=1", "--resume", setting)
        assert answer.status == 4 and difference in answer.err
        with pytest.raises(pytest.skip.Exception):
            run("--train", "--resume", str(first), "train.epochs=9", setting, f"train.runs_dir=other{number}")
        log = Path(f"other{number}/ResNet8-standard/digits-s0/train.log").read_text().splitlines()
        assert {f"changed {difference}", "changed train.epochs: 1 -> 9"} <= set(log)
        assert tree(first) == before


def test_weights_of_another_network_are_refused(run: Run) -> None:
    first = train(run, "ResNet8-standard", "train.epochs=1")
    folders = set(Path("runs").rglob("*"))
    for words in (
        ("--config=ResNet20-standard", "--train", *TINY),
        ("--config=ResNet8-standard-agmax", "--train", *TINY),
        ("--config=ResNet20-standard", "--eval"),
        ("--config=ResNet8-standard", "--eval", "dataset.num_classes=10", "model.channels=3"),
    ):
        answer = run(*words, "--resume", first["checkpoint"])
        assert answer.status == 4, answer.err
        assert "checkpoint: agmax_resnet8, 1 channels, 10 classes, classification; configuration:" in answer.err
    assert set(Path("runs").rglob("*")) == folders


def test_a_damaged_checkpoint_is_skipped_with_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epoch was evaluated already: the row is dropped and made again."""
    words = ("--config=ResNet8-standard", *TINY, "train.save_every_steps=3")
    whole = run(*words, "--train", "--json", "train.runs_dir=whole").json
    with monkeypatch.context() as patch:
        kill_at(patch, 8)
        with pytest.raises(Killed):
            run(*words, "--train")
    assert [row["step"] for row in rows("runs/ResNet8-standard/digits-s0")] == [4, 8]
    newest = Path("runs/ResNet8-standard/digits-s0/checkpoints/step-00000008.pth")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    answer = run(*words, "--train", "--resume", "--json")
    assert "warning: damaged checkpoint" in answer.err
    assert "continuing after step 6 of 12" in answer.err
    assert loss_log(answer.json["run_folder"]) == loss_log(whole["run_folder"])


def test_changed_settings_of_the_optimizer_take_effect(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(run, "ResNet8-standard")
    seen: list[Trainer] = []
    monkeypatch.setattr(Trainer, "fit", lambda trainer, began: seen.append(trainer) or pytest.skip("seen"))
    words = ("--train", "--resume", first["run_folder"], "train.epochs=5", "optimizer.weight_decay=0.1")
    with pytest.raises(pytest.skip.Exception):
        run(*words, "optimizer.momentum=0.5", "optimizer.nesterov=false")
    (group,) = seen[0].optimizer.param_groups
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (0.1, 0.5, False)
    assert any(state["momentum_buffer"].any() for state in seen[0].optimizer.state.values())
    with pytest.raises(pytest.skip.Exception):
        run(*words, "optimizer.decay_bias_and_norm=false")
    assert len(seen[1].optimizer.param_groups) == 2


@pytest.mark.parametrize("setting", ["optimizer.lr=0.01", "train.epochs=2"])
def test_if_nothing_is_left_to_train_no_folder_is_created(run: Run, setting: str) -> None:
    first = train(run, "ResNet8-standard")
    answer = run("--train", "--resume", first["run_folder"], setting)
    assert answer.status == 2
    assert "nothing left to train" in answer.err and "Raise train.epochs" in answer.err
    assert len(list(Path("runs/ResNet8-standard").iterdir())) == 1


def test_a_run_started_from_weights_and_killed_at_once_can_be_resumed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(run, "ResNet8-standard")
    words = ("--train", "--json", "--resume", first["run_folder"], "train.epochs=5")
    whole = run(*words, "train.runs_dir=whole").json
    with monkeypatch.context() as patch:
        kill_at(patch, 14)
        with pytest.raises(Killed):
            run(*words)
    resumed = run("--config=ResNet8-standard", "--train", "--json", *TINY, "--resume", "train.epochs=5").json
    assert resumed["run_folder"] == "runs/ResNet8-standard/digits-s0-2"
    assert loss_log(resumed["run_folder"]) == loss_log(whole["run_folder"])
    assert_same_weights(resumed["checkpoint"], whole["checkpoint"])


def test_a_training_from_weights_uses_their_data_set(run: Run) -> None:
    first = train(run, "ResNet8-standard")
    words = ("train.epochs=4", "dataset.image_size=8", "dataset.train_limit=100", "train.batch_size=32")
    answer = run("--config=ResNet8-cutout", "--train", "--json", "--resume", first["checkpoint"], *words)
    assert answer.status == 0, answer.err
    assert answer.json["run_folder"] == "runs/ResNet8-cutout/digits-s0"
    assert run("--train", "--cutmix", "--resume", first["checkpoint"]).status == 2


@pytest.fixture
def on_folder(tmp_path: Path) -> tuple[str, ...]:
    """Words that train on twelve images in folders: two epochs of three steps."""
    root = write_tree(tmp_path / "images", ["cat", "dog"], {"train": 6, "test": 2}, size=(16, 16))
    sizes = ("dataset.image_size=16", "train.batch_size=4", "train.epochs=2", "train.num_workers=0")
    return ("--config=ResNet8-standard", "--dataset=folder", f"dataset.root={root}", *sizes)


def test_a_run_is_not_continued_on_a_data_set_that_has_grown(
    run: Run, monkeypatch: pytest.MonkeyPatch, on_folder: tuple[str, ...], tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            run(*on_folder, "--train")
    write_images(tmp_path / "images" / "train" / "cat", 9)
    answer = run(*on_folder, "--train", "--resume")
    assert answer.status == 3
    assert "15 training images, 12 at the start of the run" in answer.err
    assert run("--train", "--resume", "runs/ResNet8-standard/folder-s0").status == 3


def test_other_class_names_in_the_same_data_set_are_an_error(
    run: Run, on_folder: tuple[str, ...], tmp_path: Path
) -> None:
    trained = run(*on_folder, "--train", "--json").json
    other = write_tree(tmp_path / "other", ["ant", "bee"], {"test": 2, "train": 2}, size=(16, 16))
    answer = run("--eval", "--resume", trained["checkpoint"], f"dataset.root={other}")
    assert answer.status == 3
    assert "the data set has 2 classes (ant, bee), the weights 2 classes (cat, dog)" in answer.err
    answer = run(*on_folder, "--train", "--resume", trained["checkpoint"], f"dataset.root={other}", "--epochs=9")
    assert answer.status == 3
    os.rename(other / "test", other / "val")
    imagenet = ("--dataset=imagenet", f"dataset.root={other}", "dataset.num_classes=2")
    (other / "train").rename(other / "unused")
    answer = run("--eval", "--resume", trained["checkpoint"], *imagenet, "train.num_workers=0")
    assert answer.status == 0, answer.err
    assert "note: classes are matched by their index" in answer.err


def test_weights_keep_their_split_whatever_the_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax import builders

    first = train(run, "ResNet8-standard", "dataset.validation=0.05", "--seed=3")
    original, seeds = builders.splits, []

    def noting(config: Any) -> Any:
        seeds.append((config.train.seed, config.dataset_seed))
        return original(config)

    monkeypatch.setattr(builders, "splits", noting)
    for words in ([], ["--config=ResNet8-standard", *TINY, "dataset.validation=0.05"]):
        answer = run("--train", *words, "--resume", first["run_folder"], "--seed=7", "train.epochs=4")
        assert answer.status == 0, answer.err
    assert seeds == [(7, 3), (7, 3)]


def test_an_unfinished_run_of_the_same_configuration_is_noted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(run, "ResNet8-standard")
    words = ("--train", "--resume", first["run_folder"], "train.epochs=5")
    with monkeypatch.context() as patch:
        kill_at(patch, 17)
        with pytest.raises(Killed):
            run(*words)
    answer = run(*words)
    assert "note: runs/ResNet8-standard/digits-s0-2 has the same configuration and is not finished" in answer.err


def test_a_run_folder_in_use_is_not_changed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agmax.experiments.run_folder import RunFolder

    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    folder = Path("runs/ResNet8-standard/digits-s0")
    with RunFolder(folder).lock():
        before = tree(folder)
        answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
        assert answer.status == 9
        assert f"process {os.getpid()} on" in answer.err
        assert tree(folder) == before
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()  # as if the folder could not be written
    assert run("--config=ResNet8-standard", "--train", *TINY, "--resume").status == 6
    (folder / ".lock").rmdir()
    assert train(run, "ResNet8-standard", "--resume")["run_folder"] == str(folder)


def test_another_number_of_threads_gives_a_warning_that_bits_may_change(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    path = Path("runs/ResNet8-standard/digits-s0/environment.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 77}))
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
    assert f"warning: not bit-exact: threads was 77, is {torch.get_num_threads()}" in answer.err


def test_every_other_version_and_machine_gives_a_warning_that_bits_may_change(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    path = Path("runs/ResNet8-standard/digits-s0/environment.json")
    current = json.loads(path.read_text())
    keys = ("python", "torch", "torchvision", "timm", "numpy")
    keys += ("device", "device_name", "num_gpus", "threads", "cpu_capability", "precision")
    path.write_text(json.dumps(current | dict.fromkeys(keys, "another")))
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
    for key in keys:
        assert f"warning: not bit-exact: {key} was another, is {current[key]}\n" in answer.err
    assert answer.status == 0 and answer.err.count("warning: ") == len(keys)
    assert json.loads(path.read_text())["numpy"] == current["numpy"]


@pytest.mark.parametrize("damaged", [b"", b"null", b'{"torch": "2', b"\xff\xfe", b"[3]"])
@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", "state.json"])
def test_damaged_files_of_a_run_do_not_stop_its_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, damaged: bytes
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    path = Path("runs/ResNet8-standard/digits-s0") / name
    path.write_bytes(damaged)
    answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume", "--json")
    assert answer.status == 0 and [row["epoch"] for row in rows(answer.json["run_folder"])][-1] == 3
    assert ("warning: environment.json is damaged" in answer.err) == (name == "environment.json")
    assert name == "metrics.jsonl" or json.loads(path.read_text())
