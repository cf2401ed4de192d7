"""How long the runs of a study will take: by the runs already finished, or by a few steps timed now."""

import statistics
import time
from collections.abc import Collection, Sequence

from agmax.config.resolve import with_classes
from agmax.config.schema import Config
from agmax.core.errors import AgmaxError
from agmax.studies.plan import PlannedRun
from agmax.studies.records import Record

LARGE = 64
"""Side of images, in pixels, from which a few of them are enough to time a step."""


def samples_seen(config: Config, sizes: dict[str, int | None] | None = None) -> int | None:
    """Return how many images, counting views, a training goes through; None where only the data could tell.

    `sizes` remembers the number of training images of each data set that was looked at.
    """
    sizes = {} if sizes is None else sizes
    number = config.dataset.train_limit
    if number is None:
        key = config.dataset.model_dump_json(exclude={"seed"})
        if key not in sizes:
            sizes[key] = _num_images(config)
        number = sizes[key]
    return None if number is None else config.train.epochs * number * config.objective.num_views


def seconds(planned_runs: Sequence[PlannedRun], known: Collection[Record]) -> float | None:
    """Return how long runs take one after another; None where the data are not there to tell."""
    if not planned_runs:
        return 0.0
    sizes: dict[str, int | None] = {}
    samples = [samples_seen(planned.config, sizes) for planned in planned_runs]
    total = sum(number for number in samples if number is not None)
    if None in samples:
        return None
    if known:
        return total * float(statistics.median(record["seconds"] / record["samples_seen"] for record in known))
    return total * seconds_per_sample(planned_runs[-1].config)


def _num_images(config: Config) -> int | None:
    from agmax import builders  # here, for it takes seconds, which a study that asks for no estimate spares

    try:
        return len(builders.split(config, "train").labels)
    except AgmaxError:
        return None


def seconds_per_sample(config: Config) -> float:
    """Time two training steps on images of noise, and return the seconds for one view of one image.

    Reading files and evaluating are left out.
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
    count = 4 if data.image_size > LARGE else config.train.batch_size
    images = torch.randint(0, 256, (count, data.channels, data.image_size, data.image_size), dtype=torch.uint8)
    sample = RawBatch(
        images.to(device), torch.arange(count).remainder(builders.num_classes(config)), torch.arange(count)
    )
    classifier = builders.model(config, with_pretrained=False).to(device)
    classifier.autocast = devices.autocast_dtype(config.train.precision, device)
    augment, objective, optimizer = (
        builders.augmentation(config, steps_per_epoch=3),
        builders.objective(config),
        builders.optimizer(config, classifier),
    )
    started = 0.0
    for step in range(3):  # the first also chooses algorithms and fills caches
        if step == 1:
            started = time.perf_counter()
        batch = augment(sample, step=step)
        losses = objective(classifier(batch.images), batch)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()
        float(batch.weights.sum())  # waits for a GPU
    return (time.perf_counter() - started) / (2 * count * num_views)


def duration(seconds: float) -> str:
    """Write a time as people read it."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
