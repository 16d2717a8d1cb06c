"""`harness status` and `harness logs`: what became of every training and cell, and what their jobs said."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.cli import console, print_json
from harness.config import nearest
from harness.errors import ConfigError, StoreError
from harness.plan import plan
from harness.progress import clock_text
from harness.slurm.status import STATES, WORDS, Row, SweepStatus, read_status
from harness.store import Store, Target
from harness.sweep import Sweep, load_sweep

WATCH_SECONDS = 5.0
SHOWN_ROWS = 60
SHOWN_ID = 10
PLAIN_WIDTH = 160
"""Columns where the output is no terminal."""
STYLES = {"running": "cyan", "failed": "red", "blocked": "red", "cancelled": "yellow", "lost": "red", "done": "green"}
LOG_BYTES = 200_000


def run(file: Path, overrides: Sequence[str], results: Path, watch: bool, json_output: bool) -> None:
    sweep, store = load_sweep(file, overrides), Store(results)
    if json_output:
        print_json(as_plain(read_status(plan(sweep, store), store), sweep))
        return
    out = console()
    if not watch:
        _print(read_status(plan(sweep, store), store), sweep, out)
        return
    with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
        while True:
            status = read_status(plan(sweep, store), store)
            live.update(table_of(status, sweep, max(5, out.height - 8)), refresh=True)
            if not status.is_live:
                break
            time.sleep(WATCH_SECONDS)
    if out.is_terminal:
        _print(status, sweep, out)


def _print(status: SweepStatus, sweep: Sweep, out: Console) -> None:
    if not out.is_terminal:
        out.width = PLAIN_WIDTH
    out.print(table_of(status, sweep, SHOWN_ROWS))


def as_plain(status: SweepStatus, sweep: Sweep) -> dict[str, Any]:
    """The status as JSON values; times in seconds."""
    return {
        "sweep": sweep.config.name,
        "complete": status.is_complete,
        "note": status.note,
        "counts": {kind: dict(status.count(kind)) for kind in ("training", "cell")},
        "rows": [
            {
                "kind": row.target.kind,
                "id": row.target.id,
                "state": row.state,
                "reason": row.reason,
                "progress": row.progress,
                "attempts": row.attempts,
                "job": row.job,
                "node": row.node,
                "elapsed_seconds": row.elapsed_seconds,
                "eta_seconds": row.eta_seconds,
            }
            for row in status.rows.values()
        ],
    }


def summary_line(status: SweepStatus) -> str:
    """``trainings: 3 done, 1 running; cells: …``"""
    return "; ".join(f"{kind}s: {_counts(status, kind)}" for kind in ("training", "cell"))


def _counts(status: SweepStatus, kind: str) -> str:
    counts = status.count(kind)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"


def table_of(status: SweepStatus, sweep: Sweep, most: int) -> Group:
    """Summary and the rows that matter most, at most `most` of them."""
    rows = sorted(status.rows.values(), key=lambda row: STATES.index(row.state))
    shown = rows if len(rows) <= most else [row for row in rows if row.state != "done"][:most]
    table = Table(show_edge=False, pad_edge=False)
    for column in ("id", "training or cell", "state", "done", "runs", "job", "node", "elapsed", "ETA"):
        table.add_column(column, no_wrap=column != "training or cell", overflow="fold")
    for row in shown:
        table.add_row(*_columns(row, sweep))
    parts: list[Any] = [Text(summary_line(status)), table]
    if len(shown) < len(rows):
        parts.append(Text(f"… and {len(rows) - len(shown)} more; --json lists all"))
    if status.note:
        parts.append(Text(status.note, style="yellow"))
    if hint := _hint(status):
        parts.append(Text(hint))
    return Group(*parts)


def _columns(row: Row, sweep: Sweep) -> list[str | Text]:
    from harness.dispatch import describe

    style = STYLES.get(row.state, "")
    what = Text(describe(row.target, sweep))
    if row.reason:
        what.append(f"\n{row.reason}", style=style or "dim")
    return [
        row.target.id[:SHOWN_ID],
        what,
        Text(row.state, style=style),
        f"{row.progress[0]}/{row.progress[1]}" if row.progress else "",
        str(row.attempts or ""),
        row.job or "",
        row.node or "",
        clock_text(row.elapsed_seconds) if row.elapsed_seconds is not None else "",
        clock_text(row.eta_seconds) if row.eta_seconds is not None else "",
    ]


def _hint(status: SweepStatus) -> str:
    """What a person may want to do next."""
    present = {row.state for row in status.rows.values()}
    if present & {"failed", "cancelled", "lost"}:
        return "harness logs FILE ID shows what a job said; harness retry FILE runs again what did not end well"
    if "missing" in present:
        return f"missing: {WORDS['missing']}; harness sweep FILE does"
    return ""


def find_targets(sweep: Sweep, names: Iterable[str]) -> list[Target]:
    """Trainings and cells by id or the start of one. Raises :class:`ConfigError`."""
    everything = [Target("training", id) for id in sweep.trainings] + [Target("cell", id) for id in sweep.cells]
    found: list[Target] = []
    problems: list[str] = []
    for name in names:
        matches = [target for target in everything if target.id.startswith(name)]
        if len(matches) == 1:
            found += matches
        elif matches:
            problems.append(f"{name}: is the start of {len(matches)} ids: {', '.join(t.id for t in matches[:4])}")
        else:
            hint = nearest(name, [target.id for target in everything])
            problems.append(f"{name}: no training or cell of this sweep has such an id{hint}")
    if problems:
        raise ConfigError(str(sweep.path), problems)
    return found


def logs(file: Path, name: str, overrides: Sequence[str], results: Path, json_output: bool) -> None:
    """What the last job of a training or cell printed, and the traceback of its error."""
    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    (target,) = find_targets(sweep, [name])
    noted = store.state(target)
    paths = log_paths(store, target)
    if not paths and not noted.get("traceback"):
        raise StoreError(f"{target}: no job of it has left a log")
    if json_output:
        print_json({"id": target.id, "files": [str(path) for path in paths], "traceback": noted.get("traceback")})
        return
    for path in paths:
        out.rule(str(path), style="dim")
        _print_tail(path, out)
    if noted.get("traceback"):
        out.rule(f"{target}: {noted.get('state')}", style="dim")
        out.print(noted["traceback"], highlight=False, markup=False)


def log_paths(store: Store, target: Target) -> list[Path]:
    """What all ranks of the newest job printed, and their errors."""
    from harness.slurm.records import assignments, load_submissions

    assignment = assignments(load_submissions(store)).get(target)
    if assignment is None:
        return []
    folder = assignment.submission.folder
    return sorted(path for path in folder.glob(f"{assignment.job}_*_log.*") if _is_of(path.name, assignment.job))


def _is_of(file_name: str, job: str) -> bool:
    """Whether ``12_3_0_log.err`` is of job ``12_3``, not of an element of array ``12``."""
    return file_name.removeprefix(f"{job}_").split("_")[1].startswith("log.")


def _print_tail(path: Path, out: Console) -> None:
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(max(0, size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    if size > LOG_BYTES:
        out.print(f"… the last {LOG_BYTES // 1000} kB", highlight=False)
    out.print(text, highlight=False, markup=False, end="")
