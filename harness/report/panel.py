"""From cells to rows and panels: rows that may be compared share a panel, others are kept apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.errors import StoreError
from harness.metrics import DEFAULT, measures
from harness.report.noise import Distance, distances
from harness.report.rows import Condition, ReportCell, Row, canonical, is_finite
from harness.report.timing import slower_than_others, timing_noise
from harness.store.records import SIDED, CellRecord, MeasureRecord

MISSING = "missing"


@dataclass(frozen=True, eq=False)
class Panel:
    """Rows whose distances may be compared. `condition` is None where nothing has been measured."""

    condition: Condition | None
    rows: tuple[Row, ...]
    arms: tuple[str, ...] = field(default=())
    metric: str = DEFAULT
    """Name of the measure that rows are ranked and compared by."""
    memory: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Cache of what several tables and the headline need: comparisons, and the conditions in words."""

    @cached_property
    def measured(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.measured)

    @cached_property
    def distances(self) -> dict[Row, Distance]:
        """For each measured row the measure that rows are ranked by, with noise pooled over all of them."""
        return dict(zip(self.measured, distances(self.measured, self.metric), strict=True))

    @cached_property
    def timing_noise(self) -> dict[Row, float]:
        """Relative standard error of the seconds per image of each timed row, with noise pooled over all of them."""
        return timing_noise(self.measured)

    @cached_property
    def measures(self) -> dict[str, MeasureRecord]:
        """Every measure of quality that some row has, by name: the package's own first, in their order."""
        by_name: dict[str, MeasureRecord] = {}
        for row in self.measured:
            for record in row.records:
                by_name |= record.quality.measures
        order = {name: place for place, name in enumerate(measures())}
        return {name: by_name[name] for name in sorted(by_name, key=lambda name: (order.get(name, len(order)), name))}

    @property
    def decodes(self) -> bool:
        """Whether some row samples latents: costs then hold their decoding."""
        return any(row.decodes for row in self.measured)

    @property
    def others(self) -> dict[str, MeasureRecord]:
        """The measures other than the one that rows are ranked by."""
        return {name: measure for name, measure in self.measures.items() if name != self.metric}

    @property
    def distance(self) -> str:
        """Name in tables of the measure that rows are ranked by."""
        return self.condition.distance if self.condition else "distance"

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better of the measure that rows are ranked by."""
        return self.metric in self.measures and self.measures[self.metric].better == "higher"

    def best(self, rows: Iterable[Row]) -> Row | None:
        """The best of the measured `rows` by the panel's measure; None where there is none."""
        sign = -1 if self.higher_is_better else 1
        return min(rows, key=lambda row: sign * self.distances[row].mean, default=None)


def panels(rows: Iterable[ReportCell], arms: Sequence[str] = (), metric: str = DEFAULT) -> tuple[Panel, ...]:
    """Group the cells into rows and the rows into panels of one condition each.

    `metric` is the measure that rows are ranked by. `arms` gives the order of the arms (those not named follow in the
    order they appear); everything else is sorted, so that the order of `rows` does not matter. Raises
    :class:`StoreError` for records that contradict each other.
    """
    cells = list(rows)
    order = {arm: i for i, arm in enumerate(dict.fromkeys([*arms, *(cell.arm for cell in cells)]))}
    grouped: dict[tuple[str, str], list[ReportCell]] = {}
    for cell in cells:
        grouped.setdefault((cell.arm, canonical(_varied(cell))), []).append(cell)
    slower = slower_than_others(cell.record for cell in cells if cell.record is not None)
    by_condition: dict[Condition, list[Row]] = {}
    empty: list[Row] = []
    for group in grouped.values():
        for row in _rows(group, metric, slower):
            (by_condition.setdefault(row.condition, []) if row.condition else empty).append(row)
    if not by_condition:
        return (Panel(None, tuple(sorted(empty, key=lambda r: _sort_key(r, order))), tuple(order), metric),)
    named = {condition: _called(rows) for condition, rows in by_condition.items()}
    for row in empty:
        by_condition[_likely(row, named.values())].append(row)
    return tuple(
        Panel(
            condition, tuple(sorted(by_condition[condition], key=lambda r: _sort_key(r, order))), tuple(order), metric
        )
        for condition in sorted(named.values(), key=lambda condition: condition.order)
    )


def _rows(group: Sequence[ReportCell], metric: str, slower: Mapping[str, str]) -> Iterator[Row]:
    """The rows of cells that share arm and varied keys: one, or one per condition."""
    first = group[0]
    label = first.label or first.arm
    by_condition: dict[Condition, dict[int, CellRecord]] = {}
    statuses = []
    for cell in group:
        record = cell.record
        if record is None or (flaw := flaw_of(record, metric)):
            statuses.append(cell.status or MISSING if record is None else flaw)
            continue
        of_condition = by_condition.setdefault(condition_of(record, metric), {})
        other = of_condition.setdefault(record.seed, record)
        if other.id != record.id:
            raise StoreError(
                f"arm {first.arm!r}, {first.varied}: cells {other.id} and {record.id} "
                f"both claim training seed {record.seed}"
            )
    for condition, of_condition in by_condition.items():
        records = tuple(of_condition[seed] for seed in sorted(of_condition))
        missing = tuple(statuses) if len(by_condition) == 1 else ()
        doubts = tuple(slower[record.id] for record in records if record.id in slower)
        config = _without_seed(records[0].config)
        yield Row(first.arm, label, _varied(first), config, records, missing, condition, doubts)
    if not by_condition:
        yield Row(first.arm, label, _varied(first), _without_seed(first.configuration or {}), (), tuple(statuses))


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "seed"}


def flaw_of(record: CellRecord, metric: str = DEFAULT) -> str:
    """Why a cell's values of `metric` cannot be used, in one line; empty where they can."""
    named = "distance" if metric == DEFAULT else metric
    values = [seed.values.get(metric) for seed in record.quality.per_seed]
    if not values or (metric != DEFAULT and metric not in record.quality.measures):
        return f"its record holds no {named}"
    return "" if all(map(is_finite, values)) else f"its {named} is no finite number"


def condition_of(record: CellRecord, metric: str = DEFAULT) -> Condition:
    """The condition of a cell's record. A label in the configuration takes precedence over the name that the
    data was measured under."""
    quality = record.quality
    reference, measure = quality.reference, quality.measures.get(metric)
    data = renamed(reference.data, record)
    return Condition(
        data=data,
        features=quality.features,
        images=quality.images,
        reference=reference.name if data == reference.data else f"{data} {reference.split}",
        reference_images=reference.images,
        content=canonical([reference.id, reference.split]),
        extractor=quality.extractor,
        official=quality.features != "inception" or quality.official,
        distance=measure.label if measure else metric,
    )


def renamed(data: str, record: CellRecord) -> str:
    """The name of the data, with its side, under the label of the record's configuration if there is one."""
    label = record.config.get("data", {}).get("label")
    side = data.rpartition(" ")[2] if SIDED.fullmatch(data) else ""
    if not label:
        return data
    return str(label) if not side or str(label).endswith(f" {side}") else f"{label} {side}"


def _likely(row: Row, conditions: Iterable[Condition]) -> Condition:
    """The condition of the panel that a row without a result most likely belongs to."""
    listed = sorted(conditions, key=lambda condition: condition.order)
    features, images = row.setting("measure.features"), row.setting("measure.images")
    side, split = row.setting("data.size"), row.setting("measure.reference")
    return max(
        listed,
        key=lambda c: (
            features in (None, c.features),
            images in (None, c.images),
            side is None or c.data.endswith(f" {side}×{side}"),
            split in (None, c.split),
        ),
    )


def _called(rows: Iterable[Row]) -> Condition:
    """The condition that `rows` share, under the name that most of them use; the first in order if there is a tie."""
    named = [row.condition for row in rows if row.condition is not None]
    names = Counter(condition.reference for condition in named)
    return min(named, key=lambda condition: (-names[condition.reference], condition.order))


def _varied(cell: ReportCell) -> dict[str, Any]:
    return {key: value for key, value in sorted(cell.varied.items()) if key != "seed"}


def _sort_key(row: Row, order: Mapping[str, int]) -> tuple[Any, ...]:
    others = [(k, r) for k, r in row.point if k not in ("sample.sampler", "sample.steps")]
    return (order[row.arm], row.sampler, row.steps or 0, row.refreshes or 0, others, row.point)
