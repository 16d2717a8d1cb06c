"""Planning is quick: costs are counted once for each configuration, and nothing heavy is imported without need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine import estimate, planned
from harness.engine.planned import PlannedCosts, Quantity, planned_costs
from tests.harness.tiny import write_sweep
from tests.harness.tiny_experiments import tiny

HEAVY = ("torch", "pandas", "matplotlib", "submitit", "fvcore", "torch_fidelity", "sklearn", "scipy")
QUANTITIES: tuple[Quantity, ...] = ("gmacs_per_image", "cell_gmacs", "training_gmacs")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is counted anew, as it is counted."""
    made: list[str] = []
    original: Callable[..., float] = planned._count

    def count(quantity: Quantity, experiment: Any) -> float:
        made.append(quantity)
        return original(quantity, experiment)

    monkeypatch.setattr(planned, "_count", count)
    return made


@pytest.mark.parametrize("kind", ["single_rate", "dual_rate"])
def test_costs_are_those_that_are_counted_and_are_counted_once(kind: str, tmp_path: Path, counts: list[str]) -> None:
    experiment = tiny(kind)
    for _ in range(2):
        costs = PlannedCosts(tmp_path / "costs.json")
        for quantity in QUANTITIES:
            assert costs(quantity, experiment) == getattr(estimate, quantity)(experiment)
        assert costs.of_target("training", experiment) == estimate.training_gmacs(experiment)
        assert costs.of_target("cell", experiment) == estimate.cell_gmacs(experiment)
        costs.save()
    assert counts == list(QUANTITIES)


@pytest.mark.parametrize(
    ("section", "key", "value", "quantity"),
    [
        ("model", "width", 16, "gmacs_per_image"),
        ("model", "class_conditional", True, "training_gmacs"),
        ("train", "steps", 7, "training_gmacs"),
        ("train", "batch", 4, "training_gmacs"),
        ("sample", "steps", 5, "gmacs_per_image"),
        ("sample", "sampler", "heun", "cell_gmacs"),
        ("measure", "images", 16, "cell_gmacs"),
        ("measure", "latency", {"repeats": 2, "warmup": 0}, "cell_gmacs"),
    ],
)
def test_what_changes_a_cost_is_counted_anew(
    section: str, key: str, value: Any, quantity: Quantity, tmp_path: Path, counts: list[str]
) -> None:
    costs = PlannedCosts(tmp_path / "costs.json")
    costs(quantity, tiny())
    changed = tiny("single_rate", **{section: {key: value}})
    assert costs(quantity, changed) == getattr(estimate, quantity)(changed)
    assert counts == [quantity] * 2


def test_other_source_or_other_versions_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with planned_costs() as costs:
        before = costs.path
    planned._counted_by.cache_clear()
    monkeypatch.setattr(planned.metadata, "version", lambda package: "99")
    with planned_costs() as costs:
        assert costs.path.parent == before.parent and costs.path != before
    planned._counted_by.cache_clear()


@pytest.mark.parametrize("content", ["", "[]", "null", '{"x": "y"}'])
def test_a_damaged_file_is_counted_anew(content: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    costs = PlannedCosts(path)
    assert costs("cell_gmacs", tiny()) == estimate.cell_gmacs(tiny())
    costs.save()
    assert list(json.loads(path.read_text()).values()) == [estimate.cell_gmacs(tiny())]


def imported(*arguments: object, **environment: str) -> set[str]:
    """The heavy modules that a command imports."""
    script = (
        "import sys, json, contextlib, io\n"
        "from harness.cli.app import app\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    app(sys.argv[1:])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout)) & set(HEAVY)


def test_commands_import_nothing_heavy_that_they_do_not_need(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    asked = (path, "--results", tmp_path / "results")
    assert imported("--help") == set()
    assert imported("status", *asked) == set()
    planning = ("sweep", *asked, "--dry-run", "--cluster", "inline")
    cache = {"HARNESS_CACHE": str(tmp_path / "cache")}
    assert "torch" in imported(*planning, **cache)  # it counts
    assert imported(*planning, **cache) == set()
