"""What a report was made from, beside it: ``cells.json`` holds its options and every row with its record.

The first line is all but the rows and can be read by itself. What the configurations of all rows share is written
once; each row has the rest, by dotted keys.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.config.dotted import nest
from harness.errors import StoreError
from harness.report.options import ReportOptions
from harness.report.rows import ReportCell, canonical, common, difference, flatten
from harness.store.records import OF_NEWER_VERSION, CellRecord, NewerRecord, parse_cell
from harness.store.store import REPORT_ROWS
from harness.wording import count_of

log = logging.getLogger("harness")

SCHEMA = 2
"""Of the file. Files of schema 1 are read too: their records are upgraded one by one."""


@dataclass(frozen=True)
class KeptReport:
    """A report as its ``cells.json`` has it."""

    name: str
    title: str
    options: ReportOptions
    files: tuple[str, ...]
    cells: tuple[ReportCell, ...]


def cells_json(
    name: str,
    title: str,
    cells: Sequence[ReportCell],
    options: ReportOptions,
    arms: Sequence[str],
    files: Sequence[str],
) -> str:
    """The report's cells as JSON, one line each, in an order that does not depend on that of `cells`."""
    shared = common(cell.configuration for cell in cells if cell.configuration)
    order = {arm: place for place, arm in enumerate(arms)}
    lines = sorted((order[cell.arm], _line(cell, shared)) for cell in cells)
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
    body = ",\n".join(line for _, line in lines)
    return f"{head[:-1]}{REPORT_ROWS}\n{body}\n]}}\n"


def _line(cell: ReportCell, shared: Mapping[str, Any]) -> str:
    configuration = cell.configuration
    own = None if configuration is None else difference(configuration, shared)
    facts = {"arm": cell.arm, "config": own, "label": cell.label, "status": cell.status, "varied": cell.varied}
    return f'{_json(facts)[:-1]},"record":{_record_json(cell.record)}}}'


def _record_json(record: CellRecord | None) -> str:
    """The record without its configuration; a number that is none (nan, infinite) is null."""
    if record is None:
        return "null"
    return record.model_dump_json(by_alias=True, exclude_unset=True, exclude={"config"})


def _json(facts: Mapping[str, Any]) -> str:
    """JSON that any program reads: a number that is none (nan, infinite) is null there."""
    try:
        return canonical(facts)
    except ValueError:
        return canonical(_without_infinite(facts))


def _without_infinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_infinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_report(path: Path) -> KeptReport:
    """The report that the ``cells.json`` at `path` is of. Raises :class:`StoreError` for what is none."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as a report's cells: {error}") from None
    schema = kept.get("schema") if isinstance(kept, dict) else None
    if not isinstance(schema, int) or schema < 1 or "rows" not in kept:
        raise StoreError(f"{path}: is not a report's cells of schema {SCHEMA}")
    if schema > SCHEMA:
        raise StoreError(
            f"{path}: was written by a newer version of this project (schema {schema}, this one reads up to {SCHEMA}); "
            "update the project, or make the report again from its runs"
        )
    try:
        shared = nest(kept["common"])
        known = {option.name for option in fields(ReportOptions)}
        options = ReportOptions(**{key: value for key, value in kept["options"].items() if key in known})
        newer: list[str] = []
        cells = tuple(_cell(row, shared, f"{path}: row {number}", newer) for number, row in enumerate(kept["rows"], 1))
        if newer:
            log.warning("%s left out of the report: %s", count_of(len(newer), "row"), newer[0])
        return KeptReport(kept["name"], kept["title"], options, tuple(kept["files"]), cells)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: lacks what a report's cells have ({error})") from None


def _cell(line: Mapping[str, Any], shared: Mapping[str, Any], source: str, newer: list[str]) -> ReportCell:
    """One row's cell; a record of a newer version is left out, and its message added to `newer`."""
    configuration = None if line["config"] is None else _merged(shared, line["config"])
    record, status = None, line["status"]
    if line["record"] is not None:
        try:
            record = parse_cell({**line["record"], "config": configuration}, source)
        except NewerRecord as error:
            status = OF_NEWER_VERSION
            newer.append(str(error))
    return ReportCell(line["arm"], line["varied"], record, line["label"], configuration, status)


def _merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Nested `shared` with the dotted keys of `own`; sections that do not differ are the shared ones."""
    merged = dict(shared)
    copied: set[str] = set()
    for dotted, value in own.items():
        *sections, key = dotted.split(".")
        place, path = merged, ""
        for section in sections:
            path = f"{path}.{section}"
            if path not in copied:
                place[section] = dict(place.get(section) or {})
                copied.add(path)
            place = place[section]
        place[key] = value
    return merged


def load_rows(path: Path) -> list[ReportCell]:
    """The cells that a report was made from: what :func:`harness.report.write_report` takes."""
    return list(load_report(path).cells)


def load_options(path: Path) -> ReportOptions:
    """The options that a report was made with."""
    return load_report(path).options
