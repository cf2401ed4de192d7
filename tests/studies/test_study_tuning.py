"""The tuning of a study: which trial is chosen, and that a choice belongs to its tuning."""

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agmax import builders
from agmax.config import resolve
from agmax.studies import records, study, tuning
from agmax.studies import spec as files
from agmax.studies.plan import TypedSettings
from helpers.command import Answer
from helpers.studies import TUNED, folders, lines, make_up
from main import main

Call = Callable[..., Answer]


@pytest.fixture(scope="module")
def tuned_once(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a study that is tuned: plain is best by its first and third trial, smooth by its second."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "tiny.yaml").write_text(TUNED)
    with pytest.MonkeyPatch.context() as patch, (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        patch.chdir(folder)
        make_up(patch, finished).top1 |= {
            ("plain", 0.1, 1000): 60.0,
            ("plain", 0.1, 1001): 70.0,  # mean 65
            ("plain", 0.2, 1000): 90.0,
            ("plain", 0.2, 1001): 30.0,  # 60
            ("plain", 0.3, 1000): 65.0,
            ("plain", 0.3, 1001): 65.0,  # 65, but later
            ("smooth", 0.1, 1000): 40.0,
            ("smooth", 0.2, 1000): 61.5,
            ("smooth", 0.2, 1001): 61.75,
        }
        with redirect_stdout(out), redirect_stderr(err):
            assert main(["--study", "./tiny.yaml", "--json"]) == 0
    return folder


@pytest.fixture
def tuned(tuned_once: Path, tmp_path: Path, run: Call, made_up: Any) -> Any:
    """Copy the tuned study to the folder of this test, and make up the results of further runs."""
    shutil.copytree(tuned_once, tmp_path, dirs_exist_ok=True)
    return made_up


CHOSEN = Path("results/tiny.chosen.yaml")


def test_the_choice_is_the_first_trial_of_the_highest_mean(tuned: Any) -> None:
    assert len(lines()) == 12 and len(folders()) == 12
    assert all(each["phase"] == "tuning" for each in lines())
    read = tuning.read_choices(tuning.plan_tuning(files.read_study(Path("tiny.yaml")), TypedSettings()))
    assert read is not None
    assert (read["plain"].trial, read["plain"].validation_top1, read["plain"].of_trials) == (
        0,
        65.0,
        (65.0, 60.0, 65.0),
    )
    assert (read["smooth"].trial, read["smooth"].of_trials) == (1, (45.0, 61.625, 50.0))
    assert [(setting.key, setting.value) for setting in read["smooth"].settings] == [("optimizer.lr", 0.2)]
    assert "smooth: trial 1, validation top1 61.62 %" in Path("err").read_text()
    assert f"{CHOSEN}. Commit the file" in Path("err").read_text()
    answer = json.loads(Path("out").read_text())
    assert answer["phase"] == "tuning" and answer["missing"] == [] and "variants" not in answer


def test_after_the_tuning_the_next_start_measures_with_the_choice(tuned: Any, run: Call) -> None:
    before = CHOSEN.read_bytes(), CHOSEN.stat().st_mtime_ns
    answer = run("--study", "./tiny.yaml", "--json")
    assert answer.status == 0 and answer.json["phase"] == "results" and tuned.num_started == 2
    assert [(each["variant"], each["seed"], each["trial"]) for each in lines()[12:]] == [
        ("plain", 0, None),
        ("smooth", 0, None),
    ]
    learning_rates = {
        variant: resolve.resolve(f"runs/tiny-{variant}/digits-s0/config.yaml").config.optimizer.lr
        for variant in ("plain", "smooth")
    }
    assert learning_rates == {"plain": 0.1, "smooth": 0.2}
    study.run(Path("tiny.yaml"))
    assert tuned.num_started == 2
    assert (CHOSEN.read_bytes(), CHOSEN.stat().st_mtime_ns) == before


@pytest.mark.parametrize("best", range(3))
def test_a_choice_is_read_as_it_was_written(run: Call, best: int) -> None:
    Path("tiny.yaml").write_text(TUNED)
    found = tuning.plan_tuning(files.read_study(Path("tiny.yaml")), TypedSettings())
    top1 = {planned.key: 80.5 if planned.trial == best else 100 / 3 for planned in found.planned_runs}
    chosen = tuning.choose(found, {key: {"metrics": {"validation": {"top1": value}}} for key, value in top1.items()})
    assert [choice.trial for choice in chosen.values()] == [best, best]
    tuning.write_choices(found, chosen)
    read = tuning.read_choices(found) or {}
    assert list(read) == list(chosen) == ["plain", "smooth"]
    for written, again in zip(chosen.values(), read.values(), strict=True):
        assert again[:3] == written[:3]
        assert [setting[:2] for setting in again.settings] == [setting[:2] for setting in written.settings]
    assert len(read["smooth"].settings) == (0 if best == 0 else 1)  # its first trial changes nothing


def test_an_existing_choice_is_not_overwritten(tuned: Any) -> None:
    before = CHOSEN.read_bytes()
    found = tuning.plan_tuning(files.read_study(Path("tiny.yaml")), TypedSettings())
    choices = tuning.choose(found, records.read_records(Path("results/tiny.jsonl")))
    assert choices == {
        variant: choice._replace(settings=found.study.trials[variant][choice.trial])
        for variant, choice in (tuning.read_choices(found) or {}).items()
    }
    tuning.write_choices(found, {variant: choice._replace(validation_top1=99.0) for variant, choice in choices.items()})
    assert CHOSEN.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("optimizer.lr: 0.2", "optimizer.lr: 0.25"),
        ("trial: 1", "trial: 2"),
        ("trial: 1", "trial: 7"),
        ("trial: 1", "trial: one"),
        ("validation_top1: 61.625", "validation_top1: 70.0"),
        ("of_trials: [45.0, 61.625, 50.0]", "of_trials: 3"),
        ("  smooth:", "  smoother:"),
        ("chosen:", "choice:"),
        ('runs: "', 'runs: "0'),
    ],
)
def test_a_choice_that_was_edited_is_refused(tuned: Any, run: Call, old: str, new: str) -> None:
    text = CHOSEN.read_text()
    assert text.count(old) == 1
    CHOSEN.write_text(text.replace(old, new))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 2 and str(CHOSEN) in answer.err, answer.err
    assert "remove" in answer.err and tuned.num_started == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{optimizer.lr: 0.3}]", "{optimizer.lr: 0.4}]"),
        ("epochs: 1", "epochs: 2"),
        ("seeds: [1000, 1001]", "seeds: [1000, 1002]"),
    ],
)
def test_a_choice_of_another_tuning_is_refused(tuned: Any, run: Call, old: str, new: str) -> None:
    Path("tiny.yaml").write_text(TUNED.replace(old, new))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 2 and "the choices do not match the study" in answer.err and tuned.num_started == 0


def test_overrides_of_a_tuning_do_not_change_the_choice_of_the_study(tuned: Any, run: Call) -> None:
    before = CHOSEN.read_bytes()
    assert run("--study", "./tiny.yaml", "train.epochs=3", "--json").json["phase"] == "tuning"
    assert tuned.num_started == 12 and CHOSEN.read_bytes() == before
    assert len(list(Path("results").glob("*.chosen.yaml"))) == 2
    assert run("--study", "./tiny.yaml", "train.epochs=3", "--json").json["phase"] == "results"
    assert run("--study", "./tiny.yaml", "train.runs_dir=elsewhere", "--json").json["phase"] == "results"


def test_a_contrast_with_the_best_of_several_takes_the_best_on_validation(tuned: Any, run: Call) -> None:
    variants = "  third: {like: plain, train.epochs: 3}\n"
    contrast = "{of: third, against: [smooth, plain]}"
    text = TUNED.replace("contrasts:", f"{variants}contrasts:").replace("{of: smooth, against: [plain]}", contrast)
    Path("tiny.yaml").write_text(text)
    answer = run("--study", "./tiny.yaml", "--json")
    (found,) = answer.json["contrasts"]
    assert (found["first"], found["second"]) == ("third", "plain")  # 65.0 above 61.625


def test_the_tuning_reads_no_test_image(run: Call, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = builders.images.datasets.load

    def seen(*words: Any, split: str, **more: Any) -> Any:
        loaded.append(split)
        return load(*words, split=split, **more)

    monkeypatch.setattr(builders.images.datasets, "load", seen)
    Path("tiny.yaml").write_text(TUNED.replace(", 1001]", "]").replace(", {optimizer.lr: 0.3}", ""))
    study.run(Path("tiny.yaml"))
    assert set(loaded) == {"train"} and trained.num_started == 4
    for each in lines():
        assert each["split"] == "validation" and set(each["metrics"]) == {"validation"} and each["best"] == {}
        assert not {"right", "labels", "num_test_images"} & set(each) and "test_top1" not in each["curves"]
    with np.load("runs/tiny-plain-trial0/digits-s1000/predictions.npz") as arrays:
        assert not [name for name in arrays if name.startswith("test")]
    study.run(Path("tiny.yaml"))
    assert "test" in loaded and lines()[4]["split"] == "test"
