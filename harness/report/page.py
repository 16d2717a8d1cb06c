"""One self-contained page with everything of a report: no request leaves it, and it reads without JavaScript too.

What it looks like stands in ``assets/``: two Jinja2 templates, the style sheet and the script.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.report.chart import Chart
from harness.report.headline import Headline
from harness.report.panel import Panel
from harness.report.rows import Row, common, difference, flatten, show
from harness.report.tables import Table
from harness.report.tables.conditions import conditions
from harness.report.tables.numbers import DASH, number
from harness.store.records import CellRecord, Provenance
from harness.wording import count_of

ASSETS = Path(__file__).parent / "assets"
TITLES = {
    "table": "Results",
    "matched-by-sampler": "Cost at equal quality, sampler by sampler",
    "matched": "Cost at equal quality",
    "added-training": "What was added to the training, and what sampling costs at equal quality",
    "samplers": "Samplers",
    "ablations": "Ablations",
}


@dataclass(frozen=True)
class Picture:
    """A figure with its caption; `png` is inlined, `name` is that of the files beside the page."""

    name: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Part:
    """What the page shows of one panel. The first table is the main one: its lines are the panel's rows."""

    panel: Panel
    headline: Headline
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()
    """Sentences that stand before the figures."""
    chart: Chart | None = None
    """The frontier that one explores."""


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined)


def _asset(name: str) -> Markup:
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


def page(name: str, title: str, parts: Sequence[Part], command: str) -> str:
    """The page as HTML. All text is escaped."""
    shared = common(row.config for part in parts for row in part.panel.rows if row.config)
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title or name,
            css=_asset("page.css"),
            javascript=_asset("page.js"),
            parts=[_part(part, shared, several=len(parts) > 1) for part in parts],
            common=_settings(flatten(shared)),
            provenance=_provenance(parts),
            command=command,
        )
    )


def _part(part: Part, shared: Mapping[str, Any], several: bool) -> dict[str, Any]:
    condition = part.panel.condition
    first = sum(picture.name.startswith("frontier") for picture in part.pictures)
    tables = [_table(table, part.panel.rows if i == 0 else None, shared) for i, table in enumerate(part.tables)]
    return {
        "headline": part.headline,
        "heading": condition.text if several and condition else "",
        "notes": (conditions(part.panel), *part.notes),
        "lead": part.pictures[:first],
        "chart": part.chart,
        "tables": tables,
        "rest": part.pictures[first:],
    }


def _table(table: Table, rows: Sequence[Row] | None, shared: Mapping[str, Any]) -> dict[str, Any]:
    stem = table.name.split(".")[0]
    title = next((text for key, text in TITLES.items() if stem == key or stem.startswith(f"{key}-")), stem)
    columns = list(table.text.columns)
    attributes = {column: _class("n" if column in table.numeric else "") for column in columns}
    lines = []
    for index, values in enumerate(table.text.itertuples(index=False)):
        row = rows[index] if rows is not None else None
        cells = []
        for column, text in zip(columns, values, strict=True):
            shown: str = text if isinstance(text, str) else DASH
            lacking = row is not None and not row.measured and text == row.status
            if (index, column) in table.strong:
                shown = Markup("<strong>%s</strong>") % shown
            cells.append({"shown": shown, "attribute": _class("status") if lacking else attributes[column]})
        lines.append({"cells": cells, "behind": None if row is None else _behind(row, shared)})
    return {
        "title": title,
        "name": table.name,
        "note": table.note,
        "columns": [{"name": column, "attribute": attributes[column]} for column in columns],
        "body": Markup(_environment().get_template("rows.html").render(lines=lines).rstrip()),
    }


def _class(name: str) -> Markup:
    return Markup(' class="%s"') % name if name else Markup("")


def _behind(row: Row, shared: Mapping[str, Any]) -> dict[str, Any]:
    """What stands behind a row: the configuration that sets it apart, what it costs, and its cells."""
    return {
        "settings": _settings(difference(row.config, shared)),
        "costs": _costs(row),
        "doubts": row.mistrust_in_short,
        "cells": [_cell(record) for record in row.records],
    }


def _costs(row: Row) -> str:
    """What the row costs beyond the table's columns."""
    memory_of = row.times[0].peak_memory_of if row.times else None
    parts = [
        f"{words} {number(value / unit)}{after}"
        for words, value, unit, after in (
            ("parameters:", row.parameters, 1e6, " M"),
            ("compute of training:", row.training_gmacs, 1e3, " TMACs"),
            ("time of training:", row.training_seconds, 1, f" s{_meanwhile(row)}"),
            *_inherited(row),
            ("peak memory in sampling:", row.peak_memory, 2**20, f" MiB ({memory_of})"),
            ("latency at batch 1:", row.latency, 1e-3, " ms"),
            ("time of a GMAC:", row.seconds_per_gmac, 1e-3, " ms"),
        )
        if math.isfinite(value)
    ]
    if row.measured and row.needs_further_trainings and not math.isfinite(row.inherited_gmacs):
        stitched = row.setting("sample.stitch") is not None
        what = "the training of the stitched network" if stitched else "what its training has inherited"
        parts.append(f"{what} is not known")
    return "; ".join(parts)


def _inherited(row: Row) -> list[tuple[str, float, float, str]]:
    """What the trainings took that its own started from or that its network is stitched to; nothing without any."""
    if not row.needs_further_trainings:
        return []
    return [
        (f"{_further(row)} compute of training:", row.inherited_gmacs, 1e3, " TMACs"),
        (f"{_further(row)} time of training:", row.inherited_seconds, 1, " s"),
    ]


def _further(row: Row) -> str:
    return "inherited" if row.setting("sample.stitch") is None else "the stitched network's"


BUSY = 0.1
"""Share of the processors above which a time of a cell is not to be trusted either."""


def _meanwhile(row: Row) -> str:
    """What others took of the machine while it was trained, where that was no trifle."""
    share = row.training_others_share
    return f" (meanwhile others took {share:.0%} of the processors)" if share > BUSY else ""


def _cell(record: CellRecord) -> str:
    made = record.provenance
    parts = [f"seed {record.seed}", f"cell {record.id}", f"training {record.training}"]
    if made.commit:
        parts.append(f"commit {_commit(made)}")
    if made.finished:
        parts.append(datetime.fromtimestamp(made.finished, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
    return ", ".join(parts)


def _commit(made: Provenance) -> str:
    return f"{str(made.commit)[:10]}{' (tree was dirty)' if made.dirty else ''}"


def _settings(flat: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}: {show(value)}" for key, value in sorted(flat.items()) if value is not None)


def _provenance(parts: Iterable[Part]) -> dict[str, str]:
    records = [record for part in parts for row in part.panel.rows for record in row.records]
    made = [record.provenance for record in records]
    versions: dict[str, Counter[str]] = {}
    for entry in made:
        for package, version in entry.versions.items():
            versions.setdefault(package, Counter())[version] += 1
    facts = {
        "cells": str(len({record.id for record in records})),
        "commits": _tally(_commit(entry) for entry in made if entry.commit),
        "timed on": _tally(str(record.time.device) for record in records if record.time is not None),
        **{package: ", ".join(sorted(found)) for package, found in sorted(versions.items())},
    }
    return {key: text or DASH for key, text in facts.items()}


def _tally(values: Iterable[str]) -> str:
    counted = Counter(values)
    return ", ".join(f"{value} ({count_of(counted[value], 'cell')})" for value in sorted(counted))
