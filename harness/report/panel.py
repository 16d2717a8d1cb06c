"""From cells to rows and panels: what may be compared stands together, what may not is kept apart.

An input row is a mapping with the keys ``arm`` (str), ``varied`` (dotted key → value), ``record`` (a cell's record, or
None where there is none) and optionally ``label`` (the arm's name in print), ``config`` and ``status`` (why there is no
record, e.g. ``"blocked: its training failed"``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.report.noise import Distance, distances
from harness.report.rows import Condition, Row, canonical, is_finite
from harness.report.timing import timing_noise

MISSING = "missing"


@dataclass(frozen=True, eq=False)
class Panel:
    """Rows whose distances may be compared. `condition` is None where nothing has been measured."""

    condition: Condition | None
    rows: tuple[Row, ...]
    arms: tuple[str, ...] = field(default=())
    compared: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Comparisons made so far: the headline and two tables ask for the same ones."""

    @cached_property
    def measured(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.measured)

    @cached_property
    def distances(self) -> dict[Row, Distance]:
        """The distance of each measured row, with noise pooled over all of them."""
        return dict(zip(self.measured, distances(self.measured), strict=True))

    @cached_property
    def timing_noise(self) -> dict[Row, float]:
        """Relative standard error of the seconds per image of each timed row, with noise pooled over all of them."""
        return timing_noise(self.measured)

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """Measures of quality that some row has beside the two distances."""
        optional = ("inception_score", "precision", "recall")
        seeds = [seed for row in self.measured for r in row.records for seed in r["quality"]["per_seed"]]
        return tuple(measure for measure in optional if any(measure in seed for seed in seeds))

    @property
    def distance(self) -> str:
        return self.condition.distance if self.condition else "distance"

    @property
    def kernel(self) -> str:
        return self.condition.kernel if self.condition else "kernel distance"


def panels(rows: Iterable[Mapping[str, Any]], arms: Sequence[str] = ()) -> tuple[Panel, ...]:
    """Group the cells into rows and the rows into panels of one condition each.

    `arms` gives the order of the arms (those not named follow in the order they appear); everything else is sorted, so
    that the order of `rows` does not matter. Raises :class:`StoreError` for records that contradict each other.
    """
    cells = list(rows)
    order = {arm: i for i, arm in enumerate(dict.fromkeys([*arms, *(cell["arm"] for cell in cells)]))}
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        grouped.setdefault((cell["arm"], canonical(_varied(cell))), []).append(cell)
    by_condition: dict[Condition, list[Row]] = {}
    empty: list[Row] = []
    for group in grouped.values():
        for row in _rows(group):
            (by_condition.setdefault(row.condition, []) if row.condition else empty).append(row)
    if not by_condition:
        return (Panel(None, tuple(sorted(empty, key=lambda r: _sort_key(r, order))), tuple(order)),)
    named = {condition: _called(rows) for condition, rows in by_condition.items()}
    for row in empty:
        by_condition[_likely(row, named.values())].append(row)
    return tuple(
        Panel(condition, tuple(sorted(by_condition[condition], key=lambda r: _sort_key(r, order))), tuple(order))
        for condition in sorted(named.values(), key=lambda condition: condition.order)
    )


def _rows(group: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of cells that share arm and varied keys: one, or one per condition."""
    first = group[0]
    label = first.get("label") or first["arm"]
    by_condition: dict[Condition, dict[int, dict[str, Any]]] = {}
    statuses = []
    for cell in group:
        record = cell.get("record")
        if record is None or (flaw := flaw_of(record)):
            statuses.append(flaw if record else str(cell.get("status") or MISSING))
            continue
        held = by_condition.setdefault(condition_of(record), {})
        seed = int(record["config"].get("seed", 0))
        if seed in held and held[seed]["id"] != record["id"]:
            raise StoreError(
                f"arm {first['arm']!r}, {dict(first['varied'])}: cells {held[seed]['id']} and {record['id']} "
                f"both claim training seed {seed}"
            )
        held[seed] = record
    for condition, held in by_condition.items():
        records = tuple(held[seed] for seed in sorted(held))
        config = {key: value for key, value in records[0]["config"].items() if key != "seed"}
        lacking = tuple(statuses) if len(by_condition) == 1 else ()
        yield Row(first["arm"], label, _varied(first), config, records, lacking, condition)
    if not by_condition:
        config = {key: value for key, value in (first.get("config") or {}).items() if key != "seed"}
        yield Row(first["arm"], label, _varied(first), config, (), tuple(statuses))


def flaw_of(record: Mapping[str, Any]) -> str:
    """Why a cell's distances cannot be used, in one line; empty where they can."""
    values = [seed.get("frechet") for seed in (record.get("quality") or {}).get("per_seed") or ()]
    if not values:
        return "its record holds no distance"
    return "" if all(map(is_finite, values)) else "its distance is no finite number"


def condition_of(record: Mapping[str, Any]) -> Condition:
    """The condition of a cell's record. Raises :class:`StoreError` where the record does not say."""
    try:
        quality, data = record["quality"], record["config"]["data"]
        reference = quality["reference"]
        named = Named.read(reference, data)
        return Condition(
            data=named.data,
            features=quality["features"],
            images=int(quality["images"]),
            reference=named.reference,
            reference_images=int(reference["images"]),
            content=_content(reference, data, named),
            extractor=str(quality.get("extractor", "")),
            official=quality["features"] != "inception" or quality.get("frechet_label", "FID") == "FID",
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"cell {record.get('id', '?')}: its record lacks {error}") from None


@dataclass(frozen=True)
class Named:
    """What a record calls its data."""

    data: str
    side: str
    """As ``8×8``; empty where it is not told."""
    reference: str
    """The data and the split that images are compared with."""
    split: str

    @classmethod
    def read(cls, reference: Mapping[str, Any], data: Mapping[str, Any]) -> Named:
        """From a record's reference and the configuration's data.

        The name is ``<data> <side> <split>``, as cells write it; older records have no parts of it. A label in the
        configuration goes before the name that the cell was measured under.
        """
        written = str(reference["name"])
        whole, _, split = written.rpartition(" ")
        whole, split = str(reference.get("data") or whole), str(reference.get("split") or split)
        found = SIDED.fullmatch(whole)
        stem, side = (found["stem"], found["side"]) if found else _from_configuration(data)
        stem = str(data.get("label") or stem)
        name = stem if not side or stem.endswith(f" {side}") else f"{stem} {side}"
        return cls(name, side, f"{name} {split}" if found else written, split)


SIDED = re.compile(r"(?P<stem>.+) (?P<side>\d+×\d+)")


def _from_configuration(data: Mapping[str, Any]) -> tuple[str, str]:
    """(name, side) of a record whose reference does not tell them."""
    size = 8 if data.get("name") == "digits" else data.get("size")
    name = str(data.get("name"))
    if name == "images" and data.get("path"):
        name = Path(str(data["path"])).stem
    return name, f"{size}×{size}" if size else ""


def _content(reference: Mapping[str, Any], data: Mapping[str, Any], named: Named) -> str:
    """What tells one reference's images from another's, wherever they lie and whatever they are called.

    The hash of an older record, which has no parts of the name, does not cover size and channels: they stand beside it.
    """
    identity = reference.get("id") or reference.get("fingerprint") or named.data
    pixels = [] if "data" in reference else [named.side, data.get("channels")]
    return canonical([identity, named.split, *pixels])


def _likely(row: Row, conditions: Iterable[Condition]) -> Condition:
    """The panel in which a row without a result would stand."""
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
    """The condition of rows that share it, under the name that most of them give; of several, the first in order."""
    named = [row.condition for row in rows if row.condition is not None]
    names = Counter(condition.reference for condition in named)
    return min(named, key=lambda condition: (-names[condition.reference], condition.order))


def _varied(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cell["varied"].items() if key != "seed"}


def _sort_key(row: Row, order: Mapping[str, int]) -> tuple[Any, ...]:
    others = [(k, r) for k, r in row.point if k not in ("sample.sampler", "sample.steps")]
    return (order[row.arm], row.sampler, row.steps or 0, row.refreshes or 0, others, row.point)
