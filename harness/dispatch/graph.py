"""Work as a graph: every target with the targets that it needs. What a target makes is no concern of this module.

`needs` holds, for each target, the targets that must be done before it; a graph of any depth. Nothing here recurses, so
that a long chain is no matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from harness.store.store import Target

Needs = Mapping[Target, Collection[Target]]
Node = TypeVar("Node", bound=object)


def in_order(targets: Iterable[Target], needs: Needs) -> list[Target]:
    """`targets` and all that they need, directly or not, each after what it needs; otherwise in the order given."""
    ordered: dict[Target, None] = {}
    for target in targets:
        stack = [(target, iter(needs.get(target, ())))] if target not in ordered else []
        while stack:
            current, rest = stack[-1]
            need = next((one for one in rest if one not in ordered), None)
            if need is None:
                ordered[current] = None
                stack.pop()
            else:
                stack.append((need, iter(needs.get(need, ()))))
    return list(ordered)


def with_dependents(targets: Iterable[Target], needs: Needs) -> set[Target]:
    """`targets` and all that need one of them, directly or not."""
    dependents: dict[Target, list[Target]] = defaultdict(list)
    for target, needed in needs.items():
        for need in needed:
            dependents[need].append(target)
    return set(in_order(targets, dependents))


def depths(targets: Iterable[Target], needs: Needs) -> dict[Target, int]:
    """Of `targets` and all that they need: 0 for what needs nothing, else one more than the deepest need."""
    found: dict[Target, int] = {}
    for target in in_order(targets, needs):
        found[target] = max((found[need] + 1 for need in needs.get(target, ())), default=0)
    return found


def find_cycle(needs: Mapping[Node, Iterable[Node]]) -> list[Node]:
    """The nodes of a cycle, each followed by one that it needs and the first again at the end; empty without a cycle.

    Begins with the node of the cycle that comes first in `needs`.
    """
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1][:-1]))  # graphlib lists each before what needs it
        first = cycle.index(next(node for node in needs if node in cycle))
        return [*cycle[first:], *cycle[:first], cycle[first]]
    return []
