"""The state of every target of a sweep, from the files of the store and, where it can be reached, from SLURM.

A result on disk decides. After it comes SLURM's queue, then what the job itself noted before it ended, then what
accounting or the job's log says of its end. What cannot run because of something that it needs is blocked, with the
reason at the root of it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.dispatch.plan import Plan
from harness.dispatch.progress import MAIN_UNITS
from harness.dispatch.slurm.endings import ending_in_log, ending_in_queue, noted_failure
from harness.dispatch.slurm.live import earlier_jobs, live_jobs, targets_of
from harness.dispatch.slurm.queue import Job, Queue, read_queue
from harness.dispatch.slurm.submissions import Assignment, Submission, SweepKey, assignments, read_records
from harness.engine.progress import MAIN
from harness.store.kinds import KINDS, Kind
from harness.store.lease import is_held
from harness.store.store import Store, Target
from harness.store.training_log import newest_samples

State = Literal["done", "running", "queued", "waiting", "failed", "blocked", "cancelled", "lost", "missing", "unneeded"]
STATES: tuple[State, ...] = (
    "running",
    "queued",
    "waiting",
    "failed",
    "blocked",
    "cancelled",
    "lost",
    "missing",
    "unneeded",
    "done",
)
WORDS: dict[State, str] = {
    "done": "its result is on disk",
    "running": "a job or process is at work",
    "queued": "its job is in SLURM's queue",
    "waiting": "what it needs has not finished",
    "failed": "it raised an error or was killed",
    "blocked": "what it needs has failed or was cancelled",
    "cancelled": "a person has cancelled it, or told it to stop",
    "lost": "its job is gone and has left no reason",
    "missing": "nothing runs it",
    "unneeded": "its result is not there, and nothing that is missing needs it",
}
WAITING_FOR: dict[Kind, str] = {
    "encoding": "for another job",
    "training": "for the training that it starts from",
    "table": "for the training that it measures",
    "cell": "for its training",
}
TO_RETRY: frozenset[State] = frozenset({"failed", "blocked", "cancelled", "lost"})
LIVE: frozenset[State] = frozenset({"running", "queued", "waiting"})


@dataclass
class Row:
    """One target. `progress` counts steps or images; times are in seconds."""

    target: Target
    state: State
    reason: str = ""
    progress: tuple[int, int] | None = None
    attempts: int = 0
    job: str | None = None
    node: str | None = None
    elapsed_seconds: float | None = None
    eta_seconds: float | None = None
    phase: tuple[str, int, int] | None = None
    """What the job does beside its main work, if that: its name, done, total."""
    samples: str = ""
    """Of a training that runs and draws images on its way: what the newest of them measure."""


@dataclass
class SweepStatus:
    """All rows of a sweep. `note` says what could not be read."""

    rows: dict[Target, Row]
    note: str = ""
    assigned: dict[Target, Assignment] = field(default_factory=dict)
    earlier: list[str] = field(default_factory=list)
    """Live jobs of an earlier version of the sweep, which make nothing that it asks for now."""

    def count(self, kind: str) -> Counter[State]:
        return Counter(row.state for row in self.rows.values() if row.target.kind == kind)

    def in_states(self, states: Iterable[State]) -> list[Row]:
        wanted = frozenset(states)
        return [row for row in self.rows.values() if row.state in wanted]

    @property
    def is_complete(self) -> bool:
        return all(row.state == "done" for row in self.rows.values() if row.target.kind == "cell")

    @property
    def is_live(self) -> bool:
        """Whether anything still runs or waits to."""
        return any(row.state in LIVE for row in self.rows.values())


def read_status(planned: Plan, store: Store) -> SweepStatus:
    """The status of all trainings and cells of a plan. Never raises for SLURM's sake."""
    records = read_records(store)
    submissions = records.submissions
    assigned = assignments(submissions)
    queue = Queue({})
    if submissions:
        missing = [t for t in planned.sweep.nodes if t in assigned and t not in planned.done]
        queue = read_queue(_users(submissions), [(assigned[t].job, assigned[t].name) for t in missing])
    reader = _Reader(planned, store, assigned, queue)
    note = "; ".join(text for text in (queue.note, records.note) if text)
    earlier = earlier_jobs(live_jobs(submissions, queue.jobs), SweepKey.of(planned.sweep), targets_of(planned.sweep))
    rows = {target: reader.row(target) for target in planned.sweep.nodes}  # what a target needs comes before it
    return SweepStatus(rows, note, assigned, [made.id for made in earlier])


def _users(submissions: Iterable[Submission]) -> set[str]:
    return {submission.user for submission in submissions}


class _Reader:
    """Rows one by one; each state file is read only where one exists."""

    def __init__(self, planned: Plan, store: Store, assigned: dict[Target, Assignment], queue: Queue) -> None:
        self.planned, self.store, self.assigned, self.queue = planned, store, assigned, queue
        self.now = time.time()
        self.rows: dict[Target, Row] = {}
        self.to_run = frozenset(planned.targets())
        self.noted = {kind: _names(store.state_path(Target(kind, "x")).parent) for kind in KINDS}

    def row(self, target: Target) -> Row:
        noted = self.store.state(target) if f"{target.id}.json" in self.noted[target.kind] else {}
        assignment = self.assigned.get(target)
        row = Row(
            target,
            "missing",
            progress=_pair(noted.get("progress")),
            attempts=noted.get("attempts", 0),
            job=assignment.job if assignment else noted.get("job"),
            node=noted.get("node") or noted.get("host"),
        )
        self._fill(row, noted, assignment)
        self.rows[target] = row
        return row

    def _fill(self, row: Row, noted: dict[str, Any], assignment: Assignment | None) -> None:
        target = row.target
        if target in self.planned.done:
            row.state, row.progress = "done", None
            row.elapsed_seconds = _difference(noted.get("finished"), noted.get("started"))
            return
        job = self.queue.get(assignment.job, assignment.name) if assignment else None
        requeued = job is not None and job.is_pending and noted.get("job") == job.id
        if noted.get("state") == "running" and not requeued and self._is_held(target):
            self._fill_running(row, noted)
            return
        stale = assignment is not None and noted.get("updated", 0) < assignment.submission.created
        current = {} if stale else noted
        if (
            job is not None
            and job.is_live
            and (requeued or not (current.get("state") in ("failed", "blocked") and current.get("job") == job.id))
        ):
            self._fill_live(row, job, assignment)
        elif current.get("state") in ("failed", "blocked") and not (assignment and assignment.was_cancelled):
            row.state, row.reason = current["state"], noted_failure(current, assignment)
        else:
            row.state, row.reason = self._ending(target, current, assignment, job)
        if noted.get("state") == "done" and row.state not in LIVE:
            row.progress = None  # of a result that has been removed since, nothing is there
        if row.state == "missing" and row.progress is not None and row.progress[0] >= row.progress[1]:
            row.reason = f"stopped with all {MAIN_UNITS[target.kind]} made, before its result was written"
        self._blame_need(row)

    def _is_held(self, target: Target) -> bool:
        return f"{target.id}.lease" in self.noted[target.kind] and is_held(self.store.lease_path(target))

    def _fill_running(self, row: Row, noted: dict[str, Any]) -> None:
        row.state = "running"
        row.job = noted.get("job") or row.job
        row.elapsed_seconds = _difference(self.now, noted.get("started"))
        row.phase = _phase(noted.get("phase"))
        training = self.planned.sweep.trainings.get(row.target.id) if row.target.kind == "training" else None
        if training is not None and training.experiment.train.sample_every is not None:
            row.samples = newest_samples(self.store.training_folder(row.target.id) / "log.jsonl")
        if row.progress is None or row.phase is not None:
            return
        done, total = row.progress
        first, since = noted.get("resumed") or (0, noted["started"])
        if done > first:
            row.eta_seconds = (noted["updated"] - since) * (total - done) / (done - first)

    def _fill_live(self, row: Row, job: Job, assignment: Assignment | None) -> None:
        if not job.is_pending:
            row.state, row.node = "running", job.node or None
            row.reason = "starting" if job.state in ("RUNNING", "CONFIGURING") else job.state.lower()
            row.elapsed_seconds = _difference(self.now, job.started)
            return
        row.node = None
        if job.reason.startswith("Dependency"):
            outside = assignment.outside if assignment else None
            row.state, row.reason = "waiting", f"for {outside}" if outside else self._waiting_for(row.target)
        elif job.reason == "BeginTime" and job.started:
            until = time.strftime("%H:%M:%S", time.localtime(job.started))
            row.state, row.reason = "queued", f"held back by SLURM until {until}"
        else:
            row.state, row.reason = "queued", job.reason

    def _waiting_for(self, target: Target) -> str:
        kinds = {need.kind for need in self.planned.waits_for(target)}
        if "table" in kinds:
            return "for its table"
        return "for its latents" if kinds == {"encoding"} else WAITING_FOR[target.kind]

    def _ending(
        self, target: Target, noted: dict[str, Any], assignment: Assignment | None, job: Job | None
    ) -> tuple[State, str]:
        """Why a target whose job is over has no result."""
        if target not in self.to_run:
            return "unneeded", "all that needs it is done"
        if assignment is None:
            if noted.get("state") == "running":
                return "lost", f"its process {noted.get('pid')} on {noted.get('host')} is gone"
            return "missing", "its result was there and is gone" if noted.get("state") == "done" else ""
        if assignment.was_cancelled:
            return "cancelled", "by harness cancel"
        if job is not None:
            return ending_in_queue(target.kind, noted, assignment, job)
        if not self.queue.is_reachable:
            return "queued", f"submitted as job {assignment.job}; SLURM cannot be asked"
        return ending_in_log(target.kind, noted, assignment)

    def _blame_need(self, row: Row) -> None:
        """What cannot run because of something that it needs says so, with the reason at the root of it."""
        if row.state in ("done", "running", "failed", "unneeded"):
            return
        for need in self.planned.needs(row.target):
            needed = self.rows[need]
            if needed.state == "blocked":
                row.state, row.reason = "blocked", needed.reason
            elif needed.state in ("failed", "cancelled", "lost"):
                row.state = "blocked"
                row.reason = f"{need} {needed.state}" + (f": {needed.reason}" if needed.reason else "")
            else:
                continue
            return


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names alone, quicker for many thousands
    except FileNotFoundError:
        return frozenset()


def _pair(value: Any) -> tuple[int, int] | None:
    return (int(value[0]), int(value[1])) if isinstance(value, list) and len(value) == 2 else None


def _phase(value: Any) -> tuple[str, int, int] | None:
    """(name, done, total) of a phase other than the main one."""
    if isinstance(value, list) and len(value) == 3 and value[0] != MAIN:
        return str(value[0]), int(value[1]), int(value[2])
    return None


def _difference(end: float | None, start: float | None) -> float | None:
    return max(0.0, end - start) if end is not None and start is not None else None
