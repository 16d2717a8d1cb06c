"""Frontiers and costs at equal quality against brute force and against curves whose ratio is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.frontier import Comparison, Series, _near, compare, cost_at, pareto

points = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 30)).map(lambda p: (p[0] / 3, p[1] / 7)), min_size=1, max_size=25
)


def series(name: str, cost: np.ndarray, distance: np.ndarray, training: float = 0, sampling: float = 0) -> Series:
    n = len(cost)
    return Series(
        name,
        np.asarray(cost, float),
        np.asarray(distance, float),
        np.full(n, training),
        np.full(n, sampling),
        np.zeros(n, int),
    )


@given(points)
@settings(max_examples=150, deadline=None)
def test_the_frontier_is_what_nothing_beats(found: list[tuple[float, float]]) -> None:
    cost, distance = (np.array(values) for values in zip(*found, strict=True))
    line = pareto(cost, distance)
    kept = {found[i] for i in line}
    undominated = {p for p in found if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in found)}
    assert kept == undominated
    assert list(cost[line]) == sorted(cost[line])


@given(points, st.floats(0.1, 5))
@settings(max_examples=150, deadline=None)
def test_cost_at_agrees_with_interpolation_point_by_point(found: list[tuple[float, float]], target: float) -> None:
    cost, distance = (np.array(values) for values in zip(*found, strict=True))
    line = pareto(cost, distance)
    x, y = np.log(cost[line]), np.log(distance[line])
    if y[-1] > math.log(target) + 1e-12:
        expected = math.inf
    elif y[0] <= math.log(target) + 1e-12:
        expected = x[0]
    else:
        expected = np.interp(-math.log(target), -y, x)
    assert cost_at(cost, distance[None], np.array([target]))[0, 0] == pytest.approx(expected, abs=1e-6)


def test_every_replicate_has_a_frontier_of_its_own() -> None:
    cost = np.array([1.0, 2.0, 4.0])
    distance = np.array([[4.0, 2.0, 1.0], [4.0, 1.0, 2.0], [4.0, 4.0, 4.0]])
    found = np.exp(cost_at(cost, distance, np.array([1.0, 2.0])))
    assert found[0] == pytest.approx([4.0, 2.0])
    assert found[1] == pytest.approx([2.0, 2**0.5])
    assert found[2].tolist() == [math.inf, math.inf]


COSTS = 2.0 ** np.arange(8)


def test_a_method_that_is_three_times_cheaper_everywhere_is_found_so() -> None:
    base = series("base", COSTS, COSTS**-0.7)
    found = compare(series("method", COSTS / 3, COSTS**-0.7), base, "gmacs")
    assert found.ratio == pytest.approx(3.0)
    assert (found.low, found.high) == pytest.approx((3.0, 3.0))
    assert found.verdict == "less" and found.bound == ""
    assert all(m.ratio == pytest.approx(3.0) for m in found.matched if not math.isnan(m.ratio))


def test_swapping_the_two_inverts_the_ratio() -> None:
    one, other = series("a", COSTS, COSTS**-0.5, 0.01), series("b", 1.7 * COSTS, 1.1 * COSTS**-0.6, 0.01)
    assert compare(one, other, "gmacs").ratio == pytest.approx(1 / compare(other, one, "gmacs").ratio)


def test_the_frontier_not_one_step_count_decides() -> None:
    """The base's dearest rows alone would make the method 4 times cheaper; its frontier makes it no cheaper."""
    base = series("base", np.array([1.0, 2.0, 8.0]), np.array([2.0, 1.0, 1.0]))
    method = series("method", np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    assert compare(method, base, "gmacs").ratio == pytest.approx(1.0)


def test_a_distance_that_is_not_reached_is_said_so() -> None:
    base = series("base", np.array([1.0, 10.0]), np.array([2.0, 0.5]))
    found = compare(series("method", np.array([0.5, 1.0]), np.array([2.0, 1.0])), base, "gmacs")
    assert [math.isinf(m.cost) for m in found.matched] == [False, False, True]
    assert [math.isnan(m.ratio) for m in found.matched] == [False, False, True]
    assert (found.worst, found.shared) == (2.0, 1.0)
    assert found.best_differs


def test_frontiers_that_share_no_range_give_a_bound() -> None:
    base = series("base", np.array([1.0, 2.0]), np.array([4.0, 3.0]))
    better = compare(series("better", np.array([0.5, 1.0]), np.array([2.0, 1.0])), base, "gmacs")
    assert (better.bound, better.ratio, better.shared) == ("at least", pytest.approx(4.0), 3.0)
    assert all(m.bound for m in better.matched)
    worse = compare(series("worse", np.array([3.0, 4.0]), np.array([6.0, 5.0])), base, "gmacs")
    assert (worse.bound, worse.ratio) == ("at most", pytest.approx(0.25))


def test_a_far_dearer_method_that_is_better_everywhere_is_not_called_cheaper() -> None:
    base = series("base", np.array([1.0, 2.0]), np.array([4.0, 3.0]))
    dear = compare(series("dear", np.array([100.0, 200.0]), np.array([2.0, 1.0])), base, "gmacs")
    assert dear.bound == "at least" and dear.ratio == pytest.approx(0.02) and dear.verdict == "equal"


def simulated(generator: np.random.Generator, ratio: float, noise: float) -> Comparison:
    method, base = (
        series(name, scale * COSTS, COSTS**-0.5 * np.exp(noise * generator.standard_normal(len(COSTS))), 0, noise)
        for name, scale in (("method", 1 / ratio), ("base", 1.0))
    )
    return compare(method, base, "gmacs", replicates=150)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    found = [simulated(generator, 1.5, 0.05) for _ in range(150)]
    covered = np.mean([c.low <= 1.5 <= c.high for c in found])
    assert 0.88 <= covered <= 1.0
    assert np.mean([c.verdict == "less" for c in found]) > 0.9
    assert all(c.low <= c.ratio <= c.high for c in found)


def test_two_equal_methods_are_seldom_told_apart() -> None:
    generator = np.random.default_rng(1)
    assert np.mean([simulated(generator, 1.0, 0.05).verdict == "equal" for _ in range(150)]) > 0.88


def test_more_noise_gives_a_wider_interval_and_the_same_input_the_same_one() -> None:
    base = series("base", COSTS, COSTS**-0.5)
    quiet, loud = (compare(series("m", COSTS / 2, COSTS**-0.5, noise), base, "gmacs") for noise in (0.01, 0.1))
    assert loud.high / loud.low > 2 * quiet.high / quiet.low / 1.5
    assert loud.ratio == pytest.approx(quiet.ratio)
    assert compare(series("m", COSTS / 2, COSTS**-0.5, 0.1), base, "gmacs") == loud


def with_noisy_costs(points: Series, noise: float, generator: np.random.Generator | None = None) -> Series:
    n = len(points.cost)
    drawn = np.exp(noise * generator.standard_normal(n)) if generator is not None else 1.0
    return replace(points, cost=points.cost * drawn, cost_noise=np.full(n, noise))


def test_noise_of_the_costs_is_in_the_interval_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    base, method = series("base", COSTS, COSTS**-0.5), series("m", COSTS / 1.5, COSTS**-0.5)
    drawn = [(with_noisy_costs(method, 0.1, generator), with_noisy_costs(base, 0.1, generator)) for _ in range(150)]
    found = [compare(own, other, "seconds", replicates=150) for own, other in drawn]
    assert 0.85 <= np.mean([c.low <= 1.5 <= c.high for c in found]) <= 1.0
    without = [(replace(own, cost_noise=None), replace(other, cost_noise=None)) for own, other in drawn]
    exact = [compare(own, other, "seconds", replicates=150) for own, other in without]
    assert np.mean([c.low <= 1.5 <= c.high for c in exact]) < 0.1, "without it the interval is too narrow"


def test_costs_without_noise_are_costs_without_noise() -> None:
    base, method = series("base", COSTS, COSTS**-0.5, 0.05, 0.05), series("m", COSTS / 2, COSTS**-0.5, 0.05, 0.05)
    plain = compare(method, base, "seconds")
    assert compare(with_noisy_costs(method, 0.0), with_noisy_costs(base, 0.0), "seconds") == plain


def test_a_costly_point_that_noise_may_make_cheap_is_kept() -> None:
    """Point 1 costs a tenth more than point 0 and is worse: noise of the costs can turn that."""
    points = series("m", np.array([1.0, 1.1, 4.0]), np.array([2.0, 2.2, 1.0]))
    assert len(_near(points).cost) == 2
    assert len(_near(with_noisy_costs(points, 0.1)).cost) == 3


def test_flat_frontiers_bought_nothing_and_falling_ones_did() -> None:
    base, flat = series("base", COSTS, COSTS**-0.5), series("flat", COSTS, 1 + 0.0005 * COSTS[::-1])
    assert compare(series("m", COSTS, COSTS**-0.5), base, "gmacs").bought
    assert not compare(flat, flat, "gmacs").bought
    noisy = series("noisy", COSTS, 1 - 0.05 * np.log2(COSTS) / 3, sampling=0.1)
    assert not compare(noisy, noisy, "gmacs").bought, "a fall of 12 % where the best of eight differs by that much"


def test_noise_of_a_training_moves_all_its_points_together() -> None:
    """Noise that all points share does not average out over a frontier; noise of each point does."""
    base = series("base", COSTS, COSTS**-0.5)
    shared = compare(series("m", COSTS, COSTS**-0.5, training=0.1), base, "gmacs")
    single = compare(series("m", COSTS, COSTS**-0.5, sampling=0.1), base, "gmacs")
    assert math.log(shared.high / shared.low) > 1.5 * math.log(single.high / single.low)
