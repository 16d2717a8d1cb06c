"""A row of a report: one configuration, measured over training and sampling seeds, under one condition."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any, TypeGuard

from harness.measure.waiting import reworded
from harness.report.doubts import merged
from harness.store.records import CellRecord, TimeRecord, TimingConditions, refreshing
from harness.wording import count_of

Rank = tuple[int, float, str]
"""Sort key of a value of any kind: see :func:`rank`."""


@dataclass(frozen=True)
class Condition:
    """What two distances must share before they may stand in one column.

    Two are equal if the content is: names are for readers, and one data set may be known by two of them.
    """

    data: str = field(compare=False)
    """Name of the data with the images' side, such as ``digits 8×8``."""
    features: str
    images: int
    """Generated images per sampling seed: a Fréchet distance falls with their number."""
    reference: str = field(compare=False)
    """The data's name and the split that images are compared with."""
    reference_images: int
    content: str
    """Identity of the reference's images, as the extractor saw them."""
    extractor: str = ""
    """Identity of the extractor's weights."""
    official: bool = True
    """Whether the extractor's weights are the official ones: distances with other weights are no FID."""
    distance: str = field(default="distance", compare=False)
    """Name in tables of the measure that rows are ranked by, such as ``FD-digits``."""

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key of conditions, by what readers see first."""
        return (self.data, self.features, self.images, self.reference, self.reference_images, self.content)

    @property
    def split(self) -> str:
        """The split that images are compared with, such as ``train``."""
        return self.reference.rpartition(" ")[2]

    @property
    def slug(self) -> str:
        """Part of a file's name where one report holds several conditions."""
        text = f"{self.data}-{self.distance}-{self.images}-{self.reference}".lower()
        return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)

    @property
    def text(self) -> str:
        """The condition in words, for captions."""
        return (
            f"{self.data}; {self.distance} of {count_of(count(self.images), 'image')} "
            f"against {self.reference} ({count_of(count(self.reference_images), 'image')})"
        )


@dataclass(frozen=True)
class ReportCell:
    """A cell as a report receives it: its place in the sweep, and its record or why there is none."""

    arm: str
    varied: dict[str, Any]
    """The keys that the arm varies (dotted) → their values."""
    record: CellRecord | None
    label: str = ""
    """The arm's name in print."""
    config: dict[str, Any] | None = None
    """The resolved configuration; the record's where there is one."""
    status: str | None = None
    """Why there is no record, such as ``blocked: its training failed``."""

    @property
    def configuration(self) -> dict[str, Any] | None:
        return self.config if self.record is None else self.record.config


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a table: a configuration, measured over its training and sampling seeds."""

    arm: str
    label: str
    varied: dict[str, Any]
    config: dict[str, Any]
    """The resolved experiment without its seed."""
    records: tuple[CellRecord, ...]
    """One per training seed that was measured, in the order of the seeds."""
    statuses: tuple[str, ...] = ()
    """For each training seed without a result, why it has none."""
    condition: Condition | None = None
    doubts: tuple[str, ...] = ()
    """Why its times are not to be trusted beside those of other rows."""
    _means: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def measured(self) -> bool:
        return bool(self.records)

    @property
    def status(self) -> str:
        """Empty where every seed was measured, else what is missing."""
        if not self.statuses:
            return ""
        reasons = ", ".join(dict.fromkeys(self.statuses))
        return reasons if not self.records else f"{len(self.statuses)} of {count_of(self.cells, 'seed')}: {reasons}"

    @property
    def cells(self) -> int:
        return len(self.records) + len(self.statuses)

    @cached_property
    def point(self) -> tuple[tuple[str, Rank], ...]:
        """The varied keys with their values' ranks, sorted: the row's place in its arm's grid."""
        return tuple((key, rank(value)) for key, value in sorted(self.varied.items()))

    def setting(self, key: str) -> Any:
        """Value of a dotted key in the configuration, or None."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return self.varied.get(key) if value is None else value

    def has(self, key: str) -> bool:
        """Whether the row has a value of `key`; None counts as one if its arm varies the key."""
        return self.setting(key) is not None or key in self.varied

    def values(self, measure: str) -> list[list[float]]:
        """Values of a measure of quality: one list per training seed, with one value per sampling seed."""
        return [[seed.values[measure] for seed in record.quality.per_seed] for record in self.records]  # type: ignore[misc]

    def mean(self, measure: str) -> float:
        """Mean of a measure of quality over all seeds; nan where it was not measured."""
        if measure not in self._means:
            self._means[measure] = self._mean(measure)
        return self._means[measure]

    def _mean(self, measure: str) -> float:
        return _mean(seed.values.get(measure) for record in self.records for seed in record.quality.per_seed)

    def stated_error(self, measure: str) -> float:
        """Mean over all seeds of the standard error that the measure itself states; nan where it states none."""
        return _mean(seed.standard_errors.get(measure) for record in self.records for seed in record.quality.per_seed)

    @cached_property
    def gmacs(self) -> float:
        """Multiply-adds per image, in 10⁹; the same for every seed."""
        return _median(record.compute.gmacs_per_image for record in self.records)

    @property
    def decodes(self) -> bool:
        """Whether it samples latents, which are decoded: a part of its compute and its times."""
        return any(record.compute.decoder_gmacs_per_image is not None for record in self.records)

    @property
    def gmacs_without_decoder(self) -> float:
        """Multiply-adds of sampling an image's latents, in 10⁹; of images all of them."""
        return _median(_less(r.compute.gmacs_per_image, r.compute.decoder_gmacs_per_image) for r in self.records)

    @property
    def seconds_without_decoder(self) -> float:
        """Seconds of sampling an image's latents; of images all of them."""
        return _median(_less(time.seconds_per_image, time.decoder_seconds_per_image) for time in self.times)

    @property
    def times(self) -> list[TimeRecord]:
        """The times of those of its records that were timed."""
        return [record.time for record in self.records if record.time is not None]

    @cached_property
    def seconds(self) -> float:
        """Seconds per image at the throughput batch: median over the training seeds."""
        return _median(time.seconds_per_image for time in self.times)

    @property
    def seconds_per_gmac(self) -> float:
        """Seconds for 10⁹ multiply-adds; nan where one of the two is not known."""
        return self.seconds / self.gmacs if self.gmacs > 0 else math.nan

    @cached_property
    def latency(self) -> float:
        """Seconds to sample a single image: median over the training seeds."""
        return _median(time.latency_seconds for time in self.times)

    @property
    def time_trusted(self) -> bool | None:
        """Whether its times are to be trusted; None where no record says."""
        if self.mistrust:
            return False
        return True if any(time.trusted is not None for time in self.times) else None

    @cached_property
    def mistrust(self) -> tuple[str, ...]:
        """Why its times are not to be trusted, according to its records and those of other rows; empty where they are,
        or where nothing is known."""
        return tuple(dict.fromkeys([*(reason for time in self.times for reason in mistrust(time)), *self.doubts]))

    @property
    def mistrust_in_short(self) -> tuple[str, ...]:
        """The same, those that differ in their numbers alone as one."""
        return merged(self.mistrust)

    @property
    def parameters(self) -> float:
        """Parameters of all its networks; nan where they were not counted."""
        counts = self.records[0].compute.parameters if self.records else {}
        return sum(counts.values()) if counts else math.nan

    @property
    def peak_memory(self) -> float:
        """Bytes at the peak of sampling the throughput batch: median over the training seeds."""
        return _median(time.peak_memory_bytes for time in self.times)

    @property
    def training_seconds(self) -> float:
        """Seconds that its own training took, over all its runs; where that is not recorded, at the measured speed:
        mean over the seeds, nan where neither is known."""
        images = (self.setting("train.steps") or 0) * (self.setting("train.batch") or 0)
        found = []
        for made in (record.provenance for record in self.records):
            speed = made.training_images_per_second
            found.append(made.training_seconds or (images / speed if images and speed else math.nan))
        return sum(found) / len(found) if found else math.nan

    @property
    def training_others_share(self) -> float:
        """Share of the processors that others took while it was trained, the most of any seed; nan where not known."""
        shares = [record.provenance.training_others_share for record in self.records]
        return max((share for share in shares if share is not None), default=math.nan)

    @property
    def needs_further_trainings(self) -> bool:
        """Whether its own training started from another, or its network is stitched to another."""
        return self.setting("train.start") is not None or self.setting("sample.stitch") is not None

    @property
    def inherited_seconds(self) -> float:
        """Seconds of the trainings that its own started from, the whole chain, and of a network that it is stitched to:
        mean over the seeds, nan if unknown."""
        known = [record.provenance.training_seconds_inherited for record in self.records]
        return sum(seconds or 0.0 for seconds in known) / len(known) if known and None not in known else math.nan

    @property
    def inherited_gmacs(self) -> float:
        """Multiply-adds of those trainings, in 10⁹; 0 where it started from none, nan where it is not known."""
        inherited = self.records[0].compute.training_gmacs_inherited if self.records else None
        return math.nan if inherited is None else inherited

    @property
    def training_chain(self) -> tuple[str, ...]:
        """Ids of those trainings, the nearest first."""
        return self.records[0].provenance.training_chain if self.records else ()

    @property
    def training_gmacs(self) -> float:
        """Multiply-adds of its training, in 10⁹; nan where they were not counted."""
        if not self.records:
            return math.nan
        compute = self.records[0].compute
        per_step, steps = compute.training_gmacs_per_step, compute.training_steps
        return per_step * steps if per_step and steps else math.nan

    @cached_property
    def clock(self) -> tuple[str | None, int | None]:
        """(device, threads) that it was timed with: only rows with the same ones may be compared in seconds."""
        time = self.records[0].time if self.records else None
        return (time.device, time.threads) if time is not None else (None, None)

    @cached_property
    def sampler(self) -> str:
        return str(self.setting("sample.sampler") or "–")

    @cached_property
    def steps(self) -> int | None:
        found = self.records[0].compute.steps if self.records else None
        return self.setting("sample.steps") if found is None else found

    @cached_property
    def _refreshing(self) -> tuple[int | None, float | None]:
        if self.records:
            return self.records[0].compute.refreshes, self.records[0].compute.refresh_interval
        keys = ("steps", "refresh_interval", "refreshes", "refresh_steps")
        return refreshing({key: self.setting(f"sample.{key}") for key in keys})

    @property
    def refreshes(self) -> int | None:
        """Total runs of the heavy part; None for a network that is run whole at every step."""
        return self._refreshing[0]

    @property
    def interval(self) -> float | None:
        """Steps from one refresh to the next: as set, or on average; None for a single-rate network."""
        return self._refreshing[1]

    @property
    def name(self) -> str:
        """The row in words: its arm and what distinguishes it from the arm's other rows."""
        parts = [self.sampler, count_of(self.steps, "step")] if self.steps is not None else [self.sampler]
        if self.refreshes is not None:
            parts.append(count_of(self.refreshes, "refresh"))
        standard = {"sample.sampler", "sample.steps", *REFRESH_KEYS}
        parts += [
            f"{short(key)} {show(value)}"
            for key, value in self.varied.items()
            if key not in standard and value is not None
        ]
        return f"{self.label} ({', '.join(parts)})"


def mistrust(time: TimeRecord) -> tuple[str, ...]:
    """Why a cell's times are not to be trusted; empty where they are, or where the record does not say."""
    if time.trusted is not False:
        return ()
    if not time.reasons:
        return ("its record does not say why",)
    told = time.conditions or TimingConditions()
    wall, running = ((told.model_extra or {}).get(f"{key}_seconds") for key in ("wall", "processor"))
    seconds = (wall if is_finite(wall) else None, running if is_finite(running) else None)
    return tuple(reworded(reason, told.waiting_share, *seconds) for reason in time.reasons)


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None else whole - (part or 0.0)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return median(known) if known else math.nan


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number, and neither infinite nor nan."""
    return isinstance(value, int | float) and math.isfinite(value)


REFRESH_KEYS = ("sample.refresh_interval", "sample.refreshes", "sample.refresh_steps")


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """JSON that is the same text for equal values. Raises ValueError for numbers that JSON does not have."""
    return ENCODER.encode(value)


def rank(value: Any) -> Rank:
    """Sort key for values of any kind: None first, then numbers by size, then the rest by their text."""
    if value is None:
        return (-1, 0.0, "")
    if type(value) is int or type(value) is float:
        return (0, float(value), "")
    return (1, 0.0, value if isinstance(value, str) else canonical(value))


def varied_keys(rows: Iterable[Row]) -> list[str]:
    """The dotted keys, sorted, that some arm varies and that take more than one value among `rows`."""
    rows = list(rows)
    keys = sorted({key for row in rows for key in row.varied})
    return [key for key in keys if len({rank(row.setting(key)) for row in rows}) > 1]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if value and isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def common(configurations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of the nested `configurations` have in common: the keys that have the same value in each."""
    shared: dict[str, Any] | None = None
    for configuration in configurations:
        shared = copy.deepcopy(dict(configuration)) if shared is None else _intersection(shared, configuration)
    return shared or {}


def _intersection(shared: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    if shared == other:
        return shared
    kept = {}
    for key, value in shared.items():
        if key in other and value == other[key]:
            kept[key] = value
        elif isinstance(value, dict) and isinstance(other.get(key), dict):
            kept[key] = _intersection(value, other[key])
    return kept


def difference(configuration: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys of a nested `configuration` whose values are not in `shared`."""
    own: dict[str, Any] = {}
    for key, value in configuration.items():
        if key in shared and value == shared[key]:
            continue
        if value and isinstance(value, dict):
            inner = difference(value, common_part if isinstance(common_part := shared.get(key), dict) else {})
            own.update({f"{key}.{name}": inner_value for name, inner_value in inner.items()})
        else:
            own[key] = value
    return own


def short(key: str) -> str:
    """A dotted key in words: its last part, but keys of training and distilling in full, which share names with those
    of sampling (steps)."""
    return (key if key.startswith(("train.", "distill.")) else key.rpartition(".")[2]).replace("_", " ")


def show_setting(value: Any) -> str:
    """A value as tables show it, with None as a value of its own."""
    return "none" if value is None else show(value)


def show(value: Any) -> str:
    """A value as tables show it: short, and the same for 2 and 2.0."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return str(value)


def count(number: float) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{int(number):,}".replace(",", "\N{THIN SPACE}") if number >= 10_000 else str(int(number))
