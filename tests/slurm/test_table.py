"""The table of `harness status` on narrow terminals, and what it advises."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.hints import Asked
from harness.cli.status import COLUMNS, hints, table_of
from harness.dispatch.labels import labels_of
from harness.dispatch.status import Row, SweepStatus
from harness.store.store import Target
from tests.slurm.sweeping import Running

LONG = """
name: long
base: {model: {kind: single_rate, width: 8}}
arms:
  ancestral-and-others:
    grid: {sample.sampler: [ancestral, ddim], sample.steps: [8, 16]}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Running:
    return Running(tmp_path, text=LONG)


@pytest.fixture
def status(sweep: Running) -> SweepStatus:
    """A training at work and its cells, one of which has failed for a long reason."""
    (training,) = sweep.trainings
    rows = {
        training: Row(training, "running", "", (120, 300), 2, "1234567_12", "gpu-node-017", 4000.0, 9000.0),
        sweep.cells[0]: Row(sweep.cells[0], "failed", "ValueError: " + "a reason of many words " * 5, job="1234568_1"),
    }
    rows |= {cell: Row(cell, "waiting", "for its training", job="1234568_2") for cell in sweep.cells[1:]}
    return SweepStatus(rows)


def shown(status: SweepStatus, sweep: Running, width: int) -> list[str]:
    console = Console(width=width, soft_wrap=True, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table_of(status, sweep.sweep, 60, width))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_names_are_the_last_to_shrink(status: SweepStatus, sweep: Running, width: int) -> None:
    lines = shown(status, sweep, width)
    table = [line for line in lines if "│" in line or "┃" in line or "━" in line]
    assert all(len(line) <= width for line in table)
    names = " ".join(line.split("│")[1].strip() for line in table if line.count("│") >= 2)
    for target in status.rows:  # whole, though perhaps over two lines
        assert labels_of(sweep.sweep)[target].replace(" ", "") in names.replace(" ", "")
    head = next(line for line in table if "training or cell" in line)
    kept = [name for name in COLUMNS if name in head]
    assert kept[:3] == ["id", "training or cell", "state"]
    if width >= 120:
        assert all(any(labels_of(sweep.sweep)[target] in line for line in table) for target in status.rows)
    if width == 160:
        assert kept == list(COLUMNS)


def test_a_wider_terminal_shows_no_less(status: SweepStatus, sweep: Running) -> None:
    counts = []
    for width in range(50, 170, 5):
        head = next(line for line in shown(status, sweep, width) if "training or cell" in line)
        counts.append(len(head.split("┃")))
    assert counts == sorted(counts) and counts[0] < counts[-1] == len(COLUMNS)


def test_what_is_advised_is_what_can_be_done(status: SweepStatus, sweep: Running) -> None:
    asked = Asked(sweep.file, ["train.steps=7"], sweep.store.root)
    options = f"--set train.steps=7 --results {sweep.store.root}"
    first, second = hints(status, asked)
    assert first.endswith(f"harness logs {sweep.file} {sweep.cells[0].id[:10]} {options}")
    assert second.endswith(f"harness retry {sweep.file} {options}")
    missing = SweepStatus({target: Row(target, "missing") for target in status.rows})
    (only,) = hints(missing, asked)
    assert only.endswith(f"this does: harness sweep {sweep.file} {options}")
    missing.earlier = ["7_1", "7_2"]
    first, second = hints(missing, asked)
    assert first.startswith("2 jobs of an earlier version of this sweep in SLURM's queue: 7_1, 7_2")
    assert first.endswith(f"harness cancel {sweep.file} --earlier {options}")
    assert "(the jobs of the earlier version go on beside it)" in second
    missing.rows[sweep.trainings[0]] = Row(Target("training", sweep.trainings[0].id), "queued")
    assert "this submits the rest" in hints(missing, asked)[1]
