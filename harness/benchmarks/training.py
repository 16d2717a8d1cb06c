"""What a training step costs: `python -m harness.benchmarks.training SWEEP --arm dual-rate`

Times a few steps for each number of denoiser times per encoder pass (a dual-rate training draws that many times t from
one run of its encoder), and the loader alone beside them. Nothing is trained or saved.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.cli.console import console, main_of, print_json
from harness.config.schema import Experiment
from harness.data import loader_throughput, open_data
from harness.dispatch.sweep import load_experiment
from harness.engine.profiling import conditions_of, memory_in_words, profile_training
from harness.wording import count_of

LOADER_SECONDS = 3.0
KEY = "denoiser_times"


def denoiser_times_cost(experiment: Experiment, times: list[int], steps: int) -> list[dict[str, Any]]:
    """For each number of denoiser times: the step's profile, and its cost per denoiser time trained."""
    rows = []
    for count in times:
        train = experiment.train.model_copy(update={KEY: count})
        summary = profile_training(experiment.model_copy(update={"train": train}), None, timed=steps)
        trained = count * experiment.train.batch
        rows.append(
            {
                "denoiser_times": count,
                **summary,
                "gmacs_per_time": summary["gmacs_per_step"] / trained,
                "seconds_per_time": summary["seconds_per_step"] / trained,
            }
        )
    return rows


def loader_alone(experiment: Experiment, seconds: float = LOADER_SECONDS) -> dict[str, Any]:
    """Images per second of the loader on its own."""
    dataset = open_data(experiment.data)
    dataset.ready(experiment.train.workers)
    train = experiment.train
    return loader_throughput(dataset, train.batch, workers=train.workers, seconds=seconds).as_dict()


def show(title: str, rows: list[dict[str, Any]], loader: dict[str, Any]) -> None:
    """The table, its conditions, and the loader beside it."""
    out = console()
    table = Table(title=title, title_justify="left")
    for column in (
        "denoiser times",
        "GMACs per step",
        "seconds per step",
        "images/s",
        "GMACs per time",
        "relative cost per time, FLOPs",
        "relative cost per time, measured",
        "peak memory",
    ):
        table.add_column(column, justify="right")
    first = rows[0]
    for row in rows:
        table.add_row(
            str(row["denoiser_times"] or "–"),
            f"{row['gmacs_per_step']:.4g}",
            f"{row['seconds_per_step']:.4g}",
            f"{row['images_per_second']:.4g}",
            f"{row['gmacs_per_time']:.4g}",
            f"{row['gmacs_per_time'] / first['gmacs_per_time']:.3f}",
            f"{row['seconds_per_time'] / first['seconds_per_time']:.3f}",
            memory_in_words(row),
        )
    out.print(table)
    out.print(conditions_of(first), highlight=False)
    out.print(
        f"the loader alone: {loader['images_per_second']:,.0f} images/s with {count_of(loader['workers'], 'worker')}"
        f"{', data in memory' if loader['in_memory'] else ''}; training: {first['images_per_second']:,.1f} images/s",
        highlight=False,
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="SWEEP")
    parser.add_argument("--arm", default="dual-rate")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4], help="numbers of denoiser times")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    experiment = load_experiment(given.file, given.set, given.arm)
    if KEY not in type(experiment.train).model_fields:
        parser.error(f"--arm: a {experiment.model.kind} model has no train.{KEY}")
    rows = denoiser_times_cost(experiment, given.times, given.steps)
    loader = loader_alone(experiment)
    if given.json:
        print_json({"training": rows, "loader": loader})
    else:
        show(f"{given.file}: a training step of {given.arm}", rows, loader)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
