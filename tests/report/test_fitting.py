"""A terminal's table: whole where it fits, narrower where it must be, and no row ever in two lines."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.cli.fitting import fitted
from harness.cli.report import Made, _summary, show
from harness.report import Report
from tests.report.made_up import cell, missing, quickstart, write_report

WIDTHS = (60, 80, 100, 140)


def printed(report: Report, width: int, terminal: bool = True) -> list[str]:
    """The lines that a terminal of that width shows."""
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    show(Made(report.folder, _summary(report, report.folder)), out)
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def table_of(lines: list[str]) -> list[str]:
    """The table's rows: what lies between its rule and the line on what was left out or where the report lies."""
    rule = next(i for i, line in enumerate(lines) if set(line) == {"─"})
    end = next(i for i, line in enumerate(lines) if line.startswith(("without ", "report: ")))
    return [line for line in lines[rule + 1 : end] if line]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_row_is_wider_than_the_terminal_and_none_is_missing(width: int, report: Report) -> None:
    lines = printed(report, width)
    rows = table_of(lines)
    assert len(rows) == len(report.table)
    assert max(cell_len(line) for line in lines) <= width
    for row, method in zip(rows, report.table["method"], strict=True):
        assert row.startswith(method), "names are cut last of all"
    distances = [text.split(" ")[0] for text in report.table["FD-digits"] if text[0].isdigit()]
    assert all(distance in row for distance, row in zip(distances, rows, strict=False))


@pytest.mark.parametrize("width", [60, 80])
def test_what_is_left_out_is_said_with_where_it_is(width: int, report: Report) -> None:
    lines = printed(report, width)
    told = " ".join(lines[next(i for i, line in enumerate(lines) if line.startswith("without ")) :])
    named = re.search(r"without \d+ columns \((.*?)\):", told)
    assert named is not None and {"KD-digits", "time speed-up"} <= set(named[1].split(", "))
    assert "table.md has the whole table" in told
    assert "without" not in " ".join(printed(report, 200))


def test_a_pipe_gets_the_whole_table_and_whole_sentences(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = printed(report, 80, terminal=False)
    assert report.headline in lines and report.caption in lines
    assert len(table_of(lines)) == len(report.table) and not any(line.startswith("without") for line in lines)
    assert "time" in next(line for line in lines if "compute" in line and "GMACs/" in line)


def written(rows: list[dict[str, Any]], folder: Path) -> Report:
    return write_report("r", "", rows, folder)


def test_a_long_name_is_cut_last_and_a_long_reason_before_it(tmp_path: Path) -> None:
    label = "dual-rate with light convolutions and a context of sixteen channels"
    dual = {"model.kind": "dual_rate"}
    rows = [cell("dual-rate", {"sample.steps": s}, frechet=8 / s, fixed=dual, label=label) for s in (8, 16)]
    rows += [
        missing("base", {"sample.steps": 8}, "blocked: training 0123456789abcdef failed: Diverged: the loss is nan")
    ]
    report = written(rows, tmp_path)
    for width in (*WIDTHS, 40):
        lines = printed(report, width)
        assert max(cell_len(line) for line in table_of(lines)) <= width
        assert len(table_of(lines)) == 3
    assert any(line.startswith(label) for line in printed(report, 100))
    (cut,) = {line.split("…")[0] for line in table_of(printed(report, 60)) if line.startswith("dual")}
    assert label.startswith(cut) and len(cut) > 25
    assert any("blocked: tr" in line and "…" in line for line in table_of(printed(report, 100)))


def test_wide_letters_count_as_two() -> None:
    columns = ["method", "sampler", "steps", "FD-digits", "GMACs/image"]
    rows = [["基準となる方法" * 3, "ddim", "8", "1.00", "0.1"]]
    for width in (40, 60, 80):
        out = Console(file=io.StringIO(), width=200, color_system=None)
        out.print(fitted(columns, rows, "FD-digits", width)[0])
        assert isinstance(out.file, io.StringIO)
        assert max(cell_len(line.rstrip()) for line in out.file.getvalue().splitlines()) <= width


def test_many_rows_and_many_keys() -> None:
    keys = [f"key {i}" for i in range(12)]
    columns = ["method", "sampler", "steps", *keys, "FD-digits", "KD-digits", "GMACs/image", "s/image"]
    rows = [["base", "ddim", str(i), *["0.25"] * 12, "1.00 ± 0.10", "0.01", "0.1", "0.01"] for i in range(150)]
    table, left_out = fitted(columns, rows, "FD-digits", 80)
    assert table.row_count == 100
    assert left_out.endswith("and without 50 more rows") and "KD-digits" in left_out
    assert [str(column.header) for column in table.columns][:3] == ["method", "sampler", "steps"]
    whole, nothing = fitted(columns, rows[:3], "FD-digits", None)
    assert len(whole.columns) == len(columns) and nothing == ""


def test_the_quickstarts_table_fits_eighty_letters_with_costs(tmp_path: Path) -> None:
    lines = printed(written(quickstart(), tmp_path), 80)
    head = " ".join(lines[: next(i for i, line in enumerate(lines) if set(line) == {"─"})])
    assert "GMACs/" in head and "steps" in head and "sampler" in head


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_two_rows_look_alike_for_want_of_room(width: int) -> None:
    """What tells rows apart stays, whatever else goes: a number of refreshes, a varied key, the end of a name."""
    columns = ["method", "sampler", "steps", "refreshes", "train.steps", "width", "FD-digits", "GMACs/image", "s/image"]
    name, figures = "adapted, with a long name of its own,", ["0.982 ± 0.15†‡", "0.0904", "0.00366"]
    rows = [
        [f"{name} {share} %", sampler, "16", refreshes, steps, "32", *figures]
        for share in (25, 50)
        for sampler in ("ddim", "dpmpp_2m")
        for refreshes in ("4", "8")
        for steps in ("100", "1000")
    ]
    out = Console(file=io.StringIO(), width=200, color_system=None)
    out.print(fitted(columns, rows, "FD-digits", width)[0])
    assert isinstance(out.file, io.StringIO)
    lines = [line.rstrip() for line in out.file.getvalue().splitlines() if "±" in line]
    assert max(map(cell_len, lines)) <= width
    assert len(set(lines)) == len(lines) == len(rows)
