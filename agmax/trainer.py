"""The training loop: one step serves every method, and any step of it can be continued bit for bit."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, optim
from tqdm import tqdm

from agmax.augment.pipeline import Pipeline
from agmax.batch import Sample
from agmax.data import order
from agmax.errors import DivergedError
from agmax.models.classifier import Classifier
from agmax.objectives.classification import row_entropy
from agmax.objectives.objective import Objective
from agmax.parallel import over_devices
from agmax.randomness import seed_for
from agmax.schedules import Plateau, plateau_after

log = logging.getLogger("agmax")

TIMED_STEPS = 10
"""Steps after which the remaining minutes are estimated."""


class LearningRate(Protocol):
    """A step of the training and the plateau's reductions -> the learning rate."""

    def __call__(self, step: int, *, num_reductions: int) -> float: ...


class Data(Protocol):
    """Images to train on."""

    def __len__(self) -> int: ...

    def batches(self, batches: list[Tensor], *, epoch: int) -> Iterable[Sample]: ...


class Journal(Protocol):
    """Where the rows of metrics go."""

    def rows(self) -> list[dict[str, Any]]: ...

    def append(self, row: dict[str, Any]) -> None: ...

    def would_be_best(self, row: dict[str, Any]) -> bool: ...


class Checkpoints(Protocol):
    """Where the states go."""

    def path(self, step: int) -> Path: ...

    def saved(self) -> list[Path]: ...

    def save(self, step: int, state: dict[str, Any]) -> None: ...

    def keep_best(self, step: int) -> None: ...


class Evaluates(Protocol):
    """Measures the model on one split, and keeps what it answered."""

    def __call__(self) -> dict[str, float]: ...

    def latest(self) -> Any: ...


class Trainer:
    """Train a classifier, evaluating and saving after every epoch."""

    def __init__(
        self,
        *,
        model: Classifier,
        optimizer: optim.Optimizer,
        objective: Objective,
        augment: Pipeline,
        data: Data,
        batch_size: int,
        epochs: int,
        steps_per_epoch: int,
        seed: int,
        learning_rate: LearningRate,
        patience: int,
        evaluators: Mapping[str, Evaluates],
        device: torch.device,
        run: Journal,
        checkpoints: Checkpoints,
        description: dict[str, Any],
        report: Callable[[dict[str, Any]], None],
        save_every_steps: int | None = None,
        log_every_steps: int = 50,
    ) -> None:
        """`evaluators` has one for `test` and, where there is one, `validation`.

        `description` is what a checkpoint says of itself, in plain types; `report` is called with every row.
        """
        self.classifier, self.model = model, over_devices(model, device)
        self.optimizer, self.objective, self.augment = optimizer, objective, augment
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.learning_rate, self.patience = learning_rate, patience
        self.evaluators, self.device = evaluators, device
        self.run, self.checkpoints, self.description = run, checkpoints, description
        self.report = report
        self.save_every_steps, self.log_every_steps = save_every_steps, log_every_steps
        self.step = 0
        self.plateau = Plateau()
        self.sums: dict[str, float | Tensor] = {}
        self._first_step, self._started = 0, 0.0

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def checkpoint_bytes(self) -> int:
        """Return the size of a checkpoint: weights, and what the optimizer keeps of each parameter."""
        weights: int = sum(value.nbytes for value in self.classifier.state_dict().values())
        kept = 1 if isinstance(self.optimizer, optim.SGD) else 2
        return weights + kept * sum(value.nbytes for value in self.classifier.parameters())

    def fit(self) -> None:
        """Train from the present step to the last epoch."""
        self._first_step, self._started = self.step, time.perf_counter()
        is_last_of_epoch = self.step % self.steps_per_epoch == 0 and self.checkpoints.path(self.step).exists()
        if is_last_of_epoch and all(row["step"] != self.step for row in self.run.rows()):
            self.finish_epoch(seconds=0.0, num_images=0)  # it was interrupted between its last step and its row
        while self.step < self.total_steps:
            started, first = time.perf_counter(), self.step
            self.train_epoch()
            num_images = (self.step - first) * self.batch_size
            self.finish_epoch(seconds=time.perf_counter() - started, num_images=num_images)

    def train_epoch(self) -> None:
        """Train from the present step to the end of its epoch and save."""
        epoch, start = divmod(self.step, self.steps_per_epoch)
        if start == 0:
            self.sums = defaultdict(float)
        self.model.train()
        batches = order.shuffled(len(self.data), self.batch_size, seed=self.seed, epoch=epoch, start=start)
        samples = self.data.batches(batches, epoch=epoch)
        for sample in self._progress(samples, epoch, start):
            losses = self.train_step(sample)
            self._add(losses, len(sample.labels))
            self.step += 1
            last = self.step % self.steps_per_epoch == 0
            if not last and self.save_every_steps and self.step % self.save_every_steps == 0:
                self.save()
        means = self.means()
        self.plateau = plateau_after(self.plateau, means["classification"], patience=self.patience)
        self.save()

    def train_step(self, sample: Sample) -> dict[str, Tensor]:
        """Make one step of gradient descent and return the named terms of its loss."""
        lr = self.learning_rate(self.step, num_reductions=self.plateau.num_reductions)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(seed_for(self.seed, "step", self.step))  # dropout and whatever else the model draws
        sample = sample._replace(images=sample.images.to(self.device, non_blocking=True))
        batch = self.augment(sample, step=self.step)
        outputs = self.model(batch.images)
        losses = self.objective(outputs, batch)
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values(), start=torch.zeros((), device=self.device)).backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()} | {
            "target_entropy": row_entropy(batch.targets).mean()
        }

    def finish_epoch(self, *, seconds: float, num_images: int) -> None:
        """Evaluate, keep the best weights, and write the epoch's row."""
        epoch = self.step // self.steps_per_epoch
        means = self.means()
        target_entropy = means.pop("target_entropy")
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "lr": self.learning_rate(self.step - 1, num_reductions=self.plateau.num_reductions),
            "train_loss": sum(means.values()),
            **means,
            "target_entropy": target_entropy,
        }
        started = time.perf_counter()
        for split, evaluate in self.evaluators.items():
            row |= {f"{split}_{name}": value for name, value in evaluate().items()}
        row["timing"] = {
            "train_seconds": seconds,
            "images_per_second": num_images / seconds if seconds else None,
            "evaluation_seconds": time.perf_counter() - started,
        }
        if self.run.would_be_best(row):
            self.checkpoints.keep_best(self.step)
        self.run.append(row)
        self.report(row)
        self._say(row)

    # --- state -----------------------------------------------------------------------------------------------

    def means(self) -> dict[str, float]:
        """Return the mean of each named term over the images of this epoch so far.

        Raises:
            DivergedError: one of them is no finite number.
        """
        sums = {name: float(value) for name, value in self.sums.items()}
        num_images = sums.pop("num_images")
        means = {name: value / num_images for name, value in sums.items()}
        broken = [f"{name}={value}" for name, value in means.items() if not math.isfinite(value)]
        if broken:
            saved = self.checkpoints.saved()
            why = f"{', '.join(broken)} in the epoch that ends with step {self.step}"
            remedy = f"Lower optimizer.lr; the last good weights are {saved[-1]}" if saved else "Lower optimizer.lr"
            raise DivergedError("training diverged", why=why, remedy=remedy)
        return means

    def save(self) -> None:
        """Save the state after the present step."""
        self.means()  # weights that are no numbers never push out good ones
        self.checkpoints.save(self.step, self.state())

    def state(self) -> dict[str, Any]:
        """Return all that a continued training needs, in tensors and plain types."""
        return {
            **self.description,
            "step": self.step,
            "model": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": list(self.plateau),
            "sums": {name: float(value) for name, value in self.sums.items()},
        }

    def restore(self, state: dict[str, Any], *, with_optimizer: bool = True) -> None:
        """Continue after the step of `state`, whose weights are in the model already."""
        self.step = state["step"]
        self.plateau = Plateau(*state["plateau"])
        self.sums = defaultdict(float, state["sums"])
        if with_optimizer:
            self.optimizer.load_state_dict(state["optimizer"])

    def _add(self, losses: dict[str, Tensor], num_images: int) -> None:
        """Add to the running sums, in float64 and on the device, so that no step waits for the result."""
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value.double() * num_images
        self.sums["num_images"] = self.sums["num_images"] + num_images

    # --- text ------------------------------------------------------------------------------------------------

    def _progress(self, samples: Iterable[Sample], epoch: int, start: int) -> Iterable[Sample]:
        title = f"epoch {epoch + 1}/{self.epochs}"
        bar = tqdm(samples, title, self.steps_per_epoch, initial=start, leave=False, disable=None)
        for done, sample in enumerate(bar, start=start + 1):
            yield sample
            self._estimate()
            if bar.disable and done % self.log_every_steps == 0:
                log.info("%s step %d/%d", title, done, self.steps_per_epoch)

    def _estimate(self) -> None:
        """Say once, after ten steps, how long it will take."""
        if self.step - self._first_step == TIMED_STEPS:
            seconds = (time.perf_counter() - self._started) / TIMED_STEPS
            minutes = (self.total_steps - self.step) * seconds / 60
            log.info("about %.1f minutes of training left, at %.0f ms a step", minutes, 1000 * seconds)

    def _say(self, row: dict[str, Any]) -> None:
        parts = [f"epoch {row['epoch']}/{self.epochs}", f"loss {row['train_loss']:.4f}"]
        for split in self.evaluators:
            parts.append(f"{split} top1 {row[f'{split}_top1']:.2f} nll {row[f'{split}_nll']:.4f}")
        speed = row["timing"]["images_per_second"]
        parts.append(f"lr {row['lr']:.3g}")
        if speed:
            parts.append(f"{speed:.0f} images/s")
        log.info("  ".join(parts))
