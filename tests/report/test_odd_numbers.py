"""Distances and costs of zero, below, infinite, missing; one row, one method, no base: a report is made all the same.

The records are a real sweep's; the tests change a number and nothing else.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.report import Report, ReportOptions
from tests.report.conftest import Ran
from tests.report.made_up import panels, write_report

INFINITE = [math.nan, math.inf, -math.inf, None]
DISTANCES = [0.0, -1e-9, -3.0, 1e-30, 1e-12, 1.0, 1e30, *INFINITE]
COSTS = [0.0, 1e-30, 1e-9, 1.0, 1e12, *INFINITE]


def written(rows: list[Any], folder: Path, options: ReportOptions | None = None) -> Report:
    """The report, which must come without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return write_report("r", "", rows, folder, options)


def set_distance(row: dict[str, Any], value: float | None) -> None:
    for seed in row["record"]["quality"]["per_seed"]:
        seed["values"]["frechet"] = value


@given(data=st.data())
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a report takes a second: no time to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_report_is_made_of_any_numbers(data: st.DataObject, ran: Ran, tmp_path: Path) -> None:
    arms = data.draw(st.sampled_from([{"base"}, {"dual-rate"}, {"base", "dual-rate"}]), "arms")
    rows = [row for row in ran.rows if row["arm"] in arms]
    rows = rows[: data.draw(st.integers(1, len(rows)), "rows")]
    for row in rows:
        record = row["record"]
        set_distance(row, data.draw(st.sampled_from([*DISTANCES, 2.0, 3.0]), "distance"))
        record["quality"]["per_seed"][0]["standard_errors"]["frechet"] = data.draw(
            st.sampled_from([0.0, 0.1, math.nan])
        )
        record["compute"]["gmacs_per_image"] = data.draw(st.sampled_from(COSTS), "gmacs")
        record["time"]["seconds_per_image"] = data.draw(st.sampled_from(COSTS), "seconds")
        record["time"]["seconds_per_image_quartiles"] = data.draw(
            st.sampled_from([[0.0, 0.0], [1.0, 1.1], [1.0, math.inf], None]), "quartiles"
        )
    report = written(rows, tmp_path / "report", ReportOptions(base=data.draw(st.sampled_from([None, "base", "gone"]))))
    assert len(report.table) == len(rows) and report.headline and report.conditions.endswith((".", ""))
    said = f"{report.headline} {report.conditions}"
    assert "nan" not in said and "inf" not in said.replace("infinite", "")


@pytest.mark.parametrize("value", INFINITE)
def test_a_distance_that_is_no_number_is_a_row_without_a_result(value: float | None, ran: Ran, tmp_path: Path) -> None:
    rows = ran.rows
    set_distance(rows[0], value)
    report = written(rows, tmp_path)
    assert "its distance is no finite number" in report.table["FD-digits"].tolist()
    assert sum("±" in text or "se" in text for text in report.table["FD-digits"]) == len(rows) - 1


def test_a_record_without_a_single_distance_is_one_too(ran: Ran, tmp_path: Path) -> None:
    rows = ran.rows
    rows[0]["record"]["quality"]["per_seed"] = []
    assert "its record holds no distance" in written(rows, tmp_path).table["FD-digits"].tolist()


def test_a_distance_of_zero_is_the_best_and_divides_nothing(ran: Ran, tmp_path: Path) -> None:
    rows = ran.rows
    for row in rows:
        if row["arm"] == "base" and row["varied"]["sample.sampler"] == "ancestral":
            set_distance(row, 0.0)
    report = written(rows, tmp_path)
    assert sum(text.startswith("0 ± 0") for text in report.table["FD-digits"]) == 3
    ratios = [line for line in (tmp_path / "samplers.csv").read_text().splitlines() if "× ancestral" in line]
    assert ratios == ["base,all,all,× ancestral,,"], "no ratio to zero is told"
    assert (tmp_path / "frontier.png").exists() and (tmp_path / "by-steps.png").exists()


def test_no_multiply_adds_and_no_time_are_told_as_missing(ran: Ran, tmp_path: Path) -> None:
    rows = ran.rows
    for row in rows:
        row["record"]["compute"]["gmacs_per_image"] = row["record"]["time"]["seconds_per_image"] = 0.0
    report = written(rows, tmp_path)
    assert report.headline == "Compute at equal quality cannot be stated: no compute has been measured."
    assert set(report.table["compute speed-up"]) == set(report.table["time speed-up"]) == {"–"}
    assert "frontier-time.png" not in report.files


def test_one_row_alone_is_a_report(ran: Ran, tmp_path: Path) -> None:
    report = written(ran.rows[:1], tmp_path)
    assert "frontier.png" in report.files and len(report.table) == 1
    assert "no arm to compare with the base was measured" in report.headline


def test_the_kept_cells_are_json_that_any_program_reads(ran: Ran, tmp_path: Path) -> None:
    """A nan is no JSON."""
    rows = ran.rows
    set_distance(rows[0], math.nan)
    written(rows, tmp_path)
    held = json.loads((tmp_path / "cells.json").read_text(), parse_constant=lambda name: pytest.fail(f"holds {name}"))
    assert len(held["rows"]) == len(rows)


def test_a_row_of_one_flawed_seed_says_so_beside_the_others_mean(ran: Ran) -> None:
    rows = ran.rows
    other = json.loads(json.dumps(rows[0]))
    other["record"]["config"]["seed"], other["record"]["id"] = 1, "f" * 16
    set_distance(other, math.inf)
    row = panels([rows[0], other])[0].rows[0]
    assert row.measured and row.status == "1 of 2 seeds: its distance is no finite number"
