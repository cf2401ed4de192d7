"""Draw the softening curve: confidence over the visible fraction, with sampled fractions, and over the offsets."""

from dataclasses import replace

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from agmax.augment.soft_crop import visible_fraction
from agmax.augment.targets import Softening
from agmax.reports import style

POWERS = (1.0, 2.0, 3.0, 4.0)
NUM_BINS = 20


def draw(softening: Softening, fractions: Tensor, *, num_classes: int, crop_size: int | None, title: str) -> Figure:
    """Draw the curve for four powers over sampled visible fractions [M] and, with a soft crop, its map over offsets."""
    with style.figures(4.4, 1 if crop_size is None else 2) as (figure, axes):
        figure.suptitle(title, wrap=True)
        _draw_curves(axes[0], softening, fractions, num_classes)
        if crop_size is not None:
            figure.colorbar(_draw_map(axes[1], softening, crop_size, num_classes), ax=axes[1], shrink=0.85)
    return figure


def _draw_curves(axes: Axes, softening: Softening, fractions: Tensor, num_classes: int) -> None:
    counts = torch.histc(fractions.double(), NUM_BINS, 0, 1) / len(fractions)
    edges = [n / NUM_BINS for n in range(NUM_BINS)]
    bars = axes.bar(edges, counts.tolist(), 1 / NUM_BINS, align="edge", color=style.GRID, alpha=0.35, linewidth=0)
    bars.set_label(f"sampled, mean {float(fractions.mean()):.3f}")
    visible = torch.linspace(0, 1, 201, dtype=torch.float64)
    powers = sorted({*POWERS, softening.power})
    for power, look in zip(powers, style.line_styles(len(powers)), strict=True):
        width = 2.5 if power == softening.power else 1.2
        confidence = replace(softening, power=power).confidence(visible, num_classes)
        axes.plot(visible.numpy(), confidence.numpy(), color=look.color, linewidth=width, label=f"k = {power:g}")
    axes.set_xlabel("visible fraction")
    axes.set_ylabel("confidence; fraction of views in a bin")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid()
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1), fontsize=8)


def _draw_map(axes: Axes, softening: Softening, size: int, num_classes: int) -> AxesImage:
    """Draw the confidence over all offsets of a square crop of `size` pixels."""
    reach, offsets = size + 0.5, torch.arange(-size, size + 1)
    extent = (-reach, reach, reach, -reach)
    visible = visible_fraction(offsets[:, None], offsets[None], height=size, width=size)
    image = axes.imshow(
        softening.confidence(visible, num_classes).numpy(), cmap="viridis", vmin=0, vmax=1, extent=extent
    )
    axes.set_xlabel("crop offset to the right (pixels)")
    axes.set_ylabel("crop offset down (pixels)")
    axes.set_title(f"confidence, k = {softening.power:g}", fontsize=9)
    return image
