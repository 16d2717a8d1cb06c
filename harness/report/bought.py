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

    @property
    def shown_time(self) -> Comparison | None:
        """The time, where it is more than a bound and compute is told too; None elsewhere."""
        return self.time if self.compute is not None and self.time is not None and not self.time.bound else None


def bought(panel: Panel, base: str | None = None, subject: str | None = None) -> list[Bought]:
    """Every network outside the base's family whose training's cost is known: by arm, and by what it added."""
    who = roles(panel, base, subject)
    if who is None:
        return []
    if ("bought", who) not in panel.memory:
        panel.memory["bought", who] = _bought(panel, who)
    return list(panel.memory["bought", who])


def _bought(panel: Panel, who: Roles) -> list[Bought]:
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


ADDED_FIGURE = "by-added-training"


def added_any(points: Iterable[Bought]) -> bool:
    """Whether some network that can be compared added to the training: only then is there something to show."""
    return any(point.added > 0 for point in points if point.compute is not None)


def added_caption(panel: Panel, points: Sequence[Bought]) -> str:
    """The figure's caption; :func:`added_note` has its conditions."""
    timed = "; compute filled, time hollow" if any(point.time is not None for point in points if point.compute) else ""
    return f"What sampling at equal {panel.distance} costs against the training compute that was added for it{timed}."


def added_note(panel: Panel, points: Sequence[Bought]) -> str:
    """What the figure's axes mean, who is compared over a part of the qualities alone, and what is left out."""
    base = next((point.compute.base for point in points if point.compute is not None), "base")
    short_of = [point.name for point in points if point.compute is not None and point.compute.falls_short]
    left_out = [point.name for point in points if point.compute is None]
    sentences = [
        f"Against added training: a point per network; costs relative to {base}, means over the values both reach; "
        f"training relative to that of its start, or where it had none to the costliest of {base}. A network of "
        "the base itself adds nothing, one that started from nothing all that it took.",
        "Arrows: upper bounds." if any(point.compute.bound for point in points if point.compute is not None) else "",
        f"Do not reach the best of {base}, so that only the worse of its values are compared: {', '.join(short_of)}."
        if short_of
        else "",
        f"Not drawn, for costs cannot be compared: {', '.join(left_out)}." if left_out else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)
