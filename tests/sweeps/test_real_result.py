"""The script of the first real result: equal compute by construction, plans that load, weights that draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from harness.cli import sweep as sweeping
from harness.config.schema import Experiment, parse_experiment
from harness.data import DataInfo
from harness.dispatch.sweep import load_experiment, load_sweep
from harness.engine.cell import load_generator
from harness.engine.estimate import planned_costs
from harness.engine.planned import planned_gpu_hours
from harness.engine.train import train_network
from harness.store.store import Store
from tools import real_result
from tools.made_images import make
from tools.real_result import SCALES, TEMPLATE, TRAINED, equal_compute_steps, keep_weights, scaled

INFO = DataInfo("made", "train", 50_000, 32, 3, 100, "")


def training_gmacs(experiment: Experiment) -> float:
    """Forward GMACs per image times steps times batch."""
    forward = sum(cost.gmacs for cost in planned_costs(experiment, INFO, training=True).values())
    return forward * experiment.train.batch * experiment.train.steps


def test_the_template_as_it_stands_has_equal_training_compute() -> None:
    compute = [training_gmacs(load_experiment(TEMPLATE, [], arm)) for arm in TRAINED]
    assert max(compute) / min(compute) < 1.005
    assert load_experiment(TEMPLATE, [], "cached").train == load_experiment(TEMPLATE, [], "base").train


def test_steps_share_the_time_so_that_compute_is_equal() -> None:
    gmacs = {"base": 10.0, "shrunk": 2.5, "dual-rate": 12.5}
    seconds = {"base": 0.1, "shrunk": 0.05, "dual-rate": 0.2}
    steps = equal_compute_steps(gmacs, seconds, 3600.0)
    assert sum(steps[arm] * seconds[arm] for arm in steps) == pytest.approx(3600, rel=1e-3)
    compute = [steps[arm] * gmacs[arm] for arm in steps]
    assert compute == pytest.approx([compute[0]] * 3, rel=1e-3)
    assert min(equal_compute_steps(gmacs, seconds, 1e-9).values()) == 1


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_a_sweep_of_all_methods_and_samplers(scale: str, tmp_path: Path) -> None:
    data = tmp_path / "zips"
    for split in ("train", "val"):
        make(data / f"made-{split}.zip", images=4, size=32, classes=2)
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(scaled(scale, data, 32)))
    cells = list(load_sweep(file).cells.values())
    methods = {(arm, cell.experiment.sample.sampler) for cell in cells for arm, _ in cell.rows}
    samplers = ("ancestral", "ddim", "heun")
    assert methods == {(arm, sampler) for arm in ("base", "shrunk", "cached", "dual-rate") for sampler in samplers}
    on_gpu = scale == "gpu"
    assert {c.experiment.train.precision for c in cells} == {"bfloat16" if on_gpu else "float32"}
    assert {c.experiment.sample.compile for c in cells} == {on_gpu}
    title = load_sweep(file).config.title
    assert ("CPU" in title, "trial" in title) == (scale == "cpu", scale == "trial")


@pytest.mark.parametrize("limit", [10**9, 30_000, 0])
def test_weights_are_kept_where_they_are_small_and_draw(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_result, "LARGEST_KEPT_BYTES", limit)
    file = tmp_path / "sweep.yaml"
    model = {"width": 8, "blocks": [1, 1], "head_width": 8, "embedding": 16}
    train = {"steps": 1, "batch": 4}
    base = {"model": model, "train": train, "sample": {"steps": 2, "batch": 4}}
    file.write_text(yaml.safe_dump({"name": "s", "base": base, "arms": {arm: {} for arm in TRAINED}}))
    sweep, store = load_sweep(file), Store(tmp_path / "results")
    (training,) = sweep.trainings
    train_network(sweep.trainings[training].experiment, training, store.training_folder(training))
    size = store.weights_path(training).stat().st_size
    assert 30_000 < size < 50_000, "or the middle limit tests nothing"
    keep_weights(sweep, store, tmp_path, Console(quiet=True))
    kept = tmp_path / "dual-rate.safetensors"
    assert kept.exists() == (limit > 0)
    if limit:
        assert (kept.stat().st_size < 0.7 * size) == (limit == 30_000)
        experiment = parse_experiment(base, "test")
        images = [
            load_generator(experiment, weights).draw(0, torch.arange(2))
            for weights in (kept, store.weights_path(training))
        ]
        torch.testing.assert_close(*images, rtol=0, atol=0.05)


def test_a_plan_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        "trainings": [{"planned_gpu_hours": 2000.0, "runs": True}, {"planned_gpu_hours": 7.0, "runs": False}],
        "tables": [],
        "encodings": [],
        "cells": [{"planned_gpu_hours": 50.0, "runs": True}],
    }
    planned = sweeping._planned_hours(rows)
    assert planned["gpu_hours"] == {"trainings": 2000.0, "tables": 0, "encodings": 0, "cells": 50.0}
    sweeping._show_planned_hours(planned, Console(width=200))
    said = capsys.readouterr().out
    assert said.startswith("planned, not measured: 2,050 GPU-hours (2,000 of trainings, 50 of cells)") and "40%" in said
    nothing: dict[str, list[dict[str, object]]] = {kind: [] for kind in rows}
    sweeping._show_planned_hours(sweeping._planned_hours(nothing), Console())
    assert not capsys.readouterr().out


def test_planned_hours_are_flops_at_a_share_of_the_peak() -> None:
    hour_of_an_h100 = 0.4 * 989.4e12 * 3600
    assert planned_gpu_hours(hour_of_an_h100 / 2 / 1e9, "bfloat16") == pytest.approx(1.0)
    assert planned_gpu_hours(1.0, "float32") > 10 * planned_gpu_hours(1.0, "bfloat16")
