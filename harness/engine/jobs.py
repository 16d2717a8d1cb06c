"""What a job does: encode images, train a network, measure a table of it or a cell. All may be cut off and run twice.

A job is given a target and finds everything else in the store. It holds the target's lease, keeps the target's state
(progress, attempts, first line of an error) and leaves exactly one result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from harness.config.schema import Experiment
from harness.engine.distributed import current_ranks
from harness.engine.progress import ENCODING, MAIN, WAITING, JobProgress, silent
from harness.errors import FULL_CURE, Blocked, DataError, DiskFull, HarnessError, is_full
from harness.files import set_aside
from harness.store.identity import Identifier, is_cell_table, needs_of, start_weights, teacher_weights
from harness.store.lease import lease
from harness.store.needs import missing_need
from harness.store.provenance import provenance
from harness.store.store import Store, Target

if TYPE_CHECKING:
    from harness.store.weights import DamagedFile

log = logging.getLogger("harness")

STATE_SECONDS = 2.0
WAITING_SECONDS = 1.0
"""Seconds between two looks at a lease that another job holds."""


def run(
    store: Store,
    target: Target,
    progress: JobProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
    wait_seconds: float = 7 * 24 * 3600.0,
) -> bool:
    """Make `target` unless it is made; returns whether there was anything to do.

    Waits while another job holds the target, and says so. Raises what the work raises, after noting it in the target's
    state; :class:`DiskFull` where that is for want of space.
    """
    ranks = current_ranks()
    if not ranks.is_first:  # the first rank holds the lease and the state for all
        working = ranks.share(False)
        if working:
            _work(store, target, progress, should_stop)
        return working
    if store.is_done(target):
        return ranks.share(False)
    try:
        with _own_lease(store, target, progress, wait_seconds):
            if not ranks.share(not store.is_done(target)):
                return False
            with _noted(store, target, progress) as noting:
                _work(store, target, noting, should_stop)
    except Exception as error:
        if is_full(error) and not isinstance(error, DiskFull):
            raise DiskFull(f"{_without_space(error, store)}; {FULL_CURE}") from error
        raise
    return True


def _own_lease(
    store: Store, target: Target, progress: JobProgress, wait_seconds: float
) -> contextlib.AbstractContextManager[None]:
    """The target's lease; while another job holds it, it is told whose it is and how far that job has come."""

    def waiting(holder: str) -> None:
        done, total = store.state(target).get("progress") or (0, 0)
        progress(done, total, f"{WAITING}, held by {holder}")

    return lease(store.lease_path(target), wait_seconds, WAITING_SECONDS, waiting)


def _without_space(error: Exception, store: Store) -> str:
    """What could not be written, in one line."""
    if isinstance(error, OSError):
        return f"{error.filename or store.runs}: {error.strerror}"
    return first_line(error)


def _work(store: Store, target: Target, progress: JobProgress, should_stop: Callable[[], bool]) -> None:
    from harness.store.weights import DamagedFile

    experiment = store.load_experiment(target)
    _check_identity(target, experiment)
    _check_needs(store, target, experiment)
    try:
        _make(store, target, experiment, progress, should_stop)
    except DamagedFile as error:
        if current_ranks().world > 1:  # the other ranks are elsewhere in the work
            raise
        _set_aside_weights(store, error)
        if target.kind != "cell":
            raise
        log.warning("%s; set aside, and drawn again", error)
        _make(store, target, experiment, progress, should_stop)
    except Exception as error:
        if not _can_compile_again(experiment, error):
            raise
        _make(store, target, experiment, progress, should_stop)


def _can_compile_again(experiment: Experiment, error: Exception) -> bool:
    """Whether the job may have failed over a damaged compiled file of torch's cache, which is now removed."""
    if current_ranks().world > 1 or not (experiment.train.compile or experiment.sample.compile):
        return False
    from harness.engine.compiled_files import remove_damaged

    return remove_damaged(error)


def _make(
    store: Store, target: Target, experiment: Experiment, progress: JobProgress, should_stop: Callable[[], bool]
) -> None:
    from harness.engine.cell import measure_cell
    from harness.engine.given import take_weights
    from harness.engine.inherited import inherited_cost
    from harness.engine.latents import ready_latents
    from harness.engine.pair_tables import measure_pair_table
    from harness.engine.tables import measure_table
    from harness.engine.train import train_network

    match target.kind:
        case "encoding":
            ready_latents(store, experiment.data, experiment.train.workers, _as_main(progress), should_stop)
        case "training" if experiment.model.weights is not None:
            take_weights(experiment, target.id, store.training_folder(target.id))
        case "training":
            folder, start = store.training_folder(target.id), start_weights(store, experiment)
            table = Identifier().table(experiment)
            path = None if table is None else store.table_path(table)
            inherited = inherited_cost(store, experiment) if current_ranks().is_first else None
            teacher = teacher_weights(store, experiment)
            latents = ready_latents(store, experiment.data, experiment.train.workers, progress, should_stop)
            given = (start, path, inherited, teacher, store.runs / "references", latents)
            train_network(experiment, target.id, folder, progress, should_stop, *given)
        case "table" if is_cell_table(target.id, experiment):
            measure_pair_table(store, target.id, experiment, progress, should_stop)
        case "table":
            measure_table(store, target.id, experiment, progress, should_stop)
        case "cell":
            measure_cell(store, target.id, experiment, progress, should_stop)


def _as_main(progress: JobProgress) -> JobProgress:
    """Told of encoding images, as the main phase of a job that does nothing else."""
    return lambda done, total, phase=MAIN: progress(done, total, MAIN if phase == ENCODING else phase)


def _check_needs(store: Store, target: Target, experiment: Experiment) -> None:
    """Raise :class:`Blocked` unless all that `target` needs is done, or no longer needed."""
    has_frozen = experiment.train.freeze or experiment.distill.method
    needs = needs_of(target, experiment)
    if target.kind == "training" and store.checkpoints(target.id) and not has_frozen:
        needs = tuple(need for need in needs if need.kind == "encoding")  # what it started from is in its checkpoints
    for need in needs:
        if not store.is_done(need):
            raise Blocked(missing_need(store, need))


def _set_aside_weights(store: Store, error: DamagedFile) -> None:
    """If it is a training's weights or a table that are damaged, set them aside: they must be made again."""
    is_weights = error.path.parent.parent == store.runs / "trainings"
    if is_weights or error.path.parent == store.runs / "tables":
        aside, makes = set_aside(error.path), "trains" if is_weights else "measures it"
        raise Blocked(f"{error}; set aside as {aside.name}: the same command {makes} again") from error


def _check_identity(target: Target, experiment: Experiment) -> None:
    """Raise :class:`DataError` unless the data are still those that the target's id was made from."""
    told = Identifier()
    training, cell = told(experiment)
    tables = (told.table(experiment), told.cell_table(experiment))
    ids = {"encoding": (told.encoding(experiment),), "training": (training,), "table": tables, "cell": (cell,)}
    if target.id not in ids[target.kind]:
        where = experiment.data.path or experiment.data.name
        raise DataError(
            f"{where}: is not what it was when {target} was planned: the data, the extractor's weights, the weights to "
            "start from or harness itself have changed; harness sweep plans anew"
        )


@contextlib.contextmanager
def _noted(store: Store, target: Target, progress: JobProgress) -> Iterator[JobProgress]:
    """Keep the target's state while it is worked on; the block gets the progress call to use."""
    from harness.errors import Stopped

    before = store.state(target)
    store.set_state(
        target,
        state="running",
        attempts=before.get("attempts", 0) + 1,
        host=socket.gethostname(),
        node=os.environ.get("SLURMD_NODENAME"),
        pid=os.getpid(),
        job=provenance()["slurm_job_id"],
        local_job=os.environ.get("SUBMITIT_LOCAL_JOB_ID"),
        started=time.time(),
        phase=None,
        error=None,
        traceback=None,
        stopped=None,
    )
    noting = _Noting(store, target, progress)
    try:
        yield noting
    except (Stopped, KeyboardInterrupt):
        store.set_state(target, state="waiting", phase=None, progress=noting.reached, stopped=noting.reached)
        raise
    except Blocked as error:
        store.set_state(target, state="blocked", error=first_line(error))
        raise
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk must not hide what went wrong
            store.set_state(target, state="failed", error=first_line(error), traceback=traceback.format_exc())
        raise
    store.set_state(target, state="done", finished=time.time())


class _Noting:
    """A job's progress call that also keeps the target's state: at each change of phase, and every few seconds."""

    def __init__(self, store: Store, target: Target, progress: JobProgress) -> None:
        self.store, self.target, self.progress = store, target, progress
        self.phase: str | None = None
        self.reached: list[int] | None = None
        self.is_resumed = False
        self.last = 0.0

    def __call__(self, done: int, total: int, phase: str = MAIN) -> None:
        self.progress(done, total, phase)
        if phase == MAIN:
            self.reached = [done, total]
        now = time.monotonic()
        if phase == self.phase and now - self.last < STATE_SECONDS and not (phase == MAIN and done == total):
            return
        changes: dict[str, object] = {"phase": None if phase == MAIN else [phase, done, total]}
        if phase == MAIN:
            changes["progress"] = [done, total]
            if not self.is_resumed:  # where this run goes on from, and when: the rate is counted from here
                changes["resumed"] = [done, time.time()]
                self.is_resumed = True
        self.store.set_state(self.target, **changes)
        self.phase, self.last = phase, now


def first_line(error: BaseException) -> str:
    """The error in one line, with its type unless the message is written for people."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, HarnessError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
