"""Reasons against times, in few words: those that differ in their numbers alone are one, with the range of these."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.wording import count_of

NUMBER = re.compile(r"(?P<below>less than )?(?P<value>\d+(?:\.\d+)?)(?P<unit>[%×]?)")

MOST_REASONS = 3
"""Kinds of reasons that a sentence on several things names."""


def merged(reasons: Iterable[str]) -> tuple[str, ...]:
    """`reasons`, one for each kind, in the order of their first."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(kind_of(reason), []).append(reason)
    return tuple(_as_one(of_kind) for of_kind in kinds.values())


def counted(reasons_of: Iterable[Iterable[str]], noun: str) -> str:
    """The reasons of several things, called `noun`, each with the number of those that it holds for, the commonest
    first; of a single kind without a number, since it holds for all."""
    kinds: dict[str, dict[int, list[str]]] = {}
    for place, reasons in enumerate(reasons_of):
        for reason in reasons:
            kinds.setdefault(kind_of(reason), {}).setdefault(place, []).append(reason)
    common = sorted(kinds.values(), key=lambda holding: -len(holding))
    told = [_as_one([reason for alike in holding.values() for reason in alike]) for holding in common]
    if len(told) == 1:
        return told[0]
    numbers = [len(holding) for holding in common]
    if len(told) > MOST_REASONS:
        rest = common[MOST_REASONS:]
        told[MOST_REASONS:] = [count_of(len(rest), "other reason")]
        numbers[MOST_REASONS:] = [len({place for holding in rest for place in holding})]
    return "; ".join(f"{reason}: {count_of(number, noun)}" for reason, number in zip(told, numbers, strict=True))


def kind_of(reason: str) -> str:
    """What reasons share that differ in their numbers alone."""
    return NUMBER.sub(lambda found: f"#{found['unit']}", reason)


def _as_one(reasons: list[str]) -> str:
    """Reasons of one kind as one: where their numbers differ, the least to the largest."""
    numbers = [list(NUMBER.finditer(reason)) for reason in reasons]
    text, end = "", 0
    for place, found in enumerate(numbers[0]):
        values = sorted(
            {of_one[place][0]: _size(of_one[place]) for of_one in numbers}.items(), key=lambda item: item[1]
        )
        low, high = values[0][0], values[-1][0]
        text += reasons[0][end : found.start()] + (low if low == high else f"{low} to {high}")
        end = found.end()
    return text + reasons[0][end:]


def _size(number: re.Match[str]) -> tuple[float, bool]:
    return float(number["value"]), number["below"] is None
