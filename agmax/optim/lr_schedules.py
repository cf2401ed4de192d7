"""The learning rate as a pure function of the step; no schedule holds any state."""

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Plateau(NamedTuple):
    """The three numbers that the plateau schedule keeps from epoch to epoch."""

    best: float = math.inf
    num_bad_epochs: int = 0
    num_reductions: int = 0


class TrainingProgress(NamedTuple):
    """Where a training stands."""

    epoch: float  # from 0 on; whole with the interval epoch
    epochs: int  # of the whole training
    progress: float  # from 0 at the end of the warm-up to 1 at the end of the training
    num_reductions: int = 0  # that the plateau has made


def constant(now: TrainingProgress) -> float:
    """Return 1."""
    return 1.0


def cosine(now: TrainingProgress) -> float:
    """Return half a cosine from 1 to 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * now.progress))


def linear(now: TrainingProgress) -> float:
    """Return a straight line from 1 to 0."""
    return 1 - now.progress


def multistep(now: TrainingProgress, *, milestones: Sequence[float] | None = None, gamma: float = 0.1) -> float:
    """Return gamma to the number of milestones passed, which are epochs; None follows the number of epochs."""
    return gamma ** bisect_right(milestones or default_milestones(now.epochs), now.epoch)


def step(now: TrainingProgress, *, decay_epochs: float = 2.4, decay_rate: float = 0.97) -> float:
    """Return decay_rate to the number of spans of `decay_epochs` passed."""
    return decay_rate ** math.floor(now.epoch / decay_epochs)


def plateau(now: TrainingProgress, *, factor: float = 0.1) -> float:
    """Return factor to the number of reductions, which `plateau_after` counts."""
    return factor**now.num_reductions


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "multistep": multistep,
    "step": step,
    "plateau": plateau,
}
"""Name -> the share of the base learning rate at a moment; the keywords of each are settings of the schedule."""


def settings_of(name: str) -> tuple[str, ...]:
    """Return the settings that a schedule has beside those of all."""
    parameters = inspect.signature(SCHEDULES[name]).parameters.values()
    return tuple(item.name for item in parameters if item.kind is item.KEYWORD_ONLY)


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
    num_reductions: int = 0,
    **settings: Any,
) -> float:
    """Return the learning rate of a step, counted from 0 over the whole training.

    During warm-up it rises at every step, from the first step on above `warmup_lr`, to `base`. Afterwards it changes
    at every epoch or step (`interval`) as the schedule `name` of SCHEDULES says, which has `settings` of its own;
    cosine and linear run from the end of the warm-up to 0 at the end of training.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return warmup_lr + (base - warmup_lr) * (step + 1) / warmup_steps
    epoch = step / steps_per_epoch if interval == "step" else step // steps_per_epoch
    progress = max((epoch - warmup_epochs) / (epochs - warmup_epochs), 0.0)
    return base * SCHEDULES[name](TrainingProgress(epoch, epochs, progress, num_reductions), **settings)


def default_milestones(epochs: int) -> tuple[float, ...]:
    """Return the epochs at which multistep divides, by the length of the training (AgMax)."""
    if epochs <= 30:
        return (10, 20, 30)
    if epochs <= 60:
        return (15, 30, 40)
    if epochs <= 120:
        return (30, 60, 80)
    return (75, 150, 225)


def update_plateau(state: Plateau, loss: float, *, patience: int) -> Plateau:
    """Return the plateau's numbers after an epoch with a mean loss; better means by more than a ten-thousandth."""
    if loss < state.best * (1 - 1e-4):
        return state._replace(best=loss, num_bad_epochs=0)
    if state.num_bad_epochs < patience:
        return state._replace(num_bad_epochs=state.num_bad_epochs + 1)
    return state._replace(num_bad_epochs=0, num_reductions=state.num_reductions + 1)
