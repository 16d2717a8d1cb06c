"""Exact schedules by dynamic programming, vectorised.

A grid has times 0 … N in the order of sampling: 0 is the noisiest, N the end. A step from time i to a later time j with
the context made at time a ≤ i costs ``weights[i, j] · errors[i, a]``; `weights` is (N + 1, N + 1), `errors` (N, N), of
which entries with a > i have no meaning. A schedule visits times, the first 0 and the last N, and makes the context
anew at some of them, the first included; its bound is the sum over its steps. Ties go to the schedule found first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.scheduling.objectives import Floats


class Found(NamedTuple):
    """A schedule on a grid, and its bound."""

    bound: float
    times: tuple[int, ...]
    """Places on the grid where a step begins, rising from 0; the last step ends at N."""
    refreshes: tuple[int, ...]
    """Those of them where the context is made."""

    @property
    def refresh_steps(self) -> tuple[int, ...]:
        """The steps, counted from 0, that refresh."""
        return tuple(self.times.index(place) for place in self.refreshes)


class NoScheduleError(ValueError):
    """No schedule meets what was asked."""


def bound_of(weights: Floats, errors: Floats, times: tuple[int, ...], refreshes: tuple[int, ...]) -> float:
    """The bound of a schedule. Raises ValueError unless it starts with a refresh at time 0 and rises."""
    end = len(weights) - 1
    if not times or times[0] != 0 or refreshes[:1] != (0,) or not set(refreshes) <= set(times):
        raise ValueError(f"schedule: {times} with refreshes at {refreshes} does not start with a refresh at time 0")
    if any(after <= before for before, after in pairwise((*times, end))):
        raise ValueError(f"schedule: {times} does not rise below {end}")
    total, anchor = 0.0, 0
    for place, following in pairwise((*times, end)):
        anchor = place if place in refreshes else anchor
        total += float(weights[place, following] * errors[place, anchor])
    return total


def best_refreshes(weights: Floats, errors: Floats, most: int) -> list[Found]:
    """For every number of refreshes from 1 to `most` (at most N), the best when each time of the grid is a step.

    S[a, c] = Σ_{a ≤ i < c} W_i ℓ(t_i, t_a) and C[r, c] = min_a C[r − 1, a] + S[a, c]: O(N² R).
    """
    steps = len(weights) - 1
    if not 1 <= most <= steps:
        raise NoScheduleError(f"refreshes: {most} is not between 1 and {steps}, the number of steps")
    single = np.diagonal(weights, 1)
    within = np.tril(single[:, None] * _lower(errors))  # i, a: of the step at i with the context of a
    segments = np.full((steps + 1, steps + 1), np.inf)  # a, c
    segments[:steps, 1:] = np.cumsum(within, axis=0).T
    segments[np.tril_indices(steps + 1)] = np.inf
    best, before = segments[0].copy(), [np.zeros(steps + 1, dtype=np.int64)]
    found = [_of_fixed(float(best[-1]), steps, before)]
    for _ in range(1, most):
        totals = best[:, None] + segments
        before.append(totals.argmin(0))
        best = totals.min(0)
        found.append(_of_fixed(float(best[-1]), steps, before))
    return found


def _of_fixed(bound: float, steps: int, before: list[NDArray[np.int64]]) -> Found:
    places, end = [], steps
    for pointers in reversed(before):
        end = int(pointers[end])
        places.append(end)
    return Found(bound, tuple(range(steps)), tuple(reversed(places)))


@dataclass(frozen=True)
class FreeGrid:
    """The best bounds for every number of steps and refreshes at once, the steps being chosen from the grid.

    Two integer axes, of steps and of refreshes, stand in for an axis of cost: any price of a step and of a refresh is
    met without rounding.
    """

    weights: Floats
    errors: Floats
    best: Floats
    """(most steps + 1, most refreshes + 1): infinity where there is no such schedule."""
    _segments: NDArray[np.int64]
    """m, a, c: from where the last of m steps from a to c with the context of a begins."""
    _choices: NDArray[np.int64]
    """r, n, c: a · (most steps + 1) + m of the last segment."""

    @classmethod
    def solved(cls, weights: Floats, errors: Floats, steps: int, refreshes: int) -> FreeGrid:
        """Up to `steps` steps and `refreshes` refreshes. Raises :class:`NoScheduleError` outside 1 … N."""
        size = len(weights)
        for name, value in (("steps", steps), ("refreshes", refreshes)):
            if not 1 <= value < size:
                raise NoScheduleError(f"{name}: {value} is not between 1 and {size - 1}, the number of steps to choose")
        paths, segments = _paths(weights, errors, steps)
        totals = np.full((refreshes + 1, steps + 1, size), np.inf)
        totals[0, 0, 0] = 0.0
        choices = np.zeros(totals.shape, dtype=np.int64)
        counts = np.arange(1, steps + 1)
        for r in range(1, refreshes + 1):
            for n in range(r, steps + 1):
                m = counts[: n - r + 1]
                tried = totals[r - 1, n - m][:, :, None] + paths[m]  # m, a, c
                by_anchor = tried.min(0)
                anchor = by_anchor.argmin(0)
                totals[r, n] = by_anchor.min(0)
                length = m[tried[:, anchor, np.arange(size)].argmin(0)]
                choices[r, n] = anchor * (steps + 1) + length
        return cls(weights, errors, totals[:, :, -1].T.copy(), segments, choices)

    def of(self, steps: int, refreshes: int) -> Found:
        """The best schedule of exactly so many. Raises :class:`NoScheduleError` where there is none."""
        bound = float(self.best[steps, refreshes])
        if not np.isfinite(bound):
            raise NoScheduleError(f"refreshes: there is no schedule of {steps} steps with {refreshes} refreshes")
        times: list[int] = []
        anchors: list[int] = []
        place, base = len(self.weights) - 1, self.best.shape[0]
        n = steps
        for r in range(refreshes, 0, -1):
            anchor, length = divmod(int(self._choices[r, n, place]), base)
            for m in range(length, 0, -1):
                place = int(self._segments[m, anchor, place])
                times.append(place)
            anchors.append(anchor)
            n -= length
        return Found(bound, tuple(reversed(times)), tuple(reversed(anchors)))

    def within(self, cost: Callable[[int, int], int], budget: int) -> Found:
        """The best schedule of which ``cost(steps, refreshes)`` is at most `budget`, both in the same integer unit.

        Raises :class:`NoScheduleError` where even the cheapest costs more.
        """
        most = self.best.shape
        counts = [(n, r) for n in range(1, most[0]) for r in range(1, min(n, most[1] - 1) + 1) if cost(n, r) <= budget]
        if not counts:
            raise NoScheduleError(f"budget: even one step, which refreshes, costs {cost(1, 1)}, more than {budget}")
        return self.of(*min(counts, key=lambda count: (self.best[count], cost(*count))))


def _paths(weights: Floats, errors: Floats, steps: int) -> tuple[Floats, NDArray[np.int64]]:
    """(the best cost of m steps from a to c with the context of a, from where the last of them begins): m, a, c."""
    size = len(weights)
    forward = np.triu(np.ones((size, size), dtype=bool), 1)
    later = np.where(forward, weights, np.inf)  # b, c
    of_anchor = np.full((size, size), np.inf)  # b, a
    of_anchor[:-1, :-1] = np.where(np.tril(np.ones_like(errors, dtype=bool)), errors, np.inf)
    with np.errstate(invalid="ignore"):
        step = later[None] * of_anchor.T[:, :, None]  # a, b, c
    step[np.isnan(step)] = np.inf  # nothing times infinity
    best = np.full((steps + 1, size, size), np.inf)
    begins = np.zeros(best.shape, dtype=np.int64)
    anchors = np.arange(size)
    best[1], begins[1] = step[anchors, anchors], anchors[:, None]
    for m in range(2, steps + 1):
        tried = best[m - 1][:, :, None] + step
        begins[m] = tried.argmin(1)
        best[m] = tried.min(1)
    return best, begins


def _lower(errors: Floats) -> Floats:
    """`errors` with 0 where the context would be of a later time."""
    return np.where(np.tril(np.ones_like(errors, dtype=bool)), errors, 0.0)
