"""`harness report`: tables and figures from the results that are there."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli import console, print_json
from harness.config import as_plain
from harness.errors import ConfigError, StoreError
from harness.store import DamagedRecord, Store, Target, as_unicode, read_json, write_json
from harness.sweep import Sweep, load_sweep

REPORT_SOURCE = Path(__file__).parent.parent / "report"
REPORTED = "reported.csv"
"""The literature's figures, beside the reports in the folder of results."""


SHOWN_ROWS = 100
"""Rows of the table that a terminal shows; all are in the report."""


@dataclass(frozen=True)
class Made:
    """A report on disk, in a few words."""

    folder: Path
    summary: dict[str, Any]


def run(file: Path, overrides: Sequence[str], results: Path, json_output: bool) -> None:
    # Ten thousand records are millions of objects, none of them garbage: to look for it takes longer than to read them.
    gc.disable()
    if file.is_dir():
        made = remake(file)
    else:
        from harness.checks import check_folder

        sweep = load_sweep(file, overrides)
        check_folder(results)
        made = make(sweep, Store(results), {}, again=True)
    if json_output:
        print_json(made.summary)
    else:
        show(made, console())


def remake(folder: Path) -> Made:
    """A report again from its own cells.json, without the runs it was made from."""
    from harness.report import kept_options, kept_rows, load_cells, write_report

    kept = folder / "cells.json"
    if not kept.exists():
        raise ConfigError(str(folder), ["holds no cells.json; it is not the folder of a report"])
    held = load_cells(kept)
    report = write_report(
        held["name"], held["title"], kept_rows(held), folder, kept_options(held), reported=folder.parent / REPORTED
    )
    return Made(folder, _summary(report, folder))


def is_current(sweep: Sweep, store: Store) -> bool:
    """Whether the last report was made of the very records that are there, by size and time of each."""
    return _remembered(sweep, store) == _digest(sweep, store, {})


def _memory(sweep: Sweep, store: Store) -> Path:
    return store.runs / "state" / "reports" / f"{sweep.report_name}.json"


def _remembered(sweep: Sweep, store: Store, key: str = "digest") -> Any:
    """What is remembered of the last report; None where there is none, or what was noted is damaged."""
    with contextlib.suppress(StoreError):
        kept = read_json(_memory(sweep, store))
        return kept.get(key) if isinstance(kept, dict) else None
    return None


def make(sweep: Sweep, store: Store, failures: Mapping[str, str], again: bool = False) -> Made:
    """The report of `sweep`; left as it is if nothing that it shows has changed, unless `again`."""
    folder = store.report_folder(sweep.report_name)
    digest = _digest(sweep, store, failures)
    if not again and (folder / "table.md").exists() and _remembered(sweep, store) == digest:
        return Made(folder, _remembered(sweep, store, "summary"))
    from harness.report import ReportOptions, write_report

    rows = rows_of(sweep, store, failures)
    report = write_report(
        sweep.report_name,
        sweep.config.title or sweep.config.name,
        rows,
        folder,
        ReportOptions(**options_of(sweep)),
        store.root,
        store.root / REPORTED,
    )
    made = Made(folder, _summary(report, folder))
    write_json(_memory(sweep, store), {"digest": digest, "summary": made.summary})
    return made


def options_of(sweep: Sweep) -> dict[str, Any]:
    """What the report must know of the sweep besides its rows."""
    options = [word for text in sweep.overrides for word in ("--set", text)]
    command = as_unicode(shlex.join(["harness", "report", str(sweep.path), *options]))
    return {**sweep.config.report.model_dump(), "arms": list(sweep.config.arms), "command": command}


def rows_of(sweep: Sweep, store: Store, failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """One entry per arm and cell: arm, label, varied keys, the cell's record, or why there is none."""
    finished = store.finished_cells()
    rows = []
    for cell in sweep.cells.values():
        record, status = None, None
        if cell.id in finished:
            try:
                record = store.read_cell(cell.id)
            except DamagedRecord as error:
                status = f"damaged: {error}"
        if record is None:
            status = status or status_of(cell.id, store, failures)
        for arm, varied in cell.rows:
            label = sweep.config.arms[arm].label or arm
            row = {"arm": arm, "label": label, "varied": varied, "record": record, "status": status}
            if record is None:
                row["config"] = as_plain(cell.experiment)
            rows.append(row)
    return rows


def status_of(cell: str, store: Store, failures: Mapping[str, str]) -> str:
    """Why a cell has no record, in one line."""
    target = Target("cell", cell)
    state = store.state(target)
    reason = failures.get(str(target)) or state.get("error")
    word = state.get("state", "missing")
    return f"{word}: {reason}" if reason else str(word)


def _digest(sweep: Sweep, store: Store, failures: Mapping[str, str]) -> str:
    parts: list[Any] = [sweep.report_name, sweep.config.title, options_of(sweep), sorted(failures.items())]
    for cell in sweep.cells.values():
        path = store.cell_path(cell.id)
        seen = path.stat() if path.exists() else None
        labels = [sweep.config.arms[arm].label for arm, _ in cell.rows]
        parts.append([cell.id, cell.rows, labels, seen and [seen.st_size, seen.st_mtime_ns]])
    for source in sorted(REPORT_SOURCE.glob("*.py")):
        parts.append(hashlib.sha256(source.read_bytes()).hexdigest())
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _summary(report: Any, folder: Path) -> dict[str, Any]:
    return {
        "report": str(folder),
        "files": list(report.files),
        "headline": report.headline,
        "caption": report.caption,
        "table": {"columns": list(report.table.columns), "rows": report.table.astype(str).values.tolist()},
    }


def show(made: Made, out: Console) -> None:
    """The table, where the report lies, and last the sentence of what was measured."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, column in enumerate(made.summary["table"]["columns"]):
        table.add_column(escape(column), justify="left" if number < 2 else "right", no_wrap=True)
    rows = made.summary["table"]["rows"]
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*map(escape, row))
    full = Console(width=1000).measure(table).maximum
    wide = Console(file=out.file, width=max(out.width, full), soft_wrap=True, emoji=False)
    wide.print(made.summary["caption"], highlight=False, markup=False)
    wide.print(table)
    if len(rows) > SHOWN_ROWS:
        out.print(f"and {len(rows) - SHOWN_ROWS} more rows: {made.folder / 'table.md'}", highlight=False, markup=False)
    out.print(f"report: {made.folder}", highlight=False, markup=False)
    out.print(made.summary["headline"], highlight=False, markup=False, style="bold")
