"""A teacher's graph in processes of this machine (`--cluster local`): who waits for whom, what blocks whom, and what a
retry and the status make of it. The processes are run in this one, each once it was asked often enough whether it has
ended, so that others are started meanwhile."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from rich.console import Console

from harness.dispatch import local
from harness.dispatch.local import LocalJob, Outcome, run_local
from harness.dispatch.plan import plan
from harness.dispatch.sweep import Sweep, load_sweep
from harness.engine import train
from harness.interrupts import StopRequest
from harness.store.store import Store, Target
from tests.harness.tiny import by_arm, invoke

SWEEP = """
name: taught
base:
  model: {kind: single_rate, width: 8, blocks: [1, 1], head_width: 8}
  train: {steps: 2, batch: 8, learning_rate: 1.0e-3}
  sample: {steps: 2, batch: 16, sampler: ddim}
  measure: {images: 16, latency: {repeats: 1, warmup: 0, batch: 8}}
arms:
  student:
    set: {train.start: base, distill.method: regression, distill.teacher: teacher, distill.steps: 2}
  base: {cells: false}
  teacher: {cells: false, set: {train.learning_rate: 2.0e-3}}
  apart: {set: {train.steps: 3}}
"""
"""A student that starts from one training and is taught by another; and one that has to do with neither."""
REASON = "RuntimeError: the device fell off the bus"


class Job:
    """What submitit tells of a process; its work is done at the second question, or as late as it is told."""

    def __init__(self, launcher: type[Launcher], root: Path, target: Target) -> None:
        self.launcher, self.root, self.target, self.asked = launcher, root, target, 0
        self.job_id, self.paths = "1", SimpleNamespace(stderr=Path("1_log.err"))

    def done(self) -> bool:
        self.asked += 1
        if self.asked < self.launcher.questions.get(self.target, 2):
            return False
        if self in self.launcher.at_work:
            self.launcher.at_work.remove(self)
            if self.target not in self.launcher.killed:
                handler = signal.getsignal(signal.SIGINT)
                try:
                    LocalJob(self.root, self.target)()
                except Exception:
                    self.launcher.raised += 1  # as in a process of its own: what went wrong is in the target's state
                finally:
                    signal.signal(signal.SIGINT, handler)
            self.launcher.ended(self.target)
        return True


class Launcher:
    """Starts no process, but tells of each target what was at work and done when it was its turn."""

    at_work: ClassVar[list[Job]]
    started: ClassVar[list[tuple[Target, set[Target], set[Target]]]]
    killed: ClassVar[set[Target]]
    questions: ClassVar[dict[Target, int]]
    raised: ClassVar[int]
    ended: ClassVar[Callable[[Target], None]]

    def __init__(self, store: Store, gpus: int, folder: Path) -> None:
        self.store, self.asked = store, StopRequest()

    def start(self, target: Target, slot: int) -> Any:
        at_work = {job.target for job in self.at_work}
        known = [at for at, *_ in self.started]
        self.started.append((target, at_work, {one for one in known if self.store.is_done(one)}))
        self.at_work.append(Job(type(self), self.store.root, target))
        return self.at_work[-1]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Launcher]]:
    Launcher.at_work, Launcher.started, Launcher.killed, Launcher.raised = [], [], set(), 0
    Launcher.questions = {}
    Launcher.ended = staticmethod(lambda target: None)
    monkeypatch.setattr(local, "_Launcher", Launcher)
    yield Launcher
    assert not Launcher.at_work


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP)
    return load_sweep(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def run(sweep: Sweep, store: Store, workers: int = 2) -> Outcome:
    return run_local(plan(sweep, store), store, Console(quiet=True), workers, poll_seconds=0.0)


def cell_of(sweep: Sweep, arm: str) -> Target:
    return next(cell.target for cell in sweep.cells.values() if cell.rows[0][0] == arm)


def rows(sweep: Sweep, store: Store) -> dict[str, dict[str, Any]]:
    told = json.loads(invoke("status", sweep.path, "--results", store.root, "--json"))
    return {row["id"]: row for row in told["rows"]}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_student_waits_for_its_start_and_its_teacher_and_no_one_else(
    sweep: Sweep, store: Store, launcher: type[Launcher], workers: int
) -> None:
    arms = by_arm(sweep)
    launcher.questions = {arms["teacher"]: 9}  # its start is there long before
    outcome = run(sweep, store, workers)
    assert outcome.is_complete and len(outcome.done) == 6 == len(launcher.started)
    begun = {target: (at_work, done) for target, at_work, done in launcher.started}
    for target, (at_work, done) in begun.items():
        assert set(sweep.needs[target]) <= done and not at_work & set(sweep.needs[target])
        assert len(at_work) < workers
    assert sweep.needs[arms["student"]] == (arms["base"], arms["teacher"])
    together = {frozenset((target, other)) for target, (at_work, _) in begun.items() for other in at_work}
    assert (frozenset((arms["base"], arms["teacher"])) in together) == (workers > 1), "neither waits for the other"
    assert plan(sweep, store).targets() == []


@pytest.mark.parametrize("way", ["raises", "killed"])
def test_a_teacher_that_fails_blocks_its_student_and_a_retry_revives_both(
    sweep: Sweep, store: Store, launcher: type[Launcher], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    arms, whole = by_arm(sweep), train.train_network
    teacher, student = arms["teacher"], arms["student"]

    def breaking(experiment: Any, training: str, *further: Any, **options: Any) -> Any:
        if training == teacher.id:
            raise RuntimeError("the device fell off the bus")
        return whole(experiment, training, *further, **options)

    with monkeypatch.context() as patched:
        if way == "raises":
            patched.setattr(train, "train_network", breaking)
        else:
            launcher.killed = {teacher}
        outcome = run(sweep, store)
    launcher.killed = set()
    (reason,) = outcome.failed.values()
    assert set(outcome.failed) == {teacher}
    assert reason == REASON if way == "raises" else reason.startswith("the process ended without a result; its log: ")
    blocked = [student, cell_of(sweep, "student")]
    assert outcome.blocked == dict.fromkeys(blocked, f"{teacher} failed: {reason}")
    assert set(outcome.done) == {arms["base"], arms["apart"], cell_of(sweep, "apart")}
    assert student not in [target for target, *_ in launcher.started]
    told = rows(sweep, store)
    assert {told[target.id]["state"] for target in blocked} == {"blocked"}
    assert {told[target.id]["reason"] for target in blocked} == set(outcome.blocked.values())
    assert told[arms["base"].id]["state"] == "done"
    if way == "raises":
        assert (told[teacher.id]["state"], told[teacher.id]["reason"]) == ("failed", REASON)
        said = json.loads(
            invoke("retry", sweep.path, teacher.id, "--results", store.root, "--cluster", "inline", "--json")
        )
        assert said["retried"] == [str(target) for target in (teacher, *blocked)]
    else:  # what has noted nothing of itself is missing work, which the same command does
        assert run(sweep, store).done == [teacher, *blocked]
    assert {row["state"] for row in rows(sweep, store).values()} == {"done"}


def test_a_student_whose_start_has_vanished_says_so(sweep: Sweep, store: Store, launcher: type[Launcher]) -> None:
    """Gone once its own process had ended well: the student is not left waiting for ever."""
    arms = by_arm(sweep)
    done = store.training_folder(arms["base"].id) / "done.json"
    launcher.ended = staticmethod(lambda target: done.unlink() if target == arms["teacher"] else None)
    outcome = run(sweep, store, workers=1)
    assert arms["base"] in outcome.done and not outcome.failed
    reason = outcome.blocked[arms["student"]]
    assert f"training {arms['base'].id} has not finished" in reason
    assert outcome.blocked == dict.fromkeys((arms["student"], cell_of(sweep, "student")), reason)
    launcher.ended = staticmethod(lambda target: None)
    assert run(sweep, store).done == [arms["base"], arms["student"], cell_of(sweep, "student")]
