"""How trainings and cells are laid out in job arrays, so that few calls of sbatch say which cell waits for what.

Every cell waits for its own training alone. SLURM offers two ways to say so: ``afterok:12_3`` makes a whole array wait
for one training, ``aftercorr:12`` makes element i of an array wait for element i of array 12. Where one training has
many cells the first takes fewer calls, where many trainings have few cells each the second; mixed they take at most
about 2√n calls for n cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.store.store import Kind

T = TypeVar("T")
Element = tuple[str, ...]
"""The ids that one job makes, one after another."""


@dataclass(frozen=True)
class After:
    """What an array waits for: an earlier array of the layout (by its place in it), or a job of SLURM."""

    array: int | None = None
    element: int | None = None
    """Of `array`; None: element by element."""
    job: str | None = None


@dataclass(frozen=True)
class Array:
    """One call of sbatch."""

    kind: Kind
    elements: tuple[Element, ...]
    after: After | None = None


def lay_out(
    trainings: Sequence[str],
    cells: Mapping[str, Sequence[str]],
    most: int,
    cells_per_job: int = 1,
    live: Mapping[str, str] | None = None,
) -> list[Array]:
    """Arrays of at most `most` elements, in the order in which they must be submitted.

    `trainings` are to be submitted; `cells` are cell ids by training, of which those that are not in `trainings` are
    either done (their cells wait for nothing) or, with their job's number, in `live`.
    """
    live = live or {}
    jobs = {training: _chunks(ids, cells_per_job) for training, ids in cells.items()}
    ordered = sorted(trainings, key=lambda training: -len(jobs.get(training, [])))  # makes every layer a prefix
    arrays = [Array("training", tuple((id,) for id in part)) for part in _chunks(ordered, most)]
    for place in range(len(arrays)):
        waiting = [jobs.get(id, []) for (id,) in arrays[place].elements]
        arrays += _dependents(waiting, place, most)
    for training, job in live.items():
        arrays += [Array("cell", part, After(job=job)) for part in _chunks(jobs.get(training, []), most)]
    free = [jobs[training] for training in cells if training not in live and training not in set(trainings)]
    arrays += [Array("cell", part) for part in _chunks(list(itertools.chain(*free)), most)]
    return arrays


def _dependents(waiting: Sequence[Sequence[Element]], place: int, most: int) -> Iterable[Array]:
    """Arrays for the cells of the trainings of array `place`; `waiting` falls in length."""
    depth = _best_depth([len(elements) for elements in waiting])
    for layer in range(depth):
        across = tuple(elements[layer] for elements in waiting if len(elements) > layer)
        yield Array("cell", across, After(place, 0 if len(across) == 1 else None))
    for index, elements in enumerate(waiting):
        for part in _chunks(elements[depth:], most):
            yield Array("cell", part, After(place, index))


def _best_depth(counts: Sequence[int]) -> int:
    """How many layers of element-by-element arrays make the total number of arrays smallest."""
    return min(range(max(counts, default=0) + 1), key=lambda depth: depth + sum(count > depth for count in counts))


def _chunks(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
