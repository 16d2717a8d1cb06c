"""Jobs still in SLURM's queue, from the records of their submissions, whatever the sweep's file says by now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.queue import Job
from harness.dispatch.slurm.submissions import Records, Submission, SweepKey, current_user, unfinished
from harness.dispatch.sweep import Sweep
from harness.store.store import Target
from harness.wording import count_of


@dataclass(frozen=True)
class LiveJob:
    """A pending or running job, and what it was submitted for."""

    job: Job
    targets: tuple[Target, ...]
    submission: Submission
    parents: tuple[str, ...]
    """The jobs that it waits for, to make what its targets need."""

    @property
    def id(self) -> str:
        return self.job.id


def read_jobs(records: Records) -> dict[str, Job]:
    """All jobs that the controller remembers of the users who submitted. Raises :class:`SlurmError`."""
    users = {submission.user for submission in records.submissions} | ({current_user()} if records.damaged else set())
    return queue.read_live(users) if users else {}


def live_jobs(submissions: Iterable[Submission], jobs: Mapping[str, Job]) -> list[LiveJob]:
    """All live jobs of `submissions` in the queue `jobs`."""
    live = []
    for submission in submissions:
        for array in submission.arrays:
            for place, element in enumerate(array.elements):
                job = jobs.get(array.job_of(place) or "")
                if job is not None and job.name == array.name and job.is_live:
                    targets = tuple(Target(array.kind, id) for id in element)
                    live.append(LiveJob(job, targets, submission, array.parents_of(place)))
    return live


def targets_of(sweep: Sweep) -> frozenset[Target]:
    """All targets of the sweep as its file stands."""
    return frozenset(sweep.nodes)


def earlier_jobs(live: Iterable[LiveJob], key: SweepKey, targets: Collection[Target]) -> list[LiveJob]:
    """Those of `live` that were submitted for the sweep of `key` but make none of the `targets` it has now."""
    return [job for job in live if job.submission.is_of(key) and not any(t in targets for t in job.targets)]


def nameless_jobs(records: Records, jobs: Mapping[str, Job], key: SweepKey) -> set[str]:
    """Live jobs of the sweep of `key` whose numbers are in no record, since it is damaged or its terminal died before
    sbatch returned. They are recognised by their names."""
    unnumbered = {array.name for submission, array in unfinished(records.submissions) if submission.is_of(key)}
    damaged = records.damaged if key.name is not None else []
    return {
        job.id
        for job in jobs.values()
        if job.is_live and (job.name in unnumbered or any(record.sweep_of(job.name) == key.name for record in damaged))
    }


def earlier_sentence(jobs: Sequence[str]) -> str:
    """How many `jobs` of an earlier version of a sweep are queued, and which, in words."""
    named = ", ".join(sorted(jobs)[:8])
    return f"{count_of(len(jobs), 'job')} of an earlier version of this sweep in SLURM's queue: {named}" + (
        ", …" if len(jobs) > 8 else ""
    )
