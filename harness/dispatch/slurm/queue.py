"""What SLURM knows about our jobs: one call of squeue for all of them, and one of sacct for those no longer listed.

Works without accounting (squeue alone) and reports when the controller cannot be reached.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from harness.errors import DispatchError

PENDING_STATES = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
LIVE_STATES = PENDING_STATES | frozenset(
    {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
)
"""States of a job that has not ended."""

COMMAND_SECONDS = 60.0
SQUEUE_FIELDS = "%i|%T|%S|%N|%r|%j"
SACCT_FIELDS = "JobID,State,Start,NodeList,ExitCode,Reason,JobName"
JOB_ID = re.compile(r"\d+(?:\+\d+)?(?:_(?:\d+|\[[^|]*\]))?")
BY_PERSON = "by "
"""Prefix of the reason of a job that a user has cancelled, as in accounting's ``CANCELLED by 1000``."""
DEPENDENCY = "Dependency"
"""Prefix of the reason of a job that waits for another, or that SLURM cancelled because the other failed."""


class SlurmError(DispatchError):
    """A command of SLURM failed: it is not installed, its controller does not answer, or it refused."""


@dataclass(frozen=True)
class Job:
    """A job as SLURM sees it. `started` is Unix time: when it began or, while pending, the earliest it may begin."""

    id: str
    name: str
    state: str
    reason: str = ""
    node: str = ""
    started: float | None = None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE_STATES

    @property
    def is_pending(self) -> bool:
        return self.state in PENDING_STATES


@dataclass(frozen=True)
class Queue:
    """Jobs by id (``12`` or ``12_3``). `note` says, for readers, what could not be read."""

    jobs: dict[str, Job]
    note: str = ""
    is_reachable: bool = True

    def get(self, job: str | None, name: str) -> Job | None:
        """The job, unless its number has since been given to another one."""
        listed = self.jobs.get(job or "")
        return listed if listed is not None and listed.name == name else None


def read_live(users: Iterable[str]) -> dict[str, Job]:
    """All jobs of `users` that the controller remembers, including for some minutes those that have ended.

    Raises :class:`SlurmError`.
    """
    whose = f"--user={','.join(sorted(set(users)))}"
    output = run(["squeue", "--noheader", "--array", "--states=all", whose, f"--format={SQUEUE_FIELDS}"])
    return {job.id: job for line in output.split("\n") for job in _parse_squeue(line)}


def read_ended(jobs: Collection[str]) -> dict[str, Job] | None:
    """What accounting knows of `jobs`; None where it is off or cannot be reached."""
    arrays = sorted({job.partition("_")[0] for job in jobs})
    if not arrays:
        return {}
    shown = ["--allocations", "--noheader", "--parsable2", f"--format={SACCT_FIELDS}"]
    try:
        output = run(["sacct", *shown, f"--jobs={','.join(arrays)}"])
    except SlurmError:
        return None
    ended = {job.id: job for line in output.split("\n") for job in _parse_sacct(line)}
    for job in jobs:  # elements that never began share one line, which may not list them all
        array, _, index = job.partition("_")
        if job not in ended and index and (rest := ended.get(f"{array}_[...]") or ended.get(array)):
            ended[job] = replace(rest, id=job)
    return ended


def read_queue(users: Iterable[str], wanted: Collection[tuple[str, str]] = ()) -> Queue:
    """The queue, and what accounting says about the `wanted` jobs (id, name) that are not in it. Never raises."""
    try:
        jobs = read_live(users)
    except SlurmError as error:
        return Queue({}, f"SLURM cannot be reached ({error}); shown from the files alone", is_reachable=False)
    forgotten = {id for id, name in wanted if id not in jobs or jobs[id].name != name}
    cancelled = {id for id, _ in wanted if id in jobs and jobs[id].state == "CANCELLED"} - forgotten
    ended = read_ended(forgotten | cancelled)
    if ended is None:
        note = "accounting is off: the state of jobs that ended long ago comes from the files alone"
        return Queue(jobs, note if forgotten else "")
    cancelled_by = {id: ended[id] for id in cancelled if id in ended and ended[id].state == "CANCELLED"}
    return Queue({**ended, **jobs, **cancelled_by})


def max_array_size() -> int:
    """The most elements that one array may have. Raises :class:`SlurmError`."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", run(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(match.group(1))) if match else 1001


def cancel(jobs: Iterable[str]) -> None:
    """Cancel `jobs`; those that have ended are ignored. Raises :class:`SlurmError`."""
    arrays: dict[str, list[str]] = {}
    for job in sorted(jobs):
        array, _, index = job.partition("_")
        arrays.setdefault(array, []).extend([index] if index else [])
    named = [
        f"{array}_[{','.join(indices)}]" if all(map(str.isdecimal, indices)) and indices else array
        for array, indices in arrays.items()
    ]
    for start in range(0, len(named), 50):
        run(["scancel", "--quiet", *named[start : start + 50]])


def run(command: list[str]) -> str:
    """Standard output of one of SLURM's commands. Raises :class:`SlurmError` with its message."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # names of other jobs may be anything
            timeout=COMMAND_SECONDS,
            check=False,
            env=_environment(),
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not installed here") from None
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be run here: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in {COMMAND_SECONDS:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"{command[0]} ended with status {done.returncode}"]
        raise SlurmError(lines[-1])
    return done.stdout


def points_to_cluster(variable: str) -> bool:
    """Whether an environment variable says which cluster SLURM's commands talk to, or authenticates them there."""
    return variable.startswith(("SLURM_CONF", "SLURM_SACK_")) or variable in ("SLURM_CLUSTERS", "SLURM_JWT")


def _environment() -> dict[str, str]:
    """Without the options that the user's shell may set; with times in Unix seconds and lists of elements in full."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))}
    return {**kept, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def _parse_squeue(line: str) -> Iterator[Job]:
    for ids, state, start, node, reason, name in _fields(line, 6):
        if state == "CANCELLED" and not reason.startswith(DEPENDENCY):
            reason = f"{BY_PERSON}scancel"  # without a failed dependency: a user did it
        for id in expand(ids):
            yield Job(id, name, state, "" if reason == "None" else reason, node, _seconds(start))


def _parse_sacct(line: str) -> Iterator[Job]:
    for ids, state, start, node, exit_code, waited, name in _fields(line, 7):
        word, _, reason = state.partition(" ")  # "CANCELLED by 1000"; without a user id SLURM did it itself
        if word == "CANCELLED" and not reason and waited.startswith(DEPENDENCY):
            reason = waited
        elif word == "FAILED":
            reason = f"exit code {exit_code}"
        for id in expand(ids):
            yield Job(id, name, word, reason, "" if node == "None assigned" else node, _seconds(start))


def _fields(line: str, count: int) -> Iterator[list[str]]:
    """The fields of a job's line; the name comes last, since it may contain anything. Other lines are skipped.

    Such are ``CLUSTER: name`` above each cluster's jobs, and the rest of a name with a line break.
    """
    fields = line.split("|", count - 1)
    if len(fields) == count and JOB_ID.fullmatch(fields[0]):
        yield fields


def expand(ids: str) -> Iterator[str]:
    """``12``, ``12_3`` or ``12_[0-2,5%4]`` as single ids; ``12_[...]`` is the rest of a list that was cut short."""
    array, bracket, rest = ids.partition("_[")
    if not bracket:
        yield ids
        return
    for part in rest.rstrip("]").partition("%")[0].split(","):
        indices = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if indices is None:
            yield f"{array}_[...]"
            continue
        first, last, stride = indices.groups()
        for index in range(int(first), int(last or first) + 1, int(stride or 1)):
            yield f"{array}_{index}"


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None
