"""What SLURM runs: targets that are made one after another, saved when the job is asked to stop, and requeued.

Light to import: the sooner a job listens to signals, the better.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import submitit
from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from harness.errors import DispatchError
from harness.store.store import Store, Target

TIMED_OUT = signal.SIGUSR2
"""SLURM's warning: the time limit is near (or, where the site sends it, preemption), and the job may be requeued."""

SAVING_SHARE = 0.6
"""Share of the warning time that a job is given to reach a step's end and save, before it is requeued regardless."""

START_AGAIN = 128 + TIMED_OUT
"""Exit status of a job that could not requeue itself: its batch script tries it then."""

STOPPED = os.EX_TEMPFAIL
"""Exit status of a job that was told to stop and has saved. Less than what a killed rank gives (137, 140): srun tells
the greatest status of all ranks and, having lost one, tells the others to stop."""

SUBMITTED_SECONDS = 60.0
"""Longest wait for what `sbatch` was called for: it is written once the job's number is known."""

STDOUT, STDERR = 1, 2

REQUEUE_TRIES = 5
REQUEUE_PAUSE_SECONDS = 3.0


def run_submitted(folder: Path) -> NoReturn:
    """Run what was submitted for this process and end it.

    Ends at once when all is made: nothing that happens while an interpreter with libraries of many kinds is taken
    down, no signal, no disk that is full, may turn finished work into a failed job, whose dependents are cancelled.
    """
    environment = submitit.JobEnvironment()
    say(f"Starting with {environment}", STDOUT)
    _submitted(folder / f"{environment.job_id}_submitted.pkl").result()
    say("all is made", STDOUT)
    os._exit(0)


def _submitted(path: Path) -> DelayedSubmission:
    deadline = time.monotonic() + SUBMITTED_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise DispatchError(f"{path} has not come: the terminal that submitted this job ended too early")
        time.sleep(0.5)
    return DelayedSubmission.load(path)


def say(line: str, descriptor: int = STDERR) -> None:
    """Print a line, if it can be printed: a full disk under the log is no reason to end the work.

    Past Python's own streams, which a signal's handler may meet in the middle of a print.
    """
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode(errors="replace"))


class SlurmJob:
    """Makes `targets` one after another. Pickled by reference: it holds names and numbers, and runs its own source."""

    def __init__(self, root: Path, targets: list[Target], warning_seconds: float) -> None:
        self.root, self.targets, self.warning_seconds = root, targets, warning_seconds

    def __call__(self) -> None:
        """Raises what the last of its targets raised that failed; the others are made all the same."""
        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        with StopRequest(self.warning_seconds * SAVING_SHARE, environment) as stop:
            from harness.engine.distributed import process_group
            from harness.errors import Stopped

            made = False
            try:
                with process_group():
                    self._make_targets(stop)
                    made = True
            except Stopped:
                stop.leave()
            except Exception as error:
                if made:  # only the farewell to the other ranks has failed
                    say(f"all is made; leaving the other ranks: {type(error).__name__}: {error}")
                elif stop.is_set() and environment.num_tasks > 1:  # another rank was quicker to leave
                    self._forget_failure(environment)
                    stop.leave()
                else:
                    raise

    def _make_targets(self, stop: StopRequest) -> None:
        from harness.engine import jobs
        from harness.errors import Stopped

        store, failure = Store(self.root), None
        for target in self.targets:
            try:
                jobs.run(store, target, should_stop=stop.is_set)
            except Stopped:
                raise
            except Exception as error:
                if store.is_done(target):  # only what follows has failed, a note of it on a full disk
                    say(f"{target} is made; after that: {jobs.first_line(error)}")
                    continue
                if submitit.JobEnvironment().num_tasks > 1:
                    raise  # the other ranks may not have failed, and would wait
                failure = error
        if failure is not None:
            raise failure

    def _forget_failure(self, environment: submitit.JobEnvironment) -> None:
        """What the first rank has noted is the other ranks' leaving, not a failure of the work."""
        if environment.global_rank == 0:
            for target in self.targets:
                Store(self.root).forget_failure(target)


class StopRequest:
    """Turns SLURM's signals into a flag that the work looks at between steps.

    SIGTERM (preemption, scancel) asks to save; SLURM itself decides what then becomes of the job. SIGUSR2 (the limit is
    near) asks to save and be requeued; work that has not come to a step's end within `patience_seconds` is requeued as
    it stands, even in the middle of a call that Python cannot interrupt: a thread waits for this signal, and nobody
    else gets it, neither the processes that load data or compile, nor this one while it ends.
    """

    def __init__(self, patience_seconds: float, environment: submitit.JobEnvironment) -> None:
        self.patience_seconds = patience_seconds
        self._job, self._is_first = environment.job_id, environment.global_rank == 0
        self._process = os.getpid()
        self._got: set[int] = set()
        self._over = threading.Event()

    def __enter__(self) -> StopRequest:
        signal.pthread_sigmask(signal.SIG_BLOCK, {TIMED_OUT})
        threading.Thread(target=self._await_warning, name="time limit", daemon=True).start()
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self

    def __exit__(self, *_: object) -> None:
        """The process is about to end, and ends as the work did, whatever is sent to it."""
        self._over.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def is_set(self) -> bool:
        return bool(self._got)

    def leave(self) -> NoReturn:
        """End the process: requeued if the limit was near, or if it was for another rank that all have stopped."""
        self._over.set()
        if not self._is_first:
            sys.exit(0)  # the first rank's status tells, and it may still be at its last words
        if TIMED_OUT in self._got or not self._got:
            requeue(self._job)
            sys.exit(START_AGAIN)
        sys.exit(STOPPED)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process and not self._over.is_set():  # else of a process that loads data
            self._ask(number)

    def _ask(self, number: int) -> None:
        self._got.add(number)
        say(f"{signal.Signals(number).name}: saving at the end of this step")

    def _await_warning(self) -> None:
        signal.sigwait({TIMED_OUT})
        if self._over.is_set():
            return
        self._ask(TIMED_OUT)
        if not self._over.wait(self.patience_seconds) and self._is_first:
            say("no step has ended in time: requeued without saving")
            requeue(self._job)
            os._exit(START_AGAIN)


def requeue(job: str) -> None:
    """Give the job back to the queue; SLURM then ends it here. Says why where it cannot."""
    for attempt in range(REQUEUE_TRIES):
        if attempt:
            time.sleep(REQUEUE_PAUSE_SECONDS)
        try:
            done = subprocess.run(
                ["scontrol", "requeue", job], capture_output=True, encoding="utf-8", errors="replace", timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"scontrol requeue {job}: {error}")
            continue
        if done.returncode == 0:
            say(f"job {job} is requeued")
            return
        say(f"scontrol requeue {job}: {(done.stdout + done.stderr).strip()}")
