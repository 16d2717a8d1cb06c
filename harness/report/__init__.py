"""From cells' records to tables, figures and a page. Nothing here trains, samples or imports torch."""

from harness.report.cells_file import KeptReport, load_options, load_report, load_rows
from harness.report.headline import Headline, headline
from harness.report.options import ReportOptions
from harness.report.panel import Panel, panels
from harness.report.rows import ReportCell, Row
from harness.report.write import Report, write_report

__all__ = [
    "Headline",
    "KeptReport",
    "Panel",
    "Report",
    "ReportCell",
    "ReportOptions",
    "Row",
    "headline",
    "load_options",
    "load_report",
    "load_rows",
    "panels",
    "write_report",
]
