"""End to end through the command line: a sweep, its rerun, kills at bad moments, damage, and bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app as cli
from harness.dispatch.sweep import load_sweep
from tests.harness.processes import command_started
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
        "import sys; from harness.cli.app import app; "
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


def test_only_times_that_are_not_to_be_trusted_are_taken_again(finished: tuple[Path, Path], tmp_path: Path) -> None:
    sweep, undisturbed = finished
    shutil.copytree(undisturbed, tmp_path / "results")
    cells = sorted((tmp_path / "results" / "runs" / "cells").glob("*.json"))
    for path in cells:
        record = json.loads(path.read_text())
        record["time"] |= {"trusted": path != cells[1], "reasons": ["others ran"] if path == cells[1] else []}
        path.write_text(json.dumps(record))
    before = [path.read_bytes() for path in cells]
    done = harness(tmp_path / "results", "time", sweep, "--untrusted", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["cells"]) == {cells[1].stem}
    assert [path.read_bytes() != bytes for path, bytes in zip(cells, before, strict=True)] == [False, True, False]


def kill_when(results: Path, sweep: Path, moment: Callable[[], bool]) -> None:
    """Run the sweep and kill it with SIGKILL as soon as `moment` has come."""
    process = command_started(results, "sweep", sweep)
    deadline = time.monotonic() + 120
    while not moment():
        assert process.is_alive() and time.monotonic() < deadline, "the moment never came"
        time.sleep(0.002)
    process.kill()
    process.join()


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


def test_damaged_records_are_set_aside_and_measured_again(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file that a sweep leaves, cut or overwritten: the next run says so, and ends with the very same figures."""
    sweep, undisturbed = finished
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    planned, runs = load_sweep(sweep), tmp_path / "runs"
    first, second, third = planned.cells
    records = {cell: runs / "cells" / f"{cell}.json" for cell in planned.cells}
    records[first].write_bytes(records[first].read_bytes()[:500])
    records[second].write_bytes(records[third].read_bytes())
    training = planned.cells[first].training
    for path in (runs / "trainings" / training / "done.json", runs / "trainings" / training / "config.json"):
        path.write_text("{", encoding="utf-8")
    for path in (runs / "state").rglob("*.json"):
        path.write_bytes(b"\0\xff")
    (runs / "trainings" / training / "log.jsonl").write_text('[1]\n3\n{"step": 5\n', encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert status("sweep", sweep, "--results", tmp_path, "--cluster", "inline", "--dry-run", "--json") == 0
    shown = capsys.readouterr()
    plan = json.loads(shown.out)
    assert {row["id"] for row in plan["cells"] if row["runs"]} == {first, second}
    assert {row["id"] for row in plan["trainings"] if row["runs"]} == {training}
    assert f"{records[second]}: is not the record of cell {second}: would be set aside" in shown.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert status("sweep", sweep, "--results", tmp_path, "--cluster", "inline") == 0
    assert f"{first}.json.damaged, and the cell measured again" in capsys.readouterr().out
    assert figures(tmp_path) == figures(undisturbed) and weights(tmp_path) == weights(undisturbed)
    for cell in (first, second):
        assert records[cell].with_name(f"{cell}.json.damaged").read_bytes() == before[records[cell]]


def test_a_report_leaves_out_a_damaged_record_and_says_so(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, undisturbed = finished
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    cell = next(iter(load_sweep(sweep).cells))
    record = tmp_path / "runs" / "cells" / f"{cell}.json"
    record.write_bytes(record.read_bytes()[:500])
    for samples in [*(tmp_path / "runs" / "cells").glob("*.npz"), tmp_path / "tiny" / "samples.npz"]:
        samples.write_bytes(samples.read_bytes()[:100])
    assert status("report", sweep, "--results", tmp_path) == 0
    assert "damaged" in (tmp_path / "tiny" / "table.md").read_text(encoding="utf-8")
    assert record.exists()
    assert status("report", tmp_path / "tiny") == 0


def test_a_plan_after_weights_were_deleted_is_what_the_run_does(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All cells are done, so nothing needs the weights; once a cell is gone, dry run and run train its network."""
    sweep, undisturbed = finished
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "runs" / "trainings").glob("*/weights.safetensors"):
        path.unlink()

    def planned() -> dict[str, int]:
        assert status("sweep", sweep, "--results", tmp_path, "--cluster", "inline", "--dry-run", "--json") == 0
        plan = json.loads(capsys.readouterr().out)
        return {kind: sum(row["runs"] for row in plan[kind]) for kind in ("trainings", "cells")}

    assert planned() == {"trainings": 0, "cells": 0}
    assert status("sweep", sweep, "--results", tmp_path, "--cluster", "inline") == 0
    assert "all 3 cells are done; nothing runs" in capsys.readouterr().out
    cell = next(c for c in load_sweep(sweep).cells.values() if c.rows[0][0] == "dual-rate")
    (tmp_path / "runs" / "cells" / f"{cell.id}.json").unlink()
    assert planned() == {"trainings": 1, "cells": 1}
    assert status("sweep", sweep, "--results", tmp_path, "--cluster", "inline") == 0
    assert "1 training and 1 cell to run" in capsys.readouterr().out
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_ctrl_c_saves_says_how_to_go_on_and_costs_nothing(
    cluster: str, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    sweep, undisturbed = finished
    log = tmp_path / "output"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command("sweep", sweep, "--cluster", cluster),
            env=environment(tmp_path),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, as a terminal's command has
        ) as process,
    ):
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("runs/trainings/*/log.jsonl")):  # which stays, so that no look comes too late
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    text = log.read_text(encoding="utf-8")
    assert "stopped; " in text and "the same command goes on from there" in text and "Traceback" not in text, text
    assert not list(tmp_path.rglob("*.lease"))
    again = harness(tmp_path, "sweep", sweep)
    assert again.returncode == 0, again.stdout + again.stderr
    assert figures(tmp_path) == figures(undisturbed) and weights(tmp_path) == weights(undisturbed)


def test_a_full_disk_is_one_message(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a report is written, and while a network is trained: then no further one is begun."""
    from harness.store import store, weights

    sweep, undisturbed = finished
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(store.Path, "write_bytes", full)
        assert status("report", sweep, "--results", tmp_path) == 2
    error = capsys.readouterr().err
    assert error == "error: No space left on device; free some, and the same command goes on from what is saved\n"
    with monkeypatch.context() as patched:
        patched.setattr(weights, "save_file", full)
        assert status("sweep", sweep, "--set", "train.steps=7", "--results", tmp_path, "--cluster", "inline") == 2
    printed = capsys.readouterr()
    assert printed.out.count("failed   ") == 1 and "Traceback" not in printed.err
    assert printed.err.count("No space left on device") == 1 and len(printed.err.splitlines()) == 1
    assert not list(tmp_path.rglob("*.lease*")) and not any(tmp_path.glob("tiny-set-*"))


def test_sample_does_not_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, results = write_sweep(tmp_path), tmp_path / "my results"
    arguments = ["--arm", "dual-rate", "--set", "train.steps=7", "--results", results]
    assert status("sample", sweep, *arguments, "--out", tmp_path / "grid.png") == 2
    error = capsys.readouterr().err
    cure = f"harness train {sweep} --arm dual-rate --set train.steps=7 --results '{results}', or"
    assert "has not finished; train it first: " in error and cure in error and "--weights FILE" in error
    assert not results.exists() and not list(tmp_path.glob("grid*"))
    assert status("train", sweep, *arguments) == 0
    assert status("sample", sweep, *arguments, "--images", 3, "--out", tmp_path / "grid.png") == 0
    assert (tmp_path / "grid.png").exists()


def test_a_home_folder_that_no_shell_has_expanded(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, results = finished
    monkeypatch.setenv("HOME", str(results.parent))
    monkeypatch.chdir(results)
    training = next(iter(load_sweep(sweep).trainings))
    for options in (["--results=~/results"], []):
        monkeypatch.setenv("HARNESS_RESULTS", "~/results" if not options else "/nowhere")
        assert status("status", "~/tiny.yaml", "--json", *options) == 0
        assert json.loads(capsys.readouterr().out)["complete"]
    weights_file = f"~/results/runs/trainings/{training}/weights.safetensors"
    arguments = ["--arm", "base", "--weights", weights_file, "--images", 2, "--out", "~/results/home.png"]
    assert status("sample", "~/tiny.yaml", *arguments) == 0
    assert (results / "home.png").exists() and not Path("~").exists()
    assert status("report", "~/results/tiny") == 0
    for wrong in ("~nobody-at-all/x", sweep, sweep / "x"):
        assert status("sweep", sweep, "--dry-run", "--results", wrong) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_results_that_cannot_be_written_are_told_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc")
    sweep = write_sweep(tmp_path)
    for command_line in (["sweep", sweep, "--cluster", "inline"], ["report", sweep], ["train", sweep, "--arm", "base"],
                         ["measure", sweep, "--arm", "base"]):  # fmt: skip
        assert status(*command_line, "--results", "/proc/none") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: /proc/none") and "cannot be written" in error and len(error.splitlines()) == 1


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
