"""From cells' records to tables, figures and a page. Nothing here trains, samples or imports torch."""

from harness.report.headline import headline
from harness.report.panel import Panel, panels
from harness.report.rows import Row
from harness.report.write import (
    Report,
    ReportOptions,
    kept_options,
    kept_rows,
    load_cells,
    load_options,
    load_rows,
    write_report,
)

__all__ = [
    "Panel",
    "Report",
    "ReportOptions",
    "Row",
    "headline",
    "kept_options",
    "kept_rows",
    "load_cells",
    "load_options",
    "load_rows",
    "panels",
    "write_report",
]
