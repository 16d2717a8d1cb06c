"""Solvers of schedules against brute force on every small grid, and the objectives against their integrals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest

from models.scheduling.objectives import OBJECTIVES
from models.scheduling.solvers import FreeGrid, NoScheduleError, best_refreshes, bound_of


def problem(steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and errors without any structure; what has no meaning is not a number."""
    draw = np.random.default_rng(seed)
    weights, errors = draw.random((steps + 1, steps + 1)), draw.random((steps, steps))
    weights[np.tril_indices(steps + 1)] = np.nan
    errors[np.triu_indices(steps, 1)] = np.nan
    return weights, errors


def subsets(of: range | tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """Subsets with the first."""
    return ((of[0], *rest) for rest in combinations(of[1:], count - 1))


@pytest.mark.parametrize("steps", range(1, 11))
def test_fixed_grids_are_solved_as_by_brute_force(steps: int) -> None:
    for seed in range(3):
        weights, errors = problem(steps, seed)
        times = tuple(range(steps))
        for refreshes, found in enumerate(best_refreshes(weights, errors, steps), 1):
            every = {chosen: bound_of(weights, errors, times, chosen) for chosen in subsets(times, refreshes)}
            assert found.bound == pytest.approx(min(every.values()))
            assert every[found.refreshes] == pytest.approx(found.bound)
            assert found.times == times and len(found.refreshes) == refreshes == len(found.refresh_steps)


def every_schedule(size: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(times, refreshes): each time after the first is a step that refreshes, a step that does not, or no step."""
    for kinds in product(range(3), repeat=size - 1):
        times = (0, *(place for place, kind in enumerate(kinds, 1) if kind))
        yield times, (0, *(place for place, kind in enumerate(kinds, 1) if kind == 2))


@pytest.mark.parametrize("size", range(1, 11))
def test_free_grids_are_solved_as_by_brute_force(size: int) -> None:
    """Every number of steps and refreshes of every grid."""
    weights, errors = problem(size, size)
    best: dict[tuple[int, int], float] = {}
    for times, anchors in every_schedule(size):
        count = len(times), len(anchors)
        best[count] = min(best.get(count, np.inf), bound_of(weights, errors, times, anchors))
    solved = FreeGrid.solved(weights, errors, size, size)
    for (steps, refreshes), bound in best.items():
        found = solved.of(steps, refreshes)
        assert found.bound == pytest.approx(bound)
        assert bound_of(weights, errors, found.times, found.refreshes) == pytest.approx(bound)
        assert (len(found.times), len(found.refreshes)) == (steps, refreshes)


@pytest.mark.parametrize(("size", "prices"), [(6, (5, 2)), (7, (1, 1)), (8, (7, 3))])
def test_a_budget_is_spent_as_by_brute_force(size: int, prices: tuple[int, int]) -> None:
    refresh, step = prices
    weights, errors = problem(size, size)
    solved = FreeGrid.solved(weights, errors, size, size)
    cheapest: dict[int, float] = {}
    for times, anchors in every_schedule(size):
        cost = refresh * len(anchors) + step * len(times)
        cheapest[cost] = min(cheapest.get(cost, np.inf), bound_of(weights, errors, times, anchors))
    for budget in range(refresh + step, (refresh + step) * size + 1):
        found = solved.within(lambda n, r: refresh * r + step * n, budget)
        assert found.bound == pytest.approx(min(bound for cost, bound in cheapest.items() if cost <= budget))
        assert refresh * len(found.refreshes) + step * len(found.times) <= budget


def test_every_time_a_step_is_the_fixed_grid() -> None:
    weights, errors = problem(9, 5)
    solved = FreeGrid.solved(weights, errors, 9, 9)
    for refreshes, fixed in enumerate(best_refreshes(weights, errors, 9), 1):
        assert solved.of(9, refreshes).bound == pytest.approx(fixed.bound)


def test_sixty_four_times_are_solved_in_a_second_of_this_process() -> None:
    weights, errors = problem(64, 0)
    began = time.process_time()
    found = FreeGrid.solved(weights, errors, 32, 8).of(32, 8)
    best_refreshes(weights, errors, 64)
    assert time.process_time() - began < 1.0
    assert (len(found.times), len(found.refreshes)) == (32, 8)


def test_what_cannot_be_met_is_said() -> None:
    weights, errors = problem(4, 0)
    with pytest.raises(NoScheduleError, match="refreshes: 5 is not between 1 and 4"):
        best_refreshes(weights, errors, 5)
    with pytest.raises(NoScheduleError, match="steps: 0 is not between 1 and 4"):
        FreeGrid.solved(weights, errors, 0, 1)
    solved = FreeGrid.solved(weights, errors, 4, 4)
    with pytest.raises(NoScheduleError, match="no schedule of 2 steps with 3 refreshes"):
        solved.of(2, 3)
    with pytest.raises(NoScheduleError, match="even one step, which refreshes, costs 7, more than 6"):
        solved.within(lambda n, r: 5 * r + 2 * n, 6)
    with pytest.raises(ValueError, match="does not rise"):
        bound_of(weights, errors, (0, 2, 1), (0,))
    with pytest.raises(ValueError, match="does not start with a refresh"):
        bound_of(weights, errors, (0, 1), (1,))


def test_weights_are_the_integral_of_the_training_s_over_a_step() -> None:
    """½ ∫ e^λ sigmoid(b − λ) dλ by Simpson's rule, and ½ ∫ e^λ dλ."""
    log_snr = np.array([-6.0, -2.0, 1.5, 4.0])
    for bias in (-3.0, 0.0, 2.0):
        for i, j in combinations(range(4), 2):
            grid = np.linspace(log_snr[i], log_snr[j], 2001)
            values = np.exp(grid) / (1 + np.exp(grid - bias)) / 2
            simpson = (values[0] + values[-1] + 4 * values[1::2].sum() + 2 * values[2:-1:2].sum()) / 3
            integral = simpson * (grid[1] - grid[0])
            assert OBJECTIVES["sigmoid"].weights(log_snr, bias)[i, j] == pytest.approx(integral, rel=1e-9)
    elbo = OBJECTIVES["elbo"].weights(log_snr, 0.0)
    assert elbo[1, 3] == pytest.approx((np.exp(4) - np.exp(-2)) / 2)
    upper = np.triu_indices(4, 1)
    assert OBJECTIVES["sigmoid"].weights(log_snr, 25.0)[upper] == pytest.approx(elbo[upper], rel=1e-6)


def test_ddt_s_objective_is_the_sum_of_dissimilarities() -> None:
    weights = OBJECTIVES["cosine"].weights(np.linspace(-5, 5, 5), 0.0)
    _, errors = problem(4, 1)
    assert bound_of(weights, errors, (0, 1, 2, 3), (0, 2)) == pytest.approx(
        errors[0, 0] + errors[1, 0] + errors[2, 2] + errors[3, 2]
    )
