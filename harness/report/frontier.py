"""What each arm costs at equal quality: frontiers, costs interpolated on them, and their uncertainty.

A frontier holds an arm's rows that no other of its rows beats in both cost and distance, joined by straight lines in
(log cost, log distance). Costs of two arms are compared where both frontiers reach the same distance, never at one
number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.report.noise import Distance
from harness.report.rows import Row

Cost = Literal["gmacs", "seconds"]
COSTS: dict[str, Callable[[Row], float]] = {"gmacs": lambda row: row.gmacs, "seconds": lambda row: row.seconds}
REPLICATES = 400
GRID = 9
"""Distances over which a comparison averages."""
TOLERANCE = 1e-9
"""Of the logarithm of a distance that counts as reached."""
SMALLEST = 1e-12
"""Distances are compared by their logarithm: a distance of zero or below counts as this."""


@dataclass(frozen=True)
class Series:
    """The measured points of one method. All arrays have shape (points,)."""

    name: str
    cost: np.ndarray
    distance: np.ndarray
    training_noise: np.ndarray
    """Relative standard error shared by all points of one network."""
    sampling_noise: np.ndarray
    """Relative standard error of each point by itself."""
    network: np.ndarray
    """Which network (int) each point was drawn from."""
    arm: str = ""

    @property
    def frontier(self) -> np.ndarray:
        """Indices of the points on the frontier, by rising cost."""
        return pareto(self.cost, self.distance)

    @property
    def best(self) -> float:
        """The least distance of any point."""
        return float(self.distance.min())

    @property
    def cheapest(self) -> float:
        """The distance of the cheapest point: where the frontier begins."""
        return float(self.distance[self.frontier[0]])


def series(name: str, arm: str, rows: Iterable[Row], summaries: Mapping[Row, Distance], cost: Cost) -> Series | None:
    """The points of `rows` that have a cost; None where there are none."""
    used = [row for row in rows if row in summaries and COSTS[cost](row) > 0]
    if not used:
        return None
    held = [summaries[row] for row in used]
    networks: dict[tuple[str, ...], int] = {}
    return Series(
        name=name,
        cost=np.array([COSTS[cost](row) for row in used]),
        distance=np.array([max(d.mean, SMALLEST) for d in held]),
        training_noise=np.array([d.training_noise for d in held]),
        sampling_noise=np.array([d.sampling_noise for d in held]),
        network=np.array(
            [networks.setdefault(tuple(str(r.get("training")) for r in row.records), len(networks)) for row in used]
        ),
        arm=arm,
    )


def pareto(cost: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats in both cost and distance, by rising cost."""
    order = np.lexsort((distance, cost))
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], distance[order][:-1]]))
    return order[distance[order] < best_before]


def cost_at(cost: np.ndarray, distance: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log cost at which the frontier of each replicate reaches each target.

    `cost` (points,); `distance` (replicates, points), all positive; `targets` (targets,), or (replicates, targets).
    Returns (replicates, targets): inf where a target is not reached. Where the cheapest point is already as good, its
    cost is returned: an upper bound.
    """
    order = np.lexsort((distance[0], cost))
    log_cost = np.log(cost[order])
    # Rising along each replicate, so that one search finds where it passes a target.
    passed = -np.minimum.accumulate(np.log(distance[:, order]), axis=1)
    replicates, points = passed.shape
    sought = -(np.broadcast_to(np.log(targets), (replicates, targets.shape[-1])) + TOLERANCE)
    first = _rank_in_rows(passed, sought)
    here = np.minimum(first, points - 1)
    at, before = (np.take_along_axis(passed, place, axis=1) for place in (here, np.maximum(here - 1, 0)))
    left = _rank_in_rows(passed, before)
    span = at - before
    share = np.where(span > 0, (sought - before) / np.where(span > 0, span, 1), 1.0)
    between = log_cost[left] + np.clip(share, 0, 1) * (log_cost[here] - log_cost[left])
    return np.where(first < points, np.where(first == 0, log_cost[here], between), np.inf)


def _rank_in_rows(rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of each row's `rising` entries (rows, points) lie below each of its `values` (rows, values)."""
    rows, points = rising.shape
    low = min(rising.min(), values.min())
    offsets = np.arange(rows)[:, None] * (max(rising.max(), values.max()) - low + 1) - low
    found = np.searchsorted((rising + offsets).ravel(), (values + offsets).ravel(), side="left")
    return np.clip(found.reshape(values.shape) - np.arange(rows)[:, None] * points, 0, points)


@dataclass(frozen=True)
class Matched:
    """Two methods at one distance. A cost is inf, and the ratio nan, where the distance is not reached."""

    target: float
    base_cost: float
    cost: float
    bound: bool
    """Whether the cheapest row of the method is already this good: `cost` is then an upper bound."""
    ratio: float
    """Base's cost over the method's: above 1 the method is cheaper."""
    low: float
    high: float
    """The ratio's 95 % interval; `low` is 0 where, within noise, the method may not reach the target."""


@dataclass(frozen=True)
class Comparison:
    """A method against a base at equal distance."""

    arm: str
    name: str
    base: str
    cost: Cost
    matched: tuple[Matched, ...]
    """At each point of the base's frontier and at the best distance that both reach, from the worst to the best; or at
    the distances that were asked for."""
    ratio: float
    """Geometric mean of base's cost over the method's, over the distances `worst` to `shared`."""
    low: float
    high: float
    worst: float
    """The largest distance at which both frontiers have begun; `shared` where there is no range."""
    shared: float
    """The best distance that both reach."""
    bound: Literal["", "at least", "at most"]
    """What the ratio is where one frontier begins beyond the other's end."""
    best: float
    base_best: float
    best_differs: bool
    """Whether the two best distances differ beyond noise."""

    @property
    def verdict(self) -> Literal["less", "more", "equal"]:
        """Whether the method costs less or more than the base, beyond noise."""
        if self.low > 1 and self.bound != "at most":
            return "less"
        return "more" if self.high < 1 and self.bound != "at least" else "equal"


def compare(
    method: Series,
    base: Series,
    cost: Cost,
    replicates: int = REPLICATES,
    seed: int = 0,
    targets: Sequence[float] | None = None,
) -> Comparison:
    """Costs at equal distance, with intervals; at `targets` if given, so that two kinds of cost can be read together.

    The interval is a parametric bootstrap: each replicate shifts all points of a network by its training noise and each
    point by its sampling noise (both log-normal), builds both frontiers anew and averages over the range of distances
    that they then share. Choosing the best of noisy points flatters an arm with many of them, so the replicates give
    the interval's width and the measured ratio its centre.
    """
    method, base = _near(method), _near(base)
    generator = np.random.Generator(np.random.PCG64(seed))
    own, others = _replicates(method, replicates, generator), _replicates(base, replicates, generator)
    shared = np.maximum(own.min(axis=1), others.min(axis=1))
    worst = np.maximum(np.minimum(_begin(method.cost, own), _begin(base.cost, others)), shared)
    grid = np.exp(np.linspace(np.log(worst), np.log(shared), GRID, axis=1))
    ratios = (cost_at(base.cost, others, grid) - cost_at(method.cost, own, grid)).mean(axis=1)
    low, high = _interval(ratios)
    bound: Literal["", "at least", "at most"] = ""
    if worst[0] <= shared[0]:
        bound = "at least" if method.cheapest < shared[0] else "at most" if base.cheapest < shared[0] else ""
    gap = np.log(own.min(axis=1) / others.min(axis=1))
    return Comparison(
        method.arm,
        method.name,
        base.name,
        cost,
        _at_targets(method, base, own, others, _targets(method, base) if targets is None else np.array(targets)),
        math.exp(ratios[0]),
        low,
        high,
        float(worst[0]),
        float(shared[0]),
        bound,
        method.best,
        base.best,
        best_differs=bool(abs(gap[0]) > np.subtract(*np.quantile(gap, [0.975, 0.025])) / 2),
    )


def _begin(cost: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The distance at which each replicate's frontier begins: that of its cheapest point."""
    return distance[:, np.lexsort((distance[0], cost))[0]]


def _targets(method: Series, base: Series) -> np.ndarray:
    """The points of the base's frontier and the best distance that both reach, from the worst to the best."""
    targets = base.distance[base.frontier]
    shared = max(method.best, base.best)
    if not np.isclose(targets, shared, rtol=1e-9).any():
        targets = np.append(targets, shared)
    return np.sort(targets)[::-1]


def _at_targets(
    method: Series, base: Series, own: np.ndarray, others: np.ndarray, targets: np.ndarray
) -> tuple[Matched, ...]:
    own_cost, base_cost = cost_at(method.cost, own, targets), cost_at(base.cost, others, targets)
    found = []
    for i, target in enumerate(targets):
        reached = bool(np.isfinite(own_cost[0, i]) and np.isfinite(base_cost[0, i]))
        known = np.isfinite(own_cost[:, i]) | np.isfinite(base_cost[:, i])
        # A target that one of the two misses counts as a ratio of 0, or of infinity.
        low, high = _interval(base_cost[known, i] - own_cost[known, i]) if reached else (math.nan, math.nan)
        found.append(
            Matched(
                float(target),
                math.exp(base_cost[0, i]),
                math.exp(own_cost[0, i]),
                method.cheapest <= target,
                math.exp(base_cost[0, i] - own_cost[0, i]) if reached else math.nan,
                low,
                high,
            )
        )
    return tuple(found)


def _interval(logs: np.ndarray) -> tuple[float, float]:
    """95 % interval of exp(`logs`), whose first value is the estimate and the centre."""
    low, high = np.quantile(logs, [0.025, 0.975], method="inverted_cdf")
    middle = np.median(logs[np.isfinite(logs)])
    estimate = logs[0]
    return math.exp(estimate + min(low - middle, 0)), math.exp(estimate + max(high - middle, 0))


def _replicates(points: Series, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """(1 + replicates, points): the distances as measured, then with noise."""
    shared = generator.standard_normal((replicates, int(points.network.max()) + 1))[:, points.network]
    single = generator.standard_normal((replicates, len(points.cost)))
    noise = shared * points.training_noise + single * points.sampling_noise
    return points.distance * np.exp(np.concatenate([np.zeros((1, len(points.cost))), noise]))


def _near(points: Series, errors: float = 3.0) -> Series:
    """Without the points so far behind the frontier that noise will not bring them there."""
    width = np.exp(errors * np.hypot(points.training_noise, points.sampling_noise))
    order = np.lexsort((points.distance, points.cost))
    worst = np.minimum.accumulate((points.distance * width)[order])
    keep = np.sort(order[(points.distance / width)[order] <= worst])
    return Series(
        points.name,
        points.cost[keep],
        points.distance[keep],
        points.training_noise[keep],
        points.sampling_noise[keep],
        np.unique(points.network[keep], return_inverse=True)[1],
        points.arm,
    )
