"""`harness weights adopt`: a published network is a finished training of the sweep that it was trained for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from harness.dispatch.adopting import adopt_for
from harness.dispatch.plan import plan
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError, StoreError
from harness.files import write_json
from harness.store.records import training_record_in
from harness.store.store import Store
from tests.harness.tiny import by_arm, harness, invoke, write_sweep

SMALL = """
name: small
base:
  data: {name: digits}
  model: {kind: single_rate, patch: 2, width: 16, multipliers: [1, 2], levels: [conv, transformer], blocks: [1, 1]}
  train: {steps: 3, batch: 8, warmup: 1}
  sample: {steps: 2, batch: 16}
  measure: {images: 16, latency: {batch: 4, warmup: 1, repeats: 1}}
arms:
  base: {grid: {sample.sampler: [ancestral]}}
  wide: {set: {model.width: 32, model.head_width: 32}}
report: {base: base}
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """(Folder of a report with the weights of its base beside it, the results it was made from)."""
    folder = tmp_path_factory.mktemp("published")
    sweep = write_sweep(folder, SMALL, "small.yaml")
    ran = harness(folder / "results", "sweep", sweep)
    assert ran.returncode == 0, ran.stderr
    store = Store(folder / "results")
    report = folder / "report"
    shutil.copytree(store.report_folder("small"), report)
    base = by_arm(load_sweep(sweep))["base"]
    shutil.copyfile(store.weights_path(base.id), report / "base.safetensors")
    return report, store


def test_the_sweep_goes_on_from_it(published: tuple[Path, Store], tmp_path: Path) -> None:
    """Only the rest is trained; the cells' figures and what their training took are those of the first run."""
    report, first = published
    path = write_sweep(tmp_path, SMALL, "small.yaml")
    results = tmp_path / "results"
    said = invoke("weights", "adopt", path, report / "base.safetensors", "--results", results)
    sweep, store = load_sweep(path), Store(results)
    base = by_arm(sweep)["base"]
    assert f"training for base seed=0 (training {base.id}) is done with" in said
    assert [training.arms for training in plan(sweep, store).missing_trainings] == [["wide"]]
    again = json.loads(invoke("weights", "adopt", path, report / "base.safetensors", "--results", results, "--json"))
    told = [{"weights": str(report / "base.safetensors"), "training": base.id, "is_new": False}]
    assert again == {"trainings": told, "cells": {}}

    ran = harness(results, "sweep", path)
    assert ran.returncode == 0, ran.stderr
    for cell in sweep.cells:
        one, other = (place.read_cell(cell) for place in (first, store))
        assert one.quality == other.quality and one.compute == other.compute
        if other.training == base.id:
            names = ("weights_sha256", "training_device", "training_seconds", "training_seconds_inherited")
            assert {n: getattr(one.provenance, n) for n in names} == {n: getattr(other.provenance, n) for n in names}
            assert other.provenance.training_seconds is not None


def test_what_was_measured_is_adopted_on_request(published: tuple[Path, Store], tmp_path: Path) -> None:
    """Records to the byte, and the images that the report shows; a sweep with a cell more runs that one alone."""
    report, first = published
    text = SMALL.replace("[ancestral]", "[ancestral, ddim]")
    path, results = write_sweep(tmp_path, text, "small.yaml"), tmp_path / "results"
    asked = ("weights", "adopt", path, report / "base.safetensors", "--cells", "--results", results)
    assert f"2 cells of 3 done with {report}" in invoke(*asked)
    sweep, store = load_sweep(path), Store(results)
    planned = plan(sweep, store)
    assert [training.arms for training in planned.missing_trainings] == []
    (missing,) = planned.missing_cells
    assert missing.experiment.sample.sampler == "ddim"
    for cell in sweep.cells.keys() - {missing.id}:
        assert store.cell_path(cell).read_bytes() == first.cell_path(cell).read_bytes()
    with np.load(report / "samples.npz") as shown:
        assert shown.files and all(store.samples_path(cell).exists() for cell in shown.files)
    assert json.loads(invoke(*asked, "--json"))["cells"] == {str(report): []}
    ran = harness(results, "sweep", path)
    assert ran.returncode == 0 and "0 trainings and 1 cell to run, 2 cells done already" in ran.stdout, ran.stderr


def test_without_a_report_what_it_took_is_not_known(published: tuple[Path, Store], tmp_path: Path) -> None:
    report, _ = published
    alone = tmp_path / "base.safetensors"
    shutil.copyfile(report / "base.safetensors", alone)
    sweep, store = load_sweep(write_sweep(tmp_path, SMALL, "small.yaml")), Store(tmp_path / "results")
    training, _ = adopt_for(sweep, store, alone)
    record = training_record_in(store.training_folder(training.id), training.id)
    assert record is not None and record.steps == 3 and record.seconds is None


def test_a_report_of_other_weights_tells_nothing_of_these(published: tuple[Path, Store], tmp_path: Path) -> None:
    report, _ = published
    copied = tmp_path / "report"
    shutil.copytree(report, copied)
    kept = json.loads((copied / "cells.json").read_text())
    for row in kept["rows"]:
        row["record"]["provenance"]["weights_sha256"] = "0" * 64
    write_json(copied / "cells.json", kept)
    sweep, store = load_sweep(write_sweep(tmp_path, SMALL, "small.yaml")), Store(tmp_path / "results")
    training, _ = adopt_for(sweep, store, copied / "base.safetensors")
    record = training_record_in(store.training_folder(training.id), training.id)
    assert record is not None and record.seconds is None


def test_of_another_training(published: tuple[Path, Store], tmp_path: Path) -> None:
    """A key that changes the network: its weights are refused, and nothing is copied."""
    report, _ = published
    path = write_sweep(tmp_path, SMALL.replace("steps: 3", "steps: 4"), "small.yaml")
    with pytest.raises(ConfigError, match=r"is of training \w+, which .*small\.yaml has not; its trainings are"):
        adopt_for(load_sweep(path), Store(tmp_path / "results"), report / "base.safetensors")
    assert not (tmp_path / "results" / "runs" / "trainings").exists()


def test_other_weights_of_the_same_training(published: tuple[Path, Store], tmp_path: Path) -> None:
    """Where the results have trained it themselves, and another machine has rounded otherwise, theirs stay."""
    report, _ = published
    sweep, store = load_sweep(write_sweep(tmp_path, SMALL, "small.yaml")), Store(tmp_path / "results")
    path = store.weights_path(adopt_for(sweep, store, report / "base.safetensors")[0].id)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"has training .* already, with other weights"):
        adopt_for(sweep, store, report / "base.safetensors")
