"""The tool that says whether a report's figures came back: equal, within tolerance, and not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.report import Report, load_report
from tools.same_figures import committed, compare, main

RESULTS = Path(__file__).parents[2] / "results"
Change = Callable[[dict[str, Any]], None]


def copied(report: Report, folder: Path, change: Change = lambda record: None) -> Path:
    """The report's cells in a folder of their own, the record of one of them changed."""
    held = json.loads((report.folder / "cells.json").read_text())
    change(next(row["record"] for row in held["rows"] if row["record"]))
    folder.mkdir()
    (folder / "cells.json").write_text(json.dumps(held))
    return folder


def further(share: float) -> Change:
    def change(record: dict[str, Any]) -> None:
        for seed in record["quality"]["per_seed"]:
            seed["values"]["frechet"] *= 1 + share

    return change


def dearer(record: dict[str, Any]) -> None:
    record["compute"]["gmacs_per_image"] *= 1.001


def test_the_same_report_agrees_to_the_bit(report: Report, tmp_path: Path) -> None:
    one, two = report.folder, copied(report, tmp_path / "two")
    found = compare(one / "cells.json", two / "cells.json")
    assert found.cells == found.identical > 10 and found.worst == 0 and found.holds(0)


@pytest.mark.parametrize(("change", "agrees"), [(further(0.05), True), (further(0.2), False), (dearer, False)])
def test_what_differs_is_named_and_counts(report: Report, change: Change, agrees: bool, tmp_path: Path) -> None:
    one, two = report.folder, copied(report, tmp_path / "two", change)
    found = compare(one / "cells.json", two / "cells.json")
    assert found.holds(0.1) is agrees
    assert found.worst_cell or found.other_compute
    if agrees:
        main([str(two), "--against", str(one)])
    else:
        with pytest.raises(SystemExit):
            main([str(two), "--against", str(one)])


def test_a_folder_that_was_never_committed_is_named(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no cells\.json at HEAD"):
        committed(report.folder, "HEAD", tmp_path)


@pytest.mark.parametrize("kept", sorted(RESULTS.glob("*/cells.json")), ids=lambda path: path.parent.name)
def test_a_published_report_has_its_own_files_and_none_of_an_earlier_one(kept: Path) -> None:
    of_report = set(load_report(kept).files)
    there = {path.name for path in kept.parent.iterdir()}
    assert of_report <= there
    assert {name for name in there if Path(name).suffix in (".pdf", ".md", ".csv", ".tex", ".html")} <= of_report
