"""Finished weights as a training that nothing trains: from a snapshot in EDM's format to the table."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import parse_experiment
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError
from harness.store.identity import identify
from harness.store.pretrained import convert
from tests.harness.tiny import invoke as run
from tools.made_edm import make
from tools.made_images import make_cifar10

MINIATURE = Path(__file__).parents[2] / "sweeps" / "miniature" / "edm_pretrained.yaml"
FEATURES = (
    "--set",
    "measure.features=efficientnet_lite0",
    "--set",
    "measure.weights=null",
    "--set",
    "sample.seeds=[0]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the miniature needs, but for its extractor."""
    place = tmp_path_factory.mktemp("given")
    make_cifar10(place / "made-cifar10.tar.gz", images=20)
    make(place / "made-edm.pkl")
    return place


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert isinstance(result.exception, ConfigError | Exception) and not isinstance(result.exception, SystemExit)
    return str(result.exception)


def experiment(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "data": {"name": "cifar10", "path": "made-cifar10.tar.gz"},
        "model": {
            "kind": "single_rate",
            "backbone": "ddpmpp",
            "width": 8,
            "multipliers": [2, 2, 2],
            "levels": ["conv", "transformer", "conv"],
            "blocks": [1, 1, 1],
            "class_conditional": True,
            "weights": "made-edm.pkl",
        },
        "diffusion": {"preconditioning": "edm"},
        "measure": {"features": "efficientnet_lite0"},
    }
    for section, own in changes.items():
        values[section] = {**values.get(section, {}), **own} if isinstance(own, dict) else own
    return parse_experiment(values, "test")


def test_from_a_snapshot_to_baseline_rows_and_a_dual_rate_network_in_one_table(folder: Path) -> None:
    results = folder / "results"
    run("sweep", MINIATURE, *FEATURES, "--cluster", "inline", "--results", results)
    sweep = load_sweep(MINIATURE, FEATURES[1::2])
    by_arm = {arm: one for one in sweep.trainings.values() for arm in one.arms}
    assert by_arm["edm"] is by_arm["cached"]
    done = json.loads((results / "runs" / "trainings" / by_arm["edm"].id / "done.json").read_text())
    assert done["steps"] == 0 and done.get("seconds") is None
    records = [json.loads(path.read_text()) for path in (results / "runs" / "cells").glob("*.json")]
    assert len(records) == len(sweep.cells) == 4
    for record in records:
        is_adapted = record["config"]["model"]["kind"] == "dual_rate"
        assert set(record["compute"]["evaluations"]) >= ({"encoder", "denoiser"} if is_adapted else {"network"})
        if is_adapted:
            assert record["compute"]["training_gmacs_per_step"] > 0
            assert record["compute"].get("training_gmacs_inherited") is None  # what EDM's training took is not known
        else:
            assert record["compute"].get("training_gmacs_per_step") is None
    (report,) = results.glob("**/table.md")
    table = report.read_text()
    assert "EDM, its own weights" in table and "EDM, made dual-rate" in table and "EDM, cached" in table
    again = run("sweep", MINIATURE, *FEATURES, "--cluster", "inline", "--results", results, "--dry-run", "--json")
    planned = json.loads(again)
    assert all(one["done"] for kind in ("trainings", "cells") for one in planned[kind]) and planned["cells"]
    message = refused("adapt", f"training:{by_arm['edm'].id}", "--results", results, "--dry-run")
    assert "its weights were given" in message and "--set train.steps=N" in message
    run("adapt", f"training:{by_arm['edm'].id}", "--set", "train.steps=60", "--results", results, "--dry-run")


def test_an_id_knows_the_file_by_its_content_and_nothing_of_training(folder: Path) -> None:
    (folder / "other-name.pkl").write_bytes((folder / "made-edm.pkl").read_bytes())
    make(folder / "another.pkl", seed=1)
    own = identify(experiment())
    for same in (
        {"model": {"weights": "other-name.pkl"}},
        {"seed": 7},
        {"train": {"steps": 5, "precision": "bfloat16"}},
    ):
        assert identify(experiment(**same)) == own
    others: list[dict[str, Any]] = [
        {"model": {"weights": "another.pkl"}},
        {"model": {"weights": None}},
        {"diffusion": {"sigma_data": 0.25}},
        {"model": {"width": 16}},
    ]
    assert len({identify(experiment(**other)) for other in ({}, *others)}) == 1 + len(others)


def test_a_converted_file_has_the_keys_and_is_taken(folder: Path) -> None:
    shown = json.loads(run("weights", "show", "made-edm.pkl", "--json"))
    told = json.loads(run("weights", "convert", "made-edm.pkl", "--out", "made.safetensors", "--json"))
    assert (shown["keys"].pop("model.weights"), told["keys"].pop("model.weights")) == (
        "made-edm.pkl",
        "made.safetensors",
    )
    assert told["keys"] == shown["keys"]
    assert "backbone: ddpmpp" in run("weights", "show", "made.safetensors")
    from harness.engine.given import given_problem

    given_problem(experiment())
    given_problem(experiment(model={"weights": "made.safetensors"}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"diffusion": {"preconditioning": "none"}}, "diffusion.preconditioning is edm there and none here"),
        ({"diffusion": {"sigma_data": 0.25}}, "diffusion.sigma_data is 0.5 there and 0.25 here"),
        ({"model": {"width": 16}}, "model.width is 8 there and 16 here"),
        ({"model": {"backbone": "ncsnpp"}}, "model.backbone is ddpmpp there and ncsnpp here"),
        ({"model": {"class_conditional": False}}, "model.class_conditional is True there and False here"),
        ({"model": {"weights": "hostile.pkl"}}, "hostile.pkl: asks for posix.system"),
        ({"model": {"weights": "wide.pkl"}}, "data.size is 16 there and 32 here"),
    ],
)
def test_other_weights_are_refused_before_anything_is_made(change: dict[str, Any], said: str, folder: Path) -> None:
    from harness.engine.given import given_problem
    from harness.errors import HarnessError

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch ran",)

    (folder / "hostile.pkl").write_bytes(pickle.dumps(Hostile()))
    from tools.made_edm import TINY

    make(folder / "wide.pkl", {**TINY, "img_resolution": 16})
    with pytest.raises(HarnessError, match=said):
        given_problem(experiment(**change))
    assert not (folder / "ran").exists()


def test_a_hostile_file_stops_a_sweep_before_anything_is_made(folder: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch ran",)

    (folder / "hostile.pkl").write_bytes(pickle.dumps(Hostile()))
    results = folder / "none"
    message = refused(
        "sweep", MINIATURE, *FEATURES, "--set", "model.weights=hostile.pkl", "--cluster", "inline", "--results", results
    )
    assert "hostile.pkl: asks for posix.system" in message
    assert not (folder / "ran").exists() and not list(results.glob("runs/trainings/*/weights.safetensors"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"start": "training:0123456789abcdef"}}, "train.start: model.weights are finished"),
        ({"model": {"patch": 2}}, "patch: ddpmpp does not read it"),
        ({"model": {"mlp_ratio": 2.0}}, "mlp_ratio: ddpmpp does not read it"),
        ({"model": {"head_width": 8}}, "head_width: ddpmpp does not read it"),
        ({"model": {"noise_input": "vp"}}, "noise_input: vp networks predict ε; set diffusion.prediction: epsilon"),
        ({"model": {"backbone": None, "noise_input": "vp"}}, "noise_input: only a U-Net of EDM's has it"),
        ({"model": {"backbone": "unet"}}, "model.backbone"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment(**change)


def test_converting_what_cannot_be_is_refused(folder: Path) -> None:
    from safetensors.torch import save_file

    from harness.errors import StoreError

    save_file({}, folder / "bare.safetensors")
    with pytest.raises(StoreError, match="tells nothing of its network"):
        convert(folder / "bare.safetensors", folder / "out.safetensors")
