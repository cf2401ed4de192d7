"""Train small networks from the command line, kill them, and compare what they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.checkpoints.read import load
from agmax.training.loop import Trainer
from helpers.command import Answer

Run = Callable[..., Answer]

TINY = (
    "--dataset=digits",
    "dataset.train_limit=100",
    "dataset.image_size=8",
    "augment.standard.padding=1",
    "train.batch_size=32",
    "train.epochs=3",
)
"""Three epochs of four steps on 100 digits: a second."""


def train(run: Run, name: str, *words: str) -> dict[str, Any]:
    answer = run(f"--config={name}", "--train", *TINY, "--json", *words)
    assert answer.status == 0, answer.err
    result: dict[str, Any] = answer.json
    return result


def rows(folder: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def loss_log(folder: str | Path) -> list[str]:
    """Return metrics.jsonl without what depends on time; floats keep every bit as text."""
    return [json.dumps({key: value for key, value in row.items() if key != "timing"}) for row in rows(folder)]


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load(Path(path))["model"]
    return state


def assert_same_weights(first: str | Path, second: str | Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert [key for key, value in one.items() if not torch.equal(value, two[key])] == []


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Killed(BaseException):
    """Stands for a killed process: no handler of ours sees it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the program before it makes the given step."""
    original = Trainer.train_step

    def dying(trainer: Trainer, sample: Any) -> Any:
        if trainer.step == step:
            raise Killed
        return original(trainer, sample)

    monkeypatch.setattr(Trainer, "train_step", dying)


def interrupted_and_resumed(run: Run, monkeypatch: pytest.MonkeyPatch, step: int, *words: str) -> dict[str, Any]:
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            run(*words, "--train")
    answer = run(*words, "--train", "--resume", "--json")
    assert answer.status == 0, answer.err
    result: dict[str, Any] = answer.json
    return result


EVERYTHING = ("--config=ResNet8-cutmix-agmax", *TINY, "train.save_every_steps=1", "model.dropout=0.1")

KILL_ITSELF = """
import os, signal, sys
from agmax.training.loop import Trainer
from main import main
original = Trainer.train_step
def dying(trainer, sample):
    if trainer.step == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(trainer, sample)
Trainer.train_step = dying
main(sys.argv[1:])
"""
