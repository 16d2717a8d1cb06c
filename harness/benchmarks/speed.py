"""Is a saving in FLOPs a saving in time? `python -m harness.benchmarks.speed SWEEP…`

For each sweep file: the base arm's and the subject's sampling are timed one after another by the common protocol, with
freshly initialised weights, and the measured speed-up is held against the ratio of their FLOPs. The bar on a GPU at the
throughput batch: at least 0.85 of the ratio, and a loop (sampler, noise, Python) of under 3 % of the time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.cli.console import console, main_of, print_json
from harness.config.schema import Experiment
from harness.dispatch.sweep import load_experiment
from harness.engine.costs import measure_sampling
from harness.engine.estimate import gmacs_per_image
from harness.engine.sampling import fresh_generator

LEAST_EFFICIENCY = 0.85
MOST_LOOP_SHARE = 0.03
SHOWN = ("device", "dtype", "compiled", "cuda_graphs", "threads", "batch")
"""The conditions that a time holds for."""


def compare(base: Experiment, subject: Experiment, *, find_largest: bool = False) -> dict[str, Any]:
    """Times of both, and of the subject its speed-up, the ratio of FLOPs, and one over the other (`efficiency`)."""
    rows = [_timed(experiment, find_largest) for experiment in (base, subject)]
    ratio = rows[0]["gmacs_per_image"] / rows[1]["gmacs_per_image"]
    speed_up = rows[0]["seconds_per_image"] / rows[1]["seconds_per_image"]
    return {
        "base": rows[0],
        "subject": rows[1],
        "flops_ratio": ratio,
        "speed_up": speed_up,
        "efficiency": speed_up / ratio,
        "loop_share": rows[1]["share"]["loop"],
    }


def _timed(experiment: Experiment, find_largest: bool) -> dict[str, Any]:
    timing = measure_sampling(fresh_generator(experiment), experiment.measure.latency, find_largest=find_largest)
    return {"gmacs_per_image": gmacs_per_image(experiment), **timing}


def show(title: str, result: dict[str, Any]) -> None:
    """The comparison as a table and one line."""
    out = console()
    table = Table(title=title, title_justify="left")
    for column in ("", "GMACs per image", "ms per image", "quartiles", "of it in the loop", "images/s"):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("base", "subject"):
        row = result[name]
        low, high = (1e3 * q for q in row["seconds_per_image_quartiles"])
        table.add_row(
            name,
            f"{row['gmacs_per_image']:.4g}",
            f"{1e3 * row['seconds_per_image']:.4g}",
            f"{low:.4g} to {high:.4g}",
            f"{row['share']['loop']:.1%}",
            f"{row['images_per_second']:.4g}",
        )
    out.print(table)
    out.print(", ".join(f"{key.replace('_', ' ')}: {result['subject'][key]}" for key in SHOWN), highlight=False)
    out.print(
        f"speed-up {result['speed_up']:.2f} of {result['flops_ratio']:.2f} by FLOPs: efficiency "
        f"{result['efficiency']:.2f} (on a GPU at least {LEAST_EFFICIENCY}), loop {result['loop_share']:.1%} "
        f"(on a GPU under {MOST_LOOP_SHARE:.0%})",
        highlight=False,
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="SWEEP")
    parser.add_argument("--base", default="base", help="arm that the speed-up is relative to, at the same steps")
    parser.add_argument("--subject", default="dual-rate", help="arm whose speed-up is measured (its first cell)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="holds for both arms")
    parser.add_argument("--largest", action="store_true", help="on a GPU: at the largest batch that fits")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    results = {}
    for file in given.files:
        subject = load_experiment(file, given.set, given.subject)
        same = [f"sample.steps={subject.sample.steps}", f"sample.sampler={subject.sample.sampler}"]
        base = load_experiment(file, [*given.set, *same], given.base)
        results[str(file)] = compare(base, subject, find_largest=given.largest)
        if not given.json:
            show(f"{file}: {given.subject} against {given.base}", results[str(file)])
    if given.json:
        print_json(results)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
