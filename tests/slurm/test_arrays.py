"""The layout of arrays: every target once, every cell after its own training alone, few calls of sbatch."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from harness.dispatch.slurm.arrays import Array, lay_out

COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=25)


def named(counts: list[int], prefix: str = "t") -> dict[str, list[str]]:
    return {f"{prefix}{i}": [f"{prefix}{i}.{j}" for j in range(count)] for i, count in enumerate(counts)}


def parents(arrays: list[Array]) -> dict[str, str | None]:
    """The training that each cell waits for, worked out from SLURM's rules for afterok and aftercorr."""
    found: dict[str, str | None] = {}
    for place, array in enumerate(arrays):
        for index, element in enumerate(array.elements):
            parent: str | None = None
            if array.after is not None and array.after.job is not None:
                parent = array.after.job
            elif array.after is not None and array.after.array is not None:
                assert array.after.array < place, "an array waits for one that is submitted later"
                before = arrays[array.after.array]
                (parent,) = before.elements[index if array.after.element is None else array.after.element]
            for cell in element if array.kind == "cell" else ():
                assert cell not in found
                found[cell] = parent
    return found


@given(new=COUNTS, ready=COUNTS, live=COUNTS, most=st.integers(1, 9), per_job=st.integers(1, 4))
def test_each_cell_waits_for_its_own_training(
    new: list[int], ready: list[int], live: list[int], most: int, per_job: int
) -> None:
    submitted, done, running = named(new), named(ready, "d"), named(live, "r")
    numbers = {training: f"7_{training}" for training in running}
    arrays = lay_out(list(submitted), {**submitted, **done, **running}, most, per_job, numbers)
    trainings = [id for array in arrays if array.kind == "training" for element in array.elements for id in element]
    assert sorted(trainings) == sorted(submitted)
    expected = {cell: training for training, cells in submitted.items() for cell in cells}
    expected |= {cell: None for cells in done.values() for cell in cells}
    expected |= {cell: numbers[training] for training, cells in running.items() for cell in cells}
    assert parents(arrays) == expected
    assert all(1 <= len(array.elements) <= most for array in arrays)
    assert all(len(element) <= per_job for array in arrays for element in array.elements)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_calls_of_sbatch_grow_with_the_root_of_the_cells(counts: list[int]) -> None:
    arrays = lay_out([f"t{i}" for i in range(len(counts))], named(counts), most=1000)
    assert len(arrays) <= 1 + 2 * math.sqrt(sum(counts))


def test_a_thousand_cells_take_few_calls() -> None:
    for trainings, cells, calls in ((1000, 1, 2), (1, 1000, 2), (20, 50, 21), (500, 2, 3)):
        assert len(lay_out([f"t{i}" for i in range(trainings)], named([cells] * trainings), most=1001)) == calls
