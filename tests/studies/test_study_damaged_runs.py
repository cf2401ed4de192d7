"""Damaged files in the run folders of a study: mended where they can be, else named; the other runs are not lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.command import Answer
from helpers.studies import lines, numbers

Call = Callable[..., Answer]

DAMAGES = [b"", b"null", b'{"top1": 9', b"\xff\xfe\0", b"[3]"]

RUN = Path("runs/tiny-plain/digits-s0")


@pytest.fixture
def unrecorded(copy: Path) -> dict[str, Any]:
    """Remove the records of the finished study, which are read again from its run folders; return them."""
    before = numbers()
    Path("results/tiny.jsonl").unlink()
    return before


@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_run_with_a_damaged_result_or_configuration_is_finished_again(
    unrecorded: dict[str, Any], run: Call, trained: Any, damaged: bytes
) -> None:
    (RUN / "result.json").write_bytes(damaged)
    (RUN / "config.yaml").write_bytes(damaged)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 0, answer.err
    assert numbers() == unrecorded and trained.num_started == 1
    assert not RUN.with_name("digits-s0-2").exists()


@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_run_with_a_damaged_environment_is_recorded_without_it(
    unrecorded: dict[str, Any], run: Call, untrained: None, damaged: bytes
) -> None:
    (RUN / "environment.json").write_bytes(damaged)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 0 and "note: 1 finished runs" not in answer.err
    assert [each["code"] is None for each in lines()] == [True, False, False, False]
    assert len(lines()) == 4


@pytest.mark.parametrize("name", ["predictions.npz", "metrics.jsonl"])
@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_run_with_damaged_numbers_is_named_and_the_others_are_recorded(
    unrecorded: dict[str, Any], run: Call, untrained: None, name: str, damaged: bytes
) -> None:
    (RUN / name).write_bytes(damaged)
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 4 and len(lines()) == 3
    (error,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: a run failed (plain, seed 0): ") and str(RUN) in error
    assert (name in error) and "Traceback" not in answer.err


def test_damaged_predictions_are_written_again_as_the_error_says(
    unrecorded: dict[str, Any], run: Call, trained: Any
) -> None:
    (RUN / "predictions.npz").write_bytes(b"")
    answer = run("--study", "./tiny.yaml")
    assert f"Remove {RUN}/result.json and --train --resume {RUN}" in answer.err
    (RUN / "result.json").unlink()
    assert run("--train", "--resume", str(RUN)).status == 0
    assert run("--study", "./tiny.yaml").status == 0
    assert sorted(numbers()) == sorted(unrecorded) and trained.num_started == 0


def test_fresh_takes_a_damaged_environment_for_that_of_other_code(copy: Path, run: Call, trained: Any) -> None:
    (RUN / "environment.json").write_bytes(b"[]")
    Path("results/tiny.jsonl").unlink()
    answer = run("--study", "./tiny.yaml", "--fresh")
    assert answer.status == 0 and trained.num_started == 1
