"""Prefetched batches: equal, in order, and closed when the training ends."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from agmax import builders
from agmax.core.batch import RawBatch
from agmax.core.devices import prefetch
from agmax.training import loop
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.datasets import CPU
from helpers.streaming import raising


def numbered_batches(closed: list[bool], count: int = 4) -> Iterator[RawBatch]:
    try:
        for number in range(count):
            images = torch.full((2, 3, 4, 4), number, dtype=torch.uint8)
            yield RawBatch(images, torch.tensor([number, 7]), torch.tensor([number, number]))
    finally:
        closed.append(True)


def test_on_a_cpu_batches_are_passed_through_in_order() -> None:
    given = list(numbered_batches([]))
    assert [id(batch) for batch in prefetch(iter(given), CPU)] == [id(batch) for batch in given]


def test_closing_prefetch_early_closes_the_loader() -> None:
    closed: list[bool] = []
    with closing(prefetch(numbered_batches(closed), CPU)) as batches:
        assert next(batches).indices.tolist() == [0, 0]
        assert not closed
    assert closed == [True]


def test_a_training_that_fails_closes_its_loader_before_the_error_is_handled(
    run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Failed(Exception):
        pass

    def closable(self: object, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        return numbered_batches(closed)

    monkeypatch.setattr(builders.images.InMemoryLoader, "batches", closable)
    monkeypatch.setattr(Trainer, "train_step", raising(Failed()))
    monkeypatch.setattr(loop, "tqdm", lambda *words, **options: tqdm(*words, **{**options, "disable": False}))
    with pytest.raises(Failed) as failure:
        run("--config=ResNet8", "--train", "--dataset=digits", "dataset.train_limit=20", "dataset.image_size=8")
    assert failure.value.__traceback__ is not None and closed == [True]
