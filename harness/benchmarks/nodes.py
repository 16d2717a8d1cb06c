"""What more nodes bring to a training: `python -m harness.benchmarks.nodes SWEEP --arm dual-rate --nodes 1 2`

Submits the arm's training to SLURM on each number of nodes, one after another and several times over, and prints its
images per second. Everything happens in a temporary folder here, which the nodes must see; cells are
held and cancelled.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from harness.cli.console import console, main_of, print_json
from harness.dispatch.plan import plan
from harness.dispatch.slurm.cancel import cancel_jobs
from harness.dispatch.slurm.settings import ClusterSettings, load_settings
from harness.dispatch.slurm.submit import submit
from harness.dispatch.status import TO_RETRY, read_status
from harness.dispatch.sweep import Sweep, load_experiment, load_sweep
from harness.errors import DispatchError
from harness.store.identity import identify
from harness.store.store import Store, Target

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """One training on `nodes` nodes."""

    nodes: int
    ranks: int
    images_per_second: float


def measure(
    file: Path, overrides: Sequence[str], arm: str, nodes: Sequence[int], repeats: int, options: Sequence[str]
) -> Iterator[Run]:
    """The runs; each repeat goes through all numbers of nodes, so that drift affects all of them alike."""
    sweep = load_sweep(file, overrides)
    training, _ = identify(load_experiment(file, overrides, arm))
    for _ in range(repeats):
        for count in nodes:
            asked = [*options, f"trainings.nodes={count}", "cells.sbatch.hold=true"]
            settings = load_settings(sweep.config.cluster, str(file), asked)
            with tempfile.TemporaryDirectory(prefix="harness-nodes-", dir=Path.cwd()) as folder:
                yield _run(sweep, Store(Path(folder)), training, count, settings)


def _run(sweep: Sweep, store: Store, training: str, nodes: int, settings: ClusterSettings) -> Run:
    target = Target("training", training)
    try:
        submit(sweep, store, settings, {target})
        while not store.is_trained(training):
            time.sleep(POLL_SECONDS)
            row = read_status(plan(sweep, store), store).rows[target]
            if row.state in TO_RETRY:
                raise DispatchError(f"{target} on {nodes} nodes: {row.state}: {row.reason}")
    finally:
        cancel_jobs(sweep, store)
    done = store.read_training(training)
    return Run(nodes, done.ranks, done.images_per_second or 0.0)


def show(title: str, runs: Sequence[Run]) -> None:
    """Median and range of the images per second by nodes, and the speed-up over the first number of nodes."""
    by_nodes: dict[int, list[Run]] = {}
    for run in runs:
        by_nodes.setdefault(run.nodes, []).append(run)
    table = Table(title=title, title_justify="left")
    for column in ("nodes", "ranks", "images/s", "range", "repeats", "speed-up"):
        table.add_column(column, justify="right")
    first = None
    for nodes, held in by_nodes.items():
        speeds = [run.images_per_second for run in held]
        middle = statistics.median(speeds)
        first = first or middle
        table.add_row(
            str(nodes),
            str(held[0].ranks),
            f"{middle:.4g}",
            f"{min(speeds):.4g} to {max(speeds):.4g}",
            str(len(speeds)),
            f"{middle / first:.2f}",
        )
    console().print(table)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="SWEEP")
    parser.add_argument("--arm", default="dual-rate", help="arm whose first training is run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help="as of `harness sweep`")
    parser.add_argument("--json", action="store_true", help="one JSON object per run")
    given = parser.parse_args(arguments)
    runs = []
    for run in measure(given.file, given.set, given.arm, given.nodes, given.repeats, given.slurm):
        runs.append(run)
        if given.json:
            print_json(run.__dict__)
    if not given.json:
        show(f"{given.file}: training of {given.arm} on SLURM nodes", runs)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
