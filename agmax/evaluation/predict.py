"""Run a model over a data set and keep what it answers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from agmax.augment.color import normalize
from agmax.core.batch import RawBatch
from agmax.core.devices import prefetch
from agmax.data.loader import Loader
from agmax.data.sampler import sequential_batches
from agmax.evaluation.metrics import metrics


class Predictions(NamedTuple):
    """What a model answers for a split, in the order of the data set."""

    logits: Tensor  # float32 [N, K], on the CPU
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N]


ImageTransform = Callable[[Tensor, Tensor], Tensor]
"""Normalised images [B, C, H, W] and their places [B] in the split -> what is classified in their stead."""


class OutputHandler(Protocol):
    """Takes what a model answers: the number of the change, logits [N, K] and the sample."""

    def __call__(self, number: int, logits: Tensor, sample: RawBatch) -> None: ...


@torch.inference_mode()
def forward_batches(
    model: nn.Module,
    data: Loader,
    read: OutputHandler,
    *,
    changes: Sequence[ImageTransform] = (lambda images, places: images,),
    batch_size: int,
    mean: list[float],
    std: list[float],
    device: torch.device,
) -> None:
    """Classify every image once for each change; the pixels are those of torchvision's ToTensor and Normalize."""
    was_training = model.training
    model.eval()
    center, scale = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    batches = sequential_batches(len(data), batch_size)
    samples = prefetch(data.batches(batches, epoch=0), device)
    for places, sample in zip(batches, tqdm(samples, "evaluate", len(batches), leave=False, disable=None), strict=True):
        images = normalize(sample.images, center, scale)
        for number, change in enumerate(changes):
            read(number, model(change(images, places)[:, None]).logits[:, 0].float(), sample)
    model.train(was_training)


def predict(model: nn.Module, data: Loader, **how: Any) -> Predictions:
    """Return the logits of every image; `how` is `classify`'s."""
    parts: list[Predictions] = []

    def keep(number: int, logits: Tensor, sample: RawBatch) -> None:
        parts.append(Predictions(logits.cpu(), sample.labels.cpu(), sample.indices))

    forward_batches(model, data, keep, **how)
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Evaluator:
    """Evaluate on one split whenever called, and keep what the model answered last."""

    def __init__(self, answer: Callable[[], Predictions]) -> None:
        self._answer = answer
        self._latest: Predictions | None = None

    def __call__(self) -> dict[str, float]:
        """Return what is measured: the metrics by name."""
        self._latest = self._answer()
        return metrics(self._latest.logits, self._latest.labels)

    def latest(self) -> Predictions:
        """Return what the model answered last, asking it where it has not been asked yet."""
        if self._latest is None:
            self._latest = self._answer()
        return self._latest
