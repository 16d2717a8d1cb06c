"""How certain a distance is: its spread over seeds, its standard error, and when two distances differ.

A row's distance is the mean over training seeds of the mean over sampling seeds. Two sources of noise are kept apart,
both relative to the distance: *training* (another training seed) and *sampling* (other images of the same network).
Few rows have many seeds, so each source's variance is pooled over all rows of a panel, and a row is given the largest
of its own, the pooled one and (for sampling) the square of the standard error that its measurement states: when in
doubt, a difference counts as noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.rows import Row

Z = 1.96
"""Half the width of a 95 % interval, in standard errors."""


@dataclass(frozen=True)
class Distance:
    """A row's distance, or other measure of quality, with its noise. `spread` is nan where there is only one value."""

    mean: float
    spread: float
    """Standard deviation over all seeds."""
    trainings: int
    samplings: int
    training_noise: float
    """Relative standard error over training seeds; 0 where it is unknown."""
    sampling_noise: float
    """Relative standard error over sampling seeds; 0 where it is unknown."""

    @property
    def standard_error(self) -> float:
        return abs(self.mean) * math.hypot(self.training_noise, self.sampling_noise)


def distances(rows: Sequence[Row], measure: str) -> list[Distance]:
    """The `measure` of each measured row, with noise pooled over `rows` (all of one condition)."""
    values = [row.values(measure) for row in rows]
    training = [_relative_variance([_mean(v) for v in by_training]) for by_training in values]
    sampling = [_sampling_variance(by_training) for by_training in values]
    pooled_training, pooled_sampling = _pooled(training), _pooled(sampling)
    summaries = []
    for row, by_training, own_training, own_sampling in zip(rows, values, training, sampling, strict=True):
        all_values = [value for sampled in by_training for value in sampled]
        between = max(own_training[0], pooled_training)
        within = max(own_sampling[0], pooled_sampling, _stated_variance(row, measure)) / len(all_values)
        # The variance between the trainings' means already includes that of sampling.
        between = max(between / len(by_training) - within, 0.0)
        summaries.append(
            Distance(
                mean=_mean([_mean(sampled) for sampled in by_training]),
                spread=math.sqrt(_variance(all_values)) if len(all_values) > 1 else math.nan,
                trainings=len(by_training),
                samplings=min(len(sampled) for sampled in by_training),
                training_noise=math.sqrt(between),
                sampling_noise=math.sqrt(within),
            )
        )
    return summaries


def within_noise(one: Distance, other: Distance) -> bool:
    """Whether the difference of two distances is smaller than its 95 % interval."""
    return abs(one.mean - other.mean) <= Z * math.hypot(one.standard_error, other.standard_error)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum([(v - mean) ** 2 for v in values]) / (len(values) - 1)


def _relative_variance(values: Sequence[float]) -> tuple[float, int]:
    """(variance / mean², degrees of freedom); zeros for a single value, which has no variance."""
    if len(values) < 2 or (mean := _mean(values)) == 0:
        return 0.0, 0
    return sum([(v - mean) ** 2 for v in values]) / (mean * mean * (len(values) - 1)), len(values) - 1


def _sampling_variance(by_training: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Relative variance of one sampling seed's distance, with its degrees of freedom."""
    estimates = [_relative_variance(sampled) for sampled in by_training]
    return _pooled(estimates), sum(n for _, n in estimates)


def _stated_variance(row: Row, measure: str) -> float:
    """Relative variance of one sampling seed's value as the measurement itself states it; 0 where it does not."""
    stated, mean = row.stated_error(measure), row.mean(measure)
    return 0.0 if math.isnan(stated) or mean == 0 else (stated / mean) ** 2


def _pooled(estimates: Sequence[tuple[float, int]]) -> float:
    freedom = sum(n for _, n in estimates)
    return sum(v * n for v, n in estimates) / freedom if freedom else 0.0
