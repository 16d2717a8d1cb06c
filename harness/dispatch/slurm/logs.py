"""Why a job ended, according to the end of its log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 16_384
SHOWN_LETTERS = 240
RUN_MARK = "== run "
"""Prefix of the line that a restarted job writes to its log before anything else of that run."""
SET_UP_FAILED = "set-up failed with status "

NOISE = re.compile(
    r"\s"  # frames of a traceback, continued lines
    r"|Traceback \(most recent call last\):|During handling of the above|The above exception was"
    r"|.*(?:Warning: |INFO[: ])"
    r"|srun: (?!error: (?!\S+: tasks? [\d,-]+: ))"  # that a task has ended, without why
    r"|\S*slurmstepd\S*: error: \*\*\* |killed: the job starts again"
)
CONSEQUENCE = re.compile(
    r"SIG[A-Z0-9]+: saving|.*(?:gloo|NCCL|DistBackendError|[Cc]onnection (?:closed|reset) by peer)"
)
"""Messages of a rank that was told to stop or has lost another: the cause is elsewhere, if it was logged at all."""
TASK_ENDED = re.compile(r"srun: error: (\S+: tasks? [\d,-]+: .+)")
OWN_END = re.compile(r": (?:Exited with exit code \d+|Terminated)$")
"""Ways for a task to end that do not explain why, unlike a crash or a kill."""
SCRIPT_PLACE = re.compile(r"^\S*slurm_script: line \d+: ")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Telling:
    """The last line of a job's logs that says why it ended; empty if none does."""

    line: str = ""
    is_cause: bool = False
    """Whether it says what went wrong, rather than only that a process ended, was told to stop or lost another."""


def telling(*paths: Path) -> Telling:
    """From the logs of a job's ranks, the last line of the first log that names a cause, else the most telling line.

    Only the last run of a restarted job counts. For a set-up that failed: which command failed, and its message.
    """
    logs = [list(_last_run(path)) for path in paths]
    messages = [kept for log in logs if (kept := [line for line in log if not NOISE.match(line)])]
    for lines in messages:
        if not CONSEQUENCE.match(lines[-1]):
            return Telling(_shortened(_with_message(lines)), is_cause=True)
    ends = [match.group(1) for log in logs for line in log if (match := TASK_ENDED.match(line))]
    for end in ends:
        if not OWN_END.search(end):
            return Telling(_shortened(end), is_cause=True)
    return Telling(_shortened(messages[0][-1] if messages else ends[-1] if ends else ""))


def _last_run(path: Path) -> Iterator[str]:
    lines = ESCAPES.sub("", tail(path)).split("\n")
    start = max((number for number, line in enumerate(lines) if line.startswith(RUN_MARK)), default=-1)
    return (line.rstrip() for line in lines[start + 1 :] if line.strip())


def tail(path: Path) -> str:
    """The end of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _with_message(lines: list[str]) -> str:
    """The last line; for a set-up that failed, followed by the failed command's own message, which came before it."""
    last = lines[-1]
    if last.startswith(SET_UP_FAILED) and len(lines) > 1:
        return f"{last}: {SCRIPT_PLACE.sub('', lines[-2])}"
    return last


def _shortened(line: str) -> str:
    return line if len(line) <= SHOWN_LETTERS else f"{line[: SHOWN_LETTERS - 1]}…"
