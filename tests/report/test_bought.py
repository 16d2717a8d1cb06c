"""What was paid in training, on records that a sweep with starts has made: tables, page, headline and the figure."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import parse_experiment
from harness.engine.estimate import network_costs_of
from harness.report.bought import Bought, added_caption, added_note, bought
from harness.report.figure_list import report_figures
from harness.report.figures import bought_figure
from harness.report.headline import headline
from harness.report.options import ReportOptions
from harness.report.panel import Panel
from harness.report.style import png
from harness.report.write import Report
from tests.report.made_up import panels, plain_rows, write_report

SWEEP = """
name: paid
base:
  model: {kind: single_rate, width: 8, multipliers: [1, 1], levels: [conv, conv], blocks: [1, 1], embedding: 16}
  train: {steps: 8, batch: 4}
  sample: {sampler: ddim, batch: 16}
  measure: {images: 16, latency: {repeats: 1, warmup: 0, batch: 2}}
arms:
  base: {grid: {sample.steps: [2, 4, 8]}}
  cached:
    set: {sample.cache_from_level: 1}
    grid: {"sample.steps, sample.refreshes": [[4, 2], [8, 4]]}
  adapted:
    set: {model.kind: dual_rate, model.light_width: 0.5, train.start: base, train.freeze: [encoder]}
    grid:
      train.steps: [2, 4]
      "sample.steps, sample.refreshes": [[4, 2], [8, 4]]
  anew:
    set: {model.kind: dual_rate, model.light_width: 0.5}
    grid: {"sample.steps, sample.refreshes": [[4, 2], [8, 4]]}
"""
ARMS = ("base", "cached", "adapted", "anew")
OPTIONS = ReportOptions(base="base", subject="adapted", arms=list(ARMS))
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of the sweep's report. Networks this little trained tell no methods apart, so that distances are set:
    they fall with the steps, and at equal steps are the same for all."""
    folder = tmp_path_factory.mktemp("paid")
    (folder / "paid.yaml").write_text(SWEEP)
    words = ["sweep", str(folder / "paid.yaml"), "--cluster", "inline", "--results", str(folder / "results"), "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    rows = plain_rows(Path(json.loads(done.stdout)["report"]) / "cells.json")
    for row in rows:
        for seed in row["record"]["quality"]["per_seed"]:
            seed["values"]["frechet"] = 16.0 / row["record"]["config"]["sample"]["steps"]
            seed["standard_errors"]["frechet"] = 0.01
        row["record"]["time"] |= {"trusted": True, "reasons": [], "conditions": None}
    return rows


def only(rows: Rows, *arms: str) -> Panel:
    (panel,) = panels([row for row in rows if row["arm"] in arms], arms)
    return panel


def changed(rows: Rows, arm: str, change: Callable[[dict[str, Any]], Any]) -> Rows:
    rows = copy.deepcopy(rows)
    for row in rows:
        if row["arm"] == arm:
            change(row["record"])
    return rows


def as_schema_2(record: dict[str, Any]) -> None:
    """As an earlier version wrote it, which did not tell what a training inherits."""
    record["schema"] = 2
    del record["compute"]["training_gmacs_inherited"]
    record["provenance"] = {k: v for k, v in record["provenance"].items() if "inherited" not in k and "chain" not in k}


def costs(rows: Rows, arm: str) -> tuple[dict[str, int], int]:
    """(multiply-adds of each evaluation of the arm's networks in training, those of the encoder alone)."""
    config = next(row["record"]["config"] for row in rows if row["arm"] == arm)
    counts = network_costs_of(parse_experiment(config, "test"), training=True)
    alone = counts["encoder"].by_module["encoder"] if "encoder" in counts else 0
    return {name: count.macs for name, count in counts.items()}, alone


def test_what_was_added_is_a_share_of_what_it_started_from(ran: Rows) -> None:
    """By hand: 3 passes of the base for 8 iterations; an encoder's forward pass and 3 of the rest for 2 and 4; 3 of all
    for 8; and nothing for what draws from the base itself."""
    whole = 3 * costs(ran, "base")[0]["network"] * 8
    macs, encoder = costs(ran, "adapted")
    frozen = encoder + 3 * (macs["encoder"] - encoder) + 3 * macs["denoiser"]
    points = bought(only(ran, *ARMS), "base", "adapted")
    assert [(point.arm, point.setting) for point in points] == [
        ("cached", ""), ("adapted", "train.steps 2"), ("adapted", "train.steps 4"), ("anew", ""),
    ]  # fmt: skip
    anew = 3 * (macs["encoder"] + macs["denoiser"]) * 8
    assert [point.added for point in points] == pytest.approx([0, 2 * frozen / whole, 4 * frozen / whole, anew / whole])


def test_a_chain_counts_what_lies_between_too(ran: Rows) -> None:
    """Of a training that starts from one that starts from the base, both were added."""

    def further(record: dict[str, Any]) -> None:
        record["compute"]["training_gmacs_inherited"] *= 1.5
        record["provenance"]["training_chain"] = ["between", *record["provenance"]["training_chain"]]

    before = [point.added for point in bought(only(ran, *ARMS), "base", "adapted") if point.arm == "adapted"]
    panel = only(changed(ran, "adapted", further), *ARMS)
    after = [point.added for point in bought(panel, "base", "adapted") if point.arm == "adapted"]
    assert after == pytest.approx([share + 0.5 for share in before])


def test_the_costs_are_those_at_equal_quality(ran: Rows) -> None:
    """All distances are 16 / steps, so that at equal distance a method's cost is that of its row with as many steps."""
    panel = only(ran, *ARMS)
    gmacs = {(row.arm, row.steps): row.gmacs for row in panel.measured}
    for point in bought(panel, "base", "adapted"):
        expected = np.sqrt(np.prod([gmacs["base", steps] / gmacs[point.arm, steps] for steps in (4, 8)]))
        assert point.compute is not None and point.compute.ratio == pytest.approx(expected, rel=1e-3)
        assert point.compute.low <= point.compute.ratio <= point.compute.high


@pytest.fixture(scope="module")
def report(ran: Rows, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report("paid", "Paid", ran, tmp_path_factory.mktemp("report"), OPTIONS)


def shown(report: Report, method: str, column: str) -> list[str]:
    """A column of the method's rows in the table as text."""
    return [str(text) for text in report.table[column][report.table["method"] == method]]


def test_the_table_and_the_page_have_what_was_paid(ran: Rows, report: Report) -> None:
    table = pd.read_csv(report.folder / "table.csv")
    base, adapted = (table[table["arm"] == arm] for arm in ("base", "adapted"))
    assert base["inherited_training_gmacs"].tolist() == [0, 0, 0]
    assert (
        set(adapted["inherited_training_gmacs"]) == set(base["training_gmacs"])
        and len(set(base["training_gmacs"])) == 1
    )
    seconds = [row["record"]["provenance"]["training_seconds"] for row in ran if row["arm"] == "base"]
    assert adapted["inherited_training_seconds"].tolist() == pytest.approx([seconds[0]] * 4, rel=1e-4)
    assert base["training_seconds"].tolist() == pytest.approx(seconds, rel=1e-4)
    assert all(re.fullmatch(r"[\d.e-]+ \+ [\d.e-]+", text) for text in shown(report, "adapted", "training TMACs"))
    assert not any("+" in text for arm in ("base", "anew") for text in shown(report, arm, "training s"))
    page = (report.folder / "index.html").read_text()
    assert page.count("inherited compute of training:") == page.count("inherited time of training:") == 4
    assert "Against added training: a point per network" in page
    assert "its own + what it has inherited" in page and "by-added-training.png" in report.files


def test_the_headline_says_for_how_much_more_training(ran: Rows, report: Report) -> None:
    shares = [100 * point.added for point in bought(only(ran, *ARMS), "base", "adapted") if point.arm == "adapted"]
    assert report.headline.endswith(f", for {shares[0]:.3g} to {shares[1]:.3g} % more training")
    assert "more training" not in headline(only(ran, "base", "anew"), "base", "anew").line


def test_what_is_not_known_is_said_and_not_drawn(ran: Rows, tmp_path: Path) -> None:
    report = write_report("paid", "Paid", changed(ran, "adapted", as_schema_2), tmp_path, OPTIONS)
    assert report.headline.endswith(", for an amount of more training that is not known")
    assert all(text.endswith(" + ?") for text in shown(report, "adapted", "training TMACs"))
    assert (tmp_path / "index.html").read_text().count("what its training has inherited is not known") == 4
    (panel,) = panels(changed(ran, "adapted", as_schema_2), ARMS)
    assert {point.arm for point in bought(panel, "base", "adapted")} == {"cached", "anew"}


def names(panel: Panel) -> list[str]:
    return [drawn.name for drawn in report_figures(panel, ReportOptions(base="base"))]


def test_it_is_drawn_where_some_arm_added_training(ran: Rows) -> None:
    assert "by-added-training" in names(only(ran, *ARMS))
    assert "by-added-training" in names(only(ran, "base", "anew"))
    assert "by-added-training" not in names(only(ran, "base", "cached"))
    assert "by-added-training" not in names(only(ran, "base"))


def drawn_at(panel: Panel, points: list[Bought], fill: str) -> list[float]:
    axes = bought_figure(panel, points).axes[0]
    lines = [line for line in axes.get_lines() if line.get_marker() != "None" and line.get_fillstyle() == fill]
    return sorted(float(y) for line in lines for y in np.asarray(line.get_ydata()))


def test_compute_and_time_are_drawn_for_each_network(ran: Rows) -> None:
    panel = only(ran, *ARMS)
    points = [point for point in bought(panel, "base", "adapted") if point.compute]
    assert len(points) == 4
    assert drawn_at(panel, points, "full") == pytest.approx(sorted(1 / p.compute.ratio for p in points if p.compute))
    timed = [1 / p.time.ratio for p in points if p.time and not p.time.bound]
    assert drawn_at(panel, points, "none") == pytest.approx(sorted(timed))
    caption = added_caption(panel, points)
    assert "FD-digits" in caption and ("time hollow" in caption) == bool(timed)
    assert png(bought_figure(panel, points[:2])) != png(bought_figure(panel, points))


def test_the_table_prints_the_figure_s_points_with_their_intervals(ran: Rows, report: Report) -> None:
    """What is said of an arm elsewhere can be read off a report: what it added, and both costs over the base's."""
    lines = (report.folder / "added-training.md").read_text().splitlines()
    points = bought(only(ran, *ARMS), "base", "adapted")
    for point, line in zip(points, lines[-len(points) :], strict=True):
        compute, time = point.compute, point.shown_time
        assert compute is not None
        added, told, timed = (cell.strip() for cell in line.split("|")[2:5])
        assert added == f"{100 * point.added:.3g} %"
        assert told.startswith(f"{1 / compute.ratio:.2f} ({1 / compute.high:.2f} to {1 / compute.low:.2f}")
        assert timed == "–" if time is None else timed.startswith(f"{1 / time.ratio:.2f} (")
    values = pd.read_csv(report.folder / "added-training.csv")
    assert values["training_added"].tolist() == pytest.approx([point.added for point in points], rel=1e-5)
    assert values["arm"].tolist() == [point.arm for point in points]
    page = (report.folder / "index.html").read_text()
    assert page.count("What was added to the training, and what sampling costs at equal quality") == 1


def test_there_is_no_table_of_added_training_where_none_was_added(ran: Rows, tmp_path: Path) -> None:
    report = write_report("paid", "Paid", [row for row in ran if row["arm"] in ("base", "cached")], tmp_path, OPTIONS)
    assert not any(name.startswith("added-training") for name in report.files)


def test_the_table_says_what_is_left_out_and_who_falls_short(ran: Rows, tmp_path: Path) -> None:
    def worse(record: dict[str, Any]) -> None:
        record["time"].update(trusted=False, reasons=["it was busy"])
        for seed in record["quality"]["per_seed"]:
            seed["values"]["frechet"] *= 1.5

    write_report("paid", "Paid", changed(ran, "anew", worse), tmp_path, OPTIONS)
    *head, anew = (tmp_path / "added-training.md").read_text().splitlines()
    _, name, _, compute, time, *_ = (cell.strip() for cell in anew.split("|"))
    assert name == "anew" and "\\*" in compute and time == "–"
    assert "Times that cannot be trusted are left out: " in head[0]


def test_times_that_are_not_to_be_trusted_are_not_drawn(ran: Rows) -> None:
    rows = changed(ran, "base", lambda record: record["time"].update(trusted=False, reasons=["it was busy"]))
    panel = only(rows, *ARMS)
    assert all(point.time is None for point in bought(panel, "base", "adapted"))


def test_who_does_not_reach_the_base_is_said_beside_the_figure(ran: Rows) -> None:
    """It is compared over the worse qualities alone, where it may look cheap."""
    panel = only(ran, *ARMS)
    assert "Do not reach" not in added_note(panel, bought(panel, "base", "adapted"))

    def worse(record: dict[str, Any]) -> None:
        for seed in record["quality"]["per_seed"]:
            seed["values"]["frechet"] *= 1.5

    panel = only(changed(ran, "anew", worse), *ARMS)
    note = added_note(panel, bought(panel, "base", "adapted"))
    assert "Do not reach the best of base, so that only the worse of its values are compared: anew." in note
