"""Why a job that is over has left no result: from what it noted, what SLURM says, and the end of its log."""

from __future__ import annotations

import contextlib
import itertools
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from harness.dispatch.slurm.logs import CONSEQUENCE, Telling, tail, telling
from harness.dispatch.slurm.queue import BY_PERSON, DEPENDENCY, Job
from harness.dispatch.slurm.submissions import Assignment
from harness.store.kinds import FACTS, Kind

Ending = tuple[Literal["failed", "cancelled", "lost"], str]

ENDS = {
    "TIMEOUT": "the time limit was reached before the job could save and be requeued",
    "OUT_OF_MEMORY": "the job ran out of memory",
    "NODE_FAIL": "its node failed and the job was not requeued",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "the job's deadline passed",
    "PREEMPTED": "the job was preempted and not requeued",
    "REVOKED": "the job was revoked",
}
NO_RESULT = "the job ended without a result"
KILLED = "its process was killed, or could not write"
NOT_LAUNCHED = re.compile(r"JobLaunchFailure|RaisedSignal:53\b|exit code 0:53")
"""How squeue and accounting say that a node could not even begin a job."""
LOG_ENDS = re.compile(r"\*\*\* (JOB|STEP) \S+ (?:ON \S+ )?CANCELLED AT \S+(?: DUE TO ([A-Z ]+?))? \*\*\*")


def ending_in_queue(kind: Kind, noted: dict[str, Any], assignment: Assignment, job: Job) -> Ending:
    """Of a job whose state SLURM still tells; `noted` is the state that the job itself kept."""
    if job.state == "CANCELLED":
        return _cancelled(kind, assignment, job)
    logged = telling(*_logs(assignment))
    if saved := _saved(kind, noted, assignment, logged):
        return ("failed", f"{ENDS[job.state]}; {saved}") if job.state in ENDS else ("cancelled", saved)
    if job.state in ENDS:
        return "failed", f"{ENDS[job.state]}: {logged.line}" if logged.is_cause else ENDS[job.state]
    if noted.get("state") == "running":
        return "failed", f"{KILLED}: {logged.line}" if logged.line else KILLED
    if NOT_LAUNCHED.search(job.reason) and not assignment.log.with_suffix(".err").exists():
        return "failed", f"its node could not begin it: it cannot write to {assignment.log.parent} ({job.reason})"
    return "failed", f"{NO_RESULT}: {logged.line}" if logged.line else f"{NO_RESULT}; see `harness logs`"


def ending_in_log(kind: Kind, noted: dict[str, Any], assignment: Assignment) -> Ending:
    """Of a job that SLURM has forgotten, where accounting is off."""
    logged = telling(*_logs(assignment))
    if saved := _saved(kind, noted, assignment, logged):
        return "cancelled", saved
    found = LOG_ENDS.findall(tail(assignment.log.with_suffix(".err")))
    what, cause = found[-1] if found else ("", "")
    if what == "JOB" and not cause:
        return "cancelled", "by scancel"
    if cause.startswith(("TIME LIMIT", "NODE FAILURE")):
        return "failed", ENDS["TIMEOUT" if cause.startswith("TIME") else "NODE_FAIL"]
    if cause:
        return "lost", f"SLURM ended the job due to {cause.lower()}"
    forgotten = f"SLURM no longer knows job {assignment.job}"
    return "lost", f"{forgotten}: {logged.line}" if logged.line else forgotten


def noted_failure(noted: dict[str, Any], assignment: Assignment | None) -> str:
    """The error that a job has noted; if that is only the loss of another rank, what that one has logged."""
    error = noted.get("error") or ""
    if assignment is not None and CONSEQUENCE.match(error):
        logged = telling(*_logs(assignment))
        if logged.is_cause:
            return f"another rank failed: {logged.line}"
    return error


def _logs(assignment: Assignment) -> Iterator[Path]:
    """What the ranks of its job have written to stderr; into the first one's SLURM writes too."""
    first = assignment.log.with_suffix(".err")
    paths = (first.with_name(f"{assignment.job}_{rank}_log.err") for rank in itertools.count())
    return itertools.takewhile(Path.exists, paths)


def _saved(kind: Kind, noted: dict[str, Any], assignment: Assignment, logged: Telling) -> str:
    """Of a job that was told to stop and has saved: where; and what then kept it from being requeued."""
    stopped = noted.get("stopped")
    if noted.get("state") != "waiting" or noted.get("job") != assignment.job or not stopped:
        return ""
    where = f"stopped, saved at {FACTS[kind].unit} {stopped[0]} of {stopped[1]}; harness sweep goes on from there"
    return f"{where} ({logged.line})" if logged.is_cause else where


def _cancelled(kind: Kind, assignment: Assignment, job: Job) -> Ending:
    if job.reason.startswith(BY_PERSON):
        whose = _user(job.reason.removeprefix(BY_PERSON))
        by_another = whose not in ("", assignment.submission.user)
        return "cancelled", f"by scancel of user {whose}" if by_another else "by scancel"
    if job.reason.startswith(DEPENDENCY):
        return "cancelled", "with its training" if kind != "training" else "with what it waited for"
    return "lost", f"SLURM itself cancelled job {job.id}: its queue was lost, or what the job waited for"


def _user(number: str) -> str:
    """The name of a user; empty for what is no user's number."""
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwuid(int(number)).pw_name
    return number if number.isdecimal() else ""
