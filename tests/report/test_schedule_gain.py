"""Whether an optimal schedule is better in distance than one even in time: the report's first line says it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.report import ReportOptions, headline
from harness.report.schedule_gain import gains
from tests.report.made_up import cell, panels, write_report

OPTIMAL = {"model.kind": "dual_rate", "sample.schedule": "optimal"}
EVEN = {"model.kind": "dual_rate"}


def compared(ratios: dict[int, float], fixed: dict[str, Any] | None = None, **of_optimal: Any) -> list[dict[str, Any]]:
    """A base, and both schedules at 2, 4 and 8 refreshes, whose distances have the ratio of each training's seed."""
    rows = []
    for seed, ratio in ratios.items():
        rows += [cell("base", {"sample.steps": s}, frechet=40 / s, gmacs=s, seed=seed) for s in (8, 16, 32)]
        for r in (2, 4, 8):
            point, distance = {"sample.refreshes": r}, 8 / math.sqrt(r)
            rows.append(cell("dual-rate", point, frechet=distance, gmacs=r, seed=seed, fixed=EVEN))
            kept = {"gmacs": r, **of_optimal}
            rows.append(
                cell("best", point, frechet=distance * ratio, seed=seed, fixed={**OPTIMAL, **(fixed or {})}, **kept)
            )
    return rows


def test_the_gain_is_the_mean_ratio_of_distances_with_students_interval_over_the_trainings() -> None:
    ratios = {1: 0.90, 2: 0.92, 3: 0.94}
    (gain,) = gains(panels(compared(ratios))[0])
    logs = np.log(list(ratios.values()))
    half = 4.303 * logs.std(ddof=1) / math.sqrt(3)
    assert gain.mean == pytest.approx(1 - math.exp(logs.mean()))
    assert (gain.low, gain.high) == pytest.approx(tuple(1 - math.exp(logs.mean() + s * half) for s in (1, -1)))
    assert (gain.arm, gain.pairs, gain.trainings, gain.verdict) == ("best", 3, 3, "better")


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ({1: 0.90, 2: 0.91, 3: 0.92}, "is 9.0 % better in FD-digits (6.5–11.5 %) than refreshes even in time"),
        ({1: 1.10, 2: 1.11, 3: 1.12}, "is 11.0 % worse in FD-digits (8.5–13.5 %) than refreshes even in time"),
        (
            {1: 0.90, 2: 1.00, 3: 1.08},
            "is not better in FD-digits than refreshes even in time at the same compute beyond",
        ),
        ({1: 1.0}, "is not better in FD-digits than refreshes even in time"),
    ],
)
@pytest.mark.parametrize("subject", ["best", "dual-rate"])
def test_the_first_line_says_whether_the_schedule_is_better(
    ratios: dict[int, float], said: str, subject: str, tmp_path: Path
) -> None:
    rows = compared(ratios)
    line = headline(panels(rows)[0], subject=subject).line
    whose = "its schedule" if subject == "best" else "best: its schedule"
    assert f"; {whose}, optimal in the bound, {said}" in line
    write_report("r", "", rows, tmp_path, ReportOptions(subject=subject))
    assert said in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[2].replace("\\", "")
    assert said in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        {"fixed": {"sample.steps": 16}},
        {"fixed": {"model.width": 32}},
        {"fixed": {"sample.sampler": "ddim"}},
        {"fixed": {"sample.budget": 0.1}},
        {"gmacs": 3.0},
    ],
    ids=str,
)
def test_rows_that_differ_in_anything_else_are_not_compared(changed: dict[str, Any]) -> None:
    (panel,) = panels(compared({1: 0.5, 2: 0.6}, **changed))
    assert gains(panel) == []
    assert "optimal in the bound" not in str(headline(panel, subject="best"))


def test_another_objective_is_another_schedule_of_the_same_rows() -> None:
    (panel,) = panels(compared({1: 0.9, 2: 0.91}, fixed={"sample.objective": "elbo"}))
    assert [gain.arm for gain in gains(panel)] == ["best"]
