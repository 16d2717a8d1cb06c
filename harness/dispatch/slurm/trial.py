"""What sbatch says about an array before it is submitted (``--test-only``), and how many jobs it would accept."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from harness.dispatch.slurm.queue import COMMAND_SECONDS, SlurmError
from harness.dispatch.slurm.sbatch import sbatch_message

FORESEEN = timedelta(days=30)
"""SLURM reports a start further away than this when it cannot estimate one."""

SET_BY_JOBS = re.compile(r"(?!SLURM_CONF$|SLURM_CLUSTERS$)(?:SLURM|SLURMD|SRUN|SBATCH)_")
"""Variables of an enclosing job or the user's shell that would change the request; not those that name the cluster."""

SUBMIT_LIMIT = re.compile(r"(?:Max|Grp)SubmitJob")
"""Part of SLURM's names for limits on how many jobs may be queued, such as AssocMaxSubmitJobLimit."""

ANY_LIMIT = re.compile(r"job submit limit, user's size and/or time limits")
"""SLURM's message for a job that exceeds any limit; recent versions name the limit before it."""


@dataclass(frozen=True)
class Trial:
    """SLURM's answer, in words."""

    accepted: bool
    said: str


def is_submit_limit(message: str) -> bool:
    """Whether sbatch refused because too many jobs would be in the queue."""
    named = re.search(r"\b(?:Assoc|QOS)\w+Limit\b", message)
    return bool(SUBMIT_LIMIT.search(message)) if named else bool(ANY_LIMIT.search(message))


def limit_name(message: str) -> str:
    """SLURM's name for the limit that a refusal is about, or else its message."""
    named = re.search(r"\b(?:Assoc|QOS)\w*SubmitJob\w*\b", message)
    return named.group(0) if named else message.partition("\n")[0]


def try_out(options: Iterable[str]) -> Trial:
    """Ask sbatch about a call with `options`, without its dependency. Raises :class:`SlurmError` without sbatch.

    SLURM judges by the nodes as they are now, so it may refuse here what it would queue if it were submitted.
    """
    arguments = [word for option in options if not option.startswith("--dependency") for word in shlex.split(option)]
    try:
        done = subprocess.run(
            ["sbatch", "--test-only", *arguments],
            input="#!/bin/sh\n",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
            env={name: value for name, value in os.environ.items() if not SET_BY_JOBS.match(name)},
        )
    except FileNotFoundError:
        raise SlurmError("sbatch is not installed here") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"sbatch gave no answer in {COMMAND_SECONDS:.0f} s") from None
    answer = sbatch_message(done.stderr)
    return Trial(done.returncode == 0, _foreseen(answer) if done.returncode == 0 else answer)


def _foreseen(answer: str) -> str:
    match = re.search(r"to start at (\S+) using (\d+) processors on nodes (\S+)", answer)
    if match is None:
        return answer
    try:
        starts = datetime.fromisoformat(match.group(1))
    except ValueError:
        return answer
    if starts - datetime.now() > FORESEEN:
        return "would be accepted; SLURM cannot estimate when it starts"
    return f"would start at {starts:%Y-%m-%d %H:%M:%S} on {match.group(3)}"


def room_for(options: Callable[[int], Iterable[str]], wanted: int) -> tuple[int, str]:
    """How many of `wanted` jobs sbatch accepts right now, and the name of the limit if that is not all of them.

    `options(n)` are those of an array of n jobs. A bisection: about log2(wanted) calls, none of which submits.
    """
    limit = ""

    def fits(count: int) -> bool:
        nonlocal limit
        trial = try_out(options(count))
        refused = not trial.accepted and is_submit_limit(trial.said)
        limit = limit_name(trial.said) if refused else limit
        return not refused

    if wanted == 0 or fits(wanted):
        return wanted, ""
    most, too_many = 0, wanted
    while too_many - most > 1:
        middle = (most + too_many) // 2
        most, too_many = (middle, too_many) if fits(middle) else (most, middle)
    return most, limit
