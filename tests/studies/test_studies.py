"""A study from its file to its records: run, killed, shared, tuned; each cell trained once, whatever happens."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agmax import builders
from agmax.cli import parser
from agmax.cli.commands import study as study_command
from agmax.config import resolve
from agmax.config.resolve import Ask
from agmax.core.errors import AgmaxError, DataError
from agmax.core.logs import log
from agmax.experiments import environment, source_hash
from agmax.experiments.run_folder import Run
from agmax.experiments.start import find_start
from agmax.experiments.train import train
from agmax.reports import writers
from agmax.studies import plan, records, runner, slurm, study, tuning
from agmax.studies import spec as files
from agmax.studies.plan import Typed
from helpers.command import Answer
from helpers.places import REPOSITORY
from main import main

Call = Callable[..., Answer]

SETTINGS = """
base: ResNet8
dataset: digits
settings:
  dataset: {train_limit: 40, validation: 40, split_seed: 0, image_size: 8}
  augment: {standard: {padding: 1}}
  train: {epochs: 1, batch_size: 20}
"""

TINY = f"""{SETTINGS}
replicates: 2
variants:
  plain:
  smooth: label_smoothing
contrasts:
  - {{of: smooth, against: [plain]}}
"""
"""Two arms, two seeds, two steps each."""

TUNED = f"""{SETTINGS}
variants:
  plain:
  smooth: label_smoothing
contrasts:
  - {{of: smooth, against: [plain]}}
tune:
  replicates: [1000, 1001]
  trials:
    plain: [{{optimizer.lr: 0.1}}, {{optimizer.lr: 0.2}}, {{optimizer.lr: 0.3}}]
    smooth: [{{}}, {{optimizer.lr: 0.2}}, {{optimizer.lr: 0.3}}]
"""

TIME = ("seconds", "environment")
"""What two trainings of one cell may differ in."""


def numbers(path: Path = Path("results/tiny.jsonl")) -> dict[str, Any]:
    """Read the records of a study, without what depends on time and machine."""
    return {
        key: {name: value for name, value in record.items() if name not in TIME}
        for key, record in records.read(path).items()
    }


def lines(path: Path = Path("results/tiny.jsonl")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def folders(runs: Path = Path("runs")) -> list[str]:
    """List the run folders."""
    return sorted(str(path.parent.relative_to(runs)) for path in runs.glob("*/*/config.yaml"))


def table() -> str:
    """Return the tables of the finished study in this folder, without its times."""
    said = study.run(Path("tiny.yaml")).analysis
    assert said is not None
    return writers.markdown(said._replace(arms=[arm._replace(minutes=0.0) for arm in said.arms]))


class InThisProcess:
    """Stands for the process that trains a cell: trains it here, which saves five seconds."""

    num_started = 0

    def __init__(self, words: Sequence[str], **files: Any) -> None:
        type(self).num_started += 1
        self.words, self.output = words[len(runner.program()) :], files["stderr"]
        self.returncode = 0

    def communicate(self) -> tuple[bytes, None]:
        handlers, log.handlers = log.handlers, []
        try:
            return json.dumps(self.train(parser.parse(self.words).ask)).encode(), None
        except AgmaxError as error:
            self.output.write(f"error: {error}\n".encode())
            self.returncode = error.exit_code
            return b"", None
        finally:
            log.handlers = handlers

    def train(self, ask: Ask) -> dict[str, Any]:
        with find_start(ask) as start:
            return train(start).to_dict()

    def terminate(self) -> None: ...


def stand_in(monkeypatch: pytest.MonkeyPatch, kind: type) -> Any:
    """Let another class stand for the processes of cells, and count them anew."""
    counted: Any = type("Counted", (kind,), {"num_started": 0})
    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(Popen=counted, DEVNULL=None, PIPE=None))
    return counted


class Untrained:
    """Stands for a training that must not be."""

    def __init__(self, words: Sequence[str], **files: Any) -> None:
        raise AssertionError(words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished study: tiny.yaml, results/, runs/; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_command, "report", lambda said, folder: [])
        patch.chdir(folder)
        stand_in(patch, InThisProcess)
        assert main(["--study", "./tiny.yaml"]) == 0
    return folder


@pytest.fixture(autouse=True)
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which takes seconds."""
    monkeypatch.setattr(study_command, "report", lambda said, folder: [])


@pytest.fixture
def copy(finished: Path, tmp_path: Path, run: Call) -> Path:
    """Copy the finished study to the folder of this test."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train cells in this process, and count them."""
    return stand_in(monkeypatch, InThisProcess)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no cell be trained."""
    stand_in(monkeypatch, Untrained)


def make_up(monkeypatch: pytest.MonkeyPatch, finished: Path) -> Any:
    """Let a cell take a moment, and its result from a table: top1 by the study's arm, learning rate and seed."""
    template = finished / "runs/tiny-plain/digits-s0"
    top1: dict[tuple[str, float, int], float] = {}

    class MadeUp(InThisProcess):
        def train(self, ask: Ask) -> dict[str, Any]:
            resolved = resolve.resolve(str(ask.source))
            config = resolved.config
            path = Run.create(config.train.runs_dir, config.name, f"digits-s{config.train.seed}").path
            time.sleep(0.02)
            for name in ("environment.json", "predictions.npz", "metrics.jsonl"):
                shutil.copy(template / name, path)
            arm = config.name.removeprefix("tiny-").partition("-")[0]
            value = top1.get((arm, config.optimizer.lr, config.train.seed), 50.0)
            (row,) = Run(path).rows()
            row |= {"validation_top1": value, "test_top1": value}
            (path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            (path / "config.yaml").write_text(resolve.as_yaml(resolved))
            result = json.loads((template / "result.json").read_text())
            result |= {"seed": config.train.seed, "run_folder": str(path)}
            (path / "result.json").write_text(json.dumps(result))
            return result

    counted = stand_in(monkeypatch, MadeUp)
    counted.top1 = top1
    return counted


@pytest.fixture
def made_up(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make up the results of cells, and count them."""
    return make_up(monkeypatch, finished)


# --- run, and run again --------------------------------------------------------------------------------------


def test_a_study_leaves_one_record_and_one_run_folder_of_each_cell(copy: Path) -> None:
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
        assert (each["image_passes"], each["steps"], each["epochs"]) == (40, 2, 1)
        assert each["code"] == source_hash.fingerprint() and each["environment"]["threads"] == 1
        assert each["metrics"]["test"]["error"] == pytest.approx(100 - each["metrics"]["test"]["top1"])


def test_a_record_says_what_the_run_folder_says(copy: Path) -> None:
    for each in lines():
        run = Path("runs") / each["config"] / f"digits-s{each['seed']}"
        result = json.loads((run / "result.json").read_text())
        assert all(each["metrics"]["test"][name] == result[name] for name in ("top1", "top5", "nll", "ece"))
        with np.load(run / "predictions.npz") as arrays:
            right = arrays["test_logits"].argmax(-1) == arrays["test_labels"]
        assert (records.right(each) == right).all()
        assert 100 * int(right.sum()) / len(right) == each["metrics"]["test"]["top1"]
        assert each["num_test_images"] == result["num_images"] == len(right)


def test_the_seeds_are_the_replicates_and_the_arms_share_them(copy: Path) -> None:
    first, second, third, fourth = (
        resolve.resolve(f"runs/tiny-{arm}/digits-s{seed}/config.yaml").config
        for arm in ("plain", "smooth")
        for seed in (0, 1)
    )
    assert [each.train.seed for each in (first, second, third, fourth)] == [0, 1, 0, 1]
    for one, other in ((first, third), (second, fourth)):
        found = resolve.differences(one, other, ignore=["name"])
        assert found == ["objective.label_smoothing: 0.0 -> 0.1"]
    assert len({each["labels"] for each in lines()}) == 1


def test_started_again_a_finished_study_trains_nothing_and_says_the_same(
    copy: Path, run: Call, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if "studies" not in path.parts}
    first, second = (run("--study", "./tiny.yaml", "--json") for _ in range(2))
    assert first.status == 0 and first.json == second.json
    assert "4 cells, 4 finished, 0 to run" in first.err
    assert set(first.json["arms"]) == {"plain", "smooth"} and first.json["missing"] == []
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if "studies" not in path.parts} == before


def test_a_finished_run_without_a_record_is_taken_over(copy: Path, run: Call, untrained: None) -> None:
    whole = numbers()
    kept = Path("results/tiny.jsonl").read_text().splitlines(keepends=True)[1:3]
    Path("results/tiny.jsonl").write_text("".join(kept))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 0 and "4 cells, 2 finished, 2 to run" in answer.err
    assert numbers() == whole and len(lines()) == 4


def test_a_record_without_a_run_folder_is_not_repeated(copy: Path, run: Call, untrained: None) -> None:
    before = table()
    shutil.rmtree("runs")  # a fresh clone has the records alone
    assert run("--study", "./tiny.yaml").status == 0
    assert table() == before and not folders()


def test_replicates_that_were_added_are_trained_alone(copy: Path, run: Call, trained: Any) -> None:
    before = lines()
    Path("tiny.yaml").write_text(TINY.replace("replicates: 2", "replicates: [0, 1, 5]"))
    assert run("--study", "./tiny.yaml").status == 0
    assert trained.num_started == 2 and lines()[:4] == before
    assert [(each["variant"], each["seed"]) for each in lines()[4:]] == [("plain", 5), ("smooth", 5)]


def test_a_failing_cell_does_not_stop_the_others(run: Call, trained: Any) -> None:
    arms = "  steep: {optimizer.lr: 1.0e+9, train.epochs: 2}\n  plain:\n"
    Path("tiny.yaml").write_text(TINY.replace("  plain:\n", arms))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 7
    assert sorted((each["variant"], each["seed"]) for each in lines()) == [
        ("plain", 0),
        ("plain", 1),
        ("smooth", 0),
        ("smooth", 1),
    ]
    (error,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: 2 cells failed, the first (steep, seed 0): training diverged (step ")
    log_file = Path(next(word for word in error.replace(";", " ").split() if word.endswith(".log")))
    assert "training diverged" in log_file.read_text() and log_file.parent == Path("runs/studies/tiny/cells")
    assert answer.err.count("failed: steep") == 2 and "failed: plain" not in answer.err
    again = run("--study", "./tiny.yaml")
    assert again.status == 7 and trained.num_started == 6 + 2  # those that failed, and no other


@pytest.mark.parametrize(
    ("said", "status", "code", "reason"),
    [
        ("error: first\nerror: disk full. Make room\n", 6, 6, "disk full. Make room"),
        ("epoch 1/2\n", -signal.SIGKILL, 137, "ended by signal 9 (Killed)"),
        ("Traceback\nValueError: of no use\n", 1, 1, "ValueError: of no use"),
        ("", 1, 1, "nothing was said"),
        ("finished\n", 0, 1, "finished"),  # without a result
    ],
)
def test_the_reason_of_a_failure_is_what_the_last_attempt_said(
    run: Call, monkeypatch: pytest.MonkeyPatch, said: str, status: int, code: int, reason: str
) -> None:
    class Failing(InThisProcess):
        def communicate(self) -> tuple[bytes, None]:
            self.output.write(said.encode())
            self.returncode = status
            return b"", None

    Path("tiny.yaml").write_text(TINY.replace("replicates: 2", "replicates: 1"))
    cell = plan.results(files.read(Path("tiny.yaml")), Typed(), {})[0]
    old = Path(f"runs/studies/tiny/cells/{cell.key}.log")
    old.parent.mkdir(parents=True)
    old.write_text("$ an earlier attempt\nerror: an earlier reason\n")
    stand_in(monkeypatch, Failing)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == code
    assert f"failed: plain, seed 0: {reason}\n" in answer.err


def test_two_cells_at_a_time_share_the_cores(run: Call, made_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Seen(made_up):  # type: ignore[misc]
        def __init__(self, words: Sequence[str], *, env: Mapping[str, str], **files: Any) -> None:
            super().__init__(words, **files)
            seen.append(env["OMP_NUM_THREADS"])

    stand_in(monkeypatch, Seen)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: set(range(6)))
    Path("tiny.yaml").write_text(TINY)
    assert run("--study", "./tiny.yaml", "--jobs", "2").status == 0
    assert seen == ["3"] * 4


def test_each_job_has_its_share_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = ["0", "2", "5"]
    found = [runner._environment(number, 2, gpus)["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    assert found == ["0,5", "2"]
    assert [runner.jobs_for(asked, gpus) for asked in (None, 2)] == [3, 2]
    assert [runner.jobs_for(asked, []) for asked in (None, 4)] == [1, 4]
    with pytest.raises(AgmaxError, match="3 GPUs are visible"):
        runner.jobs_for(4, gpus)


def test_on_the_cpu_jobs_are_not_bound_to_gpus(run: Call, untrained: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "visible_gpus", lambda: ["0"])
    Path("tiny.yaml").write_text(TINY)
    words = ("--study", "./tiny.yaml", "--jobs", "2", "--dry-run")
    assert run(*words).status == 8
    assert run(*words, "--device=cpu").status == 0
    assert run(*words, "--cell", "1").status == 0  # a task of an array job has one GPU


def test_results_that_cannot_be_kept_end_before_the_work(run: Call, untrained: None) -> None:
    Path("tiny.yaml").write_text(TINY)
    Path("results").symlink_to("nowhere")
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 6 and "cannot write the results (results/tiny.jsonl)" in answer.err


# --- killed, shared ------------------------------------------------------------------------------------------

STUDY = """
import os, signal, sys, threading
from agmax.studies import records, runner
from main import main
def leave():
    os.killpg(0, signal.SIGKILL)
append = records.append
def appended(*words):
    append(*words)
    threading.Timer(0.5, leave).start()
if sys.argv[1] == "after the first record":
    records.append = appended
else:
    runner.program = lambda: [sys.executable, "-c", sys.argv[2]]
sys.exit(main(sys.argv[3:]))
"""
"""A study that is killed with all its processes, or whose cells are trained by a program of the test."""

CELL = """
import os, signal, sys, time
from pathlib import Path
from agmax.training.loop import Trainer
from main import main
step = Trainer.train_step
def stepped(trainer, sample):
    if trainer.step == 3 and "{}" == "kill":
        os.killpg(0, signal.SIGKILL)
    if trainer.step == 3:
        Path("pid").write_text(str(os.getpid()))
        while not Path("go").exists():
            time.sleep(0.02)
    return step(trainer, sample)
Trainer.train_step = stepped
sys.exit(main(sys.argv[1:]))
"""
"""A cell that stops in the middle of its second epoch: kills all, or waits for a word."""

THREE = f"""{SETTINGS}
replicates: 3
variants:
  plain: {{train.epochs: 2}}
"""


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start a study in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", STUDY, *words, "--study", "./tiny.yaml"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_killed_twice_a_study_ends_with_the_same_records_and_the_same_table(
    run: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("tiny.yaml").write_text(THREE)
    assert start("after the first record", "").wait(120) == -signal.SIGKILL
    assert len(lines()) == 1
    first = Path("runs/tiny-plain/digits-s0/result.json")
    before = first.stat().st_mtime_ns

    assert start("in the middle of a cell", CELL.format("kill")).wait(120) == -signal.SIGKILL
    assert len(lines()) == 1 and folders() == ["tiny-plain/digits-s0", "tiny-plain/digits-s1"]
    broken = Run(Path("runs/tiny-plain/digits-s1"))
    assert len(broken.rows()) == 1 and broken.read_json("result.json") is None

    trained = stand_in(monkeypatch, InThisProcess)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 0 and "3 cells, 1 finished, 2 to run" in answer.err
    assert trained.num_started == 2
    assert "continuing after step 2 of 4" in (broken.path / "train.log").read_text()
    assert folders() == [f"tiny-plain/digits-s{seed}" for seed in range(3)] and len(lines()) == 3
    assert first.stat().st_mtime_ns == before
    killed, killed_table = numbers(), table()

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    monkeypatch.chdir(undisturbed)
    Path("tiny.yaml").write_text(THREE)
    assert main(["--study", "./tiny.yaml"]) == 0
    assert killed == numbers()
    assert killed_table == table()


def test_a_cell_whose_study_was_killed_is_waited_for_not_trained_beside(
    run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.yaml").write_text(THREE.replace("replicates: 3", "replicates: 2"))
    first = start("", CELL.format("wait"))
    orphan = 0
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if Path("go").exists():
            time.sleep(0.02)
            return
        assert is_alive(orphan) and [each["seed"] for each in lines()] == [1]
        assert folders() == ["tiny-plain/digits-s0", "tiny-plain/digits-s1"]
        if len(waited) == 3:
            Path("go").touch()

    try:
        until(lambda: Path("pid").exists() and Path("pid").read_text())
        orphan = int(Path("pid").read_text())
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        trained = stand_in(monkeypatch, InThisProcess)
        monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=sleep))
        answer = run("--study", "./tiny.yaml")
    finally:
        os.killpg(first.pid, signal.SIGKILL) if is_alive(orphan) else None
    assert answer.status == 0
    assert trained.num_started == 1  # the other one
    assert len(waited) >= 3 and answer.err.count("other programs train: 1") == 1
    assert [each["seed"] for each in lines()] == [1, 0] and len(folders()) == 2


def test_told_to_end_a_study_ends_its_trainings_and_returns_143(
    run: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = "import os, time; name = str(os.getpid()); open(name + '.pid', 'w'); time.sleep(30)"
    monkeypatch.setattr(runner, "program", lambda: [sys.executable, "-S", "-c", sleeper])
    Path("tiny.yaml").write_text(TINY)

    def not_ours(number: int, frame: Any) -> None:
        raise AssertionError("the study has not set its handler")

    def tell() -> None:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, not_ours)
    try:
        teller = threading.Thread(target=tell)
        teller.start()
        answer = run("--study", "./tiny.yaml", "--jobs", "2")
        teller.join()
        assert signal.getsignal(signal.SIGTERM) is not_ours
    finally:
        signal.signal(signal.SIGTERM, before)
    assert answer.status == 143
    processes = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(processes) == 2 and not any(is_alive(process) for process in processes)
    assert not Path("results/tiny.jsonl").exists() and "failed" not in answer.err


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Run two studies at the same time over the same folders; threads stand for their processes."""
    monkeypatch.setattr(
        study,
        "signal",
        SimpleNamespace(signal=lambda *words: None, getsignal=signal.getsignal, SIGTERM=signal.SIGTERM, SIG_IGN=0),
    )
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.02)

    def call(*words: str) -> list[int]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(main, [["--study", "./tiny.yaml", *words]] * 2))

    return call


def test_two_studies_at_once_train_every_cell_once(run: Call, made_up: Any, at_once: Any) -> None:
    Path("tiny.yaml").write_text(TINY.replace("replicates: 2", "replicates: 10"))
    assert at_once("--jobs", "2") == [0, 0]
    assert made_up.num_started == 20
    assert len(folders()) == 20 and len(lines()) == 20 and len(numbers()) == 20


def test_two_studies_at_once_make_one_choice(run: Call, made_up: Any, at_once: Any) -> None:
    Path("tiny.yaml").write_text(TUNED)
    assert at_once("--jobs", "2") == [0, 0]
    assert made_up.num_started == 12 and len(lines()) == 12
    assert list(Path("results").glob("*.yaml")) == [Path("results/tiny.chosen.yaml")]


# --- records -------------------------------------------------------------------------------------------------


def entry(key: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "code": "c", **more}


def test_a_line_cut_short_is_left_out_and_mended_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "results" / "tiny.jsonl"
    for key in ("a", "b"):
        records.append(path, entry(key, padding="x" * 50))
    whole = path.read_bytes()
    for length in range(len(whole) // 2 + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert list(records.read(path)) == ["a"]
        records.append(path, entry("c"))
        assert list(records.read(path)) == ["a", "c"] and path.read_bytes().endswith(b"}\n")


def test_a_whole_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_text(json.dumps(entry("a")) + "\n" + json.dumps(entry("b")))  # as some editors save
    assert list(records.read(path)) == ["a", "b"]
    records.append(path, entry("c"))
    assert list(records.read(path)) == ["a", "b", "c"]


@pytest.mark.parametrize("damaged", [b'{"key": "b", "co', b"<<<<<<< HEAD", b"[]", b"{}", b'{"key": "\xff\xfe"}', b"3"])
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_bytes(b"\n".join([json.dumps(entry("a")).encode(), damaged, json.dumps(entry("c")).encode(), b""]))
    with pytest.raises(DataError, match=r"damaged record \(.*tiny\.jsonl:2\)"):
        records.read(path)
    path.write_bytes(json.dumps(entry("a")).encode() + b"\n" + damaged + b"\n")  # it has its end: nothing cut it short
    with pytest.raises(DataError, match=r"damaged record \(.*tiny\.jsonl:2\)"):
        records.read(path)


def test_a_study_with_damaged_records_ends_with_3(copy: Path, run: Call, untrained: None) -> None:
    path = Path("results/tiny.jsonl")
    path.write_text(path.read_text().replace('"study"', '"study', 1))
    before = path.read_bytes()
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 3 and path.read_bytes() == before
    assert answer.err.startswith("error: damaged record (results/tiny.jsonl:1). Restore the file, or remove that line")


def test_of_one_cell_the_last_record_counts_and_the_same_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    records.append(path, entry("a", value=1))
    records.append(path, entry("a", value=2))
    assert records.read(path)["a"]["value"] == 1
    records.append(path, {"key": "a", "code": "other code", "value": 3})
    assert records.read(path)["a"]["value"] == 3 and len(path.read_text().splitlines()) == 2


APPENDING = """
import sys
from pathlib import Path
from agmax.studies import records
for number in range(40):
    records.append(Path("tiny.jsonl"), {"key": f"{sys.argv[1]}-{number}", "code": "c", "right": "x" * 3000})
"""


def test_no_line_is_lost_where_many_write_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDING, f"process{number}"], cwd=tmp_path, env=environment)
        for number in range(2)
    ]
    path = tmp_path / "tiny.jsonl"

    def write(thread: int) -> None:
        for number in range(40):
            records.append(path, entry(f"thread{thread}-{number}", right="x" * 3000))

    until(path.exists)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [process.wait(60) for process in processes] == [0, 0]
    written = [
        f"{who}{each}-{number}"
        for who, count in (("process", 2), ("thread", 4))
        for each in range(count)
        for number in range(40)
    ]
    assert sorted(each["key"] for each in lines(path)) == sorted(written)
    assert all(len(each["right"]) == 3000 for each in lines(path))


@given(st.lists(st.booleans(), max_size=70))
def test_right_and_wrong_come_back_as_they_were_packed(bits: list[bool]) -> None:
    right = np.array(bits, dtype=bool)
    text = records.packed(right)
    assert json.loads(json.dumps(text)) == text and len(base64.b64decode(text)) == (len(bits) + 7) // 8
    assert records.right({"right": text, "num_test_images": len(bits)}).tolist() == bits


def test_twenty_thousand_images_take_two_and_a_half_kilobytes() -> None:
    assert len(base64.b64decode(records.packed(np.ones(20_000, dtype=bool)))) == 2500


@given(st.lists(st.integers(0, 999), min_size=2, max_size=40))
def test_the_checksum_tells_labels_and_their_order_whatever_their_type(labels: list[int]) -> None:
    found = records.checksum(np.array(labels))
    assert len(found) == 16
    for kind in (np.int16, np.int32, np.uint64, ">i8"):
        assert records.checksum(np.array(labels).astype(kind)) == found
    assert records.checksum(np.array([*labels, 0])) != found
    if labels != labels[::-1]:
        assert records.checksum(np.array(labels[::-1])) != found


# --- other code ----------------------------------------------------------------------------------------------


def test_cells_of_other_code_are_marked_and_repeated_only_when_asked(
    copy: Path, run: Call, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lines()
    for module in (environment, runner, study):
        monkeypatch.setattr(module, "fingerprint", lambda: "another code")
    answer = run("--study", "./tiny.yaml", "--json")
    assert answer.status == 0 and trained.num_started == 0 and lines() == before
    assert "note: 4 finished cells were made by other code; --fresh repeats them" in answer.err
    assert "4 cells were made by other code than the present; --fresh repeats them" in answer.json["notes"]
    planned = run("--study", "./tiny.yaml", "--fresh", "--dry-run")
    assert "4 cells, 0 finished, 4 to run" in planned.err and "finished cells were made" not in planned.err
    answer = run("--study", "./tiny.yaml", "--fresh", "--json")
    assert answer.status == 0 and trained.num_started == 4
    assert not [note for note in answer.json["notes"] if "other code" in note]
    assert lines()[:4] == before and len(lines()) == 8 and len(folders()) == 8
    assert {each["code"] for each in records.read(Path("results/tiny.jsonl")).values()} == {"another code"}
    assert "4 cells, 4 finished, 0 to run" in run("--study", "./tiny.yaml", "--fresh").err and trained.num_started == 4


def test_the_fingerprint_tells_what_code_does_not_how_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_hash, "PACKAGE", tmp_path)

    def fingerprint(text: str, name: str = "optim/lr_schedules.py") -> str:
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        source_hash.fingerprint.cache_clear()
        return source_hash.fingerprint()

    try:
        plain = fingerprint("FACTOR = 0.1\n\n\ndef scaled(lr):\n    return lr * FACTOR\n")
        assert len(plain) == 12
        laid_out = "# as in the paper\nFACTOR = 0.1  # a tenth\ndef scaled(\n    lr\n):\n    return (lr * FACTOR)\n"
        assert fingerprint(laid_out) == plain
        assert fingerprint("FACTOR = 0.2\n\n\ndef scaled(lr):\n    return lr * FACTOR\n") != plain
        assert fingerprint("FACTOR = 0.1\n\n\ndef scaled(lr):\n    return lr / FACTOR\n") != plain
        assert fingerprint(laid_out, name="optim/optimizers.py") != plain
        assert fingerprint(laid_out, name="cli/parser.py") == fingerprint("", name="cli/parser.py")  # decides no result
    finally:
        source_hash.fingerprint.cache_clear()


def test_every_pattern_of_the_fingerprint_finds_a_file() -> None:
    assert all(list(source_hash.PACKAGE.glob(pattern)) for pattern in source_hash.DECIDES)


# --- keys and plans ------------------------------------------------------------------------------------------


def keys(*words: str, text: str = TINY) -> list[str]:
    """Return the keys of the cells, with words typed beside."""
    Path("tiny.yaml").write_text(text)
    ask = parser.parse(["--study", "./tiny.yaml", *words]).ask
    typed = Typed(ask.dataset, ask.parts, ask.settings)
    return [cell.key for cell in plan.results(files.read(Path("tiny.yaml")), typed, {})]


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
def test_what_is_typed_beside_a_study_holds_for_every_cell_and_changes_its_key(
    run: Call, words: tuple[str, ...]
) -> None:
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
def test_where_and_how_a_cell_is_trained_leaves_its_key(run: Call, words: tuple[str, ...]) -> None:
    assert keys() == keys(*words)


def test_a_key_changes_with_every_setting_of_the_file_and_not_with_names(run: Call) -> None:
    before = keys()
    assert keys(text=TINY.replace("smooth", "smoother").replace("label_smoother", "label_smooth")) == before
    assert not set(keys(text=TINY.replace("epochs: 1", "epochs: 2"))) & set(before)
    assert len(set(before)) == 4


def test_typed_parts_and_settings_reach_the_training(run: Call, trained: Any) -> None:
    Path("tiny.yaml").write_text(TINY.replace("replicates: 2", "replicates: 1"))
    assert run("--study", "./tiny.yaml", "--agmax", "optimizer.lr=0.02", "train.runs_dir=elsewhere").status == 0
    for arm in ("plain", "smooth"):
        config = resolve.resolve(f"elsewhere/tiny-{arm}/digits-s0/config.yaml").config
        assert (config.objective.name, config.objective.num_views, config.optimizer.lr) == ("agmax", 2, 0.02)
    assert [each["image_passes"] for each in lines()] == [80, 80] and not Path("runs").exists()


@pytest.mark.parametrize("words", [("--seed=3",), ("train.seed=3",), ("evaluation.test=false",), ("name=mine",)])
def test_what_makes_a_cell_is_not_typed(run: Call, untrained: None, words: tuple[str, ...]) -> None:
    Path("tiny.yaml").write_text(TINY)
    answer = run("--study", "./tiny.yaml", *words)
    assert answer.status == 2 and "is the study's to set" in answer.err


def test_an_arm_like_another_has_its_settings_and_its_choice_beneath_its_own(run: Call) -> None:
    arms = "  again: {like: smooth, seed_offset: 50, train.epochs: 4}\n"
    Path("tiny.yaml").write_text(TUNED.replace("contrasts:", f"{arms}contrasts:"))
    read = files.read(Path("tiny.yaml"))
    chosen = {"smooth": read.trials["smooth"][2], "plain": read.trials["plain"][1]}
    plain, smooth, again = (cell.config for cell in plan.results(read, Typed(), chosen))
    assert (plain.optimizer.lr, smooth.optimizer.lr, again.optimizer.lr) == (0.2, 0.3, 0.3)
    assert (again.objective.label_smoothing, again.train.epochs, smooth.train.epochs) == (0.1, 4, 1)
    assert (again.train.seed, again.dataset_seed) == (50, 0) and smooth.dataset_seed == 0


def test_an_arm_of_other_seeds_is_recorded_by_its_replicate_so_that_it_can_be_paired(run: Call, made_up: Any) -> None:
    text = TINY.replace("contrasts:", "  again: {like: plain, seed_offset: 50}\ncontrasts:")
    Path("tiny.yaml").write_text(f"{text}checks:\n  - {{of: again, against: plain, expect: no difference}}\n")
    (check,) = run("--study", "./tiny.yaml", "--json").json["checks"]
    assert check["num_replicates"] == 2
    assert [each["seed"] for each in lines() if each["variant"] == "again"] == [0, 1]
    assert [name for name in folders() if "again" in name] == ["tiny-again/digits-s50", "tiny-again/digits-s51"]


def test_a_dry_run_trains_nothing_writes_nothing_and_tells_the_time(run: Call, untrained: None, tmp_path: Path) -> None:
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
    assert "by steps timed now" in answer.err
    assert "plain                          2 cells,   2 to run, image passes of each: 40" in answer.err


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([2], "with one contrast a p-value can fall under 0.05 from 6 replicates on; these are 2"),
        ([6], ""),
        ([6, 6, 6, 6], "with 4 contrasts a p-value can fall under 0.05 from 8 replicates on; these are 6"),
        ([8, 8, 8, 8], ""),
        ([8, 6, 6, 6], ""),
        ([6, 5, 5, 5], ""),  # three without a p-value
    ],
)
def test_contrasts_that_cannot_come_out_significant_are_said(counts: list[int], said: str, tmp_path: Path) -> None:
    text = TINY[: TINY.index("contrasts:")].replace("replicates: 2", "replicates: 8")
    arms = [f"  arm{n}: {{parts: label_smoothing, replicates: {count}}}\n" for n, count in enumerate(counts)]
    contrasts = [f"  - {{of: arm{n}, against: [plain]}}\n" for n in range(len(counts))]
    (tmp_path / "tiny.yaml").write_text("".join([text, *arms, "contrasts:\n", *contrasts]))
    assert study.too_few_replicates(files.read(tmp_path / "tiny.yaml")) == [said] * bool(said)


def test_the_estimate_follows_the_finished_cells(copy: Path, run: Call, untrained: None) -> None:
    """Cells of 40 image passes that took 20, 20, 20 and 2000 s: half a second a pass, 40 of 80 passes are left."""
    path = Path("results/tiny.jsonl")
    taken = [{**each, "seconds": seconds} for each, seconds in zip(lines(), (20, 20, 20, 2000), strict=True)]
    path.write_text("".join(json.dumps(each) + "\n" for each in taken))
    Path("tiny.yaml").write_text(TINY.replace("replicates: 2", "replicates: 3"))
    answer = run("--study", "./tiny.yaml", "--dry-run", "--jobs", "2", "--json")
    assert answer.json["estimated_seconds"] == pytest.approx(2 * 40 * 0.5 / 2)
    assert "about 20 s, 2 at a time, by the cells already finished" in answer.err
    assert "by steps timed now" in run("--study", "./tiny.yaml", "--dry-run", "train.epochs=3").err  # other cells


def test_one_cell_alone(run: Call, trained: Any) -> None:
    Path("tiny.yaml").write_text(TINY)
    answer = run("--study", "./tiny.yaml", "--cell", "2", "--json")
    assert answer.status == 0 and trained.num_started == 1
    assert [(each["variant"], each["seed"]) for each in lines()] == [("smooth", 0)]
    assert "4 cells, 0 finished, 1 to run" in answer.err and "arms" not in answer.json
    again = run("--study", "./tiny.yaml", "--cell", "2")
    assert again.status == 0 and trained.num_started == 1
    assert "4 cells, 1 finished, 0 to run" in again.err
    beyond = run("--study", "./tiny.yaml", "--cell", "5")
    assert beyond.status == 2 and "there are 4" in beyond.err


def test_the_array_job_is_a_script_that_trains_the_missing_cells(copy: Path, run: Call, tmp_path: Path) -> None:
    odd = Path("it's; $HOME")
    odd.mkdir()
    (odd / "tiny.yaml").write_text(TINY.replace("replicates: 2", "replicates: 4"))
    Path("results").rename(odd / "results")
    words = ("--study", f"./{odd}/tiny.yaml", "dataset.root=a b")
    answer = run(*words, "--print-slurm")
    assert answer.status == 0 and "#SBATCH --array=5-8" in answer.out
    assert subprocess.run(["bash", "-n"], input=answer.out, text=True).returncode == 0
    Path("srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    Path("srun").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "7"}
    ran = subprocess.run(["bash"], input=answer.out, env=path, text=True, capture_output=True, check=True)
    assert ran.stdout.splitlines() == [*runner.program(), *words, "--cell", "7"]
    assert run(*words, "--print-slurm", "--json").json["script"] == answer.out


def test_a_finished_study_has_nothing_to_submit(copy: Path, run: Call) -> None:
    answer = run("--study", "./tiny.yaml", "--print-slurm")
    assert answer.status == 2 and answer.out == "" and "all 4 cells are finished" in answer.err


@pytest.mark.parametrize(
    ("cells", "written"),
    [([1, 2, 3, 5], "1-3,5"), ([4], "4"), ([1, 3, 5], "1,3,5"), ([2, 3, 9, 10, 11], "2-3,9-11")],
)
def test_ranges_are_written_as_slurm_does(cells: list[int], written: str) -> None:
    assert slurm.ranges(cells) == written


def test_the_command_that_starts_a_cell_starts_this_program() -> None:
    ran = subprocess.run([*runner.program(), "--list", "datasets"], capture_output=True, text=True, check=True)
    assert "digits" in ran.stdout


# --- tuning --------------------------------------------------------------------------------------------------


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
    """Copy the tuned study to the folder of this test, and make up the results of further cells."""
    shutil.copytree(tuned_once, tmp_path, dirs_exist_ok=True)
    return made_up


CHOSEN = Path("results/tiny.chosen.yaml")


def test_the_choice_is_the_trial_of_the_highest_mean_and_of_equals_the_first(tuned: Any) -> None:
    assert len(lines()) == 12 and len(folders()) == 12
    assert all(each["phase"] == "tuning" for each in lines())
    read = tuning.read(tuning.tuning(files.read(Path("tiny.yaml")), Typed()))
    assert read is not None
    assert (read["plain"].trial, read["plain"].validation_top1, read["plain"].of_trials) == (
        0,
        65.0,
        (65.0, 60.0, 65.0),
    )
    assert (read["smooth"].trial, read["smooth"].of_trials) == (1, (45.0, 61.625, 50.0))
    assert [(setting.key, setting.value) for setting in read["smooth"].settings] == [("optimizer.lr", 0.2)]
    assert "smooth: trial 1, validation top1 61.62 %" in Path("err").read_text()
    assert f"{CHOSEN}. Commit it" in Path("err").read_text()
    answer = json.loads(Path("out").read_text())
    assert answer["phase"] == "tuning" and answer["missing"] == [] and "arms" not in answer


def test_after_the_tuning_the_next_start_measures_with_the_choice(tuned: Any, run: Call) -> None:
    before = CHOSEN.read_bytes(), CHOSEN.stat().st_mtime_ns
    answer = run("--study", "./tiny.yaml", "--json")
    assert answer.status == 0 and answer.json["phase"] == "results" and tuned.num_started == 2
    assert [(each["variant"], each["seed"], each["trial"]) for each in lines()[12:]] == [
        ("plain", 0, None),
        ("smooth", 0, None),
    ]
    learning_rates = {
        arm: resolve.resolve(f"runs/tiny-{arm}/digits-s0/config.yaml").config.optimizer.lr
        for arm in ("plain", "smooth")
    }
    assert learning_rates == {"plain": 0.1, "smooth": 0.2}
    assert run("--study", "./tiny.yaml").status == 0 and tuned.num_started == 2
    assert (CHOSEN.read_bytes(), CHOSEN.stat().st_mtime_ns) == before


@pytest.mark.parametrize("best", range(3))
def test_a_choice_is_read_as_it_was_written(run: Call, best: int) -> None:
    Path("tiny.yaml").write_text(TUNED)
    found = tuning.tuning(files.read(Path("tiny.yaml")), Typed())
    top1 = {cell.key: 80.5 if cell.trial == best else 100 / 3 for cell in found.cells}
    chosen = tuning.choose(found, {key: {"metrics": {"validation": {"top1": value}}} for key, value in top1.items()})
    assert [choice.trial for choice in chosen.values()] == [best, best]
    tuning.write(found, chosen)
    read = tuning.read(found) or {}
    assert list(read) == list(chosen) == ["plain", "smooth"]
    for written, again in zip(chosen.values(), read.values(), strict=True):
        assert again[:3] == written[:3]
        assert [setting[:2] for setting in again.settings] == [setting[:2] for setting in written.settings]
    assert len(read["smooth"].settings) == (0 if best == 0 else 1)  # its first trial changes nothing


def test_a_choice_that_is_there_is_not_written_over(tuned: Any) -> None:
    before = CHOSEN.read_bytes()
    found = tuning.tuning(files.read(Path("tiny.yaml")), Typed())
    choices = tuning.choose(found, records.read(Path("results/tiny.jsonl")))
    assert choices == {
        arm: choice._replace(settings=found.study.trials[arm][choice.trial])
        for arm, choice in (tuning.read(found) or {}).items()
    }
    tuning.write(found, {arm: choice._replace(validation_top1=99.0) for arm, choice in choices.items()})
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
        ('cells: "', 'cells: "0'),
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
        ("replicates: [1000, 1001]", "replicates: [1000, 1002]"),
    ],
)
def test_a_choice_of_another_tuning_is_refused(tuned: Any, run: Call, old: str, new: str) -> None:
    Path("tiny.yaml").write_text(TUNED.replace(old, new))
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 2 and "the choice does not fit the study" in answer.err and tuned.num_started == 0


def test_settings_typed_beside_a_tuning_leave_the_choice_of_the_study_alone(tuned: Any, run: Call) -> None:
    before = CHOSEN.read_bytes()
    assert run("--study", "./tiny.yaml", "train.epochs=3", "--json").json["phase"] == "tuning"
    assert tuned.num_started == 12 and CHOSEN.read_bytes() == before
    assert len(list(Path("results").glob("*.chosen.yaml"))) == 2
    assert run("--study", "./tiny.yaml", "train.epochs=3", "--json").json["phase"] == "results"
    assert run("--study", "./tiny.yaml", "train.runs_dir=elsewhere", "--json").json["phase"] == "results"


def test_a_contrast_with_the_best_of_several_takes_the_best_on_validation(tuned: Any, run: Call) -> None:
    arms = "  third: {like: plain, train.epochs: 3}\n"
    contrast = "{of: third, against: [smooth, plain]}"
    text = TUNED.replace("contrasts:", f"{arms}contrasts:").replace("{of: smooth, against: [plain]}", contrast)
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
    assert run("--study", "./tiny.yaml").status == 0
    assert set(loaded) == {"train"} and trained.num_started == 4
    for each in lines():
        assert each["split"] == "validation" and set(each["metrics"]) == {"validation"} and each["best"] == {}
        assert not {"right", "labels", "num_test_images"} & set(each) and "test_top1" not in each["curves"]
    with np.load("runs/tiny-plain-trial0/digits-s1000/predictions.npz") as arrays:
        assert not [name for name in arrays if name.startswith("test")]
    assert run("--study", "./tiny.yaml").status == 0
    assert "test" in loaded and lines()[4]["split"] == "test"


def test_a_source_tree_is_clean_though_a_study_has_added_to_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agmax").mkdir()
    results = tmp_path / "configs" / "study" / "results"
    results.mkdir(parents=True)
    for path in (tmp_path / "agmax" / "run.py", results / "a.jsonl"):
        path.write_text("first\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "agmax" / "run.py"))
    (results / "a.jsonl").write_text("first\nsecond\n")
    assert environment._commit.__wrapped__()["clean"] is True
    (tmp_path / "agmax" / "run.py").write_text("second\n")
    assert environment._commit.__wrapped__()["clean"] is False
