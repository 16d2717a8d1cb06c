"""Jobs outside the sweep that a submission waits for (`after`). SLURM ignores dependencies on jobs it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.queue import LIVE_STATES, SlurmError
from harness.errors import ConfigError

WANTED = {"afterok": "COMPLETED"}
"""Kind of dependency → the state in which the job must have ended."""


def outside_dependencies(dependencies: Iterable[str]) -> tuple[list[str], list[str]]:
    """The dependencies that SLURM must still check, and notes on those satisfied; `dependencies` as ``afterok:12:13``.

    Raises :class:`ConfigError` for a job that SLURM does not know, or that has ended so that the dependency can never
    be satisfied.
    """
    kept: list[str] = []
    notes: list[str] = []
    problems: list[str] = []
    for dependency in dependencies:
        kind, *jobs = dependency.split(":")
        for job in jobs:
            states, is_forgotten = _states_of(job)
            if not states:
                problems.append(f"after: SLURM knows no job {job}; leave it out if it has ended")
            elif not LIVE_STATES.isdisjoint(states):
                kept.append(f"{kind}:{job}")
            elif not _is_satisfied(kind, states):
                problems.append(f"after: job {job} has ended ({', '.join(states)}); what waits for it would never run")
            elif is_forgotten:
                notes.append(f"job {job} has ended already; nothing waits for it")
            else:
                kept.append(f"{kind}:{job}")
    if problems:
        raise ConfigError("cluster settings", list(dict.fromkeys(problems)))
    return kept, notes


def _states_of(job: str) -> tuple[Sequence[str], bool]:
    """The states of the job, or of the elements of its array, and whether the controller no longer lists it."""
    try:
        states = queue.run(["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T"]).split()
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        states = []
    if states:
        return sorted(set(states)), False
    ended = queue.read_ended([job]) or {}
    return sorted({element.state for id, element in ended.items() if id == job or id.startswith(f"{job}_")}), True


def _is_satisfied(kind: str, states: Sequence[str]) -> bool:
    if kind == "afternotok":
        return any(state != "COMPLETED" for state in states)
    return kind not in WANTED or all(state == WANTED[kind] for state in states)
