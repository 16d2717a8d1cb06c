"""How targets are laid out in job arrays, so that few calls of sbatch say which job waits for which.

Every job waits for what its own targets need and for nothing else. SLURM offers two ways to say so: ``afterok:12_3``
makes a whole array wait for one job, ``aftercorr:12`` makes element i of an array wait for element i of array 12.
Where few jobs have many dependents each, the first takes fewer calls; where many jobs have few dependents each, the
second does. Mixed, n cells of trainings that need nothing take at most about 2√n calls; each further level of the graph
is laid out in the same way after the level before it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from harness.store.kinds import Kind
from harness.store.store import Target

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
    after: tuple[After, ...] = ()


@dataclass(eq=False)
class _Job:
    """Targets that one job makes, and what it waits for: jobs of the layout, and jobs that SLURM has already."""

    kind: Kind
    targets: list[Target]
    parents: list[_Job]
    live: tuple[str, ...]
    depth: int
    children: Counter[Kind] = field(default_factory=Counter)
    """How many jobs of each kind wait for this one alone."""
    place: tuple[int, int] = (0, 0)
    """Its array, and the element of it."""

    @property
    def element(self) -> Element:
        return tuple(target.id for target in self.targets)


def lay_out(
    targets: Sequence[Target],
    needs: Mapping[Target, Collection[Target]],
    most: int,
    per_job: Mapping[Kind, int],
    live: Mapping[Target, str],
) -> list[Array]:
    """Arrays of at most `most` elements, in the order in which they must be submitted.

    `targets` are to be submitted, each after what it needs. Their `needs` are what is not done: it is among `targets`
    too, or in `live` with its job's number. A job makes up to `per_job` targets of its kind that need the same.
    """
    arrays: list[Array] = []
    levels: dict[int, list[_Job]] = defaultdict(list)
    for job in _jobs(targets, needs, per_job, live):
        levels[job.depth].append(job)
    for _, level in sorted(levels.items()):
        for kind in dict.fromkeys(job.kind for job in level):
            _lay_out_level([job for job in level if job.kind == kind], arrays, most)
    return arrays


def jobs_of(
    targets: Iterable[Target], needs: Mapping[Target, Collection[Target]], per_job: Mapping[Kind, int]
) -> list[list[Target]]:
    """`targets` by the jobs that make them, in their order: those of one job are of one kind and need the same."""
    jobs: list[list[Target]] = []
    unfilled: dict[tuple[Kind, tuple[Target, ...]], list[Target]] = {}
    for target in targets:
        key = target.kind, tuple(needs.get(target, ()))
        job = unfilled.get(key)
        if job is None or len(job) == per_job.get(target.kind, 1):
            job = unfilled[key] = []
            jobs.append(job)
        job.append(target)
    return jobs


def _jobs(
    targets: Sequence[Target],
    needs: Mapping[Target, Collection[Target]],
    per_job: Mapping[Kind, int],
    live: Mapping[Target, str],
) -> list[_Job]:
    made_by: dict[Target, _Job] = {}
    jobs = []
    for members in jobs_of(targets, needs, per_job):
        needed = list(needs.get(members[0], ()))
        parents = list(dict.fromkeys(made_by[need] for need in needed if need in made_by))
        numbers = tuple(dict.fromkeys(live[need] for need in needed if need in live and need not in made_by))
        depth = max((parent.depth + 1 for parent in parents), default=0)
        job = _Job(members[0].kind, members, parents, numbers, depth)
        made_by.update(dict.fromkeys(members, job))
        if len(parents) == 1 and not numbers:
            parents[0].children[job.kind] += 1
        jobs.append(job)
    return jobs


def _lay_out_level(jobs: Sequence[_Job], arrays: list[Array], most: int) -> None:
    """Add the arrays of the `jobs` of one level and kind to `arrays`."""
    kinds = [kind for kind, _ in sum((job.children for job in jobs), Counter[Kind]()).most_common()]
    ordered = sorted(jobs, key=lambda job: [-job.children[kind] for kind in kinds])  # see _layers
    alike: dict[tuple[tuple[int, int] | str, ...], list[_Job]] = defaultdict(list)
    dependents: dict[int, dict[int, list[_Job]]] = defaultdict(lambda: defaultdict(list))
    for job in ordered:
        if len(job.parents) == 1 and not job.live:
            array, element = job.parents[0].place
            dependents[array][element].append(job)
        else:
            alike[(*(parent.place for parent in job.parents), *job.live)].append(job)
    for array, by_element in sorted(dependents.items()):
        waiting = [by_element.get(element, []) for element in range(len(arrays[array].elements))]
        for after, members in _after_one(waiting, array, most):
            _add(members, (after,), arrays)
    for key, members in alike.items():
        waits = tuple(After(job=one) if isinstance(one, str) else After(*one) for one in key)
        for part in _chunks(members, most):
            _add(part, waits, arrays)


def _add(jobs: Sequence[_Job], after: tuple[After, ...], arrays: list[Array]) -> None:
    for element, job in enumerate(jobs):
        job.place = len(arrays), element
    arrays.append(Array(jobs[0].kind, tuple(job.element for job in jobs), after))


def _after_one(waiting: Sequence[Sequence[T]], array: int, most: int) -> Iterator[tuple[After, Sequence[T]]]:
    """What waits for one element of `array` each, by element: in layers element by element, the rest by parent."""
    layers = _layers([len(jobs) for jobs in waiting])
    for layer, width in enumerate(layers):
        across = [jobs[layer] for jobs in waiting[:width]]
        yield After(array, 0 if width == 1 else None), across
    for element, jobs in enumerate(waiting):
        covered = sum(width > element for width in layers)
        for part in _chunks(jobs[covered:], most):
            yield After(array, element), part


def _layers(counts: Sequence[int]) -> list[int]:
    """The widths of the layers of element-by-element arrays that make the total number of arrays smallest.

    Layer i takes one job of each of the first elements that have more than i, so parents come in the order of their
    dependents.
    """
    least = list(itertools.accumulate(counts, min))
    widths = [sum(count > layer for count in least) for layer in range(max(least, default=0))]

    def arrays(depth: int) -> int:
        return depth + sum(count > min(depth, covered) for count, covered in zip(counts, least, strict=True))

    return widths[: min(range(len(widths) + 1), key=arrays)]


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
