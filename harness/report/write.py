"""Writes a report: tables, figures, samples and the page, from the cells' records alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.errors import StoreError
from harness.files import write_atomically
from harness.report.added_table import added_table
from harness.report.bought import ADDED_FIGURE, added_any, added_note, bought
from harness.report.cells_file import cells_json
from harness.report.chart import chart
from harness.report.frontier import Comparison
from harness.report.headline import Headline, Roles, comparisons, headline, roles
from harness.report.options import ReportOptions
from harness.report.page import Part, Picture, page
from harness.report.panel import Panel, panels
from harness.report.render import Draw, begin
from harness.report.rows import ReportCell, Row, rank
from harness.report.samples import SHOWN, pack, read_samples, unpack
from harness.report.shown import explored_rows, first_cell
from harness.report.tables import Table, ablation_table, distilled_table, main_table, matched_table, sampler_table
from harness.report.tables.table import markdown_escape
from harness.report.timing import time_command, untrusted, why
from harness.store.store import REPORT_CELLS, REPORT_SAMPLES, report_head

if TYPE_CHECKING:
    from harness.report.figure_list import Drawn

log = logging.getLogger("harness")

CELLS, SAMPLES = REPORT_CELLS, REPORT_SAMPLES
MANY_CELLS = 2000
"""From this many cells on, a second process renders the figures."""


@dataclass(frozen=True)
class Report:
    """A report that has been written."""

    folder: Path
    headlines: tuple[Headline, ...]
    """One per panel."""
    table: pd.DataFrame
    """The main table as text, for a terminal; the first panel's if there are several."""
    caption: str
    files: tuple[str, ...]
    """Names of all files written into the folder, sorted."""
    distance: str
    """The table's column with the measure that rows are ranked by."""

    @property
    def headline(self) -> str:
        """The headlines of all panels in one line."""
        return " ".join(one.line for one in self.headlines)

    @property
    def conditions(self) -> str:
        """The conditions that go with the headlines."""
        return " ".join(one.conditions for one in self.headlines if one.conditions)


def write_report(
    name: str,
    title: str,
    rows: Iterable[ReportCell],
    out_dir: Path,
    options: ReportOptions | None = None,
    samples_root: Path | None = None,
    reported: Path | None = None,
) -> Report:
    """Write the report of `rows` into the folder `out_dir`.

    `samples_root` is the folder that the records' ``samples`` are relative to; without it, images already kept in
    `out_dir` are used. `reported` is a table of figures from the literature. The same input gives the same bytes,
    whatever the order of the rows. Files of an earlier report in `out_dir` that this one does not have are removed.
    Raises :class:`StoreError` for records that are incomplete or contradict each other.
    """
    cells = list(rows)
    options = options or ReportOptions()
    arms = tuple(dict.fromkeys([*options.arms, *(cell.arm for cell in cells)]))
    grouped = panels(cells, arms, options.metric)
    samples = {**unpack(out_dir / SAMPLES), **collect_samples(grouped, samples_root)}
    shown = [first_cell(row) for panel in grouped for row in explored_rows(panel)]
    kept = {key: samples[key] for key in shown if key in samples}
    rendered = begin(_drawing(grouped, options, kept, reported), apart=len(cells) >= MANY_CELLS)
    suffixes = file_suffixes(grouped)
    command = time_command(options.command)
    headlines = [headline(panel, options.base, options.subject, command) for panel in grouped]
    tables = [
        [replace(table, name=f"{table.name}{suffix}") for table in report_tables(panel, options)]
        for panel, suffix in zip(grouped, suffixes, strict=True)
    ]
    files: dict[str, bytes] = {}
    for lead, of_panel in zip(headlines, tables, strict=True):
        opening = [f"# {markdown_escape(title or name)}", f"**{markdown_escape(lead.line)}**"]
        opening += [markdown_escape(lead.conditions)] if lead.conditions else []
        files |= _table_files(of_panel, "\n\n".join([*opening, ""]))
    parts = []
    for panel, lead, suffix, of_panel, drawn in zip(grouped, headlines, suffixes, tables, rendered(), strict=True):
        pictures = [Picture(f"{one.name}{suffix}", one.caption, one.png) for one in drawn]
        for one in drawn:
            files |= {f"{one.name}{suffix}.png": one.png, f"{one.name}{suffix}.pdf": one.pdf}
        notes = _notes(panel, options, pictures)
        parts.append(Part(panel, lead, tuple(of_panel), tuple(pictures), notes, chart(panel, kept)))
    files["index.html"] = page(name, title, parts, options.command).encode()
    if kept:
        files[SAMPLES] = pack(kept)
    files[CELLS] = cells_json(name, title, cells, options, arms, [*files, CELLS]).encode()
    _replace(out_dir, files)
    return Report(
        out_dir,
        tuple(part.headline for part in parts),
        parts[0].tables[0].text,
        parts[0].tables[0].caption,
        tuple(sorted(files)),
        parts[0].panel.distance,
    )


def _drawing(
    grouped: Sequence[Panel], options: ReportOptions, samples: Mapping[str, np.ndarray], reported: Path | None
) -> Draw:
    def draw() -> list[list[Drawn]]:
        # Imported here since matplotlib is slow to import, and a large report needs it in its second process only.
        from harness.report.figure_list import report_figures

        return [report_figures(panel, options, samples, reported) for panel in grouped]

    return draw


def file_suffixes(grouped: Sequence[Panel]) -> list[str]:
    """Suffixes that keep the files of several panels apart: their conditions, numbered where they read the same."""
    if len(grouped) == 1:
        return [""]
    slugs = [panel.condition.slug if panel.condition else "" for panel in grouped]
    return [f"-{slug}-{slugs[:i].count(slug) + 1}" if slug in slugs[:i] else f"-{slug}" for i, slug in enumerate(slugs)]


def _notes(panel: Panel, options: ReportOptions, pictures: Sequence[Picture]) -> tuple[str, ...]:
    """How to read a panel's figures, and why one of them is missing."""
    notes = []
    if pictures:
        notes.append(
            "Figures: bars are 95 % intervals; against compute and time a line joins the rows of a method that none of "
            "its others beats, against anything else the rows that differ in nothing else."
        )
    if any(picture.name.startswith(ADDED_FIGURE) for picture in pictures):
        notes.append(added_note(panel, bought(panel, options.base, options.subject)))
    timed = [row for row in panel.measured if row.seconds > 0]
    if untrusted(timed):
        notes.append(f"{panel.distance} against time is not drawn: {why(timed, time_command(options.command))}")
    return tuple(notes)


def _table_files(tables: Sequence[Table], lead: str) -> dict[str, bytes]:
    """Each table in its three formats; the first one's Markdown begins with `lead`."""
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
    distilled = distilled_table(panel, who.base if who is not None else None)
    tables += [] if distilled is None else [distilled]
    if who is not None:
        tables.append(matched_table(panel, _pairs(panel, who), "matched", who.family, command))
        by_sampler = _pairs(panel, who, by_sampler=True)
        tables.append(matched_table(panel, by_sampler, "matched-by-sampler", who.family, command))
        points = bought(panel, options.base, options.subject)
        tables += [added_table(panel, points, command)] if added_any(points) else []
    tables += [sampler_table(panel), ablation_table(panel, options.kinds)]
    return [table for i, table in enumerate(tables) if i == 0 or len(table.text)]


def _pairs(panel: Panel, who: Roles, by_sampler: bool = False) -> list[tuple[Comparison, Comparison | None]]:
    """Each method's comparisons in compute and in time; sampler by sampler only if there are several."""
    if by_sampler and len({row.sampler for row in panel.measured}) < 2:
        return []
    times = {(c.arm, c.name): c for c in comparisons(panel, who, "seconds", by_sampler)}
    return [(c, times.get((c.arm, c.name))) for c in comparisons(panel, who, "gmacs", by_sampler)]


def base_row(panel: Panel, options: ReportOptions) -> Row | None:
    """The row that speed-ups are relative to: the one that the options name, else the best of the base arm."""
    who = roles(panel, options.base, options.subject)
    if who is None:
        return None
    fitting = [
        row
        for row in panel.measured
        if row.arm == who.base and all(rank(row.setting(k)) == rank(v) for k, v in options.base_row.items())
    ]
    return panel.best(fitting)


def collect_samples(grouped: Iterable[Panel], root: Path | None) -> dict[str, np.ndarray]:
    """The first images of the shown rows, by cell id, from the runs under `root`; missing ones are left out."""
    samples: dict[str, np.ndarray] = {}
    for panel in grouped if root is not None else ():
        for row in explored_rows(panel):
            place = row.records[0].samples
            if place and root is not None and (path := root / place).exists():
                try:
                    samples[first_cell(row)] = read_samples(path)[:SHOWN]
                except StoreError as error:  # the report is complete without it
                    log.warning("%s; left out", error)
    return samples


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` atomically, ``cells.json`` last, and remove files that only the previous report here had."""
    before = _files_before(folder / CELLS)
    for name in sorted(files, key=lambda name: (name == CELLS, name)):
        path = folder / name
        if not path.exists() or path.read_bytes() != files[name]:
            write_atomically(path, files[name])
    for name in before:
        if name not in files and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _files_before(path: Path) -> list[str]:
    """The files of the report whose ``cells.json`` is at `path`; none if there is no such report."""
    files = report_head(path).get("files", [])
    return list(files) if isinstance(files, list) else []
