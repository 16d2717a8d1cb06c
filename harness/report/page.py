"""One self-contained page with everything of a report: no request leaves it, and it reads without JavaScript too."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from harness.report.panel import Panel
from harness.report.rows import Row, common, difference, flatten, show
from harness.report.tables import DASH, Table, conditions, number, numeric_columns
from harness.wording import count_of


@dataclass(frozen=True)
class Picture:
    """A figure with its caption; `png` is inlined, `name` is that of the files beside the page."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Part:
    """What the page shows of one panel. The first table is the main one: its lines are the panel's rows."""

    panel: Panel
    headline: str
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...] = ()
    """Sentences that stand before the figures."""


TITLES = {
    "table": "Results",
    "matched-by-sampler": "Cost at equal quality, sampler by sampler",
    "matched": "Cost at equal quality",
    "samplers": "Samplers",
    "ablations": "Ablations",
}


def page(name: str, title: str, parts: Sequence[Part], command: str) -> str:
    """The page as HTML. All text is escaped."""
    shared = common(row.config for part in parts for row in part.panel.rows if row.config)
    body = "\n".join(_part(part, shared, several=len(parts) > 1) for part in parts)
    lead = "".join(f'<p class="headline">{escape(part.headline)}</p>' for part in parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'">
<title>{escape(title or name)}</title>
<style>{CSS}</style>
</head>
<body>
<header><h1>{escape(title or name)}</h1>{lead}</header>
<main>
{body}
<section><h2>Configuration common to all rows</h2>
<details id="common"><summary>all keys</summary>{_settings(flatten(shared))}</details></section>
<section><h2>Provenance</h2>{_provenance(parts)}
<p>Made from <code>cells.json</code> in this folder by <code>{escape(command)}</code>.</p></section>
</main>
<script>{JAVASCRIPT}</script>
</body>
</html>
"""


def _part(part: Part, shared: Mapping[str, Any], several: bool) -> str:
    condition = part.panel.condition
    heading = f"<h2>{escape(condition.text)}</h2>" if several and condition else ""
    said = "".join(f'<p class="caption">{escape(text)}</p>' for text in (conditions(part.panel), *part.notes))
    pictures = [_picture(picture) for picture in part.pictures]
    tables = []
    for index, table in enumerate(part.tables):
        rows = part.panel.rows if index == 0 else None
        tables.append(_section(table, rows, shared))
    first = sum(picture.name.startswith("frontier") for picture in part.pictures)
    lead, rest = (f'<section class="figures">{"".join(p)}</section>' for p in (pictures[:first], pictures[first:]))
    return f"{heading}{said}{lead}{''.join(tables)}{rest}"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    files = f"{picture.name}.png, {picture.name}.pdf"
    caption = escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f'<figcaption>{caption} <span class="files">{escape(files)}</span></figcaption></figure>'
    )


def _section(table: Table, rows: Sequence[Row] | None, shared: Mapping[str, Any]) -> str:
    stem = table.name.split(".")[0]
    title = next((text for key, text in TITLES.items() if stem == key or stem.startswith(f"{key}-")), stem)
    return (
        f"<section><h2>{escape(title)}</h2>{_table(table, rows, shared)}"
        f'<p class="caption">{escape(table.note)} <span class="files">{escape(table.name)}.md, '
        f"{escape(table.name)}.csv, {escape(table.name)}.tex</span></p></section>"
    )


def _table(table: Table, rows: Sequence[Row] | None, shared: Mapping[str, Any]) -> str:
    columns = list(table.text.columns)
    right = numeric_columns(table)
    classes = ["n" if column in right else "" for column in columns]
    head = "".join(
        f'<th scope="col"{_class(kind)}><button type="button">{escape(column)}</button></th>'
        for column, kind in zip(columns, classes, strict=True)
    )
    lines = []
    for index, line in enumerate(table.text.itertuples(index=False)):
        cells = []
        for place, (column, text, kind) in enumerate(zip(columns, line, classes, strict=True)):
            shown = escape(text if isinstance(text, str) else DASH)
            if (index, column) in table.strong:
                shown = f"<strong>{shown}</strong>"
            if place == 0 and rows is not None:
                shown = f"<details><summary>{shown}</summary>{_behind(rows[index], shared)}</details>"
            lacking = rows is not None and not rows[index].measured and text == rows[index].status
            cells.append(f"<td{_class('status' if lacking else kind)}>{shown}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _behind(row: Row, shared: Mapping[str, Any]) -> str:
    """The configuration behind a row: what sets it apart, then a link to what all rows share; and its cells."""
    cells = "".join(f"<li>{_cell(record)}</li>" for record in row.records)
    return (
        f'<div class="behind">{_settings(difference(row.config, shared))}{_costs(row)}'
        f'<p><a href="#common">and what all rows share</a></p><ul>{cells}</ul></div>'
    )


def _costs(row: Row) -> str:
    """What the row costs beyond the table's columns."""
    memory_of = (row.records[0].get("time") or {}).get("peak_memory_of") if row.records else None
    parts = [
        f"{words} {number(value / unit)}{after}"
        for words, value, unit, after in (
            ("parameters:", row.parameters, 1e6, " M"),
            ("compute of training:", row.training_gmacs, 1e3, " TMACs"),
            ("peak memory in sampling:", row.peak_memory, 2**20, f" MiB ({memory_of})"),
            ("latency at batch 1:", row.latency, 1e-3, " ms"),
        )
        if math.isfinite(value)
    ]
    doubts = "".join(f"<p>its times are not to be trusted: {escape(reason)}</p>" for reason in row.mistrust)
    return (f"<p>{escape('; '.join(parts))}</p>" if parts else "") + doubts


def _cell(record: Mapping[str, Any]) -> str:
    made = record.get("provenance") or {}
    parts = [
        f"seed {record['config'].get('seed', 0)}",
        f"cell {record['id']}",
        f"training {record.get('training', '?')}",
    ]
    if made.get("commit"):
        parts.append(f"commit {_commit(made)}")
    if made.get("finished"):
        parts.append(_moment(made["finished"]))
    return escape(", ".join(parts))


def _moment(time: Any) -> str:
    """Seconds since 1970 as a date; a text as it is."""
    if isinstance(time, int | float):
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(time)


def _commit(made: Mapping[str, Any]) -> str:
    return f"{str(made['commit'])[:10]}{' (tree was dirty)' if made.get('dirty') else ''}"


def _settings(flat: Mapping[str, Any]) -> str:
    lines = "\n".join(f"{key}: {show(value)}" for key, value in sorted(flat.items()) if value is not None)
    return f"<pre>{escape(lines) or 'nothing'}</pre>"


def _provenance(parts: Iterable[Part]) -> str:
    records = [record for part in parts for row in part.panel.rows for record in row.records]
    made = [record.get("provenance") or {} for record in records]
    versions: dict[str, Counter[str]] = {}
    for entry in made:
        for package, version in (entry.get("versions") or {}).items():
            versions.setdefault(package, Counter())[str(version)] += 1
    facts = {
        "cells": str(len({record["id"] for record in records})),
        "commits": _tally(_commit(entry) for entry in made if entry.get("commit")),
        "timed on": _tally(str(time["device"]) for record in records if (time := record.get("time"))),
        **{package: ", ".join(sorted(found)) for package, found in sorted(versions.items())},
    }
    lines = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(text or DASH)}</td></tr>' for key, text in facts.items()
    )
    return f'<div class="scroll"><table class="facts"><tbody>{lines}</tbody></table></div>'


def _tally(values: Iterable[str]) -> str:
    counted = Counter(values)
    return ", ".join(f"{value} ({count_of(counted[value], 'cell')})" for value in sorted(counted))


CSS = """
:root{color-scheme:light;--ink:#1a1a1a;--soft:#5c5c5c;--line:#dcdcdc;--accent:#0072b2}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1.2rem;color:var(--ink);background:#fff;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0 .8rem}
h2{font-size:1.1rem;margin:2rem 0 .6rem}
.headline{font-size:1.1rem;border-left:.25rem solid var(--accent);padding:.3rem 0 .3rem .9rem;
margin:.6rem 0;max-width:60rem}
.scroll{overflow:auto;max-height:80vh;border:1px solid var(--line);border-radius:4px}
table{border-collapse:collapse;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .5rem;text-align:left;vertical-align:top;white-space:nowrap;border-bottom:1px solid #eee}
tr:last-child>td{border-bottom:0}
thead th{position:sticky;top:0;background:#f6f6f6;border-bottom:1px solid var(--line);padding:0;z-index:1;
white-space:normal;vertical-align:bottom}
th button{all:unset;box-sizing:border-box;display:block;width:100%;padding:.35rem .5rem;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid var(--accent);outline-offset:-2px}
th[aria-sort=ascending] button::after{content:" ↑"}
th[aria-sort=descending] button::after{content:" ↓"}
.n,.n button{text-align:right}
td.status{white-space:normal;max-width:14rem;text-align:left;color:var(--soft)}
tbody tr:hover>td{background:#f3f8fc}
summary{cursor:pointer}
.behind{width:min(34rem,78vw);margin-right:calc(-1*min(34rem,78vw));position:relative;white-space:normal;font-size:.8rem;color:var(--soft)}
pre{margin:.4rem 0;padding:.6rem;background:#f6f6f6;overflow:auto;font-size:.78rem;line-height:1.4;white-space:pre-wrap;
overflow-wrap:anywhere;color:var(--ink)}
.behind ul{padding-left:1.1rem;margin:.3rem 0;overflow-wrap:anywhere}
.caption,figcaption{font-size:.82rem;color:var(--soft);max-width:60rem}
.files{font-family:ui-monospace,monospace;font-size:.92em;overflow-wrap:anywhere}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.6rem 2rem;
margin-top:2rem}
figure{margin:0;min-width:0}
figure img{width:100%;max-width:33rem;height:auto;display:block}
.facts{width:auto}.facts th{font-weight:600}.facts td{white-space:normal;overflow-wrap:anywhere}
@media(max-width:40rem){body{padding:.8rem;font-size:14px}h1{font-size:1.3rem}.headline{font-size:1rem}
th,td{padding:.25rem .45rem}th button{padding:.3rem .45rem}}
@media print{.scroll{max-height:none;overflow:visible}}
"""

JAVASCRIPT = """
"use strict";
for (const table of document.querySelectorAll(".scroll > table")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = row => {
      const cell = row.cells[column];
      const text = (cell.querySelector("summary") || cell).textContent.trim();
      const number = parseFloat(text.replace(/^\\u2264\\s*/, ""));
      return [Number.isNaN(number), number, text];
    };
    const order = (a, b) => a[0] !== b[0] ? a[0] - b[0] : a[0] ? a[2].localeCompare(b[2]) * (down ? -1 : 1)
      : (a[1] - b[1]) * (down ? -1 : 1);
    const rows = [...body.rows].map(row => [key(row), row]).sort((a, b) => order(a[0], b[0]));
    body.append(...rows.map(pair => pair[1]));
  }));
}
for (const link of document.querySelectorAll('a[href="#common"]'))
  link.addEventListener("click", () => { document.getElementById("common").open = true; });
"""
