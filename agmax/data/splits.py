"""The images of a split, and stratified random subsets of them."""

from typing import NamedTuple

import torch
from torch import Tensor

from agmax.core.errors import DataError
from agmax.core.rng import generator


class InMemoryDataset(NamedTuple):
    """The images of one split, in memory."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    indices: Tensor | None = None  # int64 [N], positions in the original split; None means 0 to N - 1


class FileDataset(NamedTuple):
    """The images of one split, as paths of files."""

    paths: tuple[str, ...]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    indices: Tensor | None = None  # as in InMemoryDataset


Dataset = InMemoryDataset | FileDataset


def subset(data: Dataset, chosen: Tensor) -> Dataset:
    """Return the images at the positions `chosen` [M], in that order; they keep their indices."""
    labels, indices = data.labels[chosen], indices_of(data)[chosen]
    if isinstance(data, InMemoryDataset):
        return data._replace(images=data.images[chosen], labels=labels, indices=indices)
    return data._replace(paths=tuple(data.paths[i] for i in chosen.tolist()), labels=labels, indices=indices)


def indices_of(data: Dataset) -> Tensor:
    """Return the position of each image [N] in the original split."""
    return torch.arange(len(data.labels)) if data.indices is None else data.indices


class Partition(NamedTuple):
    """Three disjoint sets of positions in a data set, int64, each in ascending order."""

    train: Tensor
    validation: Tensor
    extra_test: Tensor


def partition(
    labels: Tensor,
    *,
    limit: int | None = None,
    validation: float = 0.0,
    extra_test: float = 0.0,
    seed: int,
    split_seed: int | None = None,
) -> Partition:
    """Choose the images to train on, and those that are held out for validation and testing.

    `validation` and `extra_test` are fractions below 1 or numbers of images; the same fraction of every class is held
    out. `limit` of the other images, equally many of each class, or all of them are for training. The held-out images
    depend on the labels [N] and `split_seed` (None means `seed`), the training images also on `seed`. `validation`
    does not depend on the sizes of the other parts. With one seed and no `extra_test`, `train` does not depend on them
    either as long as every class has enough images.

    Raises:
        DataError: there are too few images.
    """
    order = _random_order(labels, seed)
    split_order = order if split_seed is None else _random_order(labels, split_seed)
    sizes = [round(size if size >= 1 else size * len(labels)) for size in (validation, extra_test)]
    if sum(sizes) + (limit or 0) > len(labels):
        why = f"{limit or 0} to train on and {sum(sizes)} to hold out are more than the {len(labels)} images"
        remedy = "Lower dataset.train_limit, dataset.validation or dataset.extra_test"
        raise DataError("too few images", where="dataset.train_limit", why=why, remedy=remedy)
    held_out = _take(labels, split_order.flip(0), _proportional_counts(labels, sizes[0]))
    is_free = torch.ones(len(labels), dtype=torch.bool)
    is_free[held_out] = False
    split_order = split_order[is_free[split_order]]
    extra = _take(labels, split_order, _proportional_counts(labels[is_free], sizes[1]))
    is_free[extra] = False
    if limit is None:
        return Partition(is_free.nonzero().flatten(), held_out, extra)
    available = torch.bincount(labels[is_free], minlength=int(labels.max()) + 1)
    return Partition(_take(labels, order[is_free[order]], _equal_counts(available, limit)), held_out, extra)


def concatenate(first: Dataset, second: Dataset) -> Dataset:
    """Return the images of both, one after another; indices of the second follow those of the first."""
    labels = torch.cat([first.labels, second.labels])
    indices = torch.cat([indices_of(first), len(first.labels) + indices_of(second)])
    if isinstance(first, InMemoryDataset) and isinstance(second, InMemoryDataset):
        return first._replace(images=torch.cat([first.images, second.images]), labels=labels, indices=indices)
    assert isinstance(first, FileDataset) and isinstance(second, FileDataset)
    return first._replace(paths=first.paths + second.paths, labels=labels, indices=indices)


def _random_order(labels: Tensor, seed: int) -> Tensor:
    return torch.from_numpy(generator(seed, "subset").permutation(len(labels)))


def _take(labels: Tensor, order: Tensor, wanted: Tensor) -> Tensor:
    """Return the first `wanted[k]` positions of each class k in `order`, sorted."""
    counts = torch.bincount(labels[order], minlength=len(wanted))
    grouped = order[labels[order].argsort(stable=True)].split(counts.tolist())
    chosen = [group[:count] for group, count in zip(grouped, wanted.tolist(), strict=True)]
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)


def _proportional_counts(labels: Tensor, total: int) -> Tensor:
    """Split `total` over the classes in proportion to their sizes, by largest remainder."""
    scaled, size = torch.bincount(labels) * total, max(len(labels), 1)  # integers, so that equal remainders are equal
    counts = scaled // size
    counts[(scaled % size).argsort(descending=True, stable=True)[: total - int(counts.sum())]] += 1
    return counts


def _equal_counts(available: Tensor, total: int) -> Tensor:
    """Split `total` over the classes as evenly as their available numbers allow; the first classes get the rest."""
    level = total // len(available)
    while int(available.clamp(max=level + 1).sum()) <= total and level < int(available.max()):
        level += 1
    counts = available.clamp(max=level)
    counts[(available > level).nonzero().flatten()[: total - int(counts.sum())]] += 1
    return counts
