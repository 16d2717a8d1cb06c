"""Which arms are compared, the one line that sums up the result, and the conditions that go with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.report.added import more_training
from harness.report.frontier import Comparison, Cost, Series, Span, compare, series
from harness.report.panel import Panel
from harness.report.rows import Row
from harness.report.schedule_gain import schedule_sentences
from harness.report.tables.numbers import number
from harness.report.timing import untrusted, why


@dataclass(frozen=True)
class Roles:
    """Which arms are compared: those of the base's family, and the subject."""

    base: str
    family: tuple[str, ...]
    """Arms that run the base's whole network at every step, with any sampler."""
    subject: str | None


def roles(panel: Panel, base: str | None = None, subject: str | None = None) -> Roles | None:
    """The roles in a panel; None where the base has no measured row.

    The base is the first arm unless named; its family are the arms with exactly the same network, uncached, not
    stitched to another and distilled alike, with any sampler or preconditioning. The subject is the arm named, or
    ``dual-rate``, or the first arm whose own method keeps something between refreshes, or the first of another method
    than the base's.
    """
    arms = [arm for arm in panel.arms if any(row.arm == arm for row in panel.measured)]
    if not arms or (base is not None and base not in arms):
        return None
    base = base or arms[0]
    own = next(row for row in panel.measured if row.arm == base)
    network, taught = own.config.get("model"), own.setting("distill.method")
    family = tuple(
        arm
        for arm in arms
        if arm == base
        or all(
            row.config.get("model") == network
            and row.setting("sample.cache_from_level") is None
            and row.setting("sample.stitch") is None
            and row.setting("distill.method") == taught
            for row in panel.measured
            if row.arm == arm
        )
    )
    refreshing = [
        row.arm
        for row in panel.measured
        if row.refreshes is not None and row.setting("sample.cache_from_level") is None
    ]
    of_another_method = [
        row.arm for row in panel.measured if row.config["model"].get("kind") != (network or {}).get("kind")
    ]
    named = (subject, "dual-rate", *refreshing, *of_another_method)
    others = [arm for arm in named if arm in arms and arm not in family]
    if subject is not None and subject not in arms:
        others = []
    return Roles(base, family, others[0] if others else None)


def comparisons(panel: Panel, who: Roles, cost: Cost, by_sampler: bool = False) -> list[Comparison]:
    """Every arm outside the base's family against that family; with `by_sampler`, one sampler at a time."""
    key = (who.base, who.family, cost, by_sampler)
    if key not in panel.memory:
        panel.memory[key] = list(_compared(panel, who, cost, by_sampler))
    return list(panel.memory[key])


def _compared(panel: Panel, who: Roles, cost: Cost, by_sampler: bool) -> Iterator[Comparison]:
    measured, points = _series_in(panel, cost)
    targets: dict[tuple[str, str], list[float]] = {}
    if cost == "seconds":  # at the distances at which compute is compared
        in_compute = comparisons(panel, who, "gmacs", by_sampler)
        targets = {(one.arm, one.name): [at.target for at in one.matched] for one in in_compute}
    labels = {row.arm: row.label for row in measured}
    for sampler in sorted({row.sampler for row in measured}) if by_sampler else [None]:
        chosen = [row for row in measured if sampler in (None, row.sampler)]
        suffix = f", {sampler}" if sampler else ""
        base = points(f"{labels.get(who.base, who.base)}{suffix}", who.base, _of(chosen, who.family))
        for arm in panel.arms:
            name = f"{labels.get(arm, arm)}{suffix}"
            method = points(name, arm, _of(chosen, (arm,)))
            if arm not in who.family and base is not None and method is not None:
                yield compare(method, base, cost, targets=targets.get((arm, name)))


def _series_in(panel: Panel, cost: Cost) -> tuple[Sequence[Row], Callable[[str, str, Sequence[Row]], Series | None]]:
    """(The rows whose `cost` can be compared, what makes a series of some of them by its name and arm)."""
    timed = cost == "seconds"
    noise = panel.timing_noise if timed else None

    def points(name: str, arm: str, rows: Sequence[Row]) -> Series | None:
        return series(name, arm, rows, panel.distances, cost, noise, panel.higher_is_better)

    return _one_clock(panel.measured) if timed else panel.measured, points


def compare_rows(panel: Panel, who: Roles, rows: Sequence[Row], cost: Cost) -> Comparison | None:
    """Some rows of one arm against the base's family; in seconds at the distances at which compute is compared."""
    measured, points = _series_in(panel, cost)
    labels = {row.arm: row.label for row in panel.measured}
    base = points(labels.get(who.base, who.base), who.base, _of(measured, who.family))
    own = points(rows[0].label, rows[0].arm, [row for row in rows if row in measured])
    if base is None or own is None:
        return None
    in_compute = compare_rows(panel, who, rows, "gmacs") if cost == "seconds" else None
    return compare(own, base, cost, targets=[at.target for at in in_compute.matched] if in_compute else None)


def _of(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    return [row for row in rows if row.arm in arms]


def _one_clock(rows: Sequence[Row]) -> list[Row]:
    """The rows timed on the device that most were timed on: seconds of two machines are not compared."""
    timed = [row for row in rows if row.seconds > 0]
    if not timed:
        return []
    clocks = [row.clock for row in timed]
    commonest = max(dict.fromkeys(clocks), key=clocks.count)
    return [row for row in timed if row.clock == commonest]


@dataclass(frozen=True)
class Headline:
    """The first thing that a report says."""

    line: str
    """One line that can be quoted: it begins with the verdict where the method loses or there is none."""
    conditions: str = ""
    """What qualifies it: the range of qualities, the base, and what is unknown. Whole sentences."""

    def __str__(self) -> str:
        return f"{self.line}\n{self.conditions}" if self.conditions else self.line


def headline(
    panel: Panel, base: str | None = None, subject: str | None = None, command: str = "harness time FILE"
) -> Headline:
    """The compute, and the time, measured at equal quality, whoever wins; or why nothing can be said.

    A ratio of costs is given only where it means something: distances on both frontiers fall by more than noise, and
    the frontiers share a range of distances. Times that cannot be trusted are left out, with `command` as the way to
    take them again.
    """
    if not panel.measured or panel.condition is None:
        return Headline("Nothing has been measured yet.")
    who = roles(panel, base, subject)
    if who is None:
        return Headline(f"Compute at equal quality cannot be stated: the base arm {base!r} has no measured row.")
    if who.subject is None:
        return Headline(
            "Compute at equal quality cannot be stated: no arm to compare with the base was measured; "
            "report.subject names one."
        )
    compute = comparison(panel, who, "gmacs")
    if compute is None:
        return Headline("Compute at equal quality cannot be stated: no compute has been measured.")
    timed = [row for row in compared_rows(panel, who) if row.seconds > 0]
    doubted = bool(untrusted(timed))
    time = None if doubted else comparison(panel, who, "seconds")
    label = panel.distance
    line, sentences = _cannot(compute, label) or _bound(compute, label) or _costs(compute, time, label)
    if paid := more_training(panel, who.base, who.subject):
        line += f", for {paid}"
    of_schedule, told = schedule_sentences(panel, who.subject)
    if of_schedule:
        line += f"; {of_schedule}"
    sentences = [
        *told,
        *sentences,
        f"N = {panel.condition.images}; against {_against(panel, who, compute)}.",
        *_seeds(panel),
        *([f"Times are left out: {why(timed, command)}"] if doubted else []),
    ]
    return Headline(line, " ".join(sentences))


def comparison(panel: Panel, who: Roles, cost: Cost) -> Comparison | None:
    """The subject against the base's family; None where one of the two has no such cost."""
    return next((one for one in comparisons(panel, who, cost) if one.arm == who.subject), None)


def compared_rows(panel: Panel, who: Roles) -> list[Row]:
    """The measured rows of the subject and the base's family."""
    return _of(panel.measured, (*who.family, *([who.subject] if who.subject else [])))


def _against(panel: Panel, who: Roles, result: Comparison) -> str:
    """The base in words: how many samplers it had, and which of them the subject had."""
    samplers = {row.sampler for row in panel.measured if row.arm in who.family}
    own = {row.sampler for row in panel.measured if row.arm == who.subject}
    against = f"{result.base} with the best of its {len(samplers)} samplers" if len(samplers) > 1 else result.base
    if samplers - own:  # the base's best sampler may be one that the subject was never run with
        against += f" ({result.name} had {', '.join(sorted(own))} alone)"
    return against


Statement = tuple[str, list[str]]
"""A headline's line, and the sentences that go under it."""


def comparable(result: Comparison, label: str) -> bool:
    """Whether costs can be stated at a quality that both reach."""
    return result.bound != "at most" and _cannot(result, label) is None


def _cannot(result: Comparison, label: str) -> Statement | None:
    """Why costs are not compared, with what was measured instead; None where they can be."""
    single = [name for name, span in ((result.base, result.others), (result.name, result.own)) if span.points == 1]
    if not result.bought and single:
        reason = f"{' and '.join(single)} {'has' if len(single) == 1 else 'have'} one measured row"
    elif result.bound and not result.gap:
        reason = f"the two share no range of {label}, and lie apart by no more than noise, or a tenth"
    elif result.bound == "at most":  # handled by _bound: the base is better
        return None
    elif result.bound == "at least" and result.bought and result.ratio < 1:
        reason = f"already the cheapest row of {result.name} is better than any of {result.base}, and more expensive"
    elif not result.bought:
        reason = (
            f"up to {result.shared:.3g}, the best that both reach, {label} does not get better with compute by more "
            "than noise, or a tenth"
        )
    else:
        return None
    noise = "" if result.best_differs else ", a difference within noise"
    bests = f"The best of {result.name} is {_point(result.own)}, of {result.base} {_point(result.others)}{noise}."
    if result.falls_short:
        return f"{_short(result, label)}; their compute cannot be compared", [f"{_capital(reason)}.", bests]
    return f"compute of {result.name} and {result.base} at equal {label} cannot be compared", [
        f"{_capital(reason)}.",
        bests,
    ]


def _capital(text: str) -> str:
    """`text` with a capital letter, unless it begins with an arm's name."""
    return f"{text[0].upper()}{text[1:]}" if text.startswith(("the ", "already ", "up ")) else text


def _point(span: Span) -> str:
    return f"{span.best:.3g} at {number(span.best_cost)} GMACs"


def _bound(result: Comparison, label: str) -> Statement | None:
    """The statement for frontiers of which one begins beyond the other's end; None where they share a range."""
    cheapest = f"{result.own.cheapest:.3g} at {number(result.own.cheapest_cost)} GMACs"
    if result.bound == "at least":
        return f"{result.name}: at most {_share(result)} the compute of {result.base} at equal {label}", [
            f"At the one {label} that both reach, {result.shared:.3g}: the cheapest row of {result.name} is better "
            f"already ({cheapest} against {_point(result.others)})."
        ]
    if result.bound == "at most":
        more = f": at least {_share(result)} the compute for the same quality" if result.ratio < 1 else ""
        return f"{result.name} does not reach the {label} of {result.base}{more}", [
            f"Its best is {_point(result.own)}, and already the cheapest row of {result.base} has "
            f"{result.others.cheapest:.3g} at {number(result.others.cheapest_cost)} GMACs."
        ]
    return None


def _costs(compute: Comparison, time: Comparison | None, label: str) -> Statement:
    """Costs over the range that both reach, after a warning if the subject never reaches the base's best quality."""
    time = None if time is None or time.bound else time
    costs = {"compute": compute} if time is None else {"compute": compute, "time": time}
    shares = " and ".join(f"{_share(result)} the {cost} ({_range(result)})" for cost, result in costs.items())
    ranges = " and ".join(f"{_range(result)}× the {cost}" for cost, result in costs.items())
    alike = [cost for cost, result in costs.items() if not _differs(result)]
    at = f"of {compute.base} at equal {label}"
    if compute.falls_short and len(alike) == len(costs):
        line = f"{_short(compute, label)}; up to there no difference in {' or '.join(alike)} beyond noise ({ranges})"
    elif compute.falls_short:
        within = f", in {alike[0]} no difference beyond noise" if alike else ""
        line = f"{_short(compute, label)}; up to there it needs {shares}{within}"
    elif len(alike) == len(costs):
        line = f"no difference beyond noise: {compute.name} needs {ranges} {at}"
    elif not _differs(compute):
        line = f"no difference in compute beyond noise: {compute.name} needs {shares} {at}"
    else:
        verdict = " loses" if compute.verdict == "more" else ""
        within = "; in time no difference beyond noise" if alike else ""
        line = f"{compute.name}{verdict}: {shares} {at}{within}"
    return line, [f"{_where(compute)}, with 95 % intervals.", *_bests(compute)]


def _short(result: Comparison, label: str) -> str:
    """That the method never reaches the base's best quality."""
    bests = f"{result.best:.3g} against {result.base_best:.3g}"
    return f"{result.name} does not reach the best {label} of {result.base} ({bests})"


def _differs(result: Comparison) -> bool:
    return result.verdict != "equal"


def _share(result: Comparison) -> str:
    return f"{1 / result.ratio:.2f}×"


def _range(result: Comparison) -> str:
    return f"{1 / result.high:.2f}–{1 / result.low:.2f}"


def _where(result: Comparison) -> str:
    if math.isclose(result.worst, result.shared, rel_tol=1e-9):
        return f"At the one value that both reach, {result.shared:.3g}"
    return f"On average over the values that both reach, {result.worst:.3g} to {result.shared:.3g}"


def _bests(result: Comparison) -> list[str]:
    if result.best == result.base_best or result.falls_short:
        return []
    if not result.best_differs:
        return [f"Their best, {result.best:.3g} and {result.base_best:.3g}, are within noise of each other."]
    return [
        f"The best of {result.name}, {result.best:.3g}, {result.base} does not reach (best {result.base_best:.3g})."
    ]


def _seeds(panel: Panel) -> list[str]:
    if any(len(row.records) > 1 for row in panel.measured):
        return []
    return ["One training seed, whose noise the intervals leave out."]
