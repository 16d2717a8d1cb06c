"""What sampling at equal quality costs against what was added to the training for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.report.added import added_share
from harness.report.frontier import Comparison, Cost
from harness.report.headline import Roles, comparable, compare_rows, roles
from harness.report.panel import Panel
from harness.report.rows import Row, short, show_setting, varied_keys
from harness.report.timing import untrusted

Trainings = tuple[str, ...]


@dataclass(frozen=True)
class Bought:
    """One network of an arm: what was added to the training, and what sampling costs at the base's quality."""

    arm: str
    label: str
    setting: str
    """What the arm's networks differ in, in words; empty where it has one."""
    added: float
    """Share of the base's training."""
    compute: Comparison | None
    """None where costs cannot be compared at equal quality."""
    time: Comparison | None

    @property
    def name(self) -> str:
        return f"{self.label} ({self.setting})" if self.setting else self.label


def bought(panel: Panel, base: str | None = None, subject: str | None = None) -> list[Bought]:
    """Every network outside the base's family whose training's cost is known: by arm, and by what it added."""
    who = roles(panel, base, subject)
    if who is None:
        return []
    found = [
        Bought(
            rows[0].arm,
            rows[0].label,
            _setting(rows[0], keys),
            share,
            _compared(panel, who, rows, "gmacs"),
            _compared(panel, who, rows, "seconds"),
        )
        for rows, keys in _networks(panel, who.family)
        if math.isfinite(share := added_share(panel, who.base, rows[0]))
    ]
    return sorted(found, key=lambda one: (panel.arms.index(one.arm), one.added, one.setting))


def _networks(panel: Panel, family: Sequence[str]) -> Iterator[tuple[list[Row], list[str]]]:
    """The rows of each network, with the keys in which those of its arm differ."""
    for arm in panel.arms:
        if arm in family:
            continue
        by_training: dict[Trainings, list[Row]] = {}
        for row in panel.measured:
            if row.arm == arm:
                by_training.setdefault(tuple(record.training for record in row.records), []).append(row)
        keys = [key for key in varied_keys(_first(by_training.values())) if not key.startswith(("sample.", "measure."))]
        for rows in by_training.values():
            yield rows, keys


def _first(groups: Iterable[list[Row]]) -> list[Row]:
    return [rows[0] for rows in groups]


def _setting(row: Row, keys: Sequence[str]) -> str:
    return ", ".join(f"{short(key)} {show_setting(row.setting(key))}" for key in keys)


def _compared(panel: Panel, who: Roles, rows: Sequence[Row], cost: Cost) -> Comparison | None:
    """The network's costs against those of the base's family; None where they cannot be compared."""
    family = [row for row in panel.measured if row.arm in who.family]
    if cost == "seconds" and untrusted(row for row in (*family, *rows) if row.seconds > 0):
        return None
    result = compare_rows(panel, who, rows, cost)
    return result if result is not None and comparable(result, panel.distance) else None


def added_caption(panel: Panel, points: Sequence[Bought]) -> str:
    """The figure's caption, with its conditions and what is left out."""
    shown = [point for point in points if point.compute is not None]
    base = next((point.compute.base for point in points if point.compute is not None), "base")
    left_out = [point.name for point in points if point.compute is None]
    short_of = [point.name for point in points if point.compute is not None and point.compute.falls_short]
    sentences = [
        f"What sampling at equal {panel.distance} costs, relative to {base}, against the training compute added to the "
        f"base's: a share of the training that a network started from, else of the costliest of {base}.",
        "A network of the base itself adds nothing, one that started from nothing all that it took.",
        "Filled: compute; hollow, beside it: time." if any(point.time is not None for point in shown) else "",
        "Costs are means over the values that both reach, with 95 % bootstrap intervals.",
        "Arrows: upper bounds." if any(point.compute.bound for point in shown if point.compute is not None) else "",
        f"Do not reach the best of {base}, so that only the worse of its values are compared: {', '.join(short_of)}."
        if short_of
        else "",
        f"Not drawn, for costs cannot be compared: {', '.join(left_out)}." if left_out else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)
