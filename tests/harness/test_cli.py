"""End to end through the command line: a sweep, its rerun, kills at bad moments, damage, and bad input."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import cli
from harness.sweep import load_sweep
from tests.harness.tiny import SWEEP, command, environment, figures, harness, weights, write_sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sweep file, results) of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = write_sweep(folder)
    done = harness(folder / "results", "sweep", sweep)
    assert done.returncode == 0, done.stderr + done.stdout
    return sweep, folder / "results"


def test_a_sweep_leaves_records_and_a_report(finished: tuple[Path, Path]) -> None:
    sweep, results = finished
    planned = load_sweep(sweep)
    assert set(figures(results)) == set(planned.cells) and set(weights(results)) == set(planned.trainings)
    names = {path.name for path in (results / "tiny").iterdir()}
    expected = {"table.md", "table.csv", "table.tex", "frontier.png", "frontier.pdf", "samples.png", "index.html"}
    assert expected <= names
    assert not list((results / "runs" / "partial").glob("*"))
    for record in figures(results).values():
        assert len(record["quality"]["per_seed"]) == 2 and record["quality"]["images"] == 80
        compute = record["compute"]
        macs = sum(compute["gmacs_per_evaluation"][name] * n for name, n in compute["evaluations"].items())
        assert compute["gmacs_per_image"] == pytest.approx(macs)
    counts = [r["compute"]["evaluations"] for r in figures(results).values()]
    assert {"network": 4} in counts and {"network": 7} in counts and {"encoder": 2, "denoiser": 4} in counts


def test_a_finished_sweep_runs_nothing_again(finished: tuple[Path, Path]) -> None:
    sweep, results = finished
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    again = harness(results, "sweep", sweep, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["failures"] == {}
    assert "nothing runs" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()} == before


def test_a_finished_sweep_is_planned_without_torch(finished: tuple[Path, Path]) -> None:
    """What keeps the rerun of a finished sweep quick."""
    sweep, results = finished
    code = (
        "import sys; from harness.cli import app; "
        f"app(['sweep', {str(sweep)!r}, '--results', {str(results)!r}], standalone_mode=False); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'matplotlib', 'torch_fidelity')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(results), check=False).returncode == 0


def test_the_report_comes_back_the_same_from_its_own_cells(finished: tuple[Path, Path], tmp_path: Path) -> None:
    _, results = finished
    copy = tmp_path / "tiny"
    shutil.copytree(results / "tiny", copy)
    done = harness(tmp_path, "report", copy)
    assert done.returncode == 0, done.stderr
    for path in (results / "tiny").iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes(), path.name


def test_time_again_changes_times_and_nothing_else(finished: tuple[Path, Path], tmp_path: Path) -> None:
    sweep, undisturbed = finished
    shutil.copytree(undisturbed, tmp_path / "results")
    done = harness(tmp_path / "results", "time", sweep, "--json")
    assert done.returncode == 0, done.stderr
    times = json.loads(done.stdout)["cells"]
    assert set(times) == set(load_sweep(sweep).cells)
    assert figures(tmp_path / "results") == figures(undisturbed)
    for cell, timing in times.items():
        record = json.loads((tmp_path / "results" / "runs" / "cells" / f"{cell}.json").read_text())
        assert record["time"] == timing and record["provenance"]["timed"]["at"] > record["provenance"]["finished"]


def kill_when(results: Path, sweep: Path, moment: Callable[[], bool]) -> None:
    """Run the sweep and kill it with SIGKILL as soon as `moment` has come."""
    with subprocess.Popen(
        command("sweep", sweep), env=environment(results), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not moment():
            assert process.poll() is None and time.monotonic() < deadline, "the moment never came"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)


def test_kills_cost_nothing(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """In a training, in sampling, and in the middle of a write: the figures end the very same."""
    sweep, undisturbed = finished
    runs = tmp_path / "runs"
    kill_when(tmp_path, sweep, lambda: any(runs.glob("trainings/*/checkpoint-*.safetensors")))
    assert not any(runs.glob("trainings/*/done.json"))
    kill_when(tmp_path, sweep, lambda: any(runs.glob("partial/*/seed-*.safetensors")))
    assert not any(runs.glob("cells/*.json"))
    kill_when(tmp_path, sweep, lambda: any(runs.glob("cells/.*.tmp")) or any(runs.glob("cells/*.json")))
    done = harness(tmp_path, "sweep", sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures(tmp_path) == figures(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


def test_damage_heals_and_is_said(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """A weights file cut in half is trained again; the old file is kept aside."""
    sweep, undisturbed = finished
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    planned = load_sweep(sweep)
    cell = next(c for c in planned.cells.values() if c.rows[0][0] == "dual-rate")
    (tmp_path / "runs" / "cells" / f"{cell.id}.json").unlink()
    damaged = tmp_path / "runs" / "trainings" / cell.training / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    done = harness(tmp_path, "sweep", sweep)
    assert done.returncode == 0 and "weights.safetensors" in done.stderr, done.stderr
    assert figures(tmp_path) == figures(undisturbed) and weights(tmp_path) == weights(undisturbed)
    assert damaged.with_name("weights.safetensors.damaged").stat().st_size == 1000


def test_weights_cut_short_or_of_another_configuration(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, results = finished
    planned = load_sweep(sweep)
    first, second = (results / "runs" / "trainings" / id / "weights.safetensors" for id in planned.trainings)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(first.read_bytes()[:-100])
    arguments = ["sample", sweep, "--arm", "base", "--out", tmp_path / "grid.png", "--images", 3, "--results", results]
    assert status(*arguments, "--weights", cut) == 2
    assert f"{cut}: is cut short or damaged" in capsys.readouterr().err
    assert status(*arguments, "--weights", second) == 2
    assert "was made with another configuration" in capsys.readouterr().err
    assert status(*arguments, "--weights", tmp_path / "none.safetensors") == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "grid.png").exists()
    assert status(*arguments, "--weights", first) == 0
    assert (tmp_path / "grid.png").exists() and (tmp_path / "grid.npz").exists()


def status(*arguments: object) -> int:
    """Exit status of the command line, in this process."""
    from unittest import mock

    with mock.patch.object(sys, "argv", ["harness", *map(str, arguments)]), pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


BAD = {
    "misspelt key": ("  sampel: {steps: 3}", "did you mean 'sample'"),
    "1:30": ("  train.steps: 1:30", "'1:30' is text, not a number"),
    "number in quotes": ("  train.steps: '1e3'", "write it as 1e3"),
    "interval over steps": ("  sample.refresh_interval: 40", "refresh_interval"),
    "data that is not there": (
        "  data: {name: images, path: /nowhere/at/all.zip}\n  measure.features: inception",
        "/nowhere",
    ),
    "weights that are not there": ("  measure: {features: inception, weights: /no/inception.pt}", "/no/inception.pt"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_status_2_and_nothing_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = BAD[case]
    sweep = write_sweep(tmp_path, f"name: bad\nbase:\n{text}\narms: {{a: {{}}}}\n")
    results = tmp_path / "results"
    for extra in ([], ["--dry-run"]) if "weights" not in case else ([],):
        assert status("sweep", sweep, "--results", results, "--cluster", "inline", *extra) == 2
        error = capsys.readouterr().err
        assert expected in error and "Traceback" not in error and error.startswith("error: ")
    assert not results.exists() or not any(p.is_file() for p in results.rglob("*"))


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(tmp_path)
    assert status("sweep", sweep, "--results", tmp_path / "results", "--dry-run", "--json", "--cluster", "inline") == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["trainings"]) == 2 and len(plan["cells"]) == 3
    assert all(not row["done"] and row["gmacs"] > 0 for row in [*plan["trainings"], *plan["cells"]])
    assert not (tmp_path / "results").exists()


def test_a_training_that_raises_blocks_its_cells_and_nothing_else(tmp_path: Path) -> None:
    """A learning rate that explodes: the loss is not finite."""
    text = SWEEP + "  broken: {set: {train.learning_rate: 1.0e+30, train.gradient_clip: null}}\n"
    sweep = write_sweep(tmp_path, text.replace("steps: 30", "steps: 10"))
    done = harness(tmp_path / "results", "sweep", sweep, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert len(answer["failures"]) == 2
    reasons = sorted(answer["failures"].values())
    assert reasons[0].startswith("Diverged: the loss is nan") and "failed: Diverged" in reasons[1]
    assert len(figures(tmp_path / "results")) == 3
    assert "Diverged" in (tmp_path / "results" / "tiny" / "table.md").read_text()


def test_train_sample_measure_one_experiment(tmp_path: Path) -> None:
    one = write_sweep(
        tmp_path,
        "model: {patch: 4, width: 8, multipliers: [1], levels: [conv], blocks: [1]}\n"
        "train: {steps: 5, batch: 8}\nsample: {steps: 3}\nmeasure: {images: 70, latency: {batch: 2, repeats: 2}}\n",
        "one.yaml",
    )
    runner = CliRunner()
    options = ["--results", str(tmp_path / "results"), "--json"]
    trained = runner.invoke(cli.app, ["train", str(one), *options])
    assert trained.exit_code == 0 and json.loads(trained.stdout)["steps"] == 5
    measured = runner.invoke(cli.app, ["measure", str(one), *options, "--set", "sample.steps=2"])
    record = json.loads(measured.stdout)
    assert record["training"] == json.loads(trained.stdout)["training"]
    assert record["compute"]["evaluations"] == {"network": 2}
    counted = runner.invoke(cli.app, ["flops", str(one), "--json"])
    assert json.loads(counted.stdout)["evaluations"] == {"network": 3}
    timed = runner.invoke(cli.app, ["latency", str(one), "--json"])
    assert json.loads(timed.stdout)["seconds_per_image"] > 0
