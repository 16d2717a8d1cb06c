"""Which rows' images a report shows."""

from __future__ import annotations

import numpy as np

from harness.report.frontier import pareto
from harness.report.panel import Panel
from harness.report.rows import Row


def sample_rows(panel: Panel) -> list[Row]:
    """The rows whose images are shown: each arm's best."""
    by_arm = [[row for row in panel.measured if row.arm == arm] for arm in panel.arms]
    return [row for rows in by_arm if (row := panel.best(rows)) is not None]


MOST_EXPLORED = 60
"""Rows whose images are kept for the page's frontier."""


def explored_rows(panel: Panel) -> list[Row]:
    """The rows whose images are kept: each arm's best, and those on a frontier as far as they are not too many."""
    leading = frontier_rows(panel)
    further = [row for row in panel.measured if row in leading] if len(leading) <= MOST_EXPLORED else []
    return list(dict.fromkeys([*sample_rows(panel), *further]))


def frontier_rows(panel: Panel) -> set[Row]:
    """The rows that no other of their arm beats in both compute and the panel's measure."""
    found: set[Row] = set()
    for arm in panel.arms:
        rows = [row for row in panel.measured if row.arm == arm and row.gmacs > 0]
        if rows:
            values = np.array([panel.distances[row].mean for row in rows])
            order = pareto(np.array([row.gmacs for row in rows]), -values if panel.higher_is_better else values)
            found.update(rows[index] for index in order)
    return found


def first_cell(row: Row) -> str:
    """The cell whose images stand for the row."""
    return row.records[0].id
