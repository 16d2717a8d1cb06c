"""The miniatures of the sweeps at the paper's scale, on made images."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from harness.config import DataConfig
from harness.data import open_data
from harness.estimate import expected_evaluations, planned_costs
from harness.measure.flops import sampling_macs
from harness.sweep import load_sweep
from tools.made_images import make

ROOT = Path(__file__).parents[2]
MINIATURES = {"imagenet64": 64, "imagenet128": 128, "cifar10": 32}
ONE_CELL_PER_ARM = """
name: smallest
extends: {miniature}
base:
  data.path: {data}
  measure.images: 4
  train.steps: 2
arms:
  base: {{grid: {{sample.steps: [2]}}}}
  base-heun: null
  edm: {{grid: {{sample.steps: [2]}}}}
  shrunk: null
  cached: {{grid: {{"sample.steps, sample.refreshes": [[4, 2]]}}}}
  dual-rate: {{grid: {{"sample.steps, sample.refreshes": [[4, 2]]}}}}
  base-guided: null
  dual-rate-guided: {{grid: {{sample.guidance: [1.5], "sample.steps, sample.refreshes": [[2, 1]]}}}}
report: {{base: base, base_row: {{}}, subject: dual-rate}}
"""


def test_made_images_are_the_same_bytes_and_have_every_class(tmp_path: Path) -> None:
    one, other = (make(tmp_path / name, images=12, size=8, classes=5) for name in ("a.zip", "b.zip"))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert len(archive.namelist()) == 13
    dataset = open_data(DataConfig(name="images", path=str(one)))
    assert (dataset.info.images, dataset.info.size, dataset.info.channels, dataset.info.classes) == (12, 8, 3, 5)
    images, labels = dataset.load(range(12))
    assert labels.tolist() == [i % 5 for i in range(12)]
    assert len(torch.unique(images.flatten(1), dim=0)) == 12


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_has_every_arm_of_its_sweep(name: str, tmp_path: Path) -> None:
    data = make(tmp_path / "made.zip", images=10, size=MINIATURES[name])
    sweeps = [
        load_sweep(ROOT / "sweeps" / file, [f"data.path={data}", "data.name=images"])
        for file in (f"{name}.yaml", f"miniature/{name}.yaml")
    ]
    shown = [
        {(arm, frozenset(varied)) for cell in sweep.cells.values() for arm, varied in cell.rows} for sweep in sweeps
    ]
    arms = [{arm for arm, _ in rows} for rows in shown]
    assert arms[0] == arms[1] and len(arms[0]) == 8
    assert max(cell.experiment.sample.steps for cell in sweeps[1].cells.values()) <= 8
    for sweep in sweeps:
        assert all(c.experiment.sample.precision == c.experiment.train.precision for c in sweep.cells.values())


def test_a_miniature_runs_from_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs pip install 'dual-rate-harness[efficientnet]'")
    data = make(tmp_path / "made.zip", images=8, size=64, classes=4)
    miniature = ROOT / "sweeps" / "miniature" / "imagenet64.yaml"
    file = tmp_path / "smallest.yaml"
    file.write_text(ONE_CELL_PER_ARM.format(miniature=miniature, data=data))
    command = [sys.executable, "-m", "harness.cli", "sweep", str(file), "--cluster", "inline"]
    command += ["--results", str(tmp_path / "results"), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    made = json.loads(ran.stdout)
    assert made["failures"] == {}
    assert (Path(made["report"]) / "table.md").is_file()
    sweep, info = load_sweep(file), open_data(DataConfig(name="images", path=str(data))).info
    for cell in sweep.cells.values():
        record = json.loads((tmp_path / "results" / "runs" / "cells" / f"{cell.id}.json").read_text())
        costs = planned_costs(cell.experiment, info, cell.experiment.sample.cache_from_level)
        planned = sampling_macs(costs, expected_evaluations(cell.experiment))
        assert record["compute"]["macs_per_image"] == planned, "without weights, as fvcore counts them"
