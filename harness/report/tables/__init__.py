"""The tables of a report, each with its values for machines and its text for readers."""

from harness.report.tables.ablations import ablation_table
from harness.report.tables.distilled import distilled_table
from harness.report.tables.main import main_table
from harness.report.tables.matched import matched_table
from harness.report.tables.samplers import sampler_table
from harness.report.tables.table import Table

__all__ = ["Table", "ablation_table", "distilled_table", "main_table", "matched_table", "sampler_table"]
