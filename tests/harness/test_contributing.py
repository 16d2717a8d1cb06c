"""What CONTRIBUTING.md says works: followed to the letter, outside of the repository or in a copy of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.harness.contributing import copy_of_the_source, follow, run_each

LINES = 60


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of the cells by their ``model.kind``."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / "results" / "runs" / "cells").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(record["config"]["model"].get("kind", "single_rate"), []).append(record)
    return found


RUN = ("sweep", "plain.yaml", "--cluster", "inline")
PLAN = (*RUN, "--dry-run", "--json")


def missing(planned: subprocess.CompletedProcess[str]) -> list[str]:
    """The arms of the trainings that a sweep would run."""
    assert planned.returncode == 0, planned.stderr
    rows = json.loads(planned.stdout)["trainings"]
    return [row["label"].removeprefix("training for ").split()[0] for row in rows if row["runs"]]


KIND = "plain_nets.convolutions:Plain"


def convolutions_macs(channels: int, depth: int) -> int:
    """Of the page's network, from its architecture: 3×3 convolutions on 8×8 pixels."""
    widths = [2, *[channels] * depth, 1]
    return sum(9 * 64 * here * there for here, there in pairwise(widths))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the page's package and sweep, which lies outside of the repository."""
    files = [path for path in follow("Add a method", tmp_path) if path.suffix == ".py"]
    assert sum(len(path.read_text().splitlines()) for path in files) <= LINES
    return tmp_path


def test_a_method_trains_samples_counts_times_and_reports_beside_the_base(folder: Path) -> None:
    done, planned = run_each(folder, RUN, PLAN)
    assert done.returncode == 0, done.stdout + done.stderr
    made = records(folder)
    assert len(made["single_rate"]) == 1 and len(made[KIND]) == 2
    for record in made[KIND]:
        channels = record["config"]["model"]["channels"]
        macs = convolutions_macs(channels, 2)
        assert record["config"]["model"] == {"kind": KIND, "class_conditional": False, "channels": channels, "depth": 2}
        assert record["compute"]["macs_per_image"] == 4 * macs
        assert record["compute"]["training_gmacs_per_step"] == pytest.approx(3 * 16 * macs / 1e9)
        weights = [2 * channels * 9 + channels, channels**2 * 9 + channels, channels * 9 + 1]
        assert record["compute"]["parameters"] == {"network": sum(weights)}
        assert record["time"]["share"]["network"] > 0 and record["time"]["seconds_per_image"] > 0
        assert record["quality"]["per_seed"][0]["values"]["frechet"] > 0
        assert record["provenance"]["method_source"]["files"] == [
            "plain_nets/__init__.py",
            "plain_nets/convolutions.py",
        ]
    table = (folder / "results" / "plain" / "table.md").read_text(encoding="utf-8")
    assert "plain" in table and "base" in table
    assert missing(planned) == []
    source = folder / "plain_nets" / "convolutions.py"
    source.write_text(source.read_text() + "\n# an edit\n")
    (planned,) = run_each(folder, PLAN)
    assert missing(planned) == ["plain"] * 2, "both of the method's, not the base's"


def test_a_method_runs_compiled(folder: Path) -> None:
    """From a folder that is not the working directory; the networks are compiled in training and in sampling."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    compiled = ("--set", "train.compile=true", "--set", "sample.compile=true", "--set", "model.depth=1")
    sweep = folder / "plain.yaml"
    text = sweep.read_text()
    text = text[: text.index("  base:\n    set")] + text[text.index("  plain:\n") :]
    sweep.write_text(text.replace("[8, 16]", "[8]"))
    asked = ("sweep", str(sweep), "--cluster", "inline", *compiled)
    (done,) = run_each(elsewhere, asked, HARNESS_PLUGINS_PATH=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    made = records(elsewhere)[KIND]
    assert [record["time"]["compiled"] for record in made] == [True]


def test_a_sampler_is_a_file_and_a_line(tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "source")
    follow("Add a sampler", source)
    (tmp_path / "sweep.yaml").write_text(
        "name: euler\n"
        "base:\n"
        "  model: {width: 8, blocks: [1, 1], head_width: 8}\n"
        "  train: {steps: 2, batch: 8}\n"
        "  sample: {sampler: euler, steps: 4, batch: 8}\n"
        "  measure: {images: 8, latency: {repeats: 1, batch: 4}}\n"
        "arms: {base: {grid: {sample.stretch: [1.0, 1.2]}}}\n"
    )
    sweep = ("sweep", "sweep.yaml", "--cluster", "inline")
    told_of = ("config", "sample.stretch", "--json")
    done, told, refused = run_each(tmp_path, sweep, told_of, (*sweep, "--set", "sample.stretch=3"), source=source)
    assert done.returncode == 0, done.stdout + done.stderr
    for record in records(tmp_path)["single_rate"]:
        assert record["compute"]["evaluations"] == {"network": 4}
    assert "euler: factor of each step" in told.stdout
    assert refused.returncode == 2 and "sample.stretch: input should be less than or equal to 2" in refused.stderr


def test_the_tests_of_all_samplers_try_the_new_one(tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "source")
    follow("Add a sampler", source)
    script = (
        "import torch\n"
        "from models.samplers import SAMPLERS\n"
        "from models.process import CosineSchedule\n"
        "from models.spacing import karras_steps\n"
        "class Noise:\n"
        "    def initial(self): return torch.ones(1, 1, 2, 2)\n"
        "schedule = CosineSchedule()\n"
        "x = torch.full((1, 1, 2, 2), 0.25)\n"
        "images = SAMPLERS['euler'](lambda z, t, step: x, Noise(), karras_steps(8, schedule), schedule)\n"
        "assert torch.equal(images, x)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-P", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_data_set_is_a_file_and_a_line(tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "source")
    follow("Add a data set", source)
    (tmp_path / "sweep.yaml").write_text(
        "name: stripes\n"
        "base:\n"
        "  data: {name: stripes}\n"
        "  model: {width: 8, blocks: [1, 1], head_width: 8, class_conditional: true}\n"
        "  train: {steps: 2, batch: 8}\n"
        "  sample: {steps: 2, batch: 8}\n"
        "  measure: {images: 8, features: efficientnet_lite0, latency: {repeats: 1, batch: 4}}\n"
        "arms: {base: {}}\n"
    )
    sweep = ("sweep", "sweep.yaml", "--cluster", "inline")
    refused = {
        "data.path=/x": "stripes (stripes) takes no path",
        "data.classes=3": "stripes has 2",
        "data.name=strips": "did you mean 'stripes'",
    }
    asked = [(*sweep, "--dry-run", "--set", override) for override in refused]
    done, *ended = run_each(tmp_path, sweep, *asked, source=source)
    assert done.returncode == 0, done.stdout + done.stderr
    ((record,),) = records(tmp_path).values()
    assert "stripes 8×8" in json.dumps(record["quality"]["reference"], ensure_ascii=False)
    for end, told in zip(ended, refused.values(), strict=True):
        assert end.returncode == 2 and told in end.stderr, end.stderr
