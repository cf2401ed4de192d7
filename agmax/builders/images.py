"""Build the data sets and loaders of a configuration."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from agmax.config.resolve import with_classes
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import DataError, UsageError
from agmax.data import datasets, sampler
from agmax.data.folders import split_folders
from agmax.data.from_files import FileLoader
from agmax.data.in_memory import InMemoryLoader
from agmax.data.loader import Loader
from agmax.data.splits import Dataset, InMemoryDataset, concatenate, partition, subset


class Splits(NamedTuple):
    """The data sets of a training."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None


def split(config: Config, name: str) -> Dataset:
    """Load one split of the configured data set, with the held-out images moved from training to their split."""
    if name == "validation" and not config.dataset.validation:
        return _load(config, name)
    if name == "test":
        return _test(config, _parts(config).extra_test if config.dataset.extra_test else None)
    train, validation, _ = _parts(config)
    if name == "train":
        return train
    assert validation is not None
    return validation


def splits(config: Config) -> Splits:
    """Load the splits that a training needs; `config.dataset.num_classes` must be set.

    Raises:
        DataError: there are no images to evaluate on.
    """
    train, validation, extra = _parts(config)
    if validation is None and _has_validation_folder(config):
        validation = _load(config, "validation")
    if not config.evaluation.test:
        if validation is None:
            why, remedy = "evaluation.test is false", "Write dataset.validation=0.1 too"
            raise DataError("no validation images", where=config.dataset.root, why=why, remedy=remedy)
        return Splits(train, validation, None)
    return Splits(train, validation, _test(config, extra))


def _test(config: Config, extra: Dataset | None) -> Dataset:
    """Load the test images, followed by the training images held out for testing."""
    test = _load(config, "test")
    return test if extra is None else concatenate(test, extra)


def _load(config: Config, name: str) -> Dataset:
    data = config.dataset
    return datasets.load(
        data.name,
        data.root,
        split=name,
        num_classes=data.num_classes,
        test_fraction=data.test_fraction,
    )


class _Parts(NamedTuple):
    """The training images of a data set, divided into those to train on and those held out."""

    train: Dataset
    validation: Dataset | None
    extra_test: Dataset | None


def _parts(config: Config) -> _Parts:
    """Load the training images, and hold out those for validation and extra_test."""
    data = config.dataset
    images = _load(config, "train")
    if data.train_limit is None and not data.validation and not data.extra_test:
        return _Parts(images, None, None)
    positions_of_parts = partition(
        images.labels,
        limit=data.train_limit,
        validation=data.validation,
        extra_test=data.extra_test,
        seed=config.dataset_seed,
        split_seed=config.split_seed,
    )
    sizes = [len(positions) for positions in positions_of_parts]
    if sizes[0] == 0 or (data.validation and sizes[1] == 0) or (data.extra_test and sizes[2] == 0):
        why = f"{len(images.labels)} images are divided into {sizes[0]}, {sizes[1]} and {sizes[2]}"
        what, remedy = "training, validation or extra_test without images", "Write sizes that leave each an image"
        raise DataError(what, where="dataset.validation", why=why, remedy=remedy)
    train, validation, extra = (subset(images, positions) for positions in positions_of_parts)
    return _Parts(train, validation if data.validation else None, extra if data.extra_test else None)


def with_num_classes(config: Config, data: Callable[[], Dataset]) -> Config:
    """Return the configuration with its number of classes; `data` is called to count them if it is null."""
    return with_classes(config, len(data().class_names)) if config.dataset.num_classes is None else config


def _has_validation_folder(config: Config) -> bool:
    root = Path(config.dataset.root).expanduser()
    return config.dataset.name == "folder" and "validation" in split_folders(root)


def training_loader(config: Config, data: Dataset, device: torch.device) -> Loader:
    """Return the loader of training samples: from memory, or decoded and cropped by workers.

    Raises:
        UsageError: augment.crop or augment.views is not possible for this kind of data set.
    """
    size, augment = config.dataset.image_size, config.augment
    if isinstance(data, InMemoryDataset):
        if augment.crop == "random_resized":
            why = f"random_resized needs image files, and {config.dataset.name} is in memory"
            remedy = "Write augment.crop=standard"
            raise UsageError("crop not possible", where="augment.crop=random_resized", why=why, remedy=remedy)
        views = None
        if augment.views == "same_class":
            num_views, seed = config.objective.num_views, config.train.seed
            views = partial(sampler.same_class_views, data.labels, num_views=num_views, seed=seed)
        return InMemoryLoader(data, image_size=size, device=device, views=views)
    if augment.views != "independent":
        where, why = f"augment.views={augment.views}", f"{config.dataset.name} is read from files, not from memory"
        remedy = "Write augment.views=independent, or use a data set that is in memory"
        raise UsageError("views not possible", where=where, why=why, remedy=remedy)
    scale_and_ratio = (augment.random_resized.scale, augment.random_resized.ratio)
    return FileLoader(
        data,
        image_size=size,
        channels=config.dataset.channels,
        num_workers=devices.num_workers(config.train.num_workers),
        pin_memory=device.type == "cuda",
        random_resized=scale_and_ratio if augment.crop == "random_resized" else None,
        scaled_decoding=augment.random_resized.scaled_decoding,
        exif_rotation=config.dataset.exif_rotation,
        skip_bad_images=config.dataset.on_bad_image == "skip",
        num_views=config.objective.num_views,
        seed=config.train.seed,
    )


def test_loader(config: Config, data: Dataset, device: torch.device) -> Loader:
    """Return the loader of an evaluation's images."""
    if isinstance(data, InMemoryDataset):
        return InMemoryLoader(data, image_size=config.test_image_size, device=device)
    return FileLoader(
        data,
        image_size=config.test_image_size,
        channels=config.dataset.channels,
        num_workers=devices.num_workers(config.train.num_workers),
        pin_memory=device.type == "cuda",
        exif_rotation=config.dataset.exif_rotation,
    )
