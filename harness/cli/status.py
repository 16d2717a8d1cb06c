"""`harness status`: what became of every training and cell of a sweep, or of all sweeps of a folder of results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.cli.console import console, print_json
from harness.cli.hints import Asked
from harness.config.schema import nearest
from harness.dispatch.labels import labels_of
from harness.dispatch.plan import plan
from harness.dispatch.progress import clock_text
from harness.dispatch.slurm.advice import status_advice
from harness.dispatch.slurm.live import earlier_sentence
from harness.dispatch.slurm.overview import Overview, SubmittedSweep, read_overview
from harness.dispatch.status import LIVE, STATES, WORDS, Row, SweepStatus, read_status
from harness.dispatch.sweep import Sweep, load_sweep
from harness.errors import ConfigError
from harness.store.kinds import KINDS, told_kinds
from harness.store.store import Store, Target
from harness.wording import count_of

WATCH_SECONDS = 5.0
SHOWN_ROWS = 60
SHOWN_ID = 10
PLAIN_WIDTH = 160
"""Columns where the output is no terminal and COLUMNS is not set."""
STYLES = {"running": "cyan", "failed": "red", "blocked": "red", "cancelled": "yellow", "lost": "red", "done": "green"}
COLUMNS = ("id", "training or cell", "state", "done", "runs", "job", "node", "elapsed", "ETA")
NAME = COLUMNS.index("training or cell")
LEFT_OUT = ("runs", "node", "job", "elapsed", "ETA", "done")
"""Columns in the order in which they are left out where a terminal is too narrow for all."""
SEPARATOR = 3


def run(file: Path | None, overrides: Sequence[str], results: Path, watch: bool, json_output: bool) -> None:
    """Of the sweep in `file`; of all that was submitted from `results` if there is none."""
    if file is None:
        _run_overview(overrides, results, watch, json_output)
        return
    sweep, store, asked = load_sweep(file, overrides), Store(results), Asked(file, overrides, results)
    if json_output:
        print_json(as_plain(read_status(plan(sweep, store), store), sweep))
        return

    def read() -> tuple[Callable[[int, int], RenderableType], bool]:
        planned = plan(sweep, store)
        status = read_status(planned, store)
        return lambda most, width: table_of(status, planned.sweep, most, width, asked), status.is_live

    _show(read, watch)


def _run_overview(overrides: Sequence[str], results: Path, watch: bool, json_output: bool) -> None:
    if overrides:
        raise ConfigError("--set", [f"{overrides[0]}: has no meaning without a sweep file"])
    store = Store(results)
    if json_output:
        print_json(overview_as_plain(read_overview(store)))
        return

    def read() -> tuple[Callable[[int, int], RenderableType], bool]:
        overview = read_overview(store)
        return lambda most, width: overview_of(overview, results, most, width), any(s.jobs for s in overview.sweeps)

    _show(read, watch)


def _show(read: Callable[[], tuple[Callable[[int, int], RenderableType], bool]], watch: bool) -> None:
    """Print what `read` returns, or with `watch` keep it up to date until nothing is live any more."""
    out = console()
    if not out.is_terminal and not os.environ.get("COLUMNS"):
        out.width = PLAIN_WIDTH
    render, is_live = read()
    if watch:
        from rich.live import Live

        with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
            while True:
                live.update(render(max(5, out.height - 8), out.width), refresh=True)
                if not is_live:
                    break
                time.sleep(WATCH_SECONDS)
                render, is_live = read()
    if not watch or out.is_terminal:
        out.print(render(SHOWN_ROWS, out.width))


def as_plain(status: SweepStatus, sweep: Sweep) -> dict[str, Any]:
    """The status as JSON values; times in seconds."""
    return {
        "sweep": sweep.config.name,
        "complete": status.is_complete,
        "note": status.note,
        "earlier": status.earlier,
        "counts": {kind: dict(status.count(kind)) for kind in KINDS},
        "rows": [
            {
                "kind": row.target.kind,
                "id": row.target.id,
                "state": row.state,
                "reason": row.reason,
                "samples": row.samples,
                "progress": row.progress,
                "phase": row.phase and dict(zip(("name", "done", "total"), row.phase, strict=True)),
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
    told = told_kinds(target.kind for target in status.rows)
    return "; ".join(f"{kind}s: {_counts(status, kind)}" for kind in told)


def _counts(status: SweepStatus, kind: str) -> str:
    counts = status.count(kind)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"


def table_of(
    status: SweepStatus, sweep: Sweep, most: int, width: int = PLAIN_WIDTH, asked: Asked | None = None
) -> Group:
    """Summary and the rows that matter most, at most `most` of them, in a table that fits `width`."""
    rows = sorted(status.rows.values(), key=lambda row: STATES.index(row.state))
    shown = rows if len(rows) <= most else [row for row in rows if row.state != "done"][:most]
    labels = labels_of(sweep)
    columns = [_columns(row, labels[row.target]) for row in shown]
    parts: list[RenderableType] = [Text(summary_line(status)), _fitted(columns, width)]
    if len(shown) < len(rows):
        parts.append(Text(f"… and {count_of(len(rows) - len(shown), 'more row')}; --json lists all"))
    if status.note:
        parts.append(Text(status.note, style="yellow"))
    parts += [Text(line) for line in status_advice(status)]
    parts += [Text(line) for line in hints(status, asked or Asked(sweep.path, sweep.overrides))]
    return Group(*parts)


def _fitted(rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Columns are left out before names shrink: a name gets what it needs, up to half the width."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = {
        name: max([len(name), *(cell_len(row[place].plain.partition("\n")[0]) for row in cells)])
        for place, name in enumerate(COLUMNS)
    }
    widths[COLUMNS[NAME]] = min(widths[COLUMNS[NAME]], max(len(COLUMNS[NAME]), width // 2))
    kept = [name for name in COLUMNS if any(row[COLUMNS.index(name)].plain for row in cells) or name not in LEFT_OUT]
    for name in LEFT_OUT:
        if name in kept and sum(widths[one] + SEPARATOR for one in kept) - SEPARATOR > width:
            kept.remove(name)
    table = Table(show_edge=False, pad_edge=False)
    for name in kept:
        table.add_column(name, no_wrap=name != COLUMNS[NAME], overflow="fold")
    for row in cells:
        table.add_row(*(row[COLUMNS.index(name)] for name in kept))
    return table


def _columns(row: Row, label: str) -> list[str | Text]:
    style = STYLES.get(row.state, "")
    what = Text(label)
    if row.reason:
        what.append(f"\n{row.reason}", style=style or "dim")
    if row.samples:
        what.append(f"\n{row.samples}", style="dim")
    return [
        row.target.id[:SHOWN_ID],
        what,
        Text(row.state, style=style),
        _done(row),
        str(row.attempts or ""),
        row.job or "",
        row.node or "",
        clock_text(row.elapsed_seconds) if row.elapsed_seconds is not None else "",
        clock_text(row.eta_seconds) if row.eta_seconds is not None else "",
    ]


def _done(row: Row) -> str:
    """How far a target is, or what its job does after that: ``120/300``, ``features 250/800``, ``counting``."""
    if row.phase is not None:
        name, done, total = row.phase
        return f"{name} {done}/{total}" if total else name
    return f"{row.progress[0]}/{row.progress[1]}" if row.progress else ""


def hints(status: SweepStatus, asked: Asked) -> list[str]:
    """What to do next, as commands to paste."""
    lines = []
    if status.earlier:
        lines.append(f"{earlier_sentence(status.earlier)}; to end them: {asked.command('cancel', '--earlier')}")
    ended = status.in_states(["failed", "lost", "cancelled"])
    if ended:
        lines.append(f"what a job said: {asked.command('logs', ended[0].target.id[:SHOWN_ID])}")
        lines.append(f"to run again what did not end well: {asked.command('retry')}")
    elif status.in_states(["missing"]):
        beside = " (the jobs of the earlier version go on beside it)" if status.earlier else ""
        rest = "submits the rest" if status.in_states(LIVE) else "does"
        command = _as_submitted(status, asked).command("sweep", submits=True)
        lines.append(f"missing: {WORDS['missing']}; this {rest}{beside}: {command}")
    return lines


def _as_submitted(status: SweepStatus, asked: Asked) -> Asked:
    """With the cluster settings of the sweep's last submission, if there was one."""
    made = [status.assigned[target].submission for target in status.rows if target in status.assigned]
    if not made:
        return asked
    newest = max(made, key=lambda submission: submission.created)
    return replace(asked, cluster="slurm", slurm=newest.slurm)


def submitted_targets(sweep: Sweep, store: Store) -> list[Target]:
    """All that was ever submitted for the sweep, in any version of its file."""
    from harness.dispatch.slurm.submissions import SweepKey, assignments, load_submissions

    key = SweepKey.of(sweep)
    return list(assignments([made for made in load_submissions(store) if made.is_of(key)]))


def find_targets(sweep: Sweep, names: Iterable[str], further: Iterable[Target] = ()) -> list[Target]:
    """Targets of any kind, and what is in `further`, by id or the start of one. Raises :class:`ConfigError`."""
    everything = list(dict.fromkeys([*sweep.nodes, *further]))
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
            kinds = " or ".join(told_kinds(target.kind for target in everything))
            problems.append(f"{name}: no {kinds} of this sweep has such an id{hint}")
    if problems:
        raise ConfigError(str(sweep.path), problems)
    return found


def overview_as_plain(overview: Overview) -> dict[str, Any]:
    """All sweeps of a folder as JSON values."""
    return {
        "note": overview.note,
        "sweeps": [
            {
                "sweep": sweep.name,
                "file": sweep.file,
                "set": list(sweep.overrides),
                "submitted": sweep.submitted,
                **{f"{kind}s": dict(zip(("done", "submitted"), sweep.count(kind), strict=True)) for kind in KINDS},
                "jobs": [
                    {
                        "job": made.id,
                        "state": made.job.state.lower(),
                        "reason": made.job.reason,
                        "node": made.job.node or None,
                        "targets": [str(target) for target in made.targets],
                    }
                    for made in sweep.jobs
                ],
            }
            for sweep in overview.sweeps
        ],
    }


def overview_of(overview: Overview, results: Path, most: int, width: int) -> Group:
    """One line per sweep with its jobs, and how to look closer at each; the running jobs, at most `most` of them."""
    if not overview.sweeps:
        note = [Text(overview.note, style="yellow")] if overview.note else []
        return Group(Text(f"no jobs were submitted for results in {results}"), *note)
    sweeps = Table(show_edge=False, pad_edge=False)
    kinds = told_kinds(target.kind for sweep in overview.sweeps for target in sweep.targets)
    for name in ("sweep", "submitted", *(f"{kind}s" for kind in kinds), "running", "waiting"):
        sweeps.add_column(name, overflow="fold", no_wrap=name != "sweep")
    for sweep in overview.sweeps:
        counts = ["{}/{}".format(*sweep.count(kind)) for kind in kinds]
        waiting = len(sweep.jobs) - sweep.running
        when = time.strftime("%m-%d %H:%M", time.localtime(sweep.submitted))
        sweeps.add_row(_title(sweep), when, *counts, str(sweep.running), str(waiting))
    parts: list[RenderableType] = [sweeps]
    parts += _jobs_table([(sweep, made) for sweep in overview.sweeps for made in sweep.jobs], most)
    if overview.note:
        parts.append(Text(overview.note, style="yellow"))
    for sweep in overview.sweeps:
        if sweep.file is not None and (sweep.jobs or sweep is overview.sweeps[0]):
            shown = (
                Path(os.path.relpath(sweep.file)) if Path(sweep.file).is_relative_to(Path.cwd()) else Path(sweep.file)
            )
            parts.append(Text(Asked(shown, sweep.overrides, results).command("status")))
    return Group(*parts)


def _title(sweep: SubmittedSweep) -> str:
    return " ".join([sweep.name, *(f"--set {text}" for text in sweep.overrides)])


def _jobs_table(jobs: Sequence[tuple[SubmittedSweep, Any]], most: int) -> list[RenderableType]:
    """The live jobs, those that run first."""
    if not jobs:
        return [Text("no job of any of them runs or waits")]
    ordered = sorted(jobs, key=lambda pair: pair[1].job.is_pending)
    table = Table(show_edge=False, pad_edge=False)
    for name in ("job", "makes", "sweep", "state", "node"):
        table.add_column(name, overflow="fold", no_wrap=name in ("job", "state"))
    for sweep, made in ordered[:most]:
        targets = ", ".join(f"{target.kind} {target.id[:SHOWN_ID]}" for target in made.targets)
        state = made.job.state.lower() + (f" ({made.job.reason})" if made.job.reason else "")
        table.add_row(made.id, targets, sweep.name, state, made.job.node)
    rest = len(jobs) - most
    return [table, *([Text(f"… and {count_of(rest, 'more job')}; --json lists all")] if rest > 0 else [])]
