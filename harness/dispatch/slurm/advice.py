"""The time limit that a sweep's jobs need, estimated from how long its trainings and cells have taken so far."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median

from harness.config.schema import Experiment
from harness.dispatch.plan import Plan
from harness.dispatch.progress import clock_text
from harness.dispatch.slurm.settings import ClusterSettings
from harness.dispatch.slurm.submissions import SweepKey, assignments, load_submissions
from harness.dispatch.status import SweepStatus
from harness.errors import ConfigError, StoreError
from harness.store.kinds import FACTS, Kind
from harness.store.store import Store, Target
from harness.wording import plural

Work = Callable[[Kind, Experiment], float]
"""GMACs of a whole training or cell."""

START_SECONDS = 120.0
"""What a job spends before its first step: imports, data, compilation."""
MARGIN = 1.25
"""Suggested limits exceed the estimate by this factor."""
STEPS = ((3600.0, 300), (4 * 3600.0, 900), (math.inf, 3600))
"""(longest limit, step), in seconds: limits up to the first are rounded up to a multiple of the second."""
READ_CELLS = 50
"""How many cells' records an estimate reads at most."""
TOO_LONG = 4
"""A limit that exceeds the need by this factor is pointed out: SLURM starts short jobs sooner."""


@dataclass(frozen=True)
class Expected:
    """How long the longest missing training or cell takes, and the measurement that says so."""

    kind: Kind
    seconds: float
    measured: str


def expected_times(planned: Plan, store: Store, work: Work) -> list[Expected]:
    """One estimate per kind that the store has measurements of, from this or an earlier version of the sweep."""
    return [*_expected_trainings(planned, store, work), *_expected_cells(planned, store, work)]


def _expected_trainings(planned: Plan, store: Store, work: Work) -> Iterator[Expected]:
    missing = {t.id: t.experiment for t in planned.missing_trainings}
    pace = {id: seconds for id in _known_trainings(planned, store) if (seconds := seconds_per_step(store, id))}
    experiments = {id: _experiment(planned, store, id) for id in pace}
    per_gmac = {
        id: pace[id] * experiment.train.steps / work("training", experiment)
        for id, experiment in experiments.items()
        if experiment is not None
    }
    if not missing or not per_gmac:
        return
    slowest = max(per_gmac, key=lambda id: per_gmac[id])
    seconds = max(
        pace[id] * experiment.train.steps if id in pace else per_gmac[slowest] * work("training", experiment)
        for id, experiment in missing.items()
    )
    measured = f"{1 / pace[slowest]:.3g} steps/s measured in training {slowest}{_device(store, slowest)}"
    yield Expected("training", seconds, measured)


def _known_trainings(planned: Plan, store: Store) -> list[str]:
    """The trainings of the sweep as its file stands and of earlier versions that were submitted."""
    key = SweepKey.of(planned.sweep)
    submitted = assignments([submission for submission in load_submissions(store) if submission.is_of(key)])
    return list(dict.fromkeys([*planned.sweep.trainings, *(t.id for t in submitted if t.kind == "training")]))


def _experiment(planned: Plan, store: Store, training: str) -> Experiment | None:
    if training in planned.sweep.trainings:
        return planned.sweep.trainings[training].experiment
    with contextlib.suppress(StoreError, ConfigError):  # it may come from an earlier version of the harness, too
        return store.load_experiment(Target("training", training))
    return None


def _expected_cells(planned: Plan, store: Store, work: Work) -> Iterator[Expected]:
    taken: dict[str, float] = {}
    for id in islice(sorted(planned.done_cells), READ_CELLS):
        with contextlib.suppress(StoreError):
            if (seconds := store.read_cell(id).provenance.seconds) is not None:
                taken[id] = seconds
    per_gmac = {id: seconds / work("cell", planned.sweep.cells[id].experiment) for id, seconds in taken.items()}
    if not planned.missing_cells or not per_gmac:
        return
    slowest = max(per_gmac, key=lambda id: per_gmac[id])
    most = max(work("cell", cell.experiment) for cell in planned.missing_cells)
    yield Expected("cell", per_gmac[slowest] * most, f"{taken[slowest]:.3g} s measured in cell {slowest}")


def _device(store: Store, training: str) -> str:
    with contextlib.suppress(StoreError):
        if device := store.read_training(training).device:
            return f" on {device}"
    return ""


def seconds_per_step(store: Store, training: str) -> float | None:
    """The pace of a training that has ended or is under way; None before its first steps are logged."""
    with contextlib.suppress(StoreError):
        done = store.read_training(training)
        if done.seconds_of_last_run and done.steps_of_last_run:
            return done.seconds_of_last_run / done.steps_of_last_run
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        log = (store.training_folder(training) / "log.jsonl").read_text(encoding="utf-8")
        lines = [line for line in map(json.loads, log.splitlines()) if "seconds" in line]  # others are of samples
        paces = [line["seconds"] / (line["step"] - before["step"]) for before, line in pairwise(lines)]
        return median(paces) if paces else None
    return None


def time_advice(expected: Expected, settings: ClusterSettings) -> str:
    """What the time limit of `settings` means for the longest missing job, and which limit would be better."""
    own = settings.of(expected.kind)
    per_job = own.cells_per_job if expected.kind == "cell" else 1
    return _sentence(
        expected.kind, expected.seconds * per_job, expected.measured, 60 * own.minutes, own.warning_seconds
    )


def _sentence(kind: Kind, seconds: float, measured: str, limit: float, warning: float = 0.0) -> str:
    needed = seconds + START_SECONDS
    better = f"--slurm {kind}s.time={suggested(needed)}"
    takes = f"{kind}s: the longest job takes about {clock_text(seconds)} ({measured})"
    if needed > limit - warning:
        runs = math.ceil(seconds / max(1.0, limit - warning - START_SECONDS))
        return f"{takes}: about {runs} runs with a limit of {_duration(limit)}; {better} fits it into one"
    if TOO_LONG * needed * MARGIN < limit:
        return f"{takes}: a limit of {_duration(limit)} is far too long; {better} is enough, and lets it start sooner"
    return f"{takes}: a limit of {_duration(limit)} is enough for one run"


def status_advice(status: SweepStatus) -> list[str]:
    """One sentence per kind, about the running job that at its present pace exceeds its limit the most."""
    slowest: dict[Kind, tuple[float, str]] = {}
    for target, row in status.rows.items():
        assignment = status.assigned.get(target)
        minutes = assignment.array.minutes if assignment is not None and assignment.array is not None else None
        if row.state != "running" or not row.eta_seconds or not row.progress or minutes is None:
            continue
        done, total = row.progress
        pace = (total - done) / row.eta_seconds
        if total / pace + START_SECONDS > 60 * minutes and total / pace > slowest.get(target.kind, (0.0, ""))[0]:
            unit = plural(FACTS[target.kind].unit)
            measured = f"{pace:.3g} {unit}/s in {target}"
            slowest[target.kind] = total / pace, _sentence(target.kind, total / pace, measured, 60 * minutes)
    return [sentence for _, sentence in slowest.values()]


def suggested(seconds: float) -> str:
    """A time limit with a margin, as the cluster settings take it."""
    generous = seconds * MARGIN
    step = next(step for longest, step in STEPS if generous <= longest)
    return _duration(math.ceil(generous / step) * step)


def _duration(seconds: float) -> str:
    """Such as ``90s``, ``5m``, ``2h30m`` or ``1d4h``."""
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
