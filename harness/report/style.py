"""How figures look: sizes for a paper's column, colours that colour-blind readers tell apart, files that do not change.

Nothing here is global: a figure is a :class:`matplotlib.figure.Figure` of its own, drawn under :data:`STYLE`.
"""

from __future__ import annotations

import hashlib
import io
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

COLUMN = 3.3
"""Width of a paper's column in inches."""

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#000000", "#8C6D1F", "#882255",
)  # fmt: skip
"""Okabe and Ito's palette, its yellow darkened to show on white, and two more that colour-blind readers tell apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (2, 1, 2, 1, 1, 1)))
SAMPLER_LINES = {"ancestral": LINES[0], "ddim": LINES[1], "dpmpp_2m": LINES[2], "heun": LINES[3]}
"""A sampler's dashes, the same in every figure that tells samplers apart."""
FILLS = ("full", "none", "left", "bottom")
"""Of markers."""
SHADES = (1.0, 0.55, 0.3)
"""Shares of a colour in its mixture with white."""


@dataclass(frozen=True)
class Look:
    """What a method looks like."""

    colour: str
    marker: str
    line: Any


METHODS = {
    "base": Look(COLOURS[0], "o", LINES[0]),
    "dual-rate": Look(COLOURS[1], "s", LINES[1]),
    "shrunk": Look(COLOURS[2], "^", LINES[2]),
    "cached": Look(COLOURS[3], "D", LINES[3]),
    "edm": Look(COLOURS[4], "v", LINES[4]),
    "base-heun": Look(COLOURS[5], "P", LINES[1]),
    "convolutional": Look(COLOURS[6], "X", LINES[2]),
    "base-guided": Look(COLOURS[7], "*", LINES[3]),
    "dual-rate-guided": Look(COLOURS[8], "X", LINES[4]),
}
"""The methods of this project's sweeps, by arm: each looks the same in every figure of every report."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "figure.dpi": 200.0,
    "pdf.fonttype": 42,
    "path.simplify": True,
    "text.usetex": False,
    "text.parse_math": False,  # a label is what a person wrote, not a formula
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under :data:`STYLE` whatever the caller's settings are, and leave those as they were; nothing of what is
    written beside the axes is cut off."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            keep_within(figure)
            return figure

    return wrapper


EDGE = 0.01
"""Inches that are left free at a figure's edge where something would reach beyond it."""
MOST_MOVES = 4


def keep_within(figure: Figure) -> None:
    """Break axis labels that are longer than there is room, and move the axes in, or make the figure higher, where
    ticks and labels would reach beyond the figure or into the legend below. What fits stays as it is."""
    drawn = [axes for axes in figure.axes if axes.axison]
    if not drawn:
        return
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in drawn:
        middle = (axes.bbox.x0 + axes.bbox.x1) / 2
        _break(axes.xaxis.label, 2 * min(middle, figure.bbox.width - middle), False, renderer)
        _break(axes.yaxis.label, axes.bbox.height, True, renderer)
    for text in figure.texts:  # the label of several axes
        _break(text, figure.bbox.height, text.get_rotation() == 90, renderer)
    for _ in range(MOST_MOVES):  # a tick that moves with its axes may reach out again
        over = _beyond(figure, drawn, renderer)
        if not any(over):
            break
        _with_margins(figure, *over)


def _beyond(figure: Figure, drawn: Sequence[Axes], renderer: RendererBase) -> tuple[float, float, float, float]:
    """How far, in inches, axes reach beyond the figure, or into its legend: left, right, below, above; 0 where they
    do not."""
    boxes = [_outer_box(axes, renderer) for axes in drawn]
    floor = max((legend.get_window_extent(renderer).y1 for legend in figure.legends), default=0.0)
    over = (
        -min(box.x0 for box in boxes),
        max(box.x1 for box in boxes) - figure.bbox.width,
        floor - min(box.y0 for box in boxes),
        max(box.y1 for box in boxes) - figure.bbox.height,
    )
    left, right, below, above = (pixels / figure.dpi + EDGE if pixels > 0 else 0.0 for pixels in over)
    return left, right, below, above


def _outer_box(axes: Axes, renderer: RendererBase) -> Bbox:
    """Axes with their ticks, labels, titles and what is written in them, in pixels."""
    texts = [part for part in axes.get_children() if isinstance(part, Text) and part.get_text()]
    found = [box for part in (axes.xaxis, axes.yaxis, *texts) if (box := part.get_tightbbox(renderer)) is not None]
    return Bbox.union([axes.bbox.frozen(), *found])


def _break(label: Text, room: float, upright: bool, renderer: RendererBase) -> None:
    """Break a text over as many lines as it needs in `room` pixels."""
    words = label.get_text()
    box = label.get_window_extent(renderer)
    size = box.height if upright else box.width
    if words and size > room:
        label.set_text(textwrap.fill(words, max(int(len(words) * room / size), 8), break_on_hyphens=False))


def _with_margins(figure: Figure, left: float, right: float, below: float, above: float) -> None:
    """Move all axes in by so many inches from the left and the right, and make room below and above them."""
    width, height = figure.get_size_inches()
    inches = {axes: axes.get_position() for axes in figure.axes}
    outer_left = min(box.x0 for box in inches.values())
    outer_right = max(box.x1 for box in inches.values())
    shrunk = (outer_right - outer_left - (left + right) / width) / (outer_right - outer_left)
    higher = height + below + above
    for axes, box in inches.items():
        x0 = outer_left + left / width + (box.x0 - outer_left) * shrunk
        y0 = (box.y0 * height + below) / higher
        axes.set_position((x0, y0, box.width * shrunk, box.height * height / higher))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((x, (y * height + below) / higher))
    figure.set_size_inches(width, higher)


@dataclass(frozen=True)
class Palette:
    """One look per arm, the same in every figure of every report: by the arm's name.

    An arm that :data:`METHODS` does not name gets a colour, a marker and dashes that its name alone chooses, or the
    next ones that no other arm of the report has.
    """

    arms: tuple[str, ...]

    @cached_property
    def looks(self) -> dict[str, Look]:
        found = {arm: METHODS[arm] for arm in self.arms if arm in METHODS}
        for arm in sorted(set(self.arms) - set(found)):
            found[arm] = _chosen(arm, list(found.values()))
        return found

    def colour(self, arm: str) -> str:
        return self.looks[arm].colour

    def marker(self, arm: str) -> str:
        return self.looks[arm].marker

    def line(self, arm: str) -> Any:
        return self.looks[arm].line


def _chosen(arm: str, taken: Sequence[Look]) -> Look:
    digest = hashlib.sha256(arm.encode()).digest()
    colours, markers, lines = (_rotated(c, digest[i]) for i, c in enumerate((COLOURS, MARKERS, LINES)))
    used = Counter((look.colour, look.marker) for look in taken)
    of_colour, of_marker = Counter(look.colour for look in taken), Counter(look.marker for look in taken)
    pairs = [(colour, marker) for colour in colours for marker in markers]
    colour, marker = min(pairs, key=lambda pair: (used[pair], of_colour[pair[0]], of_marker[pair[1]]))
    return Look(colour, marker, lines[0])


def _rotated(choices: Sequence[Any], start: int) -> list[Any]:
    begin = start % len(choices)
    return [*choices[begin:], *choices[:begin]]


def shaded(colour: str, share: float) -> str:
    """`colour` mixed with white."""
    if share == 1:
        return colour
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def column_figure(axes_height: float, legend: Sequence[Line2D] = (), title: str = "") -> tuple[Figure, Axes]:
    """A figure of column width with one axes and, below it, `legend` in as many columns as fit. Sizes in inches."""
    columns = _columns_of(legend)
    below = 0.42 + _legend_height(legend, columns)
    above = 0.2 if title else 0.08
    height = axes_height + below + above
    figure = Figure(figsize=(COLUMN, height))
    axes = figure.add_axes((0.5 / COLUMN, below / height, 1 - 0.58 / COLUMN, axes_height / height))
    if title:
        axes.set_title(title, loc="left", pad=3)
    _put_legend(figure, legend, columns)
    return figure, axes


LEGEND_LETTERS = 46
"""Letters of a label of the legend in one line."""


def _columns_of(legend: Sequence[Line2D]) -> int:
    """As many columns as fit; labels that are longer than a line are broken."""
    for handle in legend:
        handle.set_label(textwrap.fill(str(handle.get_label()), LEGEND_LETTERS))
    longest = max((len(str(handle.get_label())) for handle in legend), default=0)
    return max(1, min(len(legend), int((COLUMN - 0.1) / (0.42 + 0.052 * longest)))) if legend else 1


def _legend_height(legend: Sequence[Line2D], columns: int) -> float:
    """In inches."""
    labels = [str(handle.get_label()) for handle in legend]
    rows = [labels[i : i + columns] for i in range(0, len(labels), columns)]
    lines = sum(max(label.count("\n") + 1 for label in row) for row in rows)
    return 0.13 * lines + 0.08 if legend else 0.0


def _put_legend(figure: Figure, legend: Sequence[Line2D], columns: int) -> None:
    if not legend:
        return
    figure.legend(
        handles=list(legend),
        loc="lower center",
        ncols=columns,
        borderaxespad=0.2,
        handlelength=2.0,
        columnspacing=1.0,
        handletextpad=0.5,
        labelspacing=0.25,
    )


PICTURE_LETTERS = 32
"""Letters of the title of a small picture in one line."""


def small_multiples(titles: Mapping[str, str], legend: Sequence[Line2D] = ()) -> tuple[Figure, dict[str, Axes]]:
    """A figure of column width with one small axes per title, two beside each other, and `legend` below. In inches."""
    columns, left, right, gap, tall = _columns_of(legend), 0.5, 0.08, 0.1, 0.85
    wrapped = {key: "\n".join(textwrap.wrap(title, PICTURE_LETTERS)) for key, title in titles.items()}
    keys = list(wrapped)
    rows = [keys[i : i + 2] for i in range(0, len(keys), 2)]
    heads = [0.06 + 0.11 * max(wrapped[key].count("\n") + 1 for key in row) for row in rows]
    below = 0.42 + _legend_height(legend, columns)
    height = sum(heads) + tall * len(rows) + below
    wide = (COLUMN - left - right - gap) / 2
    figure, top = Figure(figsize=(COLUMN, height)), height
    pictures: dict[str, Axes] = {}
    for row, head in zip(rows, heads, strict=True):
        top -= head + tall
        for place, key in enumerate(row):
            place_left = left + place * (wide + gap)
            axes = figure.add_axes((place_left / COLUMN, top / height, wide / COLUMN, tall / height))
            axes.set_title(wrapped[key], loc="left", pad=2, fontsize=6.5, linespacing=1.0)
            pictures[key] = axes
    _put_legend(figure, legend, columns)
    return figure, pictures


def label_outside(figure: Figure, pictures: Sequence[Axes]) -> None:
    """Leave numbers and labels of axes that are alike to the outermost of :func:`small_multiples`, and the label of the
    vertical axes to one beside them all."""
    for i, axes in enumerate(pictures):
        if i + 2 < len(pictures):
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
        if i % 2:
            axes.tick_params(labelleft=False)
    boxes = [axes.get_position() for axes in pictures]
    middle = (max(box.y1 for box in boxes) + min(box.y0 for box in boxes)) / 2
    size = matplotlib.rcParams["axes.labelsize"]
    figure.text(0.02, middle, pictures[0].get_ylabel(), rotation=90, va="center", ha="left", fontsize=size)
    for axes in pictures:
        axes.set_ylabel("")


def log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers: enough of them, and none that runs into the next."""
    low, high = axes.dataLim.intervalx if which == "x" else axes.dataLim.intervaly
    if not 0 < low <= high < math.inf:
        return
    axis = axes.xaxis if which == "x" else axes.yaxis
    margin = 0.05 * (math.log(high) - math.log(low)) or math.log(1.25)
    low, high = math.exp(math.log(low) - margin), math.exp(math.log(high) + margin)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high, apart=0.11 if which == "x" else 0.07)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_locator(NullLocator())


TICKS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
"""Multiples of a power of ten that an axis names, from few to many."""
ENOUGH_TICKS = 4


def log_ticks(low: float, high: float, apart: float) -> list[float]:
    """Round numbers from `low` to `high`, on a logarithmic axis at least the share `apart` of its length apart."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    least = apart * (math.log(high) - math.log(low))
    kept: list[float] = []
    for multiples in (*TICKS, None):
        if multiples is None:  # a narrow range
            ticks = list(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        else:
            ticks = [float(f"{multiple}e{decade}") for decade in decades for multiple in multiples]
        kept = []
        for tick in ticks:
            if low <= tick <= high and (not kept or math.log(tick) - math.log(kept[-1]) >= least):
                kept.append(tick)
        if len(kept) >= ENOUGH_TICKS:
            break
    return kept


def png(figure: Figure) -> bytes:
    """The figure as PNG, with nothing in the file that depends on when or by what it was drawn."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, with nothing in the file that depends on when or by what it was drawn."""
    # Imported here since its fonts' library takes long to load, and a large report needs it in its second process only.
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    buffer = io.BytesIO()
    resolution = figure.dpi
    with matplotlib.rc_context(STYLE):
        FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    # A PDF is drawn at 72 points per inch, which would stay.
    figure.dpi = resolution
    return buffer.getvalue()
