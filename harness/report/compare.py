"""Two reports side by side: which rows changed from the one to the other, and whether beyond noise.

Rows are the same row if they have the same configuration, or else the same arm and varied keys. Their measure is
compared with its noise (:mod:`harness.report.noise`), pooled over the rows of both reports: a difference counts where
it is larger than its 95 % interval. Multiply-adds are exact, so any difference counts. Times are told where both were
taken on the same kind of device and are to be trusted; no verdict depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.report.cells_file import KeptReport
from harness.report.noise import Distance, Z, distances, within_noise
from harness.report.panel import Panel, panels
from harness.report.rows import Condition, Row, canonical, flatten

Verdict = Literal["same", "within noise", "beyond noise", "noise unknown", "other conditions", "new", "gone"]
CHANGES: frozenset[Verdict] = frozenset({"beyond noise", "noise unknown", "other conditions", "new", "gone"})
"""Verdicts that make two reports differ."""
NO_SETTING = ("measure.latency", "data.path", "data.label")
"""Settings that change neither images nor their measure."""


@dataclass(frozen=True)
class Side:
    """A row as one report has it: measured, with its noise."""

    row: Row
    distance: Distance
    condition: Condition
    seconds_noise: float | None
    """Relative standard error of the seconds per image; None where it was not timed, or not to be trusted."""


@dataclass(frozen=True)
class RowChange:
    """What became of one row."""

    name: str
    arm: str
    verdict: Verdict
    before: Side | None
    after: Side | None
    better: bool | None = None
    """Whether it is better after; None where the two are equal or cannot be compared."""
    settings: tuple[str, ...] = ()
    """Dotted keys whose values differ."""
    why: str = ""
    """What makes the two incomparable, or why there is no result."""

    @property
    def difference(self) -> float | None:
        """After less before; None where there is no such difference."""
        if self.before is None or self.after is None or self.verdict == "other conditions":
            return None
        return self.after.distance.mean - self.before.distance.mean

    @property
    def interval(self) -> float | None:
        """Half the width of the difference's 95 % interval; None where there is no difference."""
        if self.before is None or self.after is None or self.difference is None:
            return None
        return Z * math.hypot(self.before.distance.standard_error, self.after.distance.standard_error)

    @property
    def compute_ratio(self) -> float | None:
        """GMACs per image after over before; None where one is not known."""
        return _ratio(self, lambda side: side.row.gmacs)

    @property
    def time_ratio(self) -> float | None:
        """Seconds per image after over before; None where the two are not to be compared."""
        if self.before is None or self.after is None or self.before.row.clock != self.after.row.clock:
            return None
        if self.before.seconds_noise is None or self.after.seconds_noise is None:
            return None
        return _ratio(self, lambda side: side.row.seconds)

    @property
    def time_beyond_noise(self) -> bool | None:
        """Whether the times differ by more than the 95 % interval of their ratio; None where they are not compared."""
        ratio = self.time_ratio
        if ratio is None or self.before is None or self.after is None:
            return None
        noise = math.hypot(self.before.seconds_noise or 0, self.after.seconds_noise or 0)
        return abs(math.log(ratio)) > Z * noise

    @property
    def compute_changed(self) -> bool:
        ratio = self.compute_ratio
        return ratio is not None and not math.isclose(ratio, 1, rel_tol=1e-9)

    @property
    def changed(self) -> bool:
        """Whether the reports differ in this row by more than noise."""
        return self.verdict in CHANGES or self.compute_changed


def _ratio(change: RowChange, value: Callable[[Side], float]) -> float | None:
    if change.before is None or change.after is None:
        return None
    before, after = value(change.before), value(change.after)
    return after / before if before > 0 and after > 0 and math.isfinite(after / before) else None


@dataclass(frozen=True)
class Comparison:
    """Every row of two reports that has a result in either."""

    measure: str
    """What rows are compared by, as tables call it."""
    metric: str
    changes: tuple[RowChange, ...]

    @property
    def differ(self) -> bool:
        return any(change.changed for change in self.changes)

    def counts(self) -> dict[Verdict, int]:
        """How many rows each verdict was given to."""
        found: dict[Verdict, int] = {}
        for change in self.changes:
            found[change.verdict] = found.get(change.verdict, 0) + 1
        return found

    @property
    def unsure(self) -> int:
        """Rows beyond noise of which other weights were measured, while nothing tells the noise of training."""
        sides = [side for change in self.changes for side in (change.before, change.after) if side is not None]
        if any(side.distance.trainings > 1 for side in sides):
            return 0
        return sum(
            _trainings(change.before.row) != _trainings(change.after.row)
            for change in self.changes
            if change.verdict == "beyond noise" and change.before is not None and change.after is not None
        )

    @property
    def tested(self) -> int:
        """Rows whose difference was held against noise; one in twenty of them lies beyond it by chance."""
        return sum(change.verdict in ("within noise", "beyond noise") for change in self.changes)


def compare_reports(before: KeptReport, after: KeptReport, metric: str | None = None) -> Comparison:
    """What became of each row of `before` in `after`, in the order of `after`, then what is gone.

    `metric` is what rows are compared by: that which `after` is ranked by, if None.
    """
    metric = metric or after.options.metric
    old, new = (_panels(report, metric) for report in (before, after))
    noise = _pooled_noise([*old, *new], metric)
    pairs = _paired(*([side for panel in of_report for side in _sides(panel, noise)] for of_report in (old, new)))
    higher = any(panel.higher_is_better for panel in (*old, *new))
    status = {_key(row): row.status for panel in (*old, *new) for row in panel.rows if not row.measured}
    changes = [_change(one, other, higher, status) for one, other in pairs]
    label = next((panel.distance for panel in (*new, *old) if panel.condition), metric)
    return Comparison(label, metric, tuple(changes))


def _panels(report: KeptReport, metric: str) -> tuple[Panel, ...]:
    return panels(report.cells, report.options.arms, metric)


def _pooled_noise(of_both: Sequence[Panel], metric: str) -> dict[Row, Distance]:
    """The measure of each row, with noise pooled over the rows of both reports under one condition."""
    rows: dict[Condition, list[Row]] = {}
    for panel in of_both:
        if panel.condition is not None:
            rows.setdefault(panel.condition, []).extend(panel.measured)
    return {row: one for of_one in rows.values() for row, one in zip(of_one, distances(of_one, metric), strict=True)}


def _sides(panel: Panel, noise: Mapping[Row, Distance]) -> Iterator[Side]:
    for row in panel.measured:
        assert panel.condition is not None
        seconds = panel.timing_noise.get(row) if row.time_trusted is not False else None
        yield Side(row, noise[row], panel.condition, seconds)


def _trainings(row: Row) -> set[str | None]:
    """What its weights are known by: their hash, or the training where older records do not tell it."""
    return {record.provenance.weights_sha256 or record.training for record in row.records}


def _key(row: Row) -> tuple[Any, ...]:
    return row.arm, row.point


def _paired(before: Sequence[Side], after: Sequence[Side]) -> list[tuple[Side | None, Side | None]]:
    """Each side with what it was: the same configuration in the same place, the same one elsewhere, the same place
    under the same condition, the same place."""
    rules: tuple[Callable[[Side], Any], ...] = (
        lambda side: (_key(side.row), _configuration(side.row), side.condition),
        lambda side: (_configuration(side.row), side.condition),
        lambda side: (_key(side.row), side.condition),
        lambda side: _key(side.row),
    )
    left: list[Side] = list(before)
    found: dict[int, Side] = {}
    for rule in rules:
        known: dict[Any, list[Side]] = {}
        for side in left:
            known.setdefault(rule(side), []).append(side)
        for place, side in enumerate(after):
            if place not in found and known.get(rule(side)):
                found[place] = known[rule(side)].pop(0)
        taken = {id(side) for side in found.values()}
        left = [side for side in left if id(side) not in taken]
    return [*((found.get(place), side) for place, side in enumerate(after)), *((side, None) for side in left)]


def _change(before: Side | None, after: Side | None, higher: bool, status: Mapping[Any, str]) -> RowChange:
    shown = after or before
    assert shown is not None
    name, arm = shown.row.name, shown.row.arm
    if before is None or after is None:
        return RowChange(
            name, arm, "new" if before is None else "gone", before, after, why=status.get(_key(shown.row), "")
        )
    settings = _settings(before.row, after.row)
    if before.condition != after.condition:
        why = _conditions(before.condition, after.condition)
        return RowChange(name, arm, "other conditions", before, after, settings=settings, why=why)
    one, other = before.distance, after.distance
    better = None if one.mean == other.mean else (other.mean > one.mean) == higher
    return RowChange(name, arm, _verdict(before, after), before, after, better, settings)


def _verdict(before: Side, after: Side) -> Verdict:
    one, other = before.distance, after.distance
    if one.mean == other.mean:
        return "same"
    if one.standard_error == 0 and other.standard_error == 0:
        return "noise unknown"
    return "within noise" if within_noise(one, other) else "beyond noise"


def _settings(before: Row, after: Row) -> tuple[str, ...]:
    """Keys that do not have the same value in both."""
    one, other = _kept(before), _kept(after)
    return tuple(key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key))


def _kept(row: Row) -> dict[str, Any]:
    """The dotted keys that make its images and their measure what they are."""
    return {key: value for key, value in flatten(row.config).items() if not key.startswith(NO_SETTING)}


def _configuration(row: Row) -> str:
    return canonical(_kept(row))


def _conditions(before: Condition, after: Condition) -> str:
    """What differs in two conditions, in words."""
    parts = {
        "features": (before.features, after.features),
        "images": (before.images, after.images),
        "images of the reference": (before.reference_images, after.reference_images),
        "weights of the extractor": (before.extractor[:8], after.extractor[:8]),
    }
    told = [f"{what} {one} → {other}" for what, (one, other) in parts.items() if one != other]
    return "; ".join(told) or f"another reference: {before.reference} → {after.reference}"
