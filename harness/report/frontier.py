"""What each arm costs at equal quality: frontiers, costs interpolated on them, and their uncertainty.

A frontier holds an arm's rows that no other of its rows beats in both cost and distance, joined by straight lines in
(log cost, log distance). Costs of two arms are compared where both frontiers reach the same distance, never at one
number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.report.noise import Distance, distances
from harness.report.rows import Panel, Row

Cost = Literal["gmacs", "seconds"]
COSTS: dict[str, Callable[[Row], float]] = {"gmacs": lambda row: row.gmacs, "seconds": lambda row: row.seconds}
REPLICATES = 1000
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

    @property
    def frontier(self) -> np.ndarray:
        """Indices of the points on the frontier, by rising cost."""
        return pareto(self.cost, self.distance)

    @property
    def best(self) -> float:
        """The least distance of any point."""
        return float(self.distance.min())


def series(name: str, rows: Iterable[Row], summaries: dict[int, Distance], cost: Cost) -> Series | None:
    """The points of `rows` that have a cost; None where there are none. `summaries` is keyed by ``id(row)``."""
    used = [row for row in rows if id(row) in summaries and COSTS[cost](row) > 0]
    if not used:
        return None
    held = [summaries[id(row)] for row in used]
    networks: dict[tuple[str, ...], int] = {}
    return Series(
        name=name,
        cost=np.array([COSTS[cost](row) for row in used]),
        distance=np.array([max(d.mean, SMALLEST) for d in held]),
        training_noise=np.array([d.training_noise for d in held]),
        sampling_noise=np.array([d.sampling_noise for d in held]),
        network=np.array([
            networks.setdefault(tuple(str(r.get("training")) for r in row.records), len(networks)) for row in used
        ]),
    )


def pareto(cost: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats in both cost and distance, by rising cost."""
    order = np.lexsort((distance, cost))
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], distance[order][:-1]]))
    return order[distance[order] < best_before]


def cost_at(cost: np.ndarray, distance: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log cost at which the frontier of each replicate reaches each target.

    `cost` (points,); `distance` (replicates, points), all positive; `targets` (targets,). Returns (replicates,
    targets): nan where it is not reached. Where the cheapest point is already as good, its cost is returned: a bound.
    """
    order = np.lexsort((distance[0], cost))
    log_cost, log_distance = np.log(cost[order]), np.log(distance[:, order])
    running = np.minimum.accumulate(log_distance, axis=1)
    replicates, points = log_distance.shape
    result = np.full((replicates, len(targets)), np.nan)
    each = np.arange(replicates)
    for column, target in enumerate(np.log(targets) + 1e-12):
        first = (running > target).sum(axis=1)
        reached = first < points
        here = np.minimum(first, points - 1)
        before = running[each, np.maximum(here - 1, 0)]
        left = (running > before[:, None]).sum(axis=1)
        span = before - log_distance[each, here]
        share = np.where(span > 0, (before - target) / np.where(span > 0, span, 1), 1.0)
        between = log_cost[left] + np.clip(share, 0, 1) * (log_cost[here] - log_cost[left])
        result[:, column] = np.where(reached, np.where(first == 0, log_cost[here], between), np.nan)
    return result


@dataclass(frozen=True)
class Matched:
    """Two methods at one distance. Costs are nan where the distance is not reached."""

    target: float
    base_cost: float
    cost: float
    bound: bool
    """Whether the cheapest row of the method is already this good: `cost` is then at most this."""
    ratio: float
    """Base's cost over the method's: above 1 the method is cheaper. nan where either does not reach the target."""
    low: float
    high: float
    """The ratio's 95 % interval."""
    sure: float
    """Share of the bootstrap's replicates in which the method reaches the target."""


@dataclass(frozen=True)
class Comparison:
    """A method against a base at every target that the base's frontier offers."""

    name: str
    base: str
    cost: Cost
    matched: tuple[Matched, ...]
    ratio: float
    """Geometric mean of the ratios over the targets that both reach; nan if there is none."""
    low: float
    high: float
    best: float
    base_best: float

    @property
    def common(self) -> tuple[Matched, ...]:
        """The targets that both reach."""
        return tuple(m for m in self.matched if not math.isnan(m.ratio))

    @property
    def verdict(self) -> Literal["less", "more", "equal", "none"]:
        """Whether the method costs less or more than the base, beyond noise; none where they share no distance."""
        if math.isnan(self.ratio):
            return "none"
        if self.low > 1:
            return "less"
        return "more" if self.high < 1 else "equal"


def compare(method: Series, base: Series, cost: Cost, replicates: int = REPLICATES, seed: int = 0) -> Comparison:
    """Costs at equal distance: at each point of the base's frontier, and at the best distance that both reach.

    The interval is a parametric bootstrap: each replicate shifts all points of a network by its training noise and
    each point by its sampling noise (both log-normal), then builds both frontiers anew.
    """
    method, base = _near(method), _near(base)
    targets = base.distance[base.frontier]
    shared = max(method.best, base.best)
    if not np.isclose(targets, shared, rtol=1e-9).any():
        targets = np.append(targets, shared)
    targets = np.sort(targets)[::-1]
    generator = np.random.Generator(np.random.PCG64(seed))
    own = cost_at(method.cost, _replicates(method, replicates, generator), targets)
    others = cost_at(base.cost, _replicates(base, replicates, generator), targets)
    matched = tuple(
        _matched(target, own[:, i], others[:, i], bool(method.distance[np.argmin(method.cost)] <= target))
        for i, target in enumerate(targets)
    )
    both = np.array([not math.isnan(m.ratio) for m in matched])
    ratio = low = high = math.nan
    if both.any():
        per_replicate = others[:, both] - own[:, both]
        # A replicate in which one of the two misses every target tells nothing about their ratio.
        told = ~np.isnan(per_replicate).all(axis=1)
        means = np.nanmean(per_replicate[told], axis=1)
        ratio = math.exp(means[0])
        low, high = (math.exp(v) for v in np.percentile(means, [2.5, 97.5]))
    return Comparison(method.name, base.name, cost, matched, ratio, low, high, method.best, base.best)


def _matched(target: float, own: np.ndarray, others: np.ndarray, bound: bool) -> Matched:
    ratios = others - own
    known = ratios[~np.isnan(ratios)]
    reached = not math.isnan(ratios[0])
    low, high = np.percentile(known, [2.5, 97.5]) if reached else (math.nan, math.nan)
    return Matched(
        target=float(target),
        base_cost=math.exp(others[0]),
        cost=math.exp(own[0]),
        bound=bound,
        ratio=math.exp(ratios[0]),
        low=math.exp(low),
        high=math.exp(high),
        sure=float(1 - np.isnan(own).mean()),
    )


def _replicates(points: Series, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """(1 + replicates, points): the distances as measured, then with noise."""
    shared = generator.standard_normal((replicates, int(points.network.max()) + 1))[:, points.network]
    single = generator.standard_normal((replicates, len(points.cost)))
    noise = shared * points.training_noise + single * points.sampling_noise
    return points.distance * np.exp(np.concatenate([np.zeros((1, len(points.cost))), noise]))


def _near(points: Series, errors: float = 4.0) -> Series:
    """Without the points so far behind the frontier that noise will not bring them there."""
    width = np.exp(errors * np.hypot(points.training_noise, points.sampling_noise))
    order = np.lexsort((points.distance, points.cost))
    worst = np.minimum.accumulate((points.distance * width)[order])
    keep = np.sort(order[(points.distance / width)[order] <= worst])
    return Series(
        points.name, points.cost[keep], points.distance[keep], points.training_noise[keep],
        points.sampling_noise[keep], np.unique(points.network[keep], return_inverse=True)[1],
    )


@dataclass(frozen=True)
class Roles:
    """Who is compared with whom: the arms of the base family, and the subject."""

    base: str
    family: tuple[str, ...]
    """Arms that run the base's network whole at every step, with whatever sampler."""
    subject: str | None


def roles(panel: Panel, base: str | None = None, subject: str | None = None) -> Roles | None:
    """The roles in a panel; None where the base has no measured row.

    The base is the first arm unless named; its family are the arms with the very same network, uncached, by any sampler
    or preconditioning. The subject is the arm named, or ``dual-rate``, or the first arm with a dual-rate model.
    """
    arms = [arm for arm in panel.arms if any(row.arm == arm for row in panel.measured)]
    if not arms or (base is not None and base not in arms):
        return None
    base = base or arms[0]
    network = next(row.config.get("model") for row in panel.measured if row.arm == base)
    family = tuple(
        arm for arm in arms
        if arm == base or all(
            row.config.get("model") == network and row.setting("sample.cache_from_level") is None
            for row in panel.measured if row.arm == arm
        )
    )
    dual = [row.arm for row in panel.measured if row.setting("model.kind") == "dual_rate"]
    others = [arm for arm in (subject, "dual-rate", *dual) if arm in arms and arm not in family]
    if subject is not None and subject not in arms:
        others = []
    return Roles(base, family, others[0] if others else None)


def comparisons(panel: Panel, who: Roles, cost: Cost, by_sampler: bool = False) -> list[Comparison]:
    """Every arm outside the base family against that family; with `by_sampler`, sampler against the same sampler."""
    measured = _one_clock(panel.measured) if cost == "seconds" else panel.measured
    summaries = summarise(panel)
    labels = {row.arm: row.label for row in measured}
    samplers = sorted({row.sampler for row in measured}) if by_sampler else [None]
    found = []
    for sampler in samplers:
        chosen = [row for row in measured if sampler in (None, row.sampler)]
        suffix = f", {sampler}" if sampler else ""
        base = series(f"{labels.get(who.base, who.base)}{suffix}", _of(chosen, who.family), summaries, cost)
        for arm in panel.arms:
            if arm in who.family or base is None:
                continue
            method = series(f"{labels.get(arm, arm)}{suffix}", _of(chosen, (arm,)), summaries, cost)
            if method is not None:
                found.append(compare(method, base, cost))
    return found


def summarise(panel: Panel) -> dict[int, Distance]:
    """The distance of each measured row of a panel, keyed by ``id(row)``."""
    return {id(row): d for row, d in zip(panel.measured, distances(panel.measured), strict=True)}


def _of(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    return [row for row in rows if row.arm in arms]


def _one_clock(rows: Sequence[Row]) -> list[Row]:
    """The rows timed where most were: seconds of two machines are not compared."""
    timed = [row for row in rows if row.seconds > 0]
    if not timed:
        return []
    clocks = [row.clock for row in timed]
    commonest = max(dict.fromkeys(clocks), key=clocks.count)
    return [row for row in timed if row.clock == commonest]


def headline(panel: Panel, base: str | None = None, subject: str | None = None) -> str:
    """One sentence on compute, and time, at equal quality: what was measured, whoever wins."""
    who = roles(panel, base, subject)
    if not panel.measured or panel.condition is None:
        return "Nothing has been measured yet."
    if who is None:
        return f"Compute at equal quality cannot be stated: the base arm {base!r} has no measured row."
    if who.subject is None:
        return "Compute at equal quality cannot be stated: no arm beside the base's network has been measured."
    compute = next(c for c in comparisons(panel, who, "gmacs") if c.name == _label(panel, who.subject))
    time = next((c for c in comparisons(panel, who, "seconds") if c.name == compute.name), None)
    at = f"{panel.distance} ({panel.condition.images} images)"
    against = f"{compute.base} with its best sampler" if _samplers(panel, who) > 1 else compute.base
    if compute.verdict == "none":
        return (
            f"{compute.name} and {against} share no {at}: the best of {compute.name} is {compute.best:.3g}, "
            f"that of {compute.base} {compute.base_best:.3g}."
        )
    text = f"At equal {at}, {compute.name} needs {_said(compute, 'compute')}"
    if time is not None and time.verdict != "none":
        text += f" and {_said(time, 'time')}"
    return f"{text} than {against}, {_where(compute)}{_reach(compute)}."


def _label(panel: Panel, arm: str) -> str:
    return next(row.label for row in panel.measured if row.arm == arm)


def _samplers(panel: Panel, who: Roles) -> int:
    return len({row.sampler for row in panel.measured if row.arm in who.family})


def _said(comparison: Comparison, what: str) -> str:
    ratio, low, high = comparison.ratio, comparison.low, comparison.high
    if comparison.verdict == "more" or (comparison.verdict == "equal" and ratio < 1):
        ratio, low, high, word = 1 / ratio, 1 / high, 1 / low, "more"
    else:
        word = "less"
    hedge = ", within noise" if comparison.verdict == "equal" else ""
    return f"{ratio:.2f}× {word} {what} (95 % interval {low:.2f} to {high:.2f}{hedge})"


def _where(comparison: Comparison) -> str:
    ratios = [m.ratio for m in comparison.common]
    targets = [m.target for m in comparison.common]
    if len(ratios) == 1:
        return f"at the one distance that both reach, {targets[0]:.3g}"
    return (
        f"on average over {len(ratios)} distances from {max(targets):.3g} to {min(targets):.3g} "
        f"(compute ratio {min(ratios):.2f}× to {max(ratios):.2f}×)"
    )


def _reach(comparison: Comparison) -> str:
    if comparison.best > comparison.base_best * (1 + 1e-9):
        return (
            f"; it does not reach the best of {comparison.base}, {comparison.base_best:.3g} "
            f"(its own best is {comparison.best:.3g})"
        )
    return f"; its best, {comparison.best:.3g}, is one that {comparison.base} ({comparison.base_best:.3g}) does not reach"
