"""What the miniatures hold compiled networks against: the same networks, uncompiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from harness.dispatch.sweep import Cell, Training, load_sweep
from harness.engine import jobs
from harness.store.store import Store
from tests.harness.tiny import write_sweep
from tools.same_compiled import differences

SWEEP = """
name: compiled
base:
  data: {name: digits}
  model: {kind: dual_rate, patch: 2, width: 16, multipliers: [1, 2], levels: [conv, transformer], blocks: [1, 1]}
  train: {steps: 6, batch: 8, learning_rate: 1.0e-2, log_every: 2, compile: true}
  sample: {steps: 2, refreshes: 1, batch: 8, compile: true}
  measure: {images: 40, latency: {batch: 4, repeats: 1, warmup: 1}}
arms:
  one: {}
"""
KINDS = ("a loss of", "weights that differ", "images that differ")
Wrong = Callable[[Any], Any]


def scaled(by: float) -> Wrong:
    return lambda output: tree_map_only(Tensor, lambda tensor: tensor * by, output)


def biased_gradient(output: Any) -> Any:
    """The same values, whose gradients are reversed."""
    return tree_map_only(Tensor, lambda tensor: 2 * tensor.detach() - tensor, output)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (scaled(1.0), set()),
        (scaled(1.3), set(KINDS)),
        (biased_gradient, {"weights that differ"}),
    ],
)
def test_what_compiling_changes_is_told(
    wrong: Wrong, told: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the compiler gives what `wrong` makes of a network's output."""

    def compile_wrongly(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return lambda *inputs: wrong(function(*inputs)) if function.__name__ != "normal" else function(*inputs)

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    sweep, store = load_sweep(write_sweep(tmp_path, SWEEP)), Store(tmp_path / "results")
    parts: list[Training | Cell] = [*sweep.trainings.values(), *sweep.cells.values()]
    for part in parts:
        store.save_experiment(part.target, part.experiment)
        jobs.run(store, part.target)
    found = list(differences(sweep, store, tmp_path / "uncompiled"))
    assert {kind for kind in KINDS if any(kind in words for words in found)} >= told
    assert told or not found
