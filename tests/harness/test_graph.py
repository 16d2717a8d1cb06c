"""The graph of work: orders, closures, depths and cycles, whatever the targets are."""

from __future__ import annotations

from harness.dispatch.graph import depths, find_cycle, in_order, with_dependents
from harness.store.store import Target


def named(*names: str) -> tuple[Target, ...]:
    return tuple(Target("training", name) for name in names)


A, B, C, D, E = named(*"abcde")
NEEDS = {A: (), B: (A,), C: (B,), D: (A, C), E: ()}


def test_each_comes_after_what_it_needs_and_else_in_the_order_given() -> None:
    assert in_order([E, D], NEEDS) == [E, A, B, C, D]
    assert in_order([C, E, A], NEEDS) == [A, B, C, E]


def test_what_needs_a_target_at_any_depth() -> None:
    assert with_dependents([B], NEEDS) == {B, C, D}
    assert with_dependents([E], NEEDS) == {E}


def test_depths_are_of_the_longest_way() -> None:
    assert depths([D, E], NEEDS) == {A: 0, B: 1, C: 2, D: 3, E: 0}


def test_a_long_chain_is_no_matter() -> None:
    chain = named(*map(str, range(5000)))
    needs = {target: chain[i - 1 : i] for i, target in enumerate(chain)}
    assert in_order([chain[-1]], needs) == list(chain)
    assert len(with_dependents([chain[0]], needs)) == depths([chain[-1]], needs)[chain[-1]] + 1 == 5000


def test_a_cycle_is_told_from_its_first_member_each_followed_by_what_it_needs() -> None:
    assert find_cycle({"x": ["b"], "a": ["c"], "b": ["a"], "c": ["b"]}) == ["a", "c", "b", "a"]
    assert find_cycle({"a": ["a"]}) == ["a", "a"]
    assert find_cycle({"a": ["b"], "b": []}) == []
