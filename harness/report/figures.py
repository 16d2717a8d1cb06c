"""The figures of a report. Each function takes rows and returns a :class:`matplotlib.figure.Figure`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from harness.config.methods import known_methods
from harness.report.bought import Bought
from harness.report.frontier import COSTS, Comparison, Cost, pareto
from harness.report.noise import Distance, Z
from harness.report.panel import Panel
from harness.report.reported import GREY
from harness.report.rows import REFRESH_KEYS, Rank, Row, rank, short, show_setting, varied_keys
from harness.report.style import (
    COLUMN,
    FILLS,
    LINES,
    SAMPLER_LINES,
    SHADES,
    Palette,
    column_figure,
    label_outside,
    log_axis,
    shaded,
    small_multiples,
    styled,
)
from harness.report.tables.numbers import setting_without

AXES = {"gmacs": "compute, GMACs per image", "seconds": "time, seconds per image"}
WITH_DECODER = ", with the decoder"
"""What an axis says of costs that hold the decoding of latents."""
MOST_ERROR_BARS = 400
"""With more points than this, error bars would cover the points."""

LETTER = 0.055
"""Width in inches of a letter of a tick's text, with what keeps it from the next."""
WIDEST_TICK = 14
"""Letters of a line below a tick; a list of steps is broken over several."""


@styled
def frontier_figure(panel: Panel, cost: Cost = "gmacs", reported: Sequence[tuple[str, float, float]] = ()) -> Figure:
    """Distance against cost, every measured row, with each arm's frontier as a line.

    `reported` are (label, cost, distance) from the literature, for the same data, N and features as the panel's.
    """
    palette, summaries = Palette(panel.arms), panel.distances
    by_arm = {arm: [r for r in panel.measured if r.arm == arm and COSTS[cost](r) > 0] for arm in panel.arms}
    by_arm = {arm: rows for arm, rows in by_arm.items() if rows}
    legend = [
        Line2D(
            [], [], color=palette.colour(a), marker=palette.marker(a), linestyle=palette.line(a), label=rows[0].label
        )
        for a, rows in by_arm.items()
    ]
    if reported:
        legend.append(Line2D([], [], color=GREY, marker="x", linestyle="", label="reported, not measured here"))
    figure, axes = column_figure(2.1, legend)
    total = sum(map(len, by_arm.values()))
    for arm, rows in by_arm.items():
        costs = np.array([COSTS[cost](row) for row in rows])
        values = [summaries[row] for row in rows]
        means = np.array([value.mean for value in values])
        colour, marker = palette.colour(arm), palette.marker(arm)
        line = pareto(costs, -means if panel.higher_is_better else means)
        if total <= MOST_ERROR_BARS:
            _error_bars(axes, costs, values, colour)
        few = total <= MOST_ERROR_BARS
        axes.plot(
            costs,
            means,
            marker,
            markeredgecolor=colour,
            markerfacecolor="white" if few else colour,
            markeredgewidth=0.6 if few else 0,
            markersize=2.8 if few else 1.5,
            alpha=0.75 if few else 0.2,
            zorder=2,
            rasterized=len(rows) > 1000,
        )
        axes.plot(
            costs[line],
            means[line],
            marker=marker,
            color=colour,
            linestyle=palette.line(arm),
            zorder=3,
            markersize=3.8 if len(line) < 30 else 2,
            gid="frontier",
        )
    for label, x, y in reported:
        axes.plot([x], [y], "x", color=GREY, zorder=3)
        axes.annotate(label, (x, y), xytext=(3, 2), textcoords="offset points", fontsize=5.5, color=GREY)
    log_axis(axes, "x")
    _distance_axis(axes, panel)
    axes.set_xlabel(AXES[cost] + (WITH_DECODER if panel.decodes else ""))
    return figure


@styled
def against_figure(
    panel: Panel,
    key: str,
    rows: Sequence[Row] | None = None,
    label: str | None = None,
    kinds: Mapping[str, str] | None = None,
    base: str | None = None,
) -> Figure:
    """Distance against one varied key: a line joins the rows that differ in nothing else.

    Colour and marker stand for the arm; dashes, the markers' filling and the colour's shade for the other varied keys,
    as far as there are enough of them. Dashes that no key needs stand for the arm. More than :data:`MOST_TOGETHER` arms
    have a picture each, with the rows of the arm `base`, the first unless named, in grey behind.
    """
    kinds = kinds or {}
    measured = [row for row in (panel.measured if rows is None else rows) if row.measured]
    chosen = [row for row in measured if row.has(key) or value_of(row, key) is not None]
    looks = looks_of(chosen, key, Palette(panel.arms), kinds)
    if len(looks.arms) > MOST_TOGETHER:
        base = base or panel.arms[0]
        figure, pictures = small_multiples(
            {arm: name for arm, name in looks.arms.items() if arm != base}, looks.legend_beside(base)
        )
    else:
        figure, axes = column_figure(1.9, looks.legend)
        pictures, base = dict.fromkeys(looks.arms, axes), None
    places = _places([value_of(row, key) for row in chosen])
    few = len(chosen) <= MOST_ERROR_BARS
    for axes in dict.fromkeys(pictures.values()):
        behind = [row for row in chosen if row.arm == base]
        _draw_against(axes, panel, key, behind, replace(looks, grey=True), places, few=False)
        own = [row for row in chosen if pictures.get(row.arm) is axes]
        _draw_against(axes, panel, key, own, looks, places, few)
    limits = np.concatenate([axes.dataLim.get_points() for axes in pictures.values()])
    for axes in dict.fromkeys(pictures.values()):
        axes.update_datalim([limits.min(axis=0), limits.max(axis=0)])  # the same for all
        if key in DERIVED:
            log_axis(axes, "x")
        else:
            _value_axis(axes, [value_of(row, key) for row in chosen], places)
        _distance_axis(axes, panel)
        axes.set_xlabel(label or kinds.get(key) or words(key))
        if base is not None:
            axes.set_xlim(*_with_margin(limits[:, 0], axes.get_xscale()))
    if base is not None:
        label_outside(figure, list(pictures.values()))
    return figure


MOST_TOGETHER = 6
"""Arms whose lines are told apart in one picture."""


def _draw_against(
    axes: Axes, panel: Panel, key: str, rows: Sequence[Row], looks: Looks, places: Mapping[Rank, float], few: bool
) -> None:
    """The lines of `rows` and, where they are `few`, their markers and error bars."""
    summaries = panel.distances
    for style, lines in _lines(rows, key, looks).items():
        xs: list[float] = []
        ys: list[float] = []
        errors: list[tuple[float, Distance]] = []
        for line in lines:
            ordered = sorted(line, key=lambda row: places[rank(value_of(row, key))])
            xs += [*(places[rank(value_of(row, key))] for row in ordered), math.nan]
            ys += [*(summaries[row].mean for row in ordered), math.nan]
            errors += [(places[rank(value_of(row, key))], summaries[row]) for row in ordered]
        if few:
            axes.plot(xs, ys, **style.line, alpha=0.9)
            _error_bars(axes, np.array([x for x, _ in errors]), [d for _, d in errors], style.colour)
        elif looks.grey:
            axes.plot(xs, ys, color=style.colour, linestyle=style.dashes, linewidth=0.9, zorder=1.5)
        else:
            axes.plot(xs, ys, color=style.colour, linestyle=style.dashes, linewidth=0.5, alpha=0.4)


def _with_margin(values: np.ndarray, scale: str) -> tuple[float, float]:
    """The ends of an axis with a twentieth of its length beyond the outermost values."""
    low, high = float(values.min()), float(values.max())
    if scale == "log" and low > 0:
        factor = (high / low) ** 0.05 or 1.1
        return low / factor, high * factor
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


@styled
def bought_figure(panel: Panel, points: Sequence[Bought]) -> Figure:
    """Cost of sampling at equal quality against training added, both relative to the base's: one point per network.

    Compute is filled, time hollow and a little to the right; a line joins the networks of an arm. `points` all have
    their compute compared.
    """
    palette = Palette(panel.arms)
    arms = {point.arm: point.label for point in points}
    timed = any(point.shown_time for point in points)
    legend = [
        Line2D([], [], color=palette.colour(arm), marker=palette.marker(arm), linestyle="", label=label, markersize=4)
        for arm, label in arms.items()
    ]
    if timed:
        plain: dict[str, Any] = {"color": PLAIN, "marker": "o", "linestyle": "", "markersize": 4}
        legend += [
            Line2D([], [], **plain, fillstyle="full", label="compute"),
            Line2D([], [], **plain, fillstyle="none", label="time"),
        ]
    figure, axes = column_figure(2.0, legend)
    most = 100 * max(point.added for point in points)
    beside = 0.024 * most
    axes.axhline(1, color=PLAIN, linewidth=0.7, linestyle=(0, (1, 1.2)), zorder=0.5)
    for arm in arms:
        own = [point for point in points if point.arm == arm]
        look: dict[str, Any] = {"color": palette.colour(arm), "marker": palette.marker(arm)}
        compute = [(100 * point.added, point.compute) for point in own]
        time = [(100 * point.added + beside, point.shown_time) for point in own if point.shown_time]
        for fill, drawn in (("full", compute), ("none", time)):
            xs = [x for x, _ in drawn]
            costs = [_share_of_base(result) for _, result in drawn if result is not None]
            joined = palette.line(arm) if fill == "full" and len(set(xs)) == len(xs) else ""
            axes.plot(
                xs, [cost for cost, _, _ in costs], **look, fillstyle=fill, markersize=4.5, linestyle=joined,
                linewidth=0.8, markeredgewidth=0.8, zorder=3,
            )  # fmt: skip
            for x, (cost, low, high), (_, result) in zip(xs, costs, drawn, strict=True):
                axes.plot([x, x], [low, high], color=palette.colour(arm), linewidth=0.7, alpha=0.7, zorder=2)
                if result is not None and result.bound:
                    axes.annotate(
                        "", (x, cost / 1.25), (x, cost), zorder=2,
                        arrowprops={"arrowstyle": "->", "color": palette.colour(arm), "linewidth": 0.7},
                    )  # fmt: skip
    axes.set_xlim(-0.06 * most, 1.06 * most)
    log_axis(axes, "y")
    axes.set_xlabel("training compute added, % of the base's training")
    axes.set_ylabel(f"cost at equal {panel.distance}, × base")
    return figure


MOST_SHOWN = 10.0
"""Interval ends beyond this factor of the point itself are cut: nothing is known there."""


def _share_of_base(result: Comparison) -> tuple[float, float, float]:
    """(cost over the base's, its 95 % interval), the interval cut at :data:`MOST_SHOWN`."""
    cost, low, high = result.of_base
    return cost, max(low, cost / MOST_SHOWN), min(high, cost * MOST_SHOWN)


def words(key: str) -> str:
    """A dotted key as an axis' label."""
    return NAMES.get(key, short(key))


NAME_LETTERS = 72
"""Characters after which the name above a strip of samples is wrapped."""

PLAIN = "#444444"
"""Colour of legend entries that are not about colour."""

DERIVED = {"training_seconds": "train.steps", "training_gmacs": "train.steps"}
"""Quantities that an axis can show besides keys, and the key that each follows from."""

NAMES = {
    "training_seconds": "time of training, seconds",
    "training_gmacs": "compute of training, GMACs",
    "sample.refresh_interval": "refresh interval, steps",
    "sample.refreshes": "refreshes",
    "sample.steps": "steps",
    "model.light_width": "light width, relative to the encoder",
    "train.steps": "training steps",
    "train.context_dropout": "context dropout in training",
}


def file_word(key: str) -> str:
    """A dotted key as part of a file's name; prefixed if it is a training key, since sections share names."""
    section, _, last = key.rpartition(".")
    return f"{'training-' if section == 'train' else ''}{last.replace('_', '-')}"


def value_of(row: Row, key: str) -> Any:
    """Value of a dotted key, or of one of :data:`DERIVED`; None where the row has none."""
    if key not in DERIVED:
        return row.setting(key)
    value = getattr(row, key)
    return None if value is None or math.isnan(value) else value


def figure_keys(panel: Panel) -> dict[str, list[Row]]:
    """The keys worth a figure, each with its rows: those that take at least two values with all else equal."""
    rows_of_key: dict[str, list[Row]] = {}
    keys = [key for key in varied_keys(panel.measured) if key != "sample.sampler"]
    for key in keys:
        rows = [row for row in panel.measured if key in row.varied]
        by_setting: dict[Any, list[Row]] = {}
        for row in rows:
            by_setting.setdefault((row.arm, setting_without(row, key)), []).append(row)
        groups = [group for group in by_setting.values() if len({rank(row.varied[key]) for row in group}) > 1]
        paired = [row for group in groups for row in group]
        if paired:
            rows_of_key[key] = paired
    return rows_of_key


@styled
def sample_figure(lines: Sequence[tuple[str, np.ndarray]], scale: int = 1) -> Figure:
    """One strip of images per row, all from the same noise: column i shows image i.

    `lines` are (name, images): images uint8 (N, H, W) or (N, H, W, 3), with the same N and H.
    """
    shown = min(len(images) for _, images in lines)
    side, gap = COLUMN / shown, 0.03
    names = ["\n".join(textwrap.wrap(name, NAME_LETTERS, break_on_hyphens=False)) for name, _ in lines]
    texts = [0.05 + 0.1 * (name.count("\n") + 1) for name in names]
    height = sum(texts) + len(lines) * (side + gap)
    figure = Figure(figsize=(COLUMN, height))
    top = height
    for name, text, (_, images) in zip(names, texts, lines, strict=True):
        figure.text(0.004, (top - text + 0.035) / height, name, fontsize=6, va="bottom", ha="left", linespacing=1.1)
        axes = figure.add_axes((0, (top - text - side) / height, 1, side / height))
        top -= text + side + gap
        strip = np.concatenate([_framed(image) for image in images[:shown]], axis=1)
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
    return figure


def _framed(image: np.ndarray) -> np.ndarray:
    """The image with a white margin of a twelfth of its side on the right; small ones enlarged fourfold."""
    large = image.repeat(4, 0).repeat(4, 1) if image.shape[0] <= 32 else image
    margin = max(large.shape[1] // 12, 1)
    padding = ((0, 0), (0, margin), *[(0, 0)] * (large.ndim - 2))
    return np.pad(large, padding, constant_values=255)


@dataclass(frozen=True)
class Style:
    """How a line and its markers are drawn."""

    colour: str
    dashes: Any
    marker: str
    fill: str

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a plot."""
        return {
            "color": self.colour,
            "linestyle": self.dashes,
            "marker": self.marker,
            "fillstyle": self.fill,
            "markersize": 4.0,
            "markerfacecoloralt": "white",
            "markeredgecolor": self.colour,
            "markeredgewidth": 0.7,
        }


@dataclass(frozen=True)
class Encoding:
    """What the dashes, the filling or the shade stand for: appearance and label by the rank of a key's value."""

    key: str
    looks: dict[Rank, Any]
    labels: dict[Rank, str]


@dataclass(frozen=True)
class Looks:
    """How the rows of a figure are told apart."""

    palette: Palette
    arms: dict[str, str]
    """Arm → its name in print."""
    encodings: dict[str, Encoding]
    """By slot: dashes, fill, shade."""
    grey: bool = False
    """Whether all is drawn in grey, as what others are held against."""

    def of(self, row: Row) -> Style:
        shown = {
            slot: encoding.looks.get(rank(value_of(row, encoding.key))) for slot, encoding in self.encodings.items()
        }
        return self._style(row.arm, shown)

    def _style(self, arm: str, shown: Mapping[str, Any]) -> Style:
        return Style(
            GREY if self.grey else shaded(self.palette.colour(arm), shown.get("shade") or SHADES[0]),
            shown.get("dashes") or (LINES[0] if "dashes" in self.encodings else self.palette.line(arm)),
            self.palette.marker(arm),
            shown.get("fill") or FILLS[0],
        )

    @property
    def legend(self) -> list[Line2D]:
        """One entry per arm, and one per value of each encoding that has more than one, as the first arm shows it."""
        drawn = [Line2D([], [], **self._style(arm, {}).line, label=label) for arm, label in self.arms.items()]
        return [*drawn, *self._keys()]

    def legend_beside(self, base: str) -> list[Line2D]:
        """That of pictures with one arm each, all of them with `base` behind."""
        if base not in self.arms:
            return self._keys()
        return [*self._keys(), Line2D([], [], color=GREY, linewidth=0.9, label=f"{self.arms[base]}, in each")]

    def _keys(self) -> list[Line2D]:
        """The entries of the encodings."""
        drawn: list[Line2D] = []
        marker, grey = (self.palette.marker(next(iter(self.arms))) if len(self.arms) == 1 else "o"), PLAIN
        plain = Style(grey, LINES[0], marker, FILLS[0])
        for slot, encoding in self.encodings.items():
            for value, look in encoding.looks.items() if len(encoding.looks) > 1 else ():
                style = {
                    "dashes": replace(plain, dashes=look, marker=""),
                    "fill": replace(plain, fill=str(look), dashes=""),
                    "shade": replace(plain, colour=shaded(grey, float(look)) if slot == "shade" else grey, marker=""),
                }[slot]
                drawn.append(Line2D([], [], **style.line, label=encoding.labels[value]))
        return drawn


def looks_of(rows: Sequence[Row], key: str, palette: Palette, kinds: Mapping[str, str]) -> Looks:
    """Colour and marker for the arms; dashes, filling and shade, as far as needed, for what else varies besides `key`.

    A key with more values than there are dashes, fillings or shades gets none: only position tells its lines apart.
    Rows without a value of a key, such as a network that is never refreshed, look like none of its values.
    """
    labels = {row.arm: row.label for row in rows}
    hidden = {DERIVED.get(key, key), *(REFRESH_KEYS if key in REFRESH_KEYS else ())}
    first = ("sample.sampler", "sample.steps", *sorted(_telling_keys()))
    order = {k: place for place, k in enumerate(first)}
    keys = sorted((k for k in varied_keys(rows) if k not in hidden), key=lambda k: (order.get(k, len(order)), k))
    free: dict[str, Sequence[Any]] = {"dashes": LINES, "fill": FILLS, "shade": SHADES}
    encodings: dict[str, Encoding] = {}
    for varied in keys:
        having = [row for row in rows if row.has(varied)]
        values = {rank(value_of(row, varied)): value_of(row, varied) for row in having}
        if len(values) < 2:
            continue  # the arm says it
        plain = 1 if len(having) < len(rows) else 0  # the first look is that of rows without a value
        slot = next((slot for slot, looks in free.items() if len(values) <= len(looks) - plain), None)
        if slot is not None:
            encodings[slot] = _encoding(varied, values, free.pop(slot)[plain:], kinds, slot)
    return Looks(palette, {arm: labels[arm] for arm in palette.arms if arm in labels}, encodings)


def _telling_keys() -> set[str]:
    """The dotted keys by which the methods tell their own models apart."""
    return {f"model.{key}" for method in known_methods().values() for key in method.telling_keys}


def _encoding(
    key: str, values: Mapping[Rank, Any], looks: Sequence[Any], kinds: Mapping[str, str], slot: str
) -> Encoding:
    ordered = sorted(values)
    if key == "sample.sampler" and slot == "dashes":  # a sampler looks the same in every figure
        known = [SAMPLER_LINES[value] for value in values.values() if value in SAMPLER_LINES]
        rest = iter([look for look in looks if look not in known])
        chosen = {v: SAMPLER_LINES.get(values[v]) or next(rest) for v in ordered}
    else:
        chosen = dict(zip(ordered, looks, strict=False))
    name = "" if key == "sample.sampler" else f"{kinds.get(key) or short(key)} "
    return Encoding(key, chosen, {v: f"{name}{show_setting(values[v])}" for v in ordered})


def _lines(rows: Iterable[Row], key: str, looks: Looks) -> dict[Style, list[list[Row]]]:
    """Style → lines: the rows of a line differ in `key` alone."""
    grouped: dict[tuple[Style, Any], list[Row]] = {}
    for row in rows:
        without = setting_without(row, DERIVED.get(key, key))
        grouped.setdefault((looks.of(row), (row.arm, without)), []).append(row)
    lines: dict[Style, list[list[Row]]] = {}
    for (style, _), line in grouped.items():
        lines.setdefault(style, []).append(line)
    return lines


def _error_bars(axes: Axes, x: np.ndarray, distances: Sequence[Distance], colour: str) -> None:
    """95 % intervals of the distances: thin, behind the points."""
    errors = [min(Z * d.standard_error, 0.95 * abs(d.mean)) for d in distances]
    if any(errors):
        axes.errorbar(
            x, [d.mean for d in distances], yerr=errors, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.5, zorder=1
        )


def _places(values: Iterable[Any]) -> dict[Rank, float]:
    """The position of each value on the axis: of a number its value, of anything else its place in the order."""
    ranked = sorted({rank(value) for value in values})
    if all(kind == 0 for kind, _, _ in ranked):
        return {value: value[1] for value in ranked}
    return {value: float(i) for i, value in enumerate(ranked)}


def _value_axis(axes: Axes, values: Sequence[Any], places: Mapping[Rank, float]) -> None:
    texts = {places[rank(value)]: show_setting(value) for value in values}
    ticks = sorted(texts)
    numeric = all(rank(value)[0] == 0 for value in values)
    if numeric and ticks and ticks[0] > 0 and ticks[-1] / ticks[0] >= 4:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    if len(ticks) <= 9:
        if not numeric:
            axes.set_xlim(-0.4, len(ticks) - 0.6)
        _name_ticks(axes, texts)
    elif not numeric:
        axes.set_xlim(-0.4, len(ticks) - 0.6)


def _name_ticks(axes: Axes, texts: Mapping[float, str]) -> None:
    """Ticks at their places with their texts, of which none runs into the next: long ones are broken over lines, or set
    aslant where their words are too long for that; of numbers some go without."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    ticks, widest = sorted(texts), max(map(len, texts.values()), default=0)
    axes.get_xlim()  # from here on the limits are those of what is drawn
    places = axes.get_xaxis_transform().transform([(tick, 0.0) for tick in ticks])[:, 0] / figure.dpi
    apart = min(np.diff(places), default=math.inf)
    if widest * LETTER <= apart:
        axes.set_xticks(ticks, [texts[tick] for tick in ticks])
    elif all(text.replace(".", "").isdigit() for text in texts.values()):
        axes.set_xticks(ticks, _apart([texts[tick] for tick in ticks], places))
    elif max(len(word) for text in texts.values() for word in text.split()) * LETTER <= apart:
        letters = min(WIDEST_TICK, int(apart / LETTER))
        axes.set_xticks(ticks, [textwrap.fill(texts[tick], letters) for tick in ticks])
    else:
        axes.set_xticks(ticks, [texts[tick] for tick in ticks], rotation=30, ha="right", rotation_mode="anchor")


def _apart(texts: Sequence[str], places: np.ndarray) -> list[str]:
    """Texts, with nothing in place of those that would run into the last one before; `places` are in inches."""
    shown: list[str] = []
    end = -math.inf
    for text, place in zip(texts, places, strict=True):
        half = len(text) * LETTER / 2
        shown.append(text if place - half >= end else "")
        end = place + half if shown[-1] else end
    return shown


def _distance_axis(axes: Axes, panel: Panel) -> None:
    axes.set_ylabel(f"{panel.distance} (N = {panel.condition.images})" if panel.condition else "distance")
    if axes.dataLim.y0 > 0:  # a distance of zero has no logarithm
        log_axis(axes, "y")
