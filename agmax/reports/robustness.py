"""Draw a model's accuracy over the occluded fraction and over the offset of the crop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agmax.core.storage import output_file
from agmax.reports import style


def draw(result: Mapping[str, Any]) -> Figure:
    """Draw accuracy over the occluded fraction, or over the offset of the crop, or both side by side."""
    panels = [name for name in PANELS if name in result]
    with style.figures(4.2, len(panels)) as (figure, axes):
        num_images = result[panels[0]]["num_images"]
        figure.suptitle(f"{result['config']} on {result['dataset']}, {num_images:,} images", wrap=True)
        for name, panel in zip(panels, axes, strict=True):
            PANELS[name](panel, result[name])
    return figure


def save(result: Mapping[str, Any], path: Path, *, force: bool = False) -> None:
    """Write the figure as PNG, atomically; `force` replaces an existing file.

    Raises:
        OutputError: the file cannot be written, or must not be replaced.
        AlreadyExistsError: the file exists, and `force` is false.
    """
    figure = draw(result)
    with output_file(path, force=force) as file:
        style.save(figure, file)


def _draw_occlusion(axes: Axes, table: Mapping[str, Any]) -> None:
    axes.plot(
        [100 * fraction for fraction in table["fraction"]],
        table["top1"],
        color=style.COLORS[0],
        marker="o",
        markersize=4,
    )
    axes.set_xlabel("occluded by a square (% of the area)")
    axes.set_ylabel("top1 (%)")
    axes.set_ylim(0, 100)
    axes.grid()


def _draw_offsets(axes: Axes, table: Mapping[str, Any]) -> None:
    pixels, count = table["pixels"], len(table["pixels"])
    axes.imshow(table["top1"], cmap="viridis", vmin=0, vmax=100)
    for y, row in enumerate(table["top1"]):
        for x, top1 in enumerate(row):
            axes.text(
                x, y, f"{top1:.0f}", ha="center", va="center", fontsize=7, color="black" if top1 > 55 else "white"
            )
    axes.set_xticks(range(count), [str(offset) for offset in pixels])
    axes.set_yticks(range(count), [str(offset) for offset in pixels])
    axes.set_xlabel("crop offset to the right (pixels)")
    axes.set_ylabel("crop offset down (pixels)")
    axes.set_title("top1 (%)", fontsize=9)


PANELS = {"occlusion": _draw_occlusion, "offsets": _draw_offsets}
