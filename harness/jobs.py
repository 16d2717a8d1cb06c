"""What a job does: train a network, or measure a cell. Both resume where they were cut off and may run twice.

A job is told a target and finds everything else in the store. It holds the target's lease, keeps the target's state
(progress, attempts, first line of an error) and leaves exactly one result.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator

from harness.config import Experiment
from harness.distributed import current_ranks
from harness.errors import DataError, HarnessError
from harness.lease import lease
from harness.provenance import provenance
from harness.store import Store, Target
from harness.sweep import identify

Progress = Callable[[int, int], None]
STATE_SECONDS = 2.0


class Blocked(HarnessError):
    """A cell whose training has no weights, and why."""


def run(
    store: Store,
    target: Target,
    progress: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    wait_seconds: float = 7 * 24 * 3600.0,
) -> bool:
    """Make `target` unless it is made; returns whether there was anything to do.

    Waits while another job holds the target. Raises what the work raises, after noting it in the target's state.
    """
    ranks = current_ranks()
    if not ranks.is_first:  # the first rank holds the lease and the state for all
        working = ranks.share(False)
        if working:
            _work(store, target, progress, should_stop)
        return working
    if store.is_done(target):
        return ranks.share(False)
    with lease(store.lease_path(target), wait_seconds):
        if not ranks.share(not store.is_done(target)):
            return False
        with _noted(store, target, progress) as noting:
            _work(store, target, noting, should_stop)
    return True


def _work(store: Store, target: Target, progress: Progress, should_stop: Callable[[], bool]) -> None:
    from harness.cell import measure_cell
    from harness.train import train_network

    experiment = store.load_experiment(target)
    _check_identity(target, experiment)
    if target.kind == "training":
        train_network(experiment, target.id, store.training_folder(target.id), progress, should_stop)
    else:
        measure_cell(store, target.id, experiment, progress, should_stop)


def _check_identity(target: Target, experiment: Experiment) -> None:
    """Raise :class:`DataError` unless the data are still those that the target's id was told from."""
    training, cell = identify(experiment)
    if target.id != (training if target.kind == "training" else cell):
        where = experiment.data.path or experiment.data.name
        raise DataError(
            f"{where}: is not what it was when {target} was planned: the data, the extractor's weights or harness "
            "itself have changed; harness sweep plans anew"
        )


@contextlib.contextmanager
def _noted(store: Store, target: Target, progress: Progress) -> Iterator[Progress]:
    """Keep the target's state while it is worked on; the block gets the progress call to use."""
    from harness.train import Stopped

    before = store.state(target)
    store.set_state(
        target,
        state="running",
        attempts=before.get("attempts", 0) + 1,
        host=socket.gethostname(),
        node=os.environ.get("SLURMD_NODENAME"),
        pid=os.getpid(),
        job=provenance()["slurm_job_id"],
        started=time.time(),
        error=None,
        traceback=None,
    )
    last: float | None = None

    def note(done: int, total: int) -> None:
        nonlocal last
        progress(done, total)
        now = time.monotonic()
        if last is None:  # where this run goes on from, and when: the rate is counted from here
            store.set_state(target, progress=[done, total], resumed=[done, time.time()])
        elif now - last >= STATE_SECONDS or done == total:
            store.set_state(target, progress=[done, total])
        else:
            return
        last = now

    try:
        yield note
    except Stopped:
        store.set_state(target, state="waiting")
        raise
    except Blocked as error:
        store.set_state(target, state="blocked", error=first_line(error))
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
            store.set_state(target, state="failed", error=first_line(error), traceback=traceback.format_exc())
        raise
    store.set_state(target, state="done", finished=time.time())


def first_line(error: BaseException) -> str:
    """The error in one line, with its type unless the message is written for people."""
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, HarnessError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
