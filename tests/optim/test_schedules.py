"""The learning rate is a pure function of the step, equal to torch's schedulers where they exist."""

from itertools import pairwise

import pytest
import torch
from torch.optim import lr_scheduler

from agmax.optim.lr_schedules import Plateau, learning_rate, update_plateau


def torch_rates(make: object, epochs: int, base: float = 0.1) -> list[float]:
    """Step one of torch's schedulers from scratch and return the rate in force during each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, 40)),
        ("multistep", lambda o: lr_scheduler.MultiStepLR(o, [15, 30, 40])),
        ("linear", lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 40)),
        ("constant", lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_every_epoch_has_the_rate_of_torchs_scheduler(name: str, make: object) -> None:
    expected = torch_rates(make, 40)
    for epoch, rate in enumerate(expected):
        for step in (epoch * 3, epoch * 3 + 2):
            lr = learning_rate(step, name=name, base=0.1, epochs=40, steps_per_epoch=3)
            assert lr == pytest.approx(rate, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_with_interval_step_the_rate_falls_at_every_step_towards_zero(name: str) -> None:
    rates = [learning_rate(s, name=name, base=1.0, epochs=5, steps_per_epoch=20, interval="step") for s in range(100)]
    assert rates[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[25] == pytest.approx({"cosine": 0.5 + 0.5**1.5, "linear": 0.75}[name])
    assert rates[50] == pytest.approx(0.5)
    assert 0 < rates[99] <= 0.011


def test_warm_up_starts_above_zero_rises_at_every_step_and_ends_at_the_base() -> None:
    options = {"name": "cosine", "base": 0.1, "epochs": 10, "steps_per_epoch": 4, "warmup_epochs": 2}
    rates = [learning_rate(step, **options) for step in range(40)]  # type: ignore[arg-type]
    assert rates[:8] == pytest.approx([0.1 * (step + 1) / 8 for step in range(8)])
    assert rates[8] == pytest.approx(0.1)  # the cosine begins where the warm-up ends
    assert rates[8 + 4 * 4] == pytest.approx(0.05)  # and is half-way between there and the end


def test_warm_up_starts_above_warmup_lr() -> None:
    rate = learning_rate(0, name="step", base=0.1, epochs=9, steps_per_epoch=10, warmup_epochs=1, warmup_lr=0.02)
    assert rate == pytest.approx(0.02 + 0.08 / 10)


def test_step_decays_every_decay_epochs() -> None:
    for epoch in range(12):
        rate = learning_rate(epoch * 5, name="step", base=0.1, epochs=12, steps_per_epoch=5)
        assert rate == pytest.approx(0.1 * 0.97 ** int(epoch / 2.4))


def test_plateau_reduces_at_the_epochs_of_torchs_scheduler() -> None:
    losses = [5.0, 4.0, 4.1, 4.2, 3.9999, 4.0, 4.1, 4.0, 4.0, 4.3, 3.0, *[3.0] * 20, 2.0, *[2.5] * 8]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=5, factor=0.1)
    state = Plateau()
    for epoch, loss in enumerate(losses):
        scheduler.step(loss)
        state = update_plateau(state, loss, patience=5)
        options = {"epochs": len(losses), "steps_per_epoch": 1, "num_reductions": state.num_reductions}
        rate = learning_rate(epoch, name="plateau", base=0.1, **options)  # type: ignore[arg-type]
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
    assert state.num_reductions >= 3
