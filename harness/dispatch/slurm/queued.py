"""What SLURM has of a sweep already, before more of it is submitted."""

from __future__ import annotations

from dataclasses import dataclass

from harness.dispatch.plan import Plan
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.live import LiveJob, live_jobs, read_jobs
from harness.dispatch.slurm.queue import Job
from harness.dispatch.slurm.submissions import (
    Assignment,
    Submission,
    SweepKey,
    assignments,
    read_records,
    unfinished,
)
from harness.store.store import Store, Target


@dataclass(frozen=True)
class Queued:
    """What SLURM has of a sweep, once the traces of a submission that died half-way are cleared."""

    live: dict[Target, Assignment]
    jobs: list[LiveJob]
    records: list[Submission]
    note: str = ""

    def shared_with(self, key: SweepKey) -> set[str]:
        """Jobs of other sweeps that make targets of this one."""
        return {made.job for made in self.live.values() if not made.submission.is_of(key)}

    def known_as_shared(self, key: SweepKey) -> set[str]:
        return {job for submission in self.records if submission.is_of(key) for job in submission.shared}


def read_queued(planned: Plan, store: Store) -> Queued:
    records = read_records(store)
    if not records.submissions:
        return Queued({}, [], [], records.note)
    jobs = read_jobs(records)
    for submission, array in unfinished(records.submissions):
        cancel_jobs_named(jobs, array.name)
        array.withdrawn = True
        submission.save()
    live, orphans = sort_out(planned, store, assignments(records.submissions), jobs)
    if orphans:
        queue.cancel(orphans)
    return Queued(live, live_jobs(records.submissions, jobs), records.submissions, records.note)


def sort_out(
    planned: Plan, store: Store, assigned: dict[Target, Assignment], jobs: dict[str, Job]
) -> tuple[dict[Target, Assignment], set[str]]:
    """(What live jobs make, orphans: jobs that wait for one that has ended without making what they need)."""

    def job_of(assignment: Assignment) -> Job | None:
        found = jobs.get(assignment.job)
        return found if found is not None and found.name == assignment.name and found.is_live else None

    def is_live(target: Target) -> bool:
        job = job_of(assigned[target]) if target in assigned else None
        if job is None or job.is_pending:
            return job is not None
        noted = store.state(target)  # a job that has failed here may take a while to end, or be at another cell
        return not (noted.get("state") in ("failed", "blocked") and noted.get("job") == job.id)

    live = {target: assigned[target] for target in planned.sweep.nodes if is_live(target)}
    orphans: set[str] = set()
    for target in planned.sweep.nodes:  # in the order of the graph: what waits for an orphan is one too
        assignment = live.get(target)
        job = job_of(assignment) if assignment is not None else None
        if assignment is None or job is None or not job.is_pending or not assignment.parents:
            continue
        if any(need not in live or live[need].job not in assignment.parents for need in planned.waits_for(target)):
            orphans.add(assignment.job)
            del live[target]
    return live, orphans


def cancel_jobs_named(jobs: dict[str, Job], name: str) -> None:
    queue.cancel([job.id for job in jobs.values() if job.name == name and job.is_live])
