"""Encoding the images of a data set, as a target of the work graph: before the trainings that run on their latents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import harness.engine.latents as engine
from harness.data.latents import Autoencoder, load_autoencoder
from harness.dispatch.labels import labels_of
from harness.dispatch.local import run_inline, saved
from harness.dispatch.plan import plan, save_experiments
from harness.dispatch.progress import WorkClock, in_words
from harness.dispatch.slurm.arrays import After, lay_out
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.status import read_status
from harness.dispatch.sweep import Sweep, load_sweep
from harness.engine import jobs
from harness.engine.estimate import encoding_gmacs
from harness.engine.latents import ready_latents
from harness.errors import Blocked, HarnessError, Stopped
from harness.measure.flops import flop_counter_macs
from harness.store.identity import UNKNOWN_ID, identify
from harness.store.store import Store, Target
from tests.autoencoders import save_several
from tests.harness.tiny import by_arm
from tests.harness.tiny import invoke as run

IMAGES = 1797
SWEEP: dict[str, Any] = {
    "name": "encoded",
    "base": {
        "model": {"width": 8, "blocks": [1, 1], "head_width": 8},
        "train": {"steps": 2, "batch": 8, "checkpoint_every": 1, "log_every": 1},
        "sample": {"sampler": "ddim", "steps": 2, "batch": 16},
        "measure": {"images": 32, "latency": {"repeats": 1, "warmup": 0, "batch": 4}},
    },
    "arms": {"base": {}, "longer": {"set": {"train.steps": 3}}, "after": {"set": {"train.start": "base"}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_several(tmp_path_factory.mktemp("autoencoders"))


@pytest.fixture(autouse=True)
def _nothing_shared() -> Iterator[None]:
    engine._encoded.cache_clear()
    yield
    engine._encoded.cache_clear()


def write(path: Path, autoencoder: Path, arms: Any = None, **base: Any) -> Path:
    told = {**SWEEP, "base": {**SWEEP["base"], "data": {"latents": str(autoencoder)}, **base}, **(arms or {})}
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path


@pytest.fixture
def sweep(folder: Path, tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path / "s.yaml", folder / "tiny"))


def encoding_in(sweep: Sweep) -> Target:
    (encoding,) = sweep.encodings.values()
    return encoding.target


def run_all(sweep: Sweep, store: Store) -> Any:
    return run_inline(plan(sweep, store), store, Console(quiet=True))


# The graph.


def test_trainings_on_the_same_latents_need_one_encoding(sweep: Sweep, tmp_path: Path) -> None:
    encoding, arms, needs = encoding_in(sweep), by_arm(sweep), sweep.needs
    assert needs[encoding] == () and needs[arms["base"]] == needs[arms["longer"]] == (encoding,)
    assert needs[arms["after"]] == (encoding, arms["base"])
    assert all(encoding not in needs[cell.target] for cell in sweep.cells.values())
    planned = plan(sweep, Store(tmp_path / "results"))
    assert planned.targets()[0] == encoding and planned.targets().count(encoding) == 1
    assert planned.waits_for(arms["after"]) == (arms["base"],)
    assert labels_of(sweep)[encoding] == "latents of digits by tiny"


def test_other_latents_are_another_encoding_and_images_are_none(folder: Path, tmp_path: Path) -> None:
    arms: Any = {
        "other": {"set": {"data.latents": str(folder / "other")}},
        "mean": {"set": {"data.latents": str(folder / "kl")}},
        "drawn": {"set": {"data.latents": str(folder / "kl"), "data.posterior": "sample"}},
        "images": {"set": {"data.latents": None}},
        "base": {},
    }
    several = load_sweep(write(tmp_path / "s.yaml", folder / "tiny", {"arms": arms}))
    of = {arm: several.needs[target] for arm, target in by_arm(several).items()}
    assert of["mean"] == of["drawn"] and of["images"] == () and len(set(of.values())) == 4
    shutil.copytree(folder / "tiny", tmp_path / "moved")
    moved, here = (load_sweep(write(tmp_path / "one.yaml", place)) for place in (tmp_path / "moved", folder / "tiny"))
    assert encoding_in(moved) == encoding_in(here)


def test_weights_that_are_given_need_no_latents(folder: Path, tmp_path: Path) -> None:
    arms = {"arms": {"given": {"set": {"model.weights": "weights.safetensors"}}}}
    path = write(tmp_path / "s.yaml", folder / "tiny", arms)
    given = load_sweep(path, without_data=True)
    assert not given.encodings and all(not needs for target, needs in given.needs.items() if target.kind == "training")


def test_what_is_not_there_has_a_placeholder(tmp_path: Path) -> None:
    missing = load_sweep(write(tmp_path / "s.yaml", tmp_path / "none"), without_data=True)
    assert encoding_in(missing).id.startswith(UNKNOWN_ID)


def test_ids_of_trainings_and_cells_know_nothing_of_it(sweep: Sweep) -> None:
    for cell in sweep.cells.values():
        assert identify(cell.experiment) == (cell.training, cell.id)


def test_a_sweep_s_jobs_wait_for_the_one_that_encodes(sweep: Sweep, tmp_path: Path) -> None:
    planned = plan(sweep, Store(tmp_path / "results"))
    targets = planned.targets()
    arrays = lay_out(targets, {target: planned.waits_for(target) for target in targets}, 1000, {}, {})
    assert [(array.kind, len(array.elements)) for array in arrays[:2]] == [("encoding", 1), ("training", 2)]
    assert arrays[0].after == () and {after.array for after in arrays[1].after} == {0}
    assert arrays[1].after[0] == After(0, arrays[1].after[0].element)


def test_its_job_asks_for_what_a_training_s_does_unless_told_otherwise() -> None:
    told = {"partition": "all", "trainings": {"partition": "gpu", "gpus": 8}, "encodings": {"time": "20m"}}
    settings = load_settings(told, "a sweep")
    assert (settings.encoding.partition, settings.encoding.gpus, settings.encoding.time) == ("gpu", 8, "20m")
    assert settings.of("encoding") is settings.encoding and settings.training.time == "4h"


# What it costs, and how long it takes.


@pytest.mark.parametrize("name", ["tiny", "kl"])
def test_its_cost_is_that_of_the_encoder_for_each_image(name: str, folder: Path, tmp_path: Path) -> None:
    experiment = load_sweep(write(tmp_path / "s.yaml", folder / name)).cells.popitem()[1].experiment
    encoder = load_autoencoder(str(folder / name), torch.device("cpu"))
    macs = flop_counter_macs(lambda images: encoder.encode(images).mean, (torch.zeros(1, 1, 8, 8),), model=encoder)
    assert encoding_gmacs(experiment) == pytest.approx(IMAGES * macs / 1e9) and macs > 0


def test_the_dry_run_and_status_tell_of_it(sweep: Sweep, tmp_path: Path) -> None:
    asked = (sweep.path, "--results", tmp_path / "results")
    dry = ("sweep", *asked, "--dry-run", "--cluster", "inline")
    shown = " ".join(run(*dry).split())
    assert "to run: 1 encoding, 3 trainings, 3 cells, " in shown and "latents of digits by tiny" in shown
    rows = json.loads(run(*dry, "--json"))
    (row,) = rows["encodings"]
    assert (row["id"], row["images"], row["done"], row["runs"]) == (encoding_in(sweep).id, IMAGES, False, True)
    hours = rows["planned"]["gpu_hours"]["encodings"]
    assert row["gmacs"] == pytest.approx(encoding_gmacs(sweep.encodings[row["id"]].experiment)) and hours > 0
    store = Store(tmp_path / "results")
    ready_latents(store, sweep.encodings[row["id"]].experiment.data)
    (row,) = json.loads(run(*dry, "--json"))["encodings"]
    assert row["done"] and not row["runs"]
    assert "encodings: 1 done; trainings: 3 missing; cells: 3 missing" in run("status", *asked)


def test_a_part_of_it_tells_how_long_the_rest_takes() -> None:
    encoding, training = Target("encoding", "x"), Target("training", "y")
    clock = WorkClock({encoding: 10.0, Target("encoding", "z"): 30.0}, needs={training: (encoding,)})
    clock.resume(encoding, 0.0)
    assert clock.remaining_seconds() is None
    clock.spend(encoding, 5.0)
    clock.advance(encoding, 0.5)
    assert clock.remaining_seconds() == pytest.approx(5.0 + 30.0)
    assert in_words("encoding", 4096, 50_000) == "4096/50000 images"


# Running.


def test_it_is_run_once(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, encoding = Store(tmp_path / "results"), encoding_in(sweep)
    began: list[str] = []
    encode = engine.encode_parts

    def watched(*given: Any) -> None:
        began.append("encoded")
        encode(*given)

    monkeypatch.setattr(engine, "encode_parts", watched)
    training = by_arm(sweep)["base"]
    planned = plan(sweep, store)
    save_experiments(planned, store, [encoding, training])
    assert jobs.run(store, encoding) and not jobs.run(store, encoding)
    assert jobs.run(store, training) and began == ["encoded"]
    assert store.state(encoding)["progress"] == [IMAGES, IMAGES] and saved(store, encoding) == "done"


def test_a_training_does_not_run_without_it(sweep: Sweep, tmp_path: Path) -> None:
    """Not even one that has been begun."""
    store, training, encoding = Store(tmp_path / "results"), by_arm(sweep)["base"], encoding_in(sweep)
    save_experiments(plan(sweep, store), store, [training, encoding])
    with pytest.raises(Blocked, match=f"encoding {encoding.id} has not finished"):
        jobs.run(store, training)
    (store.training_folder(training.id) / "checkpoint-00000001.safetensors").write_bytes(b"")
    with pytest.raises(Blocked, match=f"encoding {encoding.id} has not finished"):
        jobs.run(store, training)


def test_where_it_fails_all_that_needs_it_is_blocked_and_runs_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, encoding = Store(tmp_path / "results"), encoding_in(sweep)
    with monkeypatch.context() as broken:
        broken.setattr(Autoencoder, "encode", lambda *_: 1 / 0)
        outcome = run_all(sweep, store)
    assert set(outcome.failed) == {encoding} and len(outcome.blocked) == len(sweep.nodes) - 1
    status = read_status(plan(sweep, store), store)
    assert status.rows[encoding].state == "failed" and "ZeroDivisionError" in status.rows[encoding].reason
    for target in (*by_arm(sweep).values(), *(cell.target for cell in sweep.cells.values())):
        row = status.rows[target]
        assert row.state == "blocked" and f"{encoding} failed: ZeroDivisionError" in row.reason
    store.forget_failure(encoding)
    assert jobs.run(store, encoding) and store.is_done(encoding)


def test_stopped_in_the_middle_it_goes_on(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PART", 500)
    store, encoding = Store(tmp_path / "results"), encoding_in(sweep)
    save_experiments(plan(sweep, store), store, [encoding])
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        jobs.run(store, encoding, should_stop=lambda: next(asked))
    assert store.state(encoding)["state"] == "waiting" and store.state(encoding)["stopped"] == [1000, IMAGES]
    assert saved(store, encoding) == "2 parts of it kept" and not store.is_done(encoding)
    told: list[tuple[int, int, str]] = []
    assert jobs.run(store, encoding, progress=lambda done, total, phase="": told.append((done, total, phase)))
    assert told[0] == (1000, IMAGES, "") and told[-1] == (IMAGES, IMAGES, "")


def test_a_part_that_is_gone_or_cut_short_is_made_again_if_anything_needs_it(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PART", 500)
    store, encoding, training = Store(tmp_path / "results"), encoding_in(sweep), by_arm(sweep)["base"]
    save_experiments(plan(sweep, store), store, [encoding, training])
    jobs.run(store, encoding)
    first, second, *_ = sorted(store.latents_folder(encoding.id).glob("from-*"))
    whole = [first.read_bytes(), second.read_bytes()]
    first.unlink()
    second.write_bytes(whole[1][:-9])
    assert encoding in plan(sweep, store).targets()
    with pytest.raises(Blocked, match="are missing or cut short"):
        jobs.run(store, training)
    assert jobs.run(store, encoding) and [first.read_bytes(), second.read_bytes()] == whole
    cells = {cell.target for cell in sweep.cells.values()}
    monkeypatch.setattr(Store, "is_done", lambda self, target: target != encoding)
    monkeypatch.setattr(Store, "finished_cells", lambda self: {cell.id for cell in cells})
    assert plan(sweep, store).targets() == []


def test_one_training_by_itself_encodes_first(sweep: Sweep, tmp_path: Path) -> None:
    made = json.loads(run("train", sweep.path, "--arm", "base", "--results", tmp_path / "results", "--json"))
    store = Store(tmp_path / "results")
    assert store.is_trained(made["training"]) and store.state(encoding_in(sweep))["state"] == "done"


def test_the_data_are_held_against_what_it_was_planned_of(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "own")
    planned = plan(load_sweep(write(tmp_path / "s.yaml", tmp_path / "own")), Store(tmp_path / "results"))
    encoding = encoding_in(planned.sweep)
    save_experiments(planned, Store(tmp_path / "results"), [encoding])
    shutil.copytree(folder / "other", tmp_path / "own", dirs_exist_ok=True)
    with pytest.raises(HarnessError, match=f"is not what it was when {encoding} was planned"):
        jobs.run(Store(tmp_path / "results"), encoding)
