"""A sweep at the paper's scale, in miniature, over two nodes of the test cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.files import read_json
from tests.slurm.sweeping import Running
from tools.made_images import make
from tools.made_inception import make_inception

pytestmark = pytest.mark.slurm
MINIATURE = Path(__file__).parents[2] / "sweeps" / "miniature" / "imagenet64.yaml"
TWO_ARMS = """
name: miniature-on-two-nodes
extends: {miniature}
base: {{data.path: {data}, measure.images: 10, measure.weights: {weights}}}
arms:
  base: {{grid: {{sample.steps: [2]}}}}
  base-heun: null
  edm: null
  shrunk: null
  cached: null
  dual-rate:
    grid:
      model.light_width, model.light_blocks: [[0.5, [1, 1]]]
      sample.steps, sample.refreshes: [[4, 2]]
  base-guided: null
  dual-rate-guided: null
report: {{base: base, base_row: {{}}, subject: dual-rate}}
"""


def test_a_miniature_trains_over_two_nodes_and_is_measured(running: Callable[..., Running], tmp_path: Path) -> None:
    data = make(tmp_path / "made.zip", images=16, size=64, classes=4)
    weights = make_inception(tmp_path / "made-inception.pth")
    text = TWO_ARMS.format(miniature=MINIATURE, data=data, weights=weights)
    sweep = running(text=text, options=["trainings.nodes=2"])
    sweep.hurry()
    sweep.submit()
    sweep.wait_complete(seconds=900)  # it compiles, as it ships
    for training in sweep.trainings:
        assert read_json(sweep.store.done_path(training.id))["ranks"] == 2
    names = {sweep.store.read_cell(cell.id).config["model"]["kind"] for cell in sweep.cells}
    assert names == {"single_rate", "dual_rate"}
