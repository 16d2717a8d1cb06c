"""What the end of a job's log says about why it ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 16_384
SHOWN_LETTERS = 240
RUN_MARK = "== run "
"""Begins the line that a job which starts again writes to its log, ahead of everything else of that run."""
SET_UP_FAILED = "set-up failed with status "

NOISE = re.compile(
    r"\s"  # frames of a traceback, continued lines
    r"|Traceback \(most recent call last\):|During handling of the above|The above exception was"
    r"|.*(?:Warning: |INFO[: ])"
    r"|srun: (?!error: (?!\S+: tasks? [\d,-]+: ))"  # that a task has ended does not tell why
    r"|\S*slurmstepd\S*: error: \*\*\* |killed: the job starts again"
)
CONSEQUENCE = re.compile(
    r"SIG[A-Z0-9]+: saving|.*(?:gloo|NCCL|DistBackendError|[Cc]onnection (?:closed|reset) by peer)"
)
"""What a rank says that was told to stop, or that has lost another: the cause is elsewhere, if anywhere."""
TASK_ENDED = re.compile(r"srun: error: (\S+: tasks? [\d,-]+: .+)")
OWN_END = re.compile(r": (?:Exited with exit code \d+|Terminated)$")
"""Ends of a task that say no more than that it has ended, or was told to; a crash or a kill says why."""
SCRIPT_PLACE = re.compile(r"^\S*slurm_script: line \d+: ")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Telling:
    """The last line of a job's logs that says why it ended; empty where none does."""

    line: str = ""
    is_cause: bool = False
    """Whether it says what went wrong, and not only that a process has ended, was told to stop or has lost another."""


def telling(*paths: Path) -> Telling:
    """Of the logs of a job's ranks: the last line of the first one that names a cause, else the best there is.

    Of a job that was started again only its last run counts. Of a set-up that failed: what failed and why.
    """
    lines = [list(_last_run(path)) for path in paths]
    said = [words for found in lines if (words := [line for line in found if not NOISE.match(line)])]
    for words in said:
        if not CONSEQUENCE.match(words[-1]):
            return Telling(_shortened(_with_message(words)), is_cause=True)
    ended = [match.group(1) for found in lines for line in found if (match := TASK_ENDED.match(line))]
    for task in ended:
        if not OWN_END.search(task):
            return Telling(_shortened(task), is_cause=True)
    return Telling(_shortened(said[0][-1] if said else ended[-1] if ended else ""))


def _last_run(path: Path) -> Iterator[str]:
    lines = ESCAPES.sub("", tail(path)).split("\n")
    start = max((place for place, line in enumerate(lines) if line.startswith(RUN_MARK)), default=-1)
    return (line.rstrip() for line in lines[start + 1 :] if line.strip())


def tail(path: Path) -> str:
    """The end of a file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _with_message(words: list[str]) -> str:
    """The last line; of a set-up that failed with what the command itself has said before."""
    last = words[-1]
    if last.startswith(SET_UP_FAILED) and len(words) > 1:
        return f"{last}: {SCRIPT_PLACE.sub('', words[-2])}"
    return last


def _shortened(line: str) -> str:
    return line if len(line) <= SHOWN_LETTERS else f"{line[: SHOWN_LETTERS - 1]}…"
