"""`harness adapt`: from a trained network to a dual-rate one, and the table before and after."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness.cli.console import console
from harness.cli.hints import Asked
from harness.cli.sweep import run_loaded
from harness.dispatch.adapting import Adaptation, adaptation
from harness.dispatch.checks import check_folder, check_store, check_sweep
from harness.dispatch.plan import plan
from harness.dispatch.sweep import Sweep, load_sweep
from harness.dispatch.trained import find_trained
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
    sweep, adopted = _loaded(made, file), StoreWith(results, trained.training, trained.weights)
    if (planned := plan(sweep, adopted)).targets() and not dry_run:
        check_sweep(planned, adopted)  # before anything is written
    if not dry_run:
        check_store(store)
        check_folder(file.parent, "--write" if asking.write else "")
    if asking.write is not None or not dry_run:
        made.write(file)
    _say(made, file, out, dry_run and asking.write is None)
    if not trained.is_vouched_for:
        out.print(
            f"{asking.weights}: nothing in it vouches for where it comes from; it fits the network of {asking.config}, "
            f"and is taken for that of its training, {trained.training}"
        )
    if not dry_run and adopt(store, trained.training, trained.weights, trained.experiment):
        place = store.weights_path(trained.training)
        out.print(f"its weights are copied to {place}: training {trained.training} is done there")
    told = {
        "sweep_file": str(file),
        "base_training": trained.training,
        "base_is_vouched_for": trained.is_vouched_for,
        "added": {"steps": made.steps, "batch": made.batch, "share_of_training": made.share},
    }
    asked = Asked(file, (), results, cluster, slurm)
    run_loaded(sweep, adopted if dry_run else store, asked, workers, wait, dry_run, json_output, told)


def _loaded(made: Adaptation, file: Path) -> Sweep:
    """The sweep as it is loaded from `file`, which need not be written yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        made.write(path)
        return replace(load_sweep(path), path=file)


def _say(made: Adaptation, file: Path, out: Console, unwritten: bool) -> None:
    out.print(made.sentence)
    out.print(f"would write {file}" if unwritten else f"the sweep: {file}")
