"""Records that a newer version has written: a report leaves them out and says so once, as it does with damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.files import read_json, write_json
from harness.store.records import CELL_SCHEMA
from tests.harness.tiny import harness
from tests.report.conftest import Ran

MESSAGE = f"by a newer version of this project (schema 99, this one reads up to {CELL_SCHEMA}); update the project, or"


@pytest.fixture
def results(ran: Ran, tmp_path: Path) -> Path:
    """A sweep's results, of which two cells are of a newer version."""
    shutil.copytree(ran.results, tmp_path / "results")
    for path in sorted((tmp_path / "results" / "runs" / "cells").glob("*.json"))[:2]:
        write_json(path, {**read_json(path), "schema": 99})
    return tmp_path / "results"


def test_a_report_leaves_them_out_and_says_so_once(ran: Ran, results: Path) -> None:
    done = harness(results, "report", ran.sweep)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(MESSAGE) == 1 and "2 cells left out of the report" in done.stderr
    table = (results / ran.sweep.stem / "table.md").read_text(encoding="utf-8")
    assert table.count("written by a newer version") == 2


def test_the_sweep_measures_them_not_again(ran: Ran, results: Path) -> None:
    before = {path: path.read_bytes() for path in (results / "runs" / "cells").glob("*.json")}
    done = harness(results, "sweep", ran.sweep)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_report_from_a_folder_leaves_them_out_too(ran: Ran, results: Path) -> None:
    cells = results / ran.sweep.stem / "cells.json"
    lines = cells.read_text(encoding="utf-8")
    kept = json.loads(lines)
    for row in kept["rows"][:3]:
        row["record"]["schema"] = 99
    cells.write_text(json.dumps(kept), encoding="utf-8")
    done = harness(results, "report", cells.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(MESSAGE) == 1 and "3 rows left out of the report" in done.stderr
    assert "written by a newer version" in (cells.parent / "table.md").read_text(encoding="utf-8")
