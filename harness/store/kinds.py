"""The kinds of targets: what jobs can make. All that differs by kind and can be said in a word stands here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.wording import count_of, plural

Kind = Literal["training", "table", "cell"]


@dataclass(frozen=True)
class Facts:
    """Of a kind of target."""

    unit: str
    """What its progress counts."""
    is_brief: bool = False
    """Whether one takes seconds: such a kind is told of only where there are any, and holds up no ETA."""


FACTS: dict[Kind, Facts] = {
    "training": Facts("step"),
    "table": Facts("level", is_brief=True),
    "cell": Facts("image"),
}
"""In the order in which they are needed, and told."""
Quantity = Literal["gmacs_per_image", "training_gmacs", "table_gmacs", "pair_table_gmacs", "cell_gmacs"]
"""What can be counted of an experiment: functions of :mod:`harness.engine.estimate`."""
QUANTITIES: dict[Kind, Quantity] = {"training": "training_gmacs", "table": "table_gmacs", "cell": "cell_gmacs"}
"""What making a target of each kind costs; a table of a cell's costs ``pair_table_gmacs``."""
KINDS = tuple(FACTS)


def told_kinds(kinds: Iterable[Kind]) -> list[Kind]:
    """The kinds that are told of where there are targets of `kinds`."""
    present = set(kinds)
    return [kind for kind, facts in FACTS.items() if kind in present or not facts.is_brief]


def in_words(kinds: Iterable[Kind]) -> str:
    """``trainings, tables and cells``, where there are targets of `kinds`."""
    *others, last = (plural(kind) for kind in told_kinds(kinds))
    return f"{', '.join(others)} and {last}"


def counted(kinds: Iterable[Kind]) -> str:
    """How many of each kind, in words: ``2 trainings, 1 table and 3 cells``."""
    listed = list(kinds)
    *others, last = (count_of(listed.count(kind), kind) for kind in told_kinds(listed))
    return f"{', '.join(others)} and {last}"
