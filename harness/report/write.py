"""A report on disk: tables, figures, samples and the page, all from the cells' records alone."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.config.dotted import nest
from harness.errors import StoreError
from harness.files import write_atomically
from harness.report import figures
from harness.report.frontier import Comparison
from harness.report.headline import Roles, comparisons, headline, roles
from harness.report.page import Part, Picture, page
from harness.report.panel import Panel, panels
from harness.report.render import begin
from harness.report.reported import agreeing, has_figure, of_data, read_reported, reported_figure
from harness.report.rows import SCHEMA, Row, canonical, common, difference, flatten, rank
from harness.report.samples import SHOWN, pack, read_samples, unpack
from harness.report.tables import (
    Table,
    ablation_table,
    main_table,
    matched_table,
    number,
    sampler_table,
)
from harness.report.timing import time_command, untrusted, why
from harness.store.store import REPORT_CELLS, REPORT_ROWS, REPORT_SAMPLES, report_head

log = logging.getLogger("harness")

CELLS, SAMPLES = REPORT_CELLS, REPORT_SAMPLES
MANY_CELLS = 2000
"""Cells from which on the figures are rendered by a second process."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report compares, and how things are called."""

    base: str | None = None
    """The arm that others are compared with; the first if unset."""
    base_row: Mapping[str, Any] = field(default_factory=dict)
    """Varied keys of the base arm's row that speed-ups are relative to; its best row if unset."""
    subject: str | None = None
    """The arm whose gain the headline states; ``dual-rate`` if there is one."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Names of varied keys in tables and figures."""
    arms: Sequence[str] = ()
    """Order of the arms, and so their colours; the order of appearance if unset."""
    command: str = "harness report"
    """What a person runs to make the report again."""
    published: bool = False
    """Whether it is a report for others, under version control: a sweep's own report never takes its place."""


@dataclass(frozen=True)
class Report:
    """A report that has been written."""

    folder: Path
    headline: str
    table: pd.DataFrame
    """The main table's text, for a terminal; of the first panel where there are several."""
    caption: str
    files: tuple[str, ...]
    """Names of all files written into the folder, sorted."""
    distance: str
    """The column of the table that holds the distances."""


@dataclass(frozen=True)
class Drawn:
    """A figure that has been drawn: its name, caption, and whether it is written as PDF too."""

    name: str
    caption: str
    figure: Figure


def write_report(
    name: str,
    title: str,
    rows: Iterable[Mapping[str, Any]],
    out_dir: Path,
    options: ReportOptions | None = None,
    samples_root: Path | None = None,
    reported: Path | None = None,
) -> Report:
    """Write the report of `rows` (see :mod:`harness.report.rows`) into the folder `out_dir`.

    `samples_root` is the folder that the records' ``samples`` are relative to; without it, images already kept in
    `out_dir` are used. `reported` is a table of the literature's figures. The same input gives the same bytes, in
    whatever order the rows come. Files of an earlier report in `out_dir` that this one does not have are removed.
    Raises :class:`StoreError` for records that are incomplete or contradict each other.
    """
    cells = list(rows)
    options = options or ReportOptions()
    arms = tuple(dict.fromkeys([*options.arms, *(cell["arm"] for cell in cells)]))
    grouped = panels(cells, arms)
    samples = {**unpack(out_dir / SAMPLES), **collect_samples(grouped, samples_root)}
    kept = {key: samples[key] for panel in grouped for row in sample_rows(panel) if (key := _first(row)) in samples}
    drawn = [report_figures(panel, options, kept, reported) for panel in grouped]
    rendered = begin([item.figure for items in drawn for item in items], apart=len(cells) >= MANY_CELLS)
    suffixes = file_suffixes(grouped)
    sentences = [headline(panel, options.base, options.subject, time_command(options.command)) for panel in grouped]
    tables = [
        [replace(table, name=f"{table.name}{suffix}") for table in report_tables(panel, options)]
        for panel, suffix in zip(grouped, suffixes, strict=True)
    ]
    files: dict[str, bytes] = {}
    for sentence, of_panel in zip(sentences, tables, strict=True):
        files |= _table_files(of_panel, f"# {title or name}\n\n{sentence}\n\n")
    images = iter(rendered())
    parts = []
    for panel, sentence, suffix, of_panel, items in zip(grouped, sentences, suffixes, tables, drawn, strict=True):
        pictures = []
        for item in items:
            picture, document = next(images)
            pictures.append(Picture(f"{item.name}{suffix}", item.caption, picture))
            files |= {f"{item.name}{suffix}.png": picture, f"{item.name}{suffix}.pdf": document}
        notes = _notes(panel, options, pictures)
        parts.append(Part(panel, sentence, tuple(of_panel), tuple(pictures), notes))
    files["index.html"] = page(name, title, parts, options.command).encode()
    if kept:
        files[SAMPLES] = pack(kept)
    files[CELLS] = _cells_json(name, title, cells, options, arms, [*files, CELLS]).encode()
    _replace(out_dir, files)
    return Report(
        out_dir,
        " ".join(part.headline for part in parts),
        parts[0].tables[0].text,
        parts[0].tables[0].caption,
        tuple(sorted(files)),
        parts[0].panel.distance,
    )


def file_suffixes(grouped: Sequence[Panel]) -> list[str]:
    """What tells the files of several panels apart: their condition, with a number where the words are the same."""
    if len(grouped) == 1:
        return [""]
    slugs = [panel.condition.slug if panel.condition else "" for panel in grouped]
    return [f"-{slug}-{slugs[:i].count(slug) + 1}" if slug in slugs[:i] else f"-{slug}" for i, slug in enumerate(slugs)]


def _notes(panel: Panel, options: ReportOptions, pictures: Sequence[Picture]) -> tuple[str, ...]:
    """What holds for a panel's figures, and why one is not drawn."""
    notes = []
    if pictures:
        notes.append(
            "Figures: bars are 95 % intervals; against compute and time a line joins the rows of a method that none of "
            "its others beats, against anything else the rows that differ in nothing else."
        )
    timed = [row for row in panel.measured if row.seconds > 0]
    if untrusted(timed):
        notes.append(f"{panel.distance} against time is not drawn: {why(timed, time_command(options.command))}")
    return tuple(notes)


def _table_files(tables: Sequence[Table], lead: str) -> dict[str, bytes]:
    """Each table in its three formats; `lead` opens the first one's Markdown."""
    files = {}
    for table in tables:
        files[f"{table.name}.md"] = f"{lead if table is tables[0] else ''}{table.markdown}".encode()
        files[f"{table.name}.csv"] = table.csv.encode()
        files[f"{table.name}.tex"] = table.latex.encode()
    return files


def report_tables(panel: Panel, options: ReportOptions) -> list[Table]:
    """All tables of a panel that have rows; the main one first."""
    who = roles(panel, options.base, options.subject)
    command = time_command(options.command)
    tables = [main_table(panel, base_row(panel, options), options.kinds, command)]
    if who is not None:
        tables.append(matched_table(panel, _pairs(panel, who), "matched", who.family, command))
        by_sampler = _pairs(panel, who, by_sampler=True)
        tables.append(matched_table(panel, by_sampler, "matched-by-sampler", who.family, command))
    tables += [sampler_table(panel), ablation_table(panel, options.kinds)]
    return [table for i, table in enumerate(tables) if i == 0 or len(table.text)]


def _pairs(panel: Panel, who: Roles, by_sampler: bool = False) -> list[tuple[Comparison, Comparison | None]]:
    """Each method's comparison in compute with that in time; sampler by sampler only where there are several."""
    if by_sampler and len({row.sampler for row in panel.measured}) < 2:
        return []
    times = {(c.arm, c.name): c for c in comparisons(panel, who, "seconds", by_sampler)}
    return [(c, times.get((c.arm, c.name))) for c in comparisons(panel, who, "gmacs", by_sampler)]


def base_row(panel: Panel, options: ReportOptions) -> Row | None:
    """The row that speed-ups are relative to: as the options say, else the best of the base arm."""
    who = roles(panel, options.base, options.subject)
    if who is None:
        return None
    fitting = [
        row
        for row in panel.measured
        if row.arm == who.base and all(rank(row.setting(k)) == rank(v) for k, v in options.base_row.items())
    ]
    summaries = panel.distances
    return min(fitting, key=lambda row: summaries[row].mean, default=None)


def report_figures(
    panel: Panel,
    options: ReportOptions,
    samples: Mapping[str, np.ndarray] | None = None,
    reported: Path | None = None,
) -> list[Drawn]:
    """Every figure of a panel: frontiers, distance against each varied key, samples, and the literature apart.

    The frontier in time is left out where a time is not to be trusted, the literature where it is of other data.
    """
    if panel.condition is None:
        return []
    known = read_reported(reported) if reported is not None and reported.exists() else ()
    drawn = [
        Drawn(
            "frontier",
            f"{panel.distance} against compute.",
            figures.frontier_figure(panel, "gmacs", agreeing(known, panel)),
        )
    ]
    if any(row.seconds > 0 for row in panel.measured) and not untrusted(panel.measured):
        time = figures.frontier_figure(panel, "seconds")
        drawn.append(Drawn("frontier-time", f"{panel.distance} against time.", time))
    for key, rows in _axes(panel).items():
        name = options.kinds.get(key) or figures.words(key)
        figure = figures.against_figure(panel, key, rows, kinds=options.kinds)
        drawn.append(Drawn(f"by-{figures.file_word(key)}", f"{panel.distance} against {name}.", figure))
    if lines := sample_lines(panel, samples or {}):
        drawn.append(
            Drawn(
                "samples",
                "Each method's row with the least distance; images of one column start from the same noise "
                "(sampling seed and index are equal).",
                figures.sample_figure(lines),
            )
        )
    if has_figure(of_data(known, panel)):
        drawn.append(
            Drawn(
                "reported",
                f"Figures of the literature on {panel.condition.data}, not measured here: FID of 50 000 images, not to "
                "be compared with distances of other features or another N. [EDM] counts a multiply-add as one FLOP; "
                "what [DR] counts is not known. Sources and caveats: results/reported.csv.",
                reported_figure(of_data(known, panel)),
            )
        )
    return drawn


def _axes(panel: Panel) -> dict[str, list[Row]]:
    """What distance is drawn against, each with its rows: the varied keys, and what length of training costs."""
    found = figures.figure_keys(panel)
    for derived, key in figures.DERIVED.items():
        rows = [row for row in found.get(key, []) if figures.value_of(row, derived) is not None]
        if rows:
            found[derived] = rows
    return found


def sample_rows(panel: Panel) -> list[Row]:
    """The rows whose images are shown: each arm's with the least distance."""
    summaries = panel.distances
    by_arm = [[row for row in panel.measured if row.arm == arm] for arm in panel.arms]
    return [min(rows, key=lambda row: summaries[row].mean) for rows in by_arm if rows]


def sample_lines(panel: Panel, samples: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """(name with distance, images) of each row that is shown and has images."""
    summaries = panel.distances
    return [
        (f"{row.name}: {panel.distance} {number(summaries[row].mean)}", samples[_first(row)])
        for row in sample_rows(panel)
        if _first(row) in samples
    ]


def collect_samples(grouped: Iterable[Panel], root: Path | None) -> dict[str, np.ndarray]:
    """The first images of the shown rows, by cell id, from the runs under `root`; those not there are left out."""
    found: dict[str, np.ndarray] = {}
    for panel in grouped if root is not None else ():
        for row in sample_rows(panel):
            place = row.records[0].get("samples")
            if place and root is not None and (path := root / place).exists():
                try:
                    found[_first(row)] = read_samples(path)[:SHOWN]
                except StoreError as error:  # the figures do without
                    log.warning("%s; left out", error)
    return found


def _first(row: Row) -> str:
    return str(row.records[0]["id"])


def _cells_json(
    name: str,
    title: str,
    cells: Sequence[Mapping[str, Any]],
    options: ReportOptions,
    arms: Sequence[str],
    files: Sequence[str],
) -> str:
    """The rows as compact, sorted JSON: what all configurations share is written once."""
    configurations = [(cell.get("record") or {}).get("config") or cell.get("config") for cell in cells]
    shared = common(configuration for configuration in configurations if configuration)
    lines = []
    for cell, configuration in zip(cells, configurations, strict=True):
        record = cell.get("record")
        held = {**cell, "config": difference(configuration, shared) if configuration else None}
        held["record"] = None if record is None else {k: v for k, v in record.items() if k != "config"}
        lines.append(_json(held))
    order = {arm: i for i, arm in enumerate(arms)}
    ordered = sorted(zip([order[cell["arm"]] for cell in cells], lines, strict=True))
    head = json.dumps(
        {
            "schema": SCHEMA,
            "name": name,
            "title": title,
            "options": {**asdict(options), "arms": list(arms)},
            "files": sorted(files),
            "common": flatten(shared),
        },
        sort_keys=True,
        ensure_ascii=False,
    )
    body = ",\n".join(line for _, line in ordered)
    return f"{head[:-1]}{REPORT_ROWS}\n{body}\n]}}\n"


def _json(held: Mapping[str, Any]) -> str:
    """JSON that any program reads: a number that is none (nan, infinite) is null there."""
    try:
        return canonical(held)
    except ValueError:
        return canonical(_without_infinite(held))


def _without_infinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_infinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_cells(path: Path) -> dict[str, Any]:
    """``cells.json`` as it stands, checked for its form. Raises :class:`StoreError`."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as a report's cells: {error}") from None
    if not isinstance(held, dict) or held.get("schema") != SCHEMA or "rows" not in held:
        raise StoreError(f"{path}: is not a report's cells of schema {SCHEMA}")
    return held


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that a report was made from, from its ``cells.json``: what :func:`write_report` takes."""
    return kept_rows(load_cells(path))


def kept_rows(held: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same from what :func:`load_cells` has read."""
    rows = []
    for line in map(dict, held["rows"]):
        own = line.pop("config")
        configuration = None if own is None else nest({**held["common"], **own})
        if line["record"] is not None:
            line["record"] = {**line["record"], "config": configuration}
        elif configuration is not None:
            line["config"] = configuration
        rows.append(line)
    return rows


def load_options(path: Path) -> ReportOptions:
    """The options that a report was made with, from its ``cells.json``."""
    return kept_options(load_cells(path))


def kept_options(held: Mapping[str, Any]) -> ReportOptions:
    """The same from what :func:`load_cells` has read."""
    return ReportOptions(**held["options"])


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` atomically, ``cells.json`` last, and remove those of the report that stood here before."""
    before = _files_before(folder / CELLS)
    for name in sorted(files, key=lambda name: (name == CELLS, name)):
        path = folder / name
        if not path.exists() or path.read_bytes() != files[name]:
            write_atomically(path, files[name])
    for name in before:
        if name not in files and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _files_before(path: Path) -> list[str]:
    """The files of the report that stands beside the ``cells.json`` at `path`; none where there is no such report."""
    files = report_head(path).get("files", [])
    return list(files) if isinstance(files, list) else []
