"""`harness report`: tables and figures from the results that are there."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness.cli.console import console, print_json, say
from harness.cli.fitting import fitted
from harness.cli.hints import Asked
from harness.config.schema import Experiment, as_plain, nearest
from harness.dispatch.sweep import Sweep, load_sweep
from harness.errors import ConfigError, StoreError
from harness.files import as_unicode, read_json, write_atomically, write_json
from harness.store.records import OF_NEWER_VERSION, CellRecord, DamagedRecord, NewerRecord
from harness.store.store import LOCAL, REPORT_CELLS, REPORT_SAMPLES, Store, Target, is_published
from harness.wording import count_of

if TYPE_CHECKING:
    from harness.report import Report, ReportCell

log = logging.getLogger("harness")

REPORT_SOURCE = Path(__file__).parent.parent / "report"
REPORTED = "reported.csv"
"""The literature's figures, in the folder of results; those that come with the harness where there are none."""
OWN_REPORTED = (REPORT_SOURCE / REPORTED, Path(__file__).parents[2] / "results" / REPORTED)
"""Where they lie in a wheel, and in the project's source."""


@dataclass(frozen=True)
class Made:
    """A report on disk, in a few words."""

    folder: Path
    summary: dict[str, Any]


def run(
    file: Path,
    overrides: Sequence[str],
    results: Path,
    json_output: bool,
    publish: bool = False,
    metric: str | None = None,
) -> None:
    """Make the report of a sweep, or of a report's folder, again; `metric` is what rows are ranked by this time."""
    with without_garbage_collection():
        if file.is_dir():
            made = remake(file, publish, metric)
        else:
            from harness.dispatch.checks import check_folder

            sweep = load_sweep(file, overrides)
            check_folder(results)
            made = make(sweep, Store(results), {}, again=True, publish=publish, metric=metric)
    if json_output:
        print_json(made.summary)
    else:
        show(made, console())


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector: ten thousand records are millions of objects, none of them garbage, and looking for
    some takes longer than reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def remake(folder: Path, publish: bool = False, metric: str | None = None) -> Made:
    """Make a report again from its own cells.json, without the runs it was made from: in place, or published.

    A published one is ranked by another measure in the folder of a sweep's own report.
    """
    from harness.report import load_report, write_report

    path = folder / REPORT_CELLS
    if not path.exists():
        raise ConfigError(str(folder), [f"holds no {REPORT_CELLS}; it is not the folder of a report"])
    kept = load_report(path)
    options = replace(kept.options, metric=metric or kept.options.metric)
    root = folder.parent.parent if folder.parent.name == LOCAL else folder.parent
    check_metric(options.metric, kept.cells)
    target = folder
    if publish:
        target, options = Store(root).published_folder(folder.name), replace(options, published=True)
    elif options.metric != kept.options.metric and is_published(folder):  # ranking by another measure publishes nothing
        target, options = root / LOCAL / folder.name, replace(options, published=False)
    if target != folder and (folder / REPORT_SAMPLES).exists():
        write_atomically(target / REPORT_SAMPLES, (folder / REPORT_SAMPLES).read_bytes())
    report = write_report(kept.name, kept.title, kept.cells, target, options, reported=reported_table(root))
    return Made(target, _summary(report, target))


def check_metric(metric: str, cells: Iterable[ReportCell]) -> None:
    """Raise ConfigError for a measure that no cell has."""
    measured = [cell.record.quality.measures for cell in cells if cell.record is not None]
    known = dict.fromkeys(name for measures in measured for name in measures)
    if measured and metric not in known:
        raise ConfigError(
            "report.metric",
            [f"{metric!r} was measured in no cell{nearest(metric, list(known))}; measured: {', '.join(known)}"],
        )


def is_current(sweep: Sweep, store: Store) -> bool:
    """Whether the last report was made from exactly the records that are there, by size and time of each."""
    return _remembered(sweep, store) == _digest(sweep, store, {}, store.report_folder(sweep.report_name))


def _memory(sweep: Sweep, store: Store) -> Path:
    return store.runs / "state" / "reports" / f"{sweep.report_name}.json"


def _remembered(sweep: Sweep, store: Store, key: str = "digest") -> Any:
    """What is remembered of the last report; None where there is none, or what was noted is damaged."""
    with contextlib.suppress(StoreError):
        kept = read_json(_memory(sweep, store))
        return kept.get(key) if isinstance(kept, dict) else None
    return None


def make(
    sweep: Sweep,
    store: Store,
    failures: Mapping[str, str],
    again: bool = False,
    publish: bool = False,
    metric: str | None = None,
) -> Made:
    """The report of `sweep`; left as it is if nothing that it shows has changed, unless `again`.

    With `publish` it is the one that is under version control, which is never written otherwise.
    """
    name = sweep.report_name
    folder = store.published_folder(name) if publish else store.report_folder(name)
    digest = _digest(sweep, store, failures, folder)
    if not again and (folder / "table.md").exists() and _remembered(sweep, store) == digest:
        return Made(folder, _remembered(sweep, store, "summary"))
    from harness.report import ReportOptions, write_report

    cells = cells_of(sweep, store, failures)
    options = ReportOptions(**options_of(sweep, store), published=publish)
    options = replace(options, metric=metric or options.metric)
    check_metric(options.metric, cells)
    title = sweep.config.title or sweep.config.name
    report = write_report(name, title, cells, folder, options, store.root, reported_table(store.root))
    made = Made(folder, _summary(report, folder))
    # One made by another measure than the sweep's own is not what the next sweep leaves behind.
    is_own = options.metric == sweep.config.report.metric
    write_json(_memory(sweep, store), {"digest": digest if is_own else None, "summary": made.summary})
    return made


def reported_table(root: Path) -> Path:
    """The literature's figures that go with the folder of results `root`."""
    return next((path for path in (root / REPORTED, *OWN_REPORTED) if path.exists()), OWN_REPORTED[-1])


def options_of(sweep: Sweep, store: Store) -> dict[str, Any]:
    """What the report must know of the sweep besides its rows."""
    command = as_unicode(Asked(sweep.path, sweep.overrides, store.root).command("report"))
    return {**sweep.config.report.model_dump(), "arms": list(sweep.config.arms), "command": command}


def cells_of(sweep: Sweep, store: Store, failures: Mapping[str, str]) -> list[ReportCell]:
    """One entry per arm and cell: arm, label, varied keys, the cell's record, or why there is none."""
    from harness.report import ReportCell

    finished = store.finished_cells()
    cells, newer = [], list[str]()
    for cell in sweep.cells.values():
        record, status = None, None
        if cell.id in finished:
            try:
                record = _labelled(store.read_cell(cell.id), cell.experiment)
            except DamagedRecord as error:
                status = f"damaged: {error}"
            except NewerRecord as error:
                status = OF_NEWER_VERSION
                newer.append(str(error))
        if record is None:
            status = status or status_of(cell.id, store, failures)
        config = as_plain(cell.experiment) if record is None else None
        for arm, varied in cell.rows:
            label = sweep.config.arms[arm].label or arm
            cells.append(ReportCell(arm, varied, record, label, config, status))
    if newer:
        log.warning("%s left out of the report: %s", count_of(len(newer), "cell"), newer[0])
    return cells


def _labelled(record: CellRecord, experiment: Experiment) -> CellRecord:
    """The record under the label that the sweep gives the data now: a new name is no reason to measure a cell again."""
    label = experiment.data.label
    if label is None or label == record.config["data"].get("label"):
        return record
    config = {**record.config, "data": {**record.config["data"], "label": label}}
    return record.model_copy(update={"config": config})


def status_of(cell: str, store: Store, failures: Mapping[str, str]) -> str:
    """Why a cell has no record, in one line."""
    target = Target("cell", cell)
    state = store.state(target)
    reason = failures.get(str(target)) or state.get("error")
    word = state.get("state", "missing")
    return f"{word}: {reason}" if reason else str(word)


def _digest(sweep: Sweep, store: Store, failures: Mapping[str, str], folder: Path) -> str:
    parts: list[Any] = [
        str(folder),
        sweep.report_name,
        sweep.config.title,
        options_of(sweep, store),
        sorted(failures.items()),
    ]
    for cell in sweep.cells.values():
        try:
            seen = store.cell_path(cell.id).stat()
        except OSError:
            seen = None
        labels = [sweep.config.arms[arm].label for arm, _ in cell.rows]
        data = cell.experiment.data.label
        parts.append([cell.id, cell.rows, labels, data, seen and [seen.st_size, seen.st_mtime_ns]])
    for source in [*_sources(), reported_table(store.root)]:
        parts.append(hashlib.sha256(source.read_bytes()).hexdigest() if source.exists() else None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _sources() -> list[Path]:
    """What a report is made by: its modules, templates, style and script."""
    return sorted(path for path in REPORT_SOURCE.rglob("*") if path.suffix in (".py", ".html", ".css", ".js"))


def _summary(report: Report, folder: Path) -> dict[str, Any]:
    return {
        "report": str(folder),
        "files": list(report.files),
        "headline": report.headline,
        "conditions": report.conditions,
        "caption": report.caption,
        "distance": report.distance,
        "table": {"columns": list(report.table.columns), "rows": report.table.astype(str).values.tolist()},
    }


def show(made: Made, out: Console) -> None:
    """Print as much of the table as fits, where the report is, and last the headline with its conditions."""
    told = made.summary["table"]
    table, left_out = fitted(told["columns"], told["rows"], made.summary["distance"], width_of(out))
    say(made.summary["caption"], out)
    Console(file=out.file, emoji=False, width=max(out.width, Console(width=WIDEST).measure(table).maximum)).print(table)
    if left_out:
        say(f"{left_out}: {made.folder / 'table.md'} has the whole table", out)
    say(f"report: {made.folder}", out)
    say(made.summary["headline"], out, style="bold")
    if made.summary["conditions"]:
        say(made.summary["conditions"], out)


WIDEST = 10_000
"""In letters; wider than any table."""


def width_of(out: Console) -> int | None:
    """Letters in a line; None where that is unknown, as in a file or a pipe."""
    return out.width if out.is_terminal or os.environ.get("COLUMNS", "").isdecimal() else None
