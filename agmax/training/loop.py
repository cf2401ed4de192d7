"""The training loop: one step for every method, resumable bit for bit after any step."""

import math
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, optim
from tqdm import tqdm

from agmax.core import memory
from agmax.core.batch import Batch, RawBatch
from agmax.core.devices import data_parallel, prefetch
from agmax.core.errors import DivergedError, OutputError, ResourceError
from agmax.core.logs import log
from agmax.core.rng import seed_for
from agmax.core.signals import PendingStop, Stopped, defer_stop
from agmax.data import sampler
from agmax.data.loader import Loader
from agmax.losses import Criterion
from agmax.losses.cross_entropy import target_entropy
from agmax.models.classifier import Classifier
from agmax.optim.lr_schedules import Plateau, update_plateau

TIMED_STEPS = 10
"""Number of steps that are timed before the remaining time is estimated."""


class MetricsLog(Protocol):
    """Stores one row of metrics an epoch."""

    def rows(self) -> list[dict[str, Any]]: ...

    def append(self, row: dict[str, Any]) -> None: ...

    def would_be_best(self, row: dict[str, Any]) -> bool: ...


class CheckpointStore(Protocol):
    """Stores the states of a training by step."""

    def path(self, step: int) -> Path: ...

    def list_checkpoints(self) -> list[Path]: ...

    def save(self, step: int, state: dict[str, Any]) -> None: ...

    def keep_best(self, step: int) -> None: ...


class SplitEvaluator(Protocol):
    """Evaluates the model on one split at each call, and keeps the latest predictions."""

    def __call__(self) -> dict[str, float]: ...

    def latest(self) -> Any: ...


class TrainStep:
    """One step of gradient descent, the same for every method: augment, forward all views at once, backward, update."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        optimizer: optim.Optimizer,
        objective: Criterion,
        augment: Callable[..., Batch],
        device: torch.device,
        seed: int = 0,
    ) -> None:
        """`augment(raw, step=step)` returns the batch of a step; `classifier` is on `device` already.

        On `cuda` the step is data-parallel over all visible GPUs.
        """
        self.classifier, self.model = classifier, data_parallel(classifier, device)
        self.optimizer, self.objective, self.augment = optimizer, objective, augment
        self.device, self.seed = device, seed
        self.augment_seconds = 0.0  # since the last reset; on a GPU, only the time to launch the kernels
        self.num_views: int | None = None  # of the latest batch
        self.changed_step: int | None = None  # the latest step that has changed the model, perhaps only in part
        self._statistics = _group_by_dtype(classifier.buffers())  # found once: a search takes longer than a copy
        self._previous = [[tensor.clone() for tensor in group] for group in self._statistics]  # before the latest step

    def __call__(self, raw: RawBatch, *, step: int, lr: float) -> dict[str, Tensor]:
        """Perform step `step`, and return the named terms of its loss and the entropy of the targets, each a scalar.

        An error before the optimizer's step leaves weights and batch-norm statistics as they were.

        Raises:
            DivergedError: the loss is not finite; the weights are unchanged. On a GPU this is not checked.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self.changed_step = step
        _copy(self._statistics, self._previous)
        try:
            terms = self._backward(raw, step=step, lr=lr)
        except Exception:
            _copy(self._previous, self._statistics)
            self.changed_step = None
            raise
        self.optimizer.step()
        return terms

    def images_that_fit(self, raw: RawBatch, *, step: int) -> int | None:
        """Estimate how many images of a batch that did not fit do, from small steps without update; None if unknown."""

        def small_step(num_images: int) -> None:
            self._backward(RawBatch(*(part[:num_images] for part in raw)), step=step, lr=0.0)

        state_bytes = 2 * sum(parameter.nbytes for parameter in self.classifier.parameters())  # of Adam; SGD needs half
        try:
            reserve = 0 if self.optimizer.state else state_bytes
            return memory.images_that_fit(small_step, len(raw.labels), self.device, reserve=reserve)
        finally:
            _copy(self._previous, self._statistics)

    def _backward(self, raw: RawBatch, *, step: int, lr: float) -> dict[str, Tensor]:
        """Compute the gradients of a step, and return what `__call__` does."""
        torch.manual_seed(seed_for(self.seed, "step", step))  # for dropout and other random layers of the model
        start_time = time.perf_counter()
        batch = self.augment(raw, step=step)
        self.augment_seconds += time.perf_counter() - start_time
        self.num_views = batch.images.shape[1]
        outputs = self.model(batch.images)
        losses = self.objective(outputs, batch)
        if self.device.type == "cpu" and not losses.total.isfinite():
            terms = ", ".join(f"{name}={float(value.detach()):.6g}" for name, value in losses.terms.items())
            raise DivergedError("training diverged", where=f"step {step + 1}", why=f"{terms}, lr={lr:.3g}")
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        return {name: value.detach() for name, value in losses.terms.items()} | {
            "target_entropy": target_entropy(batch.targets).mean()
        }


def _group_by_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return [*groups.values()]


def _copy(sources: Sequence[list[Tensor]], targets: Sequence[list[Tensor]]) -> None:
    """Copy groups of tensors, each of one dtype, into others; on a GPU a group takes a few kernels."""
    for source, target in zip(sources, targets, strict=True):
        torch._foreach_copy_(target, source)


class TrainingPlan(NamedTuple):
    """The length of a training, its batches, its learning rate, and when it evaluates, saves and logs."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: Callable[..., float]  # (step, num_reductions=...) -> rate; plateau has num_reductions so far
    seed: int = 0  # of the order of the images
    patience: int = 5  # of the schedule plateau, in epochs
    evaluate_every_epochs: int = 1  # the last epoch is always evaluated
    save_every_steps: int | None = None  # the end of every epoch is always saved
    save_every_minutes: float | None = None  # since the last save
    time_limit: float | None = None  # minutes, from the call of `fit` or its `began`, after which it saves and stops
    log_every_steps: int = 50

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class TrainingStore(NamedTuple):
    """Where a training writes its metrics and checkpoints."""

    metrics_log: MetricsLog
    checkpoints: CheckpointStore
    report: Callable[[dict[str, Any]], None]  # called with every row of the metrics log
    description: dict[str, Any]  # stored in every checkpoint, in plain types


class Trainer:
    """Train a classifier, evaluating and saving after every epoch."""

    def __init__(
        self,
        make_step: TrainStep,
        data: Loader,
        plan: TrainingPlan,
        *,
        evaluators: Mapping[str, SplitEvaluator],
        store: TrainingStore,
    ) -> None:
        """`evaluators` holds one evaluator for each split to evaluate, by the name of the split."""
        self.make_step, self.data, self.plan = make_step, data, plan
        self.evaluators, self.store = evaluators, store
        self.classifier, self.optimizer = make_step.classifier, make_step.optimizer
        self.step = 0
        self.plateau = Plateau()
        self.sums: dict[str, float | Tensor] = {}
        self._first_step, self._start_time, self._began = 0, 0.0, 0.0
        self._saved_step, self._save_time = -1, 0.0

    @property
    def checkpoint_bytes(self) -> int:
        """Return the approximate size of a checkpoint: the weights and the optimizer's state of each parameter."""
        weights: int = sum(value.nbytes for value in self.classifier.state_dict().values())
        states_per_parameter = 1 if isinstance(self.optimizer, optim.SGD) else 2
        return weights + states_per_parameter * sum(value.nbytes for value in self.classifier.parameters())

    def fit(self, *, began: float | None = None) -> None:
        """Train from the current step to the end of the last epoch.

        The time limit counts from `began`, a time of `time.perf_counter`, or from now.

        Raises:
            Stopped: a stop signal arrived, or the time limit is over; the state after the last step is saved.
            DivergedError: a loss or a weight is not finite.
            ResourceError: the memory is full, or a data worker has ended; the last completed step is saved.
        """
        self._first_step, self._start_time = self.step, time.perf_counter()
        self._save_time, self._began = self._start_time, self._start_time if began is None else began
        is_last_of_epoch = bool(self.sums) and self.step % self.plan.steps_per_epoch == 0
        if is_last_of_epoch and all(row["step"] != self.step for row in self.store.metrics_log.rows()):
            self.finish_epoch(seconds=0.0, num_images=0)  # interrupted after the epoch's last step, before its row
        while self.step < self.plan.total_steps:
            start_time = time.perf_counter()
            num_images = self.train_epoch()
            self.finish_epoch(seconds=time.perf_counter() - start_time, num_images=num_images)

    def train_epoch(self) -> int:
        """Train from the current step to the end of its epoch, save, and return the number of images trained on."""
        epoch, start = divmod(self.step, self.plan.steps_per_epoch)
        if start == 0:
            if self.sums:  # of the previous epoch
                self.plateau = update_plateau(self.plateau, self.means()["classification"], patience=self.plan.patience)
            self.sums = {}
        self.make_step.augment_seconds = 0.0
        self.make_step.model.train()
        batches = sampler.shuffle_batches(
            len(self.data), self.plan.batch_size, seed=self.plan.seed, epoch=epoch, start=start
        )
        num_images, raw = 0, None
        with (
            defer_stop() as pending,
            closing(prefetch(self.data.batches(batches, epoch=epoch), self.make_step.device)) as raw_batches,
        ):
            try:
                for raw in self._progress(raw_batches, epoch, start):
                    self._add(self.train_step(raw), len(raw.labels))
                    num_images += len(raw.labels)
                    self.step += 1
                    if self.step % self.plan.log_every_steps == 0:
                        self.means()  # raises DivergedError if a loss is not finite
                    self._stop_if_due(pending)
                    if self.step % self.plan.steps_per_epoch and self._is_save_due():
                        self.save()
            except (DivergedError, OutputError):
                raise
            except Exception as error:
                self._save_last_completed(error, pending)
                if memory.is_full(error) and raw is not None:
                    raise self._full_memory(error, raw) from error
                raise
            self.save()
        self._stop_if_due(pending)  # a signal during the save
        return num_images

    def _is_save_due(self) -> bool:
        """Return whether the state after the current step is saved in the middle of an epoch."""
        if self.plan.save_every_steps and self.step % self.plan.save_every_steps == 0:
            return True
        minutes = (time.perf_counter() - self._save_time) / 60
        return self.plan.save_every_minutes is not None and minutes >= self.plan.save_every_minutes

    def _stop_if_due(self, pending: PendingStop) -> None:
        """Save and raise Stopped after a stop signal or the time limit."""
        number, reason = pending.signal_number, ""
        minutes = (time.perf_counter() - self._began) / 60
        if number is not None:
            reason = f"stopped by {signal.Signals(number).name}"
        elif self.plan.time_limit is not None and minutes >= self.plan.time_limit:
            number, reason = signal.SIGUSR1, f"stopped by train.time_limit={self.plan.time_limit:g}"
        if number is not None:
            if self._saved_step != self.step:
                self.save()
            raise Stopped(number, f"{reason} after step {self.step} of {self.plan.total_steps}, which is saved")

    def train_step(self, raw: RawBatch) -> dict[str, Tensor]:
        """Perform the current step at its learning rate, and return the named terms of its loss."""
        lr = self.plan.learning_rate(self.step, num_reductions=self.plateau.num_reductions)
        try:
            return self.make_step(raw, step=self.step, lr=lr)
        except DivergedError as error:
            raise self._diverged(error) from error

    def _save_last_completed(self, error: Exception, pending: PendingStop) -> None:
        """Save the state after the last completed step, unless the step that failed has changed it.

        If that fails too it is logged: the first error counts.

        Raises:
            Stopped: there was a signal too; one to the process group ends workers that have just started.
        """
        traceback.clear_frames(error.__traceback__)  # frees the tensors of the failed step
        if self.make_step.changed_step == self.step:
            paths = self.store.checkpoints.list_checkpoints()
            kept = f"the last checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"
            log.warning("step %d has failed while it changed the weights, which are lost; %s", self.step + 1, kept)
            return
        self._stop_if_due(pending)
        if self.step <= max(self._saved_step, self._first_step):
            return
        try:
            self.save()
        except Exception as second:
            log.warning("the state after step %d could not be saved: %s", self.step, second)
        else:
            log.info("the state after step %d is saved; --resume continues it", self.step)

    def _full_memory(self, error: Exception, raw: RawBatch) -> ResourceError:
        """Return an error that says what was computed, and what would fit."""
        num_parameters = sum(parameter.numel() for parameter in self.classifier.parameters()) / 10**6
        model = f"{type(self.classifier.backbone).__name__} of {num_parameters:.1f} million parameters"
        views = f" x {self.make_step.num_views} views" if self.make_step.num_views else ""
        where = f"step {self.step + 1}, {len(raw.labels)} images{views}, {model}"
        why = memory.reason(error, self.make_step.device)  # the peak until now
        fitting = self.make_step.images_that_fit(raw, step=self.step)
        remedy = f"Reduce train.batch_size={self.plan.batch_size}" + (f", about {fitting} would fit" if fitting else "")
        if self.classifier.autocast is None:
            remedy += ", or compute in bf16 (train.precision=auto)"
        return ResourceError(memory.FULL_MEMORY, where=where, why=why, remedy=remedy)

    def finish_epoch(self, *, seconds: float, num_images: int) -> None:
        """Evaluate if this epoch is evaluated, keep the best checkpoint, and write the epoch's row."""
        epoch = self.step // self.plan.steps_per_epoch
        means = self.means()
        target_entropy = means.pop("target_entropy")
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "lr": self.plan.learning_rate(self.step - 1, num_reductions=self.plateau.num_reductions),
            "train_loss": sum(means.values()),
            **means,
            "target_entropy": target_entropy,
        }
        start_time = time.perf_counter()
        is_evaluated = epoch % self.plan.evaluate_every_epochs == 0 or epoch == self.plan.epochs
        for split, evaluate in self.evaluators.items() if is_evaluated else ():
            row |= {f"{split}_{name}": value for name, value in evaluate().items()}
        self._check_finite({name: value for name, value in row.items() if name.endswith("nll")})
        row["timing"] = {
            "train_seconds": seconds,
            "augment_seconds": self.make_step.augment_seconds,
            "images_per_second": num_images / seconds if seconds else None,
            "evaluation_seconds": time.perf_counter() - start_time,
        }
        if is_evaluated and self.store.metrics_log.would_be_best(row):
            self.store.checkpoints.keep_best(self.step)
        self.store.metrics_log.append(row)
        self.store.report(row)
        self._log_row(row)

    # --- state -----------------------------------------------------------------------------------------------

    def means(self) -> dict[str, float]:
        """Return the mean of each named term over the images of the current epoch so far.

        Raises:
            DivergedError: a mean is not finite.
        """
        sums = {name: float(value) for name, value in self.sums.items()}
        num_images = sums.pop("num_images", 1.0)
        means = {name: value / num_images for name, value in sums.items()}
        self._check_finite(means)
        return means

    def _check_finite(self, values: Mapping[str, float]) -> None:
        bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise self._diverged(", ".join(bad))

    def _diverged(self, reason: str | DivergedError) -> DivergedError:
        """Return an error that names the last good checkpoint."""
        paths = self.store.checkpoints.list_checkpoints()
        remedy = f"Lower optimizer.lr; the last good checkpoint is {paths[-1]}" if paths else "Lower optimizer.lr"
        if isinstance(reason, DivergedError):
            return DivergedError(str(reason), remedy=remedy)
        return DivergedError("training diverged", where=f"step {self.step}", why=reason, remedy=remedy)

    def save(self) -> None:
        """Save the state after the current step.

        Raises:
            DivergedError: a loss, a weight or the optimizer's state is not finite; the existing checkpoints are kept.
        """
        self.means()
        values = {name: value for name, value in self.classifier.state_dict().items() if value.is_floating_point()}
        for number, state in enumerate(self.optimizer.state.values()):  # of Adam it overflows before the weights do
            values |= {
                f"{name} of parameter {number}": value
                for name, value in state.items()
                if isinstance(value, Tensor) and value.is_floating_point()
            }
        device = self.make_step.device  # torch keeps some states of an optimizer, such as its steps, on the CPU
        is_finite = torch.stack([value.isfinite().all().to(device) for value in values.values()])
        if not is_finite.all():
            bad = [f"{name} is not finite" for name, finite in zip(values, is_finite, strict=True) if not finite]
            raise self._diverged(", ".join(bad[:3]))
        self.store.checkpoints.save(self.step, self.state())
        self._saved_step, self._save_time = self.step, time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint, in tensors and plain types: all that continuing needs."""
        return {
            **self.store.description,
            "step": self.step,
            "model": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": list(self.plateau),
            "sums": {name: float(value) for name, value in self.sums.items()},
        }

    def restore(self, state: dict[str, Any], *, with_optimizer: bool, with_sums: bool) -> None:
        """Continue after the step of `state`, whose weights the model has already.

        `with_optimizer` restores the optimizer's state of each parameter and group; the optimizer keeps the settings
        that it was created with. `with_sums` restores the running sums of the epoch, for the same training only.
        """
        self.step = state["step"]
        self.plateau = Plateau(*state["plateau"])
        self.sums = dict(state["sums"]) if with_sums else {}
        if with_optimizer:
            saved, current = state["optimizer"], self.optimizer.state_dict()
            pairs = zip(saved["param_groups"], current["param_groups"], strict=True)
            self.optimizer.load_state_dict({**saved, "param_groups": [{**old, **new} for old, new in pairs]})

    def _add(self, losses: dict[str, Tensor], num_images: int) -> None:
        """Add to the running sums in float64, on the device, so that no step waits for the GPU."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double() * num_images
        self.sums["num_images"] = self.sums.get("num_images", 0.0) + num_images

    # --- text ------------------------------------------------------------------------------------------------

    def _progress(self, raw_batches: Iterable[RawBatch], epoch: int, start: int) -> Iterator[RawBatch]:
        title = f"epoch {epoch + 1}/{self.plan.epochs}"
        bar = tqdm(raw_batches, title, self.plan.steps_per_epoch, initial=start, leave=False, disable=None)
        for num_steps, raw in enumerate(bar, start=start + 1):
            yield raw
            self._log_remaining_time()
            if bar.disable and num_steps % self.plan.log_every_steps == 0:
                log.info("%s step %d/%d", title, num_steps, self.plan.steps_per_epoch)

    def _log_remaining_time(self) -> None:
        """Log an estimate of the remaining time, once, after the first steps."""
        if self.step - self._first_step == TIMED_STEPS:
            seconds = (time.perf_counter() - self._start_time) / TIMED_STEPS
            minutes = (self.plan.total_steps - self.step) * seconds / 60
            log.info("about %.1f minutes of training left, at %.0f ms a step", minutes, 1000 * seconds)

    def _log_row(self, row: dict[str, Any]) -> None:
        parts = [f"epoch {row['epoch']}/{self.plan.epochs}", f"loss {row['train_loss']:.4f}"]
        for split in (split for split in self.evaluators if f"{split}_top1" in row):
            parts.append(f"{split} top1 {row[f'{split}_top1']:.2f} nll {row[f'{split}_nll']:.4f}")
        speed = row["timing"]["images_per_second"]
        parts.append(f"lr {row['lr']:.3g}")
        if speed:
            parts.append(f"{speed:.0f} images/s")
        log.info("  ".join(parts))
