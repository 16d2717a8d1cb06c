"""How sure a time is: which times may be told at all, and the noise of those that may.

A record says under ``time.trusted`` and ``time.reasons`` whether the machine was quiet while its cell was timed.
Records that do not say are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from statistics import NormalDist, fmean, variance

import numpy as np

from harness.report.rows import Row, is_finite
from harness.store.records import TimeRecord
from harness.wording import count_of

MARK = "§"
"""Beside a time that is not to be trusted."""


def untrusted(rows: Iterable[Row]) -> list[Row]:
    """The timed rows whose times are not to be trusted."""
    return [row for row in rows if row.seconds > 0 and row.mistrust]


def why(rows: Sequence[Row], command: str) -> str:
    """One sentence on `rows`, all timed, of which some are not to be trusted: how many, why, and the cure."""
    doubted = untrusted(rows)
    reasons = list(dict.fromkeys(reason for row in doubted for reason in row.mistrust))
    more = f"; and {len(reasons) - 1} more like this" if len(reasons) > 1 else ""
    return (
        f"{len(doubted)} of {count_of(len(rows), 'row')} {'was' if len(doubted) == 1 else 'were'} timed on a machine "
        f"that was not quiet ({reasons[0]}{more}): `{command}`, on a quiet one, takes all times again."
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
