"""A study from its file to its records: run, run again, failed, shared among jobs; each run trained once."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agmax.config import resolve
from agmax.core.errors import AgmaxError
from agmax.experiments import source_hash
from agmax.studies import plan, records, runner, study
from agmax.studies import spec as files
from agmax.studies.plan import TypedSettings
from agmax.studies.study import Options
from helpers.command import Answer
from helpers.studies import TINY, InThisProcess, folders, lines, numbers, stand_in, table

Call = Callable[..., Answer]


def test_a_study_leaves_one_record_and_one_run_folder_of_each_run(copy: Path) -> None:
    assert folders() == [
        "tiny-plain/digits-s0",
        "tiny-plain/digits-s1",
        "tiny-smooth/digits-s0",
        "tiny-smooth/digits-s1",
    ]
    found = lines()
    assert [(each["variant"], each["seed"]) for each in found] == [
        ("plain", 0),
        ("smooth", 0),
        ("plain", 1),
        ("smooth", 1),
    ]
    assert len({each["key"] for each in found}) == 4
    for each in found:
        assert (each["study"], each["phase"], each["trial"], each["split"]) == ("tiny", "results", None, "test")
        assert (each["samples_seen"], each["steps"], each["epochs"]) == (40, 2, 1)
        assert each["code"] == source_hash.source_hash() and each["environment"]["threads"] == 1
        assert each["metrics"]["test"]["error"] == pytest.approx(100 - each["metrics"]["test"]["top1"])


def test_a_record_equals_the_files_of_the_run_folder(copy: Path) -> None:
    for each in lines():
        run = Path("runs") / each["config"] / f"digits-s{each['seed']}"
        result = json.loads((run / "result.json").read_text())
        assert all(each["metrics"]["test"][name] == result[name] for name in ("top1", "top5", "nll", "ece"))
        with np.load(run / "predictions.npz") as arrays:
            right = arrays["test_logits"].argmax(-1) == arrays["test_labels"]
        assert (records.unpack_bits(each) == right).all()
        assert 100 * int(right.sum()) / len(right) == each["metrics"]["test"]["top1"]
        assert each["num_test_images"] == result["num_images"] == len(right)


def test_runs_have_the_seeds_of_the_study_and_the_variants_share_them(copy: Path) -> None:
    first, second, third, fourth = (
        resolve.resolve(f"runs/tiny-{variant}/digits-s{seed}/config.yaml").config
        for variant in ("plain", "smooth")
        for seed in (0, 1)
    )
    assert [each.train.seed for each in (first, second, third, fourth)] == [0, 1, 0, 1]
    for one, other in ((first, third), (second, fourth)):
        found = resolve.differences(one, other, ignore=["name"])
        assert found == ["objective.label_smoothing: 0.0 -> 0.1"]
    assert len({each["labels"] for each in lines()}) == 1


def test_started_again_a_finished_study_trains_nothing_and_reports_the_same(
    copy: Path, run: Call, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if "studies" not in path.parts}
    first, second = (run("--study", "./tiny.yaml", "--json") for _ in range(2))
    assert first.status == 0 and first.json == second.json
    assert "4 runs, 4 finished, 0 to run" in first.err
    assert set(first.json["variants"]) == {"plain", "smooth"} and first.json["missing"] == []
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if "studies" not in path.parts} == before


def test_a_finished_run_without_a_record_is_taken_over(copy: Path, run: Call, untrained: None) -> None:
    whole = numbers()
    kept = Path("results/tiny.jsonl").read_text().splitlines(keepends=True)[1:3]
    Path("results/tiny.jsonl").write_text("".join(kept))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 0 and "4 runs, 2 finished, 2 to run" in answer.err
    assert numbers() == whole and len(lines()) == 4


def test_a_record_without_a_run_folder_is_not_repeated(copy: Path, run: Call, untrained: None) -> None:
    before = table()
    shutil.rmtree("runs")  # a fresh clone has the records alone
    study.run(Path("tiny.yaml"))
    assert table() == before and not folders()


def test_seeds_that_were_added_are_trained_alone(copy: Path, run: Call, trained: Any) -> None:
    before = lines()
    Path("tiny.yaml").write_text(TINY.replace("seeds: 2", "seeds: [0, 1, 5]"))
    study.run(Path("tiny.yaml"))
    assert trained.num_started == 2 and lines()[:4] == before
    assert [(each["variant"], each["seed"]) for each in lines()[4:]] == [("plain", 5), ("smooth", 5)]


def test_a_failing_run_does_not_stop_the_others(run: Call, trained: Any) -> None:
    variants = "  steep: {optimizer.lr: 1.0e+9, train.epochs: 2}\n  plain:\n"
    Path("tiny.yaml").write_text(TINY.replace("  plain:\n", variants))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 7
    assert sorted((each["variant"], each["seed"]) for each in lines()) == [
        ("plain", 0),
        ("plain", 1),
        ("smooth", 0),
        ("smooth", 1),
    ]
    (error,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: 2 runs failed, the first (steep, seed 0): training diverged (step ")
    log_file = Path(next(word for word in error.replace(";", " ").split() if word.endswith(".log")))
    assert "training diverged" in log_file.read_text() and log_file.parent == Path("runs/studies/tiny/runs")
    assert answer.err.count("failed: steep") == 2 and "failed: plain" not in answer.err
    again = run("--study", "./tiny.yaml")
    assert again.status == 7 and trained.num_started == 6 + 2  # those that failed, and no other


@pytest.mark.parametrize(
    ("said", "status", "code", "reason"),
    [
        ("error: first\nerror: disk full. Make room\n", 6, 6, "disk full. Make room"),
        ("epoch 1/2\n", -signal.SIGKILL, 137, "ended by signal 9 (Killed)"),
        ("Traceback\nValueError: of no use\n", 1, 1, "ValueError: of no use"),
        ("", 1, 1, "its log is empty"),
        ("finished\n", 0, 1, "finished"),  # without a result
    ],
)
def test_the_reason_of_a_failure_is_in_the_log_of_the_last_attempt(
    run: Call, monkeypatch: pytest.MonkeyPatch, said: str, status: int, code: int, reason: str
) -> None:
    class Failing(InThisProcess):
        def communicate(self) -> tuple[bytes, None]:
            self.output.write(said.encode())
            self.returncode = status
            return b"", None

    Path("tiny.yaml").write_text(TINY.replace("seeds: 2", "seeds: 1"))
    planned = plan.result_runs(files.read_study(Path("tiny.yaml")), TypedSettings(), {})[0]
    old = Path(f"runs/studies/tiny/runs/{planned.key}.log")
    old.parent.mkdir(parents=True)
    old.write_text("$ an earlier attempt\nerror: an earlier reason\n")
    stand_in(monkeypatch, Failing)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == code
    assert f"failed: plain, seed 0: {reason}\n" in answer.err


def test_two_runs_at_a_time_share_the_cores(run: Call, made_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Seen(made_up):  # type: ignore[misc]
        def __init__(self, words: Sequence[str], *, env: Mapping[str, str], **files: Any) -> None:
            super().__init__(words, **files)
            seen.append(env["OMP_NUM_THREADS"])

    stand_in(monkeypatch, Seen)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: set(range(6)))
    Path("tiny.yaml").write_text(TINY)
    study.run(Path("tiny.yaml"), options=Options(jobs=2))
    assert seen == ["3"] * 4


def test_each_job_has_its_part_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = ["0", "2", "5"]
    found = [runner._environment(number, 2, gpus)["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    assert found == ["0,5", "2"]
    assert [runner.num_jobs(asked, gpus) for asked in (None, 2)] == [3, 2]
    assert [runner.num_jobs(asked, []) for asked in (None, 4)] == [1, 4]
    with pytest.raises(AgmaxError, match="3 GPUs are visible"):
        runner.num_jobs(4, gpus)


def test_on_the_cpu_jobs_are_not_bound_to_gpus(run: Call, untrained: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "visible_gpus", lambda: ["0"])
    Path("tiny.yaml").write_text(TINY)
    words = ("--study", "./tiny.yaml", "--jobs", "2", "--dry-run")
    assert run(*words).status == 8
    assert run(*words, "--device=cpu").status == 0
    assert run(*words, "--run", "1").status == 0  # a task of an array job has one GPU


def test_results_that_cannot_be_written_end_before_the_first_training(run: Call, untrained: None) -> None:
    Path("tiny.yaml").write_text(TINY)
    Path("results").symlink_to("nowhere")
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 6 and "cannot write the results (results/tiny.jsonl)" in answer.err
