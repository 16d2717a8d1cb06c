"""The noise of a distance against what it must be for draws from a known distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from harness.report import noise
from harness.report.noise import Distance, within_noise
from harness.report.rows import Row
from tests.report.made_up import cell, panels


def distances(rows: Sequence[Row]) -> list[Distance]:
    return noise.distances(rows, "frechet")


def rows_of(values: np.ndarray, standard_error: float | None = None) -> tuple[Row, ...]:
    """Rows from distances (rows, trainings, samplings)."""
    return panels(
        [
            cell(
                "base",
                {"sample.steps": step + 1},
                frechet=list(map(float, sampled)),
                seed=seed,
                standard_error=standard_error,
            )
            for step, trained in enumerate(values)
            for seed, sampled in enumerate(trained)
        ]
    )[0].measured


def test_mean_and_spread_by_hand() -> None:
    (found,) = distances(rows_of(np.array([[[1.0, 3.0], [5.0, 7.0]]])))
    assert found.mean == 4.0
    assert found.spread == pytest.approx(math.sqrt(20 / 3))
    # Trainings' means 2 and 6: variance 8, over 2 trainings; at least that is the square of the standard error.
    assert found.standard_error == pytest.approx(2.0)


def test_the_standard_error_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    trained = generator.standard_normal((400, 3, 1)) * 0.05
    values = 2.0 * np.exp(trained + generator.standard_normal((400, 3, 2)) * 0.02)
    found = distances(rows_of(values))
    share = np.mean([abs(d.mean - 2.0) < 1.96 * d.standard_error for d in found])
    assert 0.93 <= share <= 1.0
    typical = 2.0 * math.sqrt(0.05**2 / 3 + 0.02**2 / 6)
    assert np.median([d.standard_error for d in found]) == pytest.approx(typical, rel=0.15)


def test_the_two_sources_are_told_apart() -> None:
    generator = np.random.default_rng(1)
    only_sampling = 2.0 * np.exp(generator.standard_normal((200, 4, 4)) * 0.05)
    found = distances(rows_of(only_sampling))
    assert np.median([d.sampling_noise for d in found]) == pytest.approx(0.05 / 4, rel=0.2)
    assert np.median([d.training_noise for d in found]) < 0.05 / 4


def test_one_value_has_no_spread_but_the_error_that_it_states() -> None:
    (found,) = distances(rows_of(np.array([[[2.0]]]), standard_error=0.1))
    assert math.isnan(found.spread)
    assert found.standard_error == pytest.approx(0.1)


def test_a_lucky_pair_of_equal_seeds_borrows_the_noise_of_the_other_rows() -> None:
    values = np.array([[[1.0], [1.0]], [[1.0], [1.2]], [[2.0], [2.4]], [[3.0], [2.6]]])
    lucky, *others = distances(rows_of(values))
    assert lucky.standard_error > 0.5 * min(d.standard_error / d.mean for d in others)


def test_differences_within_and_beyond_noise() -> None:
    near, nearby, far = distances(rows_of(np.array([[[1.0]], [[1.1]], [[2.0]]]), standard_error=0.1))
    assert within_noise(near, nearby) and within_noise(nearby, near)
    assert not within_noise(near, far)


def test_distances_of_zero_divide_nothing() -> None:
    zero, other = distances(rows_of(np.array([[[0.0, 0.0]], [[1.0, 1.1]]])))
    assert zero.mean == 0 and math.isfinite(zero.standard_error) and other.standard_error > 0
