"""--eval: which checkpoint and images it uses, and what it writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agmax.cli.parser import parse
from agmax.core import devices
from agmax.evaluation.predict import Predictions
from agmax.experiments.results import write_predictions
from agmax.experiments.run_folder import find
from agmax.experiments.start import find_weights
from agmax.models import backbones
from helpers.images import write_tree
from helpers.processes import run_code
from helpers.training import TINY, Run, rows, train


def test_evaluation_needs_a_checkpoint(run: Run) -> None:
    answer = run("--config=ResNet8-standard", "--eval", "--dataset=digits")
    assert answer.status == 2
    assert "--checkpoint" in answer.err


def test_evaluation_writes_nothing_and_needs_no_training_images(run: Run, tmp_path: Path) -> None:
    images = write_tree(tmp_path / "images", ["a", "b"], {"train": 4, "val": 3})
    words = ("--dataset=folder", f"dataset.root={images}", "dataset.image_size=16", "train.num_workers=0")
    trained = run("--config=ResNet8-standard", "--train", "--json", *words, "train.epochs=1", "train.batch_size=4").json
    for path in sorted((images / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (images / "train").rmdir()
    imagenet = ("--dataset=imagenet", f"dataset.root={images}", "dataset.num_classes=2", "dataset.image_size=16")
    newest = ("--config=ResNet8-standard", *words, "train.epochs=1", "train.batch_size=4", "--resume")
    before = [(path, path.stat()) for path in sorted(tmp_path.rglob("*"))]
    for which in (("--resume", trained["checkpoint"], *imagenet), ("--resume", trained["run_folder"]), newest):
        answer = run("--eval", "--json", *which)
        assert answer.status == 0, answer.err
        assert (answer.json["num_images"], answer.json["checkpoint"]) == (6, trained["checkpoint"])
        after = [(path, path.stat()) for path in sorted(tmp_path.rglob("*"))]
        assert [path for path, _ in after] == [path for path, _ in before]
        for (path, old), (_, new) in zip(before, after, strict=True):
            assert (new.st_mtime_ns, new.st_ctime_ns, new.st_ino) == (old.st_mtime_ns, old.st_ctime_ns, old.st_ino), (
                path
            )


EVALUATE_THEN_TRAIN = """
import subprocess, sys
from main import main
subprocess.run("mount --bind runs runs && mount -o remount,ro,bind runs", shell=True, check=True)
evaluated = main(["--eval", "--resume", sys.argv[1], "--json"])
sys.exit(evaluated or main(["--config=ResNet8-standard", "--train", "--dataset=digits"]))
"""


def test_evaluation_leaves_a_read_only_folder_as_it_is(run: Run, tmp_path: Path) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    both = run_code(EVALUATE_THEN_TRAIN, trained["checkpoint"], folder=tmp_path, mounts=True)
    assert both.returncode == 6, both.stderr
    assert json.loads(both.stdout)["top1"] == trained["top1"]
    assert "cannot write the output folder (runs)" in both.stderr


def test_every_split_can_be_evaluated(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.validation=0.05", "train.epochs=1")
    for split, count in {"train": 100, "validation": 72, "test": 360}.items():
        answer = run("--eval", "--json", "--resume", trained["checkpoint"], f"--split={split}")
        assert answer.json["num_images"] == count
        if split == "validation":
            assert answer.json["top1"] == rows(trained["run_folder"])[-1]["validation_top1"]


def test_normalization_is_saved_with_the_weights(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.mean=[0.5]", "dataset.std=[0.25]")
    answer = run("--eval", "--json", "--config=ResNet8-standard", "--resume", trained["checkpoint"])
    assert answer.json["nll"] == trained["nll"]


def test_an_evaluation_uses_the_split_of_the_training_whatever_is_typed(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.validation=0.05", "--seed=3")
    expected = rows(trained["run_folder"])[-1]["validation_nll"]
    for words in ([], ["--config=ResNet8-standard"], ["--config=ResNet8-standard", "--dataset=digits"]):
        answer = run("--eval", "--json", "--split=validation", "--resume", trained["checkpoint"], *words)
        assert (answer.json["nll"], answer.json["seed"], answer.json["epochs"]) == (expected, 3, 3)


def test_a_users_file_sets_the_evaluation_and_finds_its_runs(run: Run) -> None:
    Path("configs").mkdir()
    text = "base: ResNet8-standard\ndataset: {name: digits, image_size: 16}\ntrain: {runs_dir: out, epochs: 1}\n"
    for path in (Path("mine.yaml"), Path("configs/mine.yaml")):
        path.write_text(text)
        trained = run(f"--config={path}", "--train", "--json", "dataset.train_limit=50", "dataset.image_size=8").json
        name = trained["run_folder"].removeprefix("out/")
        answer = run(f"--config={path}", "--eval", "--json", "--resume", name)
        assert answer.status == 0, answer.err
        expected = run("--eval", "--json", "--resume", trained["checkpoint"], "dataset.image_size=16").json
        assert answer.json["nll"] == expected["nll"] != trained["nll"]


def test_the_name_given_to_an_evaluation_may_lack_what_the_checkpoint_holds(run: Run) -> None:
    trained = train(run, "ResNet8-standard-agmax", "model.channels=3", "train.epochs=1")
    answer = run("--eval", "--json", "--config=ResNet8-standard", "--resume", trained["checkpoint"])
    assert answer.status == 0, answer.err
    assert answer.json["nll"] == trained["nll"]


def test_predictions_too_large_for_half_precision_are_written_as_its_largest_numbers(tmp_path: Path) -> None:
    logits = torch.tensor([[1e9, -1e9, 2.0]])
    split = Predictions(logits, torch.tensor([0]), torch.tensor([5]))
    with (tmp_path / "p.npz").open("wb") as file:
        write_predictions(file, {"test": split})
    assert np.load(tmp_path / "p.npz")["test_logits"].tolist() == [[65504.0, -65504.0, 2.0]]


def test_another_data_set_gets_the_image_size_and_normalization_of_the_training(run: Run) -> None:
    trained = train(run, "ResNet8-standard", "dataset.mean=[0.4]", "train.epochs=1")
    for words in ((), ("--config=ResNet8-standard",)):
        request = parse(["--eval", "--dataset=fashion_mnist", "--resume", trained["checkpoint"], *words])
        config = find_weights(request.config_request).resolved.config
        assert (config.dataset.name, config.dataset.mean, config.dataset.image_size) == ("fashion_mnist", [0.4], 8)
    request = parse(["--eval", "--dataset=fashion_mnist", "dataset.mean=[0.7]", "--resume", trained["checkpoint"]])
    assert find_weights(request.config_request).resolved.config.dataset.mean == [0.7]


def test_a_run_is_found_whatever_the_settings_of_the_evaluation(run: Run) -> None:
    trained = train(run, "ResNet8-standard")
    answer = run("--config=ResNet8-standard", *TINY, "--eval", "--json", "--resume", "evaluation.batch_size=64")
    assert answer.json["checkpoint"] == trained["checkpoint"]
    answer = run("--config=ResNet8-standard", *TINY, "--eval", "--resume", "--seed=1")
    assert answer.status == 4
    assert "Give --resume RUN" in answer.err


def test_no_pretrained_weights_are_downloaded_for_a_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    make, asked = timm.create_model, []

    def without_network(name: str, *, pretrained: bool, **options: Any) -> Any:
        asked.append(pretrained)
        return make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    monkeypatch.setattr(backbones, "_check_pretrained_available", lambda name: None)
    trained = train(run, "ResNet8-standard", "model.pretrained=true", "train.epochs=1")
    assert asked == [True]
    assert run("--eval", "--resume", trained["checkpoint"]).status == 0
    assert len(asked) > 1 and not any(asked[1:])


@pytest.mark.parametrize("mode", ["--eval", "--predict=digit.png"])
def test_memory_is_kept_between_batches_in_evaluations_and_predictions_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    Image.new("L", (8, 8)).save("digit.png")
    kept = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: kept.append(mode))
    assert run(mode, "--resume", trained["checkpoint"]).status == 0
    assert kept == [mode]


def test_an_unwritable_predictions_file_ends_the_evaluation_before_it_starts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    for path in ("no/such/x.npz", "runs"):
        answer = run("--eval", "--resume", trained["checkpoint"], f"--predictions={path}")
        assert answer.status == 6
        assert "top1" not in answer.err


def test_checkpoints_are_found_as_typed_then_in_checkpoints_then_in_the_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(run, "ResNet8-standard", "train.epochs=1")
    source = Path(trained["checkpoint"])
    assert run("--eval", "--resume", "ResNet8-standard/digits-s0").status == 0
    Path("checkpoints").mkdir()
    (Path("checkpoints") / "mine.pth").write_bytes(source.read_bytes())
    assert run("--eval", "--json", "--resume", "mine.pth").json["checkpoint"] == "checkpoints/mine.pth"
    Path("mine.pth").write_bytes(source.read_bytes())
    assert run("--eval", "--json", "--resume", "mine.pth").json["checkpoint"] == "mine.pth"
    assert run("--eval", "--json", "--resume", str(source.resolve())).json["checkpoint"] == str(source.resolve())
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    Path("home").mkdir()
    Path("home/other.pth").write_bytes(source.read_bytes())
    assert find("~/other.pth", "runs") == Path("home/other.pth").resolve()
    answer = run("--eval", "--resume", "nowhere.pth")
    assert answer.status == 4
    for text in ("checkpoints/nowhere.pth", "runs/nowhere.pth", "Existing checkpoints: mine.pth, checkpoints/mine.pth"):
        assert text in answer.err
