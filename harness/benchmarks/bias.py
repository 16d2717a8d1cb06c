"""What real images score: the distance that remains at N images, a baseline for reading a report's distances.

    python -m harness.benchmarks.bias [FILE [--arm ARM]] [--set KEY=VALUE] [--images 200 500] [--repeats 100] [--json]

Two numbers, for the reference and the features of an experiment (the digits' without a FILE). *Resampled*: N images
drawn from the reference, with replacement, against all of it, as a generator scores that has memorised it. *Held out*:
N images of one half of the reference against the other half: none is compared with itself, but the reference is half as
large. A generator that draws from where the reference came from scores between the two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from numpy.typing import NDArray
from rich.table import Table

from harness.cli.console import console, main_of, print_json
from harness.config.dotted import nest
from harness.config.schema import Experiment, parse_experiment
from harness.data import open_data
from harness.dispatch.sweep import load_experiment, parse_overrides
from harness.errors import ConfigError
from harness.measure.features import load_extractor
from harness.metrics.frechet_distance import Bias, held_out_bias, small_sample_bias
from harness.wording import count_of

IMAGES = (200, 400, 500, 1000, 2000)
REPEATS = 100


def reference_features(experiment: Experiment) -> tuple[str, NDArray]:
    """(name of the reference with its number of images, its features (N, width))."""
    data = open_data(experiment.data, experiment.measure.reference)
    extractor = load_extractor(experiment.measure.features, experiment.measure.weights)
    features = extractor.extract(data.all_uint8(), experiment.measure.batch)[extractor.kind.layer_name]
    name = f"{data.info.name} {experiment.measure.reference} ({count_of(len(features), 'image')})"
    return f"{extractor.label('frechet')} to {name}", features.numpy()


def biases(features: NDArray, sizes: Sequence[int], repeats: int) -> dict[str, list[Bias]]:
    """The distance of real images at each number of images, by both ways; held out as far as half of them reach."""
    within = [size for size in sizes if size <= len(features) // 2]
    return {
        "resampled": small_sample_bias(features, sizes, repeats),
        "held out": held_out_bias(features, within, repeats) if within else [],
    }


def show(title: str, found: dict[str, list[Bias]], repeats: int) -> None:
    """Both as a table."""
    table = Table(title=f"{title}, means over {count_of(repeats, 'repeat')}", title_justify="left")
    for column in ("images", *found):
        table.add_column(column, justify="right")
    for bias in found["resampled"]:
        held = [next((b for b in of_kind if b.images == bias.images), None) for of_kind in found.values()]
        told = ["–" if b is None else f"{b.mean:.3g} ± {b.deviation:.2g}" for b in held]
        table.add_row(str(bias.images), *told)
    console().print(table)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "file", type=Path, nargs="?", help="an experiment, or a sweep with --arm; the digits if not given"
    )
    parser.add_argument("--arm", help="the arm to take from a sweep file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, nargs="+", default=list(IMAGES), metavar="N")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if min(given.images) < 2:
        raise ConfigError("--images", [f"{min(given.images)} has no covariance; at least 2 are needed"])
    if given.repeats < 1:
        raise ConfigError("--repeats", [f"{given.repeats} is not at least 1"])
    experiment = (
        load_experiment(given.file, given.set, given.arm)
        if given.file
        else parse_experiment(nest(parse_overrides(given.set)), "--set")
    )
    title, features = reference_features(experiment)
    found = biases(features, given.images, given.repeats)
    if given.json:
        print_json(
            {"reference": title, "repeats": given.repeats} | {k: [asdict(b) for b in v] for k, v in found.items()}
        )
    else:
        show(title, found, given.repeats)


if __name__ == "__main__":
    main_of(main, sys.argv[1:])
