"""Define the style of figures, and write them."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO, Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

COLORS = ("#2c96f2", "#f26100", "#9a24ff", "#a34c34", "#5c6a9a", "#b08c8c")
"""Each has a contrast of 3 or more to a white and to a dark page. Any two differ by 27 or more in CIELAB, also with
simulated color blindness (Machado et al. 2009). Found by search."""
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v")
"""Dashes and markers change after each cycle of colors."""

INK, GRID = "#000001", "#808080"  # a unique color, which the page replaces by that of its text
DPI, WIDTH, LINE = 120, 9.0, 0.21  # inches: width of a figure, height of a line of a name
NAME_WIDTH = 36  # characters of a name on one line

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a name may contain dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
}


class LineStyle(NamedTuple):
    """The style of a variant's line, equal in all figures."""

    color: str
    dashes: str
    marker: str


@contextmanager
def figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    """Create a figure of a height in inches with one axes, in our style."""
    with figures(height, 1) as (drawn, (axes,)):
        yield drawn, axes


@contextmanager
def figures(height: float, num_axes: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Create a figure of a height in inches with several axes side by side, in our style."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        yield drawn, [drawn.add_subplot(1, num_axes, place + 1) for place in range(num_axes)]


def line_styles(num_variants: int) -> Iterator[LineStyle]:
    """Yield the line style of each variant."""
    for number in range(num_variants):
        cycle, color = divmod(number, len(COLORS))
        yield LineStyle(COLORS[color], DASHES[cycle % len(DASHES)], MARKERS[cycle % len(MARKERS)])


def lines(name: str) -> str:
    """Wrap a name to lines of NAME_WIDTH characters; question marks replace letters that the font lacks."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    drawable = "".join(letter if font.get_char_index(ord(letter)) else "?" for letter in name)
    return "\n".join(textwrap.wrap(drawable, NAME_WIDTH)) or "?"


def save(figure: Figure, file: IO[bytes]) -> None:
    """Write a figure to an open file, as PNG of 256 colors on white; equal figures give equal files."""
    buffer = BytesIO()
    render(figure, buffer, format="png", dpi=DPI)
    with Image.open(buffer) as image:
        quantized = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)  # a third of the size
        quantized.save(file, format="png", optimize=True)


def render(figure: Figure, file: IO[Any], **options: Any) -> None:
    """Write a figure in our style, which matplotlib needs again to create the ticks."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, **options)
