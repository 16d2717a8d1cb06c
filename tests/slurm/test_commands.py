"""The command line on a real cluster, without faults."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from harness.dispatch.slurm import queue
from tests.slurm import cluster
from tests.slurm.sweeping import Running, harness

pytestmark = pytest.mark.slurm
Make = Callable[..., Running]
SLURM = ("--cluster", "slurm")


def test_sweep_with_wait_ends_with_the_report(running: Make) -> None:
    sweep = running()
    sweep.hurry()
    said = harness("sweep", sweep, *SLURM, "--wait", "--slurm", "cells_per_job=2", "--json")
    answer = json.loads(said)
    assert answer["failures"] == {} and "table.md" in answer["files"]
    assert json.loads(harness("status", sweep, "--json"))["complete"]
    assert "all 2 cells are done; nothing runs" in harness("sweep", sweep, *SLURM)


def test_dry_run_tells_jobs_and_gpu_hours_and_submits_nothing(running: Make) -> None:
    sweep = running()
    options = ["--slurm", "gpus=1", "--slurm", "time=90m", "--slurm", "cells.time=30m", "--slurm", "partition=urgent"]
    asked = json.loads(harness("sweep", sweep, *SLURM, "--dry-run", "--json", *options))["slurm"]
    trainings, cells = asked["arrays"]
    assert (trainings["kind"], trainings["jobs"], cells["kind"], cells["jobs"]) == ("training", 1, "cell", 2)
    assert {"--gpus-per-node=1", "--time=90", "--partition=urgent", "--requeue"} <= set(trainings["sbatch"])
    assert {"--dependency=afterok:ARRAY0", "--array=0-1%2", "--kill-on-invalid-dep=yes"} <= set(cells["sbatch"])
    assert asked["gpu_hours_at_most"] == 1.5 + 2 * 0.5
    assert not (sweep.store.root / "runs").exists() and sweep.live_jobs() == []
    assert "3 jobs in 2 calls of sbatch; at most 2.5 GPU-hours" in harness(
        "sweep", sweep, *SLURM, "--dry-run", *options
    )


def test_jobs_get_what_they_ask_for(running: Make) -> None:
    sweep = running(hold_cells=True)
    submitted = sweep.submit("cpus=2", "gpus=1", "memory=300M", "sbatch.hold=true", "sbatch.nice=7", "setup=['true']")
    assert submitted.submission is not None
    shown = cluster.command("scontrol", "show", "job", submitted.submission.arrays[0].job or "")
    for expected in ("NumCPUs=2", "gpu", "MinMemoryNode=300M", "Nice=7", "TimeLimit=00:10:00", "Requeue=1"):
        assert expected in shown


def test_logs_of_a_cell_and_of_nothing(running: Make) -> None:
    sweep = running()
    with pytest.raises(Exception, match="no job of it has left a log"):
        harness("logs", sweep, sweep.cells[0].id)
    with pytest.raises(Exception, match="xyz: no training or cell of this sweep has such an id"):
        harness("logs", sweep, "xyz")
    sweep.submit()
    sweep.at_work_on(sweep.trainings[0])
    assert "Starting with JobEnvironment" in harness("logs", sweep, sweep.trainings[0].id[:8])


def test_arrays_are_split_at_the_clusters_limit_and_cancelled_as_one(running: Make) -> None:
    most = queue.max_array_size()
    text = f"""
name: many
base: {{model: {{kind: single_rate, width: 8}}}}
arms:
  base:
    grid: {{sample.steps: {list(range(1, most + 6))}}}
"""
    sweep = running(text=text)
    submitted = sweep.submit("sbatch.hold=true", "cells_per_job=1")
    assert submitted.submission is not None
    assert [len(array.elements) for array in submitted.submission.arrays] == [1, most, 5]
    assert len(sweep.live_jobs()) == most + 6
    assert sweep.submit().targets == []
    harness("cancel", sweep)
    cluster.wait_until(lambda: not sweep.live_jobs(), "all to be cancelled")


def test_slurm_options_need_slurm(running: Make) -> None:
    sweep = running()
    with pytest.raises(Exception, match="partition=x: has no meaning with --cluster inline"):
        harness("sweep", sweep, "--cluster", "inline", "--slurm", "partition=x")
