"""The learning rate as a pure function of the step; no schedule holds any state."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Plateau(NamedTuple):
    """The three numbers that the plateau schedule keeps from epoch to epoch."""

    best: float = math.inf
    num_bad_epochs: int = 0
    num_reductions: int = 0


def learning_rate(
    step: int,
    *,
    name: str,
    base: float,
    epochs: int,
    steps_per_epoch: int,
    interval: str = "epoch",
    warmup_epochs: float = 0.0,
    warmup_lr: float = 0.0,
    milestones: Sequence[float] | None = None,
    gamma: float = 0.1,
    decay_epochs: float = 2.4,
    decay_rate: float = 0.97,
    factor: float = 0.1,
    num_reductions: int = 0,
) -> float:
    """Return the learning rate of a step, counted from 0 over the whole training.

    During warm-up it rises at every step, from the first step on above `warmup_lr`, to `base`. Afterwards it changes
    at every epoch or step (`interval`); cosine and linear run from the end of the warm-up to 0 at the end of training.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return warmup_lr + (base - warmup_lr) * (step + 1) / warmup_steps
    epoch = step / steps_per_epoch if interval == "step" else step // steps_per_epoch
    progress = max((epoch - warmup_epochs) / (epochs - warmup_epochs), 0.0)
    if name == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * progress))
    if name == "linear":
        return base * (1 - progress)
    if name == "multistep":
        return base * gamma ** bisect_right(milestones or default_milestones(epochs), epoch)
    if name == "step":
        return base * decay_rate ** math.floor(epoch / decay_epochs)
    if name == "plateau":
        return base * factor**num_reductions
    assert name == "constant", name
    return base


def default_milestones(epochs: int) -> tuple[float, ...]:
    """Return the epochs at which multistep divides, by the length of the training (AgMax)."""
    if epochs <= 30:
        return (10, 20, 30)
    if epochs <= 60:
        return (15, 30, 40)
    if epochs <= 120:
        return (30, 60, 80)
    return (75, 150, 225)


def plateau_after(state: Plateau, loss: float, *, patience: int) -> Plateau:
    """Return the plateau's numbers after an epoch with a mean loss; better means by more than a ten-thousandth."""
    if loss < state.best * (1 - 1e-4):
        return state._replace(best=loss, num_bad_epochs=0)
    if state.num_bad_epochs < patience:
        return state._replace(num_bad_epochs=state.num_bad_epochs + 1)
    return state._replace(num_bad_epochs=0, num_reductions=state.num_reductions + 1)
