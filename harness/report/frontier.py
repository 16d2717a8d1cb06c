"""What each arm costs at equal quality: frontiers, costs interpolated on them, and their uncertainty.

A frontier holds those rows of an arm that none of its other rows beats in both cost and distance, joined by straight
lines in (log cost, log distance). Costs of two arms are compared where both frontiers reach the same distance, never at
the same number of steps.
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
"""Number of distances over which a comparison averages."""
TOLERANCE = 1e-9
"""In the logarithm of the distance: a target this close counts as reached."""
LEAST_FALL = math.log(1.1)
"""Of the logarithm of the distance from a frontier's cheapest point to its best: a frontier that falls less is flat."""
MOST_NOISE = 3.0
"""Cap on relative standard errors: a distance uncertain by a factor of twenty is not known at all."""
SMALLEST = 1e-12
"""Distances are compared by their logarithm: a distance of zero or below counts as this."""


@dataclass(frozen=True)
class Series:
    """The measured points of one method. All arrays have shape (points,)."""

    name: str
    cost: np.ndarray
    distance: np.ndarray
    training_noise: np.ndarray
    """Relative standard error of each point that it shares with all points of the same network."""
    sampling_noise: np.ndarray
    """Relative standard error of each point on its own."""
    network: np.ndarray
    """Which network (int) each point was drawn from."""
    arm: str = ""
    cost_noise: np.ndarray | None = None
    """Relative standard error of each point's cost; None where costs are exact, as multiply-adds are."""
    inverse: bool = False
    """Whether `distance` is the inverse of a score of which more is better, so that less is better in any case."""

    def shown(self, distance: float) -> float:
        """A distance as it was measured: the score itself where distances are inverted."""
        return 1 / distance if self.inverse else distance

    @property
    def frontier(self) -> np.ndarray:
        """Indices of the points on the frontier, by rising cost."""
        return pareto(self.cost, self.distance)

    @property
    def best(self) -> float:
        """The smallest distance of any point."""
        return float(self.distance.min())

    @property
    def cheapest(self) -> float:
        """The distance of the cheapest point: where the frontier begins."""
        return float(self.distance[self.frontier[0]])


def series(
    name: str,
    arm: str,
    rows: Iterable[Row],
    summaries: Mapping[Row, Distance],
    cost: Cost,
    cost_noise: Mapping[Row, float] | None = None,
    higher_is_better: bool = False,
) -> Series | None:
    """The points of `rows` that have a cost; None where there are none."""
    used = [row for row in rows if row in summaries and COSTS[cost](row) > 0]
    if not used:
        return None
    values = [summaries[row] for row in used]
    means = np.array([max(value.mean, SMALLEST) for value in values])
    networks: dict[tuple[str, ...], int] = {}
    return Series(
        name=name,
        cost=np.array([COSTS[cost](row) for row in used]),
        distance=1 / means if higher_is_better else means,
        training_noise=np.array([min(d.training_noise, MOST_NOISE) for d in values]),
        sampling_noise=np.array([min(d.sampling_noise, MOST_NOISE) for d in values]),
        network=np.array(
            [networks.setdefault(tuple(record.training for record in row.records), len(networks)) for row in used]
        ),
        arm=arm,
        cost_noise=None if cost_noise is None else np.array([min(cost_noise[row], MOST_NOISE) for row in used]),
        inverse=higher_is_better,
    )


def pareto(cost: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats in both cost and distance, by rising cost."""
    order = np.lexsort((distance, cost))
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], distance[order][:-1]]))
    return order[distance[order] < best_before]


def cost_at(cost: np.ndarray, distance: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log cost at which the frontier of each replicate reaches each target.

    `cost` (points,) or (replicates, points); `distance` (replicates, points), all positive; `targets` (targets,), or
    (replicates, targets). Returns (replicates, targets): inf where a target is not reached. Where the cheapest point is
    already as good, its cost is returned: an upper bound.
    """
    log_cost, log_distance = _by_cost(cost, distance)
    # Increasing along each replicate, so that a binary search finds where it passes a target.
    passed = -np.minimum.accumulate(log_distance, axis=1)
    replicates, points = passed.shape
    sought = -(np.broadcast_to(np.log(targets), (replicates, targets.shape[-1])) + TOLERANCE)
    first = _rank_in_rows(passed, sought)
    here = np.minimum(first, points - 1)
    at, before = (np.take_along_axis(passed, place, axis=1) for place in (here, np.maximum(here - 1, 0)))
    left = _rank_in_rows(passed, before)
    span = at - before
    share = np.where(span > 0, (sought - before) / np.where(span > 0, span, 1), 1.0)
    from_cost, to_cost = (np.take_along_axis(log_cost, place, axis=1) for place in (left, here))
    between = from_cost + np.clip(share, 0, 1) * (to_cost - from_cost)
    return np.where(first < points, np.where(first == 0, to_cost, between), np.inf)


def _by_cost(cost: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log cost, log distance), both (replicates, points), the points of each replicate by rising cost; among equal
    costs the smallest measured distance comes first."""
    costs = np.broadcast_to(np.log(cost), distance.shape)
    order = np.lexsort((distance[0], costs[0]))
    costs, distances = costs[:, order], np.log(distance[:, order])
    if cost.ndim == 1:
        return costs, distances
    each = np.argsort(costs, axis=1, kind="stable")
    return np.take_along_axis(costs, each, axis=1), np.take_along_axis(distances, each, axis=1)


def _rank_in_rows(rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many of each row's `rising` entries (rows, points) lie below each of its `values` (rows, values)."""
    rows, points = rising.shape
    low = min(rising.min(), values.min())
    offsets = np.arange(rows)[:, None] * (max(rising.max(), values.max()) - low + 1) - low
    ranks = np.searchsorted((rising + offsets).ravel(), (values + offsets).ravel(), side="left")
    return np.clip(ranks.reshape(values.shape) - np.arange(rows)[:, None] * points, 0, points)


@dataclass(frozen=True)
class Matched:
    """Two methods at one distance. A cost is inf, and the ratio nan, where the distance is not reached."""

    target: float
    base_cost: float
    cost: float
    bound: bool
    """Whether even the method's cheapest row is this good: `cost` is then an upper bound."""
    ratio: float
    """Base's cost over the method's: above 1 the method is cheaper."""
    low: float
    high: float
    """The ratio's 95 % interval; `low` is 0 where, given the noise, the method may not reach the target."""


@dataclass(frozen=True)
class Span:
    """Where a frontier begins and ends."""

    cheapest: float
    """Distance of the cheapest point."""
    cheapest_cost: float
    best: float
    best_cost: float
    points: int
    """Measured points, whether on the frontier or not."""
    best_quality: float
    """The best distance, or the inverse of the best score: less is better."""


@dataclass(frozen=True)
class Comparison:
    """A method against a base at equal distance."""

    arm: str
    name: str
    base: str
    cost: Cost
    matched: tuple[Matched, ...]
    """One per point of the base's frontier and for the best distance that both reach, from the worst to the best; or
    one per target that was given."""
    ratio: float
    """Geometric mean of base's cost over the method's, over the distances `worst` to `shared`."""
    low: float
    high: float
    worst: float
    """The largest distance at which both frontiers have begun; `shared` where there is no range."""
    shared: float
    """The best distance that both reach."""
    bound: Literal["", "at least", "at most"]
    """Which kind of bound the ratio is where one frontier begins beyond the other's end."""
    own: Span
    """The method's frontier from its cheapest point to its best."""
    others: Span
    """The base's."""
    best_differs: bool
    """Whether the two best distances differ beyond noise."""
    bought: bool
    """Whether one of the two falls, from its cheapest point to the best distance that both reach, by more than a tenth
    and beyond noise. Where neither does, as with barely trained networks, more compute brought no better quality, and
    there is nothing to compare."""
    gap: bool
    """Whether the frontiers share no range of distances (`bound`), and lie more than a tenth and beyond noise apart."""

    @property
    def falls_short(self) -> bool:
        """Whether, beyond noise, the method never reaches the base's best distance."""
        return self.best_differs and self.own.best_quality > self.others.best_quality

    @property
    def best(self) -> float:
        return self.own.best

    @property
    def base_best(self) -> float:
        return self.others.best

    @property
    def of_base(self) -> tuple[float, float, float]:
        """The method's cost over the base's, and the two ends of its 95 % interval: the inverse of `ratio`."""
        low = 1 / self.high if math.isfinite(self.high) and self.high > 0 else 0.0
        return 1 / self.ratio, low, 1 / self.low if self.low > 0 else math.inf

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

    The interval is a parametric bootstrap: each replicate shifts all points of a network by its training noise, each
    point by its sampling noise and each cost by its own (all log-normal), builds both frontiers anew and averages over
    the range of distances that they then share. Choosing the best of many noisy points biases an arm's frontier, so the
    interval takes only its width from the replicates, and its centre from the measured ratio.
    """
    measured = len(method.cost), len(base.cost)
    method, base = _near(method), _near(base)
    generator = np.random.Generator(np.random.PCG64(seed))
    own, others = _replicates(method, replicates, generator), _replicates(base, replicates, generator)
    own_cost, base_cost = _costs(method, replicates, generator), _costs(base, replicates, generator)
    shared = np.maximum(own.min(axis=1), others.min(axis=1))
    own_begin, base_begin = _begin(method.cost, own), _begin(base.cost, others)
    worst = np.maximum(np.minimum(own_begin, base_begin), shared)
    grid = np.exp(np.linspace(np.log(worst), np.log(shared), GRID, axis=1))
    ratios = (cost_at(base_cost, others, grid) - cost_at(own_cost, own, grid)).mean(axis=1)
    low, high = _interval(ratios)
    bound: Literal["", "at least", "at most"] = ""
    if worst[0] <= shared[0]:
        bound = "at least" if method.cheapest < shared[0] else "at most" if base.cheapest < shared[0] else ""
    gap = np.log(own_begin / others.min(axis=1) if bound == "at least" else base_begin / own.min(axis=1))
    at = _targets(method, base) if targets is None else np.array([method.shown(target) for target in targets])
    return Comparison(
        method.arm,
        method.name,
        base.name,
        cost,
        _at_targets(at, (own_cost, own), (base_cost, others), method),
        math.exp(ratios[0]),
        low,
        high,
        method.shown(float(worst[0])),
        method.shown(float(shared[0])),
        bound,
        own=_span(method, measured[0]),
        others=_span(base, measured[1]),
        best_differs=_beyond_noise(np.log(own.min(axis=1) / others.min(axis=1))),
        bought=_falls(own_begin, shared, own, others) or _falls(base_begin, shared, own, others),
        gap=bool(bound) and abs(gap[0]) > LEAST_FALL and _beyond_noise(gap),
    )


def _beyond_noise(logs: np.ndarray) -> bool:
    """Whether the first of `logs`, what was measured, differs from 0 by more than half of the 95 % range of all."""
    return bool(abs(logs[0]) > np.subtract(*np.quantile(logs, [0.975, 0.025])) / 2)


def _falls(begin: np.ndarray, end: np.ndarray, own: np.ndarray, others: np.ndarray) -> bool:
    """Whether distances fall from the replicates' `begin` to their `end` by more than a tenth and beyond noise.

    Even if all points were equally good, the best of many would lie below the cheapest by chance: that much is noise.
    """
    best_by_chance = np.maximum(*((distances / distances[0]).min(axis=1) for distances in (own, others)))
    by_chance = np.quantile(np.log(begin / begin[0] / best_by_chance), 0.95)
    return bool(math.log(begin[0] / end[0]) > max(by_chance, LEAST_FALL))


def _span(points: Series, measured: int) -> Span:
    first, *_, last = (*points.frontier, points.frontier[-1])
    return Span(
        cheapest=points.shown(float(points.distance[first])),
        cheapest_cost=float(points.cost[first]),
        best=points.shown(float(points.distance[last])),
        best_cost=float(points.cost[last]),
        points=measured,
        best_quality=float(points.distance[last]),
    )


def _begin(cost: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The distance at which each replicate's frontier begins: that of the point measured to be the cheapest.

    Where two rows cost about the same, noise in the costs must not move the start of the compared range from one to the
    other.
    """
    return distance[:, np.lexsort((distance[0], cost))[0]]


def _targets(method: Series, base: Series) -> np.ndarray:
    """The points of the base's frontier and the best distance that both reach, from the worst to the best."""
    targets = base.distance[base.frontier]
    shared = max(method.best, base.best)
    if not np.isclose(targets, shared, rtol=1e-9).any():
        targets = np.append(targets, shared)
    return np.sort(targets)[::-1]


def _at_targets(
    targets: np.ndarray, own: tuple[np.ndarray, np.ndarray], base: tuple[np.ndarray, np.ndarray], method: Series
) -> tuple[Matched, ...]:
    """Both methods, each as (costs, distances) of its replicates, at each of the `targets`."""
    own_cost, base_cost = cost_at(*own, targets), cost_at(*base, targets)
    matched = []
    for i, target in enumerate(targets):
        reached = bool(np.isfinite(own_cost[0, i]) and np.isfinite(base_cost[0, i]))
        known = np.isfinite(own_cost[:, i]) | np.isfinite(base_cost[:, i])
        # Where one of the two misses the target, the ratio counts as 0 or infinity.
        low, high = _interval(base_cost[known, i] - own_cost[known, i]) if reached else (math.nan, math.nan)
        matched.append(
            Matched(
                method.shown(float(target)),
                math.exp(base_cost[0, i]),
                math.exp(own_cost[0, i]),
                method.cheapest <= target,
                math.exp(base_cost[0, i] - own_cost[0, i]) if reached else math.nan,
                low,
                high,
            )
        )
    return tuple(matched)


def _interval(logs: np.ndarray) -> tuple[float, float]:
    """95 % interval of exp(`logs`), centred on the estimate, which is their first value."""
    low, high = np.quantile(logs, [0.025, 0.975], method="inverted_cdf")
    middle = np.median(logs[np.isfinite(logs)])
    estimate = logs[0]
    return math.exp(estimate + min(low - middle, 0)), math.exp(estimate + max(high - middle, 0))


def _replicates(points: Series, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """(1 + replicates, points): the distances as measured, then the replicates with noise."""
    shared = generator.standard_normal((replicates, int(points.network.max()) + 1))[:, points.network]
    single = generator.standard_normal((replicates, len(points.cost)))
    noise = shared * points.training_noise + single * points.sampling_noise
    return points.distance * np.exp(np.concatenate([np.zeros((1, len(points.cost))), noise]))


def _costs(points: Series, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """The costs as measured, (points,), where they are exact; else (1 + replicates, points), with noise."""
    if points.cost_noise is None or not points.cost_noise.any():
        return points.cost
    noise = generator.standard_normal((replicates, len(points.cost))) * points.cost_noise
    return points.cost * np.exp(np.concatenate([np.zeros((1, len(points.cost))), noise]))


def _near(points: Series, errors: float = 3.0) -> Series:
    """`points` without those so far behind the frontier that noise cannot bring them onto it."""
    width = np.exp(errors * np.hypot(points.training_noise, points.sampling_noise))
    cost_width = np.exp(errors * points.cost_noise) if points.cost_noise is not None else 1.0
    most, least = points.cost * cost_width, points.cost / cost_width
    order = np.lexsort((points.distance, most))
    reached = np.minimum.accumulate((points.distance * width)[order])
    # For each point, the best of those that surely cost no more; infinity where there are none.
    cheaper = np.searchsorted(most[order], least, side="right") - 1
    rival = np.where(cheaper >= 0, reached[np.maximum(cheaper, 0)], np.inf)
    keep = np.flatnonzero(points.distance / width <= rival)
    return Series(
        points.name,
        points.cost[keep],
        points.distance[keep],
        points.training_noise[keep],
        points.sampling_noise[keep],
        np.unique(points.network[keep], return_inverse=True)[1],
        points.arm,
        None if points.cost_noise is None else points.cost_noise[keep],
        points.inverse,
    )
