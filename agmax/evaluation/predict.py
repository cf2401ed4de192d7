"""Run a model over a data set and collect its logits."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from agmax.augment.color import normalize
from agmax.core import memory
from agmax.core.batch import RawBatch
from agmax.core.devices import prefetch
from agmax.core.errors import ResourceError
from agmax.data.loader import Loader
from agmax.data.sampler import sequential_batches
from agmax.evaluation.metrics import metrics


class Predictions(NamedTuple):
    """The logits of a model for one split, in the order of the data set."""

    logits: Tensor  # float32 [N, K], on the CPU
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N]


ImageTransform = Callable[[Tensor, Tensor], Tensor]
"""(normalized images [B, C, H, W], their positions [B] in the split) -> transformed images [B, C, H, W]."""


class OutputHandler(Protocol):
    """Receives the output of a model: the index of the transform, logits [B, K] and the batch itself."""

    def __call__(self, index: int, logits: Tensor, raw: RawBatch) -> None: ...


@torch.inference_mode()
def forward_batches(
    model: nn.Module,
    data: Loader,
    handle: OutputHandler,
    *,
    transforms: Sequence[ImageTransform] = (lambda images, positions: images,),
    batch_size: int,
    mean: list[float],
    std: list[float],
    device: torch.device,
) -> None:
    """Classify every image once for each transform, and pass the logits to `handle`.

    The model is put in evaluation mode and back. Pixels equal those of torchvision's ToTensor and Normalize.

    Raises:
        ResourceError: the memory is full.
    """
    was_training = model.training
    model.eval()
    center, scale = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    batches = sequential_batches(len(data), batch_size)
    try:
        with closing(prefetch(data.batches(batches, epoch=0), device)) as raw_batches:
            progress = tqdm(raw_batches, "evaluate", len(batches), leave=False, disable=None)
            for positions, raw in zip(batches, progress, strict=True):
                images = normalize(raw.images, center, scale)
                for index, transform in enumerate(transforms):
                    handle(index, model(transform(images, positions)[:, None]).logits[:, 0].float(), raw)
    except (MemoryError, RuntimeError) as error:
        if not memory.is_full(error):
            raise
        why, remedy = memory.reason(error, device), f"Reduce evaluation.batch_size={batch_size}"
        raise ResourceError(memory.FULL_MEMORY, where="evaluation", why=why, remedy=remedy) from error
    finally:
        model.train(was_training)


def predict(model: nn.Module, data: Loader, **options: Any) -> Predictions:
    """Return the logits of every image; `options` are the keyword arguments of `forward_batches`."""
    parts: list[Predictions] = []

    def collect(index: int, logits: Tensor, raw: RawBatch) -> None:
        parts.append(Predictions(logits.cpu(), raw.labels.cpu(), raw.indices))

    forward_batches(model, data, collect, **options)
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Evaluator:
    """Evaluate the model on one split at each call, and keep the latest predictions."""

    def __init__(self, predict: Callable[[], Predictions]) -> None:
        self._predict = predict
        self._latest: Predictions | None = None

    def __call__(self) -> dict[str, float]:
        """Predict, and return the metrics by name."""
        self._latest = self._predict()
        return metrics(self._latest.logits, self._latest.labels)

    def latest(self) -> Predictions:
        """Return the latest predictions; the first call predicts."""
        if self._latest is None:
            self._latest = self._predict()
        return self._latest
