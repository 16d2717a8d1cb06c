"""What targets are called where they run and in tables: no two of a sweep alike, and each key by a name that tells."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.status import table_of
from harness.dispatch.labels import labels_of
from harness.dispatch.plan import plan
from harness.dispatch.progress import SweepProgress
from harness.dispatch.status import read_status
from harness.dispatch.sweep import Sweep, load_sweep
from harness.engine.progress import MAIN
from harness.store.store import Store

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
TWO_STEPS = """
name: labels
seeds: [0, 1]
base:
  model: {kind: single_rate, width: 8, multipliers: [1], levels: [conv], blocks: [1]}
  train: {steps: 1, batch: 4}
arms:
  base: {grid: {train.steps: [4, 8], sample.steps: [4, 8]}}
  batches: {grid: {sample.batch: [4, 8], measure.latency.batch: [1, 2]}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "labels.yaml").write_text(TWO_STEPS)
    return load_sweep(tmp_path / "labels.yaml")


def test_a_cell_says_which_steps_and_which_seed(sweep: Sweep) -> None:
    labels = {labels_of(sweep)[cell.target] for cell in sweep.cells.values()}
    steps = {f"base train.steps={t} sample.steps={s} seed={seed}" for t in (4, 8) for s in (4, 8) for seed in (0, 1)}
    batches = {
        f"batches sample.batch={s} measure.latency.batch={b} seed={seed}"
        for s in (4, 8)
        for b in (1, 2)
        for seed in (0, 1)
    }
    assert labels == steps | batches


def test_a_training_says_which_steps(sweep: Sweep) -> None:
    of_base = {labels_of(sweep)[t.target] for t in sweep.trainings.values() if t.arms == ["base"]}
    assert of_base == {f"training for base train.steps={steps} seed={seed}" for steps in (4, 8) for seed in (0, 1)}


def test_one_seed_is_not_told_of_cells(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text(TWO_STEPS)
    one = load_sweep(tmp_path / "labels.yaml", ["seeds=[3]"])
    assert not any("seed" in labels_of(one)[cell.target] for cell in one.cells.values())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_two_targets_of_a_shipped_sweep_are_called_the_same(path: Path) -> None:
    labels = labels_of(load_sweep(path, without_data=True))
    assert len(set(labels.values())) == len(labels)


def shown(sweep: Sweep, width: int) -> list[str]:
    """What a terminal of that width shows of each target at work: the lines of its row, joined."""
    labels = labels_of(sweep)
    terminal = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    progress = SweepProgress(terminal, dict.fromkeys(labels, 1.0), labels)
    for target in labels:
        progress.reporter(target)(10, 100, MAIN)
    page = Console(file=StringIO(), width=width, color_system=None)
    page.print(progress.bars.get_renderable())
    assert isinstance(page.file, StringIO)
    rows: list[str] = []
    for line in page.file.getvalue().splitlines()[1:]:
        if "10/100" in line:
            rows.append("")
        rows[-1] += line.replace(" ", "")
    return rows


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_two_bars_look_alike(width: int) -> None:
    sweep = load_sweep(ROOT / "sweeps" / "digits" / "adapted.yaml")
    rows = shown(sweep, width)
    assert len(rows) == len(sweep.nodes) == len(set(rows))
    assert all("…" not in row.replace(",…", "") for row in rows)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_two_rows_of_the_status_are_called_the_same(width: int, sweep: Sweep, tmp_path: Path) -> None:
    status = read_status(plan(sweep, Store(tmp_path)), Store(tmp_path))
    page = Console(file=StringIO(), width=width, color_system=None)
    page.print(table_of(status, sweep, 100, width))
    assert isinstance(page.file, StringIO)
    rows: list[str] = []
    for line in page.file.getvalue().splitlines():
        if line.count("│") >= 2:
            id, name = (part.strip() for part in line.split("│")[:2])
            rows += [""] if id else []
            rows[-1] += name.replace(" ", "")
    assert len(rows) == len(sweep.nodes) == len(set(rows))
