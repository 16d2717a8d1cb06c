"""Whether the trainings and cells of a compiled sweep are what they are uncompiled.

A wrong kernel need not give nan: losses that look right, an image that nobody looks at. What is compiled is therefore
held against the same network uncompiled, which costs no compiling.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config.schema import Experiment
from harness.data import open_data
from harness.dispatch.sweep import Sweep
from harness.engine.cell import load_generator
from harness.engine.train import build_training, train_network
from harness.measure.fidelity import to_uint8
from harness.store.identity import stitched_weights
from harness.store.store import Store
from harness.store.weights import load_tensors

LOSS = 0.02
"""Least relative difference of a loss that is told; bfloat16 rounds to 1/256."""
STEP = 0.5
"""Least difference of trained weights that is told, over how far they have come: gradients that are wrong point
elsewhere, where a loss of a few steps hides it."""
LEVELS = 4.0
"""Least mean difference of images that is told, of 255."""


def differences(sweep: Sweep, store: Store, folder: Path) -> Iterator[str]:
    """What differs, said in one line each; `folder` takes the trainings that are made for the comparison."""
    for id, training in sweep.trainings.items():
        if training.experiment.train.compile and training.experiment.train.start is None:
            found = _of_training(training.experiment, store.training_folder(id), id, folder / id)
            yield from (f"training {id} of {', '.join(training.arms)}: {words}" for words in found)
    for id, cell in sweep.cells.items():
        if cell.experiment.sample.compile:
            arms = ", ".join(arm for arm, _ in cell.rows)
            yield from (f"cell {id} of {arms}: {words}" for words in _of_cell(cell.experiment, store, id))


def _of_training(experiment: Experiment, made: Path, id: str, folder: Path) -> Iterator[str]:
    plain = experiment.model_copy(update={"train": experiment.train.model_copy(update={"compile": False})})
    train_network(plain, id, folder)
    for one, other in zip(_losses(made), _losses(folder), strict=True):
        if not abs(one - other) <= LOSS * abs(other):  # so that nan differs
            yield f"a loss of {one:.5f} compiled, of {other:.5f} uncompiled"
    start = build_training(plain, open_data(experiment.data).info, torch.device("cpu"))[0].weights()
    compiled, uncompiled = (load_tensors(path / "weights.safetensors", id)[0] for path in (made, folder))
    apart = _distance(compiled, uncompiled) / _distance(uncompiled, start)
    if not apart <= STEP:
        yield f"weights that differ by {apart:.2f} of the way that they have come"


def _losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    squares = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(torch.stack(squares).sum().sqrt())


def _of_cell(experiment: Experiment, store: Store, cell: str) -> Iterator[str]:
    record = store.read_cell(cell)
    plain = experiment.model_copy(update={"sample": experiment.sample.model_copy(update={"compile": False})})
    weights, second = store.weights_path(record.training), stitched_weights(store, experiment)
    generator = load_generator(plain, weights, torch.device("cpu"), second)
    with np.load(store.samples_path(cell)) as file:
        compiled = torch.from_numpy(file["images"])
    uncompiled = to_uint8(generator.draw(experiment.sample.seeds[0], torch.arange(len(compiled))))
    apart = float((compiled.float() - uncompiled.float()).abs().mean())
    if not apart <= LEVELS:
        yield f"images that differ by {apart:.1f} of 255 on average, compiled and uncompiled"
