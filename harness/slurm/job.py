"""What SLURM runs: a callable for submitit that makes targets, saves when asked to stop, and is requeued.

Light to import: submitit reads the pickle before it listens to signals, and a signal that comes earlier ends the job.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.helpers import TorchDistributedEnvironment

from harness.store import Store, Target

TIMED_OUT = signal.SIGUSR2
"""submitit's signal: the time limit is near (or, where the site sends it, preemption), and the job may be requeued."""

SAVING_SHARE = 0.6
"""Share of the warning time that a job is given to reach a step's end and save, before it is requeued regardless."""


class SlurmJob:
    """Makes `targets` one after another. Pickled by reference: it holds names and numbers, and runs its own source."""

    def __init__(self, root: Path, targets: list[Target], warning_seconds: float) -> None:
        self.root, self.targets, self.warning_seconds = root, targets, warning_seconds

    def __call__(self) -> None:
        """Raises what the last of its targets raised that failed; the others are made all the same."""
        environment = submitit.JobEnvironment()
        _remove_leftovers(environment)
        if environment.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        with StopRequest(self.warning_seconds * SAVING_SHARE) as stop:
            from harness.distributed import process_group
            from harness.train import Stopped

            try:
                with process_group():
                    self._make_targets(stop)
            except Stopped:
                stop.leave()
            except Exception:
                if stop.is_set() and environment.num_tasks > 1:  # another rank was quicker to leave
                    stop.leave()
                raise

    def _make_targets(self, stop: StopRequest) -> None:
        from harness import jobs
        from harness.train import Stopped

        failure: Exception | None = None
        for target in self.targets:
            try:
                jobs.run(Store(self.root), target, should_stop=stop.is_set)
            except Stopped:
                raise
            except Exception as error:
                if submitit.JobEnvironment().num_tasks > 1:
                    raise  # the other ranks may not have failed, and would wait
                failure = error
        if failure is not None:
            raise failure

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit before it requeues the job: the same again, which goes on from what was saved."""
        return submitit.helpers.DelayedSubmission(self)


class StopRequest:
    """Turns SLURM's signals into a flag that the work looks at between steps.

    SIGTERM (preemption, scancel) asks to save; SLURM itself decides what then becomes of the job. SIGUSR2 (the limit is
    near) asks to save and be requeued; work that has not come to a step's end within `patience_seconds` is requeued as
    it stands.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.patience_seconds = patience_seconds
        self._asked = False
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (TIMED_OUT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._out_of_patience)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        return self._asked

    def leave(self) -> None:
        """End the process: requeued if the limit was near. Never returns, but on all ranks save the first."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._signal == TIMED_OUT:
            self._before[TIMED_OUT](TIMED_OUT, None)  # submitit's: requeues from the first rank and exits there
            sys.exit(0)
        sys.exit(128 + (self._signal or 0))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        print(f"{signal.Signals(number).name}: saving at the end of this step", file=sys.stderr, flush=True)
        if self._signal is None or number == TIMED_OUT:
            self._signal = number
        self._asked = True
        if number == TIMED_OUT:
            signal.setitimer(signal.ITIMER_REAL, self.patience_seconds)

    def _out_of_patience(self, number: int, frame: FrameType | None) -> None:
        print("no step has ended in time: requeued without saving", file=sys.stderr, flush=True)
        self._before[TIMED_OUT](TIMED_OUT, frame)


def _remove_leftovers(environment: submitit.JobEnvironment) -> None:
    """Temporary files of submitit that a kill has left: it refuses to write while one is there."""
    paths = environment.paths
    for path in (paths.result_pickle, *([paths.submitted_pickle] if environment.global_rank == 0 else [])):
        with contextlib.suppress(OSError):
            path.with_suffix(path.suffix + ".save_tmp").unlink(missing_ok=True)
