"""A Diffusion Transformer as base, cached, guided, encoder and light denoiser, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import parse_experiment
from harness.errors import ConfigError
from tests.harness.tiny import invoke as run
from tests.harness.tiny import write_sweep

SWEEP = """
name: transformers
base:
  data: {name: digits}
  model:
    backbone: dit
    patch: 2
    width: 16
    multipliers: [1, 1]
    levels: [transformer, transformer]
    blocks: [1, 2]
    head_width: 8
    class_conditional: true
  train: {steps: 20, batch: 8, label_dropout: 0.1, warmup: 1, checkpoint_every: 20, log_every: 20}
  sample: {sampler: dpmpp_2m, steps: 4, batch: 8, seeds: [0], guidance: 2.0}
  measure: {images: 16, latency: {batch: 4, warmup: 0, repeats: 1}}
arms:
  base: {}
  cached:
    set: {sample.cache_from_level: 1, sample.cache_order: 1, sample.refreshes: 2}
  dual-rate:
    set:
      model: {kind: dual_rate, light_blocks: [1, 1], context_entry: block}
      train.checkpoint_activations: true
      sample.refreshes: 2
  light-dit:
    set:
      model.kind: dual_rate
      model: {backbone: null, light_backbone: dit, multipliers: [1], levels: [transformer], blocks: [1]}
      train.precision: bfloat16
      sample.refreshes: 2
"""


def test_a_transformer_is_base_cache_encoder_and_denoiser_of_one_table(tmp_path: Path) -> None:
    file, results = write_sweep(tmp_path, SWEEP), tmp_path / "results"
    run("sweep", file, "--cluster", "inline", "--results", results)
    records = [json.loads(path.read_text()) for path in (results / "runs" / "cells").glob("*.json")]
    assert len(records) == 4
    per_run = {name: value for record in records for name, value in record["compute"]["gmacs_per_evaluation"].items()}
    assert per_run["shallow"] < per_run["network"]
    assert all(record["compute"]["gmacs_per_image"] > 0 for record in records)
    (report,) = results.glob("**/table.md")
    assert all(arm in report.read_text() for arm in ("base", "cached", "dual-rate", "light-dit"))
    base = next(r for r in records if r["config"]["model"]["kind"] == "single_rate")
    words = ("--set", "train.steps=20", "--results", results, "--dry-run", "--json")
    told = json.loads(run("adapt", f"training:{base['training']}", *words))
    assert told["base_training"] == base["training"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"levels": ["conv"]}, "levels: a dit has transformer blocks alone"),
        ({"multipliers": [1, 2], "levels": ["transformer"] * 2, "blocks": [1, 1]}, "multipliers: a dit has one width"),
        ({"noise_input": "vp"}, "noise_input: only a U-Net of EDM's has it"),
        (
            {
                "kind": "dual_rate",
                "light_backbone": "uvit",
                "multipliers": [1, 1],
                "levels": ["transformer"] * 2,
                "blocks": [1, 1],
            },
            "levels: a dit keeps one resolution on its 2 levels, uvit halves it at each",
        ),
        ({"kind": "dual_rate", "light_levels": ["conv"]}, "light_levels: a dit has transformer blocks alone"),
        ({"kind": "dual_rate", "light_backbone": "adm", "patch": 2}, "patch: adm does not read it"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(change: dict[str, Any], said: str) -> None:
    model = {"backbone": "dit", "width": 16, "multipliers": [1], "levels": ["transformer"], "blocks": [2], **change}
    sample = {"refreshes": 2} if model.get("kind") == "dual_rate" else {}
    with pytest.raises(ConfigError, match=said):
        parse_experiment({"model": model, "sample": sample}, "test")
