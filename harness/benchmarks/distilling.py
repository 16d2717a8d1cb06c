"""What an iteration of a distillation costs beside one of ordinary training: `python -m harness.benchmarks.distilling
sweeps/digits/mmd.yaml --arm mmd`

Times a few steps of the arm's network trained in the ordinary way, distilled as the arm says, by the other variant of
moment matching, and with activations recomputed; compute, time and peak memory of each. Nothing is trained or saved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.cli.console import console, main_of, print_json
from harness.config.schema import DistillConfig, Experiment
from harness.dispatch.sweep import load_experiment
from harness.engine.profiling import conditions_of, memory_in_words, profile_training

OTHER_VARIANT = {None: "instant", "alternating": "instant", "instant": "alternating"}


def iterations(experiment: Experiment) -> Iterator[tuple[str, Experiment]]:
    """What is timed, with its name; `experiment` is a distillation."""
    plain = experiment.train.model_copy(update={"start": None, "freeze": None})
    yield "ordinary training", experiment.model_copy(update={"train": plain, "distill": DistillConfig()})
    distill = experiment.distill
    yield _name(distill), experiment
    other = OTHER_VARIANT.get(distill.variant)
    if distill.method == "moment_matching" and other is not None:
        changed = distill.model_copy(update={"variant": other, "auxiliary_learning_rate": None})
        yield _name(changed), experiment.model_copy(update={"distill": changed})
    if "checkpoint_activations" in type(experiment.train).model_fields:
        recomputing = experiment.train.model_copy(update={"checkpoint_activations": True})
        yield f"{_name(distill)}, activations recomputed", experiment.model_copy(update={"train": recomputing})


def _name(distill: DistillConfig) -> str:
    variant = f", {distill.variant or 'alternating'}" if distill.method == "moment_matching" else ""
    return f"{distill.method}{variant}"


def measured(experiment: Experiment, steps: int) -> list[dict[str, Any]]:
    """The profile of each of :func:`iterations`."""
    return [{"what": name, **profile_training(one, None, timed=steps)} for name, one in iterations(experiment)]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """The table, and its conditions."""
    out, first = console(), rows[0]
    table = Table("iteration", title=title, title_justify="left")
    for column in ("GMACs", "seconds", "GMACs ×", "time ×", "peak memory"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['gmacs_per_step']:.4g}",
            f"{row['seconds_per_step']:.4g}",
            f"{row['gmacs_per_step'] / first['gmacs_per_step']:.2f}",
            f"{row['seconds_per_step'] / first['seconds_per_step']:.2f}",
            memory_in_words(row),
        )
    out.print(table)
    out.print(conditions_of(first), highlight=False)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="SWEEP")
    parser.add_argument("--arm", default=None)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each; even, for iterations take turns")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    experiment = load_experiment(given.file, given.set, given.arm)
    if experiment.distill.method is None:
        parser.error("--arm: nothing is distilled there; choose one with distill.method")
    rows = measured(experiment, given.steps)
    if given.json:
        print_json({"iterations": rows})
    else:
        show(f"{given.file}: an iteration of {given.arm or 'the distillation'}", rows)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
