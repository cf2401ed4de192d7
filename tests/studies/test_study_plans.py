"""The runs of a study: overrides, dry runs, estimates, single runs and array jobs."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agmax.cli import parser
from agmax.config import resolve
from agmax.experiments.environment import program
from agmax.studies import plan, slurm, study
from agmax.studies import spec as files
from agmax.studies.plan import TypedSettings
from helpers.command import Answer
from helpers.studies import TINY, TUNED, folders, lines

Call = Callable[..., Answer]


def keys(*words: str, text: str = TINY) -> list[str]:
    """Return the keys of the runs, with words typed beside."""
    Path("tiny.yaml").write_text(text)
    request = parser.parse(["--study", "./tiny.yaml", *words]).config_request
    typed = TypedSettings(request.dataset, request.parts, request.settings)
    return [planned.key for planned in plan.result_runs(files.read_study(Path("tiny.yaml")), typed, {})]


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer.lr=0.3",),
        ("--agmax",),
        ("--dataset=fashion_mnist",),
        ("train.epochs=3",),
        ("dataset.seed=4",),
        ("evaluation.precision=bf16",),
    ],
)
def test_overrides_of_a_study_apply_to_every_run_and_change_its_key(run: Call, words: tuple[str, ...]) -> None:
    assert not set(keys()) & set(keys(*words))


@pytest.mark.parametrize(
    "words",
    [
        ("train.runs_dir=elsewhere",),
        ("--device=cpu",),
        ("dataset.root=elsewhere",),
        ("train.num_workers=3",),
        ("train.save_every_steps=5",),
        ("optimizer.lr=0.1",),  # as it is
    ],
)
def test_where_and_how_a_run_is_trained_leaves_its_key(run: Call, words: tuple[str, ...]) -> None:
    assert keys() == keys(*words)


def test_a_key_changes_with_every_setting_of_the_file_and_not_with_names(run: Call) -> None:
    before = keys()
    assert keys(text=TINY.replace("smooth", "smoother").replace("label_smoother", "label_smooth")) == before
    assert not set(keys(text=TINY.replace("epochs: 1", "epochs: 2"))) & set(before)
    assert len(set(before)) == 4


def test_typed_parts_and_settings_reach_the_training(run: Call, trained: Any) -> None:
    Path("tiny.yaml").write_text(TINY.replace("seeds: 2", "seeds: 1"))
    assert run("--study", "./tiny.yaml", "--agmax", "optimizer.lr=0.02", "train.runs_dir=elsewhere").status == 0
    for variant in ("plain", "smooth"):
        config = resolve.resolve(f"elsewhere/tiny-{variant}/digits-s0/config.yaml").config
        assert (config.objective.name, config.objective.num_views, config.optimizer.lr) == ("agmax", 2, 0.02)
    assert [each["samples_seen"] for each in lines()] == [80, 80] and not Path("runs").exists()


@pytest.mark.parametrize("words", [("--seed=3",), ("train.seed=3",), ("evaluation.test=false",), ("name=mine",)])
def test_settings_that_the_study_sets_are_refused_as_overrides(
    run: Call, untrained: None, words: tuple[str, ...]
) -> None:
    Path("tiny.yaml").write_text(TINY)
    answer = run("--study", "./tiny.yaml", *words)
    assert answer.status == 2 and "is the study's to set" in answer.err


def test_a_variant_like_another_has_its_settings_and_its_choice_below_its_own(run: Call) -> None:
    variants = "  again: {like: smooth, seed_offset: 50, train.epochs: 4}\n"
    Path("tiny.yaml").write_text(TUNED.replace("contrasts:", f"{variants}contrasts:"))
    read = files.read_study(Path("tiny.yaml"))
    chosen = {"smooth": read.trials["smooth"][2], "plain": read.trials["plain"][1]}
    plain, smooth, again = (planned.config for planned in plan.result_runs(read, TypedSettings(), chosen))
    assert (plain.optimizer.lr, smooth.optimizer.lr, again.optimizer.lr) == (0.2, 0.3, 0.3)
    assert (again.objective.label_smoothing, again.train.epochs, smooth.train.epochs) == (0.1, 4, 1)
    assert (again.train.seed, again.dataset_seed) == (50, 0) and smooth.dataset_seed == 0


def test_a_variant_of_other_seeds_is_recorded_by_its_seed_so_that_it_can_be_paired(run: Call, made_up: Any) -> None:
    text = TINY.replace("contrasts:", "  again: {like: plain, seed_offset: 50}\ncontrasts:")
    Path("tiny.yaml").write_text(f"{text}checks:\n  - {{of: again, against: plain, expect: no difference}}\n")
    (check,) = run("--study", "./tiny.yaml", "--json").json["checks"]
    assert check["num_seeds"] == 2
    assert [each["seed"] for each in lines() if each["variant"] == "again"] == [0, 1]
    assert [name for name in folders() if "again" in name] == ["tiny-again/digits-s50", "tiny-again/digits-s51"]


def test_a_dry_run_trains_nothing_writes_nothing_and_estimates_the_time(
    run: Call, untrained: None, tmp_path: Path
) -> None:
    Path("tiny.yaml").write_text(TINY)
    answer = run("--study", "./tiny.yaml", "--dry-run", "--json")
    assert answer.status == 0 and [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert [(each["variant"], each["seed"]) for each in answer.json["missing"]] == [
        ("plain", 0),
        ("smooth", 0),
        ("plain", 1),
        ("smooth", 1),
    ]
    assert 0 < answer.json["estimated_seconds"] < 60
    assert "from a few timed steps" in answer.err
    assert "plain                          2 runs,   2 to run, samples seen of each: 40" in answer.err


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([2], "with one contrast, a p-value below 0.05 needs at least 6 seeds; this study has 2"),
        ([6], ""),
        ([6, 6, 6, 6], "with 4 contrasts, a p-value below 0.05 needs at least 8 seeds; this study has 6"),
        ([8, 8, 8, 8], ""),
        ([8, 6, 6, 6], ""),
        ([6, 5, 5, 5], ""),  # three without a p-value
    ],
)
def test_contrasts_that_cannot_be_significant_are_noted(counts: list[int], said: str, tmp_path: Path) -> None:
    text = TINY[: TINY.index("contrasts:")].replace("seeds: 2", "seeds: 8")
    variants = [f"  variant{n}: {{parts: label_smoothing, seeds: {count}}}\n" for n, count in enumerate(counts)]
    contrasts = [f"  - {{of: variant{n}, against: [plain]}}\n" for n in range(len(counts))]
    (tmp_path / "tiny.yaml").write_text("".join([text, *variants, "contrasts:\n", *contrasts]))
    assert study.too_few_seeds(files.read_study(tmp_path / "tiny.yaml")) == [said] * bool(said)


def test_the_estimate_follows_the_finished_runs(copy: Path, run: Call, untrained: None) -> None:
    """Runs of 40 samples seen that took 20, 20, 20 and 2000 s: half a second a pass, 40 of 80 passes are left."""
    path = Path("results/tiny.jsonl")
    taken = [{**each, "seconds": seconds} for each, seconds in zip(lines(), (20, 20, 20, 2000), strict=True)]
    path.write_text("".join(json.dumps(each) + "\n" for each in taken))
    Path("tiny.yaml").write_text(TINY.replace("seeds: 2", "seeds: 3"))
    answer = run("--study", "./tiny.yaml", "--dry-run", "--jobs", "2", "--json")
    assert answer.json["estimated_seconds"] == pytest.approx(2 * 40 * 0.5 / 2)
    assert "about 20 s, 2 at a time (estimated from the finished runs)" in answer.err
    assert "from a few timed steps" in run("--study", "./tiny.yaml", "--dry-run", "train.epochs=3").err  # other runs


def test_one_run_alone(run: Call, trained: Any) -> None:
    Path("tiny.yaml").write_text(TINY)
    answer = run("--study", "./tiny.yaml", "--run", "2", "--json")
    assert answer.status == 0 and trained.num_started == 1
    assert [(each["variant"], each["seed"]) for each in lines()] == [("smooth", 0)]
    assert "4 runs, 0 finished, 1 to run" in answer.err and "variants" not in answer.json
    again = run("--study", "./tiny.yaml", "--run", "2")
    assert again.status == 0 and trained.num_started == 1
    assert "4 runs, 1 finished, 0 to run" in again.err
    beyond = run("--study", "./tiny.yaml", "--run", "5")
    assert beyond.status == 2 and "the study has 4 runs" in beyond.err


def test_the_array_job_is_a_script_that_trains_the_missing_runs(copy: Path, run: Call, tmp_path: Path) -> None:
    odd = Path("it's; $HOME")
    odd.mkdir()
    (odd / "tiny.yaml").write_text(TINY.replace("seeds: 2", "seeds: 4"))
    Path("results").rename(odd / "results")
    words = ("--study", f"./{odd}/tiny.yaml", "dataset.root=a b")
    answer = run(*words, "--print-slurm")
    assert answer.status == 0 and "#SBATCH --array=5-8" in answer.out
    assert subprocess.run(["bash", "-n"], input=answer.out, text=True).returncode == 0
    Path("srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    Path("srun").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "7"}
    ran = subprocess.run(["bash"], input=answer.out, env=path, text=True, capture_output=True, check=True)
    assert ran.stdout.splitlines() == [*program(), *words, "--run", "7"]
    assert run(*words, "--print-slurm", "--json").json["script"] == answer.out


def test_a_finished_study_has_nothing_to_submit(copy: Path, run: Call) -> None:
    answer = run("--study", "./tiny.yaml", "--print-slurm")
    assert answer.status == 2 and answer.out == "" and "all 4 runs are finished" in answer.err


@pytest.mark.parametrize(
    ("planned_runs", "written"),
    [([1, 2, 3, 5], "1-3,5"), ([4], "4"), ([1, 3, 5], "1,3,5"), ([2, 3, 9, 10, 11], "2-3,9-11")],
)
def test_ranges_are_written_as_slurm_does(planned_runs: list[int], written: str) -> None:
    assert slurm.ranges(planned_runs) == written
