"""The layout of arrays: every target once, every job after what its own targets need alone, few calls of sbatch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.dispatch.slurm.arrays import Array, lay_out
from harness.store.store import Kind, Target

Needs = dict[Target, tuple[Target, ...]]
COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=25)
ONE: Mapping[Kind, int] = {"cell": 1}


def training(name: str) -> Target:
    return Target("training", name)


def pairs(counts: list[int], prefix: str = "t") -> Needs:
    """Cells by the training that each needs, as many of each training as `counts` says."""
    return {
        Target("cell", f"{prefix}{i}.{j}"): (training(f"{prefix}{i}"),)
        for i, count in enumerate(counts)
        for j in range(count)
    }


def waits_for(arrays: list[Array]) -> dict[Target, set[Target | str]]:
    """What each target waits for, worked out from SLURM's rules for afterok and aftercorr: targets, numbers of jobs."""
    found: dict[Target, set[Target | str]] = {}
    for place, array in enumerate(arrays):
        for index, element in enumerate(array.elements):
            waits: set[Target | str] = set()
            for after in array.after:
                if after.array is None:
                    waits.add(after.job or "")
                    continue
                assert after.array < place, "an array waits for one that is submitted later"
                before = arrays[after.array]
                made = before.elements[index if after.element is None else after.element]
                waits |= {Target(before.kind, id) for id in made}
            for id in element:
                assert Target(array.kind, id) not in found
                found[Target(array.kind, id)] = waits
    return found


@given(new=COUNTS, ready=COUNTS, live=COUNTS, most=st.integers(1, 9), per_job=st.integers(1, 4))
def test_each_cell_waits_for_its_own_training(
    new: list[int], ready: list[int], live: list[int], most: int, per_job: int
) -> None:
    submitted, done, running = pairs(new), pairs(ready, "d"), pairs(live, "r")
    trainings = [training(f"t{i}") for i in range(len(new))]
    numbers = {training(f"r{i}"): f"7_{i}" for i in range(len(live))}
    needs: Needs = {**submitted, **running, **dict.fromkeys(done, ())}
    arrays = lay_out([*trainings, *needs], needs, most, {"cell": per_job}, numbers)
    expected: dict[Target, set[Target | str]] = {target: set() for target in (*trainings, *done)}
    expected |= {cell: set(needed) for cell, needed in submitted.items()}
    expected |= {cell: {numbers[needed]} for cell, (needed,) in running.items()}
    assert waits_for(arrays) == expected
    assert all(1 <= len(array.elements) <= most for array in arrays)
    assert all(len(element) <= per_job for array in arrays for element in array.elements)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Target], Needs, dict[Target, str]]:
    """A graph of trainings of any depth, some needing several, and cells that need any of them; jobs that are live."""
    count = draw(st.integers(1, 14))
    targets: list[Target] = []
    needs: Needs = {}
    for i in range(count):
        target = training(f"t{i}")
        needs[target] = tuple(draw(st.lists(st.sampled_from(targets), unique=True, max_size=2))) if targets else ()
        targets.append(target)
    for j in range(draw(st.integers(0, 20))):
        needs[Target("cell", f"c{j}")] = tuple(draw(st.lists(st.sampled_from(targets), unique=True, max_size=3)))
    live = {target: f"9_{target.id}" for target in targets if not needs[target] and draw(st.booleans())}
    return [target for target in needs if target not in live], needs, live


@given(graph=graphs(), most=st.integers(1, 6))
def test_at_any_depth_each_target_waits_for_what_it_needs(
    graph: tuple[list[Target], Needs, dict[Target, str]], most: int
) -> None:
    targets, needs, live = graph
    arrays = lay_out(targets, {target: needs[target] for target in targets}, most, ONE, live)
    assert waits_for(arrays) == {target: {live.get(need, need) for need in needs[target]} for target in targets}
    assert all(1 <= len(array.elements) <= most for array in arrays)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_calls_of_sbatch_grow_with_the_root_of_the_cells(counts: list[int]) -> None:
    needs = pairs(counts)
    trainings = [training(f"t{i}") for i in range(len(counts))]
    arrays = lay_out([*trainings, *needs], needs, 1000, ONE, {})
    assert len(arrays) <= 1 + 2 * math.sqrt(sum(counts))


def test_a_thousand_cells_take_few_calls() -> None:
    for trainings, cells, calls in ((1000, 1, 2), (1, 1000, 2), (20, 50, 21), (500, 2, 3)):
        needs = pairs([cells] * trainings)
        targets = [*(training(f"t{i}") for i in range(trainings)), *needs]
        assert len(lay_out(targets, needs, 1001, ONE, {})) == calls


@pytest.mark.parametrize(("seeds", "cells", "calls"), [(50, 1, 6), (50, 3, 12), (3, 50, 12)])
def test_a_chain_of_trainings_takes_as_many_calls_for_any_number_of_seeds(seeds: int, cells: int, calls: int) -> None:
    """Three levels of trainings, each the next one's start and with cells of its own, for each seed."""
    needs: Needs = {}
    for level in range(3):
        for seed in range(seeds):
            before = (training(f"{level - 1}.{seed}"),) if level else ()
            needs[training(f"{level}.{seed}")] = before
            needs |= {Target("cell", f"{level}.{seed}.{i}"): (training(f"{level}.{seed}"),) for i in range(cells)}
    arrays = lay_out(list(needs), needs, 1001, ONE, {})
    assert len(arrays) == calls
    assert waits_for(arrays) == {target: set(needed) for target, needed in needs.items()}
