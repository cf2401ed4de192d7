"""How the figures of a study look, and how they are written."""

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
"""Found by search: each has a contrast of at least 3 to a white and to a dark page, and any two lie at least 27 apart
in CIELAB, also as eyes see them that lack one kind of cone (Machado et al. 2009)."""
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v")
"""Told apart by these too, after each round of colours."""

INK, GRID = "#000001", "#808080"  # an ink of its own, which the page replaces by the colour of its text
DPI, WIDTH, LINE = 120, 9.0, 0.21  # inches: of a figure, from one line of a name to the next
NAME_WIDTH = 36  # letters of a name on one line

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
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
}


class LineStyle(NamedTuple):
    """How a variant is drawn, in every figure alike."""

    color: str
    dashes: str
    marker: str


@contextmanager
def figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    """Make a figure of a height in inches with one pair of axes, to be drawn in our style."""
    with figures(height, 1) as (made, (axes,)):
        yield made, axes


@contextmanager
def figures(height: float, number: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure of a height in inches with pairs of axes side by side, to be drawn in our style."""
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        yield made, [made.add_subplot(1, number, place + 1) for place in range(number)]


def line_styles(num_variants: int) -> Iterator[LineStyle]:
    """Yield how each variant is drawn."""
    for number in range(num_variants):
        turn, color = divmod(number, len(COLORS))
        yield LineStyle(COLORS[color], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)])


def lines(name: str) -> str:
    """Return a name in lines that fit, letters that the font lacks as question marks."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    drawable = "".join(letter if font.get_char_index(ord(letter)) else "?" for letter in name)
    return "\n".join(textwrap.wrap(drawable, NAME_WIDTH)) or "?"


def save(figure: Figure, file: IO[bytes]) -> None:
    """Write a figure to an open file, as PNG on white, of 256 colours; the same figure is the same file."""
    drawn = BytesIO()
    render(figure, drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)  # a third of the size
        few.save(file, format="png", optimize=True)


def render(figure: Figure, file: IO[Any], **options: Any) -> None:
    """Write a figure in our style, in which ticks are made only now."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, **options)
