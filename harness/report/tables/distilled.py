"""Distillation: students by the steps and refreshes that they were taught, beside their teacher."""

from __future__ import annotations

import math

import pandas as pd

from harness.report.added import added_share
from harness.report.noise import Distance
from harness.report.panel import Panel
from harness.report.rows import Row, show
from harness.report.tables.conditions import conditions
from harness.report.tables.main import UNKNOWN
from harness.report.tables.numbers import DASH, number, with_spread
from harness.report.tables.table import Table
from harness.wording import percentage


def distilled_table(panel: Panel, base: str | None) -> Table | None:
    """A line per student and number of its steps, after its teacher's best at each number of steps; None where nothing
    was distilled.

    A teacher is an arm that a student's training has come from and that was not distilled itself.
    """
    students = [row for row in panel.measured if row.setting("distill.method") is not None]
    if not students:
        return None
    rows = [*_best_by_steps(panel, _teachers(panel, students)), *_in_order(panel, students)]
    best = panel.distances[winner] if (winner := panel.best(rows)) is not None else None
    added = {row: added_share(panel, base, row) if base is not None else math.nan for row in rows}
    values = [_values(panel, row, added[row]) for row in rows]
    text = [_text(panel, row, added[row]) for row in rows]
    strong = {(i, panel.distance) for i, row in enumerate(rows) if panel.distances[row] is best}
    note = (
        "Students by the steps that they were taught and sampled in (refreshes of a dual-rate one beside them), after "
        "their teachers, of which each number of steps has its best sampler. Added: training compute beyond that of "
        f"{base or 'the base'}, as a share of it; distilling: of the student's own training."
    )
    return Table("distilled", note, pd.DataFrame(values), pd.DataFrame(text), frozenset(strong), conditions(panel))


def _teachers(panel: Panel, students: list[Row]) -> list[Row]:
    chains = {training for row in students for training in row.training_chain}
    return [
        row
        for row in panel.measured
        if row.setting("distill.method") is None and any(record.training in chains for record in row.records)
    ]


def _best_by_steps(panel: Panel, rows: list[Row]) -> list[Row]:
    groups: dict[tuple[str, int | None, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.steps, row.refreshes), []).append(row)
    return _in_order(panel, [best for group in groups.values() if (best := panel.best(group)) is not None])


def _in_order(panel: Panel, rows: list[Row]) -> list[Row]:
    """By arm, and the most steps and refreshes first."""
    return sorted(
        rows, key=lambda row: (panel.arms.index(row.arm), -(row.steps or 0), -(row.refreshes or 0), row.point)
    )


def _values(panel: Panel, row: Row, added: float) -> dict[str, object]:
    distance: Distance = panel.distances[row]
    return {
        "arm": row.arm,
        "method": row.label,
        "distillation": row.setting("distill.method"),
        "taught_steps": row.setting("distill.steps"),
        "sampler": row.sampler,
        "steps": row.steps,
        "refreshes": row.refreshes,
        panel.distance: distance.mean,
        "spread": distance.spread,
        "gmacs_per_image": row.gmacs,
        "seconds_per_image": row.seconds,
        "distilling_gmacs": row.training_gmacs if row.setting("distill.method") is not None else 0.0,
        "added_training": added,
    }


def _text(panel: Panel, row: Row, added: float) -> dict[str, str]:
    is_student = row.setting("distill.method") is not None
    return {
        "method": row.label,
        "sampler": row.sampler,
        "steps": show(row.steps),
        "refreshes": show(row.refreshes) if row.refreshes is not None else DASH,
        panel.distance: with_spread(panel.distances[row]),
        "GMACs": number(row.gmacs),
        "s/image": number(row.seconds) if row.time_trusted is not False else DASH,
        "distilling GMACs": number(row.training_gmacs) if is_student else DASH,
        "added": f"{percentage(added)} %" if math.isfinite(added) else UNKNOWN,
    }
