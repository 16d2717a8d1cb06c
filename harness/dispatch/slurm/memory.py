"""More memory for retries of jobs that ran out of it."""

from __future__ import annotations

import re
from collections.abc import Collection

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.queue import SlurmError
from harness.dispatch.slurm.settings import ClusterSettings
from harness.dispatch.slurm.submissions import Assignment
from harness.dispatch.status import Row, SweepStatus
from harness.store.kinds import KINDS
from harness.store.store import Target
from harness.wording import count_of

SAID = re.compile(r"oom[-_ ]?kill|out of memory|exceeded (?:job|step)? ?memory limit", re.IGNORECASE)
"""What slurmstepd writes when a job exceeds its cgroup's or SLURM's own memory limit."""
OF_A_GPU = re.compile(r"CUDA|HIP|GPU \d")
FACTOR = 2
LOG_BYTES = 4096


def ran_out_of_memory(row: Row, assignment: Assignment | None) -> bool:
    """Whether the target's last job ran out of host memory; GPU memory does not count."""
    if row.state != "failed" or OF_A_GPU.search(row.reason):
        return False
    if row.reason.startswith("MemoryError") or SAID.search(row.reason):
        return True
    return assignment is not None and any(SAID.search(line) for line in _last_lines(assignment))


def _last_lines(assignment: Assignment) -> list[str]:
    """The last lines of the job's log that SLURM itself wrote: a program may mean some other memory."""
    try:
        with assignment.log.with_suffix(".err").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(("slurmstepd:", "srun:"))]


def more_memory(
    chosen: Collection[Target], status: SweepStatus, settings: ClusterSettings, given: Collection[str]
) -> tuple[list[str], list[str]]:
    """Settings (``key=value``) for the kinds of which some jobs ran out of memory, and sentences that say so.

    Settings `given` on the command line stay as they are.
    """
    options: list[str] = []
    sentences: list[str] = []
    for kind in KINDS:
        short = [
            target
            for target in chosen
            if target.kind == kind and ran_out_of_memory(status.rows[target], status.assigned.get(target))
        ]
        if not short or any(text.partition("=")[0].strip() in ("memory", f"{kind}s.memory") for text in given):
            continue
        had = [memory for target in short if (memory := _memory_of(status.assigned.get(target)))]
        largest = max([*had, *([settings.of(kind).memory] if had else [])], key=_megabytes, default=None)
        if largest is None:
            sentences.append(
                f"{count_of(len(short), kind)} ran out of memory; say how much they need: --slurm {kind}s.memory=16G"
            )
            continue
        more = _times(largest, FACTOR)
        options.append(f"{kind}s.memory={more}")
        sentences.append(f"{count_of(len(short), kind)} ran out of memory with {largest}; {kind}s ask for {more} now")
    return options, sentences


def _memory_of(assignment: Assignment | None) -> str | None:
    """The job's memory per node: as requested, or from accounting if it requested none."""
    if assignment is None:
        return None
    if assignment.array is not None and assignment.array.memory is not None:
        return assignment.array.memory
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=ReqMem", f"--jobs={assignment.job}"]
    try:
        memory = re.match(r"(\d+[KMGT])n?\s*$", queue.run(command))
    except SlurmError:
        return None
    return memory.group(1) if memory else None


def _megabytes(memory: str | None) -> float:
    if memory is None:
        return 0.0
    number, unit = re.fullmatch(r"(\d+)([KMGT])B?", memory).groups()  # type: ignore[union-attr]
    return int(number) * 1024.0 ** ("KMGT".index(unit) - 1)


def _times(memory: str, factor: int) -> str:
    number = re.match(r"\d+", memory)
    assert number is not None
    return f"{int(number.group()) * factor}{memory[number.end() :]}"
