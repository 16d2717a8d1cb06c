"""Figures of the literature: each with its source and caveat, and beside measured ones only where all agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.report.reported import Reported, agreeing, read_reported
from tests.report.conftest import REPORTED
from tests.report.made_up import cell, panels


def rows() -> list[Reported]:
    return list(read_reported(REPORTED))


def test_every_source_of_the_table_is_there() -> None:
    assert {row.source for row in rows()} == {"DR", "EDM", "EDM2", "DiT", "SiD2", "MMD"}
    assert all(row.caveat and row.arxiv for row in rows())


def test_the_arithmetic_that_reconciles() -> None:
    by_cost = {(row.data, row.tflops_per_image): row for row in rows() if row.source == "DR"}
    base = by_cost["ImageNet 64×64", 55.5]
    assert base.evaluations and base.gflops_per_evaluation
    assert base.evaluations * base.gflops_per_evaluation / 1000 == pytest.approx(55.55, abs=0.005)
    for cost, steps in ((13.14, 512), (7.44, 256)):
        row = by_cost["ImageNet 64×64", cost]
        assert (row.steps, row.refreshes) == (steps, 16)
        assert (16 * 108.5 + steps * 22.27) / 1000 == pytest.approx(cost, abs=0.005)
    assert by_cost["ImageNet 64×64", 0.79].refreshes == 4
    distilled = (4 * 108.5 + 8 * 44.0) / 1000
    assert distilled == pytest.approx(0.79, abs=0.005)
    for row in rows():
        if row.source == "EDM" and row.evaluations and row.gflops_per_evaluation:
            assert row.evaluations * row.gflops_per_evaluation / 1000 == pytest.approx(row.tflops_per_image, rel=1e-3)
            assert row.steps is not None and row.evaluations == 2 * row.steps - 1


def test_what_counts_as_a_flop_is_not_guessed() -> None:
    assert all(row.gmacs_per_image is None for row in rows() if row.source == "DR")


def test_measured_and_reported_share_a_figure_only_where_all_agrees() -> None:
    row = cell("base")
    row["record"]["config"]["data"] = {"name": "ImageNet", "size": 64}
    row["record"]["quality"] |= {
        "features": "inception",
        "images": 50000,
        "reference": {"name": "train", "images": 1281167, "id": "x"},
    }
    (panel,) = panels([row])
    edm = next(r for r in rows() if r.source == "EDM" and r.data == "ImageNet 64×64")
    assert agreeing([edm], panel) == [("[EDM] EDM (stochastic)", pytest.approx(56210), 1.36)]
    for other in (
        {"data": "CIFAR-10 32×32"},
        {"features": "dinov2"},
        {"images": 10000},
        {"reference": "val"},
        {"multiply_add_counts": None},
        {"distance": None},
    ):
        assert agreeing([replace(edm, **other)], panel) == []
    assert agreeing(rows(), panels([cell("base")])[0]) == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("distance", "about 1", "line 2: distance: 'about 1' is not a number"),
        ("caveat", "", "source and its caveat"),
        ("source", "", "source and its caveat"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    names = REPORTED.read_text(encoding="utf-8").splitlines()[0].split(",")
    line = {name: "x" if name in ("source", "caveat") else "" for name in names} | {column: value}
    path = tmp_path / "reported.csv"
    path.write_text(",".join(names) + "\n" + ",".join(line[name] for name in names) + "\n", encoding="utf-8")
    with pytest.raises(StoreError, match=message):
        read_reported(path)


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reported.csv"
    path.write_text("source,fid\nDR,1\n", encoding="utf-8")
    with pytest.raises(StoreError, match="columns must be"):
        read_reported(path)
