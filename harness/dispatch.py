"""Where jobs run: one after another in this process, or in processes of this machine; SLURM is harness.slurm's.

What needs torch is imported where it is used, so that a finished sweep is planned without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from harness.lease import LeaseHeld
from harness.plan import Plan, save_experiments
from harness.processes import name_for_submitit, own_packages_first
from harness.progress import SweepProgress
from harness.slurm.logs import telling
from harness.store import Store, Target
from harness.sweep import Sweep

ClusterKind = Literal["inline", "local", "slurm"]


@dataclass
class Outcome:
    """What became of the targets of a run."""

    done: list[Target] = field(default_factory=list)
    failed: dict[Target, str] = field(default_factory=dict)
    blocked: dict[Target, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.failed and not self.blocked


def describe(target: Target, sweep: Sweep) -> str:
    """A target in words: the arm and what is varied."""
    if target.kind == "cell":
        arm, varied = sweep.cells[target.id].rows[0]
        return f"{arm} {_short(varied)}".strip()
    cells = [cell for cell in sweep.cells.values() if cell.training == target.id]
    arms = list(dict.fromkeys(arm for cell in cells for arm, _ in cell.rows))
    model = sweep.trainings[target.id].experiment.model
    light = f" light_width={model.light_width:g}" if model.light_width is not None else ""
    seed = sweep.trainings[target.id].experiment.seed
    shown = ", ".join(arms[:2]) + (", …" if len(arms) > 2 else "")
    return f"training for {shown}{light} seed={seed}"


def _short(varied: Mapping[str, Any]) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())


def work_of(plan: Plan, targets: list[Target]) -> dict[Target, float]:
    """GMACs of each target."""
    from harness.estimate import cell_gmacs, training_gmacs

    return {
        target: training_gmacs(plan.sweep.trainings[target.id].experiment)
        if target.kind == "training"
        else cell_gmacs(plan.sweep.cells[target.id].experiment)
        for target in targets
    }


def run_inline(plan: Plan, store: Store, console: Console) -> Outcome:
    """Run what is missing in this process, one after another; a failure blocks what needs it and nothing else."""
    targets = plan.targets()
    save_experiments(plan, store, targets)
    labels = {target: describe(target, plan.sweep) for target in targets}
    outcome = Outcome()
    with SweepProgress(console, work_of(plan, targets), labels).shown() as progress:
        for target in targets:
            store.forget_failure(target)
            _run_one(store, target, progress, labels[target], outcome)
    return outcome


def _run_one(store: Store, target: Target, progress: SweepProgress, label: str, outcome: Outcome) -> None:
    from harness import jobs

    started = time.monotonic()
    with progress.working_on(target) as report:
        try:
            jobs.run(store, target, report)
        except jobs.Blocked as error:
            outcome.blocked[target] = str(error)
            progress.note(f"blocked  {label}: {error}", target)
        except LeaseHeld as error:
            outcome.failed[target] = str(error)
            progress.note(f"held     {label}: {error}", target)
        except Exception as error:
            outcome.failed[target] = jobs.first_line(error)
            progress.note(f"failed   {label}: {jobs.first_line(error)}", target)
        else:
            report.close()
            outcome.done.append(target)
            progress.note(f"done     {label} ({time.monotonic() - started:.1f} s)", target)


class LocalJob:
    """A target as a callable for submitit: pickled by reference, so it holds nothing but names."""

    def __init__(self, root: Path, target: Target) -> None:
        self.root, self.target = root, target

    def __call__(self) -> None:
        from harness import jobs

        jobs.run(Store(self.root), self.target)


def run_local(plan: Plan, store: Store, console: Console, workers: int, poll_seconds: float = 0.5) -> Outcome:
    """Run what is missing in up to `workers` processes of this machine, through submitit's local executor."""
    import submitit
    import torch

    waiting = plan.targets()
    save_experiments(plan, store, waiting)
    labels = {target: describe(target, plan.sweep) for target in waiting}
    work = work_of(plan, waiting)
    outcome = Outcome()
    gpus = torch.cuda.device_count()
    slots: dict[int, tuple[Target, Any, float]] = {}
    training_of = {Target("cell", c.id): Target("training", c.training) for c in plan.sweep.cells.values()}
    for target in waiting:
        store.forget_failure(target)

    def is_ready(target: Target) -> bool:
        training = training_of.get(target)
        return training is None or store.is_done(training) or training in outcome.failed

    logs = store.runs.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with SweepProgress(console, work, labels).shown() as progress, name_for_submitit(logs) as folder:
        executor = submitit.LocalExecutor(folder=folder / "%j")
        while waiting or slots:
            for slot in range(workers):
                ready = next((t for t in waiting if is_ready(t)), None)
                if slot in slots or ready is None:
                    continue
                waiting.remove(ready)
                executor.update_parameters(
                    timeout_min=7 * 24 * 60, **({"visible_gpus": (slot % gpus,), "gpus_per_node": 1} if gpus else {})
                )
                with own_packages_first():
                    job = executor.submit(LocalJob(store.root.resolve(), ready))
                slots[slot] = (ready, job, time.monotonic())
            for slot, (target, job, started) in list(slots.items()):
                done, total = store.state(target).get("progress") or (0, 1)
                if job.done():
                    del slots[slot]
                    _close(store, target, job, started, progress, labels[target], outcome)
                elif done:
                    progress.update(target, labels[target], done, total, poll_seconds)
            time.sleep(poll_seconds)
    return outcome


def _close(
    store: Store,
    target: Target,
    job: Any,
    started: float,
    progress: SweepProgress,
    label: str,
    outcome: Outcome,
) -> None:
    if store.is_done(target):
        outcome.done.append(target)
        progress.note(f"done     {label} ({time.monotonic() - started:.1f} s)", target)
        return
    state = store.state(target)
    reason = state.get("error") or _last_words(store.runs.resolve() / "logs" / job.job_id / job.paths.stderr.name)
    group = outcome.blocked if state.get("state") == "blocked" else outcome.failed
    group[target] = reason
    progress.note(f"{'blocked ' if group is outcome.blocked else 'failed  '} {label}: {reason}", target)


def _last_words(log: Path) -> str:
    """Why a process has left no result and noted nothing."""
    said = telling(log).line
    return f"the process ended without a result{f': {said}' if said else ''}; its log: {log}"
