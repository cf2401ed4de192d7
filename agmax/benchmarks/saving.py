"""Time the saving of a checkpoint: its share of a training that saves every so many minutes."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agmax import builders
from agmax.builders import Splits
from agmax.config.resolve import resolve
from agmax.core import devices
from agmax.core.storage import explain
from agmax.data.splits import InMemoryDataset
from agmax.experiments.run_folder import RunFolder
from agmax.training.checkpoint_folder import CheckpointFolder

NAME, REPEATS = "WideResNet28-10-cutmix-auto_augment-agmax", 7
MINUTES = (15, 1)
"""The default of train.save_every_minutes, and a short one."""


def run(*, report: Callable[[str], None]) -> dict[str, Any]:
    """Save the state of a large network as a training does, in the current folder, and return the seconds.

    `report` is called with the result as text.

    Raises:
        OutputError: the folder cannot be written.
    """
    config = resolve(NAME, dataset="cifar10").config
    device = devices.choose_device(config.train.device)
    blank = torch.zeros(2, 3, config.dataset.image_size, config.dataset.image_size, dtype=torch.uint8)
    data = InMemoryDataset(blank, torch.arange(2), tuple("0123456789"))
    with explain(Path(".benchmark")):
        folder = Path(tempfile.mkdtemp(prefix=".benchmark-", dir="."))
    try:
        trainer = builders.trainer(
            config,
            Splits(data, None, None),
            builders.training_loader(config, data, device),
            builders.model(config).to(device),
            device=device,
            metrics_log=RunFolder(folder),
            checkpoints=CheckpointFolder(folder),
            report=lambda row: None,
            description=builders.description(config, data),
        )
        for parameter in trainer.classifier.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()  # creates its state
        seconds = []
        for step in range(1, REPEATS + 1):
            trainer.step = step
            devices.synchronize(device)
            began = time.perf_counter()
            trainer.save()
            seconds.append(time.perf_counter() - began)
        num_bytes = trainer.store.checkpoints.path(trainer.step).stat().st_size
    finally:
        shutil.rmtree(folder)
    median = statistics.median(seconds)
    shares = {str(minutes): median / (60 * minutes) for minutes in MINUTES}
    text = ", ".join(f"{share:.2%} of a training that saves every {minutes} min" for minutes, share in shares.items())
    report(f"{NAME}: {num_bytes / 2**20:.0f} MiB saved in {median:.2f} s, {text}")
    about = {"config": NAME, "bytes": num_bytes, "seconds": seconds, "device": devices.machine(device, None)}
    return {**about, "share_by_minutes": shares}
