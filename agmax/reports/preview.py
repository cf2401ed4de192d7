"""Draw the images of a training batch as the model receives them, each view with its target."""

from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from torch import Tensor

from agmax.core.batch import Batch
from agmax.core.errors import printable
from agmax.core.storage import output_file

NUM_IMAGES = 16
"""Images in a preview: the first of the batch."""

MAX_CLASSES = 3
SMALLEST_SHOWN = 0.01
SMALLEST_REST = 0.0005
"""Largest number of classes named under a view, their smallest probability, and that of the bar `others`."""

OWN, ANOTHER, REST, EMPTY = "#7cc0ec", "#f4b13d", "#c4c4c4", "#f2f2f2"
"""Colors of the bars and of their background, distinguishable with color blindness and readable under black text."""

FONT = FontProperties(family="DejaVu Sans", size=8)  # matplotlib brings it
BOLD = FontProperties(family="DejaVu Sans", size=8, weight="bold")
TITLE = FontProperties(family="DejaVu Sans", size=12, weight="bold")

DPI = 120
WIDTH, HEADER, MARGIN, PADDING, LINE = 15.0, 0.6, 0.14, 0.08, 0.165
"""Inches: width of the figure, height of the header, space between frames, inside a frame, height of a line of text."""

VIEWS_ACROSS = 8
"""Approximate number of views in a row, so that views have nearly the same size with one, two or three views."""


class Bar(NamedTuple):
    """One line of a target."""

    name: str
    probability: float
    color: str


def bars(target: Tensor, label: int, class_names: Sequence[str]) -> list[Bar]:
    """Return the classes of a target [K] above 1 %, at most three, largest first, then the sum of the others.

    Classes with the evenly spread probability of label smoothing are among the others.
    """
    row: list[float] = target.tolist()
    least = min(p for k, p in enumerate(row) if k != label)
    even = [k for k, p in enumerate(row) if k != label and p < least + SMALLEST_REST]
    likely = [k for k, p in enumerate(row) if p > SMALLEST_SHOWN and (k not in even or len(even) == 1)]
    likely = sorted(likely, key=lambda k: -row[k])[:MAX_CLASSES]
    shown = [Bar(class_names[k], row[k], OWN if k == label else ANOTHER) for k in likely]
    rest = sum(row) - sum(bar.probability for bar in shown)
    return [*shown, Bar("others", rest, REST)] if rest >= SMALLEST_REST else shown


class Layout(NamedTuple):
    """Positions of the frames, in inches; a frame is an image with its views side by side."""

    columns: int
    width: float  # of a frame
    height: float
    side: float  # of a view

    @classmethod
    def of(cls, num_views: int, num_bars: int) -> "Layout":
        """Return the layout that fills the width; a frame has a title line, a weight line and `num_bars` bars."""
        columns = max(1, round(VIEWS_ACROSS / num_views))
        width = (WIDTH - MARGIN) / columns - MARGIN
        side = (width - PADDING) / num_views - PADDING
        return cls(columns, width, 2 * PADDING + side + (2 + num_bars) * LINE, side)

    def frame(self, n: int) -> tuple[float, float]:
        """Return the left and top coordinates of the frame of image n."""
        row, column = divmod(n, self.columns)
        return MARGIN + column * (self.width + MARGIN), HEADER + row * (self.height + MARGIN)


def draw(
    batch: Batch, labels: Tensor, class_names: Sequence[str], *, mean: list[float], std: list[float], title: str
) -> Figure:
    """Draw the first 16 images of a batch, one frame each, with its V views side by side.

    `labels` [N] are the images' classes; `mean` and `std` [C] are those of the normalization. Each view has below it
    its weight in the loss, the visible fraction of the image if known, and its target as bars.
    """
    names = drawable_names(class_names)
    num_shown, num_views = min(len(labels), NUM_IMAGES), batch.weights.shape[1]
    own = labels[:num_shown].tolist()
    targets = [[bars(row, label, names) for row in batch.targets[n]] for n, label in enumerate(own)]
    pixels = denormalize(batch.images[:num_shown].cpu(), mean, std)
    layout = Layout.of(num_views, max(len(target) for views in targets for target in views))
    figure, axes = _empty_figure(layout.frame(num_shown - 1)[1] + layout.height + MARGIN)
    _draw_header(axes, title, _legend(num_shown, len(labels), has_visible=batch.visible is not None))
    for n, label in enumerate(own):
        left, top = layout.frame(n)
        _draw_frame(axes, left, top, layout, f"image {n + 1}, label {names[label]}")
        for view in range(num_views):
            at = (left + PADDING + view * (layout.side + PADDING), top + PADDING + LINE)
            _draw_view(axes, *at, layout.side, pixels[n, view], facts(batch, n, view), targets[n][view])
    return figure


def denormalize(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Return images [..., C, H, W] as [..., H, W, C] on the scale from 0 to 1, clipped."""
    mean_of, std_of = images.new_tensor(mean), images.new_tensor(std)
    return (images.movedim(-3, -1) * std_of + mean_of).clamp(0, 1)


def facts(batch: Batch, n: int, view: int) -> str:
    """Return the text below a view: its weight in the loss and, if known, the visible fraction of the image."""
    text = f"weight {float(batch.weights[n, view]):.2f}"
    if batch.visible is None:
        return text
    return f"{text}, visible {100 * float(batch.visible[n, view]):.0f} %"


def drawable_names(names: Sequence[str]) -> list[str]:
    """Return the class names; `class 3` replaces a name with letters that the font lacks."""
    font = get_font(findfont(FONT))
    printable_names = [printable(name) for name in names]
    return [
        name if all(font.get_char_index(ord(letter)) for letter in name) else f"class {k}"
        for k, name in enumerate(printable_names)
    ]


def fit_text(text: str, width: float, font: FontProperties = FONT) -> str:
    """Return a text shortened to at most `width` inches."""
    if _width(text, font) <= width:
        return text
    count = bisect(range(len(text)), width, key=lambda length: _width(f"{text[:length]}…", font)) - 1
    return f"{text[: max(count, 0)]}…"


def save(figure: Figure, path: Path, *, force: bool = False) -> None:
    """Write a figure as PNG, atomically; `force` replaces an existing file.

    Raises:
        OutputError: the file cannot be written, or must not be replaced.
        AlreadyExistsError: the file exists, and `force` is false.
    """
    with output_file(path, force=force) as file:
        figure.savefig(file, format="png", metadata={"Software": None})  # equal figures give equal files


def _empty_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure whose coordinates are inches from its top left corner."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), autoscale_on=False, xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _legend(num_shown: int, num_images: int, *, has_visible: bool) -> str:
    images = f"The first {num_shown} of the {num_images} images of the batch"
    visible = " Visible: fraction of the image left by crop and erasing." if has_visible else ""
    return f"{images}, as the model receives them. Weight: of the view in the loss.{visible} Bars: target of the view"


def _draw_header(axes: Axes, title: str, legend: str) -> None:
    """Write the title, and the legend with the colors of the bars."""
    _write(axes, MARGIN, 0.22, fit_text(title, WIDTH - 2 * MARGIN, TITLE), TITLE)
    middle, left = 0.46, MARGIN
    _write(axes, left, middle, legend)
    left += _width(legend) + PADDING
    for color, name in ((OWN, "the image's label"), (ANOTHER, "another class"), (REST, "all other classes")):
        axes.add_patch(Rectangle((left, middle - 0.45 * LINE), LINE, 0.9 * LINE, facecolor=color))
        _write(axes, left + LINE + PADDING / 2, middle, name)
        left += LINE + _width(name) + 2 * PADDING


def _draw_frame(axes: Axes, left: float, top: float, layout: Layout, title: str) -> None:
    frame = Rectangle((left, top), layout.width, layout.height, fill=False, edgecolor="#808080", linewidth=0.8)
    axes.add_patch(frame)
    _write(axes, left + PADDING, top + PADDING + LINE / 2, fit_text(title, layout.width - 2 * PADDING, BOLD), BOLD)


def _draw_view(axes: Axes, left: float, top: float, side: float, pixels: Tensor, text: str, target: list[Bar]) -> None:
    """Draw pixels [H, W, C] as a square, with a line of text and the target below."""
    bottom = top + side
    extent = (left, left + side, bottom, top)
    image = pixels.squeeze(-1).numpy()
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    _write(axes, left, bottom + LINE / 2, fit_text(text, side))
    _draw_bars(axes, left, bottom + LINE, side, target)


def _draw_bars(axes: Axes, left: float, top: float, side: float, target: list[Bar]) -> None:
    """Draw the bars of a target, one a line; probability 1 is as long as the view is wide."""
    middles = [top + (row + 0.5) * LINE for row in range(len(target))]
    lengths, colors = [side * bar.probability for bar in target], [bar.color for bar in target]
    axes.barh(middles, side, left=left, height=0.9 * LINE, color=EMPTY)
    axes.barh(middles, lengths, left=left, height=0.9 * LINE, color=colors)
    for middle, bar in zip(middles, target, strict=True):
        value = f": {100 * bar.probability:.1f} %"
        name = fit_text(bar.name, side - PADDING - _width(value))
        _write(axes, left + PADDING / 2, middle, name + value)


def _write(axes: Axes, left: float, middle: float, text: str, font: FontProperties = FONT) -> None:
    axes.text(left, middle, text, fontproperties=font, va="center_baseline", parse_math=False)


def _width(text: str, font: FontProperties = FONT) -> float:
    """Return the width of a text in inches."""
    points: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return points / 72
