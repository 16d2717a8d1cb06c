"""Who is compared with whom, and the sentence that says what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.report.frontier import Comparison, Cost, compare, series
from harness.report.panel import Panel
from harness.report.rows import Row


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
    labels = {row.arm: row.label for row in measured}
    for sampler in sorted({row.sampler for row in measured}) if by_sampler else [None]:
        chosen = [row for row in measured if sampler in (None, row.sampler)]
        suffix = f", {sampler}" if sampler else ""
        base_name = f"{labels.get(who.base, who.base)}{suffix}"
        base = series(base_name, who.base, _of(chosen, who.family), panel.distances, cost)
        for arm in panel.arms:
            name = f"{labels.get(arm, arm)}{suffix}"
            method = series(name, arm, _of(chosen, (arm,)), panel.distances, cost)
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


def headline(panel: Panel, base: str | None = None, subject: str | None = None) -> str:
    """One sentence on compute, and time, at equal quality: what was measured, whoever wins."""
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
    time = comparison(panel, who, "seconds")
    samplers = {row.sampler for row in panel.measured if row.arm in who.family}
    own = {row.sampler for row in panel.measured if row.arm == who.subject}
    against = f"{compute.base} with the best of its {len(samplers)} samplers" if len(samplers) > 1 else compute.base
    if samplers - own:  # the base's best sampler may be one that the subject was never given
        against += f" ({compute.name} had {', '.join(sorted(own))} alone)"
    costs = _said(compute, "compute") + (f" and {_said(time, 'time')}" if time is not None else "")
    at = f"{panel.distance} (N = {panel.condition.images})"
    told = f"{_where(compute)}{_reach(compute)}{_seeds(panel)}"
    return f"At equal {at}, {compute.name} needs {costs} of {against}, {told}."


def comparison(panel: Panel, who: Roles, cost: Cost) -> Comparison | None:
    """The subject against the base family; None where one of the two has no such cost."""
    return next((found for found in comparisons(panel, who, cost) if found.arm == who.subject), None)


def _said(found: Comparison, what: str) -> str:
    share = 1 / found.ratio
    if found.bound:
        return f"{'at most' if found.bound == 'at least' else 'at least'} {share:.2f}× the {what}"
    hedge = ", no difference beyond noise" if found.verdict == "equal" else ""
    return f"{share:.2f}× the {what} (95 % interval {1 / found.high:.2f} to {1 / found.low:.2f}{hedge})"


def _where(found: Comparison) -> str:
    if found.worst <= found.shared * (1 + 1e-9):
        return f"at the one distance that both reach, {found.shared:.3g}"
    return f"on average over the distances that both reach, {found.worst:.3g} to {found.shared:.3g}"


def _reach(found: Comparison) -> str:
    noise = "" if found.best_differs else ", a difference within noise"
    if found.best > found.base_best:
        return (
            f"; it does not reach the best of {found.base}, {found.base_best:.3g} "
            f"(its own best is {found.best:.3g}{noise})"
        )
    if found.best < found.base_best:
        return f"; its best, {found.best:.3g}, {found.base} does not reach (best {found.base_best:.3g}{noise})"
    return ""


def _seeds(panel: Panel) -> str:
    if any(len(row.records) > 1 for row in panel.measured):
        return ""
    return "; one training seed, whose noise the intervals leave out"
