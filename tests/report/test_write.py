"""A report on disk: complete, the same bytes each time, and made again from its own cells."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from harness.errors import StoreError
from harness.report import Report, ReportCell, load_options, load_rows, render, write
from harness.report.figure_list import Drawn
from harness.report.figures import frontier_figure
from harness.report.samples import read_samples
from harness.report.tables.table import markdown_escape
from tests.report.conftest import OPTIONS, REPORTED
from tests.report.made_up import cell, missing, panels, typed, write_report, write_samples

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_it_leaves_what_the_design_names(report: Report) -> None:
    held = contents(report.folder)
    assert set(held) == set(report.files)
    named = {"table.md", "table.csv", "table.tex", "frontier.png", "frontier.pdf", "samples.png", "index.html"}
    assert named <= set(held)
    assert held["table.md"].decode().splitlines()[2] == f"**{markdown_escape(report.headline)}**"
    assert all(held.values())


def test_the_same_bytes_in_any_order_and_from_its_own_cells(
    report: Report, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    root = report.folder.parent
    title = "Dual-rate <against> its baselines & rivals"
    again = write_report("quickstart", title, shuffled, tmp_path / "again", OPTIONS, root, REPORTED)
    assert contents(again.folder) == contents(report.folder)

    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for name in ("cells.json", "samples.npz"):
        (stranger / name).write_bytes((report.folder / name).read_bytes())
    kept = stranger / "cells.json"
    write.write_report("quickstart", title, load_rows(kept), stranger, load_options(kept), None, REPORTED)
    assert contents(stranger) == contents(report.folder)


def test_cells_come_back_whole(report: Report, rows: list[dict[str, Any]]) -> None:
    def by_place(given: list[ReportCell]) -> dict[str, ReportCell]:
        return {f"{one.arm} {sorted(one.varied.items())} {one.record and one.record.seed}": one for one in given}

    kept, given = by_place(load_rows(report.folder / "cells.json")), by_place(typed(rows))
    assert len(given) == len(rows) and kept.keys() == given.keys()
    for place, one in given.items():
        assert kept[place].record == one.record and kept[place].configuration == one.configuration
        assert (kept[place].label, kept[place].status) == (one.label, one.status)
    assert load_options(report.folder / "cells.json").arms == list(OPTIONS.arms)


def small(**kwargs: Any) -> list[dict[str, Any]]:
    return [cell("base", {"sample.steps": steps}, frechet=8 / steps, gmacs=steps, **kwargs) for steps in (8, 16)]


def test_a_rerun_writes_nothing_that_has_not_changed_and_removes_what_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write_report("r", "", small(), folder)
    (folder / "my-notes.txt").write_text("mine")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_report("r", "", small(), folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "by-steps.png" in before
    write_report("r", "", small()[:1], folder)
    assert "by-steps.png" not in contents(folder) and "my-notes.txt" in contents(folder)


def test_other_features_go_to_files_and_tables_of_their_own(tmp_path: Path) -> None:
    rows = small()
    other = small(fixed={"measure.features": "efficientnet_lite0"})
    report = write_report("r", "", [*rows, *other], tmp_path / "report")
    tables = {name: text.decode() for name, text in contents(report.folder).items() if name.endswith(".csv")}
    heads = {name: text.splitlines()[0].split(",") for name, text in tables.items() if name.startswith("table")}
    assert len(heads) == 2
    for columns in heads.values():
        assert ("FD-digits" in columns) != ("FD-EfficientNet-Lite0" in columns)


def test_a_sweep_of_which_nothing_is_measured_has_a_report_that_says_so(tmp_path: Path) -> None:
    lacking = [missing("base", {"sample.steps": steps}, "blocked: no data") for steps in (8, 16)]
    report = write_report("r", "", lacking, tmp_path / "report")
    assert report.headline == "Nothing has been measured yet."
    assert (tmp_path / "report" / "table.md").read_text().count("blocked: no data") == 2


def test_samples_come_from_png_grids_too(tmp_path: Path) -> None:
    rows = small()
    write_samples(rows, tmp_path)
    images = read_samples(tmp_path / rows[0]["record"]["samples"])
    assert images.shape == (64, 8, 8)
    grid = images.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64)
    Image.fromarray(grid).save(tmp_path / "grid.png")
    assert (read_samples(tmp_path / "grid.png") == images).all()


def test_colour_images_are_read_channels_last(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    assert (read_samples(tmp_path / "a.npz") == images.transpose(0, 2, 3, 1)).all()


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04cut"])
def test_damaged_samples_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.npz: samples cannot be read"):
        read_samples(path)


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 99, "rows": []}', "{"])
def test_damaged_cells_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cells.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"cells\.json"):
        load_rows(path)


def test_a_report_is_written_over_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text('{"files": 3')
    report = write_report("r", "", small()[:1], tmp_path)
    assert len(load_rows(report.folder / "cells.json")) == 1
    assert report.table["method"].tolist() == ["base"]


def test_a_large_report_is_the_same_bytes_by_two_processes(
    report: Report, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not render.can_fork():
        pytest.skip("this system, or this process with its threads, renders figures in one process only")
    monkeypatch.setattr(write, "MANY_CELLS", 1)
    title = "Dual-rate <against> its baselines & rivals"
    again = write_report("quickstart", title, rows, tmp_path / "again", OPTIONS, report.folder.parent, REPORTED)
    assert contents(again.folder) == contents(report.folder)


def test_a_child_that_dies_costs_time_but_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> list[list[Drawn]]:
        return [[Drawn("frontier", "a frontier", frontier_figure(panels(small())[0]))]]

    monkeypatch.setattr(render, "_send", lambda *_: os._exit(1))
    assert render.begin(draw, apart=True)() == render.render(draw)


def test_a_report_imports_no_torch() -> None:
    code = "import sys, harness.report; assert 'torch' not in sys.modules, 'torch is imported'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_notebook_draws_every_figure_again(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_REPORT", str(report.folder))
    monkeypatch.setenv("HARNESS_REPORTED", str(REPORTED))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(ROOT / "notebooks" / "figures.ipynb", as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=place).execute()
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
    drawn = {name for name in report.files if name.endswith((".png", ".pdf"))}
    assert {line.split(":")[0] for line in printed.splitlines() if line.endswith("identical")} == drawn
    assert "differs" not in printed and report.headline in printed


def test_the_notebooks_are_stored_without_output() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells), path


def test_a_row_is_called_the_same_in_whatever_order_its_keys_were_varied(rows: list[dict[str, Any]]) -> None:
    def names(given: list[dict[str, Any]]) -> set[str]:
        return {row.name for panel in panels(given, OPTIONS.arms) for row in panel.rows}

    several = [{**row, "varied": {"model.width": 8, "model.blocks": [1, 1], **row["varied"]}} for row in rows]
    turned = [{**row, "varied": dict(reversed(row["varied"].items()))} for row in several]
    assert names(turned) == names(several)
