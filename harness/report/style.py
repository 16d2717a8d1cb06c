"""How figures look: sizes for a paper's column, colours that colour-blind readers tell apart, files that do not change.

Nothing here is global: a figure is a :class:`matplotlib.figure.Figure` of its own, drawn under :data:`STYLE`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLUMN = 3.3
"""Width of a paper's column in inches."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito's palette, its yellow darkened to show on white."""

OTHER_COLOURS = ("#332288", "#CC6677", "#117733", "#AA4499", "#7A7A1F", "#44AA99", "#882255", "#6699CC")
"""Tol's muted palette, for what is not an arm: a colour never means an arm in one figure and a sampler in the next."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (2, 1, 2, 1, 1, 1)))

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
    """Draw under :data:`STYLE` whatever the caller's settings are, and leave those as they were."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


@dataclass(frozen=True)
class Palette:
    """One colour and marker per arm, the same in every figure of a report."""

    arms: tuple[str, ...]

    def colour(self, arm: str) -> str:
        return COLOURS[self.arms.index(arm) % len(COLOURS)]

    def marker(self, arm: str) -> str:
        place = self.arms.index(arm)
        # Beyond the palette's end a colour comes again with another marker.
        return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def column_figure(axes_height: float, legend: Sequence[Line2D] = (), title: str = "") -> tuple[Figure, Axes]:
    """A figure of column width with one axes and, below it, `legend` in as many columns as fit. Sizes in inches."""
    longest = max((len(str(handle.get_label())) for handle in legend), default=0)
    columns = max(1, min(len(legend), int((COLUMN - 0.1) / (0.42 + 0.052 * longest)))) if legend else 1
    lines = -(-len(legend) // columns)
    below = 0.42 + (0.13 * lines + 0.08 if legend else 0)
    above = 0.2 if title else 0.08
    height = axes_height + below + above
    figure = Figure(figsize=(COLUMN, height))
    axes = figure.add_axes((0.5 / COLUMN, below / height, 1 - 0.58 / COLUMN, axes_height / height))
    if title:
        axes.set_title(title, loc="left", pad=3)
    if legend:
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
    return figure, axes


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
