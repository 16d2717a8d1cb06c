"""What of a sweep is submitted now, where a cluster takes only so many jobs of one user (MaxSubmitJobs)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from harness.dispatch.graph import depths
from harness.dispatch.plan import Plan
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.arrays import jobs_of
from harness.dispatch.slurm.sbatch import sbatch_options, sbatch_parameters
from harness.dispatch.slurm.settings import ClusterSettings, JobSettings
from harness.dispatch.slurm.trial import room_for
from harness.store.kinds import KINDS, Kind
from harness.store.store import Target


def choose_portion(
    planned: Plan, wanted: Sequence[Target], live: Collection[Target], settings: ClusterSettings
) -> tuple[list[Target], str]:
    """Those of `wanted` that SLURM takes at once, and the name of the limit if these are not all.

    First what can run at once, cells before trainings, then what waits for it and so on, trainings before cells (and
    tables between them): no place in the queue is held by a job that waits while one that could run is left out.
    Raises :class:`SlurmError`.
    """
    if not wanted or not _limits_are_enforced():
        return list(wanted), ""
    submitted = set(wanted)
    needs = {target: [need for need in planned.needs(target) if need in submitted or need in live] for target in wanted}
    depth = depths(wanted, needs)
    order = {kind: place for place, kind in enumerate(KINDS)}
    ordered = sorted(wanted, key=lambda t: (depth[t], -order[t.kind] if depth[t] == 0 else order[t.kind]))
    jobs = jobs_of(ordered, needs, settings.per_job)
    room = _Room(settings, {kind: sum(job[0].kind == kind for job in jobs) for kind in KINDS})
    chosen: set[Target] = set()
    for job in jobs:
        if all(need in chosen or need in live for need in needs[job[0]]) and room.take(job[0].kind):
            chosen.update(job)
    return [target for target in wanted if target in chosen], room.limit


class _Room:
    """How many more jobs of each kind are taken; one count for all that ask for the same queue."""

    def __init__(self, settings: ClusterSettings, counts: dict[Kind, int]) -> None:
        self.limit = ""
        self.queues = {kind: _queue_of(settings.of(kind)) for kind in counts}
        self.free: dict[tuple[str | None, ...], int] = {}
        for asked in dict.fromkeys(self.queues.values()):
            alike = [kind for kind in counts if self.queues[kind] == asked]
            first = next((kind for kind in alike if counts[kind]), alike[0])
            self.free[asked] = self._room_for(settings.of(first), sum(counts[kind] for kind in alike))

    def _room_for(self, settings: JobSettings, jobs: int) -> int:
        asked = min(jobs, queue.max_array_size())  # no more can be asked about at once
        room, limit = room_for(partial(trial_options, settings), asked)
        self.limit = self.limit or limit
        return room if limit else jobs

    def take(self, kind: Kind) -> bool:
        if self.free[self.queues[kind]] == 0:
            return False
        self.free[self.queues[kind]] -= 1
        return True


def _queue_of(settings: JobSettings) -> tuple[str | None, ...]:
    """What SLURM's limits on the number of jobs go by."""
    return settings.partition, settings.account, settings.qos


def trial_options(settings: JobSettings, elements: int) -> list[str]:
    """Options of an array of so many jobs, to ask sbatch whether it would take them."""
    return sbatch_options(sbatch_parameters(settings, "trial", Path("SOURCE"), None), Path("LOGS"), elements)


def _limits_are_enforced() -> bool:
    found = re.search(r"^AccountingStorageEnforce\s*=\s*(\S+)", queue.run(["scontrol", "show", "config"]), re.MULTILINE)
    return found is not None and not {"limits", "qos", "safe"}.isdisjoint(found.group(1).lower().split(","))
