"""Who is compared with whom, and the sentence that says what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.report.frontier import Comparison, Cost, Span, compare, series
from harness.report.panel import Panel
from harness.report.rows import Row
from harness.report.tables import number
from harness.report.timing import untrusted, why


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
        arm
        for arm in arms
        if arm == base
        or all(
            row.config.get("model") == network and row.setting("sample.cache_from_level") is None
            for row in panel.measured
            if row.arm == arm
        )
    )
    dual = [row.arm for row in panel.measured if row.setting("model.kind") == "dual_rate"]
    others = [arm for arm in (subject, "dual-rate", *dual) if arm in arms and arm not in family]
    if subject is not None and subject not in arms:
        others = []
    return Roles(base, family, others[0] if others else None)


def comparisons(panel: Panel, who: Roles, cost: Cost, by_sampler: bool = False) -> list[Comparison]:
    """Every arm outside the base family against that family; with `by_sampler`, sampler against the same sampler."""
    key = (who.base, who.family, cost, by_sampler)
    if key not in panel.compared:
        panel.compared[key] = list(_compared(panel, who, cost, by_sampler))
    return list(panel.compared[key])


def _compared(panel: Panel, who: Roles, cost: Cost, by_sampler: bool) -> Iterator[Comparison]:
    measured = _one_clock(panel.measured) if cost == "seconds" else panel.measured
    targets: dict[tuple[str, str], list[float]] = {}
    if cost == "seconds":  # at the distances that compute is compared at
        in_compute = comparisons(panel, who, "gmacs", by_sampler)
        targets = {(found.arm, found.name): [at.target for at in found.matched] for found in in_compute}
    noise = panel.timing_noise if cost == "seconds" else None
    labels = {row.arm: row.label for row in measured}
    for sampler in sorted({row.sampler for row in measured}) if by_sampler else [None]:
        chosen = [row for row in measured if sampler in (None, row.sampler)]
        suffix = f", {sampler}" if sampler else ""
        base_name = f"{labels.get(who.base, who.base)}{suffix}"
        base = series(base_name, who.base, _of(chosen, who.family), panel.distances, cost, noise)
        for arm in panel.arms:
            name = f"{labels.get(arm, arm)}{suffix}"
            method = series(name, arm, _of(chosen, (arm,)), panel.distances, cost, noise)
            if arm not in who.family and base is not None and method is not None:
                yield compare(method, base, cost, targets=targets.get((arm, name)))


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


def headline(
    panel: Panel, base: str | None = None, subject: str | None = None, command: str = "harness time FILE"
) -> str:
    """What was measured of compute, and time, at equal quality, whoever wins; or why nothing can be said.

    A ratio of costs is told only where it means something: both frontiers fall beyond noise, and share a range of
    distances. `command` is what takes times again that are not to be trusted; without trust no time is told.
    """
    if not panel.measured or panel.condition is None:
        return "Nothing has been measured yet."
    who = roles(panel, base, subject)
    if who is None:
        return f"Compute at equal quality cannot be stated: the base arm {base!r} has no measured row."
    if who.subject is None:
        return "Compute at equal quality cannot be stated: no arm beside the base's network has been measured."
    compute = comparison(panel, who, "gmacs")
    if compute is None:
        return "Compute at equal quality cannot be stated: no compute has been measured."
    timed = [row for row in compared_rows(panel, who) if row.seconds > 0]
    doubted = bool(untrusted(timed))
    time = None if doubted else comparison(panel, who, "seconds")
    at = f"{panel.distance} (N = {panel.condition.images})"
    told = _cannot(compute, at) or _bound(compute, at, _against(panel, who, compute))
    told = told or _compared_costs(compute, time, at, _against(panel, who, compute))
    withheld = f" Times are not told: {why(timed, command)}" if doubted else ""
    return f"{told}{_seeds(panel)}.{withheld}"


def comparison(panel: Panel, who: Roles, cost: Cost) -> Comparison | None:
    """The subject against the base family; None where one of the two has no such cost."""
    return next((found for found in comparisons(panel, who, cost) if found.arm == who.subject), None)


def compared_rows(panel: Panel, who: Roles) -> list[Row]:
    """The measured rows of the subject and the base family."""
    return _of(panel.measured, (*who.family, *([who.subject] if who.subject else [])))


def _against(panel: Panel, who: Roles, found: Comparison) -> str:
    """The base in words: with how many samplers, and which of them the subject was not given."""
    samplers = {row.sampler for row in panel.measured if row.arm in who.family}
    own = {row.sampler for row in panel.measured if row.arm == who.subject}
    against = f"{found.base} with the best of its {len(samplers)} samplers" if len(samplers) > 1 else found.base
    if samplers - own:  # the base's best sampler may be one that the subject was never given
        against += f" ({found.name} had {', '.join(sorted(own))} alone)"
    return against


def _cannot(found: Comparison, at: str) -> str:
    """Why no costs are compared, with what was measured instead; empty where they can be."""
    single = [name for name, span in ((found.base, found.others), (found.name, found.own)) if span.points == 1]
    if not found.bought and single:
        reason = f"{' and '.join(single)} {'has' if len(single) == 1 else 'have'} one measured row"
    elif found.bound and not found.gap:
        reason = "the two share no range of distances, and lie apart by no more than noise, or a tenth"
    elif found.bound == "at most":  # no shares of compute are told, but that the base is better
        return ""
    elif found.bound == "at least" and found.bought and found.ratio < 1:
        reason = f"already the cheapest row of {found.name} is better than any of {found.base}, and dearer"
    elif not found.bought:
        reason = (
            f"down to {found.shared:.3g}, the best that both reach, distances do not fall with rising compute by more "
            "than noise, or a tenth"
        )
    else:
        return ""
    noise = "" if found.best_differs else ", a difference within noise"
    return (
        f"{_short(found)}Compute at equal {at} cannot be compared: {reason}. "
        f"The best of {found.name} is {_point(found.own)}, of {found.base} {_point(found.others)}{noise}"
    )


def _point(span: Span) -> str:
    return f"{span.best:.3g} at {number(span.best_cost)} GMACs"


def _bound(found: Comparison, at: str, against: str) -> str:
    """What is said where one frontier begins beyond the other's end; empty where they share a range."""
    if found.bound == "at least":
        return (
            f"At equal {at}, {found.name} needs at most {_share(found)} the compute of {against}, at the one distance "
            f"that both reach, {found.shared:.3g}: its cheapest row is better already ({found.own.cheapest:.3g} at "
            f"{number(found.own.cheapest_cost)} GMACs against {_point(found.others)})"
        )
    if found.bound == "at most":
        dearer = f": at least {_share(found)} the compute for the same distance" if found.ratio < 1 else ""
        return (
            f"{found.name} does not reach the quality of {against}: its best {at} is {_point(found.own)}, and already "
            f"the cheapest row of {found.base} has {found.others.cheapest:.3g} at "
            f"{number(found.others.cheapest_cost)} GMACs{dearer}"
        )
    return ""


def _compared_costs(compute: Comparison, time: Comparison | None, at: str, against: str) -> str:
    """Costs over the distances that both reach; first of all, where it is so, that the subject is never that good."""
    costs = {"compute": compute} if time is None or time.bound else {"compute": compute, "time": time}
    apart = [f"{_share(found)} the {cost} {_interval(found)}" for cost, found in costs.items() if _differs(found)]
    alike = [cost for cost, found in costs.items() if not _differs(found)]
    intervals = " and ".join(_range(costs[cost]) for cost in alike)
    if _differs(compute):
        said = f"{compute.name} needs {' and '.join(apart)} of {against}, {_where(compute)}"
        also = f"; no difference beyond noise in time (95 % interval of the ratio {intervals})" if alike else ""
    else:
        said = (
            f"there is no difference beyond noise in {' or '.join(alike)} between {compute.name} and {against} "
            f"(95 % {'intervals of the ratios' if len(alike) > 1 else 'interval of the ratio'} {intervals}), "
            f"{_where(compute)}"
        )
        also = f"; {compute.name} needs {apart[0]}" if apart else ""
    return f"{_short(compute)}At equal {at}, {said}{also}{_reach(compute)}"


def _short(found: Comparison) -> str:
    """A sentence to open with where the method is never as good as the base, beyond noise; else nothing."""
    if found.best <= found.base_best or not found.best_differs:
        return ""
    return f"{found.name} does not reach the best of {found.base}: {found.best:.3g} against {found.base_best:.3g}. "


def _differs(found: Comparison) -> bool:
    return found.verdict != "equal"


def _share(found: Comparison) -> str:
    return f"{1 / found.ratio:.2f}×"


def _interval(found: Comparison) -> str:
    return f"(95 % interval {_range(found)})"


def _range(found: Comparison) -> str:
    return f"{1 / found.high:.2f} to {1 / found.low:.2f}"


def _where(found: Comparison) -> str:
    if found.worst <= found.shared * (1 + 1e-9):
        return f"at the one distance that both reach, {found.shared:.3g}"
    return f"on average over the distances that both reach, {found.worst:.3g} to {found.shared:.3g}"


def _reach(found: Comparison) -> str:
    if found.best == found.base_best or _short(found):
        return ""
    if not found.best_differs:
        return f"; their best, {found.best:.3g} and {found.base_best:.3g}, are within noise of each other"
    return f"; its best, {found.best:.3g}, {found.base} does not reach (best {found.base_best:.3g})"


def _seeds(panel: Panel) -> str:
    if any(len(row.records) > 1 for row in panel.measured):
        return ""
    return "; one training seed, whose noise the intervals leave out"
