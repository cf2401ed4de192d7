"""Run the runs of a study that are not finished: each in a process of its own, alone in its run folder."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from agmax.config import names, resolve
from agmax.core import storage
from agmax.core.errors import AgmaxError, ResourceError
from agmax.core.logs import log
from agmax.experiments import start
from agmax.experiments.run_folder import RunFolder, find_runs
from agmax.experiments.source_hash import fingerprint
from agmax.experiments.start import IRRELEVANT_SETTINGS
from agmax.studies.plan import PlannedRun

POLL_SECONDS = 5.0
"""How often a run that another program trains is looked at."""


class RunOutcome(NamedTuple):
    """What became of a run."""

    planned: PlannedRun
    run: RunFolder | None  # finished; None where it failed, or another program has it
    message: str  # what went wrong
    exit_code: int


class StudyRunError(AgmaxError):
    """A run whose training failed; the program ends with the code of that training."""

    def __init__(self, outcome: RunOutcome, num_failed: int, log_file: Path) -> None:
        what = "a run failed" if num_failed == 1 else f"{num_failed} runs failed, the first"
        remedy = f"See {log_file}; the finished runs are kept, and --study again runs the others"
        super().__init__(what, where=outcome.planned.title, why=outcome.message, remedy=remedy)
        self.exit_code = outcome.exit_code


def folder_of(study: str, runs_dir: str) -> Path:
    """Return where a study writes what is its own."""
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
    """Train the runs, `jobs` at a time, each job on its share of the GPUs or of the cores.

    With `fresh` the runs that other code has begun are left as they are; every run imports the files `imports`.
    `done` is called with every finished run, in the order in which they end. A run that another program has
    locked is left to it and looked at again at the end. Return the outcomes of those that failed.
    """
    storage.make_folder(folder / "runs")
    failed: list[RunOutcome] = []
    waiting = list(planned_runs)
    num_told = 0
    while waiting:
        elsewhere: list[PlannedRun] = []
        with closing(_each(waiting, folder, jobs=jobs, gpus=gpus, fresh=fresh, imports=imports)) as outcomes:
            for outcome in outcomes:
                if outcome.run is not None:
                    done(outcome)
                elif outcome.exit_code == 0:
                    elsewhere.append(outcome.planned)
                else:
                    failed.append(outcome)
                    log.info("failed: %s: %s", outcome.planned.title, outcome.message)
        if elsewhere and len(elsewhere) == len(waiting):
            if len(elsewhere) != num_told:
                num_told = len(elsewhere)
                log.info("waiting for runs that other programs train: %d", num_told)
            time.sleep(POLL_SECONDS)
        waiting = elsewhere
    return failed


class _Processes:
    """The processes that were started and run on; all of them end when this program is told to."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_over = False

    def run(self, words: Sequence[str], log_file: Path, environment: dict[str, str], lock: int) -> tuple[int, bytes]:
        """Run a command whose text goes to a file; return its exit status, 128 + n after signal n, and its answer."""
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
            if self._is_over:  # it was told between two of these lines
                child.terminate()
            answer, _ = child.communicate()
        self._running.discard(child)
        code = child.returncode
        return code if code >= 0 else 128 - code, answer

    def end(self) -> None:
        """End them; their trainings go on from the last checkpoint next time."""
        self._is_over = True
        for child in list(self._running):
            child.terminate()


def _each(
    planned_runs: Sequence[PlannedRun],
    folder: Path,
    *,
    jobs: int,
    gpus: Sequence[str],
    fresh: bool,
    imports: Sequence[str],
) -> Generator[RunOutcome, None, None]:
    """Yield the outcome of each run as it ends."""
    places = [_environment(number, jobs, gpus) for number in range(jobs)]
    children = _Processes()
    queue = iter(planned_runs)
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[RunOutcome], dict[str, str]] = {}
        try:
            while True:
                while places and (planned := next(queue, None)) is not None:
                    place = places.pop()
                    running[pool.submit(_train, planned, folder, place, children, fresh=fresh, imports=imports)] = place
                if not running:
                    return
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    places.append(running.pop(ended))
                    yield ended.result()
        finally:
            children.end()


def _environment(number: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment of a job: its share of the GPUs, or of the cores."""
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
    """Train one run, or go on with it; the lock is the child's too, so that it holds as long as either lives."""
    with storage.lock(folder / "runs" / f"{planned.key}.lock") as lock:
        if lock is None:
            return RunOutcome(planned, None, "another program trains it", 0)
        begun = next(iter(_runs(planned, fresh=fresh)), None)
        if begun is not None and begun.read_json("result.json") is not None:
            return RunOutcome(planned, begun, "", 0)
        config = folder / "runs" / f"{planned.key}.yaml"
        log_file = config.with_suffix(".log")
        words = [*program(), *(f"--import={path}" for path in imports), f"--config={config}", "--train", "--json"]
        words += [f"--resume={begun.path}"] if begun else []
        storage.write_file(config, resolve.as_yaml(planned.resolved))
        with storage.explain(log_file):
            code, answer = children.run(words, log_file, environment, lock)
        try:
            folder_of_run = json.loads(answer)["run_folder"] if code == 0 else None
        except (ValueError, KeyError, TypeError):
            folder_of_run = None
        if folder_of_run is None:
            return RunOutcome(planned, None, _reason(log_file, code), code or 1)
        return RunOutcome(planned, RunFolder(Path(folder_of_run)), "", 0)


def _runs(planned: PlannedRun, *, fresh: bool) -> Iterable[RunFolder]:
    """Yield the run folders of a run's very settings, the newest first; with `fresh` those of the present code."""
    config = planned.config
    for run in find_runs(config.train.runs_dir, config.name, start.stem(config)):
        there = start.settings_of(run)
        environment = run.read_json("environment.json") or {}
        if there is None or (fresh and environment.get("code") != fingerprint()):
            continue
        num_classes = there.dataset.num_classes
        counted = resolve.with_classes(config, num_classes) if num_classes else config  # a run has counted them
        if not resolve.differences(there, counted, ignore=IRRELEVANT_SETTINGS):
            yield run


def program() -> list[str]:
    """Return the command that starts this program anew."""
    script = names.PACKAGE.parent / "main.py"
    return [sys.executable, str(script)] if script.is_file() else [sys.executable, "-m", "agmax"]


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES writes them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def jobs_for(asked: int | None, gpus: Sequence[str]) -> int:
    """Return how many runs are trained at a time: what is asked, or one for each GPU.

    Raises:
        ResourceError: there are fewer GPUs than jobs.
    """
    if asked and gpus and asked > len(gpus):
        raise ResourceError("fewer GPUs than jobs", where=f"--jobs={asked}", why=f"{len(gpus)} GPUs are visible")
    return asked or max(1, len(gpus))


def _reason(log_file: Path, code: int) -> str:
    """Return why a training ended, from what its latest attempt has said."""
    text = "\n" + log_file.read_text(encoding="utf-8", errors="replace")
    _, *lines = text.rpartition("\n$ ")[2].splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if not errors and code > 128:
        return f"ended by signal {code - 128} ({signal.strsignal(code - 128)})"
    return (errors or lines or ["nothing was said"])[-1].removeprefix("error: ")
