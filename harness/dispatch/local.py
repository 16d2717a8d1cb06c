"""Running a plan here: one target after another in this process, or several at once in processes of this machine.

torch is imported only where it is used, so that a finished sweep is planned without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.dispatch.checks import check_compiler
from harness.dispatch.labels import labels_of
from harness.dispatch.plan import Plan, save_experiments
from harness.dispatch.progress import Reporter, SweepProgress
from harness.dispatch.slurm.logs import telling
from harness.errors import FULL_CURE, FULL_WORDS, Blocked, DiskFull, Stopped
from harness.interrupts import STOPPING, StopRequest, blocked, on_signal, stop_on_interrupt
from harness.plugins import environment
from harness.processes import name_for_submitit, own_packages_first
from harness.store.lease import LeaseHeld, lease
from harness.store.store import Store, Target
from harness.wording import count_of


@dataclass
class Outcome:
    """What became of the targets of a run."""

    done: list[Target] = field(default_factory=list)
    failed: dict[Target, str] = field(default_factory=dict)
    blocked: dict[Target, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.failed and not self.blocked


def work_of(plan: Plan, targets: list[Target]) -> dict[Target, float]:
    """GMACs of each target."""
    from harness.engine.planned import planned_costs

    with planned_costs() as costs:
        return {target: costs(plan.sweep.quantity(target), plan.sweep.costed(target)) for target in targets}


def check_compiler_of(plan: Plan) -> None:
    """Raise :class:`ConfigError` if the plan compiles networks that cannot be compiled here."""
    check_compiler(
        (training.experiment for training in plan.missing_trainings), (cell.experiment for cell in plan.missing_cells)
    )


def run_inline(plan: Plan, store: Store, console: Console) -> Outcome:
    """Run what is missing in this process, one after another; a failure blocks what needs it and nothing else.

    Ctrl-C is let through as a KeyboardInterrupt that says what is saved. Raises :class:`DiskFull` at once.
    """
    check_compiler_of(plan)
    targets = plan.targets()
    save_experiments(plan, store, targets)
    labels = labels_of(plan.sweep)
    outcome = Outcome()
    with SweepProgress(console, work_of(plan, targets), labels, needs=plan.sweep.needs).shown() as progress:
        for target in targets:
            store.forget_failure(target)
            try:
                _run_one(store, target, progress, labels[target], outcome)
            except KeyboardInterrupt:
                left = [(target, labels[target])]
                raise KeyboardInterrupt(stopped_message(store, left, len(outcome.done), len(targets))) from None
    return outcome


def _run_one(store: Store, target: Target, progress: SweepProgress, label: str, outcome: Outcome) -> None:
    from harness.engine import jobs

    started = time.monotonic()
    with (
        progress.working_on(target) as report,
        stop_on_interrupt(lambda: report.is_in_main_phase, progress.note) as stop,
    ):
        try:
            made = jobs.run(store, target, report, stop.is_set)
        except Stopped:
            raise KeyboardInterrupt from None
        except Blocked as error:
            outcome.blocked[target] = str(error)
            progress.note(f"blocked  {label}: {error}", target)
        except LeaseHeld as error:
            outcome.failed[target] = str(error)
            progress.note(f"busy     {label}: {error}", target)
        except Exception as error:
            if stop.is_set():  # a terminal's Ctrl-C ends the loader's processes too, which the work may trip over
                raise KeyboardInterrupt from error
            outcome.failed[target] = jobs.first_line(error)
            progress.note(f"failed   {label}: {jobs.first_line(error)}", target)
            if isinstance(error, DiskFull):
                raise  # the rest would fail of the same
        else:
            report.spend()
            outcome.done.append(target)
            how = f"{time.monotonic() - started:.1f} s" if made else "by another process"
            progress.note(f"done     {label} ({how})", target, whole=made)


def stopped_message(store: Store, at_work: Iterable[tuple[Target, str]], done: int, count: int) -> str:
    """What is kept of a run that was stopped, and how it goes on."""
    kept = [f"{done} of {count} done and kept", *(f"{label}: {saved(store, target)}" for target, label in at_work)]
    return f"stopped; {'; '.join(kept)}; the same command goes on from there"


def saved(store: Store, target: Target) -> str:
    """What the next run of `target` will find."""
    if store.is_done(target):
        return "done"
    if target.kind == "training":
        steps = [int(path.stem.rpartition("-")[2]) for path in store.checkpoints(target.id)]
        return f"saved at step {max(steps)}" if steps else "nothing of it saved yet"
    if target.kind == "encoding":
        parts = len(list(store.latents_folder(target.id).glob("from-*.safetensors")))
        return f"{count_of(parts, 'part')} of it kept" if parts else "nothing of it saved"
    if target.kind == "table":
        shards = len(list(store.partial_folder(target.id).glob("*.safetensors")))
        if shards:
            return f"{count_of(shards, 'batch')} of it kept"
        return "nothing of it saved"
    done, total = store.state(target).get("progress") or (0, 0)
    return f"{done} of {total} images drawn are kept" if done else "nothing of it drawn yet"


class LocalJob:
    """A target as a callable for submitit: pickled by reference, so it holds nothing but names."""

    def __init__(self, root: Path, target: Target) -> None:
        self.root, self.target = root, target

    def __call__(self) -> None:
        """Make the target; a SIGTERM asks it to save what it has and leave."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # blocked so far, which what runs here might undo
        from harness.engine import jobs

        stop = StopRequest()
        with on_signal(signal.SIGTERM, stop.set), contextlib.suppress(Stopped):
            jobs.run(Store(self.root), self.target, should_stop=stop.is_set)


@dataclass
class _Slot:
    """A process at work."""

    target: Target
    job: Any
    report: Reporter
    started: float = field(default_factory=time.monotonic)


def run_local(plan: Plan, store: Store, console: Console, workers: int, poll_seconds: float = 0.5) -> Outcome:
    """Run what is missing in up to `workers` processes of this machine, through submitit's local executor.

    Ctrl-C is let through as a KeyboardInterrupt that says what is saved, once all processes have left; a second one
    does not wait for them. Raises :class:`DiskFull` when those at work have ended.
    """
    import torch

    check_compiler_of(plan)
    waiting = plan.targets()
    save_experiments(plan, store, waiting)
    labels = labels_of(plan.sweep)
    count = len(waiting)
    outcome = Outcome()
    logs = store.runs.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    slots: dict[int, _Slot] = {}
    for target in waiting:
        store.forget_failure(target)
    shown = SweepProgress(console, work_of(plan, waiting), labels, workers, plan.sweep.needs).shown()
    with shown as progress, name_for_submitit(logs) as folder:
        launcher = _Launcher(store, torch.cuda.device_count(), folder)
        try:
            while waiting or slots:
                _block(plan, store, waiting, progress, outcome)
                for number in range(workers):
                    if number in slots or not waiting:
                        continue
                    ready = next((t for t in waiting if all(store.is_done(need) for need in plan.needs(t))), None)
                    if ready is None and slots:
                        continue
                    ready = ready or waiting[0]  # what it needs has vanished: the job says so
                    waiting.remove(ready)
                    slots[number] = _Slot(ready, launcher.start(ready, number), progress.reporter(ready))
                    if launcher.asked.is_set():
                        raise KeyboardInterrupt
                for number, slot in list(slots.items()):
                    if slot.job.done():
                        del slots[number]
                        _close(store, slot, progress, labels[slot.target], outcome)
                        if is_without_space(store, outcome.failed.get(slot.target)):
                            waiting.clear()
                    else:
                        _tell(store, slot)
                time.sleep(poll_seconds)
        except KeyboardInterrupt:
            progress.note(STOPPING)
            _stop(store, slots.values())
            left = [(slot.target, labels[slot.target]) for slot in slots.values()]
            raise KeyboardInterrupt(stopped_message(store, left, len(outcome.done), count)) from None
    if any(is_without_space(store, reason) for reason in outcome.failed.values()):
        raise DiskFull(f"{store.runs}: {FULL_WORDS[0]}; {FULL_CURE}")
    return outcome


def _block(plan: Plan, store: Store, waiting: list[Target], progress: SweepProgress, outcome: Outcome) -> None:
    """Take out of `waiting` what needs something that has failed or is blocked: `waiting` lists needs first."""
    for target in list(waiting):
        lost = next((need for need in plan.needs(target) if need in outcome.failed or need in outcome.blocked), None)
        if lost is None or store.is_done(lost):
            continue
        waiting.remove(target)
        reason = outcome.blocked[target] = outcome.blocked.get(lost) or f"{lost} failed: {outcome.failed[lost]}"
        with contextlib.suppress(LeaseHeld), lease(store.lease_path(target)):
            store.set_state(target, state="blocked", error=reason)
        progress.note(f"blocked  {progress.label(target)}: {reason}", target)


class _Launcher:
    """Starts processes through submitit's local executor."""

    def __init__(self, store: Store, gpus: int, folder: Path) -> None:
        import submitit

        self.root, self.gpus = store.root.resolve(), gpus
        self.asked = StopRequest()
        self.executor = submitit.LocalExecutor(folder=folder / "%j")

    def start(self, target: Target, slot: int) -> Any:
        """A process that makes `target`. A terminal's Ctrl-C does not reach it: this process asks it to stop.

        A Ctrl-C meanwhile waits in `asked`, so that whoever calls knows of the process that was started.
        """
        gpus = {"visible_gpus": (slot % self.gpus,), "gpus_per_node": 1} if self.gpus else {}
        self.executor.update_parameters(timeout_min=7 * 24 * 60, **gpus)
        held = on_signal(signal.SIGINT, self.asked.set), blocked(signal.SIGINT)  # a child inherits that it is blocked
        with held[0], held[1], own_packages_first(environment()):
            return self.executor.submit(LocalJob(self.root, target))


def _tell(store: Store, slot: _Slot) -> None:
    """Show what the process has noted of itself."""
    state = store.state(slot.target)
    if state.get("state") != "running":
        return
    if state.get("phase"):
        phase, done, total = state["phase"]
        slot.report(done, total, phase)
    elif state.get("resumed"):
        slot.report(*state["progress"])


def _stop(store: Store, slots: Collection[_Slot]) -> None:
    """Ask all processes to save and leave, until they have; end them at once where that is interrupted."""
    try:
        while alive := [slot for slot in slots if not slot.job.done()]:
            for slot in alive:
                _send(int(slot.job.job_id), signal.SIGTERM)  # submitit's process hands it to the job's
            time.sleep(1.0)
    except KeyboardInterrupt:
        for slot in slots:
            if not slot.job.done():
                _send(int(slot.job.job_id), signal.SIGKILL)
                _send(store.state(slot.target).get("pid"), signal.SIGKILL)


def _send(process: int | None, number: int) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def is_without_space(store: Store, reason: str | None) -> bool:
    """Whether a process failed for want of space: by what it said, or where it could not even say so."""
    if reason is None:
        return False
    return any(words in reason for words in FULL_WORDS) or shutil.disk_usage(store.runs).free < 2**20


def _close(store: Store, slot: _Slot, progress: SweepProgress, label: str, outcome: Outcome) -> None:
    target = slot.target
    progress.remove(target)
    if store.is_done(target):
        slot.report.spend()
        outcome.done.append(target)
        progress.note(f"done     {label} ({time.monotonic() - slot.started:.1f} s)", target, whole=True)
        return
    state = store.state(target)
    log = store.runs.resolve() / "logs" / slot.job.job_id / slot.job.paths.stderr.name
    reason = state.get("error") or _last_words(log)
    group = outcome.blocked if state.get("state") == "blocked" else outcome.failed
    group[target] = reason
    progress.note(f"{'blocked ' if group is outcome.blocked else 'failed  '} {label}: {reason}", target)


def _last_words(log: Path) -> str:
    """Why a process has left no result and noted nothing."""
    said = telling(log).line
    return f"the process ended without a result{f': {said}' if said else ''}; its log: {log}"
