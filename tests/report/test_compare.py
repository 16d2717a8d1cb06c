"""Two reports side by side: noise is no change, what is beyond it is, and what cannot be compared is said."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from harness.cli import app as cli
from harness.report import KeptReport, ReportOptions
from harness.report.compare import Comparison, compare_reports
from tests.report.made_up import quickstart, typed

Rows = list[dict[str, Any]]
OPTIONS = ReportOptions(base="base", subject="dual-rate", arms=("base", "edm", "shrunk", "cached", "dual-rate"))
ROWS = quickstart()


def kept(rows: Rows) -> KeptReport:
    return KeptReport("x", "x", OPTIONS, (), tuple(typed(rows)))


def compared(change: Callable[[Rows], Rows | None], metric: str | None = None) -> Comparison:
    """The made-up report against one in which `change` was made."""
    rows = copy.deepcopy(ROWS)
    return compare_reports(kept(ROWS), kept(change(rows) or rows), metric)


def scale(row: dict[str, Any], factor: float, measure: str = "frechet") -> None:
    for seed in row["record"]["quality"]["per_seed"]:
        seed[measure] *= factor


def is_first(row: dict[str, Any]) -> bool:
    """Whether it is a cell of the first row, of whatever seed."""
    return (row["arm"], row["varied"]) == (ROWS[0]["arm"], ROWS[0]["varied"])


def of_first(change: Callable[[dict[str, Any]], None]) -> Callable[[Rows], None]:
    def of_rows(rows: Rows) -> None:
        for row in filter(is_first, rows):
            change(row)

    return of_rows


def test_a_report_does_not_differ_from_itself() -> None:
    found = compared(lambda rows: rows)
    assert set(found.counts()) == {"same"} and not found.differ
    assert all(change.difference == 0 and change.compute_ratio == 1 for change in found.changes)


@pytest.mark.parametrize(("factor", "verdict"), [(1.01, "within noise"), (3.0, "beyond noise"), (0.3, "beyond noise")])
def test_a_difference_counts_where_it_is_larger_than_its_interval(factor: float, verdict: str) -> None:
    found = compared(of_first(lambda row: scale(row, factor)))
    (changed,) = [change for change in found.changes if change.verdict != "same"]
    assert changed.verdict == verdict and found.differ == (verdict == "beyond noise")
    assert changed.difference is not None and changed.interval is not None and changed.interval > 0
    assert (abs(changed.difference) > changed.interval) == (verdict == "beyond noise")
    assert changed.better == (factor < 1) and changed.settings == ()


def test_noise_is_that_of_both_reports() -> None:
    """A row of one training is given the noise between trainings that the other report knows."""
    two = copy.deepcopy(ROWS)
    for row in two:
        if row["record"] is not None and row["record"]["config"]["seed"] == 1:
            scale(row, 1.5)
    one = [row for row in two if row["record"] is not None and row["record"]["config"]["seed"] == 0]
    pooled, alone = compare_reports(kept(two), kept(one)), compare_reports(kept(one), kept(one))
    for found, known in ((pooled, True), (alone, False)):
        after = [change.after.distance.training_noise for change in found.changes if change.after is not None]
        assert after and all((noise > 0) == known for noise in after)
        assert found.unsure == 0


def test_what_is_new_what_is_gone_and_compute() -> None:
    dropped = compared(lambda rows: [row for row in rows if not is_first(row)])
    assert dropped.counts()["gone"] == 1 and dropped.differ
    back = compare_reports(kept([row for row in ROWS if not is_first(row)]), kept(ROWS))
    assert back.counts()["new"] == 1 and back.differ

    def dearer(row: dict[str, Any]) -> None:
        row["record"]["compute"]["gmacs_per_image"] *= 2

    costs = compared(of_first(dearer))
    (changed,) = [change for change in costs.changes if change.compute_changed]
    assert changed.verdict == "same" and changed.compute_ratio == pytest.approx(2) and costs.differ


def test_a_row_is_known_under_another_arms_name_and_by_its_place() -> None:
    def renamed(row: dict[str, Any]) -> None:
        row["arm"], row["label"] = "anchor", "anchor"

    assert set(compared(of_first(renamed)).counts()) == {"same"}

    def longer(row: dict[str, Any]) -> None:
        row["record"]["config"]["train"]["steps"] = 12345
        scale(row, 3)

    (changed,) = [change for change in compared(of_first(longer)).changes if change.verdict != "same"]
    assert changed.verdict == "beyond noise" and changed.settings == ("train.steps",)


def test_other_conditions_are_not_compared() -> None:
    def more_images(row: dict[str, Any]) -> None:
        row["record"]["quality"]["images"] = 777

    found = compared(of_first(more_images))
    (changed,) = [change for change in found.changes if change.verdict != "same"]
    assert changed.verdict == "other conditions" and "→ 777" in changed.why and found.differ
    assert changed.difference is None and changed.interval is None


def status(*arguments: object) -> int:
    with mock.patch.object(sys, "argv", ["harness", *map(str, arguments)]), pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def test_the_command_on_published_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "results"
    assert status("compare", results / "digits-sampler", results / "digits-sampler") == 0
    assert " same" in capsys.readouterr().out
    assert status("compare", results / "digits-seeds", results / "digits-frontier") == 1
    printed = capsys.readouterr().out
    assert "new: 23 rows" in printed and "gone: 9 rows" in printed and "by FD-digits" in printed
    assert status("compare", results / "digits-seeds", results / "digits-frontier", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["differ"] and told["counts"]["new"] == 23 and len(told["rows"]) == sum(told["counts"].values())
    for bad, message in ((tmp_path, "holds no cells.json"), (tmp_path / "x", "there is no such folder")):
        assert status("compare", results / "digits-seeds", bad) == 2
        assert message in capsys.readouterr().err
    assert status("compare", results / "digits-seeds", results / "digits-seeds", "--metric", "nonsense") == 2
    assert "'nonsense' was measured in no row" in capsys.readouterr().err
