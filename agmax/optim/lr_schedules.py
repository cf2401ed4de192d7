"""Learning-rate schedules as pure functions of the step."""

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Plateau(NamedTuple):
    """The state of the plateau schedule."""

    best: float = math.inf
    num_bad_epochs: int = 0
    num_reductions: int = 0


class TrainingProgress(NamedTuple):
    """The progress of a training."""

    epoch: float  # from 0 on; an integer if the interval is epoch
    epochs: int  # of the complete training
    progress: float  # from 0 at the end of the warm-up to 1 at the end of the training
    num_reductions: int = 0  # by the plateau schedule so far


def constant(now: TrainingProgress) -> float:
    """Return 1."""
    return 1.0


def cosine(now: TrainingProgress) -> float:
    """Return the value of a half cosine from 1 to 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * now.progress))


def linear(now: TrainingProgress) -> float:
    """Return the value of a straight line from 1 to 0."""
    return 1 - now.progress


def multistep(now: TrainingProgress, *, milestones: Sequence[float] | None = None, gamma: float = 0.1) -> float:
    """Return gamma to the power of the number of milestones passed, given in epochs; None means the defaults."""
    return gamma ** bisect_right(milestones or default_milestones(now.epochs), now.epoch)


def step(now: TrainingProgress, *, decay_epochs: float = 2.4, decay_rate: float = 0.97) -> float:
    """Return decay_rate to the power of the number of periods of `decay_epochs` passed."""
    return decay_rate ** math.floor(now.epoch / decay_epochs)


def plateau(now: TrainingProgress, *, factor: float = 0.1) -> float:
    """Return factor to the power of the number of reductions, which `update_plateau` counts."""
    return factor**now.num_reductions


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "multistep": multistep,
    "step": step,
    "plateau": plateau,
}
"""The schedules by name: each returns the factor of the base learning rate; its keywords are its settings."""


def settings_of(name: str) -> tuple[str, ...]:
    """Return the names of a schedule's own settings."""
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
    """Return the learning rate of a step, counted from 0 over the complete training.

    During warm-up it rises linearly from `warmup_lr`, with an increase already at the first step, to `base`. Then it
    follows the schedule `name` of SCHEDULES with its `settings`, updated at every epoch or step (`interval`). cosine
    and linear fall from the end of the warm-up to 0 at the end of the training.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return warmup_lr + (base - warmup_lr) * (step + 1) / warmup_steps
    epoch = step / steps_per_epoch if interval == "step" else step // steps_per_epoch
    progress = max((epoch - warmup_epochs) / (epochs - warmup_epochs), 0.0)
    return base * SCHEDULES[name](TrainingProgress(epoch, epochs, progress, num_reductions), **settings)


def default_milestones(epochs: int) -> tuple[float, ...]:
    """Return the default milestones of multistep for a number of epochs (AgMax)."""
    if epochs <= 30:
        return (10, 20, 30)
    if epochs <= 60:
        return (15, 30, 40)
    if epochs <= 120:
        return (30, 60, 80)
    return (75, 150, 225)


def update_plateau(state: Plateau, loss: float, *, patience: int) -> Plateau:
    """Return the plateau's state after an epoch with this mean loss; an improvement is one of more than 0.01%."""
    if loss < state.best * (1 - 1e-4):
        return state._replace(best=loss, num_bad_epochs=0)
    if state.num_bad_epochs < patience:
        return state._replace(num_bad_epochs=state.num_bad_epochs + 1)
    return state._replace(num_bad_epochs=0, num_reductions=state.num_reductions + 1)
