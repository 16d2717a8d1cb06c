"""A job's process as SLURM starts it, and the signals that SLURM may send at any moment of its life. No cluster."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.dispatch.plan import plan, save_experiments
from harness.dispatch.slurm import job as job_module
from harness.dispatch.slurm.job import STOPPED, SlurmJob, requeue
from harness.dispatch.slurm.sbatch import sbatch_parameters, submit_array
from harness.dispatch.slurm.settings import load_settings
from harness.errors import DispatchError
from harness.files import write_json
from harness.store.store import Store, Target
from tests.slurm.conftest import SLOW
from tests.slurm.fakes import Fakes
from tests.slurm.sweeping import STEPS, Running

START = Path(__file__).parents[2] / "harness" / "dispatch" / "slurm" / "start.py"
SAVED_AND_REQUEUED = 140
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def sweep(tmp_path: Path) -> Running:
    return Running(tmp_path / "sweep")


@pytest.fixture
def start(tmp_path: Path, sweep: Running, fakes: Fakes) -> Iterator[Start]:
    """Submits the sweep's training and starts its process as the job's only rank; it is gone at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def submit_and_start(warning_seconds: float = 90, log: Any = None) -> subprocess.Popen[bytes]:
        save_experiments(plan(sweep.sweep, sweep.store), sweep.store, sweep.trainings)
        parameters = sbatch_parameters(load_settings({}, "test").training, "name", tmp_path, None)
        jobs = [SlurmJob(sweep.store.root, sweep.trainings, warning_seconds)]
        submit_array(jobs, tmp_path / "submission", parameters)
        values = {
            **os.environ,
            "SUBMITIT_EXECUTOR": "slurm",
            "SLURM_JOB_ID": "7",
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": str(SLOW),
            "SLOW_WHILE": str(sweep.slow),
        }
        with (tmp_path / "log").open("w") as own:
            process = subprocess.Popen(
                [sys.executable, "-u", START, tmp_path / "submission"], env=values, stdout=log, stderr=log or own
            )
        started.append(process)
        return process

    yield submit_and_start
    for process in started:
        process.kill()
        process.wait()


def holds_back(process: subprocess.Popen[bytes]) -> bool:
    """Whether SIGUSR2 is blocked in the process."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    blocked = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    return bool(blocked >> (signal.SIGUSR2 - 1) & 1)


def until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def test_a_warning_that_comes_before_anything_is_imported_is_heeded(start: Start, sweep: Running, fakes: Fakes) -> None:
    sweep.dawdle(0.2)
    process = start()
    until(lambda: holds_back(process), process)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(120) == SAVED_AND_REQUEUED
    assert fakes.calls("scontrol") == ["requeue 7"]
    (training,) = sweep.trainings
    state = sweep.store.state(training)
    assert state["state"] == "waiting" and state["stopped"] == [1, STEPS]
    assert len(list(sweep.store.training_folder(training.id).glob("checkpoint-*"))) == 1


def test_told_to_stop_it_saves_and_says_where(start: Start, sweep: Running, fakes: Fakes) -> None:
    sweep.dawdle(0.2)
    process = start()
    until(lambda: bool(sweep.store.state(sweep.trainings[0]).get("progress")), process)
    process.terminate()
    assert process.wait(120) == STOPPED and fakes.calls("scontrol") == []
    state = sweep.store.state(sweep.trainings[0])
    reached = state["stopped"][0]
    assert state["state"] == "waiting" and state["progress"] == [reached, STEPS] and reached >= 1
    names = [path.name for path in sweep.store.training_folder(sweep.trainings[0].id).glob("checkpoint-*")]
    assert f"checkpoint-{reached:09d}.safetensors" in names


def test_nothing_turns_finished_work_into_a_failure(start: Start, sweep: Running) -> None:
    """Neither signals while the process ends nor a full disk under its log, from the moment the result is there."""
    sweep.hurry()
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = start(log=full)
        (training,) = sweep.trainings
        until(lambda: sweep.store.is_done(training), process)
        while process.poll() is None:
            process.send_signal(signal.SIGUSR2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
    assert process.returncode == 0
    assert sweep.store.state(training)["state"] == "done"


def test_a_note_that_cannot_be_written_does_not_fail_finished_work(
    sweep: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness.engine import jobs

    made, failed = sweep.cells

    def make(store: Store, target: Target, **_: Any) -> None:
        if target == made:
            write_json(store.cell_path(target.id), {"id": target.id})
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(jobs, "run", make)
    stop: Any = SimpleNamespace(is_set=lambda: False)
    SlurmJob(sweep.store.root, [made], 90)._make_targets(stop)
    assert f"{made} is made; after that: OSError: [Errno 28] No space left on device" in capfd.readouterr().err
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(OSError, match="No space left"):
        SlurmJob(sweep.store.root, [failed], 90)._make_targets(stop)


def test_a_step_that_does_not_end_in_time_is_requeued_as_it_stands(
    start: Start, sweep: Running, fakes: Fakes, tmp_path: Path
) -> None:
    sweep.dawdle(100)
    process = start(warning_seconds=1)
    until(lambda: sweep.store.state(sweep.trainings[0]).get("state") == "running", process)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(120) == SAVED_AND_REQUEUED and fakes.calls("scontrol") == ["requeue 7"]
    assert "requeued without saving" in (tmp_path / "log").read_text()


def test_a_requeue_is_tried_again_and_says_why_it_failed(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_module, "REQUEUE_PAUSE_SECONDS", 0)
    fakes.add("scontrol", 'echo "Requested operation is presently disabled" >&2; exit 1')
    requeue("7_3")
    assert fakes.calls("scontrol") == ["requeue 7_3"] * job_module.REQUEUE_TRIES
    assert "scontrol requeue 7_3: Requested operation is presently disabled" in capfd.readouterr().err


def test_a_job_whose_terminal_died_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "SUBMITTED_SECONDS", 0)
    with pytest.raises(DispatchError, match="the terminal that submitted this job ended too early"):
        job_module._submitted(tmp_path / "7_submitted.pkl")
