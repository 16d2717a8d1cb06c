"""`harness adapt`: from a trained network to a dual-rate one, and the table before and after."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from harness.cli.console import console
from harness.cli.hints import Asked
from harness.cli.sweep import run_loaded
from harness.dispatch.adapting import BASE, Adaptation, adaptation
from harness.dispatch.checks import check_folder, check_store
from harness.dispatch.sweep import Sweep, load_sweep
from harness.dispatch.trained import find_trained
from harness.errors import StoreError
from harness.store.adopted import StoreWith, adopt
from harness.store.store import Store

FILE = "sweep.yaml"


@dataclass(frozen=True)
class Asking:
    """What a person gave to the command, beside where it runs."""

    weights: str
    data: str | None
    budget: str | None
    overrides: Sequence[str]
    config: Path | None
    arm: str | None
    write: Path | None


def run(
    asking: Asking,
    results: Path,
    cluster: str | None,
    workers: int | None,
    slurm: Sequence[str],
    wait: bool,
    dry_run: bool,
    json_output: bool,
) -> None:
    """Derive the sweep, write it down, and run it as `harness sweep` does."""
    store, out = Store(results), console(json_output)
    trained = find_trained(asking.weights, store, asking.data, asking.config, asking.arm)
    made = adaptation(trained, asking.budget, list(asking.overrides))
    file = asking.write or store.report_folder(made.name) / FILE
    asked = Asked(file, (), results, cluster, slurm)
    told = {
        "sweep_file": str(file),
        "base_training": trained.training,
        "added": {"steps": made.steps, "batch": made.batch, "share_of_training": made.share},
    }
    if dry_run:
        sweep = _planned(made, asking.write)
        planned_store: Store = StoreWith(results, trained.training, trained.weights)
    else:
        check_store(store)
        check_folder(file.parent, "--write" if asking.write else "")
        made.write(file)
        sweep, planned_store = load_sweep(file), store
    _check_base(sweep, made)
    _say(made, file, out, dry_run and asking.write is None)
    if not dry_run and adopt(store, trained.training, trained.weights, trained.experiment):
        place = store.weights_path(trained.training)
        out.print(f"its weights are copied to {place}: training {trained.training} is done there")
    run_loaded(sweep, planned_store, asked, workers, wait, dry_run, json_output, told)


def _planned(made: Adaptation, write: Path | None) -> Sweep:
    """The sweep without anything left behind, but for the file that a person asks for."""
    if write is not None:
        made.write(write)
        return load_sweep(write)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        made.write(path)
        return load_sweep(path)


def _check_base(sweep: Sweep, made: Adaptation) -> None:
    """That the sweep's base is the trained network, so that nothing trains it again."""
    (base,) = (training.id for training in sweep.trainings.values() if BASE in training.arms)
    if base != made.trained.training:
        raise StoreError(
            f"{made.trained.weights}: the sweep's {BASE} would be training {base}, not {made.trained.training}, which "
            "wrote the weights; --set must not change the data that it was trained on"
        )


def _say(made: Adaptation, file: Path, out: Console, unwritten: bool) -> None:
    out.print(made.sentence)
    out.print(f"would write {file}" if unwritten else f"the sweep: {file}")
