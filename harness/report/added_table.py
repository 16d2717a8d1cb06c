"""The table beside the figure of added training: its points in figures, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from harness.report.bought import Bought
from harness.report.frontier import Comparison
from harness.report.panel import Panel
from harness.report.tables.conditions import conditions
from harness.report.tables.numbers import DASH, number
from harness.report.tables.table import Table
from harness.report.timing import untrusted, why
from harness.wording import percentage

ADDED_TABLE = "added-training"
UNKNOWN = (math.nan, math.nan, math.nan)


def added_table(panel: Panel, points: Sequence[Bought], command: str = "harness time FILE") -> Table:
    """What each network added to the training, and its compute and time at equal quality over the base's."""
    base = next((point.compute.base for point in points if point.compute is not None), "base")
    text = pd.DataFrame([_text(point, base, panel.distance) for point in points])
    values = pd.DataFrame([_values(point) for point in points])
    return Table(ADDED_TABLE, _note(panel, base, command), values, text, conditions=conditions(panel))


def _note(panel: Panel, base: str, command: str) -> str:
    timed = [row for row in panel.measured if row.seconds > 0]
    sentences = [
        f"Cost per image at equal {panel.distance} over that of {base}, with its 95 % interval: the mean over the "
        "values from … to …, which both reach (in compute; in time a frontier may begin at another).",
        "Training added: its compute as a share of the training that a network started from, else of the costliest of "
        f"{base}; one that started from nothing adds all that it took.",
        "≤: an upper bound, by its cheapest row. *: does not reach the best of the base, and is compared over the "
        f"worse of the base's values alone. {DASH}: cannot be compared.",
        f"Times that cannot be trusted are left out: {why(timed, command)}" if untrusted(timed) else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _text(point: Bought, base: str, distance: str) -> dict[str, str]:
    compute, time = point.compute, point.shown_time
    return {
        "method": point.name,
        "training added": f"{percentage(point.added)} %",
        f"compute, × {base}": _words(compute),
        f"time, × {base}": _words(time),
        f"{distance} from": number(compute.worst) if compute else DASH,
        f"{distance} to": number(compute.shared) if compute else DASH,
    }


def _words(result: Comparison | None) -> str:
    if result is None:
        return DASH
    share, low, high = result.of_base
    to = f"{low:.2f} to {high:.2f}" if math.isfinite(high) else f"{low:.2f} or more"
    return f"{'≤ ' if result.bound else ''}{share:.2f}{'*' if result.falls_short else ''} ({to})"


def _values(point: Bought) -> dict[str, object]:
    compute, time = point.compute, point.shown_time
    row: dict[str, object] = {
        "arm": point.arm, "method": point.label, "setting": point.setting, "training_added": point.added,
    }  # fmt: skip
    for cost, result in (("compute", compute), ("time", time)):
        share, low, high = result.of_base if result else UNKNOWN
        row |= {f"{cost}_of_base": share, f"{cost}_of_base_low": low, f"{cost}_of_base_high": high}
    return row | {
        "is_upper_bound": bool(compute.bound) if compute else None,
        "reaches_best_of_base": not compute.falls_short if compute else None,
        "compared_from": compute.worst if compute else math.nan,
        "compared_to": compute.shared if compute else math.nan,
    }
