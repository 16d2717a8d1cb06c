"""What a run writes into its records is what the report reads there: names, data, reference, features."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli import app as cli
from harness.metrics.extractors import EXTRACTORS
from harness.report import Panel
from harness.report.figures import frontier_figure
from harness.report.reported import agreeing, read_reported
from tests.report.conftest import REPORTED, Ran
from tests.report.made_up import panels, plain_rows
from tools.made_images import make
from tools.made_inception import make_inception

IMAGES = 4
SWEEP = """
name: named
base:
  data: {{name: images, path: {data}, size: 64, channels: 3}}
  model: {{kind: single_rate, patch: 16, width: 8, multipliers: [1], levels: [conv], blocks: [1], embedding: 16}}
  train: {{steps: 1, batch: 4}}
  sample: {{steps: 1, batch: 4}}
  measure: {{images: {images}, features: inception, weights: {weights}, latency: {{repeats: 1, warmup: 0, batch: 1}}}}
arms:
  base: {{set: {{data.label: ImageNet 64×64}}}}
  here: {{set: {{sample.sampler: ddim}}}}
  elsewhere: {{set: {{sample.sampler: dpmpp_2m, data.path: {copy}}}}}
"""


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand-in weights of Inception, which count as the official ones while this module's tests run."""
    path = make_inception(tmp_path_factory.mktemp("inception") / "random.pth")
    with pytest.MonkeyPatch.context() as patch:
        known = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        patch.setitem(EXTRACTORS, "inception", replace(EXTRACTORS["inception"], weights_sha256=known))
        yield path


@pytest.fixture(scope="module")
def folder(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweep, its data at two paths, and the literature's figures as if they were of N = 4."""
    place = tmp_path_factory.mktemp("named")
    data = make(place / "one.zip", images=6, size=64, classes=2)
    copy = place / "other" / "the-same.zip"
    copy.parent.mkdir()
    shutil.copyfile(data, copy)
    (place / "results").mkdir()
    table = REPORTED.read_text(encoding="utf-8").replace(",50000,", f",{IMAGES},")
    (place / "results" / "reported.csv").write_text(table, encoding="utf-8")
    (place / "named.yaml").write_text(SWEEP.format(data=data, copy=copy, weights=official, images=IMAGES))
    return place


def run(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """Run the sweep in this process, as far as it has not run; the rows that its report was made from."""
    options = [part for text in overrides for part in ("--set", text)]
    arguments = [
        "sweep",
        str(folder / "named.yaml"),
        "--cluster",
        "inline",
        "--results",
        str(folder / "results"),
        "--json",
    ]
    done = CliRunner().invoke(cli.app, [*arguments, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return plain_rows(Path(json.loads(done.stdout)["report"]) / "cells.json")


def literature(panel: Panel, folder: Path) -> list[str]:
    """What the frontier shows of the literature."""
    known = read_reported(folder / "results" / "reported.csv")
    figure = frontier_figure(panel, "gmacs", agreeing(known, panel))
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("overrides", [[], ["data.label=ImageNet"]])
def test_the_literature_stands_beside_a_fid_that_a_run_has_measured(overrides: list[str], folder: Path) -> None:
    rows = [row for row in run(folder, *overrides) if row["arm"] == "base"]
    assert rows[0]["record"]["quality"]["reference"]["name"] == "ImageNet 64×64 64×64 train"
    (panel,) = panels(rows)
    assert panel.condition is not None
    assert (panel.condition.data, panel.condition.reference) == ("ImageNet 64×64", "ImageNet 64×64 train")
    assert panel.distance == "FID" and literature(panel, folder) == ["[EDM] EDM (stochastic)"]


def test_it_does_not_beside_other_data_another_n_reference_or_weights(folder: Path) -> None:
    changes = {
        "images": lambda quality: quality.update(images=5),
        "reference": lambda quality: quality["reference"].update(name="ImageNet 64×64 test", split="test"),
        "size": lambda quality: quality["reference"].update(name="ImageNet 32×32 train", data="ImageNet 32×32"),
        "weights": lambda quality: quality.update(official=False),
        "features": lambda quality: quality.update(features="dinov2"),
    }
    for what, change in changes.items():
        rows = run(folder, "data.label=ImageNet")
        for row in rows:
            change(row["record"]["quality"])
        assert literature(panels(rows)[0], folder) == [], what
    assert literature(panels(run(folder, "data.label=Faces"))[0], folder) == []


def test_one_data_set_at_two_paths_is_one_panel(folder: Path) -> None:
    rows = [row for row in run(folder) if row["arm"] != "base"]
    assert {row["record"]["quality"]["reference"]["name"] for row in rows} == {
        "one 64×64 train",
        "the-same 64×64 train",
    }
    (panel,) = panels(rows)
    assert panel.condition is not None and panel.condition.data == "one 64×64"
    assert [row.arm for row in panel.measured] == ["here", "elsewhere"]


def test_a_label_renames_what_was_measured_under_another(folder: Path) -> None:
    before = {row["record"]["id"] for row in run(folder, "data.label=ImageNet")}
    rows = run(folder, "data.label=Faces")
    assert {row["record"]["id"] for row in rows} == before
    (panel,) = panels(rows)
    assert panel.condition is not None and panel.condition.text.startswith("Faces 64×64; FID of 4 images against Faces")


def test_the_digits_have_a_label_too(ran: Ran) -> None:
    arguments = ["sweep", str(ran.sweep), "--cluster", "inline", "--results", str(ran.results), "--json"]
    done = CliRunner().invoke(cli.app, [*arguments, "--set", "data.label=Numerals"], catch_exceptions=False)
    assert done.exit_code == 0
    made = next(path for path in ran.results.glob("hardly-trained-set-*"))
    text = (made / "table.md").read_text(encoding="utf-8")
    assert "Numerals 8×8; FD-digits of 60 images against Numerals 8×8 train (1797 images)" in text
    assert "digits 8×8" not in text + (made / "index.html").read_text(encoding="utf-8")


def test_channels_that_are_named_are_those_that_are_there(ran: Ran) -> None:
    """The hash is of the pixels: whether the configuration names what the data have makes no other panel."""
    rows = ran.rows
    rows[0]["record"]["config"]["data"]["channels"] = 1
    assert len(panels(rows)) == 1
    rows[0]["record"]["quality"]["reference"]["id"] = "of other pixels"
    assert len(panels(rows)) == 2
