"""From cells' records to tables, figures and a page. Nothing here trains, samples or imports torch."""

from harness.report.frontier import headline
from harness.report.rows import Panel, Row, panels
from harness.report.write import Report, ReportOptions, load_options, load_rows, write_report

__all__ = ["Panel", "Report", "ReportOptions", "Row", "headline", "load_options", "load_rows", "panels", "write_report"]
