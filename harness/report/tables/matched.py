"""Costs at equal quality: one line per method and target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from harness.report.frontier import Comparison
from harness.report.panel import Panel
from harness.report.tables.conditions import conditions, doubt
from harness.report.tables.numbers import DASH, number
from harness.report.tables.table import Table
from harness.report.timing import MARK, untrusted

MATCHED = "matched"
"""The table of costs at equal quality."""
NOT_REACHED = "not reached"


def matched_table(
    panel: Panel,
    compared: Iterable[tuple[Comparison, Comparison | None]],
    name: str = MATCHED,
    family: Sequence[str] = (),
    command: str = "harness time FILE",
) -> Table:
    """Compute and time at equal quality, one line per method and target distance; "not reached" if it is not.

    Times are marked if rows of the method, or of the base's `family` of arms, have times that are not to be trusted.
    """
    values, text = [], []
    doubted = {row.arm for row in untrusted(panel.measured)}
    for compute, time in compared:  # both at the same distances
        own, base = compute.arm in doubted, bool(doubted.intersection(family))
        for i, at in enumerate(compute.matched):
            timed = time.matched[i] if time else None
            values.append(
                {
                    "method": compute.name,
                    "base": compute.base,
                    panel.distance: at.target,
                    "base_gmacs": at.base_cost,
                    "gmacs": at.cost,
                    "gmacs_is_upper_bound": at.bound,
                    "compute_ratio": at.ratio,
                    "compute_ratio_low": at.low,
                    "compute_ratio_high": at.high,
                    "base_seconds": timed.base_cost if timed else math.nan,
                    "seconds": timed.cost if timed else math.nan,
                    "time_ratio": timed.ratio if timed else math.nan,
                    "time_ratio_low": timed.low if timed else math.nan,
                    "time_ratio_high": timed.high if timed else math.nan,
                    "time_trusted": not (own or base) if timed else None,
                }
            )
            bound = "≤ " if at.bound and math.isfinite(at.cost) else ""
            text.append(
                {
                    "method": compute.name,
                    "base": compute.base,
                    panel.distance: number(at.target),
                    "base GMACs": _reached(at.base_cost),
                    "GMACs": bound + _reached(at.cost),
                    "compute speed-up": _interval(at.ratio, at.low, at.high),
                    "base s": _doubtful(_reached(timed.base_cost), base) if timed else DASH,
                    "s": _doubtful(_reached(timed.cost), own) if timed else DASH,
                    "time speed-up": (
                        _doubtful(_interval(timed.ratio, timed.low, timed.high), own or base) if timed else DASH
                    ),
                }
            )
    by_sampler = f"As in the table “{MATCHED}”, each method sampler by sampler against the base with the same one."
    note = (
        f"Cost per image at equal {panel.distance}, interpolated on each method's frontier "
        "(log–log). Distances: the points of the base's frontier and the best that both reach. A speed-up is "
        "the base's cost over the method's, with its 95 % bootstrap interval over the noise of distances and times; "
        "“up to”: within noise the distance may not be reached. ≤: already the method's cheapest row is as good."
    )
    note = (note if name == MATCHED else by_sampler) + doubt(panel, command)
    return Table(name, note, pd.DataFrame(values), pd.DataFrame(text), conditions=conditions(panel))


def _doubtful(text: str, doubted: bool) -> str:
    return f"{text}{MARK}" if doubted and text not in (DASH, NOT_REACHED) else text


def _reached(cost: float) -> str:
    return number(cost) if math.isfinite(cost) else NOT_REACHED


def _interval(ratio: float, low: float, high: float) -> str:
    if math.isnan(ratio):
        return DASH
    if low == 0 or math.isinf(high):
        return f"{ratio:.2f} (up to {high:.2f})" if low == 0 and math.isfinite(high) else f"{ratio:.2f} (any)"
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"
