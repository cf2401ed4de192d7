"""Runs of other code are told by the hash of the sources."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agmax.experiments import environment, source_hash
from agmax.studies import records, runner, study
from helpers.command import Answer
from helpers.studies import folders, lines

Call = Callable[..., Answer]


def test_runs_of_other_code_are_marked_and_repeated_only_when_asked(
    copy: Path, run: Call, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lines()
    for module in (environment, runner, study):
        monkeypatch.setattr(module, "source_hash", lambda: "another code")
    answer = run("--study", "./tiny.yaml", "--json")
    assert answer.status == 0 and trained.num_started == 0 and lines() == before
    assert "note: 4 finished runs are of another version of the code; --fresh repeats them" in answer.err
    assert "4 runs are of another version of the code; --fresh repeats them" in answer.json["notes"]
    planned = run("--study", "./tiny.yaml", "--fresh", "--dry-run")
    assert "4 runs, 0 finished, 4 to run" in planned.err and "another version of the code" not in planned.err
    answer = run("--study", "./tiny.yaml", "--fresh", "--json")
    assert answer.status == 0 and trained.num_started == 4
    assert not [note for note in answer.json["notes"] if "other code" in note]
    assert lines()[:4] == before and len(lines()) == 8 and len(folders()) == 8
    assert {each["code"] for each in records.read_records(Path("results/tiny.jsonl")).values()} == {"another code"}
    assert "4 runs, 4 finished, 0 to run" in run("--study", "./tiny.yaml", "--fresh").err and trained.num_started == 4


def test_the_source_hash_depends_on_what_code_does_and_not_on_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_hash, "PACKAGE", tmp_path)

    def hash_of(text: str, name: str = "optim/lr_schedules.py") -> str:
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        source_hash.source_hash.cache_clear()
        return source_hash.source_hash()

    try:
        plain = hash_of("FACTOR = 0.1\n\n\ndef scaled(lr):\n    return lr * FACTOR\n")
        assert len(plain) == 12
        laid_out = "# as in the paper\nFACTOR = 0.1  # a tenth\ndef scaled(\n    lr\n):\n    return (lr * FACTOR)\n"
        assert hash_of(laid_out) == plain
        assert hash_of("FACTOR = 0.2\n\n\ndef scaled(lr):\n    return lr * FACTOR\n") != plain
        assert hash_of("FACTOR = 0.1\n\n\ndef scaled(lr):\n    return lr / FACTOR\n") != plain
        assert hash_of(laid_out, name="optim/optimizers.py") != plain
        assert hash_of(laid_out, name="cli/parser.py") == hash_of("", name="cli/parser.py")  # decides no result
    finally:
        source_hash.source_hash.cache_clear()


def test_every_pattern_of_the_source_hash_finds_a_file() -> None:
    assert all(list(source_hash.PACKAGE.glob(pattern)) for pattern in source_hash.DECIDES)


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


def test_git_only_reads_so_that_a_kill_leaves_no_lock_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.py").write_text("first\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    os.utime(tmp_path / "run.py", (1, 1))  # git would note the new time in its index
    before = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "run.py"))
    assert environment._commit.__wrapped__()["clean"] is True
    assert (tmp_path / ".git" / "index").read_bytes() == before
