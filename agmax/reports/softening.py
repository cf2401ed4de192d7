"""Draw the softening curve: confidence over the visible fraction, with sampled fractions, and over the offsets."""

from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from agmax.augment.soft_crop import visible_fraction
from agmax.augment.targets import confidence, visible_overlap
from agmax.reports import style

POWERS = (1.0, 2.0, 3.0, 4.0)
NUM_BINS = 20


class Curve(NamedTuple):
    """The softening curve of a configuration."""

    num_classes: int
    power: float
    max_confidence: float
    visibility: str  # area or iou

    def at(self, visible: Tensor, power: float | None = None) -> Tensor:
        """Return the confidence of visible fractions of any shape, with the curve's power or another."""
        return confidence(
            visible_overlap(visible, self.visibility),
            num_classes=self.num_classes,
            power=self.power if power is None else power,
            max_confidence=self.max_confidence,
        )


def figure(curve: Curve, fractions: Tensor, *, crop_size: int | None, title: str) -> Figure:
    """Draw the curve for four powers over sampled visible fractions [M] and, with a soft crop, its map over offsets."""
    with style.figures(4.4, 1 if crop_size is None else 2) as (drawn, axes):
        drawn.suptitle(title, wrap=True)
        _draw_curves(axes[0], curve, fractions)
        if crop_size is not None:
            drawn.colorbar(_draw_map(axes[1], curve, crop_size), ax=axes[1], shrink=0.85)
    return drawn


def _draw_curves(axes: Axes, curve: Curve, fractions: Tensor) -> None:
    counts = torch.histc(fractions.double(), NUM_BINS, 0, 1) / len(fractions)
    edges = [n / NUM_BINS for n in range(NUM_BINS)]
    bars = axes.bar(edges, counts.tolist(), 1 / NUM_BINS, align="edge", color=style.GRID, alpha=0.35, linewidth=0)
    bars.set_label(f"sampled, mean {float(fractions.mean()):.3f}")
    visible = torch.linspace(0, 1, 201, dtype=torch.float64)
    powers = sorted({*POWERS, curve.power})
    for power, look in zip(powers, style.line_styles(len(powers)), strict=True):
        width = 2.5 if power == curve.power else 1.2
        axes.plot(
            visible.numpy(), curve.at(visible, power).numpy(), color=look.color, linewidth=width, label=f"k = {power:g}"
        )
    axes.set_xlabel("visible fraction")
    axes.set_ylabel("confidence; fraction of views in a bin")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid()
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1), fontsize=8)


def _draw_map(axes: Axes, curve: Curve, size: int) -> AxesImage:
    """Draw the confidence over all offsets of a square crop of `size` pixels."""
    reach, offsets = size + 0.5, torch.arange(-size, size + 1)
    extent = (-reach, reach, reach, -reach)
    visible = visible_fraction(offsets[:, None], offsets[None], height=size, width=size)
    image = axes.imshow(curve.at(visible).numpy(), cmap="viridis", vmin=0, vmax=1, extent=extent)
    axes.set_xlabel("crop offset to the right (pixels)")
    axes.set_ylabel("crop offset down (pixels)")
    axes.set_title(f"confidence, k = {curve.power:g}", fontsize=9)
    return image
