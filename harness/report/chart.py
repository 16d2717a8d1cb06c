"""The frontier as a picture that one explores: distance against compute as SVG in the page, each point with its
settings and its first images. It reads without JavaScript; the page's script shows what a point holds."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.report.panel import Panel
from harness.report.rows import Row, short, show
from harness.report.shown import first_cell, frontier_rows
from harness.report.tables.numbers import number, with_spread
from harness.report.timing import untrusted

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 52
"""Margins of the axes, in the same units as the picture."""
MOST_POINTS = 500
"""With more rows than this only those on a frontier are drawn."""
STRIP_IMAGES, STRIP_SIDE = 8, 32
"""Images that a point shows, and the side in pixels that larger ones are reduced to."""


@dataclass(frozen=True)
class Point:
    """A row's place in the picture."""

    x: float
    y: float
    arm: str
    colour: str
    text: str
    """What it is, one fact a line."""
    row: int
    """Its line in the main table as it is written."""
    leads: bool
    """Whether none of its method's other rows is both cheaper and better."""
    strip: str
    """Its first images as a PNG in base64; empty where there are none."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """All that the template draws."""

    points: tuple[Point, ...]
    lines: tuple[tuple[str, str], ...]
    """(colour, points as SVG writes them) of each method's frontier."""
    legend: tuple[tuple[str, str], ...]
    """(colour, label) of each method."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    caption: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM
    right: int = WIDTH - RIGHT
    top: int = TOP


class Axis:
    """From values to places between `begin` and `end`; by logarithms where all values are positive."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.log = min(values) > 0
        low, high = (self._scaled(value) for value in (min(values), max(values)))
        margin = 0.06 * (high - low) or 0.1 * (abs(low) or 1)
        self.low, self.high, self.begin, self.end = low - margin, high + margin, begin, end

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self, most: int = 7) -> tuple[Tick, ...]:
        """Round values within the axis, at most so many."""
        return tuple(Tick(self(value), f"{value:.4g}") for value in self._round(most))

    def _round(self, most: int) -> list[float]:
        if not self.log:
            return _steps(self.low, self.high, most)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for mantissas in MANTISSAS:
            found = [m * 10.0**decade for decade in decades for m in mantissas]
            within = [value for value in found if self.low <= math.log10(value) <= self.high]
            if len(within) <= most:
                break
        return within if len(within) > 1 else _steps(10**self.low, 10**self.high, most)


MANTISSAS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
"""Of the marks of a logarithmic axis, the most first."""


def _steps(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`; `low` is not 0 on a logarithmic axis."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def chart(panel: Panel, samples: Mapping[str, np.ndarray]) -> Chart | None:
    """The picture of a panel's measured rows; None where fewer than two have a cost. `samples` are by cell id."""
    from harness.report.style import Palette  # imported here: it brings matplotlib, which is slow

    rows = {index: row for index, row in enumerate(panel.rows) if row.measured and row.gmacs > 0}
    if len(rows) < 2:
        return None
    leading = frontier_rows(panel)
    if len(rows) > MOST_POINTS:
        rows = {index: row for index, row in rows.items() if row in leading}
    palette = Palette(panel.arms)
    means = {row: panel.distances[row].mean for row in rows.values()}
    x = Axis([row.gmacs for row in rows.values()], LEFT, WIDTH - RIGHT)
    y = Axis(list(means.values()), HEIGHT - BOTTOM, TOP)
    points = [
        Point(
            x(row.gmacs),
            y(means[row]),
            row.arm,
            palette.colour(row.arm),
            _text(row, panel),
            index,
            row in leading,
            _strip(samples.get(first_cell(row))),
        )
        for index, row in rows.items()
    ]
    arms = [arm for arm in panel.arms if any(point.arm == arm for point in points)]
    labels = {row.arm: row.label for row in rows.values()}
    lines = [(palette.colour(arm), sorted((p.x, p.y) for p in points if p.arm == arm and p.leads)) for arm in arms]
    return Chart(
        tuple(sorted(points, key=lambda point: (point.leads, point.x))),  # frontiers last: on top, and cheapest first
        tuple((colour, " ".join(f"{at},{height}" for at, height in line)) for colour, line in lines),
        tuple((palette.colour(arm), labels[arm]) for arm in arms),
        x.ticks(),
        y.ticks(),
        f"compute, GMACs per image{', with the decoder' if panel.decodes else ''}",
        panel.distance,
        f"{panel.distance} against compute; filled: no other row of its method is cheaper and better. "
        "Point at one, or step through the filled ones with Tab, for its settings and images.",
    )


def _text(row: Row, panel: Panel) -> str:
    seconds = (
        f", {number(row.seconds)} s{' (not to be trusted)' if untrusted([row]) else ''}" if row.seconds > 0 else ""
    )
    settings = [f"{short(key)}: {show(value)}" for key, value in row.varied.items() if value is not None]
    lines = [
        row.name,
        f"{panel.distance}: {with_spread(panel.distances[row])}",
        f"per image: {number(row.gmacs)} GMACs{seconds}",
        "; ".join(settings),
    ]
    return "\n".join(line for line in lines if line)


def _strip(images: np.ndarray | None) -> str:
    """The first images side by side as a PNG in base64; (N, H, W) or (N, H, W, 3)."""
    if images is None or len(images) == 0:
        return ""
    shown = [Image.fromarray(image) for image in images[:STRIP_IMAGES]]
    if shown[0].width > STRIP_SIDE:
        shown = [image.resize((STRIP_SIDE, STRIP_SIDE), Image.Resampling.BOX) for image in shown]
    strip = Image.new(shown[0].mode, (sum(image.width for image in shown), shown[0].height))
    for place, image in enumerate(shown):
        strip.paste(image, (place * image.width, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
