"""Submitting, cancelling and looking after jobs on a real cluster: whose jobs they are, and what a person is told."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import cluster as cluster_commands
from harness.cli.app import app
from harness.dispatch.slurm import queue
from harness.dispatch.slurm import submit as submit_module
from harness.dispatch.slurm.cancel import cancel_jobs
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.slurm.submissions import load_submissions
from harness.dispatch.sweep import Sweep, load_sweep
from harness.errors import ConfigError, DispatchError
from harness.store.store import Target
from tests.slurm import cluster
from tests.slurm.cluster import wait_until
from tests.slurm.sweeping import STEPS, TINY, Running, arguments, controller_lost_after_one_array, figures, harness

pytestmark = pytest.mark.slurm
Make = Callable[..., Running]
HELD = "sbatch.hold=true"
SLURM = ("--cluster", "slurm", "--slurm")


def edit(sweep: Running, steps: int = STEPS + 1) -> None:
    """Another version of the file: another training, other cells."""
    sweep.file.write_text(sweep.text.replace(f"steps: {STEPS},", f"steps: {steps},"))


def pasted(said: str, name: str) -> list[str]:
    """The arguments of the first `harness NAME …` that was told."""
    (line, *_) = (line for line in said.splitlines() if f"harness {name} " in line)
    words = shlex.split(line[line.index(f"harness {name} ") :])
    return words[1:]


def run(words: list[str]) -> str:
    """What a pasted command prints."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_jobs_of_an_earlier_version_are_told_and_ended(running: Make) -> None:
    sweep = running()
    sweep.submit(HELD)
    before = sweep.live_jobs()
    edit(sweep)
    assert sorted(sweep.status().earlier) == sorted(before)
    told = harness("status", sweep)
    assert f"{len(before)} jobs of an earlier version of this sweep in SLURM's queue" in told
    assert "the jobs of the earlier version go on beside it" in told
    asked = json.loads(harness("sweep", sweep, "--dry-run", "--json", *SLURM, HELD))["slurm"]
    assert f"{len(before)} jobs of an earlier version" in asked["note"]
    said = harness("sweep", sweep, *SLURM, HELD)
    assert f"{len(before)} jobs of an earlier version" in said and "they go on beside these" in said
    assert set(before) < set(sweep.live_jobs())
    assert f"{len(before)} jobs cancelled" in run(pasted(said, "cancel"))
    assert sweep.status().earlier == [] and len(sweep.live_jobs()) == 3  # this version's: a training and two cells
    edit(sweep, STEPS + 2)
    assert "3 jobs cancelled" in harness("cancel", sweep)
    wait_until(lambda: not sweep.live_jobs(), "all to be cancelled")


@pytest.mark.parametrize("change", ["renamed", "broken", "deleted"])
def test_cancel_finds_the_jobs_of_a_file_that_is_no_more(running: Make, change: str) -> None:
    sweep = running()
    harness("sweep", sweep, *SLURM, HELD)
    if change == "renamed":
        sweep.file.write_text(sweep.text.replace("name: tiny", "name: other"))
    elif change == "broken":
        sweep.file.write_text("name: [")
    else:
        sweep.file.unlink()
    assert "3 jobs cancelled" in harness("cancel", sweep)
    wait_until(lambda: not sweep.live_jobs(), "all to be cancelled")


def test_a_version_by_set_is_another_sweep_and_goes_on(running: Make) -> None:
    sweep = running()
    harness("sweep", sweep, "--set", "train.steps=7", *SLURM, HELD)
    assert sweep.status().earlier == []
    said = harness("cancel", sweep)
    assert "0 jobs cancelled" in said and "3 jobs of tiny --set train.steps=7 go on" in said
    assert len(sweep.live_jobs()) == 3
    assert "3 jobs cancelled" in harness("cancel", sweep, "--set", "train.steps=7")


def other_sweep(sweep: Running, sampler: str = "heun") -> Sweep:
    """A sweep of another name in the same folder, with a cell of the same training."""
    file = sweep.folder / "other.yaml"
    file.write_text(TINY.replace("name: tiny", "name: other").replace("[ancestral, ddim]", f"[{sampler}]"))
    return load_sweep(file)


def submit_held(sweep: Sweep, running: Running) -> submit_module.Submitted:
    return submit_module.submit(sweep, running.store, load_settings({"time": "10m"}, "s", [HELD]))


def test_a_training_that_another_sweep_waits_for_goes_on_and_is_named(running: Make) -> None:
    sweep = running()
    sweep.submit(HELD)
    other = other_sweep(sweep)
    assert len(submit_held(other, sweep).targets) == 1
    (training,) = sweep.trainings
    said = harness("cancel", sweep)
    assert "1 job cancelled" in said  # its cells' job
    assert f"{training} (job {sweep.row(training).job}) goes on: needed by 1 cell of other" in said
    assert sweep.row(training).state == "queued"
    assert cancel_jobs(other, sweep.store).jobs  # its own cell alone
    assert sweep.row(training).state == "queued"
    assert "1 job cancelled" in harness("cancel", sweep)  # nobody waits for it any more
    wait_until(lambda: not sweep.live_jobs(), "all to be cancelled")


def test_a_training_that_is_named_is_ended_and_what_waited_is_told(running: Make) -> None:
    sweep = running()
    sweep.submit(HELD)
    submit_held(other_sweep(sweep), sweep)
    (training,) = sweep.trainings
    job = sweep.row(training).job
    said = run(pasted(harness("cancel", sweep), "cancel"))
    assert "1 job cancelled" in said and f"job {job} was needed by 1 cell of other" in said
    assert sweep.row(training).state == "cancelled"


def test_a_cell_that_another_sweep_counts_on_goes_on(running: Make) -> None:
    sweep = running(options=["cells_per_job=1"])
    sweep.submit(HELD)
    other = other_sweep(sweep, sampler="ddim")
    assert submit_held(other, sweep).targets == []  # its one cell has a job: of the first sweep
    cell = next(target for target in sweep.cells if target.id in other.cells)
    said = harness("cancel", sweep)
    assert f"{cell} (job {sweep.row(cell).job}) goes on: needed by other" in said
    assert [target for target in (*sweep.trainings, *sweep.cells) if sweep.row(target).state == "cancelled"] == [
        target for target in sweep.cells if target != cell
    ]
    cancel_jobs(other, sweep.store)
    assert "2 jobs cancelled" in harness("cancel", sweep)


def test_a_record_cut_short_stands_in_nobodys_way(running: Make) -> None:
    sweep = running()
    first = sweep.submit(HELD)
    other = other_sweep(sweep)
    assert first.submission is not None
    record = first.submission.folder / "record.json"
    record.write_bytes(record.read_bytes()[:100])
    again = submit_held(other, sweep)  # a training and its cell, of which nothing else is known
    assert len(again.targets) == 2 and "its jobs are left out" in again.notes[0]
    status = json.loads(harness("status", sweep, "--json"))
    assert "record.json" in status["note"] and "may be moved away" in status["note"]
    assert "record.json" in run(["status", "--results", str(sweep.store.root)])
    said = harness("cancel", sweep)
    assert "2 jobs cancelled" in said and "record.json" in said  # found by their names
    assert {job.id for job in queue.read_live(["root"]).values() if job.is_live and "other" in job.name}
    assert len(cancel_jobs(other, sweep.store).jobs) == 2


def test_a_sweep_over_the_limit_on_jobs_is_submitted_in_portions(running: Make, undisturbed: dict[str, Any]) -> None:
    sweep = running(options=["cells_per_job=1"])
    with cluster.job_limit(2):
        said = harness("sweep", sweep, *SLURM, "time=10m")
        assert "submitted 1 training and 1 cell" in said
        assert "left for later: 0 trainings and 1 cell" in said and "(AssocMaxSubmitJobLimit)" in said
        assert "--cluster slurm --slurm time=10m" in said
        assert len(sweep.live_jobs()) == 2
        full = harness("sweep", sweep, *SLURM, "time=10m")
        assert (
            "2 of its trainings and cells have a job already" in full
            and "left for later: 0 trainings and 1 cell" in full
        )
        assert pasted(harness("status", sweep), "sweep")[-4:] == ["--cluster", "slurm", "--slurm", "time=10m"]
        with pytest.raises(DispatchError, match=r"takes no job of yours now \(AssocMaxSubmitJobLimit\)"):
            running("another", text=MANY).submit()
        sweep.hurry()
        wait_until(lambda: len(sweep.live_jobs()) < 2, "the training to end")
        assert "submitted 0 trainings and 1 cell" in run(pasted(said, "sweep"))
    sweep.wait_complete()
    assert figures(sweep.store, sweep.sweep) == undisturbed


def test_waiting_submits_the_rest_as_places_come_free(
    running: Make, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_commands, "SUBMIT_SECONDS", 1.0)
    monkeypatch.setattr(cluster_commands, "WAIT_SECONDS", 0.5)
    sweep = running()
    sweep.hurry()
    with cluster.job_limit(1):
        answer = json.loads(harness("sweep", sweep, "--wait", "--json", *SLURM, "time=10m"))
    assert answer["failures"] == {}
    assert len(load_submissions(sweep.store)) == 3
    assert figures(sweep.store, sweep.sweep) == undisturbed


MANY = """
name: many
base: {model: {kind: single_rate, width: 8}}
seeds: [0, 1, 2]
arms:
  base:
    grid: {sample.steps: [1, 2]}
"""


def test_jobs_that_cannot_be_withdrawn_are_told_with_what_to_do(running: Make) -> None:
    sweep = running()
    with controller_lost_after_one_array(), pytest.raises(DispatchError, match="could not be withdrawn") as lost:
        harness("sweep", sweep, *SLURM, HELD)
    assert pasted(str(lost.value), "sweep")[-4:] == ["--cluster", "slurm", "--slurm", HELD]
    assert "1 job cancelled" in run(pasted(str(lost.value), "cancel"))


def test_cancel_finds_jobs_whose_number_a_killed_terminal_never_wrote(running: Make) -> None:
    sweep = running()
    submitted = sweep.submit(HELD).submission
    assert submitted is not None
    submitted.arrays[-1].job = None  # as its record stands in the middle of the call
    submitted.save()
    assert "2 jobs cancelled" in harness("cancel", sweep)
    wait_until(lambda: not sweep.live_jobs(), "both to be cancelled")


def test_trainings_take_the_places_before_cells_that_wait(running: Make) -> None:
    sweep = running(text=MANY)
    with cluster.job_limit(4):
        submitted = sweep.submit(HELD, "cells_per_job=1")
        kinds = [target.kind for target in submitted.targets]
        assert (kinds.count("training"), kinds.count("cell"), len(submitted.left)) == (3, 1, 5)
        assert len(sweep.live_jobs()) == 4
        harness("cancel", sweep)


@pytest.mark.parametrize(("room", "expected"), [(5, [3, 2]), (4, [3, 1]), (2, [2])])
def test_an_array_is_cut_where_others_took_the_places_meanwhile(
    running: Make, monkeypatch: pytest.MonkeyPatch, room: int, expected: list[int]
) -> None:
    monkeypatch.setattr(submit_module, "choose_portion", lambda planned, wanted, live, settings: (list(wanted), ""))
    sweep = running(text=MANY)
    with cluster.job_limit(room):
        submitted = sweep.submit(HELD, "cells_per_job=1")
        assert submitted.submission is not None and submitted.limit == "AssocMaxSubmitJobLimit"
        assert [len(array.elements) for array in submitted.submission.arrays] == expected
        assert len(sweep.live_jobs()) == room == len(submitted.targets) and len(submitted.left) == 9 - room
        trainings, *cells = submitted.submission.arrays
        for array in cells:  # each cell waits for its own training
            for place, (cell,) in enumerate(array.elements):
                parent = trainings.elements.index((sweep.sweep.cells[cell].training,))
                assert array.parents_of(place) == (trainings.job_of(parent),)
        harness("cancel", sweep)


def test_the_dry_run_tells_what_sbatch_says(running: Make) -> None:
    sweep = running()
    options = ["--slurm", "cells.memory=900T", "--slurm", "trainings.gpus=1", "--slurm", "trainings.gpu_type=a100"]
    asked = json.loads(harness("sweep", sweep, "--dry-run", "--json", "--cluster", "slurm", *options))["slurm"]
    assert [array["accepted"] for array in asked["arrays"]] == [False, False]
    assert "--gpus-per-node=a100:1" in asked["arrays"][0]["sbatch"]  # this cluster's GPUs have no type
    assert "Requested node configuration is not available" in asked["arrays"][0]["said"]
    fine = harness("sweep", sweep, "--dry-run", "--cluster", "slurm")
    assert fine.count("sbatch --test-only: would start at ") == 2
    assert sweep.live_jobs() == []


def outside_job(script: str, *options: str) -> str:
    """A job of somebody else."""
    return cluster.command("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}").strip()


def test_a_sweep_waits_for_a_job_of_others(running: Make) -> None:
    sweep = running(hold_cells=True)
    job = outside_job("true", "--hold")
    sweep.submit(f"after={job}")
    (training,) = sweep.trainings
    assert (sweep.row(training).state, sweep.row(training).reason) == ("waiting", f"for job {job}")
    assert {sweep.row(cell).reason for cell in sweep.cells} <= {"for its training", "JobHeldUser"}
    cluster.command("scontrol", "release", job)
    sweep.finish_here()


def test_a_job_to_wait_for_that_can_never_end_well_is_refused(running: Make) -> None:
    sweep = running()
    with pytest.raises(ConfigError, match="after: SLURM knows no job 99999999; leave it out if it has ended"):
        sweep.submit("after=99999999")
    failed, done = outside_job("false"), outside_job("true")
    wait_until(lambda: not any(queue.read_live(["root"])[job].is_live for job in (failed, done)), "both to end")
    with pytest.raises(ConfigError, match=rf"after: job {failed} has ended \(FAILED\); what waits for it would never"):
        sweep.submit(f"after={failed}")
    assert sweep.live_jobs() == []
    assert sweep.submit(HELD, f"after=afterany:{failed}:{done}").targets


def test_retry_remembers_what_the_submission_was_given(running: Make) -> None:
    sweep = running()
    harness("sweep", sweep, *SLURM, HELD, "--slurm", "sbatch.nice=7", "--slurm", "time=10m")
    harness("cancel", sweep)
    wait_until(lambda: not sweep.live_jobs(), "all to be cancelled")
    said = harness("retry", sweep, "--slurm", "time=20m")
    assert "submits to SLURM (as its jobs before)" in said
    assert "with the settings of the earlier submission: --slurm sbatch.hold=true --slurm sbatch.nice=7" in said
    shown = cluster.command("scontrol", "show", "job", sweep.row(sweep.trainings[0]).job or "")
    assert "Nice=7" in shown and "TimeLimit=00:20:00" in shown and "JobHeldUser" in shown


def test_logs_are_followed_until_the_job_has_ended_and_earlier_ones_are_kept(running: Make) -> None:
    sweep = running(hold_cells=True)
    sweep.submit()
    (training,) = sweep.trainings
    sweep.at_work_on(training)
    cluster.command("scancel", sweep.row(training).job or "")
    wait_until(sweep.is_over, "the job to be cancelled")
    sweep.submit()
    command = [sys.executable, "-m", "harness.cli", *arguments("logs", sweep, training.id, "-f")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        sweep.at_work_on(training)
        assert following.poll() is None
        sweep.finish_here()
        said, _ = following.communicate(timeout=60)
    assert "Starting with JobEnvironment" in said and said.rstrip().endswith(f"{training}: done")
    last = harness("logs", sweep, training.id)
    every = run(pasted(last, "logs"))
    assert "logs of 1 earlier job too" in last
    assert (last.count("_log.err"), every.count("_log.err")) == (1, 2)
    assert len(json.loads(harness("logs", sweep, training.id, "--json"))["attempts"]) == 2


def test_the_jobs_of_all_sweeps_of_a_folder(running: Make) -> None:
    sweep = running()
    assert "no jobs were submitted" in run(["status", "--results", str(sweep.store.root)])
    sweep.submit(HELD)
    submit_held(other_sweep(sweep), sweep)
    told = json.loads(run(["status", "--json", "--results", str(sweep.store.root)]))["sweeps"]
    assert [(one["sweep"], len(one["jobs"]), one["cells"]) for one in told] == [
        ("other", 1, {"done": 0, "submitted": 1}),
        ("tiny", 2, {"done": 0, "submitted": 2}),
    ]
    shown = run(["status", "--results", str(sweep.store.root)])
    assert all(job in shown for job in sweep.live_jobs())
    assert "1 queued" in run(pasted(shown, "status"))  # other's, submitted last: its training has a job, its cell waits


def test_inside_an_allocation_it_runs_here_and_says_why(running: Make) -> None:
    sweep = running()
    words = [sys.executable, "-m", "harness.cli", *arguments("sweep", sweep, "--dry-run", "--json")]
    said = subprocess.run(["salloc", "--quiet", *words], capture_output=True, text=True, check=True).stdout
    where = json.loads(said)["where"]
    assert where["cluster"] == "inline"
    assert re.fullmatch(r"inside SLURM's job \d+, though on this machine: srun before .*", where["why"])
    on_node = subprocess.run(["salloc", "--quiet", "srun", *words], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"inside SLURM's job \d+", json.loads(on_node)["where"]["why"])


def test_time_that_the_steps_show_to_be_too_short_is_told(running: Make) -> None:
    sweep = running(hold_cells=True, options=["trainings.time=2m", "trainings.warning=20s"])
    sweep.dawdle(3)  # 60 steps of 3 s
    sweep.submit()
    sweep.at_work_on(sweep.trainings[0], least=4)
    wait_until(lambda: bool(sweep.row(sweep.trainings[0]).eta_seconds), "a rate")
    assert "runs with a limit of 2m; --slurm trainings.time=" in harness("status", sweep)
    sweep.finish_here()
    edit(sweep, 60 * STEPS)
    asked = harness("sweep", sweep, "--dry-run", "--cluster", "slurm", "--slurm", "trainings.time=5m")
    assert re.search(
        r"trainings?: the longest job takes about .* \(\S+ steps/s measured in training \w+ on .+\)", asked
    )


def test_only_named_targets_of_a_job_are_told_of_the_others(running: Make) -> None:
    sweep = running()
    sweep.submit(HELD)  # two cells in one job
    first, second = sweep.cells
    said = harness("cancel", sweep, first.id)
    assert "1 job cancelled" in said and f"was also to make {second}" in said
    assert sweep.row(Target("training", sweep.trainings[0].id)).state == "queued"


def test_the_own_file_of_a_test_is_found_from_another_folder(running: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = running()
    sweep.submit(HELD)
    sweep.file.write_text(sweep.text.replace("name: tiny", "name: other"))
    monkeypatch.chdir(sweep.folder)
    assert "2 jobs cancelled" in run(["cancel", Path(sweep.file.name).as_posix(), "--results", "results"])
