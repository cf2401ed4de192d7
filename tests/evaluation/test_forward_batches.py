"""An evaluation that fails: its loader is closed and its model is as before, although the error is kept."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from agmax.core.batch import RawBatch
from agmax.core.errors import ResourceError
from agmax.evaluation import predict
from helpers.datasets import CPU
from helpers.streaming import raising


class Batches:
    """A loader of four gray images that says whether it is closed."""

    class_names = ("even", "odd")
    labels = torch.tensor([0, 1, 0, 1])
    is_closed = False

    def __len__(self) -> int:
        return 4

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        try:
            for positions in batches:
                images = torch.zeros((len(positions), 1, 2, 2), dtype=torch.uint8)
                yield RawBatch(images, self.labels[positions], positions)
        finally:
            self.is_closed = True


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(KeyError("a bug"), KeyError), (MemoryError(), ResourceError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["a bug", "memory", "a stop"],
)
@pytest.mark.parametrize("is_training", [True, False])
def test_an_evaluation_that_fails_closes_its_loader_and_gives_the_model_back_as_it_was(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, seen: type[BaseException], is_training: bool
) -> None:
    monkeypatch.setattr(predict, "tqdm", lambda *words, **options: tqdm(*words, **{**options, "disable": False}))
    model, data = nn.Identity().train(is_training), Batches()
    fail: Callable[..., Tensor] = raising(raised)
    with pytest.raises(seen) as failure:
        predict.forward_batches(
            model, data, lambda *_: None, transforms=[fail], batch_size=2, mean=[0.0], std=[1.0], device=CPU
        )
    assert failure.value.__traceback__ is not None  # which keeps the frames, and the loader's generator in them
    assert data.is_closed and model.training is is_training
