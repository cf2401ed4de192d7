"""Train the missing runs of a study, each in its own process and run folder."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from agmax.config import resolve
from agmax.core import locks, storage
from agmax.core.errors import AgmaxError, CheckpointError, ResourceError
from agmax.core.logs import log
from agmax.experiments import start
from agmax.experiments.environment import program
from agmax.experiments.run_folder import RunFolder, find_runs
from agmax.experiments.source_hash import source_hash
from agmax.experiments.start import IRRELEVANT_SETTINGS
from agmax.studies.plan import PlannedRun

POLL_SECONDS = 5.0
"""Interval between checks of runs that other processes train."""


class RunOutcome(NamedTuple):
    """The outcome of a run: finished, failed, or left to another process."""

    planned: PlannedRun
    run: RunFolder | None  # None where it failed, or another process trains it
    message: str  # the error, where it failed
    exit_code: int  # 0 where it finished or another process trains it


class StudyRunError(AgmaxError):
    """The training of a run failed; the program ends with the exit code of that training."""

    def __init__(self, outcome: RunOutcome, num_failed: int, log_file: Path) -> None:
        what = "a run failed" if num_failed == 1 else f"{num_failed} runs failed, the first"
        remedy = f"See {log_file}; finished runs are kept, and --study trains the others"
        super().__init__(what, where=outcome.planned.title, why=outcome.message, remedy=remedy)
        self.exit_code = outcome.exit_code


def folder_of(study: str, runs_dir: str) -> Path:
    """Return the folder of a study's tables, figures and logs."""
    return Path(runs_dir).expanduser() / "studies" / study


def run_all(
    planned_runs: Sequence[PlannedRun],
    folder: Path,
    *,
    jobs: int,
    gpus: Sequence[str],
    fresh: bool,
    imports: Sequence[str] = (),
    done: Callable[[RunOutcome], None],
) -> list[RunOutcome]:
    """Train the runs, `jobs` at a time, each job on its part of the GPUs or cores; return the failed outcomes.

    With `fresh`, unfinished runs of other code are not continued. Every run imports the files `imports`. `done` is
    called with each finished run, in the order in which they end. Runs that another process has locked are checked
    again at the end.
    """
    storage.make_folder(folder / "runs")
    failed: list[RunOutcome] = []
    waiting = list(planned_runs)
    num_reported = 0
    while waiting:
        elsewhere: list[PlannedRun] = []
        with closing(_train_all(waiting, folder, jobs=jobs, gpus=gpus, fresh=fresh, imports=imports)) as outcomes:
            for outcome in outcomes:
                if outcome.run is not None:
                    try:
                        done(outcome)
                    except CheckpointError as error:  # a file of the run is damaged
                        failed.append(RunOutcome(outcome.planned, None, str(error), error.exit_code))
                        log.info("failed: %s: %s", outcome.planned.title, error)
                elif outcome.exit_code == 0:
                    elsewhere.append(outcome.planned)
                else:
                    failed.append(outcome)
                    log.info("failed: %s: %s", outcome.planned.title, outcome.message)
        if elsewhere and len(elsewhere) == len(waiting):
            if len(elsewhere) != num_reported:
                num_reported = len(elsewhere)
                log.info("waiting for runs that other processes train: %d", num_reported)
            time.sleep(POLL_SECONDS)
        waiting = elsewhere
    return failed


class _Processes:
    """The child processes that are running; all of them end with this program."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_ended = False

    def run(self, words: Sequence[str], log_file: Path, environment: dict[str, str], lock: int) -> tuple[int, bytes]:
        """Run a command with stderr to a file; return its exit code (128 + n after signal n) and its stdout."""
        storage.append(log_file, f"$ {shlex.join(words)}\n")
        with log_file.open("ab") as output:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                pass_fds=[lock],
            )
            self._running.add(child)
            if self._is_ended:  # end() was called since the child was started
                child.terminate()
            output_bytes, _ = child.communicate()
        self._running.discard(child)
        code = child.returncode
        return code if code >= 0 else 128 - code, output_bytes

    def end(self) -> None:
        """End all processes; the next call continues their trainings from the last checkpoint."""
        self._is_ended = True
        for child in list(self._running):
            child.terminate()


def _train_all(
    planned_runs: Sequence[PlannedRun],
    folder: Path,
    *,
    jobs: int,
    gpus: Sequence[str],
    fresh: bool,
    imports: Sequence[str],
) -> Generator[RunOutcome, None, None]:
    """Yield the outcome of each run as it ends."""
    environments = [_environment(number, jobs, gpus) for number in range(jobs)]
    children = _Processes()
    queue = iter(planned_runs)
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[RunOutcome], dict[str, str]] = {}
        try:
            while True:
                while environments and (planned := next(queue, None)) is not None:
                    environment = environments.pop()
                    future = pool.submit(_train, planned, folder, environment, children, fresh=fresh, imports=imports)
                    running[future] = environment
                if not running:
                    return
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    environments.append(running.pop(ended))
                    yield ended.result()
        finally:
            children.end()


def _environment(number: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of a job: its part of the GPUs or cores."""
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[number::jobs])
    elif jobs > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    return environment


def _train(
    planned: PlannedRun,
    folder: Path,
    environment: dict[str, str],
    children: _Processes,
    *,
    fresh: bool,
    imports: Sequence[str],
) -> RunOutcome:
    """Train or continue one run; the child inherits the lock, which holds while either process lives."""
    with locks.lock(folder / "runs" / f"{planned.key}.lock") as lock:
        if lock is None:
            return RunOutcome(planned, None, "another process trains it", 0)
        existing = next(iter(_find_runs(planned, fresh=fresh)), None)
        if existing is not None and existing.is_finished:
            return RunOutcome(planned, existing, "", 0)
        config = folder / "runs" / f"{planned.key}.yaml"
        log_file = config.with_suffix(".log")
        words = [*program(), *(f"--import={path}" for path in imports), f"--config={config}", "--train", "--json"]
        words += [f"--resume={existing.path}"] if existing else []
        storage.write_file(config, resolve.as_yaml(planned.resolved))
        with storage.explain(log_file):
            code, output = children.run(words, log_file, environment, lock)
        try:
            run_folder = json.loads(output)["run_folder"] if code == 0 else None
        except (ValueError, KeyError, TypeError):
            run_folder = None
        if run_folder is None:
            return RunOutcome(planned, None, _reason(log_file, code), code or 1)
        return RunOutcome(planned, RunFolder(Path(run_folder)), "", 0)


def _find_runs(planned: PlannedRun, *, fresh: bool) -> Iterable[RunFolder]:
    """Yield the run folders with exactly a run's settings, newest first; with `fresh`, only those of this code."""
    config = planned.config
    for run in find_runs(config.train.runs_dir, config.name, start.stem(config)):
        other = start.settings_of(run)
        environment = run.read_json("environment.json") or {}
        if other is None or (fresh and environment.get("code") != source_hash()):
            continue
        num_classes = other.dataset.num_classes  # a run folder has the number of classes found in the data
        expected = resolve.with_classes(config, num_classes) if num_classes else config
        if not resolve.differences(other, expected, ignore=IRRELEVANT_SETTINGS):
            yield run


def visible_gpus() -> list[str]:
    """Return the names of the usable GPUs, as written in CUDA_VISIBLE_DEVICES."""
    import torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def num_jobs(typed: int | None, gpus: Sequence[str]) -> int:
    """Return how many runs are trained at a time: as typed, or one for each GPU.

    Raises:
        ResourceError: there are fewer GPUs than jobs.
    """
    if typed and gpus and typed > len(gpus):
        raise ResourceError(
            "fewer GPUs than jobs", where=f"--jobs={typed}", why=f"{len(gpus)} GPUs are visible", remedy="Lower it"
        )
    return typed or max(1, len(gpus))


def _reason(log_file: Path, code: int) -> str:
    """Return why a training failed, from the log of its latest attempt."""
    text = "\n" + log_file.read_text(encoding="utf-8", errors="replace")
    _, *lines = text.rpartition("\n$ ")[2].splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if not errors and code > 128:
        return f"ended by signal {code - 128} ({signal.strsignal(code - 128)})"
    return (errors or lines or ["its log is empty"])[-1].removeprefix("error: ")
