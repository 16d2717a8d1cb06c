"""The kinds of targets: what jobs can make. All that differs by kind and can be said in a word stands here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.wording import count_of, plural

Kind = Literal["encoding", "training", "table", "cell"]


@dataclass(frozen=True)
class Facts:
    """Of a kind of target."""

    unit: str
    """What its progress counts."""
    is_rare: bool = False
    """Whether most sweeps have none: such a kind is told of only where there are any."""
    is_brief: bool = False
    """Whether one takes seconds: such a kind holds up no ETA."""
    is_even: bool = False
    """Whether it is known from a part of one how long the others take: nearly all of it is its main phase."""


FACTS: dict[Kind, Facts] = {
    "encoding": Facts("image", is_rare=True, is_even=True),
    "training": Facts("step", is_even=True),
    "table": Facts("level", is_rare=True, is_brief=True),
    "cell": Facts("image"),
}
"""In the order in which they are needed, and told."""
Quantity = Literal[
    "gmacs_per_image", "encoding_gmacs", "training_gmacs", "table_gmacs", "pair_table_gmacs", "cell_gmacs"
]
"""What can be counted of an experiment: functions of :mod:`harness.engine.estimate`."""
QUANTITIES: dict[Kind, Quantity] = {
    "encoding": "encoding_gmacs",
    "training": "training_gmacs",
    "table": "table_gmacs",
    "cell": "cell_gmacs",
}
"""What making a target of each kind costs; a table of a cell's costs ``pair_table_gmacs``."""
KINDS = tuple(FACTS)


def told_kinds(kinds: Iterable[Kind]) -> list[Kind]:
    """The kinds that are told of where there are targets of `kinds`."""
    present = set(kinds)
    return [kind for kind, facts in FACTS.items() if kind in present or not facts.is_rare]


def in_words(kinds: Iterable[Kind]) -> str:
    """``trainings, tables and cells``, where there are targets of `kinds`."""
    *others, last = (plural(kind) for kind in told_kinds(kinds))
    return f"{', '.join(others)} and {last}"


def counted(kinds: Iterable[Kind]) -> str:
    """How many of each kind, in words: ``2 trainings, 1 table and 3 cells``."""
    listed = list(kinds)
    *others, last = (count_of(listed.count(kind), kind) for kind in told_kinds(listed))
    return f"{', '.join(others)} and {last}"
