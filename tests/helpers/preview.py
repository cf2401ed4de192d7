"""Read the preview of a batch: its images, frames, bars and texts."""

from typing import Any, cast

import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from agmax.core.batch import Batch
from agmax.reports import preview

Array = np.ndarray[Any, Any]

NAMES = tuple("abcde")


def batch_of(
    num_images: int, num_views: int = 2, *, channels: int = 1, size: int = 8, num_classes: int = 5
) -> tuple[Batch, Tensor]:
    """Make a batch of random pixels in which image n has label n mod K and is mixed with the next class, 70 to 30."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(num_images) % num_classes
    rows = 0.7 * torch.eye(num_classes)[labels] + 0.3 * torch.eye(num_classes)[(labels + 1) % num_classes]
    images = torch.randn(num_images, num_views, channels, size, size, generator=rng)
    return Batch(images, rows[:, None].repeat(1, num_views, 1), torch.ones(num_images, num_views)), labels


def draw(batch: Batch, labels: Tensor, names: tuple[str, ...] = NAMES) -> Figure:
    channels = batch.images.shape[2]
    mean, std = [0.5, 0.4, 0.6][:channels], [0.25, 0.3, 0.2][:channels]
    made: Figure = preview.draw(batch, labels, names, mean=mean, std=std, title="a title")
    return made


def shown_images(figure: Figure) -> list[Array]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def frames(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def texts_under(figure: Figure, view: int) -> list[str]:
    """Return the lines below a view, from the top to the end of its frame."""
    left, right, bottom, top = figure.axes[0].images[view].get_extent()
    (frame,) = [
        frame
        for frame in frames(figure)
        if frame.get_x() < left < right < frame.get_x() + frame.get_width()
        and frame.get_y() < top < bottom < frame.get_y() + frame.get_height()
    ]
    end = frame.get_y() + frame.get_height()
    placed = [(text.get_position(), text.get_text()) for text in figure.axes[0].texts]
    return [
        text for (x, y), text in sorted(placed, key=lambda item: item[0][1]) if left <= x < right and bottom < y < end
    ]


def bars_under(figure: Figure, view: int) -> list[tuple[float, str]]:
    """Return length, as a fraction of the view's width, and color of each bar under a view, from the top."""
    left, right, bottom, _ = figure.axes[0].images[view].get_extent()
    colored = [bar for group in cast(list[BarContainer], figure.axes[0].containers)[1::2] for bar in group.patches]
    below = [bar for bar in colored if abs(bar.get_x() - left) < 1e-6 and 0 < bar.get_y() - bottom < 1]
    return [
        (bar.get_width() / (right - left), to_hex(bar.get_facecolor()))
        for bar in sorted(below, key=lambda bar: float(bar.get_y()))
    ]
