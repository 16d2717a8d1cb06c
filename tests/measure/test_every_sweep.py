"""Every architecture that a sweep of the project trains or samples: the count of fvcore is the count of torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import Experiment
from harness.dispatch.sweep import load_sweep
from harness.engine.sampling import ImageGenerator, fresh_generator
from harness.errors import DataError
from harness.measure.flops import count_macs, flop_counter_macs, network_calls


def needs_no_files(sweep: Path) -> bool:
    """Whether the data of `sweep` come with the project. Others' counts are tested on made images (tests/sweeps)."""
    try:
        return all(cell.experiment.data.name == "digits" for cell in load_sweep(sweep).cells.values())
    except DataError:
        return False


SWEEPS = [path for path in sorted((Path(__file__).parents[2] / "sweeps").glob("**/*.yaml")) if needs_no_files(path)]


def architectures(sweep: Path) -> Iterator[tuple[Any, Experiment]]:
    """One experiment for each kind of network in `sweep`."""
    experiments = [cell.experiment for cell in load_sweep(sweep).cells.values()]
    seen = {(e.model, e.diffusion.preconditioning, getattr(e.sample, "cache_from_level", None)): e for e in experiments}
    yield from seen.items()


@pytest.mark.parametrize("sweep", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_both_counts_agree_on_every_architecture_of_a_sweep(sweep: Path) -> None:
    for architecture, experiment in architectures(sweep):
        if architecture in checked:
            continue
        generator: ImageGenerator = fresh_generator(experiment)
        calls = network_calls(generator.model, generator.image_shape, generator.classes or 0)
        assert set(calls) == set(generator.model.networks)
        for name, (function, inputs) in calls.items():
            assert count_macs(function, inputs).macs == flop_counter_macs(function, inputs), (architecture, name)
        checked.add(architecture)


checked: set[Any] = set()
"""Architectures that an earlier sweep has had counted: sweeps share most of theirs."""


def test_there_are_sweeps() -> None:
    assert SWEEPS
