"""What of a sweep is submitted now, where a cluster takes only so many jobs of one user (MaxSubmitJobs)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from harness.dispatch.plan import Plan
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.sbatch import sbatch_options, sbatch_parameters
from harness.dispatch.slurm.settings import ClusterSettings, JobSettings
from harness.dispatch.slurm.trial import room_for
from harness.store.store import Kind, Target


def choose_portion(
    planned: Plan, wanted: Sequence[Target], live: Collection[Target], settings: ClusterSettings
) -> tuple[list[Target], str]:
    """Those of `wanted` that SLURM takes at once, and the name of the limit if these are not all.

    First cells that can run at once, then trainings, then cells that wait for theirs: no place in the queue is held by
    a job that waits while one that could run is left out. Raises :class:`SlurmError`.
    """
    if not wanted or not _limits_are_enforced():
        return list(wanted), ""
    trainings = [target for target in wanted if target.kind == "training"]
    cells = [target for target in wanted if target.kind == "cell"]
    submitted = set(trainings)

    def is_ready(cell: Target) -> bool:
        training = Target("training", planned.sweep.cells[cell.id].training)
        return training not in submitted and training not in live

    ordered = [*(c for c in cells if is_ready(c)), *trainings, *(c for c in cells if not is_ready(c))]
    jobs = _jobs(planned, ordered, settings.cell.cells_per_job)
    room = _Room(settings, {kind: sum(job[0].kind == kind for job in jobs) for kind in ("training", "cell")})
    chosen: set[Target] = set()
    for job in jobs:
        kind, first = job[0].kind, job[0]
        parent = Target("training", planned.sweep.cells[first.id].training) if kind == "cell" else None
        if parent in submitted and parent not in chosen:
            continue
        if room.take(kind):
            chosen.update(job)
    return [target for target in wanted if target in chosen], room.limit


class _Room:
    """How many more jobs of each kind are taken; one count for both where they ask for the same queue."""

    def __init__(self, settings: ClusterSettings, counts: dict[Kind, int]) -> None:
        self.limit = ""
        self.is_common = _queue_of(settings.training) == _queue_of(settings.cell)
        if self.is_common:
            kind: Kind = "training" if counts["training"] else "cell"
            self.free = dict.fromkeys(counts, self._room_for(settings.of(kind), sum(counts.values())))
        else:
            self.free = {kind: self._room_for(settings.of(kind), count) for kind, count in counts.items()}

    def _room_for(self, settings: JobSettings, jobs: int) -> int:
        asked = min(jobs, queue.max_array_size())  # no more can be asked about at once
        room, limit = room_for(partial(trial_options, settings), asked)
        self.limit = self.limit or limit
        return room if limit else jobs

    def take(self, kind: Kind) -> bool:
        if self.free[kind] == 0:
            return False
        for counted in self.free if self.is_common else (kind,):
            self.free[counted] -= 1
        return True


def _queue_of(settings: JobSettings) -> tuple[str | None, ...]:
    """What SLURM's limits on the number of jobs go by."""
    return settings.partition, settings.account, settings.qos


def _jobs(planned: Plan, targets: Sequence[Target], cells_per_job: int) -> list[list[Target]]:
    """`targets` by the jobs that make them, in their order."""
    jobs: list[list[Target]] = []
    open_job: dict[str, list[Target]] = {}
    for target in targets:
        training = planned.sweep.cells[target.id].training if target.kind == "cell" else None
        job = open_job.get(training) if training is not None else None
        if job is not None and len(job) < cells_per_job:
            job.append(target)
            continue
        jobs.append([target])
        if training is not None:
            open_job[training] = jobs[-1]
    return jobs


def trial_options(settings: JobSettings, elements: int) -> list[str]:
    """Options of an array of so many jobs, to ask sbatch whether it would take them."""
    return sbatch_options(sbatch_parameters(settings, "trial", Path("SOURCE"), None), Path("LOGS"), elements)


def _limits_are_enforced() -> bool:
    found = re.search(r"^AccountingStorageEnforce\s*=\s*(\S+)", queue.run(["scontrol", "show", "config"]), re.MULTILINE)
    return found is not None and not {"limits", "qos", "safe"}.isdisjoint(found.group(1).lower().split(","))
