"""Cells become rows, rows stand only beside what they may be compared with, and none is lost."""

from __future__ import annotations

import copy
import random

import pytest

from harness.config.dotted import nest
from harness.errors import StoreError
from harness.report.rows import flatten
from harness.store.records import DamagedRecord
from tests.report.made_up import cell, missing, panels, quickstart


def test_cells_that_differ_by_the_trainings_seed_alone_are_one_row() -> None:
    rows = [
        cell("base", {"sample.steps": steps}, frechet=[1.0 + seed, 2.0 + seed], seed=seed)
        for steps in (8, 16)
        for seed in (1, 0)
    ]
    (panel,) = panels(rows)
    assert [row.steps for row in panel.rows] == [8, 16]
    assert panel.rows[0].values("frechet") == [[1.0, 2.0], [2.0, 3.0]]
    distance = panel.distances[panel.rows[0]]
    assert (distance.mean, distance.trainings, distance.samplings) == (2.0, 2, 2)


def test_a_varied_seed_is_no_column() -> None:
    rows = [cell("base", {"sample.steps": 8}, seed=s) for s in (0, 1)]
    for seed, row in enumerate(rows):
        row["varied"]["seed"] = seed
    (panel,) = panels(rows)
    assert len(panel.rows) == 1 and "seed" not in panel.rows[0].varied


@pytest.mark.parametrize(
    ("key", "value"),
    [("features", "efficientnet_lite0"), ("images", 5000), ("extractor", "other weights")],
)
def test_other_features_or_numbers_of_images_stand_apart(key: str, value: object) -> None:
    one, other = cell("base", {"sample.steps": 8}), cell("base", {"sample.steps": 16})
    other["record"]["quality"][key] = value
    found = panels([one, other])
    assert [len(panel.rows) for panel in found] == [1, 1]
    assert found[0].condition != found[1].condition


@pytest.mark.parametrize(("key", "value"), [("name", "digits test"), ("images", 10), ("id", "another")])
def test_another_reference_stands_apart(key: str, value: object) -> None:
    one, other = cell("base", {"sample.steps": 8}), cell("base", {"sample.steps": 16})
    other["record"]["quality"]["reference"][key] = value
    assert len(panels([one, other])) == 2


def test_other_data_stand_apart() -> None:
    one, other = cell("base", {"sample.steps": 8}), cell("base", {"sample.steps": 16})
    other["record"]["config"]["data"] = {"name": "images", "size": 32, "path": "/somewhere/faces.zip"}
    found = panels([one, other])
    assert {panel.condition.data for panel in found if panel.condition} == {"digits 8×8", "faces 32×32"}


def test_only_inception_features_give_a_distance_called_fid() -> None:
    named = {}
    for features in ("inception", "digits", "dinov2"):
        row = cell("base")
        row["record"]["quality"]["features"] = features
        (panel,) = panels([row])
        named[features] = (panel.distance, panel.measures["kernel"].label)
    assert named == {
        "inception": ("FID", "KID"),
        "digits": ("FD-digits", "KD-digits"),
        "dinov2": ("FD-DINOv2", "KD-DINOv2"),
    }


def test_rows_without_a_result_stay_with_their_status() -> None:
    rows = [
        cell("base", {"sample.steps": 8}),
        missing("base", {"sample.steps": 16}, "blocked: disk full"),
        cell("base", {"sample.steps": 32}, seed=0),
        missing("base", {"sample.steps": 32}),
    ]
    (panel,) = panels(rows)
    assert [row.status for row in panel.rows] == ["", "blocked: disk full", "1 of 2 seeds: missing"]
    assert [row.measured for row in panel.rows] == [True, False, True]


def test_a_row_without_a_result_stands_in_the_panel_that_its_configuration_asks_for() -> None:
    other = cell("base", {"sample.steps": 16}, fixed={"measure.images": 50})
    lacking = missing("base", {"sample.steps": 32})
    lacking["config"]["measure"]["images"] = 50
    found = panels([cell("base", {"sample.steps": 8}), other, lacking])
    assert {p.condition.images: len(p.rows) for p in found if p.condition} == {2000: 1, 50: 2}


def test_nothing_measured_is_one_panel_of_all_rows() -> None:
    (panel,) = panels([missing("base", {"sample.steps": 8}), missing("base", {"sample.steps": 4})])
    assert panel.condition is None and [row.steps for row in panel.rows] == [4, 8]


def test_two_cells_that_claim_one_place_are_an_error() -> None:
    one, other = cell("base", {"sample.steps": 8}), cell("base", {"sample.steps": 8})
    other["record"]["id"] = "another"
    with pytest.raises(StoreError, match="both claim training seed 0"):
        panels([one, other])
    (panel,) = panels([one, copy.deepcopy(one)])
    assert len(panel.rows[0].records) == 1


def test_a_record_without_its_condition_is_an_error_that_names_the_cell() -> None:
    row = cell("base")
    del row["record"]["quality"]["reference"]
    with pytest.raises(DamagedRecord, match=rf"{row['record']['id']}.*reference"):
        panels([row])


def test_the_order_of_the_input_does_not_matter() -> None:
    rows = quickstart()
    shuffled = list(rows)
    random.Random(0).shuffle(shuffled)
    arms = ("base", "edm", "shrunk", "cached", "dual-rate")
    one, other = panels(rows, arms)[0], panels(shuffled, arms)[0]
    assert [row.name for row in one.rows] == [row.name for row in other.rows]
    assert [row.values("frechet") for row in one.rows] == [row.values("frechet") for row in other.rows]


def test_refreshes_and_interval_follow_from_however_they_were_set() -> None:
    fixed = {"model.kind": "dual_rate"}
    rows = panels(
        [
            cell("a", {"sample.steps": 32, "sample.refresh_interval": 5}, fixed=fixed),
            cell("b", {"sample.steps": 32, "sample.refreshes": 8}, fixed=fixed),
            cell("c", {"sample.steps": 32, "sample.refresh_steps": [0, 3, 20, 31]}, fixed=fixed),
            cell("d", {"sample.steps": 32}),
        ]
    )[0].rows
    assert [(row.refreshes, row.interval) for row in rows] == [(7, 5), (8, 4.0), (4, 8.0), (None, None)]


def test_flatten_and_nest_are_inverse() -> None:
    config = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert nest(flatten(config)) == config
    assert flatten(config) == {"a.b": 1, "a.c.d": [1, 2], "e": None, "f": {}}


def test_inception_with_other_weights_is_no_fid() -> None:
    """The record says by which name its distance goes; features alone do not make it FID."""
    for label, kernel in (("FD-Inception", "KD-Inception"), ("FID", "KID")):
        row = cell("base", fixed={"measure.features": "inception"})
        row["record"]["quality"]["frechet_label"] = label
        (panel,) = panels([row])
        assert (panel.distance, panel.measures["kernel"].label) == (label, kernel)
        assert panel.condition is not None and panel.condition.official == (label == "FID")
