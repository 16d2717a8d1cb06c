from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.report import Report, ReportOptions
from tests.harness.tiny import harness, write_sweep
from tests.report.made_up import missing, plain_rows, quickstart, write_report, write_samples

BLOCKED = {"model.light_width": 0.25, "sample.sampler": "ddim", "sample.steps": 128, "sample.refresh_interval": 8}
REPORTED = Path(__file__).parents[2] / "results" / "reported.csv"
OPTIONS = ReportOptions(base="base", subject="dual-rate", arms=("base", "edm", "shrunk", "cached", "dual-rate"))
HARDLY_TRAINED = """
name: hardly-trained
title: Networks after three steps
base:
  data: {name: digits}
  model: {kind: single_rate, patch: 2, width: 8, multipliers: [1], levels: [conv], blocks: [1], embedding: 16}
  train: {steps: 3, batch: 8, checkpoint_every: 3}
  sample: {steps: 4, batch: 20, seeds: [0, 1]}
  measure: {images: 60, latency: {batch: 4, repeats: 3}}
arms:
  base: {grid: {sample.sampler: [ancestral, ddim], sample.steps: [2, 4, 8]}}
  dual-rate:
    set: {model.kind: dual_rate}
    grid: {"sample.steps, sample.refresh_interval": [[4, 2], [8, 2], [8, 4]]}
"""


@dataclass(frozen=True)
class Ran:
    """A sweep that was run: its file, its results, and its rows as the report keeps them."""

    sweep: Path
    results: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Their times are trusted, and proportional to compute, whatever else this machine did while the sweep ran."""
        rows = plain_rows(self.results / self.sweep.stem / "cells.json")
        for row in rows:
            time, gmacs = row["record"]["time"], row["record"]["compute"]["gmacs_per_image"]
            scale = 40 * gmacs / time["seconds_per_image"]
            time |= {
                "trusted": True,
                "reasons": [],
                "conditions": None,
                "repeats": 3,
                "seconds_per_image": 40 * gmacs,
                "seconds_per_image_quartiles": [scale * seconds for seconds in time["seconds_per_image_quartiles"]],
            }
        return rows


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A real sweep of networks that have learnt nothing yet; tests leave its files as they are."""
    folder = tmp_path_factory.mktemp("ran")
    sweep = write_sweep(folder, HARDLY_TRAINED, "hardly-trained.yaml")
    done = harness(folder / "results", "sweep", sweep)
    assert done.returncode == 0, done.stderr
    return Ran(sweep, folder / "results")


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
