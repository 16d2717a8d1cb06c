"""A metric and an extractor are added as CONTRIBUTING says, in a copy of the project, and stand in the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.contributing import ROOT, copy_of_the_source, run_each

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SWEEP = """
name: added
base:
  data: {name: digits}
  model: {kind: single_rate, patch: 2, width: 8, multipliers: [1], levels: [conv], blocks: [1], embedding: 16}
  train: {steps: 3, batch: 8}
  sample: {batch: 20}
  measure: {images: 20, features: pooled, metrics: [brightness], latency: {batch: 4, repeats: 1}}
arms:
  base: {grid: {sample.steps: [2, 4]}}
  dual-rate: {set: {model.kind: dual_rate}, grid: {"sample.steps, sample.refresh_interval": [[4, 2], [8, 2]]}}
"""


def code_after(words: str) -> str:
    """The first block of code after `words` in CONTRIBUTING."""
    found = re.search(re.escape(words) + r".*?```python\n(.*?)```", TEXT, re.S)
    assert found is not None, words
    return found[1]


def add(folder: Path, package: str, module: str) -> None:
    """Write the module that CONTRIBUTING shows, and its one line (with its name in the import)."""
    (folder / package / f"{module}.py").write_text(code_after(f"`{package}/{module}.py`"), encoding="utf-8")
    init = folder / package / "__init__.py"
    text = init.read_text(encoding="utf-8")
    line = next(line for line in TEXT.splitlines() if re.fullmatch(rf" +{module}\.(METRIC|EXTRACTOR),", line))
    last = re.findall(r"\n +\w+\.(?:METRIC|EXTRACTOR),", text)[-1]
    text = text.replace(last, f"{last}\n{line}")
    imported = f"from {package.replace('/', '.')} import "
    init.write_text(text.replace(imported, f"{imported}{module}, ", 1), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with both added, and a sweep that uses them."""
    folder = tmp_path_factory.mktemp("project")
    copy_of_the_source(folder)
    add(folder, "harness/metrics", "brightness")
    add(folder, "harness/metrics/extractors", "pooled")
    (folder / "added.yaml").write_text(SWEEP, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> list[dict[str, Any]]:
    """What the sweep, its report, and its report by the new metric print."""
    report = ("report", "added.yaml")
    asked = [("sweep", "added.yaml", "--cluster", "inline"), report, (*report, "--metric", "brightness")]
    ended = run_each(project, *[(*words, "--results", "results", "--json") for words in asked], source=project)
    assert [end.returncode for end in ended] == [0, 0, 0], [end.stderr for end in ended]
    return [json.loads(end.stdout) for end in ended]


def test_both_stand_in_the_table(project: Path, said: list[dict[str, Any]]) -> None:
    table = said[1]["table"]
    values = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert len(values) == 4
    assert all(float(line["FD-pooled"].split()[0]) > 0 for line in values)
    assert all(float(line["Δ brightness"].split()[0]) >= 0 for line in values)
    record = json.loads(next((project / "results" / "runs" / "cells").glob("*.json")).read_text(encoding="utf-8"))
    assert record["quality"]["features_label"] == "pooled"
    assert record["quality"]["measures"]["brightness"] == {"label": "Δ brightness", "better": "lower"}
    assert record["quality"]["per_seed"][0]["standard_errors"]["brightness"] > 0


def test_the_headline_and_the_ranking_take_it_on_request(project: Path, said: list[dict[str, Any]]) -> None:
    _, plain, asked = said
    assert "FD-pooled" in plain["headline"] and "brightness" not in plain["headline"]
    assert "Δ brightness" in asked["headline"] and "FD-pooled" not in asked["headline"]
    assert asked["distance"] == "Δ brightness"
    columns = asked["table"]["columns"]
    best = min(asked["table"]["rows"], key=lambda row: float(row[columns.index("Δ brightness")].split()[0]))
    text = (project / "results" / "added" / "table.md").read_text(encoding="utf-8")
    bold = re.search(r"\*\*([\d.]+)[^|]*\*\* \|", text)
    assert bold is not None and best[columns.index("Δ brightness")].startswith(bold[1])
