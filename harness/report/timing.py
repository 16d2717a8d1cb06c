"""How sure a time is: which times may be told at all, and the noise of those that may.

A record says under ``time.trusted`` and ``time.reasons`` whether the machine was quiet while its cell was timed.
Records that do not say are taken as they are. What one cell cannot know of itself is told by the others: whether the
machine as a whole was slower then (:func:`slower_than_others`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from statistics import NormalDist, fmean, median, variance
from typing import Any

import numpy as np

from harness.report.doubts import counted
from harness.report.rows import Row, canonical, is_finite
from harness.store.records import CellRecord, TimeRecord
from harness.wording import count_of

MARK = "§"
"""Beside a time that is not to be trusted."""


MOST_SLOWER = 1.25
"""How much longer the yardstick, the same work for every cell, may take than beside the quicker half of the cells."""
MOST_SECONDS_PER_GMAC = 2.0
"""How much longer a multiply-add may take than in the median cell of the same network, run in the same proportions.
In quiet the cells of one network differed by up to 1.6 (by their number of steps, and the noise of short timings)."""
FEWEST_CELLS = 4
"""Cells of a group that tell what is usual."""


def slower_than_others(records: Iterable[CellRecord]) -> dict[str, str]:
    """Why the times of some cells are not to be trusted beside those of the others: cell → reason.

    Two kinds of evidence, each among cells that were timed alike (device, threads, number format): the yardstick that
    each cell timed beside itself, and the seconds per multiply-add of the cells of one network.
    """
    timed = {record.id: record for record in records if record.time is not None}
    slower: dict[str, str] = {}
    for group in _groups(timed.values(), _alike):
        yardsticks = {record.id: seconds for record in group if (seconds := yardstick(record)) is not None}
        usual = _median_of_quicker_half(list(yardsticks.values()))
        for id, seconds in yardsticks.items():
            if len(yardsticks) >= FEWEST_CELLS and seconds > MOST_SLOWER * usual:
                slower[id] = f"the same fixed work took {seconds / usual:.1f}× as long as beside other cells"
    for group in _groups(timed.values(), lambda record: (*_alike(record), *_network(record))):
        paces = {record.id: pace for record in group if (pace := seconds_per_gmac(record)) is not None}
        usual = median(paces.values()) if paces else math.nan
        for id, pace in paces.items():
            if len(paces) >= FEWEST_CELLS and pace > MOST_SECONDS_PER_GMAC * usual:
                slower.setdefault(id, f"it took {pace / usual:.1f}× the seconds per GMAC of its network's other cells")
    return slower


def seconds_per_gmac(record: CellRecord) -> float | None:
    """Seconds for 10⁹ multiply-adds, which the cells of one network share as nearly as a machine does; None where one
    of the two is not known."""
    seconds, gmacs = record.time.seconds_per_image if record.time else None, record.compute.gmacs_per_image
    known = is_finite(seconds) and is_finite(gmacs) and seconds > 0 and gmacs > 0
    return seconds / gmacs if known and seconds and gmacs else None


def yardstick(record: CellRecord) -> float | None:
    """Seconds of the fixed piece of work timed beside a cell, the quicker of before and after; None where there was
    none."""
    conditions = record.time.conditions if record.time else None
    positive = [seconds for seconds in (conditions.yardstick_seconds if conditions else ()) if seconds > 0]
    return min(positive, default=None)


def _alike(record: CellRecord) -> tuple[Any, ...]:
    time = record.time
    return (time.device, time.threads, time.dtype, time.compiled) if time else ()


def _network(record: CellRecord) -> tuple[Any, ...]:
    """What the cells share whose time is proportional to their multiply-adds: networks, in which proportions they run,
    batch."""
    counts = record.compute.evaluations
    most = max(counts.values(), default=1)
    sample = record.config.get("sample", {})
    return (
        canonical(record.config.get("model")),
        sample.get("cache_from_level"),
        sample.get("stitch"),
        sample.get("cache_order"),
        sample.get("guidance"),
        tuple(sorted((name, round(count / most, 2)) for name, count in counts.items())),
        record.time.batch if record.time else None,
    )


def _groups(records: Iterable[CellRecord], key: Callable[[CellRecord], Any]) -> Iterable[list[CellRecord]]:
    groups: dict[Any, list[CellRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups.values()


def _median_of_quicker_half(values: Sequence[float]) -> float:
    return median(sorted(values)[: (len(values) + 1) // 2]) if values else math.nan


def untrusted(rows: Iterable[Row]) -> list[Row]:
    """The timed rows whose times are not to be trusted."""
    return [row for row in rows if row.seconds > 0 and row.mistrust]


def why(rows: Sequence[Row], command: str) -> str:
    """One sentence on `rows`, all timed, of which some are not to be trusted: how many, why, and the cure."""
    doubted = untrusted(rows)
    return (
        f"{len(doubted)} of {count_of(len(rows), 'row')} {'was' if len(doubted) == 1 else 'were'} timed on a machine "
        f"that was not quiet ({counted((row.mistrust for row in doubted), 'row')}): `{command}`, on a quiet one, takes "
        "all times again."
    )


def time_command(report_command: str) -> str:
    """The command that takes a report's times again, from the one that makes the report."""
    name, space, arguments = report_command.removeprefix("harness report").partition(" ")
    return f"harness time {arguments}" if space and not name and arguments else "harness time FILE"


def timing_noise(rows: Sequence[Row]) -> dict[Row, float]:
    """Relative standard error of each row's seconds per image, as far as its records tell.

    Two sources, each pooled over `rows`, since a row has few repeats and fewer trainings: how far the repeats of one
    cell spread, and how far the times of one row's trainings do, whose networks differ in their weights alone. The
    largest of the row's own spread and these two is what one timing of it is off by; it is not divided by the number of
    repeats, since those of one cell follow each other within seconds, and the machine changes between cells.
    """
    timed = [row for row in rows if row.seconds > 0]
    own = {row: [spread for time in row.times if (spread := _spread(time)) is not None] for row in timed}
    within = _root_mean_square([spread for spreads in own.values() for spread in spreads])
    between = _between(timed)
    return {row: max(within, between, _root_mean_square(own[row])) / math.sqrt(len(row.records)) for row in timed}


def _spread(time: TimeRecord) -> float | None:
    """Relative standard deviation of one repeat, from the quartiles of all; None where the record does not tell it."""
    quartiles, repeats = time.seconds_per_image_quartiles or (), time.repeats or 0
    positive = [quartile for quartile in quartiles if is_finite(quartile) and quartile > 0]
    if len(quartiles) != 2 or len(positive) != 2 or repeats < 2:
        return None
    first, third = positive
    return abs(math.log(third / first)) / _expected_range(repeats)


@cache
def _expected_range(repeats: int) -> float:
    """Distance of the quartiles of that many draws from a standard normal, on average (Blom's order statistics)."""
    drawn = [NormalDist().inv_cdf((i - 0.375) / (repeats + 0.25)) for i in range(1, repeats + 1)]
    low, high = np.quantile(drawn, [0.25, 0.75])
    return float(high - low)


def _between(rows: Iterable[Row]) -> float:
    """Relative standard deviation of the times of one row's trainings, pooled over `rows`; 0 where each has one."""
    found: list[tuple[float, int]] = []
    for row in rows:
        told = [time.seconds_per_image for time in row.times]
        logs = [math.log(seconds) for seconds in told if is_finite(seconds) and seconds > 0]
        if len(logs) > 1:
            found.append((variance(logs), len(logs) - 1))
    freedom = sum(n for _, n in found)
    return math.sqrt(sum(v * n for v, n in found) / freedom) if freedom else 0.0


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(fmean(value * value for value in values)) if values else 0.0
