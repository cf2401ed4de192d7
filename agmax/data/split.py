"""The images of a split, and how some of them are chosen: class by class, from a seed."""

from typing import NamedTuple

import torch
from torch import Tensor

from agmax.errors import DataError
from agmax.randomness import generator


class Pixels(NamedTuple):
    """Images of one split, whole in memory."""

    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    indices: Tensor | None = None  # int64 [N], positions in the files of the split; None is 0 to N - 1


class Files(NamedTuple):
    """Images of one split, as files to decode."""

    paths: tuple[str, ...]
    labels: Tensor  # int64 [N]
    class_names: tuple[str, ...]
    indices: Tensor | None = None  # as in Pixels


Split = Pixels | Files


def subset(data: Split, chosen: Tensor) -> Split:
    """Return the images at the positions `chosen` [M], in that order; they keep their indices."""
    labels, indices = data.labels[chosen], indices_of(data)[chosen]
    if isinstance(data, Pixels):
        return data._replace(images=data.images[chosen], labels=labels, indices=indices)
    return data._replace(paths=tuple(data.paths[i] for i in chosen.tolist()), labels=labels, indices=indices)


def indices_of(data: Split) -> Tensor:
    """Return where each image [N] stands in the files of its split."""
    return torch.arange(len(data.labels)) if data.indices is None else data.indices


def training_and_held_out(labels: Tensor, *, limit: int | None, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose the positions to train on and those to validate on; no image is in both.

    The first are `limit` images, equally many of each class, or all that are left; the second are the same share of
    every class. Both depend on `seed` and on the labels [N] alone, and while every class has images enough neither
    changes with the size of the other.

    Raises:
        DataError: there are not enough images for both.
    """
    rng = generator(seed, "subset")
    order = torch.from_numpy(rng.permutation(len(labels)))
    held_out = _take(labels, order.flip(0), _shares(labels, round(validation * len(labels))))
    if limit is None:
        keep = torch.ones(len(labels), dtype=torch.bool)
        keep[held_out] = False
        return keep.nonzero().flatten(), held_out
    counts = torch.bincount(labels)
    if limit + len(held_out) > len(labels):
        why = f"{limit} to train on and {len(held_out)} to validate on are asked of {len(labels)} images"
        raise DataError("too few images", where="dataset.train_limit", why=why)
    chosen = _take(labels, order, _equal(counts - torch.bincount(labels[held_out], minlength=len(counts)), limit))
    return chosen, held_out


def _take(labels: Tensor, order: Tensor, wanted: Tensor) -> Tensor:
    """Return the first `wanted[k]` positions of each class k in `order`, sorted."""
    grouped = order[labels[order].argsort(stable=True)].split(torch.bincount(labels).tolist())
    chosen = [group[:count] for group, count in zip(grouped, wanted.tolist(), strict=True)]
    return torch.cat(chosen).sort().values if chosen else torch.empty(0, dtype=torch.int64)


def _shares(labels: Tensor, total: int) -> Tensor:
    """Split `total` over the classes in proportion to their sizes, by largest remainder."""
    exact, whole = torch.bincount(labels) * total, max(len(labels), 1)  # in whole numbers, so that ties are ties
    counts = exact // whole
    counts[(exact % whole).argsort(descending=True, stable=True)[: total - int(counts.sum())]] += 1
    return counts


def _equal(available: Tensor, total: int) -> Tensor:
    """Split `total` as evenly over the classes as what is available allows; the first classes get what is left over."""
    level = total // len(available)
    while int(available.clamp(max=level + 1).sum()) <= total and level < int(available.max()):
        level += 1
    counts = available.clamp(max=level)
    counts[(available > level).nonzero().flatten()[: total - int(counts.sum())]] += 1
    return counts
