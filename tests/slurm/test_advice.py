"""The time limit that is suggested, from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.dispatch.plan import plan
from harness.dispatch.slurm.advice import Expected, expected_times, status_advice, suggested, time_advice
from harness.dispatch.slurm.settings import load_settings, seconds_of
from harness.dispatch.slurm.submissions import Assignment, Submission, SubmittedArray
from harness.dispatch.status import Row, SweepStatus
from harness.store.store import Kind, Target
from tests.slurm.sweeping import Running, run_here


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize("seconds", [1, 100, 3000, 3700, 20_000, 100_000, 1e6])
def test_a_suggested_limit_has_room_and_is_round(seconds: float) -> None:
    limit = seconds_of(suggested(seconds))
    assert 1.25 * seconds <= limit <= 1.25 * seconds + 3600
    assert limit % 300 == 0


def said(seconds: float, time: str, kind: Kind = "training", cells_per_job: int = 1) -> str:
    settings = load_settings({"time": time, "cells_per_job": cells_per_job}, "s")
    return time_advice(Expected(kind, seconds, "2 steps/s"), settings)


def test_a_limit_that_is_too_short_fits_or_is_too_long() -> None:
    short = said(6 * 3600, "1h")
    assert "trainings: the longest job takes about 6:00:00 (2 steps/s)" in short
    assert "about 7 runs with a limit of 1h; --slurm trainings.time=8h fits it into one" in short
    assert said(2 * 3600, "4h").endswith("a limit of 4h is enough for one run")
    assert "a limit of 1d is far too long; --slurm trainings.time=2h45m is enough" in said(2 * 3600, "1d")
    assert "cells: the longest job takes about 40:00" in said(600, "4h", "cell", cells_per_job=4)


def test_what_runs_tells_of_a_limit_that_it_will_reach() -> None:
    target = Target("training", "t")
    array = SubmittedArray("n", "training", (("t",),), job="7", minutes=10)
    assigned = {target: Assignment("7", "n", Submission(Path("s"), "s", "source"), (), array)}
    row = Row(target, "running", progress=(100, 1000), elapsed_seconds=200, eta_seconds=1800)  # 0.5 steps/s
    (sentence,) = status_advice(SweepStatus({target: row}, assigned=assigned))
    assert "about 33:20 (0.5 steps/s in training t)" in sentence and "--slurm trainings.time=45m" in sentence
    row.eta_seconds = 180
    assert status_advice(SweepStatus({target: row}, assigned=assigned)) == []


def test_what_was_trained_tells_of_what_is_to_be_trained(tmp_path: Path) -> None:
    sweep = Running(tmp_path / "s", text=Running(tmp_path / "t").text.replace("steps: 60", "steps: 4"))
    sweep.hurry()
    run_here(sweep, {sweep.cells[0]})
    sweep.file.write_text(
        sweep.text.replace("[ancestral, ddim]", "[ancestral, ddim]").replace("arms:", "seeds: [0, 1]\narms:")
    )
    planned = plan(sweep.sweep, sweep.store)
    done = json.loads(sweep.store.done_path(sweep.trainings[0].id).read_text())
    work = {"training": 4.0, "cell": 3.0}
    found = {one.kind: one for one in expected_times(planned, sweep.store, lambda kind, experiment: work[kind])}
    assert found["training"].seconds == pytest.approx(done["seconds_of_last_run"])
    assert done["device"] in found["training"].measured
    record = sweep.store.read_cell(sweep.cells[0].id)
    assert found["cell"].seconds == pytest.approx(record.provenance.seconds)
