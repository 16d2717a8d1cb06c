"""Submitting what a sweep needs: nothing twice, and all of it or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harness.dispatch.plan import Plan, plan, save_experiments
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.arrays import After, Array, lay_out
from harness.dispatch.slurm.job import SlurmJob
from harness.dispatch.slurm.live import LiveJob, earlier_jobs, live_jobs, read_jobs, targets_of
from harness.dispatch.slurm.lock import submission_lock
from harness.dispatch.slurm.outside import outside_dependencies
from harness.dispatch.slurm.portion import choose_portion, trial_options
from harness.dispatch.slurm.queue import Job, SlurmError
from harness.dispatch.slurm.sbatch import Refused, sbatch_options, sbatch_parameters, submit_array
from harness.dispatch.slurm.settings import ClusterSettings, JobSettings
from harness.dispatch.slurm.snapshot import take_snapshot
from harness.dispatch.slurm.submissions import (
    Assignment,
    Submission,
    SubmittedArray,
    SweepKey,
    assignments,
    new_submission,
    read_records,
    unfinished,
)
from harness.dispatch.slurm.trial import Trial, is_submit_limit, limit_name, room_for, try_out
from harness.dispatch.sweep import Sweep
from harness.errors import DispatchError
from harness.store.store import Kind, Store, Target
from harness.wording import count_of


class StillSubmitted(DispatchError):
    """Jobs that were submitted before SLURM failed, and could not be withdrawn; they are on record."""


class NoRoom(DispatchError):
    """The cluster's limit on jobs leaves no place for any."""


@dataclass
class Submitted:
    """What a submission did."""

    submission: Submission | None = None
    live: list[Target] = field(default_factory=list)
    """Targets that have a job already."""
    left: list[Target] = field(default_factory=list)
    """Targets that the cluster's limit on jobs leaves for the next submission."""
    limit: str = ""
    """SLURM's name for that limit."""
    earlier: list[str] = field(default_factory=list)
    """Live jobs of an earlier version of the sweep, which make nothing that it asks for now."""
    notes: list[str] = field(default_factory=list)

    @property
    def targets(self) -> list[Target]:
        arrays = self.submission.arrays if self.submission else []
        return [Target(array.kind, id) for array in arrays for element in array.elements for id in element]


def submit(
    sweep: Sweep,
    store: Store,
    settings: ClusterSettings,
    only: Collection[Target] | None = None,
    options: Sequence[str] = (),
) -> Submitted:
    """Submit what `sweep` lacks and no live job makes; if `only` is given, of that only these,
    with a cell's training and a training's cells. `options` are what ``--slurm`` said, for the record.

    Where the cluster takes only so many jobs of one user, as many as it takes. Raises :class:`DispatchError` with
    SLURM's own words when it refuses; nothing is left submitted then.
    """
    key = SweepKey.of(sweep)
    with submission_lock(store):
        planned = plan(sweep, store)  # after the lock: another terminal may just have submitted
        queued = _read_queued(planned, store)
        wanted = _wanted(planned, queued.live, only)
        submitted = Submitted(
            live=list(queued.live),
            earlier=[made.id for made in earlier_jobs(queued.jobs, key, targets_of(sweep))],
            notes=[queued.note] if queued.note else [],
        )
        shared = queued.shared_with(key)
        record = partial(
            new_submission,
            store,
            sweep.config.name,
            file=key.file,
            overrides=list(key.overrides),
            slurm=list(options),
            shared=sorted(shared),
        )
        if wanted:
            _submit_wanted(planned, wanted, queued, settings, store, record, submitted)
        elif shared - queued.known_as_shared(key):
            record(source="").save()
        return submitted


def _submit_wanted(
    planned: Plan,
    wanted: list[Target],
    queued: _Queued,
    settings: ClusterSettings,
    store: Store,
    record: Callable[..., Submission],
    submitted: Submitted,
) -> None:
    """Submit as much of `wanted` as SLURM takes, and enter it in `submitted`."""
    after, notes = outside_dependencies(_outside(settings))
    submitted.notes += notes
    portion, submitted.limit = choose_portion(planned, wanted, queued.live, settings)
    if portion:
        source = take_snapshot(store)
        submission = record(source=source.name)
        save_experiments(planned, store, portion)
        layout = _layout(planned, portion, queued.live, settings, queue.max_array_size())
        cut_by = _Call(submission, store, settings, source, after).submit_all(layout)
        submitted.limit = submitted.limit or cut_by
        submitted.submission = submission if submission.arrays else None
    made = set(submitted.targets)
    submitted.left = [target for target in wanted if target not in made]
    if not made and not submitted.live:
        raise NoRoom(f"SLURM takes no job of yours now ({submitted.limit}); try again when some have ended")
    if submitted.submission is not None:
        submitted.submission.left = len(submitted.left)
        submitted.submission.save()
    for target in made:
        store.forget_failure(target)


@dataclass(frozen=True)
class Proposal:
    """A call of sbatch that has not been made, and what SLURM says to it; None where it cannot be asked."""

    array: Array
    options: list[str]
    gpu_hours: float
    trial: Trial | None = None


def propose(sweep: Sweep, store: Store, settings: ClusterSettings) -> tuple[list[Proposal], str]:
    """What :func:`submit` would submit now, and a note on what else there is to know. Changes nothing."""
    planned, live, most, is_reachable = plan(sweep, store), dict[Target, Assignment](), 1001, True
    notes: list[str] = []
    try:
        records = read_records(store)
        notes += [records.note] if records.note else []
        jobs = read_jobs(records)
        live, _ = _sort_out(planned, store, assignments(records.submissions), jobs)
        earlier = earlier_jobs(live_jobs(records.submissions, jobs), SweepKey.of(sweep), targets_of(sweep))
        notes += [earlier_sentence([made.id for made in earlier])] if earlier else []
        most = queue.max_array_size()
        notes += outside_dependencies(_outside(settings))[1]
    except SlurmError as error:
        is_reachable = False
        notes.append(f"SLURM cannot be reached ({error}); its queue and its MaxArraySize are not known")
    wanted = _wanted(planned, live, None)
    layout = _layout(planned, wanted, live, settings, most)
    proposals = [_proposal(array, place, layout, sweep, settings, is_reachable) for place, array in enumerate(layout)]
    if is_reachable and wanted:
        portion, limit = choose_portion(planned, wanted, live, settings)
        taken = f"{len(portion)} of these {len(wanted)} trainings and cells"
        notes += [f"SLURM takes {taken} at once ({limit})"] if limit else []
    return proposals, "; ".join(notes)


def earlier_sentence(jobs: Sequence[str]) -> str:
    """What there is to say of jobs of an earlier version of a sweep."""
    named = ", ".join(sorted(jobs)[:8])
    return f"{count_of(len(jobs), 'job')} of an earlier version of this sweep in SLURM's queue: {named}" + (
        ", …" if len(jobs) > 8 else ""
    )


def _proposal(
    array: Array, place: int, layout: list[Array], sweep: Sweep, settings: ClusterSettings, is_reachable: bool
) -> Proposal:
    own = settings.of(array.kind)
    after = None if array.after is not None and array.after.array is not None else own.dependencies
    dependency = ",".join([*([d] if (d := _described(array.after, layout)) else []), *(after or [])]) or None
    parameters = sbatch_parameters(own, _name(sweep.config.name, array, "…", place), Path("SOURCE"), dependency)
    options = sbatch_options(parameters, Path("LOGS"), len(array.elements))
    trial = try_out(options) if is_reachable else None
    return Proposal(array, options, own.gpu_hours * len(array.elements), trial)


def _outside(settings: ClusterSettings) -> list[str]:
    return list(dict.fromkeys([*settings.training.dependencies, *settings.cell.dependencies]))


@dataclass(frozen=True)
class _Queued:
    """What SLURM has of a sweep, once the traces of a submission that died half-way are cleared."""

    live: dict[Target, Assignment]
    jobs: list[LiveJob]
    records: list[Submission]
    note: str = ""

    def shared_with(self, key: SweepKey) -> set[str]:
        """Jobs of other sweeps that make targets of this one."""
        return {made.job for made in self.live.values() if not made.submission.is_of(key)}

    def known_as_shared(self, key: SweepKey) -> set[str]:
        return {job for submission in self.records if submission.is_of(key) for job in submission.shared}


def _read_queued(planned: Plan, store: Store) -> _Queued:
    records = read_records(store)
    if not records.submissions:
        return _Queued({}, [], [], records.note)
    jobs = read_jobs(records)
    for submission, array in unfinished(records.submissions):
        _cancel_by_name(jobs, array.name)
        array.withdrawn = True
        submission.save()
    live, hopeless = _sort_out(planned, store, assignments(records.submissions), jobs)
    if hopeless:
        queue.cancel(hopeless)
    return _Queued(live, live_jobs(records.submissions, jobs), records.submissions, records.note)


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


@dataclass(frozen=True)
class _Call:
    """All calls of sbatch of one submission."""

    submission: Submission
    store: Store
    settings: ClusterSettings
    source: Path
    after: Sequence[str]
    """Jobs of others that are still to be waited for."""

    def submit_all(self, layout: Sequence[Array]) -> str:
        """One call per array; whatever goes wrong, what went before is withdrawn.

        Ends early where the cluster takes no more jobs, and returns the name of that limit.
        """
        try:
            for place, array in enumerate(layout):
                limit = self._submit_as_many_as_fit(array, place)
                if limit:
                    if not self.submission.arrays:
                        shutil.rmtree(self.submission.folder, ignore_errors=True)
                    return limit
        except Refused as error:
            left = _withdraw(self.submission)
            kind = StillSubmitted if self.submission.is_live else DispatchError
            raise kind(f"{error}\n{left}") from None
        except BaseException:
            _withdraw(self.submission)
            raise
        return ""

    def _submit_as_many_as_fit(self, array: Array, place: int) -> str:
        """Submit `array`, or the first of its elements; returns the limit that was in the way of the others."""
        limit = ""
        while array.elements:
            try:
                self._submit(array, place)
            except Refused as error:
                if not is_submit_limit(str(error)):
                    raise
                self.submission.arrays.pop()
                room, named = room_for(partial(self._options, array.kind), len(array.elements))
                limit = named or limit or limit_name(str(error))
                fewer = min(room, len(array.elements) - 1)  # others may submit meanwhile
                array = replace(array, elements=array.elements[:fewer])
            else:
                return limit
        self.submission.save()
        return limit

    def _submit(self, array: Array, place: int) -> None:
        own = self.settings.of(array.kind)
        name = _name(self.submission.sweep, array, self.submission.mark, place)
        is_root = array.after is None or array.after.array is None  # the others wait for one of these
        after = [text for text in self.after if text in _single(own.dependencies)] if is_root else []
        record = SubmittedArray(
            name,
            array.kind,
            array.elements,
            _dependency(array, self.submission),
            minutes=own.minutes,
            memory=own.memory,
            after=",".join(after) or None,
        )
        self.submission.arrays.append(record)
        self.submission.save()
        record.job = _submit_one(record, self.submission.folder, self.store.root.resolve(), own, self.source)
        self.submission.save()

    def _options(self, kind: Kind, elements: int) -> list[str]:
        return trial_options(self.settings.of(kind), elements)


def _single(dependencies: Sequence[str]) -> list[str]:
    """``afterok:1:2`` as two dependencies."""
    return [f"{text.split(':')[0]}:{job}" for text in dependencies for job in text.split(":")[1:]]


def _submit_one(array: SubmittedArray, folder: Path, root: Path, settings: JobSettings, source: Path) -> str:
    dependency = ",".join(text for text in (array.dependency, array.after) if text) or None
    parameters = sbatch_parameters(settings, array.name, source, dependency)
    targets = [[Target(array.kind, id) for id in element] for element in array.elements]
    try:
        return submit_array([SlurmJob(root, made, settings.warning_seconds) for made in targets], folder, parameters)
    except Refused as error:
        asked = " ".join(sbatch_options(parameters, folder, len(targets)))
        said = f"sbatch refused an array of {count_of(len(targets), array.kind)}: {error}"
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
        return f"jobs {numbers} were submitted before and could not be withdrawn ({error}); they are on record"
    if not taken:
        shutil.rmtree(submission.folder, ignore_errors=True)
        return "nothing is submitted"
    for array in submission.arrays:
        array.withdrawn = True
    submission.save()
    return f"nothing is submitted; withdrawn is what went before: {count_of(len(taken), 'array')}"


def _cancel_by_name(jobs: dict[str, Job], name: str) -> None:
    queue.cancel([job.id for job in jobs.values() if job.name == name and job.is_live])


def _name(sweep: str, array: Array, mark: str, place: int) -> str:
    """Unique among all jobs ever: SLURM's numbers may start anew, and an array is found by it after a crash."""
    return f"{sweep}-{array.kind}s-{mark}.{place}"


def _dependency(array: Array, submission: Submission) -> str | None:
    after = array.after
    if after is None:
        return None
    if after.array is None:
        return f"afterok:{after.job}"
    parent = submission.arrays[after.array]
    if after.element is None and len(array.elements) > 1:
        return f"aftercorr:{parent.job}"
    return f"afterok:{parent.job_of(after.element or 0)}"


def _described(after: After | None, layout: list[Array]) -> str | None:
    """A dependency on an array that has no number yet: ARRAY and its place in the layout."""
    if after is None:
        return None
    if after.array is None:
        return f"afterok:{after.job}"
    if after.element is None:
        return f"aftercorr:ARRAY{after.array}"
    return f"afterok:ARRAY{after.array}" + (f"_{after.element}" if len(layout[after.array].elements) > 1 else "")
