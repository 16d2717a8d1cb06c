"""A metric and an extractor are added as CONTRIBUTING says, in a copy of the project, and stand in the report."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
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
    """A copy of the project with both added, and a sweep that uses them, run."""
    folder = tmp_path_factory.mktemp("project")
    for package in ("harness", "models"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    add(folder, "harness/metrics", "brightness")
    add(folder, "harness/metrics/extractors", "pooled")
    (folder / "added.yaml").write_text(SWEEP, encoding="utf-8")
    harness(folder, "sweep", "added.yaml", "--cluster", "inline")
    return folder


def harness(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments, "--results", "results", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_both_stand_in_the_table(project: Path) -> None:
    with (project / "results" / "added" / "table.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4
    assert all(float(line["FD-pooled"]) > 0 and float(line["Δ_brightness"]) >= 0 for line in lines)
    record = json.loads(next((project / "results" / "runs" / "cells").glob("*.json")).read_text(encoding="utf-8"))
    assert record["quality"]["features_label"] == "pooled"
    assert record["quality"]["measures"]["brightness"] == {"label": "Δ brightness", "better": "lower"}
    assert record["quality"]["per_seed"][0]["standard_errors"]["brightness"] > 0


def test_the_headline_and_the_ranking_take_it_on_request(project: Path) -> None:
    plain = harness(project, "report", "added.yaml")
    asked = harness(project, "report", "added.yaml", "--metric", "brightness")
    assert "FD-pooled" in plain["headline"] and "brightness" not in plain["headline"]
    assert "Δ brightness" in asked["headline"] and "FD-pooled" not in asked["headline"]
    assert asked["distance"] == "Δ brightness"
    columns = asked["table"]["columns"]
    best = min(asked["table"]["rows"], key=lambda row: float(row[columns.index("Δ brightness")].split()[0]))
    text = (project / "results" / "added" / "table.md").read_text(encoding="utf-8")
    bold = re.search(r"\*\*([\d.]+)[^|]*\*\* \|", text)
    assert bold is not None and best[columns.index("Δ brightness")].startswith(bold[1])
