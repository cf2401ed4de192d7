"""A training whose numbers are not finite ends before they reach the weights or a checkpoint, and can be resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agmax.checkpoints.read import load, tensors_in
from agmax.core.batch import Batch, Outputs, RawBatch
from agmax.losses import Losses
from agmax.training.loop import TrainStep
from helpers.training import TINY, Run, assert_same_weights, loss_log

WORDS = ("--config=ResNet8-cutmix-agmax", "--train", *TINY, "train.log_every_steps=2")
FOLDER = Path("runs/ResNet8-cutmix-agmax/digits-s0")


def in_images(step: TrainStep) -> None:
    augment = step.augment

    def broken(raw: RawBatch, **named: Any) -> Batch:
        batch = augment(raw, **named)
        return batch._replace(images=batch.images * torch.nan)

    step.augment = broken


def in_logits(step: TrainStep) -> None:
    def broken(module: Any, inputs: Any, outputs: Outputs) -> Outputs:
        return outputs._replace(logits=outputs.logits / 0)

    step.classifier.register_forward_hook(broken)


def in_term(name: str) -> Callable[[TrainStep], None]:
    def change(step: TrainStep) -> None:
        objective = step.objective

        def broken(outputs: Outputs, batch: Batch) -> Losses:
            losses = objective(outputs, batch)
            terms = {**losses.terms, name: losses.terms[name] * torch.inf}
            return Losses(torch.stack([*terms.values()]).sum(), terms)

        step.objective = broken

    return change


def in_record(step: TrainStep) -> None:
    """Change a term that is recorded, not the sum that is minimized."""
    objective = step.objective

    def broken(outputs: Outputs, batch: Batch) -> Losses:
        losses = objective(outputs, batch)
        return losses._replace(terms={**losses.terms, "agreement": losses.terms["agreement"] * torch.nan})

    step.objective = broken


def first_weight(step: TrainStep) -> Tensor:
    return next(step.classifier.parameters())


def in_weights(step: TrainStep) -> None:
    first_weight(step).data.view(-1)[0] = torch.nan


def in_gradient(step: TrainStep) -> None:
    first_weight(step).register_hook(lambda gradient: gradient * torch.nan)


def inject(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[TrainStep], None], number: int, *, device: str = "cpu"
) -> list[int]:
    """Call `change` before step `number`, counted from 1; return the steps at which the optimizer was called."""
    original, updates = TrainStep.__call__, list[int]()

    def changed(self: TrainStep, raw: RawBatch, *, step: int, lr: float) -> dict[str, Tensor]:
        if step + 1 == number:
            change(self)
        update = self.optimizer.step
        self.device, self.optimizer.step = torch.device(device), lambda: (updates.append(step + 1), update())
        try:
            return original(self, raw, step=step, lr=lr)
        finally:
            self.device, self.optimizer.step = torch.device("cpu"), update

    monkeypatch.setattr(TrainStep, "__call__", changed)
    return updates


def assert_only_finite_checkpoints(names: list[str]) -> None:
    paths = sorted((FOLDER / "checkpoints").iterdir())
    assert [path.name for path in paths] == names
    for path in paths:
        assert all(value.isfinite().all() for value in tensors_in(load(path)))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a training that nothing disturbs."""
    from main import main

    folder = tmp_path_factory.mktemp("quiet")
    assert main([*WORDS, f"train.runs_dir={folder}"]) == 0
    return folder / FOLDER.relative_to("runs")


CHANGES = {
    "images": (in_images, "classification=nan"),
    "logits": (in_logits, "classification="),
    "classification": (in_term("classification"), "classification=inf"),
    "agreement": (in_term("agreement"), "agreement=-inf"),
    "consistency": (in_term("consistency"), "consistency=inf"),
    "weights": (in_weights, "classification=nan"),
    "gradient": (in_gradient, "classification=nan"),
}


@pytest.mark.parametrize(
    ("place", "device"),
    [*((place, "cpu") for place in CHANGES), *((place, "cuda") for place in ("images", "agreement", "gradient"))],
)
def test_numbers_that_are_not_finite_end_a_training_with_7_and_are_never_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch, quiet: Path, place: str, device: str
) -> None:
    """On the CPU before the optimizer's step; on a GPU, which is not waited for, at the next of every two steps.

    A gradient shows itself in the loss of the following step.
    """
    change, why = CHANGES[place]
    first_loss = 6 if place == "gradient" else 5
    with monkeypatch.context() as patch:
        updates = inject(patch, change, 5, device=device)
        answer = run(*WORDS)
    assert answer.status == 7, answer.err
    [line] = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert f"training diverged (step {first_loss if device == 'cpu' else 6}): " in line
    assert (why if device == "cpu" else why.partition("=")[0]) in line
    assert f"Lower optimizer.lr; the last good checkpoint is {FOLDER}/checkpoints/step-00000004.pth" in line
    assert updates == list(range(1, first_loss if device == "cpu" else 7))
    assert ("lr=0.0" in line) == (device == "cpu")
    assert_only_finite_checkpoints(["best.pth", "step-00000004.pth"])
    if device == "cpu" and place in ("images", "gradient"):
        assert run(*WORDS, "--resume").status == 0
        assert loss_log(FOLDER) == loss_log(quiet)
        assert_same_weights(FOLDER / "checkpoints/step-00000012.pth", quiet / "checkpoints/step-00000012.pth")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_learning_rate_of_1e20_ends_with_7_and_leaves_no_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    inject(monkeypatch, lambda step: None, 1, device=device)
    answer = run(*WORDS, "optimizer.lr=1e20")
    assert answer.status == 7 and "training diverged (step 2): " in answer.err
    assert answer.err.rstrip().endswith("Lower optimizer.lr")  # there is no good checkpoint
    assert_only_finite_checkpoints([])


@pytest.mark.parametrize(
    ("words", "change", "what"),
    [
        ((), in_gradient, "backbone.conv1.weight is not finite"),
        ((), lambda step: step.classifier.backbone.get_buffer("bn1.running_var").fill_(torch.inf), "running_var is"),
        (("train.log_every_steps=50",), in_record, "agreement=nan"),
        (
            ("optimizer.name=adam", "optimizer.lr=1e-3"),
            lambda step: first_weight(step).register_hook(lambda gradient: gradient * 0 + 1e25),
            "exp_avg_sq of parameter 0 is not finite",
        ),
    ],
    ids=["gradient", "statistics", "record", "optimizer"],
)
def test_no_state_that_is_not_finite_is_saved_though_the_loss_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], change: Callable[[TrainStep], None], what: str
) -> None:
    """At step 8, the last of an epoch, the loss that is minimized has not shown the change yet."""
    inject(monkeypatch, change, 8)
    answer = run(*WORDS, *words)
    assert answer.status == 7, answer.err
    assert "training diverged (step 8): " in answer.err and what in answer.err
    assert_only_finite_checkpoints(["best.pth", "step-00000004.pth"])
