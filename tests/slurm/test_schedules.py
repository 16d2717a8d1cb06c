"""Cells that need a table on a real cluster: a training, a table of its errors, cells sampled by what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.test_schedules import SWEEP
from tests.slurm.cluster import wait_until
from tests.slurm.sweeping import Running, figures, harness, read_figures, run_here

pytestmark = pytest.mark.slurm
SCHEDULED = SWEEP.replace("name: schedules", "name: scheduled").replace("  ddt: {set: {sample.schedule: ddt}}\n", "")


def test_a_table_that_cells_need_is_cancelled_retried_and_killed(
    running: Callable[..., Running], tmp_path: Path
) -> None:
    undisturbed = Running(tmp_path / "alone", SCHEDULED)
    run_here(undisturbed, {*undisturbed.tables, *undisturbed.cells})
    sweep = running(text=SCHEDULED)
    submitted = sweep.submit("tables.sbatch.hold=true", "tables.time=5m")
    (training,), (table,) = sweep.trainings, sweep.tables
    assert submitted.targets[0] == training and set(submitted.targets[1:]) == {table, *sweep.cells}
    needing = [target for target in sweep.cells if table in sweep.sweep.needs[target]]
    (even,) = set(sweep.cells) - set(needing)
    assert len(needing) == 2
    sweep.hurry()
    wait_until(lambda: sweep.store.is_done(training) and sweep.store.is_done(even), "the cell without a table to end")
    rows = sweep.status().rows
    assert [(rows[target].state, rows[target].reason) for target in needing] == [("waiting", "for its table")] * 2
    harness("cancel", sweep, table.id)
    wait_until(sweep.is_over, "all that waits to be cancelled")
    reason = f"table {table.id} cancelled: by harness cancel"
    rows = sweep.status().rows
    assert [(rows[target].state, rows[target].reason) for target in needing] == [("blocked", reason)] * 2
    sweep.dawdle(0.05)
    harness("retry", sweep, "--slurm", "tables.sbatch.hold=false")
    sweep.at_work_on(table)
    sweep.kill(table)
    wait_until(lambda: sweep.attempts(table) == 2, "the table to be measured again")
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == read_figures(undisturbed.store)
