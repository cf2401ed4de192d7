"""Estimate how long the runs of a study take, from its finished runs or from a few timed steps."""

import statistics
import time
from collections.abc import Collection, Sequence

from agmax.config.resolve import with_classes
from agmax.config.schema import Config
from agmax.core.errors import AgmaxError
from agmax.studies.plan import PlannedRun
from agmax.studies.records import Record

LARGE = 64
"""Image size in pixels above which a step is timed with a few images only."""


def samples_seen(config: Config, sizes: dict[str, int | None] | None = None) -> int | None:
    """Return the samples seen in a training (images, times views, times epochs); None where the data are missing.

    `sizes` caches the number of training images of each data set.
    """
    sizes = {} if sizes is None else sizes
    number = config.dataset.train_limit
    if number is None:
        key = config.dataset.model_dump_json(exclude={"seed"})
        if key not in sizes:
            sizes[key] = _num_images(config)
        number = sizes[key]
    return None if number is None else config.train.epochs * number * config.objective.num_views


def seconds(planned_runs: Sequence[PlannedRun], finished: Collection[Record]) -> float | None:
    """Return the seconds of runs one after another, from finished runs or timed steps; None where data are missing."""
    if not planned_runs:
        return 0.0
    sizes: dict[str, int | None] = {}
    samples = [samples_seen(planned.config, sizes) for planned in planned_runs]
    total = sum(number for number in samples if number is not None)
    if None in samples:
        return None
    if finished:
        return total * float(statistics.median(record["seconds"] / record["samples_seen"] for record in finished))
    return total * seconds_per_sample(planned_runs[-1].config)


def _num_images(config: Config) -> int | None:
    from agmax import builders  # slow to import

    try:
        return len(builders.split(config, "train").labels)
    except AgmaxError:
        return None


def seconds_per_sample(config: Config) -> float:
    """Time two training steps on noise images, and return the seconds for one view of one image.

    Reading files and evaluation are not included.
    """
    import torch

    from agmax import builders
    from agmax.core import devices
    from agmax.core.batch import RawBatch

    config = with_classes(config, config.dataset.num_classes or 10)
    builders.check_optimizer(config)
    device = devices.choose_device(config.train.device)
    devices.keep_freed_memory()
    data, num_views = config.dataset, config.objective.num_views
    num_images = 4 if data.image_size > LARGE else config.train.batch_size
    images = torch.randint(0, 256, (num_images, data.channels, data.image_size, data.image_size), dtype=torch.uint8)
    indices = torch.arange(num_images)
    raw = RawBatch(images.to(device), indices.remainder(builders.num_classes(config)), indices)
    classifier = builders.model(config, with_pretrained=False).to(device)
    classifier.autocast = devices.autocast_dtype(config.train.precision, device)
    augment, objective, optimizer = (
        builders.augmentation(config, steps_per_epoch=3),
        builders.objective(config),
        builders.optimizer(config, classifier),
    )
    started = 0.0
    for step in range(3):  # step 0 is a warm-up
        if step == 1:
            started = time.perf_counter()
        batch = augment(raw, step=step)
        losses = objective(classifier(batch.images), batch)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()
        float(batch.weights.sum())  # waits for a GPU
    return (time.perf_counter() - started) / (2 * num_images * num_views)


def duration(seconds: float) -> str:
    """Format seconds as hours and minutes."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
