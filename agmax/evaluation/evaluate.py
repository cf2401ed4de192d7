"""Run a model over a data set and keep what it answers."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from agmax.augment.color import normalised
from agmax.data.order import in_order
from agmax.data.source import Source
from agmax.evaluation.metrics import metrics
from agmax.parallel import copied_ahead


class Predictions(NamedTuple):
    """What a model answers for a split, in the order of the data set."""

    logits: Tensor  # float32 [N, K], on the CPU
    labels: Tensor  # int64 [N]
    indices: Tensor  # int64 [N]


@torch.inference_mode()
def predict(
    model: nn.Module, data: Source, *, batch_size: int, mean: list[float], std: list[float], device: torch.device
) -> Predictions:
    """Return the logits of every image; the pixels are those of torchvision's ToTensor and Normalize."""
    was_training = model.training
    model.eval()
    centre, scale = torch.tensor(mean, device=device), torch.tensor(std, device=device)
    parts: list[Predictions] = []
    samples = copied_ahead(data.batches(in_order(len(data), batch_size), epoch=0), device)
    for sample in tqdm(samples, "evaluate", -(-len(data) // batch_size), leave=False, disable=None):
        images = normalised(sample.images, centre, scale)
        logits = model(images[:, None]).logits[:, 0]
        parts.append(Predictions(logits.float().cpu(), sample.labels.cpu(), sample.indices))
    model.train(was_training)
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Evaluator:
    """Evaluate on one split whenever called, and keep what the model answered last."""

    def __init__(self, answer: Callable[[], Predictions]) -> None:
        self._answer = answer
        self._latest: Predictions | None = None

    def __call__(self) -> dict[str, float]:
        """Return top1, top5, nll and ece."""
        self._latest = self._answer()
        return metrics(self._latest.logits, self._latest.labels)

    def latest(self) -> Predictions:
        """Return what the model answered last, asking it where it has not been asked yet."""
        if self._latest is None:
            self._latest = self._answer()
        return self._latest
