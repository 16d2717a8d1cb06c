"""Processes of their own, to be killed or to work together, forked from one that has imported torch once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.harness.tiny import environment

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["harness.engine.jobs", "harness.engine.cell", "harness.report.write", "torch._dynamo"])


def started(
    work: Callable[..., object],
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> ForkServerProcess:
    """A process that runs `work(*arguments)`, a function of a module; what it prints goes to `log`, or nowhere.

    `environment` is what its environment has beside that of this process. Its ``exitcode`` is 0, that of a SystemExit,
    1 where `work` raises, or minus the signal that ended it.
    """
    values = {**os.environ, **(environment or {})}
    process = FORKS.Process(target=_run, args=(work, arguments, values, os.devnull if log is None else str(log)))
    process.start()
    return process


def command_started(results: Path, *arguments: object, log: Path | None = None) -> ForkServerProcess:
    """A process that runs the command line as `harness ARGUMENTS` does."""
    return started(run_command, [str(word) for word in arguments], environment=environment(results), log=log)


def _run(work: Callable[..., object], arguments: tuple[object, ...], values: Mapping[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(values)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    work(*arguments)


def run_command(words: list[str]) -> None:
    """`harness WORDS`, ended as the program is."""
    from harness.cli import app

    sys.argv = ["harness", *words]
    app.main()
