"""Draw a sheet of the images of a training batch, each view with its target, as the model gets them."""

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
"""Images on a sheet: the first of the batch."""

MAX_CLASSES = 3
SMALLEST_SHOWN = 0.01
SMALLEST_REST = 0.0005
"""Classes named under a view, and the probability above which one is; what is left must not round to 0.0 %."""

OWN, ANOTHER, REST, EMPTY = "#7cc0ec", "#f4b13d", "#c4c4c4", "#f2f2f2"
"""Colours of the bars, the last of what a bar leaves empty: blue and orange differ for colour-blind eyes too, and black
text can be read on all of them."""

FONT = FontProperties(family="DejaVu Sans", size=8)  # matplotlib brings it
BOLD = FontProperties(family="DejaVu Sans", size=8, weight="bold")
TITLE = FontProperties(family="DejaVu Sans", size=12, weight="bold")

DPI = 120
WIDTH, HEADER, MARGIN, PADDING, LINE = 15.0, 0.6, 0.14, 0.08, 0.165
"""Inches: across the sheet, above the frames, between frames, inside a frame, from one line of text to the next."""

VIEWS_ACROSS = 8
"""Views side by side on a sheet, about: frames of one to three views hold them at nearly the same size."""


class Bar(NamedTuple):
    """One line of a target."""

    name: str
    probability: float
    color: str


def bars(target: Tensor, label: int, class_names: Sequence[str]) -> list[Bar]:
    """Return the classes of a target [K] above 1 %, at most three, the largest first, then the others together.

    Classes over which a share is spread evenly, as smoothing does, are among the others.
    """
    row: list[float] = target.tolist()
    least = min(fraction for k, fraction in enumerate(row) if k != label)
    even = [k for k, fraction in enumerate(row) if k != label and fraction < least + SMALLEST_REST]
    likely = [k for k, fraction in enumerate(row) if fraction > SMALLEST_SHOWN and (k not in even or len(even) == 1)]
    likely = sorted(likely, key=lambda k: -row[k])[:MAX_CLASSES]
    shown = [Bar(class_names[k], row[k], OWN if k == label else ANOTHER) for k in likely]
    rest = sum(row) - sum(bar.probability for bar in shown)
    return [*shown, Bar("others", rest, REST)] if rest >= SMALLEST_REST else shown


class Layout(NamedTuple):
    """Where the frames stand: sizes in inches, a frame is an image with its views side by side."""

    columns: int
    width: float  # of a frame
    height: float
    side: float  # of a view

    @classmethod
    def of(cls, num_views: int, num_bars: int) -> "Layout":
        """Fill the width of the sheet; a frame has a line for its title, one for the weight and `num_bars`."""
        columns = max(1, round(VIEWS_ACROSS / num_views))
        width = (WIDTH - MARGIN) / columns - MARGIN
        side = (width - PADDING) / num_views - PADDING
        return cls(columns, width, 2 * PADDING + side + (2 + num_bars) * LINE, side)

    def frame(self, n: int) -> tuple[float, float]:
        """Return left and top of the frame of image n."""
        row, column = divmod(n, self.columns)
        return MARGIN + column * (self.width + MARGIN), HEADER + row * (self.height + MARGIN)


def sheet(
    batch: Batch, labels: Tensor, class_names: Sequence[str], *, mean: list[float], std: list[float], title: str
) -> Figure:
    """Draw the first 16 images of a batch, a frame each, with its V views side by side.

    `labels` [N] are the images' own classes, `mean` and `std` [C] those by which they were normalised. Under a view
    stand its weight in the loss, the share of the image that is visible, where known, and its target as bars.
    """
    names = drawable_names(class_names)
    num_shown, num_views = min(len(labels), NUM_IMAGES), batch.weights.shape[1]
    own = labels[:num_shown].tolist()
    targets = [[bars(row, label, names) for row in batch.targets[n]] for n, label in enumerate(own)]
    pixels = denormalize(batch.images[:num_shown].cpu(), mean, std)
    layout = Layout.of(num_views, max(len(target) for views in targets for target in views))
    figure, drawing = _empty_sheet(layout.frame(num_shown - 1)[1] + layout.height + MARGIN)
    _draw_header(drawing, title, _legend(num_shown, len(labels), has_visible=batch.visible is not None))
    for n, label in enumerate(own):
        left, top = layout.frame(n)
        _draw_frame(drawing, left, top, layout, f"image {n + 1}, label {names[label]}")
        for view in range(num_views):
            at = (left + PADDING + view * (layout.side + PADDING), top + PADDING + LINE)
            _draw_view(drawing, *at, layout.side, pixels[n, view], facts(batch, n, view), targets[n][view])
    return figure


def denormalize(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Return images [..., C, H, W] as [..., H, W, C] on the scale from 0 to 1, clipped."""
    mean_of, std_of = images.new_tensor(mean), images.new_tensor(std)
    return (images.movedim(-3, -1) * std_of + mean_of).clamp(0, 1)


def facts(batch: Batch, n: int, view: int) -> str:
    """Say what a view weighs in the loss and, where the batch knows, how much of the image it shows."""
    text = f"weight {float(batch.weights[n, view]):.2f}"
    if batch.visible is None:
        return text
    return f"{text}, visible {100 * float(batch.visible[n, view]):.0f} %"


def drawable_names(names: Sequence[str]) -> list[str]:
    """Return the names of the classes, `class 3` in the place of one that the font has no letters for."""
    font = get_font(findfont(FONT))
    printed = [printable(name) for name in names]
    return [
        name if all(font.get_char_index(ord(letter)) for letter in name) else f"class {k}"
        for k, name in enumerate(printed)
    ]


def fit_text(text: str, width: float, font: FontProperties = FONT) -> str:
    """Return a text that is at most `width` inches wide, the end of a longer one cut off."""
    if _width(text, font) <= width:
        return text
    count = bisect(range(len(text)), width, key=lambda length: _width(f"{text[:length]}…", font)) - 1
    return f"{text[: max(count, 0)]}…"


def save(figure: Figure, path: Path, *, force: bool = False) -> None:
    """Write a picture as PNG, all or nothing; `force` replaces a file that is there.

    Raises:
        OutputError: the file cannot be written, or must not be.
        TakenError: it is there, and nothing forces.
    """
    with output_file(path, force=force) as file:
        figure.savefig(file, format="png", metadata={"Software": None})  # the same picture is the same file


def _empty_sheet(height: float) -> tuple[Figure, Axes]:
    """Return a sheet whose coordinates are inches from its top left corner."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    drawing = figure.add_axes((0, 0, 1, 1), autoscale_on=False, xlim=(0, WIDTH), ylim=(height, 0))
    drawing.set_axis_off()
    return figure, drawing


def _legend(num_shown: int, num_images: int, *, has_visible: bool) -> str:
    images = f"The first {num_shown} of the {num_images} images of the batch"
    visible = " Visible: how much crop and erased boxes leave of the image." if has_visible else ""
    return f"{images}, as the model gets them. Weight: of the view in the loss.{visible} Bars: target of the view"


def _draw_header(drawing: Axes, title: str, legend: str) -> None:
    """Write the title, and the legend with the colours of the bars."""
    _write(drawing, MARGIN, 0.22, fit_text(title, WIDTH - 2 * MARGIN, TITLE), TITLE)
    middle, left = 0.46, MARGIN
    _write(drawing, left, middle, legend)
    left += _width(legend) + PADDING
    for color, name in ((OWN, "the image's label"), (ANOTHER, "another class"), (REST, "all other classes")):
        drawing.add_patch(Rectangle((left, middle - 0.45 * LINE), LINE, 0.9 * LINE, facecolor=color))
        _write(drawing, left + LINE + PADDING / 2, middle, name)
        left += LINE + _width(name) + 2 * PADDING


def _draw_frame(drawing: Axes, left: float, top: float, layout: Layout, title: str) -> None:
    frame = Rectangle((left, top), layout.width, layout.height, fill=False, edgecolor="#808080", linewidth=0.8)
    drawing.add_patch(frame)
    _write(drawing, left + PADDING, top + PADDING + LINE / 2, fit_text(title, layout.width - 2 * PADDING, BOLD), BOLD)


def _draw_view(
    drawing: Axes, left: float, top: float, side: float, pixels: Tensor, text: str, target: list[Bar]
) -> None:
    """Draw pixels [H, W, C] as a square, a line of text under it, and the target."""
    bottom = top + side
    extent = (left, left + side, bottom, top)
    image = pixels.squeeze(-1).numpy()
    drawing.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    _write(drawing, left, bottom + LINE / 2, fit_text(text, side))
    _draw_bars(drawing, left, bottom + LINE, side, target)


def _draw_bars(drawing: Axes, left: float, top: float, side: float, target: list[Bar]) -> None:
    """Draw a target, a line for each bar; probability 1 is as long as the view is wide."""
    middles = [top + (row + 0.5) * LINE for row in range(len(target))]
    lengths, colors = [side * bar.probability for bar in target], [bar.color for bar in target]
    drawing.barh(middles, side, left=left, height=0.9 * LINE, color=EMPTY)
    drawing.barh(middles, lengths, left=left, height=0.9 * LINE, color=colors)
    for middle, bar in zip(middles, target, strict=True):
        value = f": {100 * bar.probability:.1f} %"
        name = fit_text(bar.name, side - PADDING - _width(value))
        _write(drawing, left + PADDING / 2, middle, name + value)


def _write(drawing: Axes, left: float, middle: float, text: str, font: FontProperties = FONT) -> None:
    drawing.text(left, middle, text, fontproperties=font, va="center_baseline", parse_math=False)


def _width(text: str, font: FontProperties = FONT) -> float:
    """Return the width of a text in inches."""
    points: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return points / 72
