"""`harness sample --out`, `measure IMAGES --against` and `reference` as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from harness.cli import app as cli
from harness.data.image_sets import open_image_set
from harness.engine.sampling import ImageGenerator
from harness.store.store import Store
from tests.harness.tiny import write_sweep

ONE = """
name: one
base:
  data: {name: digits}
  model: {kind: single_rate, patch: 2, width: 8, multipliers: [1], levels: [conv], blocks: [1], class_conditional: true}
  train: {steps: 3, batch: 8}
  sample: {sampler: ancestral, steps: 2, batch: 16, seeds: [3, 4]}
  measure: {images: 40, latency: {batch: 2, repeats: 2}}
arms: {base: {}}
"""


def status(*arguments: object) -> int:
    """Exit status of the command line, in this process."""
    with mock.patch.object(sys, "argv", ["harness", *map(str, arguments)]), pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """The JSON document that a command prints."""
    capsys.readouterr()
    assert status(*arguments, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message of a command that ends with status 2."""
    capsys.readouterr()
    assert status(*arguments) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A sweep file, its results, and the record of its one cell."""
    folder = tmp_path_factory.mktemp("one")
    sweep, results = write_sweep(folder, ONE), folder / "results"
    assert status("measure", sweep, "--arm", "base", "--results", results) == 0
    (cell,) = (results / "runs" / "cells").glob("*.json")
    return sweep, results, json.loads(cell.read_text())


def sampling(measured: tuple[Path, Path, dict[str, Any]], *arguments: object) -> list[object]:
    sweep, results, _ = measured
    return ["sample", sweep, "--arm", "base", "--results", results, *arguments]


def test_images_are_those_of_the_cell_and_measured_as_it_was(
    measured: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit in each form, for each of its seeds; measuring them from outside gives the cell's figures."""
    _, results, record = measured
    with np.load(Store(results).samples_path(record["id"])) as file:
        shown = file["images"]
    for name in ("folder", "x.zip", "x.npz"):
        answer = told(capsys, *sampling(measured, "--images", 40, "--out", tmp_path / name))
        assert (answer["images"], answer["seed"], answer["count"]) == (str(tmp_path / name), 3, 40)
        assert np.array_equal(open_image_set(str(tmp_path / name)).all_uint8().numpy(), shown)
    assert status(*sampling(measured, "--images", 40, "--seed", 4, "--out", tmp_path / "y.npz")) == 0
    for name, seed in (("x.zip", 0), ("y.npz", 1)):
        found = told(capsys, "measure", tmp_path / name, "--against", "digits")
        expected = record["quality"]["per_seed"][seed]
        for key, value in expected["values"].items():
            assert found["values"][key] == pytest.approx(value, rel=1e-4), key
        assert found["standard_errors"]["frechet"] == pytest.approx(expected["standard_errors"]["frechet"], rel=1e-4)
        assert found["extractor"] == record["quality"]["extractor"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x.npz", "x.zip", "y.npz"]


def test_classes_are_written_and_one_can_be_asked_for(
    measured: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[int]] = []
    denoise = ImageGenerator.labels

    def noting(self: ImageGenerator, indices: torch.Tensor) -> torch.Tensor | None:
        labels = denoise(self, indices)
        seen.append([] if labels is None else labels.tolist())
        return labels

    with mock.patch.object(ImageGenerator, "labels", noting):
        assert status(*sampling(measured, "--images", 20, "--out", tmp_path / "all.zip")) == 0
    labels = open_image_set(str(tmp_path / "all.zip")).labels.tolist()
    assert labels == [*seen[0], *seen[1]], "what the network was given"
    assert sorted(labels) == sorted([*range(10)] * 2)
    seen.clear()
    with mock.patch.object(ImageGenerator, "labels", noting):
        assert status(*sampling(measured, "--images", 5, "--class", 7, "--out", tmp_path / "seven.npz")) == 0
    assert open_image_set(str(tmp_path / "seven.npz")).labels.tolist() == seen[0] == [7] * 5
    refusal = refused(capsys, *sampling(measured, "--class", 10, "--out", tmp_path / "ten.npz"))
    assert "--class: 10: the data's classes are 0 to 9" in refusal and not (tmp_path / "ten.npz").exists()


def test_nothing_is_replaced_unasked_nor_made_outside(
    measured: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("folder", "x.zip", "x.npz", "grid.png"):
        out = tmp_path / name
        assert status(*sampling(measured, "--images", 3, "--out", out)) == 0
        assert "--overwrite" in refused(capsys, *sampling(measured, "--images", 3, "--out", out))
        assert status(*sampling(measured, "--images", 2, "--overwrite", "--out", out)) == 0
    assert len(open_image_set(str(tmp_path / "folder"))) == 2
    (tmp_path / "grid.png").unlink()  # its array alone is kept from being replaced too
    assert "grid.npz: exists" in refused(capsys, *sampling(measured, "--out", tmp_path / "grid.png"))
    assert "make it first" in refused(capsys, *sampling(measured, "--out", tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["folder", "x.zip", "x.npz", "x.png"])
def test_ctrl_c_leaves_nothing(measured: tuple[Path, Path, dict[str, Any]], tmp_path: Path, name: str) -> None:
    draw, drawn = ImageGenerator.draw, []

    def interrupted(self: ImageGenerator, *arguments: Any, **options: Any) -> torch.Tensor:
        drawn.append(1)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(self, *arguments, **options)

    with mock.patch.object(ImageGenerator, "draw", interrupted):
        assert status(*sampling(measured, "--images", 40, "--out", tmp_path / name)) == 130
    assert list(tmp_path.iterdir()) == []


def test_statistics_are_written_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "digits.npz"
    made = told(capsys, "reference", "digits", "--out", out)
    assert made["made"]["images"] == 1797 and made["made"]["extractor"] == "digits" and made["rank"] == 64
    assert "--overwrite" in refused(capsys, "reference", "digits", "--out", out)
    assert status("reference", out) == 0
    printed = capsys.readouterr().out
    assert "of 1797 images 8×8 grey: digits 8×8 train" in printed
    assert "--out: missing" in refused(capsys, "reference", "digits")
    assert "written as .npz" in refused(capsys, "reference", "digits", "--out", tmp_path / "x.pt")
    assert "holds statistics already" in refused(capsys, "reference", out, "--extractor", "digits")
    with np.load(out) as file:
        np.savez(tmp_path / "foreign.npz", mu=file["mu"], sigma=file["sigma"])
    assert status("reference", tmp_path / "foreign.npz", "--out", tmp_path / "again.npz") == 0
    assert "which network, weights and resizing" in capsys.readouterr().out


def test_the_table_fits_and_says_its_conditions(
    measured: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = tmp_path / "x.npz"
    assert status(*sampling(measured, "--images", 40, "--out", images)) == 0
    assert status("reference", "digits", "--out", tmp_path / "s.npz") == 0
    for width in (60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        assert status("measure", images, "--against", "digits", "--metric", "fd", "--metric", "recall") == 0
        printed = capsys.readouterr().out
        table = printed.partition("images: ")[0].splitlines()
        assert max(map(len, table)) <= width and "FD-digits" in table[-3]
        assert "40 images 8×8 grey" in printed and "1797 images of digits 8×8 train" in printed
        assert "KD-digits" not in printed and "FID" not in printed and "40 images for 64 features" in printed
    assert status("measure", images, "--against", tmp_path / "s.npz") == 0
    assert "statistics in" in capsys.readouterr().out


def test_what_does_not_go_together_is_one_message(
    measured: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = measured[0]
    images, stats = tmp_path / "x.npz", tmp_path / "s.npz"
    assert status(*sampling(measured, "--images", 40, "--out", images)) == 0
    assert status("reference", "digits", "--out", stats) == 0
    np.savez(tmp_path / "other.npz", mu=np.zeros(64), sigma=np.eye(64))
    against = ["--against", "digits"]
    for arguments, message in (
        ([images, *against, "--metric", "fid", "--extractor", "digits"], "fid: FID is of inception's features, not of"),
        ([images, *against, "--metric", "fidd"], "(did you mean 'fid'?)"),
        ([images, "--against", stats, "--metric", "kernel"], "kernel compares images one by one"),
        ([images, "--against", tmp_path / "other.npz"], "--extractor: missing; "),
        ([images, "--against", "digit"], "there is no such file"),
        ([images], "--against: missing; "),
        ([sweep, *against], "is an experiment"),
        ([images, *against, "--set", "train.steps=2"], "goes with an experiment"),
        ([sweep, "--arm", "base", "--metric", "fid"], "--set measure.metrics=…"),
        ([stats, *against], "holds statistics of images, and no images"),
        ([images, *against, "--extractor", "nonsense"], "--extractor: 'nonsense' is not one of"),
        ([images, *against, "--split", "test"], "test"),
    ):
        error = refused(capsys, "measure", *arguments)
        assert error.startswith("error: ") and message in error and "Traceback" not in error, error
