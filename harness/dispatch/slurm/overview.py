"""All sweeps that were submitted from one results folder, from the records alone: their files may be gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.dispatch.slurm.live import LiveJob, live_jobs
from harness.dispatch.slurm.queue import read_queue
from harness.dispatch.slurm.submissions import Submission, current_user, read_records
from harness.store.kinds import Kind
from harness.store.store import Store, Target


@dataclass
class SubmittedSweep:
    """All submissions with the same name, file and overrides."""

    name: str
    file: str | None
    overrides: tuple[str, ...]
    submitted: float
    """Unix time of the last submission."""
    targets: set[Target] = field(default_factory=set)
    done: set[Target] = field(default_factory=set)
    jobs: list[LiveJob] = field(default_factory=list)

    def count(self, kind: Kind) -> tuple[int, int]:
        """How many targets of a kind are done, and how many were submitted."""
        return (
            sum(target.kind == kind for target in self.done),
            sum(target.kind == kind for target in self.targets),
        )

    @property
    def running(self) -> int:
        return sum(not live.job.is_pending for live in self.jobs)


@dataclass(frozen=True)
class Overview:
    """The sweeps, the most recently submitted first. `note` says what could not be read."""

    sweeps: list[SubmittedSweep]
    note: str


def read_overview(store: Store) -> Overview:
    """Every submitted sweep with its progress and its jobs. Does not raise where SLURM cannot be reached."""
    records = read_records(store)
    users = {submission.user for submission in records.submissions} | ({current_user()} if records.damaged else set())
    queue = read_queue(users) if users else None
    sweeps: dict[tuple[str, str | None, tuple[str, ...]], SubmittedSweep] = {}
    for submission in records.submissions:
        overrides = tuple(submission.overrides or ())
        key = (submission.sweep, submission.file, overrides)
        sweep = sweeps.setdefault(key, SubmittedSweep(*key, submitted=submission.created))
        sweep.submitted = submission.created
        sweep.targets |= set(_targets(submission))
    for live in live_jobs(records.submissions, queue.jobs if queue else {}):
        submission = live.submission
        sweeps[submission.sweep, submission.file, tuple(submission.overrides or ())].jobs.append(live)
    for sweep in sweeps.values():
        sweep.done = {target for target in sweep.targets if store.is_done(target)}
    notes = [text for text in (queue.note if queue else "", records.note) if text]
    return Overview(sorted(sweeps.values(), key=lambda sweep: -sweep.submitted), "; ".join(notes))


def _targets(submission: Submission) -> Iterator[Target]:
    return (
        Target(a.kind, id) for a in submission.arrays if not a.withdrawn for element in a.elements for id in element
    )
