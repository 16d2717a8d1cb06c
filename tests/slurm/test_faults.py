"""The table of faults: after each the sweep completes, with one result per cell and the undisturbed run's figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.submissions import SubmittedArray, new_submission
from harness.errors import DispatchError
from tests.slurm import cluster
from tests.slurm.cluster import wait_until
from tests.slurm.sweeping import (
    BROKEN,
    TINY,
    Running,
    arguments,
    controller_lost_after_one_array,
    figures,
    harness,
    read_figures,
)

pytestmark = pytest.mark.slurm
Make = Callable[..., Running]
SLURM = ("--cluster", "slurm", "--slurm")


def test_undisturbed_jobs_give_the_figures_of_this_process(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    submitted = sweep.submit()
    assert submitted.submission is not None and len(submitted.submission.arrays) == 2
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed
    record = sweep.store.read_cell(sweep.cells[0].id)
    assert record.provenance.slurm_job_id == sweep.status().assigned[sweep.cells[0]].job


def test_time_out_three_times_over(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(options=["trainings.time=2m", "trainings.warning=55s"])  # the warning comes in the first minute
    sweep.dawdle(4)  # 60 steps take longer than three times that
    sweep.submit()
    (training,) = sweep.trainings
    saved: list[str] = []

    def wait_for_run(number: int) -> None:
        wait_until(lambda: sweep.attempts(training) == number, f"run {number}")

    for runs in (1, 2, 3):
        wait_for_run(runs)
        wait_until(lambda: sweep.store.state(training)["state"] == "waiting", f"time-out {runs}", release=False)
        saved.append(max(path.name for path in sweep.store.training_folder(training.id).glob("checkpoint-*")))
    assert saved == sorted(set(saved))  # each run has come further than the one before
    sweep.wait_complete()
    assert sweep.attempts(training) >= 4
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_warnings_while_a_job_begins_and_while_it_ends(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    job = sweep.submit_training()
    (training,) = sweep.trainings

    def warn() -> None:
        subprocess.run(["scancel", "--signal=USR2", job], capture_output=True, check=False)

    def is_reached(happened: Callable[[], bool]) -> bool:
        warn()
        return happened()

    wait_until(lambda: is_reached(lambda: sweep.attempts(training) == 1), "the first run", poll=0.05)
    wait_until(lambda: sweep.store.state(training)["state"] == "waiting", "it to be requeued", release=False)
    sweep.hurry()
    wait_until(lambda: sweep.store.is_done(training), "the training", poll=0.02)
    wait_until(lambda: is_reached(lambda: job not in sweep.live_jobs()), "its job to end", poll=0.02)
    wait_until(lambda: not cluster.final_state(job).startswith("RUNNING"), "accounting to know", seconds=30)
    assert cluster.final_state(job) == "COMPLETED 0:0"
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_preemption(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    job = sweep.row(training).job
    nodes = str(len(cluster.nodes()))
    cpus = cluster.command("sinfo", "--noheader", "--format=%c", "--partition=urgent").split()[0]
    options = ["--partition=urgent", f"--nodes={nodes}", f"--ntasks-per-node={cpus}", "--output=/dev/null", "--wait"]
    cluster.command("sbatch", *options, "--wrap=sleep 1")
    wait_until(lambda: sweep.attempts(training) == 2, "the training to start again")
    assert sweep.row(training).job == job
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


@pytest.mark.parametrize("kind", ["training", "cell"])
def test_node_loss(running: Make, undisturbed: dict[str, Any], kind: str) -> None:
    sweep = running(hold_cells=kind == "training")
    target = sweep.trainings[0] if kind == "training" else sweep.cells[0]
    sweep.submit()
    if kind == "cell":
        sweep.hurry()
        wait_until(lambda: sweep.store.is_done(sweep.trainings[0]), "the training")
        sweep.dawdle(0.5)
    sweep.at_work_on(target, least=3)
    before = sweep.row(target)
    with cluster.failed_node(before.node or ""):
        wait_until(lambda: sweep.attempts(target) == 2, f"{target} to start again")
        after = sweep.row(target)
        assert after.job == before.job and after.node != before.node
        sweep.finish_here() if kind == "training" else sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_kill_of_the_process(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    sweep.kill(training)
    wait_until(lambda: sweep.attempts(training) == 2, "the training to start again")
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_a_process_killed_too_often_fails_and_says_so(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True, options=["restarts=0"])
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    sweep.kill(training)
    wait_until(sweep.is_over, "the job to fail")
    assert (sweep.row(training).state, sweep.row(training).reason[:22]) == ("failed", "its process was killed")
    assert {sweep.row(cell).state for cell in sweep.cells} == {"blocked"}
    sweep.submit()
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_scancel_by_a_person_stays_cancelled_until_retry(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    cluster.command("scancel", sweep.row(training).job or "")
    wait_until(sweep.is_over, "the jobs to be cancelled")
    assert sweep.row(training).state == "cancelled"
    row = sweep.row(sweep.cells[0])
    assert (row.state, row.reason) == ("blocked", f"training {training.id} cancelled: by scancel")
    assert sweep.live_jobs() == [] and sweep.attempts(training) == 1
    sweep.hurry()
    assert json.loads(harness("retry", sweep, "--json", *SLURM, "cells_per_job=2"))["retried"] == [
        str(t) for t in (training, *sweep.cells)
    ]
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_told_to_stop_by_a_signal(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    job = sweep.submit_training()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    cluster.command("scancel", "--signal=TERM", job)
    wait_until(sweep.is_over, "the jobs to end")
    row = sweep.row(training)
    newest = max(sweep.store.training_folder(training.id).glob("checkpoint-*"))
    step = int(newest.name.removeprefix("checkpoint-").removesuffix(".safetensors"))
    saved = f"stopped, saved at step {step} of 60; harness sweep goes on from there"
    assert (row.state, row.reason) == ("cancelled", saved)
    assert sweep.row(sweep.cells[0]).reason == f"training {training.id} cancelled: {saved}"
    sweep.submit()
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_a_set_up_command_that_fails(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    sweep.hurry()
    sweep.submit("setup=[modul load cuda]")
    wait_until(sweep.is_over, "the jobs to end")
    row = sweep.row(sweep.trainings[0])
    assert row.state == "failed" and row.attempts == 0
    said = "set-up failed with status 127: modul load cuda: modul: command not found"
    assert row.reason == f"the job ended without a result: {said}"
    assert {sweep.row(cell).state for cell in sweep.cells} == {"blocked"}
    sweep.submit()
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_a_node_that_cannot_write_the_logs(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    sweep.hurry()
    job = sweep.submit_training("sbatch.hold=true")
    unseen = sweep.store.root.rename(sweep.folder / "unseen")
    sweep.store.root.write_text("the node has something else here")
    cluster.command("scontrol", "release", job)
    wait_until(lambda: cluster.final_state(job).startswith("FAILED"), "the job to end")
    sweep.store.root.unlink()
    unseen.rename(sweep.store.root)
    row = sweep.row(sweep.trainings[0])
    assert row.state == "failed" and row.reason.startswith("its node could not begin it: it cannot write to ")
    queue.cancel(sweep.live_jobs())
    wait_until(sweep.is_over, "the cells' jobs to end")
    sweep.submit()
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_the_queue_is_lost(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    job = sweep.submit_training()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=3)
    cluster.script("controller", "lose")
    wait_until(lambda: cluster.final_state(job).startswith("CANCELLED"), "accounting to know")
    wait_until(sweep.is_over, "the training's process to be gone")
    row = sweep.row(training)
    assert row.state == "lost" and row.reason.startswith(f"SLURM itself cancelled job {job}")
    assert {sweep.row(cell).state for cell in sweep.cells} == {"blocked"}
    sweep.submit()
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


@pytest.mark.parametrize("name", ["50% %j %a", 'it\'s a "b" #1', "a:b"])
def test_a_folder_of_any_name(running: Make, undisturbed: dict[str, Any], name: str) -> None:
    sweep = running(name)
    sweep.hurry()
    sweep.submit("cells_per_job=1")
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed
    for target in (*sweep.trainings, *sweep.cells):
        assert "all is made" in harness("logs", sweep, target.id)


def test_cancel_of_a_sweep_ends_its_jobs_and_is_remembered(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    sweep.submit()
    sweep.at_work_on(sweep.trainings[0], least=3)
    assert len(json.loads(harness("cancel", sweep, "--json"))["cancelled"]) == 2
    wait_until(sweep.is_over, "the jobs to be cancelled")
    assert sweep.live_jobs() == []
    assert (sweep.row(sweep.trainings[0]).state, sweep.row(sweep.trainings[0]).reason) == (
        "cancelled",
        "by harness cancel",
    )
    sweep.submit()
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["partition=nope"], "invalid partition specified: nope"),
        (["cells.partition=nope"], "invalid partition specified: nope"),
        (["cells.memory=900T"], "Memory specification can not be satisfied"),
        (["trainings.constraint=nope"], "Invalid feature specification"),
    ],
)
def test_refused_by_sbatch(running: Make, undisturbed: dict[str, Any], options: list[str], said: str) -> None:
    sweep = running()
    with pytest.raises(DispatchError, match=said) as refused:
        sweep.submit(*options)
    assert "nothing is submitted" in str(refused.value)
    wait_until(lambda: not sweep.live_jobs(), "what went before to be withdrawn")
    assert sweep.status().assigned == {}
    assert {row.state for row in sweep.status().rows.values()} == {"missing"}
    if options == ["cells.partition=nope"]:
        sweep.hold_cells = True
        sweep.submit()
        sweep.finish_here()
        assert figures(sweep.store, sweep.sweep) == undisturbed


def test_controller_down(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    with cluster.stopped_controller(), pytest.raises(DispatchError, match="Unable to contact slurm controller"):
        sweep.submit()
    sweep.submit()
    sweep.at_work_on(sweep.trainings[0])
    with cluster.stopped_controller():
        status = sweep.status()
        assert "SLURM cannot be reached" in status.note
        assert status.rows[sweep.trainings[0]].state == "running"  # the job goes on and its files say so
        assert status.rows[sweep.cells[0]].reason.endswith("SLURM cannot be asked")
        with pytest.raises(DispatchError, match="Unable to contact slurm controller"):
            sweep.submit()
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_controller_lost_between_two_arrays(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    with controller_lost_after_one_array(), pytest.raises(DispatchError, match="could not be withdrawn"):
        sweep.submit()
    again = sweep.submit()
    assert again.live == sweep.trainings and set(again.targets) == set(sweep.cells)
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_terminal_killed_between_sbatch_and_its_record(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    submission = new_submission(sweep.store, "tiny", "source")
    submission.arrays.append(SubmittedArray("tiny-trainings-lost.0", "training", ((sweep.trainings[0].id,),)))
    submission.save()
    cluster.command("sbatch", "--job-name=tiny-trainings-lost.0", "--hold", "--output=/dev/null", "--wrap=true")
    assert len(sweep.live_jobs()) == 1
    assert len(sweep.submit().targets) == 3
    assert "tiny-trainings-lost.0" not in cluster.command("squeue", "--noheader", "--format=%j")
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_accounting_off(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True, options=["restarts=0"])
    (training,) = sweep.trainings
    with cluster.no_accounting():
        sweep.submit()
        sweep.at_work_on(training, least=3)
        sweep.kill(training)
        wait_until(sweep.is_over, "the job to fail")
        assert sweep.row(training).state == "failed" and sweep.row(sweep.cells[0]).state == "blocked"
        sweep.submit()
        sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_disk_full_in_the_middle_of_a_checkpoint(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    (training,) = sweep.trainings
    results = sweep.store.root
    results.mkdir()
    cluster.command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(results))
    try:
        sweep.submit()
        sweep.at_work_on(training, least=3)
        size = next(sweep.store.training_folder(training.id).glob("checkpoint-*")).stat().st_size
        filler = results / "filler"
        fill(filler, leave=size // 2)
        wait_until(sweep.is_over, "the training to meet the full disk")
        row = sweep.row(training)
        assert row.state == "failed" and "No space left on device" in row.reason
        filler.unlink()
        sweep.submit()
        sweep.finish_here()
        assert figures(sweep.store, sweep.sweep) == undisturbed
    finally:
        queue.cancel(sweep.live_jobs())
        cluster.command("umount", "--lazy", str(results))


def fill(path: Path, leave: int) -> None:
    """Take all room of the file system of `path` but `leave` bytes."""
    with path.open("wb", buffering=0) as file:
        while (free := shutil.disk_usage(path).free - leave) > 0:
            file.write(b"x" * min(free, 1 << 20))


def test_checkpoint_cut_in_half(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(hold_cells=True)
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training, least=5)
    cluster.command("scancel", sweep.row(training).job or "")
    wait_until(sweep.is_over, "the jobs to be cancelled")
    newest = max(sweep.store.training_folder(training.id).glob("checkpoint-*"))
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size // 2)
    sweep.submit()
    sweep.finish_here()
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert "set aside" in sweep.errors(training)
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_two_submissions_at_the_same_moment(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    terminals = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "harness.cli",
                *arguments("sweep", sweep, "--json", *SLURM, "cells.sbatch.hold=true"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [json.loads(terminal.communicate(timeout=200)[0]) for terminal in terminals]
    assert sorted(len(one["submitted"]) for one in said) == [0, 3]
    assert sorted(len(one["live"]) for one in said) == [0, 3]
    assert len(sweep.live_jobs()) == 3
    sweep.finish_here()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_two_jobs_for_the_same_targets(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running()
    first = sweep.submit()
    sweep.at_work_on(sweep.trainings[0])
    assert first.submission is not None
    record = first.submission.folder / "record.json"
    hidden = record.rename(record.with_name("hidden.json"))  # as if another machine could not see it
    sweep.submit()
    hidden.rename(record)
    assert len(sweep.live_jobs()) == 4
    sweep.hurry()
    wait_until(lambda: not sweep.live_jobs(), "all jobs to end")
    assert [sweep.attempts(target) for target in (*sweep.trainings, *sweep.cells)] == [1, 1, 1]
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_source_edited_between_submission_and_start(running: Make, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    sweep = running()
    sweep.hurry()
    copied = tmp_path / "checkout"
    for name in ("harness", "models"):
        shutil.copytree(Path(__file__).parents[2] / name, copied / name)
    submitted = subprocess.run(
        [
            sys.executable,
            "-m",
            "harness.cli",
            *arguments("sweep", sweep, "--json", *SLURM, "sbatch.hold=true", "--slurm", "cells_per_job=2"),
        ],
        cwd=copied,
        stdout=subprocess.PIPE,
        check=True,
    )
    for path in copied.rglob("*.py"):
        path.write_text("raise SystemExit('edited')\n")
    for job in json.loads(submitted.stdout)["jobs"]:
        cluster.command("scontrol", "release", job)
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_a_training_that_raises_blocks_its_cells_alone(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(text=TINY + BROKEN)
    sweep.hurry()
    sweep.submit()
    wait_until(sweep.is_over, "the sweep to end")
    status = sweep.status()
    (failed,) = status.in_states(["failed"])
    (blocked,) = status.in_states(["blocked"])
    assert failed.target.kind == "training" and failed.reason.startswith("Diverged: the loss is")
    assert sweep.sweep.cells[blocked.target.id].training == failed.target.id
    assert blocked.reason == f"training {failed.target.id} failed: {failed.reason}"
    assert "Diverged" in harness("logs", sweep, failed.target.id)
    told = {row["id"]: row for row in json.loads(harness("status", sweep, "--json"))["rows"]}
    assert told[blocked.target.id]["reason"] == blocked.reason
    healthy = {id: made for id, made in read_figures(sweep.store).items() if id != blocked.target.id}
    assert healthy == undisturbed
