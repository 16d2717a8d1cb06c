"""Tables: trainings that need something measured of what they start from, from the plan to the weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from rich.console import Console
from safetensors.torch import load
from typer.testing import CliRunner

from harness import plugins
from harness.cli.app import app
from harness.config import methods
from harness.config.schema import as_plain
from harness.data import open_data
from harness.dispatch.checks import check_starts
from harness.dispatch.labels import labels_of
from harness.dispatch.local import run_inline
from harness.dispatch.plan import plan, save_experiments
from harness.dispatch.progress import WorkClock
from harness.dispatch.slurm.arrays import After, lay_out
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.sweep import Sweep, load_sweep
from harness.engine import jobs
from harness.engine.build import build_model, build_schedule
from harness.engine.estimate import network_costs_of, table_gmacs
from harness.engine.tables import IMAGES, SEED, chosen_images, seconds_of_table
from harness.errors import Blocked, ConfigError, Stopped
from harness.files import file_sha256
from harness.store.kinds import counted
from harness.store.store import Store, Target
from harness.store.weights import load_facts, load_tensors, save_tensors
from models.conditional import ErrorTable
from models.denoising_error import LEVELS, measure_denoising_error
from models.noise import Stream
from models.tables import TABLES
from tests.harness.processes import started
from tests.harness.tabled import SWEEP, write_method
from tests.harness.tiny import by_arm, environment, harness, invoke


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the method lies, on Python's path here and in other processes."""
    path = write_method(tmp_path_factory.mktemp("method"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(path), os.environ.get("PYTHONPATH")])))
        patch.setattr(methods, "_loaded", dict(methods._loaded))
        patch.setattr(plugins, "_loaded", {})
        yield path
        sys.modules.pop("tabled", None)


def write(folder: Path, text: str = SWEEP) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def table_in(sweep: Sweep) -> Target:
    (table,) = sweep.tables.values()
    return table.target


def run_all(sweep: Sweep, store: Store) -> None:
    assert run_inline(plan(sweep, store), store, Console(quiet=True)).is_complete


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path))


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Store]:
    """The sweep, run in this process."""
    place = tmp_path_factory.mktemp("made")
    sweep, store = load_sweep(write(place)), Store(place / "results")
    run_all(sweep, store)
    return sweep, store


def copy_of(made: tuple[Sweep, Store], place: Path, *arms: str) -> Store:
    """A store with the trainings of `arms` alone."""
    sweep, store = made
    copied = Store(place / "copied")
    for arm in arms:
        id = by_arm(sweep)[arm].id
        shutil.copytree(store.training_folder(id), copied.training_folder(id))
    return copied


# What was paid.


def test_measuring_the_table_is_paid_for_by_those_that_need_it(made: tuple[Sweep, Store]) -> None:
    """By hand: the network runs forward once for each of the levels of noise and each of the images."""
    sweep, store = made
    arms, table = by_arm(sweep), table_in(sweep)
    first, second = (store.read_training(arms[arm].id) for arm in ("first", "second"))
    (count,) = network_costs_of(sweep.trainings[arms["first"].id].experiment).values()
    train = sweep.trainings[arms["first"].id].experiment.train
    assert second.inherited is not None and second.inherited.gmacs == pytest.approx(
        (3 * train.steps * train.batch + LEVELS * IMAGES) * count.gmacs
    )
    seconds = seconds_of_table(store, table.id)
    assert seconds is not None and seconds > 0 and first.seconds is not None
    assert second.inherited.seconds == pytest.approx(first.seconds + seconds)
    assert second.inherited.trainings == (arms["first"].id,)


# What needs what.


def test_trainings_of_one_start_share_a_table_and_are_made_after_it(sweep: Sweep, tmp_path: Path) -> None:
    arms, table = by_arm(sweep), table_in(sweep)
    assert sweep.needs[table] == (arms["first"],)
    assert sweep.needs[arms["second"]] == sweep.needs[arms["third"]] == (arms["first"], table)
    assert sweep.needs[arms["first"]] == ()
    planned = plan(sweep, Store(tmp_path / "results"))
    order = planned.targets()
    assert order[:3] == [arms["first"], table, arms["second"]]
    assert planned.waits_for(arms["second"]) == (table,)  # the first goes without saying
    assert counted(target.kind for target in order) == "3 trainings, 1 table and 2 cells"
    assert labels_of(sweep)[table] == "denoising_error of first seed=0"


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("third: {set: {train.start: first, train.steps: 3}}", "third: {}", False),
        ("second: {set: {train.start: first}}", "second: {set: {train.start: first, train.flip: true}}", False),
        ("steps: 2, batch: 16", "steps: 3, batch: 8", False),
        ("log_every: 2", "log_every: 3, workers: 1", False),
        ("first: {cells: false}", "first: {cells: false, set: {train.flip: true}}", True),
        ("arms:", "seeds: [1]\narms:", True),
        ("base:", "base:\n  data: {channels: 3}", True),
    ],
)
def test_a_table_s_id_has_the_start_and_the_data_and_nothing_else(
    sweep: Sweep, tmp_path: Path, old: str, new: str, changes: bool
) -> None:
    other = load_sweep(write(tmp_path, SWEEP.replace(old, new)))
    assert (table_in(other) != table_in(sweep)) == changes


def test_another_measurement_is_another_table_and_another_training(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES, "denoising_error", 2)
    other = load_sweep(write(tmp_path))
    before, after = by_arm(sweep), by_arm(other)
    assert table_in(other) != table_in(sweep)
    assert {arm for arm in before if before[arm] != after[arm]} == {"second", "third"}


def test_a_method_without_a_table_has_the_ids_of_ever(tmp_path: Path) -> None:
    text = SWEEP.replace('kind: "tabled:Tabled"', "kind: single_rate, width: 8, blocks: [1, 1], head_width: 8")
    plain = load_sweep(write(tmp_path, text))
    assert (not plain.tables and plain.cells.keys() == {"18e0", "2"}) or len(plain.trainings) == 3
    assert all(need.kind == "training" for needs in plain.needs.values() for need in needs)


def test_a_table_that_does_not_exist_is_told_with_the_choices(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(methods.method_of("tabled:Tabled")), "start_table", lambda self, config: "denoising")
    with pytest.raises(ConfigError, match=r"needs a table 'denoising' \(did you mean 'denoising_error'"):
        load_sweep(sweep.path)


def test_a_table_costs_its_evaluations_of_the_network_that_is_measured(sweep: Sweep) -> None:
    experiment = sweep.costed(table_in(sweep))
    assert experiment == sweep.nodes[by_arm(sweep)["first"]].experiment
    network = network_costs_of(experiment)["network"]
    assert network.macs == 2 * 4 * 9 * 64  # two convolutions of 1 to 4 and 4 to 1 channels, 3×3, on 8×8 pixels
    assert table_gmacs(experiment) == pytest.approx(LEVELS * IMAGES * network.gmacs)


def test_trainings_with_tables_of_several_seeds_are_one_array_a_level(tmp_path: Path) -> None:
    seeds = load_sweep(write(tmp_path, SWEEP.replace("arms:", "seeds: [0, 1, 2]\narms:").replace("third", "other")))
    planned = plan(seeds, Store(tmp_path / "results"))
    targets = planned.targets()
    arrays = lay_out(targets, {target: planned.waits_for(target) for target in targets}, 1000, {}, {})
    assert [(array.kind, len(array.elements)) for array in arrays[:2]] == [("training", 3), ("table", 3)]
    assert arrays[1].after == (After(0),)  # each after the training of its seed
    assert len(arrays) == 6  # two trainings of each table, and their cells


def test_a_table_s_job_asks_for_what_a_cell_s_does_unless_told_otherwise() -> None:
    settings = load_settings(
        {"partition": "all", "cells": {"partition": "gpu", "gpus": 1}, "tables": {"time": "5m"}}, "a sweep"
    )
    assert (settings.table.partition, settings.table.gpus, settings.table.time) == ("gpu", 1, "5m")
    assert settings.of("table") is settings.table and settings.of("cell").time == "4h"
    assert settings.training.partition == "all" and set(settings.per_job.values()) == {1}
    with pytest.raises(ConfigError, match=r"tables\.time: 5 has no unit"):
        load_settings({"tables": {"time": 5}}, "a sweep")


def test_a_table_holds_up_no_estimate_of_the_time_left() -> None:
    base, table, cell = (Target(kind, "x") for kind in ("training", "table", "cell"))
    clock = WorkClock({base: 10.0, table: 1.0, Target("training", "y"): 10.0})
    clock.resume(base, 0.0)
    clock.spend(base, 5.0)
    clock.advance(base, 0.5)
    assert clock.remaining_seconds() == pytest.approx(15.0)  # of the table nothing is known yet
    clock.spend(table, 3.0)
    clock.advance(table, 0.5)
    clock.finish(table, whole=True)
    clock.finish(base, whole=True)
    assert clock.remaining_seconds() == pytest.approx(10.0)
    assert cell.kind not in {target.kind for target in clock.work}


# Running.


def test_the_table_is_that_of_the_start_s_average_and_lies_in_the_weights(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    arms, table = by_arm(sweep), table_in(sweep)
    experiment = sweep.nodes[arms["first"]].experiment
    dataset = open_data(experiment.data)
    model = build_model(experiment, dataset.info).eval()
    model.load_state_dict(load_tensors(store.weights_path(arms["first"].id))[0])
    images, _ = chosen_images(dataset, IMAGES, SEED, Stream.TABLE)
    assert images.shape == (IMAGES, 1, 8, 8) and images.flatten(1).unique(dim=0).shape[0] == IMAGES
    here = measure_denoising_error(
        model, images.float() / 127.5 - 1, None, build_schedule(experiment.diffusion, 8), batch=100
    )
    there, facts = load_tensors(store.table_path(table.id), table.id)
    assert there.keys() == here.keys() and facts["table"] == "denoising_error"
    for name, tensor in here.items():
        torch.testing.assert_close(there[name], tensor, rtol=1e-5, atol=0)
    assert (there["standard_error"] < there["error"]).all() and there["error"].min() > 0
    for arm in ("second", "third"):
        weights = load_tensors(store.weights_path(arms[arm].id))[0]
        wanted = here["error"].log().float()  # at every second knot of the network's own
        torch.testing.assert_close(weights["network.error.log_error"][::2], wanted, rtol=1e-4, atol=1e-4)
    first = load_tensors(store.weights_path(arms["first"].id))[0]["network.error.log_error"]
    assert torch.equal(first, ErrorTable().log_error)  # it starts from nothing, and needs none


def test_weights_carry_their_configuration(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    first = by_arm(sweep)["first"]
    assert json.loads(load_facts(store.weights_path(first.id))["config"]) == as_plain(sweep.nodes[first].experiment)


def test_processes_of_this_machine_make_the_same_and_status_tells_of_it(
    made: tuple[Sweep, Store], folder: Path, tmp_path: Path
) -> None:
    """The table and what needs it; the rest is done. They find the method where the program is told to."""
    sweep, store = made
    results, second = tmp_path / "results", by_arm(sweep)["second"]
    shutil.copytree(store.root, results)
    copied = Store(results)
    copied.table_path(table_in(sweep).id).unlink()
    shutil.rmtree(copied.training_folder(second.id))
    (cell,) = (cell.id for cell in sweep.cells.values() if cell.training == second.id)
    copied.cell_path(cell).unlink()
    paths = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path != str(folder)]
    told = {"PYTHONPATH": os.pathsep.join(paths), "HARNESS_PLUGINS_PATH": str(folder)}
    with mock.patch.dict(os.environ, told):
        done = harness(results, "sweep", sweep.path, "--json", "--cluster", "local", "--workers", 2)
    assert done.returncode == 0, done.stderr
    for id in sweep.trainings:
        assert copied.weights_path(id).read_bytes() == store.weights_path(id).read_bytes()
    again, before = (load(one.table_path(table_in(sweep).id).read_bytes()) for one in (copied, store))
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in before)
    counts = json.loads(invoke("status", sweep.path, "--results", results, "--json"))["counts"]
    assert counts == {"encoding": {}, "training": {"done": 3}, "table": {"done": 1}, "cell": {"done": 2}}
    shown = invoke("status", sweep.path, "--results", results)
    assert "trainings: 3 done; tables: 1 done; cells: 2 done" in shown and "denoising_error of first seed=0" in shown


def test_a_dry_run_lists_the_table(sweep: Sweep, tmp_path: Path) -> None:
    asked = ("sweep", sweep.path, "--dry-run", "--cluster", "inline", "--results", tmp_path / "results")
    shown = " ".join(invoke(*asked).split())
    assert "to run: 3 trainings, 1 table, 2 cells, " in shown and "denoising_error of first seed=0" in shown
    rows = json.loads(invoke(*asked, "--json"))
    (row,) = rows["tables"]
    assert (row["id"], row["table"], row["done"], row["runs"]) == (table_in(sweep).id, "denoising_error", False, True)
    assert row["gmacs"] == pytest.approx(LEVELS * IMAGES * 2 * 4 * 9 * 64 / 1e9)
    assert rows["planned"]["gpu_hours"].keys() == {"encodings", "trainings", "tables", "cells"}


def test_a_damaged_table_is_set_aside_and_measured_again(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, _ = made
    copied, table = copy_of(made, tmp_path, "first"), table_in(sweep)
    run_all(sweep, copied)
    path, weights = copied.table_path(table.id), copied.weights_path(by_arm(sweep)["second"].id)
    whole, trained = load(path.read_bytes()), weights.read_bytes()
    path.write_bytes(path.read_bytes()[:-8])
    assert table not in plan(sweep, copied).done and plan(sweep, copied).targets() == []  # nobody needs it any more
    shutil.rmtree(copied.training_folder(by_arm(sweep)["second"].id))
    for cell in sweep.cells:
        copied.cell_path(cell).unlink()
    second = by_arm(sweep)["second"]
    copied.save_experiment(second, sweep.nodes[second].experiment)
    with pytest.raises(Blocked, match=rf"table {table.id}: .*\.safetensors is damaged or cut short"):
        jobs.run(copied, second)
    run_all(sweep, copied)
    again = load(path.read_bytes())
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert weights.read_bytes() == trained
    assert len(list(path.parent.glob("*.damaged"))) == 1


def test_a_table_that_is_not_what_it_is_called_is_refused(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, _ = made
    copied, second = copy_of(made, tmp_path, "first"), by_arm(sweep)["second"]
    save_tensors(copied.table_path(table_in(sweep).id), {"x": torch.zeros(1)}, "another")
    copied.save_experiment(second, sweep.nodes[second].experiment)
    with pytest.raises(Exception, match="belongs to training another"):
        jobs.run(copied, second)


def measure_until_killed(root: Path, table: str) -> None:
    def kill(done: int, total: int, phase: str = "") -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    jobs.run(Store(root), Target("table", table), kill)


def test_a_killed_measurement_leaves_nothing_and_is_made_by_the_next_run(
    made: tuple[Sweep, Store], tmp_path: Path
) -> None:
    sweep, store = made
    copied, table = copy_of(made, tmp_path, "first"), table_in(sweep)
    save_experiments(plan(sweep, copied), copied, [table])
    killed = started(measure_until_killed, copied.root, table.id, environment=environment(copied.root))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not copied.table_path(table.id).exists() and copied.state(table)["state"] == "running"
    rows = {r["id"]: r for r in json.loads(invoke("status", sweep.path, "--results", copied.root, "--json"))["rows"]}
    assert rows[table.id]["state"] == "lost" and rows[by_arm(sweep)["second"].id]["state"] == "blocked"
    run_all(sweep, copied)
    for id in sweep.trainings:
        assert copied.weights_path(id).read_bytes() == store.weights_path(id).read_bytes()
    assert copied.state(table)["attempts"] == 2


def test_a_measurement_that_is_told_to_stop_stops(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, _ = made
    copied, table = copy_of(made, tmp_path, "first"), table_in(sweep)
    save_experiments(plan(sweep, copied), copied, [table])
    told: list[int] = []
    with pytest.raises(Stopped):
        jobs.run(copied, table, lambda done, total, phase="": told.append(done), lambda: len(told) == 3)
    assert told == [0, 1, 2] and not copied.is_done(table) and copied.state(table)["state"] == "waiting"


def test_a_base_that_fails_blocks_the_table_and_all_that_follows(tmp_path: Path) -> None:
    bad = "first: {cells: false, set: {train.learning_rate: 1.0e+30, train.gradient_clip: null}}"
    path, results = write(tmp_path, SWEEP.replace("first: {cells: false}", bad)), tmp_path / "results"
    told = json.loads(invoke("sweep", path, "--results", results, "--cluster", "inline", "--json", status=1))
    sweep = load_sweep(path)
    first, table = by_arm(sweep)["first"], table_in(sweep)
    reason = told["failures"].pop(str(first))
    assert reason.startswith("Diverged: ")
    root = f"training {first.id} failed: {reason}"
    others = [table, by_arm(sweep)["second"], by_arm(sweep)["third"], *(cell.target for cell in sweep.cells.values())]
    assert told["failures"] == {str(target): root for target in others}
    rows = {r["id"]: r for r in json.loads(invoke("status", path, "--results", results, "--json"))["rows"]}
    assert {(rows[t.id]["state"], rows[t.id]["reason"]) for t in others} == {("blocked", root)}


def test_a_failed_table_is_retried_with_what_follows(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, _ = made
    copied, table = copy_of(made, tmp_path, "first"), table_in(sweep)
    copied.save_experiment(table, sweep.nodes[table].experiment)
    copied.set_state(table, state="failed", error="killed")
    rows = {r["id"]: r for r in json.loads(invoke("status", sweep.path, "--results", copied.root, "--json"))["rows"]}
    assert rows[by_arm(sweep)["second"].id]["reason"] == f"table {table.id} failed: killed"
    said = json.loads(invoke("retry", sweep.path, table.id, "--results", copied.root, "--cluster", "inline", "--json"))
    assert said["retried"][0] == str(table) and len(said["retried"]) == 5
    asked = ("status", sweep.path, "--results", copied.root, "--json")
    assert json.loads(invoke(*asked))["complete"]


def test_a_training_that_has_begun_goes_on_without_its_table(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    copied, table, second = copy_of(made, tmp_path, "first"), table_in(sweep), by_arm(sweep)["second"]
    save_experiments(plan(sweep, copied), copied, [table, second])
    with pytest.raises(Blocked, match=f"table {table.id} has not finished"):
        jobs.run(copied, second)
    jobs.run(copied, table)
    with pytest.raises(Stopped):
        jobs.run(copied, second, should_stop=lambda: True)
    copied.table_path(table.id).unlink()
    shutil.rmtree(copied.training_folder(by_arm(sweep)["first"].id))
    jobs.run(copied, second)
    assert copied.weights_path(second.id).read_bytes() == store.weights_path(second.id).read_bytes()


def test_one_experiment_measures_what_its_training_needs(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    told = json.loads(invoke("train", sweep.path, "--arm", "second", "--results", tmp_path / "r", "--json"))
    second = by_arm(sweep)["second"]
    assert told["training"] == second.id and Store(tmp_path / "r").is_done(table_in(sweep))
    assert Store(tmp_path / "r").weights_path(second.id).read_bytes() == store.weights_path(second.id).read_bytes()


# Starts that are files.


def from_file(folder: Path, weights: Path) -> Sweep:
    text = SWEEP.replace("train.start: first", f"train.start: '{weights}'").replace("  first: {cells: false}\n", "")
    return load_sweep(write(folder, text.replace("arms:", "seeds: [0, 1]\narms:")))


def test_a_file_s_network_is_known_from_its_configuration(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    weights = shutil.copy(store.weights_path(by_arm(sweep)["first"].id), tmp_path / "w.safetensors")
    filed, results = from_file(tmp_path, Path(weights)), Store(tmp_path / "results")
    table = table_in(filed)  # one for both seeds: the file is the same
    assert table != table_in(sweep) and labels_of(filed)[table] == f"denoising_error of {weights}"
    assert filed.needs[table] == ()
    run_all(filed, results)
    here, there = (load_tensors(s.table_path(table_in(of).id))[0] for s, of in ((results, filed), (store, sweep)))
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_file_of_an_earlier_version_is_refused_before_anything_is_trained(
    made: tuple[Sweep, Store], tmp_path: Path
) -> None:
    sweep, store = made
    weights = store.weights_path(by_arm(sweep)["first"].id)
    old = tmp_path / "old.safetensors"
    save_tensors(old, load_tensors(weights)[0], "0123456789abcdef", step="4")
    assert file_sha256(old) != file_sha256(weights)
    filed, results = from_file(tmp_path, old), Store(tmp_path / "results")
    with pytest.raises(ConfigError) as refused:
        check_starts(plan(filed, results), results)
    assert len(refused.value.problems) == 2  # of two arms; of two seeds once
    assert f"train.start: {old} has no configuration in it" in refused.value.problems[0]
    assert "(train.start: training:ID" in refused.value.problems[0]
    done = CliRunner().invoke(app, ["sweep", str(filed.path), "--results", str(results.root), "--cluster", "inline"])
    assert isinstance(done.exception, ConfigError) and not list(results.root.rglob("log.jsonl"))
    done = CliRunner().invoke(app, ["train", str(filed.path), "--arm", "second", "--results", str(results.root)])
    assert isinstance(done.exception, ConfigError) and "has no configuration in it" in str(done.exception)


def test_a_start_of_an_earlier_version_is_known_from_its_store(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, _ = made
    copied, first = copy_of(made, tmp_path, "first"), by_arm(sweep)["first"]
    weights = copied.weights_path(first.id)
    tensors, facts = load_tensors(weights)
    save_tensors(weights, tensors, first.id, step=facts["step"])
    done = json.loads(copied.done_path(first.id).read_text())
    copied.done_path(first.id).write_text(json.dumps({**done, "weights_bytes": weights.stat().st_size}))
    check_starts(plan(sweep, copied), copied)
    table = table_in(sweep)
    copied.save_experiment(table, sweep.nodes[table].experiment)
    assert jobs.run(copied, table) and copied.is_done(table)
