"""What a sweep costs can be told without its data; what cannot be is said: ids, and what is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import DataConfig
from harness.data import known_info, open_data
from harness.dispatch.sweep import load_sweep
from harness.errors import DataError, MissingDataError
from harness.store.identity import UNKNOWN_ID
from tests.data.making import classes, write_zip
from tests.data.test_cifar10 import write_batches
from tools.made_images import make

SWEEPS = Path(__file__).parents[2] / "sweeps"
NAMES = ["imagenet64", "imagenet128", "cifar10", "tiny_imagenet"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without data to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def planned(name: str, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run("sweep", SWEEPS / name, "--dry-run", "--cluster", "inline", "--json", *arguments)
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_planned_without_data(name: str) -> None:
    sweep = load_sweep(SWEEPS / f"{name}.yaml", without_data=True)
    assert len(sweep.missing) == 1 and "there is no such file or folder" in sweep.missing[0]
    assert all(id_.startswith(UNKNOWN_ID) for id_ in (*sweep.cells, *sweep.trainings))
    assert len(sweep.cells) >= 40
    with pytest.raises(MissingDataError):
        load_sweep(SWEEPS / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_costs_the_same_with_data_and_without(name: str, tmp_path: Path) -> None:
    file, size = f"miniature/{name}.yaml", {"imagenet64": 64, "imagenet128": 128}.get(name, 32)
    without = planned(file)
    assert "there is no such file or folder" in without["missing"][0]
    data = make(tmp_path / "made.zip", images=8, size=size, classes=4)
    (tmp_path / "weights.pth").write_bytes(b"of an extractor")
    files = [f"data.path={data}", "data.name=images", "measure.weights=weights.pth"]
    there = planned(file, *(word for override in files for word in ("--set", override)))
    assert there["missing"] == []
    for kind in ("trainings", "cells"):
        assert not any(row["done"] for row in without[kind])
        assert all(row["id"].startswith(UNKNOWN_ID) for row in without[kind])
        assert not any(row["id"].startswith(UNKNOWN_ID) for row in there[kind])
        assert [(row["label"], row["gmacs"]) for row in without[kind]] == [
            (r["label"], r["gmacs"]) for r in there[kind]
        ]


def test_a_dry_run_says_what_it_cannot_tell(tmp_path: Path) -> None:
    said = run("sweep", SWEEPS / "miniature" / "tiny_imagenet.yaml", "--dry-run", "--cluster", "inline")
    assert f"tried {tmp_path / 'made64.zip'}, relative to the folder the command runs in" in said
    assert "ids cannot be told and nothing can be marked as done" in said
    assert "to run: 3 trainings" in said and "done already: 0 cells" in said
    assert not list(tmp_path.iterdir())


def test_costs_of_one_configuration_without_data(tmp_path: Path) -> None:
    file = SWEEPS / "miniature" / "imagenet64.yaml"
    without = json.loads(run("flops", file, "--arm", "dual-rate", "--json"))
    assert without["data"]["from"].startswith("configuration (without data.classes")
    told = json.loads(run("flops", file, "--arm", "dual-rate", "--json", "--set", "data.classes=4"))
    assert told["data"] == {"size": 64, "channels": 3, "classes": 4, "from": "configuration"}
    data = make(tmp_path / "made.zip", images=8, size=64, classes=4)
    there = json.loads(run("flops", file, "--arm", "dual-rate", "--json", "--set", f"data.path={data}"))
    assert there["data"] == {"size": 64, "channels": 3, "classes": 4, "from": "data"}
    assert without["networks"] == told["networks"] == there["networks"]
    assert without["gmacs_per_image"] == there["gmacs_per_image"]
    assert told["parameters"] == there["parameters"] != without["parameters"]
    assert "is not there: counted as the configuration" in run("flops", file, "--arm", "dual-rate")


def test_time_of_one_configuration_without_data() -> None:
    file = SWEEPS / "miniature" / "imagenet64.yaml"
    timed = json.loads(run("latency", file, "--arm", "dual-rate", "--set", "sample.compile=false", "--json"))
    assert timed["seconds_per_image"] > 0


def test_what_is_known_of_the_data(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.tar.gz")
    for config in (DataConfig(name="cifar10", path=gone), DataConfig(name="cifar10", path=gone, size=16, channels=1)):
        info = known_info(config)
        there = open_data(config.model_copy(update={"path": str(write_batches(tmp_path / "c"))})).info
        assert (info.name, info.size, info.channels, info.classes) == (there.name, there.size, there.channels, 10)
    with pytest.raises(DataError, match="needs a square of a multiple of 12"):
        known_info(DataConfig(name="cifar10", path=gone, size=12))
    assert known_info(DataConfig()).classes == 10
    images = DataConfig(name="images", path=gone)
    with pytest.raises(MissingDataError, match=r"set data\.size and data\.channels"):
        known_info(images)
    with pytest.raises(MissingDataError, match=r"without the data set data\.channels$"):
        known_info(images.model_copy(update={"size": 8}))
    damaged = tmp_path / "cut.zip"
    damaged.write_bytes(write_zip(tmp_path / "a.zip", classes()).read_bytes()[:100])
    with pytest.raises(DataError, match="is not a whole zip"):
        known_info(images.model_copy(update={"path": str(damaged), "size": 8, "channels": 3}))
