"""The errors of a network on pairs of times as a heat map, with schedules drawn on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.style import COLOURS, LINES, column_figure, styled

SHOWN = (COLOURS[7], COLOURS[1], COLOURS[3])
"""Colours that are seen on the map."""
MOST_SHOWN = 10.0
"""The largest ratio that has a colour of its own: at few levels the excess is thousands of times the loss."""


@dataclass(frozen=True)
class Drawn:
    """A schedule as the times of its steps and of their contexts."""

    times: Sequence[float]
    anchors: Sequence[float]


@styled
def schedule_map(times: Sequence[float], loss: Any, schedules: Mapping[str, Drawn], title: str) -> Figure:
    """ℓ(t, τ)/ℓ(t, t) for t ≤ τ, at the falling `times` (T,) of `loss` (T, T); of each schedule every step's (t, τ)."""
    looks = {
        name: (COLOURS[7 - 6 * (i % 2)] if i < 2 else COLOURS[i], LINES[i % len(LINES)])
        for i, name in enumerate(schedules)
    }
    legend = [Line2D([], [], color=colour, linestyle=line, label=name) for name, (colour, line) in looks.items()]
    figure, axes = column_figure(2.6, legend, title)
    ratio = np.asarray(loss) / np.diagonal(loss).clip(1e-30)[:, None]
    shown = np.ma.masked_where(np.triu(np.ones_like(ratio, dtype=bool), 1), np.log10(ratio.clip(1.0, MOST_SHOWN)))
    grid = np.asarray(times)[::-1]
    mesh = axes.pcolormesh(grid, grid, shown[::-1, ::-1].T, cmap="cividis", shading="nearest", vmin=0, vmax=1)
    bar = figure.colorbar(mesh, ax=axes, ticks=[0, np.log10(2), np.log10(5), 1])
    bar.ax.set_yticklabels(["1", "2", "5", f"≥ {MOST_SHOWN:g}"])
    axes.text(  # there τ is below t, and nothing is drawn
        0.98, 0.03, "colour: ℓ(t, τ) / ℓ(t, t)", transform=axes.transAxes, ha="right", va="bottom", fontsize="small"
    )
    for name, drawn in schedules.items():
        colour, line = looks[name]
        axes.step([*drawn.times, 0.0], [*drawn.anchors, drawn.anchors[-1]], where="post", color="white", linewidth=2.2)
        axes.step([*drawn.times, 0.0], [*drawn.anchors, drawn.anchors[-1]], where="post", color=colour, linestyle=line)
    axes.grid(visible=False)
    axes.set_xlabel("t of the step (1 is noise)")
    axes.set_ylabel("τ of its context")
    return figure
