"""The calls of sbatch of one submission: all of its arrays or, whatever goes wrong, none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.arrays import Array
from harness.dispatch.slurm.job import SlurmJob
from harness.dispatch.slurm.portion import trial_options
from harness.dispatch.slurm.queue import SlurmError
from harness.dispatch.slurm.queued import cancel_jobs_named
from harness.dispatch.slurm.sbatch import Refused, sbatch_options, sbatch_parameters, submit_array
from harness.dispatch.slurm.settings import ClusterSettings, JobSettings
from harness.dispatch.slurm.submissions import Submission, SubmittedArray
from harness.dispatch.slurm.trial import is_submit_limit, limit_name, room_for
from harness.errors import DispatchError
from harness.store.kinds import Kind
from harness.store.store import Store, Target
from harness.wording import count_of


class StillSubmitted(DispatchError):
    """Jobs that were submitted before SLURM failed, and could not be withdrawn; they are on record."""


@dataclass(frozen=True)
class Calls:
    """All calls of sbatch of one submission."""

    submission: Submission
    store: Store
    settings: ClusterSettings
    source: Path
    after: Sequence[str]
    """Jobs of others that are still to be waited for."""

    def submit_all(self, layout: Sequence[Array]) -> str:
        """One call per array; whatever goes wrong, what went before is withdrawn.

        Ends early where the cluster takes no more jobs, and returns the name of that limit.
        """
        try:
            for place, array in enumerate(layout):
                limit = self._submit_as_many_as_fit(array, place)
                if limit:
                    if not self.submission.arrays:
                        shutil.rmtree(self.submission.folder, ignore_errors=True)
                    return limit
        except Refused as error:
            left = _withdraw(self.submission)
            kind = StillSubmitted if self.submission.is_live else DispatchError
            raise kind(f"{error}\n{left}") from None
        except BaseException:
            _withdraw(self.submission)
            raise
        return ""

    def _submit_as_many_as_fit(self, array: Array, place: int) -> str:
        """Submit `array`, or the first of its elements; returns the limit that was in the way of the others."""
        limit = ""
        while array.elements:
            try:
                self._submit(array, place)
            except Refused as error:
                if not is_submit_limit(str(error)):
                    raise
                self.submission.arrays.pop()
                room, named = room_for(partial(self._options, array.kind), len(array.elements))
                limit = named or limit or limit_name(str(error))
                fewer = min(room, len(array.elements) - 1)  # others may submit meanwhile
                array = replace(array, elements=array.elements[:fewer])
            else:
                return limit
        self.submission.save()
        return limit

    def _submit(self, array: Array, place: int) -> None:
        own = self.settings.of(array.kind)
        name = array_name(self.submission.sweep, array, self.submission.mark, place)
        after = [text for text in self.after if text in _single(own.dependencies)] if is_root(array) else []
        record = SubmittedArray(
            name,
            array.kind,
            array.elements,
            _dependency(array, self.submission),
            minutes=own.minutes,
            memory=own.memory,
            after=",".join(after) or None,
        )
        self.submission.arrays.append(record)
        self.submission.save()
        record.job = _submit_one(record, self.submission.folder, self.store.root.resolve(), own, self.source)
        self.submission.save()

    def _options(self, kind: Kind, elements: int) -> list[str]:
        return trial_options(self.settings.of(kind), elements)


def _single(dependencies: Sequence[str]) -> list[str]:
    """``afterok:1:2`` as two dependencies."""
    return [f"{text.split(':')[0]}:{job}" for text in dependencies for job in text.split(":")[1:]]


def _submit_one(array: SubmittedArray, folder: Path, root: Path, settings: JobSettings, source: Path) -> str:
    dependency = ",".join(text for text in (array.dependency, array.after) if text) or None
    parameters = sbatch_parameters(settings, array.name, source, dependency)
    targets = [[Target(array.kind, id) for id in element] for element in array.elements]
    try:
        return submit_array([SlurmJob(root, made, settings.warning_seconds) for made in targets], folder, parameters)
    except Refused as error:
        asked = " ".join(sbatch_options(parameters, folder, len(targets)))
        said = f"sbatch refused an array of {count_of(len(targets), array.kind)}: {error}"
        raise Refused(f"{said}\nasked for: {asked}") from None


def _withdraw(submission: Submission) -> str:
    """Cancel all of a submission; says in words what is left of it."""
    taken = [array for array in submission.arrays if array.job is not None]
    try:
        if taken:
            queue.cancel([array.job for array in taken if array.job is not None])
        if len(taken) < len(submission.arrays):
            cancel_jobs_named(queue.read_live([submission.user]), submission.arrays[-1].name)
    except SlurmError as error:
        if not taken:
            return "nothing is submitted"
        numbers = ", ".join(array.job or "" for array in taken)
        return f"jobs {numbers} were submitted before and could not be withdrawn ({error}); they are on record"
    if not taken:
        shutil.rmtree(submission.folder, ignore_errors=True)
        return "nothing is submitted"
    for array in submission.arrays:
        array.withdrawn = True
    submission.save()
    return f"nothing is submitted; withdrawn is what went before: {count_of(len(taken), 'array')}"


def array_name(sweep: str, array: Array, mark: str, place: int) -> str:
    """Unique among all jobs ever: SLURM's numbers may start anew, and an array is found by it after a crash."""
    return f"{sweep}-{array.kind}s-{mark}.{place}"


def _dependency(array: Array, submission: Submission) -> str | None:
    """What sbatch is told of the jobs that `array` waits for."""

    def number(parent: int, element: int | None) -> str:
        made = submission.arrays[parent]
        return (made.job if element is None else made.job_of(element)) or ""

    return _waiting_for(array, number)


def described(array: Array, layout: Sequence[Array]) -> str | None:
    """A dependency on arrays that have no number yet: ARRAY and its place in the layout."""

    def name(parent: int, element: int | None) -> str:
        return f"ARRAY{parent}" if element is None or len(layout[parent].elements) == 1 else f"ARRAY{parent}_{element}"

    return _waiting_for(array, name)


def _waiting_for(array: Array, name: Callable[[int, int | None], str]) -> str | None:
    """The dependency of `array`; `name` tells the number of an array by its place, or of an element of it."""
    jobs: list[str] = []
    for after in array.after:
        if after.array is None:
            jobs.append(after.job or "")
        elif after.element is None and len(array.elements) > 1:
            return f"aftercorr:{name(after.array, None)}"
        else:
            jobs.append(name(after.array, after.element or 0))
    return f"afterok:{':'.join(jobs)}" if jobs else None


def is_root(array: Array) -> bool:
    """Whether `array` waits for no other array of its submission."""
    return all(after.array is None for after in array.after)
