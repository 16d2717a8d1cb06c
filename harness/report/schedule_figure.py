"""The figure of the noise schedules that trainings have found, from what their records keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.panel import Panel
from harness.report.reported import GREY
from harness.report.style import Palette, column_figure, styled
from harness.store.records import NoiseScheduleRecord

SCHEDULE_FIGURE = "noise-schedules"
SCHEDULE_CAPTION = (
    "Noise schedules that trainings have found, one line per training, beside the fixed one: the log-SNR λ against the "
    "schedule's own time, and the density over λ that training draws by."
)
TALL, GAP = 1.15, 0.42
Curve = tuple[tuple[float, ...], NoiseScheduleRecord]


def schedules(panel: Panel) -> dict[str, list[NoiseScheduleRecord]]:
    """By arm, the schedule of each of its trainings that has found one; an arm that another's trainings are of is left
    out."""
    found: dict[str, list[NoiseScheduleRecord]] = {}
    known: set[str] = set()
    for row in panel.measured:
        for record in row.records:
            if record.noise_schedule is not None and record.training not in known:
                known.add(record.training)
                found.setdefault(row.arm, []).append(record.noise_schedule)
    return found


def density(times: tuple[float, ...], log_snr: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(λ, density) of the middle of each piece of a schedule."""
    levels = np.array(log_snr)
    return (levels[1:] + levels[:-1]) / 2, np.diff(np.array(times)) / -np.diff(levels)


@styled
def schedule_figure(panel: Panel) -> Figure:
    """λ(t), and below it the density over λ."""
    found, palette = schedules(panel), Palette(panel.arms)
    labels = {row.arm: row.label for row in panel.measured}
    lines: list[tuple[Curve, dict[str, Any]]] = []
    processes = {(one.log_snr[0], one.log_snr[-1], one.knots): one for ones in found.values() for one in ones}
    for one in processes.values():
        lines.append(((one.process_times, one), {"color": GREY, "linewidth": 1.6, "zorder": 2}))
    for arm, ones in found.items():
        look = {"color": palette.colour(arm), "linestyle": palette.line(arm), "linewidth": 0.8, "zorder": 3}
        lines += [((one.times, one), look) for one in ones]
    legend = [Line2D([], [], color=GREY, linewidth=1.6, label="fixed")]
    legend += [Line2D([], [], color=palette.colour(a), linestyle=palette.line(a), label=labels[a]) for a in found]
    figure, curve = column_figure(2 * TALL + GAP, legend)
    densities = _stacked(figure, curve)
    for (times, one), look in lines:
        curve.plot(times, one.log_snr, **look)
        densities.plot(*density(times, one.log_snr), **look)
    curve.set(xlim=(0, 1), xlabel="time t", ylabel="log-SNR λ")
    densities.set(xlabel="log-SNR λ", ylabel="density over λ")
    densities.set_ylim(bottom=0)
    return figure


def _stacked(figure: Figure, axes: Axes) -> Axes:
    """Further axes in the lower half of the place of `axes`, which keeps the upper one. Sizes in inches."""
    height = figure.get_figheight()
    left, bottom, wide, _ = axes.get_position().bounds
    axes.set_position((left, bottom + (TALL + GAP) / height, wide, TALL / height))
    return figure.add_axes((left, bottom, wide, TALL / height))
