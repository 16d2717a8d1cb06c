"""Ending a sweep's jobs: all that were submitted for it, in any version of its file, and none that others need."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.live import LiveJob, earlier_jobs, live_jobs, nameless_jobs, read_jobs, targets_of
from harness.dispatch.slurm.lock import submission_lock
from harness.dispatch.slurm.submissions import Submission, SweepKey, read_records
from harness.dispatch.sweep import Sweep
from harness.store.store import Store, Target
from harness.wording import count_of


@dataclass(frozen=True)
class Cancelled:
    """What :func:`cancel_jobs` did. `left` says in sentences what it let be, `notes` what else there is to know."""

    jobs: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    kept: list[Target] = field(default_factory=list)
    """Targets of this sweep whose jobs go on because another sweep needs them."""
    notes: list[str] = field(default_factory=list)


def cancel_jobs(
    sweep: Sweep, store: Store, only: Collection[Target] | None = None, *, earlier_only: bool = False
) -> Cancelled:
    """End the live jobs that were submitted for `sweep`, of `only` these targets if given, and note it.

    Jobs are found by the records of submissions, so those of an earlier version of the file are ended too; with
    `earlier_only` none but those. What another sweep waits for goes on, unless `only` names it.
    Raises :class:`SlurmError` where SLURM cannot be reached.
    """
    return _cancel(SweepKey.of(sweep), targets_of(sweep), store, only, earlier_only)


def cancel_jobs_of_file(path: Path, overrides: Iterable[str], store: Store) -> Cancelled:
    """As :func:`cancel_jobs`, for a sweep file that is gone or cannot be read any more."""
    return _cancel(SweepKey.of_file(path, overrides), frozenset(), store, None, False)


def _cancel(
    key: SweepKey, targets: Collection[Target], store: Store, only: Collection[Target] | None, earlier_only: bool
) -> Cancelled:
    found = read_records(store)
    if not found.submissions and not found.damaged:
        return Cancelled()
    from harness.dispatch.checks import check_store

    check_store(store)
    with submission_lock(store):
        records = read_records(store)
        jobs = read_jobs(records)
        live = live_jobs(records.submissions, jobs)
        others = [made for made in live if not made.submission.is_of(key)]
        chosen = earlier_jobs(live, key, targets) if earlier_only else [j for j in live if j.submission.is_of(key)]
        if only is not None:
            chosen = [made for made in chosen if any(target in only for target in made.targets)]
        needed = _needed_by(chosen, others, [s for s in records.submissions if not s.is_of(key)])
        kept = [made for made in chosen if made.id in needed] if only is None else []
        ended = [made for made in chosen if made not in kept]
        nameless = set() if only is not None or earlier_only else nameless_jobs(records, jobs, key)
        _note(ended)
        if only is None and not earlier_only:
            _give_up_shares(records.submissions, key)
        queue.cancel({made.id for made in ended} | nameless)
    return Cancelled(
        {made.id for made in ended} | nameless,
        [_kept_sentence(made, needed[made.id]) for made in kept]
        + _others_sentences(others, key, targets if only is None else only),
        [target for made in kept for target in made.targets],
        [sentence for made in ended for sentence in _ended_sentences(made, needed.get(made.id, ""), only)]
        + ([records.note] if records.note else []),
    )


def _needed_by(chosen: Sequence[LiveJob], others: Iterable[LiveJob], foreign: Iterable[Submission]) -> dict[str, str]:
    """By job of `chosen`, who else needs it, in words: jobs of other sweeps that wait for it, sweeps that rely on its
    result, and whoever needs a job that waits for it, to any depth."""
    waiting: dict[str, Counter[tuple[str, str]]] = {made.id: Counter() for made in chosen}
    for other in others:
        for parent in waiting.keys() & set(other.parents):
            waiting[parent].update((other.submission.describe(), target.kind) for target in other.targets)
    relying: dict[str, set[str]] = defaultdict(set)
    for submission in foreign:
        for id in waiting.keys() & set(submission.shared):
            relying[id].add(submission.describe())
    needed = {id: _in_words(waiting[id], relying[id]) for id in waiting if waiting[id] or relying[id]}
    parents = {made.id: [id for id in made.parents if id in waiting] for made in chosen}
    reached = list(needed)
    while reached:
        id = reached.pop()
        for parent in parents[id]:
            if parent not in needed:
                needed[parent] = needed[id]
                reached.append(parent)
    return needed


def _in_words(waiting: Counter[tuple[str, str]], relying: Collection[str]) -> str:
    said = [f"{count_of(count, kind)} of {name}" for (name, kind), count in waiting.items()]
    said += sorted(set(relying) - {name for name, _ in waiting})
    return f"needed by {', '.join(said)}"


def _note(ended: Iterable[LiveJob]) -> None:
    """Keep in the records that these jobs are ended by a person, before they are."""
    by_folder: dict[str, tuple[Submission, list[str]]] = {}
    for made in ended:
        by_folder.setdefault(made.submission.id, (made.submission, []))[1].append(made.id)
    for submission, jobs in by_folder.values():
        submission.cancelled += sorted(jobs)
        submission.save()


def _give_up_shares(submissions: Iterable[Submission], key: SweepKey) -> None:
    """A cancelled sweep needs no other's jobs any more."""
    for submission in submissions:
        if submission.is_of(key) and submission.shared:
            submission.shared = []
            submission.save()


def _kept_sentence(made: LiveJob, needed: str) -> str:
    return f"{', '.join(map(str, made.targets))} (job {made.id}) goes on: {needed}"


def _ended_sentences(made: LiveJob, needed: str, only: Collection[Target] | None) -> list[str]:
    also = [str(target) for target in made.targets if only is not None and target not in only]
    sentences = [f"job {made.id} was also to make {', '.join(also)}"] if also else []
    return [*sentences, f"job {made.id} was {needed}"] if needed else sentences


def _others_sentences(others: Iterable[LiveJob], key: SweepKey, targets: Collection[Target]) -> list[str]:
    """What goes on though it makes some of `targets`, or is of the same file with other overrides."""
    concerned: Counter[str] = Counter()
    for made in others:
        if any(target in targets for target in made.targets) or made.submission.is_like(key):
            concerned[made.submission.describe()] += 1
    return [f"{count_of(n, 'job')} of {name} {'goes' if n == 1 else 'go'} on" for name, n in concerned.items()]
