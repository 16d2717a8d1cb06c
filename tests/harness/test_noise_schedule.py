"""Noise schedules in whole trainings: resumed, over ranks, beside every method, into records, figures and sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import parse_experiment
from harness.data import open_data
from harness.dispatch.sweep import load_sweep
from harness.engine.build import build_model
from harness.engine.cell import load_generator
from harness.engine.train import train_network
from harness.errors import ConfigError, Stopped
from harness.report.cells_file import load_rows
from harness.report.panel import panels
from harness.report.schedule_figure import density, schedule_figure, schedules
from harness.store.identity import identify
from harness.store.store import Store
from harness.store.weights import load_tensors, tensors_digest
from models.methods import Configuration, ImageShape, Loss, Method
from models.noise_schedule import noise_schedule_of
from models.process import CosineSchedule
from models.spacing import noise_schedule_steps
from tests.harness.tiny_experiments import tiny
from tests.harness.two_ranks import Training, train_by_two

FOUND = ("learned", "adaptive")
KNOTS = 4


def found(kind: str, schedule: str, **train: Any) -> Any:
    """A tiny experiment that trains a noise schedule; its learned one moves fast."""
    fast = {"noise_learning_rate": 0.2} if schedule == "learned" else {}
    return tiny(kind, train={"noise_schedule": schedule, "noise_knots": KNOTS, **fast, **train})


def trained(experiment: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    train_network(experiment, "t", folder, **options)
    return load_tensors(folder / "weights.safetensors", "t")[0]


@pytest.mark.parametrize(("kind", "schedule"), [("single_rate", "learned"), ("dual_rate", "adaptive")])
def test_resumed_at_every_step_is_uninterrupted_bit_for_bit(kind: str, schedule: str, tmp_path: Path) -> None:
    experiment = found(kind, schedule, accumulate=2)
    whole = trained(experiment, tmp_path / "whole")
    stops = 0
    while not (tmp_path / "cut" / "done.json").exists():
        asked: list[bool] = []

        def second_time(asked: list[bool] = asked) -> bool:
            asked.append(True)
            return len(asked) > 1

        try:
            train_network(experiment, "t", tmp_path / "cut", should_stop=second_time)
        except Stopped:
            stops += 1
    assert stops > 1
    cut = load_tensors(tmp_path / "cut" / "weights.safetensors", "t")[0]
    assert cut.keys() == whole.keys() and all(torch.equal(cut[name], value) for name, value in whole.items())
    kept = [json.loads((tmp_path / name / "done.json").read_text())["noise_schedule"] for name in ("whole", "cut")]
    assert kept[0] == kept[1] and kept[0]["times"] != kept[0]["process_times"]


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    experiment = found("dual_rate", "learned", steps=3, accumulate=2, context_dropout=0.0)
    train_by_two(Training(experiment, tmp_path / "two"))
    one = trained(experiment, tmp_path / "one")
    two = load_tensors(tmp_path / "two" / "weights.safetensors", "t")[0]
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-4) for name in one)
    moved = one["noise_schedule.increments"]
    assert moved.max() - moved.min() > 0.05


def test_a_fixed_schedule_is_the_same_training_as_none() -> None:
    assert identify(tiny(train={"noise_schedule": "fixed"})) == identify(tiny())
    ids = {identify(found("single_rate", one)) for one in FOUND} | {identify(tiny())}
    assert len({training for training, _ in ids}) == 3
    own = tiny(train={"noise_schedule": "learned"}, sample={"spacing": "noise_schedule"})
    of_process = tiny(train={"noise_schedule": "learned"})
    assert identify(own)[0] == identify(of_process)[0] and identify(own)[1] != identify(of_process)[1]


def test_a_start_leaves_its_schedule_behind(tmp_path: Path) -> None:
    """From a training with a schedule to one without, or with another, and to a dual-rate network around it."""
    start = found("single_rate", "learned")
    weights = trained(start, tmp_path / "start")
    path = tmp_path / "start" / "weights.safetensors"
    named = {"start": str(path), "steps": 1}
    plain = trained(tiny(train=named), tmp_path / "plain", start=path)
    assert plain.keys() == {name for name in weights if not name.startswith("noise_schedule.")}
    other = trained(found("single_rate", "learned", noise_knots=6, **named), tmp_path / "other", start=path)
    assert len(other["noise_schedule.increments"]) == 6
    frozen = found("dual_rate", "adaptive", freeze=["encoder"], **named)
    dual = trained(frozen, tmp_path / "dual", start=path)
    inner = {name: value for name, value in weights.items() if name.startswith("network.") and ".head" not in name}
    assert all(torch.equal(dual[f"encoder.{name.removeprefix('network.')}"], value) for name, value in inner.items())
    assert dual["noise_schedule.seen"].sum() > 0


class OwnLoss(Method):
    """A method from outside with a loss of its own."""

    def build_network(self, config: Configuration, images: ImageShape) -> nn.Module:
        return nn.Conv2d(1, 1, 1)

    def loss(self, config: Configuration, schedule: CosineSchedule) -> Loss:
        raise NotImplementedError


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        made: Tensor = self.layer(z)
        return made


class DefaultLoss(Method):
    """A method from outside with the default loss."""

    def build_network(self, config: Configuration, images: ImageShape) -> nn.Module:
        return Plain()


class Taken(DefaultLoss):
    """One whose model has something else under the schedule's name."""

    def build(self, config: Configuration, images: ImageShape) -> Any:
        model: Any = super().build(config, images)
        model.noise_schedule = "something else"
        return model


HERE = "tests.harness.test_noise_schedule"


def test_a_method_from_outside_with_the_default_loss_trains_one(tmp_path: Path) -> None:
    train = {"noise_schedule": "adaptive", "noise_knots": KNOTS, "steps": 2, "batch": 8}
    experiment = parse_experiment({"model": {"kind": f"{HERE}:DefaultLoss"}, "train": train}, "test")
    assert trained(experiment, tmp_path)["noise_schedule.seen"].sum() > 0


def test_a_model_with_something_of_that_name_is_refused() -> None:
    values = {"model": {"kind": f"{HERE}:Taken"}, "train": {"noise_schedule": "learned"}}
    experiment = parse_experiment(values, "test")
    with pytest.raises(ConfigError, match=r"train\.noise_schedule: .*:Taken builds OneNetwork, which has a noise_sch"):
        build_model(experiment, open_data(experiment.data).info)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name": (
        {"train": {"noise_schedule": "learnt"}},
        r"train\.noise_schedule: 'learnt' is not one of 'fixed', 'learned'",
    ),
    "knots of a fixed one": ({"train": {"noise_knots": 4}}, r"train\.noise_knots: the fixed schedule has none; set"),
    "one knot": ({"train": {"noise_schedule": "learned", "noise_knots": 1}}, r"train\.noise_knots: .*2"),
    "a rate": (
        {"train": {"noise_schedule": "adaptive", "noise_learning_rate": 0.1}},
        r"train\.noise_learning_rate: only train\.noise_schedule: learned has one",
    ),
    "steps without one": (
        {"sample": {"spacing": "noise_schedule"}},
        r"sample\.spacing: noise_schedule needs a training that finds one; set train\.noise_schedule",
    ),
    "edm": (
        {"train": {"noise_schedule": "learned"}, "diffusion": {"preconditioning": "edm"}},
        r"train\.noise_schedule: learned has no place with diffusion\.preconditioning: edm",
    ),
    "a distillation": (
        {
            "train": {"noise_schedule": "adaptive", "start": f"training:{'0' * 16}"},
            "distill": {"method": "regression", "teacher": f"training:{'0' * 16}", "steps": 4},
        },
        r"train\.noise_schedule: adaptive has no place in a distillation",
    ),
    "a rollout": (
        {
            "model": {"kind": "dual_rate"},
            "sample": {"refreshes": 2},
            "train": {"noise_schedule": "learned", "states": "rollout", "target": "encoder", "denoiser_times": 2},
        },
        r"train\.noise_schedule: the later times of a rollout \(train\.states\) depend on one another",
    ),
    "refreshes of a fixed one": (
        {"model": {"kind": "dual_rate"}, "sample": {"refreshes": 2}, "train": {"noise_refreshes": "own"}},
        r"train\.noise_refreshes: needs train\.noise_schedule; leave it out",
    ),
    "refreshes of the same time": (
        {
            "model": {"kind": "dual_rate"},
            "sample": {"refreshes": 2},
            "train": {"noise_schedule": "learned", "noise_refreshes": "own", "pairs": "same"},
        },
        r"train\.noise_refreshes: pairs of the same time have no refreshes",
    ),
    "a loss of its own": (
        {"model": {"kind": f"{HERE}:OwnLoss"}, "train": {"noise_schedule": "learned"}},
        r"train\.noise_schedule: the loss of a .*:OwnLoss model draws its noise levels itself; leave it out",
    ),
}


@pytest.mark.parametrize("values,said", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_place_for_one_is_refused_with_one_message(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        parse_experiment(values, "test")
    assert len(refused.value.problems) == 1


SWEEP = """
name: schedules
base:
  model: {kind: single_rate, width: 8, multipliers: [1, 2], blocks: [1, 1], head_width: 8}
  train: {steps: 4, batch: 8, learning_rate: 1.0e-2, noise_knots: null}
  sample: {steps: 4, batch: 16, sampler: ddim}
  measure: {images: 16, latency: {repeats: 1, warmup: 0, batch: 8}}
seeds: [0, 1]
arms:
  base: {}
  learned:
    set: {train.noise_schedule: learned, train.noise_knots: 4, train.noise_learning_rate: 0.3}
    grid: {sample.spacing: [time, noise_schedule]}
  cached:
    like: learned
    set: {sample.cache_from_level: 1, sample.refreshes: 2}
  dual-rate:
    set: {model.kind: dual_rate, sample.refreshes: 2, train.pairs: same, train.noise_schedule: adaptive}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the sweep was run in."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "s.yaml").write_text(SWEEP)
    asked = ["sweep", str(folder / "s.yaml"), "--results", str(folder / "results"), "--cluster", "inline"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


def test_a_sweep_ends_with_the_curves_in_its_records_and_a_figure_of_them(swept: Path) -> None:
    report = swept / "results" / "schedules"
    assert (report / "noise-schedules.png").stat().st_size > 1000 and (report / "noise-schedules.pdf").exists()
    assert "Noise schedules that trainings have found" in (report / "index.html").read_text()
    (panel,) = panels(load_rows(report / "cells.json"), ("base", "learned", "cached", "dual-rate"))
    kept = schedules(panel)
    assert {arm: len(ones) for arm, ones in kept.items()} == {"learned": 2, "dual-rate": 2}  # cached has no training
    assert {one.kind for one in kept["learned"]} == {"learned"} and {one.knots for one in kept["dual-rate"]} == {32}
    for one in kept["learned"]:
        assert one.times[0] == 0 and one.times[-1] == 1 and one.log_snr[0] == 15 and one.log_snr[-1] == -15
        assert all(later > earlier for earlier, later in zip(one.times, one.times[1:], strict=False))
        levels, values = density(one.times, one.log_snr)
        widths = [b - a for a, b in zip(one.log_snr[1:], one.log_snr, strict=False)]
        assert sum(v * w for v, w in zip(values, widths, strict=True)) == pytest.approx(1) and len(levels) == 16
        assert one.variance is not None and one.variance_fixed is not None
    drawn = schedule_figure(panel)
    curve, beside = drawn.axes[:2]
    assert len(curve.lines) == len(beside.lines) >= 5
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["fixed", "learned", "dual-rate"]


def test_sampling_by_the_schedule_steps_evenly_in_its_time(swept: Path) -> None:
    sweep, store = load_sweep(swept / "s.yaml"), Store(swept / "results")
    chosen = [
        cell.experiment
        for cell in sweep.cells.values()
        if cell.experiment.sample.spacing == "noise_schedule" and cell.experiment.sample.refreshes is None
    ]
    assert len(chosen) == 2
    for experiment in chosen:
        weights = store.weights_path(identify(experiment)[0])
        generator = load_generator(experiment, weights, torch.device("cpu"))
        noise = noise_schedule_of(generator.trained_model)
        assert noise is not None
        assert torch.equal(generator.times, noise_schedule_steps(4, noise))
        assert not torch.allclose(generator.times, torch.linspace(1, 0, 5).double(), atol=1e-3)
    shown = [store.read_cell(id) for id, cell in sweep.cells.items() if cell.experiment in chosen]
    assert all(record.noise_schedule is not None for record in shown)


def test_a_report_without_such_a_training_has_no_such_figure(swept: Path) -> None:
    plain = SWEEP[: SWEEP.index("  learned:")]
    (swept / "plain.yaml").write_text(plain.replace("name: schedules", "name: plain"))
    asked = ["report", str(swept / "plain.yaml"), "--results", str(swept / "results")]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert not list((swept / "results" / "plain").glob("noise-schedules*"))


def test_what_is_frozen_beside_a_schedule_stays(tmp_path: Path) -> None:
    """The digest that a checkpoint of a frozen network holds knows nothing of the schedule."""
    start = tiny()
    trained(start, tmp_path / "start")
    path = tmp_path / "start" / "weights.safetensors"
    experiment = found("dual_rate", "learned", freeze=["encoder"], start=str(path))
    with pytest.raises(Stopped):
        train_network(experiment, "t", tmp_path / "cut", should_stop=lambda: True, start=path)
    whole = trained(experiment, tmp_path / "whole", start=path)
    cut = trained(experiment, tmp_path / "cut", start=path)
    assert tensors_digest(cut) == tensors_digest(whole)
