"""`harness compare`: what changed from one report to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness.cli.console import console, print_json, say
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
    """Rows by what became of them, one line each; those that nothing happened to are counted only."""
    say(f"{before} → {after}, by {found.measure}", out)
    listed = [change for change in found.changes if change.verdict not in QUIET or change.compute_changed]
    for head in dict.fromkeys(_head(change) for change in sorted(listed, key=_place)):
        of_head = [change for change in listed if _head(change) == head]
        say(f"{head}: {count_of(len(of_head), 'row')}", out, style="bold")
        for change in of_head:
            say(f"  {_line(change)}", out)
    for line in _sentences(found):
        say(line, out)


def _place(change: RowChange) -> int:
    return ORDER.index(change.verdict)


def _head(change: RowChange) -> str:
    if change.verdict == "beyond noise":
        return f"beyond noise, {'better' if change.better else 'worse'}"
    return f"{change.verdict}, at another compute" if change.verdict in QUIET else change.verdict


def _line(change: RowChange) -> str:
    """``base (ddim, 8 steps): 1.32 ± 0.11 → 1.48 ± 0.14 (+0.16 ± 0.31); compute ×1.06; differs in model.width``."""
    from harness.report.tables.numbers import number, with_spread

    values = [with_spread(side.distance) for side in (change.before, change.after) if side is not None]
    parts = [f"{change.name}: {' → '.join(values)}{_difference(change)}"]
    if change.compute_changed:
        parts.append(f"compute ×{number(change.compute_ratio or 0)}")
    if change.settings:
        more = f" and {count_of(len(change.settings) - 3, 'more key')}" if len(change.settings) > 3 else ""
        parts.append(f"differs in {', '.join(change.settings[:3])}{more}")
    return "; ".join([*parts, change.why] if change.why else parts)


def _difference(change: RowChange) -> str:
    from harness.report.tables.numbers import number

    if not change.difference or change.interval is None:
        return ""
    sign = "+" if change.difference > 0 else "−"
    return f" ({sign}{number(abs(change.difference))} ± {number(change.interval, 2)})"


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
    if found.unsure:
        lines.append(
            f"{count_of(found.unsure, 'row')} of other weights, and no report has two trainings of any row: the "
            "intervals hold the noise of sampling alone, and another training seed may differ as much"
        )
    if counts.get("beyond noise"):
        lines.append(
            f"of {count_of(found.tested, 'row')} held against a 95 % interval, about one in twenty lies beyond it by "
            "chance"
        )
    return lines


def _plain(found: Comparison, before: Path, after: Path) -> dict[str, Any]:
    return {
        "before": str(before),
        "after": str(after),
        "metric": found.metric,
        "measure": found.measure,
        "differ": found.differ,
        "training_noise_unknown": found.unsure,
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
