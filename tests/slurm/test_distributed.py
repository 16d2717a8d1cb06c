"""One training and one cell over two nodes of the cluster (gloo) against the one process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.files import read_json
from harness.store.store import Store
from harness.store.weights import load_tensors
from tests.slurm import cluster
from tests.slurm.cluster import wait_until
from tests.slurm.sweeping import Running, figures, run_here

pytestmark = pytest.mark.slurm
Make = Callable[..., Running]


def test_a_training_over_two_nodes_equals_the_one_process(running: Make, undisturbed_store: Store) -> None:
    sweep = running(options=["trainings.nodes=2"], hold_cells=True)
    sweep.hurry()
    sweep.submit()
    sweep.finish_here()
    (training,) = sweep.trainings
    done = read_json(sweep.store.done_path(training.id))
    assert done["ranks"] == 2
    two, _ = load_tensors(sweep.store.weights_path(training.id))
    one, _ = load_tensors(undisturbed_store.weights_path(training.id))
    assert two.keys() == one.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    alone = read_json(undisturbed_store.done_path(training.id))
    print(f"images per second: {done['images_per_second']} on two nodes, {alone['images_per_second']} in one process")


def test_a_cell_over_two_nodes_gives_the_very_images(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(options=["cells.nodes=2"])
    (training,) = sweep.trainings
    sweep.hurry()
    run_here(sweep, {training})
    sweep.submit()
    sweep.wait_complete()
    assert {sweep.store.read_cell(cell.id).provenance.ranks for cell in sweep.cells} == {2}
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_two_ranks_stop_together_and_go_on_after_the_signal_of_a_time_out(running: Make) -> None:
    sweep = running(options=["trainings.nodes=2"], hold_cells=True)
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training)
    cluster.command("scancel", "--signal=USR2", sweep.row(training).job or "")
    wait_until(lambda: sweep.store.state(training)["state"] == "waiting", "both ranks to stop", release=False)
    assert len(list(sweep.store.training_folder(training.id).glob("checkpoint-*"))) >= 1
    sweep.finish_here()
    assert sweep.attempts(training) == 2


def rank_of(job: str, rank: int) -> int:
    """The process of one rank of a job."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = set((process / "environ").read_bytes().split(b"\0"))
            if words >= wanted and b"start.py" in (process / "cmdline").read_bytes():
                return int(process.name)
    raise AssertionError(f"no rank {rank} of job {job}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_lost_rank(running: Make, undisturbed_store: Store, number: int) -> None:
    """kill -9 of the second rank starts the job again; a crash of it ends the job, and the first does not wait."""
    sweep = running(options=["trainings.nodes=2"], hold_cells=True)
    job = sweep.submit_training()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    os.kill(rank_of(job, 1), number)
    if number == signal.SIGSEGV:
        wait_until(sweep.is_over, "the job to fail")
        assert sweep.row(training).state == "failed" and "task 1: Segmentation fault" in sweep.row(training).reason
        return
    wait_until(lambda: sweep.attempts(training) == 2, "the training to start again")
    sweep.finish_here()
