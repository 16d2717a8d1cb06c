"""`harness compare`: what changed from one report to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from harness.cli.console import console, print_json
from harness.cli.report import width_of
from harness.errors import ConfigError
from harness.store.store import REPORT_CELLS
from harness.wording import count_of

if TYPE_CHECKING:
    from harness.report import KeptReport
    from harness.report.compare import Comparison, RowChange, Side

ORDER = ("beyond noise", "noise unknown", "other conditions", "new", "gone", "within noise", "same")
QUIET = frozenset({"within noise", "same"})
"""Verdicts of rows that are counted, and not listed."""


def run(before: Path, after: Path, metric: str | None, json_output: bool) -> bool:
    """Print what changed; whether anything did beyond noise."""
    from harness.report.compare import compare_reports

    out = console(json_output)
    old, new = _kept(before), _kept(after)
    found = compare_reports(old, new, metric)
    if metric is not None and not found.changes:
        raise ConfigError("--metric", [f"{metric!r} was measured in no row of either report"])
    if json_output:
        print_json(_plain(found, before, after))
    else:
        _show(found, before, after, out)
    return found.differ


def _kept(path: Path) -> KeptReport:
    """The report in a folder, or of a ``cells.json``. Raises :class:`ConfigError` for a place without one."""
    from harness.report import load_report

    file = path / REPORT_CELLS if path.is_dir() else path
    if not path.exists():
        raise ConfigError(str(path), ["there is no such folder"])
    if not file.exists():
        raise ConfigError(str(path), [f"holds no {REPORT_CELLS}; it is not the folder of a report"])
    return load_report(file)


def _show(found: Comparison, before: Path, after: Path, out: Console) -> None:
    from harness.report.tables.numbers import number, with_spread

    listed = [change for change in found.changes if change.verdict not in QUIET or change.compute_changed]
    listed.sort(key=lambda change: ORDER.index(change.verdict))
    _say(f"{before} → {after}, by {found.measure}", out)
    if listed:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        heads = ("row", "before", "after", "difference", "GMACs", "what")
        for head in heads:
            table.add_column(head, justify="left" if head in ("row", "what") else "right", overflow="fold")
        for change in listed:
            table.add_row(
                change.name,
                "–" if change.before is None else with_spread(change.before.distance),
                "–" if change.after is None else with_spread(change.after.distance),
                _difference(change),
                f"×{number(change.compute_ratio)}" if change.compute_changed and change.compute_ratio else "",
                _what(change),
            )
        Console(file=out.file, emoji=False, width=width_of(out) or 160).print(table)
    for line in _sentences(found):
        _say(line, out)


def _difference(change: RowChange) -> str:
    from harness.report.tables.numbers import number

    if change.difference is None or change.interval is None or change.verdict == "same":
        return "–"
    sign = "+" if change.difference > 0 else "−"
    return f"{sign}{number(abs(change.difference))} ± {number(change.interval, 2)}"


def _what(change: RowChange) -> str:
    """The verdict, and what stands behind it."""
    if change.verdict == "beyond noise":
        words = "better" if change.better else "worse"
    elif change.verdict == "same":
        words = "same images, other compute"
    else:
        words = str(change.verdict)
    reasons = [change.why] if change.why else []
    if change.settings:
        shown = ", ".join(change.settings[:3])
        more = f" and {len(change.settings) - 3} more" if len(change.settings) > 3 else ""
        reasons.append(f"differs in {shown}{more}")
    return f"{words}: {'; '.join(reasons)}" if reasons else words


def _sentences(found: Comparison) -> list[str]:
    counts = found.counts()
    parts = [f"{counts[verdict]} {verdict}" for verdict in ORDER if verdict in counts]
    lines = [f"{count_of(len(found.changes), 'row')}: {', '.join(parts) or 'none with a result'}"]
    timed = [change for change in found.changes if change.time_beyond_noise is not None]
    slower = [change for change in timed if change.time_beyond_noise and (change.time_ratio or 1) > 1]
    quicker = [change for change in timed if change.time_beyond_noise and (change.time_ratio or 1) < 1]
    if timed:
        lines.append(
            f"times of {count_of(len(timed), 'row')} can be compared: {len(quicker)} quicker and {len(slower)} slower "
            "beyond noise"
        )
    if counts.get("beyond noise"):
        lines.append(
            f"of {count_of(found.tested, 'row')} held against a 95 % interval about one in twenty lies beyond it by chance"
        )
    return lines


def _plain(found: Comparison, before: Path, after: Path) -> dict[str, Any]:
    return {
        "before": str(before),
        "after": str(after),
        "metric": found.metric,
        "measure": found.measure,
        "differ": found.differ,
        "counts": found.counts(),
        "rows": [_plain_row(change) for change in found.changes],
    }


def _plain_row(change: RowChange) -> dict[str, Any]:
    return {
        "row": change.name,
        "arm": change.arm,
        "verdict": change.verdict,
        "changed": change.changed,
        "better": change.better,
        "before": _plain_side(change.before),
        "after": _plain_side(change.after),
        "difference": change.difference,
        "interval": change.interval,
        "compute_ratio": change.compute_ratio,
        "time_ratio": change.time_ratio,
        "time_beyond_noise": change.time_beyond_noise,
        "settings": list(change.settings),
        "why": change.why,
    }


def _plain_side(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "value": side.distance.mean,
        "standard_error": side.distance.standard_error,
        "trainings": side.distance.trainings,
        "samplings": side.distance.samplings,
        "gmacs_per_image": side.row.gmacs,
        "cells": [record.id for record in side.row.records],
        "conditions": side.condition.text,
    }


def _say(text: str, out: Console) -> None:
    """Print text, broken between words on a terminal and on one line where a program reads it."""
    out.print(text, soft_wrap=not out.is_terminal)
