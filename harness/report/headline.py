"""Who is compared with whom, the one line that says what came of it, and the conditions under it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.report.frontier import Comparison, Cost, Series, Span, compare, series
from harness.report.panel import Panel
from harness.report.rows import Row
from harness.report.tables.numbers import number
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
    if key not in panel.memory:
        panel.memory[key] = list(_compared(panel, who, cost, by_sampler))
    return list(panel.memory[key])


def _compared(panel: Panel, who: Roles, cost: Cost, by_sampler: bool) -> Iterator[Comparison]:
    measured = _one_clock(panel.measured) if cost == "seconds" else panel.measured
    targets: dict[tuple[str, str], list[float]] = {}
    if cost == "seconds":  # at the distances that compute is compared at
        in_compute = comparisons(panel, who, "gmacs", by_sampler)
        targets = {(found.arm, found.name): [at.target for at in found.matched] for found in in_compute}
    noise = panel.timing_noise if cost == "seconds" else None
    labels = {row.arm: row.label for row in measured}

    def points(name: str, arm: str, rows: Sequence[Row]) -> Series | None:
        return series(name, arm, rows, panel.distances, cost, noise, panel.higher_is_better)

    for sampler in sorted({row.sampler for row in measured}) if by_sampler else [None]:
        chosen = [row for row in measured if sampler in (None, row.sampler)]
        suffix = f", {sampler}" if sampler else ""
        base = points(f"{labels.get(who.base, who.base)}{suffix}", who.base, _of(chosen, who.family))
        for arm in panel.arms:
            name = f"{labels.get(arm, arm)}{suffix}"
            method = points(name, arm, _of(chosen, (arm,)))
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


@dataclass(frozen=True)
class Headline:
    """What a report says first."""

    line: str
    """One line that a person can quote: the verdict first where the method loses or nothing can be told."""
    conditions: str = ""
    """What belongs to it: over which qualities, against what, and what is not known. Whole sentences."""

    def __str__(self) -> str:
        return f"{self.line}\n{self.conditions}" if self.conditions else self.line


def headline(
    panel: Panel, base: str | None = None, subject: str | None = None, command: str = "harness time FILE"
) -> Headline:
    """What was measured of compute, and time, at equal quality, whoever wins; or why nothing can be said.

    A ratio of costs is told only where it means something: both frontiers fall beyond noise, and share a range of
    distances. `command` is what takes times again that are not to be trusted; without trust no time is told.
    """
    if not panel.measured or panel.condition is None:
        return Headline("Nothing has been measured yet.")
    who = roles(panel, base, subject)
    if who is None:
        return Headline(f"Compute at equal quality cannot be stated: the base arm {base!r} has no measured row.")
    if who.subject is None:
        return Headline("Compute at equal quality cannot be stated: no arm beside the base's network was measured.")
    compute = comparison(panel, who, "gmacs")
    if compute is None:
        return Headline("Compute at equal quality cannot be stated: no compute has been measured.")
    timed = [row for row in compared_rows(panel, who) if row.seconds > 0]
    doubted = bool(untrusted(timed))
    time = None if doubted else comparison(panel, who, "seconds")
    label = panel.distance
    line, sentences = _cannot(compute, label) or _bound(compute, label) or _costs(compute, time, label)
    sentences = [
        *sentences,
        f"N = {panel.condition.images}; against {_against(panel, who, compute)}.",
        *_seeds(panel),
        *([f"Times are not told: {why(timed, command)}"] if doubted else []),
    ]
    return Headline(line, " ".join(sentences))


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


Said = tuple[str, list[str]]
"""A headline's line, and the sentences that belong under it."""


def _cannot(found: Comparison, label: str) -> Said | None:
    """Why no costs are compared, with what was measured instead; None where they can be."""
    single = [name for name, span in ((found.base, found.others), (found.name, found.own)) if span.points == 1]
    if not found.bought and single:
        reason = f"{' and '.join(single)} {'has' if len(single) == 1 else 'have'} one measured row"
    elif found.bound and not found.gap:
        reason = f"the two share no range of {label}, and lie apart by no more than noise, or a tenth"
    elif found.bound == "at most":  # no shares of compute are told, but that the base is better
        return None
    elif found.bound == "at least" and found.bought and found.ratio < 1:
        reason = f"already the cheapest row of {found.name} is better than any of {found.base}, and dearer"
    elif not found.bought:
        reason = (
            f"up to {found.shared:.3g}, the best that both reach, {label} does not get better with compute by more "
            "than noise, or a tenth"
        )
    else:
        return None
    noise = "" if found.best_differs else ", a difference within noise"
    bests = f"The best of {found.name} is {_point(found.own)}, of {found.base} {_point(found.others)}{noise}."
    if found.falls_short:
        return f"{_short(found, label)}; their compute cannot be compared", [f"{_capital(reason)}.", bests]
    return f"compute of {found.name} and {found.base} at equal {label} cannot be compared", [
        f"{_capital(reason)}.",
        bests,
    ]


def _capital(text: str) -> str:
    """With a capital, unless it opens with a name."""
    return f"{text[0].upper()}{text[1:]}" if text.startswith(("the ", "already ", "up ")) else text


def _point(span: Span) -> str:
    return f"{span.best:.3g} at {number(span.best_cost)} GMACs"


def _bound(found: Comparison, label: str) -> Said | None:
    """What is said where one frontier begins beyond the other's end; None where they share a range."""
    cheapest = f"{found.own.cheapest:.3g} at {number(found.own.cheapest_cost)} GMACs"
    if found.bound == "at least":
        return f"{found.name}: at most {_share(found)} the compute of {found.base} at equal {label}", [
            f"At the one {label} that both reach, {found.shared:.3g}: the cheapest row of {found.name} is better "
            f"already ({cheapest} against {_point(found.others)})."
        ]
    if found.bound == "at most":
        dearer = f": at least {_share(found)} the compute for the same quality" if found.ratio < 1 else ""
        return f"{found.name} does not reach the {label} of {found.base}{dearer}", [
            f"Its best is {_point(found.own)}, and already the cheapest row of {found.base} has "
            f"{found.others.cheapest:.3g} at {number(found.others.cheapest_cost)} GMACs."
        ]
    return None


def _costs(compute: Comparison, time: Comparison | None, label: str) -> Said:
    """Costs over the range that both reach; first of all, where it is so, that the subject is never that good."""
    time = None if time is None or time.bound else time
    costs = {"compute": compute} if time is None else {"compute": compute, "time": time}
    told = " and ".join(f"{_share(found)} the {cost} ({_range(found)})" for cost, found in costs.items())
    ranges = " and ".join(f"{_range(found)}× the {cost}" for cost, found in costs.items())
    alike = [cost for cost, found in costs.items() if not _differs(found)]
    at = f"of {compute.base} at equal {label}"
    if compute.falls_short and len(alike) == len(costs):
        line = f"{_short(compute, label)}; up to there no difference in {' or '.join(alike)} beyond noise ({ranges})"
    elif compute.falls_short:
        within = f", in {alike[0]} no difference beyond noise" if alike else ""
        line = f"{_short(compute, label)}; up to there it needs {told}{within}"
    elif len(alike) == len(costs):
        line = f"no difference beyond noise: {compute.name} needs {ranges} {at}"
    elif not _differs(compute):
        line = f"no difference in compute beyond noise: {compute.name} needs {told} {at}"
    else:
        verdict = " loses" if compute.verdict == "more" else ""
        within = "; in time no difference beyond noise" if alike else ""
        line = f"{compute.name}{verdict}: {told} {at}{within}"
    return line, [f"{_where(compute)}, with 95 % intervals.", *_bests(compute)]


def _short(found: Comparison, label: str) -> str:
    """That the method is never as good as the base."""
    return (
        f"{found.name} does not reach the best {label} of {found.base} ({found.best:.3g} against {found.base_best:.3g})"
    )


def _differs(found: Comparison) -> bool:
    return found.verdict != "equal"


def _share(found: Comparison) -> str:
    return f"{1 / found.ratio:.2f}×"


def _range(found: Comparison) -> str:
    return f"{1 / found.high:.2f}–{1 / found.low:.2f}"


def _where(found: Comparison) -> str:
    if math.isclose(found.worst, found.shared, rel_tol=1e-9):
        return f"At the one value that both reach, {found.shared:.3g}"
    return f"On average over the values that both reach, {found.worst:.3g} to {found.shared:.3g}"


def _bests(found: Comparison) -> list[str]:
    if found.best == found.base_best or found.falls_short:
        return []
    if not found.best_differs:
        return [f"Their best, {found.best:.3g} and {found.base_best:.3g}, are within noise of each other."]
    return [f"The best of {found.name}, {found.best:.3g}, {found.base} does not reach (best {found.base_best:.3g})."]


def _seeds(panel: Panel) -> list[str]:
    if any(len(row.records) > 1 for row in panel.measured):
        return []
    return ["One training seed, whose noise the intervals leave out."]
