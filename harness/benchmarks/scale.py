"""How the harness scales: planning 10 000 cells, their status, their report, and 1 000 cells submitted to SLURM.

    python -m harness.benchmarks.scale [--cells 10000] [--submitted 1000] [--json]

Everything happens in a temporary folder. Jobs are submitted held and cancelled again; without a SLURM cluster that part
is left out, and said. Calls of sbatch are counted by a wrapper ahead of it on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from harness.cli import report
from harness.config.schema import as_plain
from harness.dispatch.plan import plan
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.slurm.submit import submit
from harness.dispatch.status import read_status
from harness.dispatch.sweep import Cell, Sweep, load_sweep
from harness.errors import DispatchError
from harness.files import write_json
from harness.store.records import CELL_SCHEMA, CellRecord
from harness.store.store import Store, Target
from harness.wording import count_of

T = TypeVar("T")
TRAININGS_PER_SWEEP = 20
REFERENCE = {"name": "digits 8×8 train", "data": "digits 8×8", "split": "train", "images": 1797, "id": "made-up"}
SHARE_DONE = 0.5
"""Of the cells whose status is read: the others were started and left a state file, the most expensive case."""


@dataclass(frozen=True)
class Measured:
    """One line of the benchmark."""

    what: str
    seconds: float
    goal_seconds: float | None = None
    note: str = ""

    def __str__(self) -> str:
        goal = f" (goal: under {self.goal_seconds:g} s)" if self.goal_seconds is not None else ""
        return f"{self.what}: {self.seconds:.2f} s{goal}{'; ' + self.note if self.note else ''}"


def timed(call: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    value = call()
    return value, time.perf_counter() - started


def write_sweep(path: Path, cells: int, trainings: int = TRAININGS_PER_SWEEP) -> None:
    """A sweep of `cells` cells that share `trainings` trainings."""
    per_training = -(-cells // trainings)
    path.write_text(
        "name: scale\n"
        "base: {model: {kind: single_rate, width: 8}}\n"
        f"seeds: {list(range(trainings))}\n"
        "arms:\n"
        "  base:\n"
        f"    grid: {{sample.steps: {list(range(1, per_training + 1))}}}\n",
        encoding="utf-8",
    )


def measure_planning(folder: Path, cells: int) -> tuple[Measured, Sweep]:
    """From the file to cells with ids, and what of them is done."""
    path = folder / "planning.yaml"
    write_sweep(path, cells)
    store = Store(folder / "planning")

    def load() -> Sweep:
        sweep = load_sweep(path)
        plan(sweep, store)
        return sweep

    sweep, seconds = timed(load)
    what = f"{count_of(len(sweep.cells), 'cell')} of {count_of(len(sweep.trainings), 'training')}"
    return Measured(f"planning {what}", seconds, 2.0), sweep


def measure_status(folder: Path, sweep: Sweep) -> Measured:
    """Status of a sweep of which some cells are done and each of the others has a state file."""
    store = Store(folder / "status")
    cells = list(sweep.cells)
    done = int(len(cells) * SHARE_DONE)
    (store.runs / "cells").mkdir(parents=True)
    for cell in cells[:done]:
        store.cell_path(cell).write_text("{}", encoding="utf-8")
    for cell in cells[done:]:
        path = store.state_path(Target("cell", cell))
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"state": "failed", "error": "an error", "attempts": 1, "progress": [1, 2]}
        path.write_text(json.dumps(state), encoding="utf-8")
    status, seconds = timed(lambda: read_status(plan(sweep, store), store))
    counts = ", ".join(f"{count} {state}" for state, count in status.count("cell").items())
    return Measured(f"status of {count_of(len(cells), 'cell')}", seconds, 2.0, counts)


def measure_report(folder: Path, sweep: Sweep) -> Iterator[Measured]:
    """The report of a sweep whose cells have made-up records, from these and again from its folder."""
    store = Store(folder / "report")
    for number, cell in enumerate(sweep.cells.values()):
        write_json(store.cell_path(cell.id), made_up_record(cell, number).plain)
    with report.without_garbage_collection():
        made, seconds = timed(lambda: report.make(sweep, store, {}, again=True))
    yield Measured(f"report of {count_of(len(sweep.cells), 'cell')} from records", seconds, 5.0)
    with report.without_garbage_collection():
        _, seconds = timed(lambda: report.remake(made.folder))
    yield Measured("the same from its folder", seconds, 5.0)


def made_up_record(cell: Cell, number: int) -> CellRecord:
    """A record in the form of a measured one, for timing only: its figures mean nothing."""
    steps, seed = cell.experiment.sample.steps, cell.experiment.seed
    distance = 10 / steps**0.5 * (1 + 0.01 * (number % 11))
    values = {"frechet": distance, "frechet_float64": distance, "kernel": distance / 100, "kernel_std": distance / 1000}
    return CellRecord.model_validate(
        {
            "schema": CELL_SCHEMA,
            "id": cell.id,
            "training": f"training-{seed}",
            "config": as_plain(cell.experiment),
            "data": {"name": "digits 8×8", "size": 8, "channels": 1},
            "quality": {
                "features": "digits",
                "features_label": "digits",
                "images": cell.experiment.measure.images,
                "reference": REFERENCE,
                "measures": {"frechet": {"label": "FD-digits"}, "kernel": {"label": "KD-digits"}},
                "per_seed": [{"seed": s, "values": values, "standard_errors": {"frechet": 0.1}} for s in (0, 1)],
            },
            "compute": {"gmacs_per_image": 0.01 * steps, "evaluations": {"network": steps}},
            "time": {
                "seconds_per_image": 0.001 * steps,
                "seconds_per_image_quartiles": [0.00099 * steps, 0.00101 * steps],
                "device": "made-up",
                "dtype": "float32",
                "threads": 2,
                "batch": 32,
                "repeats": 3,
            },
            "provenance": {"commit": "0" * 40, "versions": {"torch": "0"}, "finished": float(number)},
        }
    )


def measure_submission(folder: Path, cells: int, trainings: int) -> Iterator[Measured]:
    """Submit a sweep to SLURM with its jobs held, read its status, and cancel it."""
    path = folder / f"submit-{cells}-{trainings}.yaml"
    write_sweep(path, cells, trainings)
    sweep, store = load_sweep(path), Store(folder / path.stem)
    settings = load_settings({}, str(path), ["sbatch.hold=true"])
    what = f"{count_of(len(sweep.cells), 'cell')} of {count_of(trainings, 'training')}"
    with counted_sbatch(folder) as calls:
        submitted, seconds = timed(lambda: submit(sweep, store, settings))
    assert submitted.submission is not None
    arrays = submitted.submission.arrays
    try:
        largest, most = max(len(array.elements) for array in arrays), queue.max_array_size()
        submissions = f"{count_of(len(arrays), 'array')}, {count_of(calls(), 'call')} of sbatch"
        note = f"{submissions}, largest array {largest} of at most {most}"
        yield Measured(f"submitting {what}", seconds, 10.0, note)
        status, seconds = timed(lambda: read_status(plan(sweep, store), store))
        live = sum(count for kind in ("training", "cell") for count in status.count(kind).values())
        yield Measured(f"status of {what} in SLURM's queue", seconds, None, count_of(live, "row"))
    finally:
        queue.cancel([array.job for array in arrays if array.job is not None])


@contextmanager
def counted_sbatch(folder: Path) -> Iterator[Callable[[], int]]:
    """Count the calls of sbatch while the block runs."""
    real = shutil.which("sbatch")
    assert real is not None
    wrapper = folder / "bin" / "sbatch"
    tally = folder / "sbatch-calls"
    wrapper.parent.mkdir(exist_ok=True)
    tally.write_bytes(b"")
    wrapper.write_text(f'#!/bin/sh\necho >> "{tally}"\nexec "{real}" "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{wrapper.parent}{os.pathsep}{before}"
    try:
        yield lambda: len(tally.read_bytes())
    finally:
        os.environ["PATH"] = before


def run(cells: int, submitted: int) -> Iterator[Measured]:
    """All measurements, in turn."""
    with tempfile.TemporaryDirectory(prefix="harness-scale-") as name:
        folder = Path(name)
        planning, sweep = measure_planning(folder, cells)
        yield planning
        yield measure_status(folder, sweep)
        yield from measure_report(folder, sweep)
        queue.max_array_size()  # raises where there is no cluster
        for trainings in (TRAININGS_PER_SWEEP, submitted):
            yield from measure_submission(folder, submitted, trainings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="cells of the plan, the status and the report")
    parser.add_argument("--submitted", type=int, default=1_000, help="cells that are submitted")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    try:
        for measured in run(options.cells, options.submitted):
            print(json.dumps(asdict(measured)) if options.json else measured, flush=True)
    except DispatchError as error:
        print(f"submission is left out: {error}")


if __name__ == "__main__":
    main()
