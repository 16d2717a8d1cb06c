from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.report import Report, ReportOptions, write_report
from tests.report.made_up import missing, quickstart, write_samples

BLOCKED = {"model.light_width": 0.25, "sample.sampler": "ddim", "sample.steps": 128, "sample.refresh_interval": 8}
REPORTED = Path(__file__).parents[2] / "results" / "reported.csv"
OPTIONS = ReportOptions(base="base", subject="dual-rate", arms=("base", "edm", "shrunk", "cached", "dual-rate"))


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """A sweep like the quickstart's, with one cell that has no result."""
    return [*quickstart(), missing("dual-rate", BLOCKED, "blocked: its training <failed>")]


@pytest.fixture(scope="session")
def report(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Report:
    """That sweep's report, written once for all tests, which leave it as it is."""
    folder = tmp_path_factory.mktemp("results")
    write_samples(rows, folder)
    title = "Dual-rate <against> its baselines & rivals"
    return write_report("quickstart", title, rows, folder / "quickstart", OPTIONS, folder, REPORTED)
