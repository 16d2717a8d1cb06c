"""A tiny sweep on the test cluster, its undisturbed figures, and what tests do with both."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from harness.cli.app import app
from harness.dispatch.plan import plan, save_experiments
from harness.dispatch.slurm import calls as calls_module
from harness.dispatch.slurm import queue
from harness.dispatch.slurm.job import SlurmJob
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.slurm.submissions import current_user, load_submissions
from harness.dispatch.slurm.submit import Submitted, submit
from harness.dispatch.status import Row, SweepStatus, read_status
from harness.dispatch.sweep import Sweep, load_sweep
from harness.engine import jobs
from harness.store.store import Store, Target
from tests.slurm.cluster import PATIENCE_SECONDS, script, wait_until

STEPS = 60
TINY = f"""
name: tiny
base:
  model: {{kind: single_rate, width: 8, blocks: [1, 1], head_width: 8}}
  train: {{steps: {STEPS}, batch: 16, checkpoint_every: 2, log_every: 5}}
  sample: {{steps: 2, batch: 2}}
  measure: {{images: 32, latency: {{repeats: 1, warmup: 0, batch: 8}}}}
arms:
  base:
    grid: {{sample.sampler: [ancestral, ddim]}}
"""
BROKEN = "  broken:\n    set: {train.learning_rate: 1.0e+30, train.gradient_clip: null}\n"
"""An arm whose loss is soon not finite."""


@dataclass
class Running:
    """A sweep in a folder of its own. While `slow` exists its jobs take half a second, or what is written there,
    for each step and batch."""

    folder: Path
    text: str = TINY
    options: list[str] = field(default_factory=list)
    hold_cells: bool = False
    """Whether the cells' jobs are submitted but held, where a test is about the training."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.text)
        self.dawdle(0.5)

    @property
    def file(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def slow(self) -> Path:
        return self.folder / "slow"

    @property
    def store(self) -> Store:
        return Store(self.folder / "results")

    @property
    def sweep(self) -> Sweep:
        return load_sweep(self.file)

    @property
    def trainings(self) -> list[Target]:
        return [Target("training", id) for id in self.sweep.trainings]

    @property
    def tables(self) -> list[Target]:
        return [Target("table", id) for id in self.sweep.tables]

    @property
    def cells(self) -> list[Target]:
        return [Target("cell", id) for id in self.sweep.cells]

    def submit(self, *options: str, only: set[Target] | None = None) -> Submitted:
        held = ["cells.sbatch.hold=true"] if self.hold_cells else []
        settings = load_settings({"time": "10m", "cells_per_job": 2}, str(self.file), [*held, *self.options, *options])
        return submit(self.sweep, self.store, settings, only)

    def submit_training(self, *options: str) -> str:
        """Submit all; the number of the training's job."""
        self.submit(*options)
        return self.row(self.trainings[0]).job or ""

    def dawdle(self, seconds: float) -> None:
        """Jobs take that long for each step and batch."""
        self.slow.write_text(str(seconds))

    def hurry(self) -> None:
        self.slow.unlink(missing_ok=True)

    def status(self) -> SweepStatus:
        return read_status(plan(self.sweep, self.store), self.store)

    def row(self, target: Target) -> Row:
        return self.status().rows[target]

    def at_work_on(self, target: Target, least: int = 1) -> None:
        """Wait until `target` has made progress, so that a fault hits it at work."""

        def is_at_work() -> bool:
            noted = self.store.state(target)
            return noted.get("state") == "running" and (noted.get("progress") or [0])[0] >= least

        wait_until(is_at_work, f"{target} at work")

    def is_over(self) -> bool:
        """Nothing of the sweep runs or waits any more."""
        return not self.status().is_live

    def wait_complete(self, seconds: float = PATIENCE_SECONDS) -> None:
        """The sweep completes by itself, without anybody's help."""
        self.hurry()
        wait_until(self.is_over, "the sweep to end", seconds)
        self._check_complete()

    def finish_here(self) -> None:
        """The training's job ends well by itself; `harness sweep --cluster inline` then measures the held cells."""
        self.hurry()
        (training,) = self.trainings
        wait_until(lambda: self.store.is_done(training) or self.is_over(), "the training to end")
        assert self.store.is_done(training), self.row(training)
        queue.cancel(self.live_jobs())
        run_here(self, set(self.cells))
        self._check_complete()

    def _check_complete(self) -> None:
        status = self.status()
        assert status.is_complete, [row for row in status.rows.values() if row.state != "done"]

    def live_jobs(self) -> list[str]:
        """Jobs of the sweep that SLURM still has, by its own word."""
        names = {array.name for submission in load_submissions(self.store) for array in submission.arrays}
        jobs = queue.read_live([current_user()]).values()
        return [job.id for job in jobs if job.is_live and job.name in names]

    def attempts(self, target: Target) -> int:
        """How often the target has been begun."""
        return int(self.store.state(target).get("attempts", 0))

    def pid_of(self, target: Target) -> int:
        return int(self.store.state(target)["pid"])

    def kill(self, target: Target) -> None:
        os.kill(self.pid_of(target), signal.SIGKILL)

    def errors(self, target: Target) -> str:
        """What the target's jobs have printed."""
        assigned = self.status().assigned[target]
        return "".join(path.read_text() for path in sorted(assigned.submission.folder.glob(f"{assigned.job}_*.err")))


@contextmanager
def controller_lost_after_one_array() -> Iterator[None]:
    """SLURM takes the first array of a submission; then its controller is gone until the block ends."""
    original = calls_module.submit_array

    def submit_then_stop(jobs: Sequence[SlurmJob], folder: Path, parameters: dict[str, Any]) -> str:
        number = original(jobs, folder, parameters)
        script("controller", "stop")
        return number

    calls_module.submit_array = submit_then_stop
    try:
        yield
    finally:
        calls_module.submit_array = original
        script("controller", "start")


def run_here(sweep: Running, targets: set[Target]) -> None:
    """Make `targets`, and the trainings that they need, in this process: `--cluster inline`."""
    planned = plan(sweep.sweep, sweep.store)
    needed = [target for target in planned.targets() if target.kind == "training" or target in targets]
    save_experiments(planned, sweep.store, needed)
    for target in needed:
        jobs.run(sweep.store, target)


def figures(store: Store, sweep: Sweep) -> dict[str, Any]:
    """What may not depend on any fault, by cell. Each cell of the sweep has exactly one record."""
    found = read_figures(store)
    assert set(found) == set(sweep.cells)
    return found


def read_figures(store: Store) -> dict[str, Any]:
    """Quality and compute of all cells that have a record."""
    records = {path.stem: json.loads(path.read_text()) for path in (store.runs / "cells").glob("*.json")}
    return {id: {key: record[key] for key in ("quality", "compute")} for id, record in records.items()}


def arguments(command: str, sweep: Running, *rest: str) -> list[str]:
    """Of the command line, for `sweep`."""
    return [command, str(sweep.file), "--results", str(sweep.store.root), *rest]


def harness(command: str, sweep: Running, *rest: str) -> str:
    """What the command line prints."""
    done = CliRunner().invoke(app, arguments(command, sweep, *rest), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
