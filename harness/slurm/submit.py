"""Submitting what a sweep needs: nothing twice, and all of it or nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import DispatchError
from harness.lease import LeaseHeld, lease
from harness.plan import Plan, plan, save_experiments
from harness.slurm import queue
from harness.slurm.arrays import After, Array, lay_out
from harness.slurm.job import SlurmJob
from harness.slurm.queue import Job, SlurmError
from harness.slurm.records import (
    Assignment,
    Submission,
    SubmittedArray,
    assignments,
    load_submissions,
    new_submission,
    submissions_folder,
    unfinished,
)
from harness.slurm.sbatch import Refused, sbatch_options, sbatch_parameters, submit_array
from harness.slurm.settings import ClusterSettings, JobSettings
from harness.slurm.snapshot import take_snapshot
from harness.store import Store, Target
from harness.sweep import Sweep
from harness.wording import count_of

LOCK_SECONDS = 600.0


@dataclass
class Submitted:
    """What a submission did."""

    submission: Submission | None = None
    live: list[Target] = field(default_factory=list)
    """Targets that have a job already."""

    @property
    def targets(self) -> list[Target]:
        arrays = self.submission.arrays if self.submission else []
        return [Target(array.kind, id) for array in arrays for element in array.elements for id in element]


def submit(sweep: Sweep, store: Store, settings: ClusterSettings, only: Collection[Target] | None = None) -> Submitted:
    """Submit what `sweep` lacks and no live job makes; if `only` is given, of that only these,
    with a cell's training and a training's cells.

    Raises :class:`DispatchError` with SLURM's own words when it refuses; nothing is left submitted then.
    """
    with _lock(store):
        planned = plan(sweep, store)  # after the lock: another terminal may just have submitted
        live = _live_targets(planned, store)
        wanted = _wanted(planned, live, only)
        if not wanted:
            return Submitted(live=list(live))
        source = take_snapshot(store)
        submission = new_submission(store, sweep.config.name, source.name)
        save_experiments(planned, store, wanted)
        layout = _layout(planned, wanted, live, settings, queue.max_array_size())
        _submit_all(submission, layout, store, settings, source)
        for target in wanted:
            store.forget_failure(target)
        return Submitted(submission, list(live))


@dataclass(frozen=True)
class Cancelled:
    """What :func:`cancel_jobs` did. `left` says in sentences what it let be."""

    jobs: set[str]
    left: list[str]


def cancel_jobs(sweep: Sweep, store: Store, only: Collection[Target] | None = None) -> Cancelled:
    """End the live jobs that were submitted for `sweep` (its name), of `only` these targets if given, and note it.

    Raises :class:`SlurmError` where SLURM cannot be reached.
    """
    with _lock(store):
        submissions = load_submissions(store)
        jobs = queue.read_live([submission.user for submission in submissions]) if submissions else {}
        live, hopeless = _sort_out(plan(sweep, store), store, assignments(submissions), jobs)
        own = {t: a for t, a in live.items() if (only is None or t in only) and a.submission.sweep == sweep.config.name}
        other = {t: a for t, a in live.items() if (only is None or t in only) and t not in own}
        ended = {assignment.job for assignment in own.values()} | hopeless
        for submission in {a.submission.id: a.submission for a in own.values()}.values():
            submission.cancelled += sorted(ended & {a.job for a in own.values() if a.submission is submission})
            submission.save()
        queue.cancel(ended)
    names = sorted({assignment.submission.sweep for assignment in other.values()})
    return Cancelled(ended, [f"{count_of(len(other), 'job')} of {', '.join(names)} not cancelled"] if other else [])


@dataclass(frozen=True)
class Proposal:
    """A call of sbatch that has not been made."""

    array: Array
    options: list[str]
    gpu_hours: float


def propose(sweep: Sweep, store: Store, settings: ClusterSettings) -> tuple[list[Proposal], str]:
    """What :func:`submit` would submit now, and a note where the queue cannot be read. Changes nothing."""
    planned, note, live, most = plan(sweep, store), "", dict[Target, Assignment](), 1001
    try:
        submissions = load_submissions(store)
        jobs = queue.read_live([submission.user for submission in submissions]) if submissions else {}
        live, _ = _sort_out(planned, store, assignments(submissions), jobs)
        most = queue.max_array_size()
    except SlurmError as error:
        note = f"SLURM cannot be reached ({error}); its queue and its MaxArraySize are not known"
    layout = _layout(planned, _wanted(planned, live, None), live, settings, most)
    proposals = []
    for place, array in enumerate(layout):
        own = settings.of(array.kind)
        name = _name(sweep.config.name, array, "…", place)
        parameters = sbatch_parameters(own, name, Path("SOURCE"), _described(array.after, layout))
        options = sbatch_options(parameters, Path("LOGS"), len(array.elements))
        proposals.append(Proposal(array, options, own.gpu_hours * len(array.elements)))
    return proposals, note


@contextlib.contextmanager
def _lock(store: Store) -> Iterator[None]:
    try:
        with lease(submissions_folder(store) / "lock", LOCK_SECONDS, poll_seconds=0.2):
            yield
    except LeaseHeld as error:
        raise DispatchError(f"another terminal has been submitting for {LOCK_SECONDS:.0f} s: {error}") from None


def _live_targets(planned: Plan, store: Store) -> dict[Target, Assignment]:
    """Targets that a job still makes, once the traces of a submission that died half-way are cleared."""
    submissions = load_submissions(store)
    if not submissions:
        return {}
    jobs = queue.read_live([submission.user for submission in submissions])
    for submission, array in unfinished(submissions):
        _cancel_by_name(jobs, array.name)
        array.withdrawn = True
        submission.save()
    live, hopeless = _sort_out(planned, store, assignments(submissions), jobs)
    if hopeless:
        queue.cancel(hopeless)
    return live


def _sort_out(
    planned: Plan, store: Store, assigned: dict[Target, Assignment], jobs: dict[str, Job]
) -> tuple[dict[Target, Assignment], set[str]]:
    """(what live jobs make, jobs that wait for a training job that has ended without success)."""

    def job_of(assignment: Assignment) -> Job | None:
        found = jobs.get(assignment.job)
        return found if found is not None and found.name == assignment.name and found.is_live else None

    def is_live(target: Target) -> bool:
        job = job_of(assigned[target]) if target in assigned else None
        if job is None or job.is_pending:
            return job is not None
        noted = store.state(target)  # a job that has failed here may take a while to end, or be at another cell
        return not (noted.get("state") in ("failed", "blocked") and noted.get("job") == job.id)

    targets = [Target("training", id) for id in planned.sweep.trainings]
    targets += [Target("cell", id) for id in planned.sweep.cells]
    live = {target: assigned[target] for target in targets if is_live(target)}
    hopeless: set[str] = set()
    for cell in planned.sweep.cells.values():
        target, training = Target("cell", cell.id), Target("training", cell.training)
        assignment = live.get(target)
        if assignment is None or assignment.parent is None or cell.training in planned.done_trainings:
            continue
        job = job_of(assignment)
        if job is not None and job.is_pending and (training not in live or live[training].job != assignment.parent):
            hopeless.add(assignment.job)
            del live[target]
    return live, hopeless


def _wanted(planned: Plan, live: Collection[Target], only: Collection[Target] | None) -> list[Target]:
    if only is not None:
        cells = planned.sweep.cells
        needed = {Target("training", cells[target.id].training) for target in only if target.kind == "cell"}
        needing = {Target("cell", id) for id, cell in cells.items() if Target("training", cell.training) in only}
        only = {*only, *needed, *needing}
    return [target for target in planned.targets() if target not in live and (only is None or target in only)]


def _layout(
    planned: Plan,
    wanted: Collection[Target],
    live: dict[Target, Assignment],
    settings: ClusterSettings,
    most: int,
) -> list[Array]:
    cells: dict[str, list[str]] = {}
    for target in wanted:
        if target.kind == "cell":
            cells.setdefault(planned.sweep.cells[target.id].training, []).append(target.id)
    trainings = [target.id for target in wanted if target.kind == "training"]
    unready = {t.id: a.job for t, a in live.items() if t.kind == "training" and t.id not in planned.done_trainings}
    return lay_out(trainings, cells, most, settings.cell.cells_per_job, unready)


def _submit_all(
    submission: Submission, layout: list[Array], store: Store, settings: ClusterSettings, source: Path
) -> None:
    """One call of sbatch per array; whatever goes wrong, what went before is withdrawn."""
    try:
        for place, array in enumerate(layout):
            name = _name(submission.sweep, array, submission.id[-6:], place)
            record = SubmittedArray(name, array.kind, array.elements, _dependency(array.after, submission))
            submission.arrays.append(record)
            submission.save()
            record.job = _submit_one(record, submission.folder, store.root.resolve(), settings.of(array.kind), source)
            submission.save()
    except Refused as error:
        raise DispatchError(f"{error}\n{_withdraw(submission)}") from None
    except BaseException:
        _withdraw(submission)
        raise


def _submit_one(array: SubmittedArray, folder: Path, root: Path, settings: JobSettings, source: Path) -> str:
    parameters = sbatch_parameters(settings, array.name, source, array.dependency)
    targets = [[Target(array.kind, id) for id in element] for element in array.elements]
    try:
        return submit_array([SlurmJob(root, made, settings.warning_seconds) for made in targets], folder, parameters)
    except Refused as error:
        asked = " ".join(sbatch_options(parameters, folder, len(targets)))
        said = f"sbatch refused an array of {len(targets)} {array.kind}s: {error}"
        raise Refused(f"{said}\nasked for: {asked}") from None


def _withdraw(submission: Submission) -> str:
    """Cancel all of a submission; says in words what is left of it."""
    taken = [array for array in submission.arrays if array.job is not None]
    try:
        if taken:
            queue.cancel([array.job for array in taken if array.job is not None])
        if len(taken) < len(submission.arrays):
            _cancel_by_name(queue.read_live([submission.user]), submission.arrays[-1].name)
    except SlurmError as error:
        if not taken:
            return "nothing is submitted"
        numbers = ", ".join(array.job or "" for array in taken)
        return (
            f"jobs {numbers} were submitted before and could not be withdrawn ({error}); they are on record: "
            "`harness sweep` submits the rest, `harness cancel` ends them"
        )
    if not taken:
        shutil.rmtree(submission.folder, ignore_errors=True)
        return "nothing is submitted"
    for array in submission.arrays:
        array.withdrawn = True
    submission.save()
    return f"nothing is submitted; {count_of(len(taken), 'array')} that went before withdrawn"


def _cancel_by_name(jobs: dict[str, Job], name: str) -> None:
    queue.cancel([job.id for job in jobs.values() if job.name == name and job.is_live])


def _name(sweep: str, array: Array, mark: str, place: int) -> str:
    """Unique among all jobs ever: SLURM's numbers may start anew, and an array is found by it after a crash."""
    return f"{sweep}-{array.kind}s-{mark}.{place}"


def _dependency(after: After | None, submission: Submission) -> str | None:
    if after is None:
        return None
    if after.array is None:
        return f"afterok:{after.job}"
    parent = submission.arrays[after.array]
    if after.element is None:
        return f"aftercorr:{parent.job}"
    return f"afterok:{parent.job_of(after.element)}"


def _described(after: After | None, layout: list[Array]) -> str | None:
    """A dependency on an array that has no number yet: ARRAY and its place in the layout."""
    if after is None:
        return None
    if after.array is None:
        return f"afterok:{after.job}"
    if after.element is None:
        return f"aftercorr:ARRAY{after.array}"
    return f"afterok:ARRAY{after.array}" + (f"_{after.element}" if len(layout[after.array].elements) > 1 else "")
