"""Which rows' images a report shows."""

from __future__ import annotations

from harness.report.panel import Panel
from harness.report.rows import Row


def sample_rows(panel: Panel) -> list[Row]:
    """The rows whose images are shown: each arm's best."""
    by_arm = [[row for row in panel.measured if row.arm == arm] for arm in panel.arms]
    return [row for rows in by_arm if (row := panel.best(rows)) is not None]


def first_cell(row: Row) -> str:
    """The cell whose images stand for the row."""
    return row.records[0].id
