"""What metrics declare, and what follows from it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness import plugins
from harness.config.schema import MeasureConfig, parse_experiment
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError, DataError
from harness.measure.fidelity import measure_quality
from harness.measure.reference import Reference
from harness.measure.train_digits_extractor import digits
from harness.metrics import METRICS, metric_of
from harness.metrics.declare import ImageSet, Measure, Metric, Values
from harness.report.headline import headline
from harness.store.identity import identify
from tests.report.made_up import cell, panels

IMAGES = digits()[0]
DUAL = {"model.kind": "dual_rate"}
OWN = """
from harness.metrics.declare import Measure, Metric


def compute(generated, real):
    return {"first": float(generated.features[:, 0].mean()), "aside": 1.0}


METRIC = Metric("first", (Measure("first"),), compute, resamples=200)
LACKING = Metric("lacking", (Measure("absent"),), compute)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module outside the project with two metrics."""
    path = tmp_path / "metrics_of_a_test.py"
    path.write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return path


def measured(*names: str) -> dict[str, Any]:
    return measure_quality(IMAGES[:400], Reference("d", "d", lambda: IMAGES), MeasureConfig(metrics=names))


def test_the_bootstrap_gives_the_standard_error_of_a_mean(own: Path) -> None:
    quality = measured("metrics_of_a_test:METRIC")
    from harness.measure.features import load_extractor

    feature = load_extractor("digits").extract(IMAGES[:400], 250)["64"][:, 0]
    assert quality["standard_errors"]["first"] == pytest.approx(float(feature.std()) / math.sqrt(400), rel=0.2)
    assert quality["values"]["aside"] == 1.0 and "aside" not in quality["measures"]


def test_a_number_that_is_declared_and_not_given_is_named(own: Path) -> None:
    with pytest.raises(DataError, match="metric lacking: its computation gives no absent"):
        measured("metrics_of_a_test:LACKING")


@pytest.mark.parametrize("given", ["{'first': float('nan')}", "{'first': float('inf')}", "{'first': None}", "[1.0]"])
def test_what_is_no_finite_number_is_named(given: str, own: Path) -> None:
    own.write_text(OWN.replace('{"first": float(generated.features[:, 0].mean()), "aside": 1.0}', given))
    with pytest.raises(
        DataError, match=r"metric first: its computation gives (first = .*no finite number|a list, not)"
    ):
        measured("metrics_of_a_test:METRIC")


def test_a_metric_cannot_give_the_measure_of_another(own: Path) -> None:
    """Its figures would stand for the other's, in tables and in the headline."""
    own.write_text(OWN.replace('Metric("first", (Measure("first"),)', 'Metric("first", (Measure("frechet"),)'))
    with pytest.raises(ConfigError, match=r"measure.metrics: .*:METRIC' gives 'frechet', as 'frechet' does"):
        parse_experiment({"measure": {"metrics": ["metrics_of_a_test:METRIC"]}}, "x")


def test_a_number_aside_cannot_be_that_of_another_metric(own: Path) -> None:
    own.write_text(OWN.replace('"aside": 1.0', '"kernel": 0.0'))
    with pytest.raises(DataError, match="metric first: its computation gives kernel, which another metric gives"):
        measured("metrics_of_a_test:METRIC")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"measures": ()}, "measures: none"),
        ({"measures": (Measure("a b"),)}, "measures: 'a b' must be a name"),
        ({"measures": (Measure("a"), Measure("a"))}, "measures: 'a' must be a name of its own"),
        ({"measures": (Measure("a", label="{nope}"),)}, "label: '{nope}' may hold {features} alone"),
        ({"needs": frozenset({"pixels"})}, "needs: 'pixels' is not one of features, images, logits"),
        ({"resamples": 1}, "resamples: 1; 0 for none, or at least 2"),
    ],
)
def test_a_declaration_that_can_only_fail_is_refused_at_once(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Metric(**{"name": "m", "measures": (Measure("m"),), "compute": lambda generated, real: {}, **declared})


def test_editing_the_source_of_ones_own_metric_changes_the_cell_alone(own: Path) -> None:
    experiment = parse_experiment({"measure": {"metrics": ["metrics_of_a_test:METRIC"]}}, "x")
    before = identify(experiment)
    own.write_text(OWN + "\n# edited\n", encoding="utf-8")
    assert identify(experiment) == before, "what has been imported is what runs"
    plugins._loaded.clear()  # as in the next process
    after = identify(experiment)
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("precision_recal", r"did you mean 'precision_recall'"),
        ("nowhere:METRIC", "'nowhere:METRIC' cannot be imported"),
        ("harness.metrics:METRICS", "is a dict, not a harness.metrics.declare.Metric"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_choices(name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MeasureConfig(metrics=(name,))
    with pytest.raises(ValueError, match=message):
        metric_of(name)


def test_the_keys_of_their_own_are_the_same_as_the_list() -> None:
    by_key, by_list = MeasureConfig(precision_recall=True), MeasureConfig(metrics=("precision_recall",))
    assert by_key.metric_names == by_list.metric_names == ("frechet", "kernel", "precision_recall")
    assert MeasureConfig().metric_names == ("frechet", "kernel")
    assert MeasureConfig(metrics=("kernel",)).metric_names == ("frechet", "kernel")


def test_what_is_computed_of_the_reference_is_computed_once() -> None:
    asked: list[int] = []
    real = ImageSet(torch.zeros(3, 2), lambda: torch.zeros(3))

    def compute() -> str:
        asked.append(1)
        return "made"

    for _ in range(2):
        assert real.once("x", compute) == "made"
    assert asked == [1]


def test_every_metric_declares_what_it_gives() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name and metric.measures and metric.least_images >= 2


def with_recall(arm: str, factor: float, **kwargs: Any) -> list[dict[str, Any]]:
    """Rows whose recall rises with compute, while their distance is the same for all."""
    rows = []
    for steps in (4, 8, 16):
        row = cell(arm, {"sample.steps": steps}, frechet=1.0, gmacs=factor * steps, **kwargs)
        row["record"]["quality"]["per_seed"][0] |= {"recall": steps / 20, "recall_standard_error": 0.0005}
        rows.append(row)
    return rows


def test_more_is_better_where_a_metric_says_so() -> None:
    rows = [*with_recall("base", 1.0), *with_recall("dual-rate", 0.5, fixed=DUAL)]
    (panel,) = panels(rows, metric="recall")
    best = panel.best(panel.measured)
    assert panel.higher_is_better and best is not None and best.steps == 16
    told = headline(panel)
    assert told.line.startswith("dual-rate: 0.50× the compute (0.50–0.50)") and told.line.endswith("at equal recall")
    assert "0.2 to 0.8" in told.conditions
    assert "cannot be compared" in headline(panels(rows)[0]).line, "their distances are all the same"


def test_cells_without_the_metric_are_rows_without_a_result() -> None:
    (panel,) = panels([*with_recall("base", 1.0), cell("base", {"sample.steps": 32})], metric="recall")
    assert [row.status for row in panel.rows] == ["", "", "", "its record holds no recall"]


def unused(generated: ImageSet, real: ImageSet) -> Values:
    return {}


def test_labels() -> None:
    metric = Metric("a_b", (Measure("a_b"), Measure("c", label="C-{features}", inception_label="CID")), unused)
    plain, named = metric.measures
    assert plain.label_for("digits", False) == "a b"
    assert named.label_for("digits", False) == "C-digits" and named.label_for("Inception", True) == "CID"


def test_a_report_is_ranked_by_what_its_cells_measure_or_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    text = "name: s\nbase: {MEASURE}\narms: {base: {}}\nreport: {metric: recall}\n"
    path.write_text(text.replace("{MEASURE}", "{}"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"report\.metric: 'recall' is measured in no cell; choices: frechet, ker"):
        load_sweep(path)
    path.write_text(text.replace("{MEASURE}", "{measure: {metrics: [precision_recall]}}"), encoding="utf-8")
    assert load_sweep(path).config.report.metric == "recall"
