"""A chain of three trainings on a real cluster: each the start of the next, the last with cells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.config import methods
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.slurm.submit import submit
from harness.dispatch.sweep import load_sweep
from harness.store.store import Store, Target
from tests.harness.tabled import SWEEP as TABLED
from tests.harness.tabled import write_method
from tests.slurm import cluster
from tests.slurm.cluster import wait_until
from tests.slurm.sweeping import TINY, Running, figures, harness, read_figures, run_here

pytestmark = pytest.mark.slurm
Make = Callable[..., Running]
HELD = "sbatch.hold=true"
CHAIN = (
    TINY.replace("arms:", "arms:\n  first: {cells: false}\n  middle: {cells: false, set: {train.start: first}}")
    .replace("  base:\n    grid", "  last:\n    set: {train.start: middle}\n    grid")
    .replace("steps: 60", "steps: 20")
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The chain, run in this process without any fault."""
    sweep = Running(tmp_path_factory.mktemp("alone"), CHAIN)
    run_here(sweep, set(sweep.cells))
    return sweep.store


def check(sweep: Running, alone: Store) -> None:
    """Every target is done, with the weights and figures of an undisturbed run."""
    assert figures(sweep.store, sweep.sweep) == read_figures(alone)
    for training in sweep.trainings:
        assert sweep.store.weights_path(training.id).read_bytes() == alone.weights_path(training.id).read_bytes()


def told(sweep: Running, *targets: Target) -> list[tuple[str, str]]:
    rows = sweep.status().rows
    return [(rows[target].state, rows[target].reason) for target in targets]


def test_a_chain_is_preempted_and_killed_and_ends_the_same(running: Make, alone: Store) -> None:
    sweep = running(text=CHAIN)
    submitted = sweep.submit()
    first, middle, last = sweep.trainings
    assert submitted.targets == [first, middle, last, *sweep.cells]
    assert submitted.submission is not None and len(submitted.submission.arrays) == 4  # one for each level
    sweep.at_work_on(first, least=3)
    assert told(sweep, middle, last, *sweep.cells) == [
        *[("waiting", "for the training that it starts from")] * 2,
        *[("waiting", "for its training")] * 2,
    ]
    cluster.command("scontrol", "requeue", sweep.row(first).job or "")  # what preemption does
    wait_until(lambda: sweep.attempts(first) == 2, "the first to start again")
    sweep.hurry()
    wait_until(lambda: sweep.store.is_done(first), "the first to end")
    sweep.dawdle(0.5)
    sweep.at_work_on(middle, least=3)
    sweep.kill(middle)
    wait_until(lambda: sweep.attempts(middle) == 2, "the second to start again")
    sweep.wait_complete()
    check(sweep, alone)


def test_a_chain_fails_is_blocked_retried_and_cancelled(running: Make, alone: Store) -> None:
    sweep = running(text=CHAIN, options=["restarts=0"])
    sweep.submit()
    first, middle, last = sweep.trainings
    followers = [middle, last, *sweep.cells]
    sweep.at_work_on(first, least=3)
    sweep.kill(first)
    wait_until(sweep.is_over, "all that waits to be cancelled")
    ((state, reason),) = told(sweep, first)
    assert state == "failed" and reason.startswith("its process was killed")
    assert told(sweep, *followers) == [("blocked", f"training {first.id} failed: {reason}")] * 4
    retried = json.loads(
        harness("retry", sweep, first.id, "--json", "--slurm", "time=10m", "--slurm", "cells_per_job=2")
    )
    assert retried["retried"] == [str(target) for target in (first, *followers)]
    sweep.hurry()
    wait_until(lambda: sweep.store.is_done(first), "the first to end")
    sweep.dawdle(0.5)
    sweep.at_work_on(middle, least=3)
    harness("cancel", sweep, middle.id)
    wait_until(sweep.is_over, "all that waits to be cancelled")
    assert told(sweep, middle) == [("cancelled", "by harness cancel")]
    assert told(sweep, last, *sweep.cells) == [("blocked", f"training {middle.id} cancelled: by harness cancel")] * 3
    sweep.hurry()
    harness("retry", sweep)
    sweep.wait_complete()
    assert sweep.attempts(first) == 2  # it was done, and is not trained again
    check(sweep, alone)


@pytest.fixture
def tabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of a sweep: a training, a table of it, two trainings that need both, and their cells."""
    monkeypatch.syspath_prepend(str(write_method(tmp_path / "method")))
    monkeypatch.setattr(methods, "_loaded", dict(methods._loaded))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.delitem(sys.modules, "tabled", raising=False)
    return TABLED.replace("steps: 4", "steps: 20")


def test_a_table_between_trainings_is_killed_and_ends_the_same(running: Make, tabled: str, tmp_path: Path) -> None:
    undisturbed = Running(tmp_path / "alone", tabled)
    run_here(undisturbed, {*undisturbed.tables, *undisturbed.cells})
    sweep = running(text=tabled)
    submitted = sweep.submit()
    (table,), first = sweep.tables, sweep.trainings[-1]
    followers = sweep.trainings[:-1]
    assert submitted.targets[:2] == [first, table] and submitted.submission is not None
    kinds = [array.kind for array in submitted.submission.arrays]
    assert kinds == ["training", "table", "training", "cell"]
    sweep.at_work_on(first, least=3)
    assert told(sweep, table, *followers, *sweep.cells) == [
        ("waiting", "for the training that it measures"),
        *[("waiting", "for its table")] * 2,
        *[("waiting", "for its training")] * 2,
    ]
    assert "tables: 1 waiting; " in harness("status", sweep)
    sweep.dawdle(0.05)
    sweep.at_work_on(table, least=2)
    sweep.kill(table)
    wait_until(lambda: sweep.attempts(table) == 2, "the table to be measured again")
    sweep.wait_complete()
    check(sweep, undisturbed.store)
    assert sweep.row(table).state == "done"


def test_a_cancelled_table_blocks_what_needs_it_and_is_retried(running: Make, tabled: str) -> None:
    sweep = running(text=tabled)
    sweep.submit("tables.sbatch.hold=true", "tables.time=5m")
    (table,), first = sweep.tables, sweep.trainings[-1]
    followers = [*sweep.trainings[:-1], *sweep.cells]
    sweep.hurry()
    wait_until(lambda: sweep.store.is_done(first), "the first to end")
    assert sweep.row(table).state == "queued" and sweep.submit().live == [table, *followers]
    harness("cancel", sweep, table.id)
    wait_until(sweep.is_over, "all that waits to be cancelled")
    assert told(sweep, *followers) == [("blocked", f"table {table.id} cancelled: by harness cancel")] * 4
    assert json.loads(harness("retry", sweep, table.id, "--json", "--slurm", "time=10m"))["retried"] == [
        str(target) for target in (table, *followers)
    ]
    sweep.wait_complete()


def test_orphans_of_any_depth_are_found_and_submitted_again(running: Make) -> None:
    sweep = running(text=CHAIN)
    sweep.submit(HELD)
    first, middle, last = sweep.trainings
    before = {target: sweep.row(target).job for target in sweep.sweep.nodes}
    harness("cancel", sweep, middle.id)
    again = sweep.submit(HELD)  # at once: SLURM has not yet ended what waits for it
    assert again.live == [first] and again.targets == [middle, last, *sweep.cells]
    assert sweep.row(first).job == before[first]
    left = sweep.live_jobs()
    wait_until(lambda: len(sweep.live_jobs()) == 4, f"the orphans to be gone from {left}")
    assert not {before[target] for target in again.targets} & set(sweep.live_jobs())


def test_what_another_sweep_needs_goes_on_with_all_that_comes_before_it(running: Make, tmp_path: Path) -> None:
    sweep = running(text=CHAIN)
    sweep.submit(HELD)
    first, middle, last = sweep.trainings
    file = tmp_path / "other.yaml"
    file.write_text(CHAIN.replace("name: tiny", "name: other").replace("[ancestral, ddim]", "[heun]"))
    other = submit(load_sweep(file), sweep.store, load_settings({"time": "10m"}, "s", [HELD]))
    assert [target.kind for target in other.targets] == ["cell"]
    said = harness("cancel", sweep)
    assert "1 job cancelled" in said  # that of its own cells
    for training in (first, middle, last):
        assert f"{training} (job {sweep.row(training).job}) goes on: needed by " in said
    harness("cancel", sweep, first.id)
    assert sweep.row(first).state == "cancelled"


def test_a_limit_on_jobs_takes_the_levels_in_their_order(running: Make) -> None:
    sweep = running(text=CHAIN.replace("arms:", "seeds: [0, 1]\narms:"))
    with cluster.job_limit(5):
        submitted = sweep.submit(HELD)
        levels: list[Any] = [sweep.sweep.nodes[target] for target in submitted.targets]
        assert sorted(level.arms[0] for level in levels) == ["first", "first", "last", "middle", "middle"]
        assert len(submitted.left) == 5  # one training and four cells
        harness("cancel", sweep)
