"""What a SLURM job runs: its targets one after another, saved and requeued when the job is asked to stop.

Quick to import: the sooner a job handles signals, the better.
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
"""SLURM's warning that the time limit is near (or preemption, where a site sends it then): the job may be requeued."""

SAVING_SHARE = 0.6
"""Share of the warning time in which a job must finish its step and save; after that it is requeued regardless."""

START_AGAIN = 128 + TIMED_OUT
"""Exit status of a job that could not requeue itself: its batch script then tries to."""

STOPPED = os.EX_TEMPFAIL
"""Exit status of a job that was told to stop and has saved. Smaller than that of a killed rank (137, 140): srun returns
the largest status of all ranks and, having lost one, tells the others to stop."""

SUBMITTED_SECONDS = 60.0
"""Longest wait for the pickled job, which is written once sbatch has returned the job's number."""

STDOUT, STDERR = 1, 2

REQUEUE_TRIES = 5
REQUEUE_PAUSE_SECONDS = 3.0


def run_submitted(folder: Path) -> NoReturn:
    """Run what was submitted for this process, and exit.

    Exits at once when everything is done, without shutting the interpreter down: no signal and no full disk at that
    late moment may turn finished work into a failed job, whose dependents would be cancelled.
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
            raise DispatchError(f"{path} was never written: the terminal that submitted this job ended too early")
        time.sleep(0.5)
    return DelayedSubmission.load(path)


def say(line: str, descriptor: int = STDERR) -> None:
    """Print a line if possible: a full disk under the log is no reason to end the work.

    Bypasses Python's own streams, since a signal handler may interrupt them in the middle of a print.
    """
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode(errors="replace"))


class SlurmJob:
    """Makes `targets` one after another. Its pickle holds no code: a job runs the source copied for it."""

    def __init__(self, root: Path, targets: list[Target], warning_seconds: float) -> None:
        self.root, self.targets, self.warning_seconds = root, targets, warning_seconds

    def __call__(self) -> None:
        """Make all targets, whichever fail; then raise the error of the last one that failed."""
        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        with StopRequest(self.warning_seconds * SAVING_SHARE, environment) as stop:
            from harness.engine.distributed import process_group
            from harness.errors import Stopped

            finished = False
            try:
                with process_group():
                    self._make_targets(stop)
                    finished = True
            except Stopped:
                stop.leave()
            except Exception as error:
                if finished:  # only leaving the process group has failed
                    say(f"all is made; leaving the other ranks: {type(error).__name__}: {error}")
                elif stop.is_set() and environment.num_tasks > 1:  # another rank left first
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
                if store.is_done(target):  # only something after it has failed, such as a note of it on a full disk
                    say(f"{target} is made; after that: {jobs.first_line(error)}")
                    continue
                if submitit.JobEnvironment().num_tasks > 1:
                    raise  # the other ranks may not have failed, and would wait for this one
                failure = error
        if failure is not None:
            raise failure

    def _forget_failure(self, environment: submitit.JobEnvironment) -> None:
        """The failure that the first rank has recorded is only that other ranks left, not one of the work."""
        if environment.global_rank == 0:
            for target in self.targets:
                Store(self.root).forget_failure(target)


class StopRequest:
    """Turns SLURM's signals into a flag that the work checks between steps.

    SIGTERM (preemption, scancel) means: save; SLURM itself decides what then happens to the job. SIGUSR2 (the limit is
    near) means: save and be requeued. Work that does not finish its step within `patience_seconds` is requeued as it
    stands, even in the middle of a call that Python cannot interrupt: a thread waits for this signal, and it alone
    receives it, not the processes that load data or compile, nor this process while it exits.
    """

    def __init__(self, patience_seconds: float, environment: submitit.JobEnvironment) -> None:
        self.patience_seconds = patience_seconds
        self._job, self._is_first = environment.job_id, environment.global_rank == 0
        self._process = os.getpid()
        self._received: set[int] = set()
        self._over = threading.Event()

    def __enter__(self) -> StopRequest:
        signal.pthread_sigmask(signal.SIG_BLOCK, {TIMED_OUT})
        threading.Thread(target=self._await_warning, name="time limit", daemon=True).start()
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self

    def __exit__(self, *_: object) -> None:
        """The process is about to exit: from now on no signal changes how."""
        self._over.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def is_set(self) -> bool:
        return bool(self._received)

    def leave(self) -> NoReturn:
        """Exit; requeue the job if the limit was near, or if only another rank was the reason to stop."""
        self._over.set()
        if not self._is_first:
            sys.exit(0)  # the first rank's status counts, and it may still be saving
        if TIMED_OUT in self._received or not self._received:
            requeue(self._job)
            sys.exit(START_AGAIN)
        sys.exit(STOPPED)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process and not self._over.is_set():  # else this is a process that loads data
            self._ask(number)

    def _ask(self, number: int) -> None:
        self._received.add(number)
        say(f"{signal.Signals(number).name}: saving at the end of this step")

    def _await_warning(self) -> None:
        signal.sigwait({TIMED_OUT})
        if self._over.is_set():
            return
        self._ask(TIMED_OUT)
        if not self._over.wait(self.patience_seconds) and self._is_first:
            say("the step did not end in time: requeued without saving")
            requeue(self._job)
            os._exit(START_AGAIN)


def requeue(job: str) -> None:
    """Put the job back into the queue, upon which SLURM ends it here. Prints why if that fails."""
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
