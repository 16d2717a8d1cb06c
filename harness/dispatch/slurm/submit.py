"""Submitting what a sweep needs: nothing twice, and all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.dispatch.plan import Plan, plan, save_experiments
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.arrays import Array, lay_out
from harness.dispatch.slurm.calls import Calls, array_name, described, is_root
from harness.dispatch.slurm.calls import StillSubmitted as StillSubmitted
from harness.dispatch.slurm.live import earlier_jobs, earlier_sentence, live_jobs, read_jobs, targets_of
from harness.dispatch.slurm.lock import submission_lock
from harness.dispatch.slurm.outside import outside_dependencies
from harness.dispatch.slurm.portion import choose_portion
from harness.dispatch.slurm.queue import SlurmError
from harness.dispatch.slurm.queued import Queued, read_queued, sort_out
from harness.dispatch.slurm.sbatch import sbatch_options, sbatch_parameters
from harness.dispatch.slurm.settings import ClusterSettings
from harness.dispatch.slurm.snapshot import take_snapshot
from harness.dispatch.slurm.submissions import (
    Assignment,
    Submission,
    SweepKey,
    assignments,
    new_submission,
    read_records,
)
from harness.dispatch.slurm.trial import Trial, try_out
from harness.dispatch.sweep import Sweep
from harness.errors import DispatchError
from harness.store.kinds import KINDS, in_words
from harness.store.store import Store, Target


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
    """Submit what `sweep` lacks and no live job makes; if `only` is given, of that only these, with what they need and
    what needs them. `options` are what ``--slurm`` said, for the record.

    Where the cluster takes only so many jobs of one user, as many as it takes. Raises :class:`DispatchError` with
    SLURM's own words when it refuses; nothing is left submitted then.
    """
    key = SweepKey.of(sweep)
    with submission_lock(store):
        planned = plan(sweep, store)  # after the lock: another terminal may just have submitted
        sweep = planned.sweep
        queued = read_queued(planned, store)
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
    queued: Queued,
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
        cut_by = Calls(submission, store, settings, source, after).submit_all(layout)
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
    sweep = planned.sweep
    notes: list[str] = []
    try:
        records = read_records(store)
        notes += [records.note] if records.note else []
        jobs = read_jobs(records)
        live, _ = sort_out(planned, store, assignments(records.submissions), jobs)
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
        taken = f"{len(portion)} of these {len(wanted)} {in_words(t.kind for t in wanted)}"
        notes += [f"SLURM takes {taken} at once ({limit})"] if limit else []
    return proposals, "; ".join(notes)


def _proposal(
    array: Array, place: int, layout: list[Array], sweep: Sweep, settings: ClusterSettings, is_reachable: bool
) -> Proposal:
    own = settings.of(array.kind)
    waits = [text for text in (described(array, layout),) if text]
    dependency = ",".join([*waits, *(own.dependencies if is_root(array) else [])]) or None
    parameters = sbatch_parameters(own, array_name(sweep.config.name, array, "…", place), Path("SOURCE"), dependency)
    options = sbatch_options(parameters, Path("LOGS"), len(array.elements))
    trial = try_out(options) if is_reachable else None
    return Proposal(array, options, own.gpu_hours * len(array.elements), trial)


def _outside(settings: ClusterSettings) -> list[str]:
    return list(dict.fromkeys(text for kind in KINDS for text in settings.of(kind).dependencies))


def _wanted(planned: Plan, live: Collection[Target], only: Collection[Target] | None) -> list[Target]:
    asked = planned if only is None else planned.only(only)
    return [target for target in asked.targets() if target not in live]


def _layout(
    planned: Plan,
    wanted: Sequence[Target],
    live: Mapping[Target, Assignment],
    settings: ClusterSettings,
    most: int,
) -> list[Array]:
    needs = {target: planned.waits_for(target) for target in wanted}
    jobs = {target: assignment.job for target, assignment in live.items()}
    return lay_out(wanted, needs, most, settings.per_job, jobs)
