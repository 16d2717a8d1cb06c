"""`harness schedule`: the best schedule of a trained network, beside others at the same compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from harness.cli.console import console, print_json, say
from harness.cli.experiment import bar, run_job, weights_of
from harness.cli.hints import Asked, of_arm
from harness.cli.report import WIDEST, width_of
from harness.config.schema import Experiment, as_plain
from harness.dispatch.checks import check_data, check_folder, check_schedules, check_store
from harness.dispatch.sweep import load_experiment
from harness.errors import ConfigError
from harness.files import atomic_path, write_json
from harness.store.identity import Identifier
from harness.store.lease import lease
from harness.store.store import Store, Target
from harness.store.weights import load_facts
from harness.wording import count_of

if TYPE_CHECKING:
    from harness.engine.schedules import Scheduler
    from models.scheduling.solvers import Found
    from models.scheduling.table import PairTable

CACHED_NOTE = (
    "a feature cache is not trained on pairs of times, and its states differ from those that were measured: that its "
    "errors add up to what sampling loses is an assumption"
)


@dataclass(frozen=True)
class Asking:
    """What the options say."""

    budget: float | None = None
    refreshes: int | None = None
    steps: int | None = None
    objective: str | None = None
    bias: float | None = None

    def overrides(self) -> list[str]:
        """As ``--set`` would say it."""
        if self.budget is not None and self.refreshes is not None:
            raise ConfigError("--budget", ["chooses the number of refreshes too; leave out --refreshes"])
        values: dict[str, Any] = {"sample.schedule": "optimal"}
        if self.budget is not None:
            values |= {"sample.budget": self.budget, "sample.refreshes": "null"}
        if self.budget is not None or self.refreshes is not None:
            values |= {"sample.refresh_interval": "null", "sample.refresh_steps": "null"}
        for key, value in (
            ("refreshes", self.refreshes),
            ("steps", self.steps),
            ("objective", self.objective),
            ("objective_bias", self.bias),
        ):
            if value is not None:
                values[f"sample.{key}"] = value
        return [f"{key}={value}" for key, value in values.items()]


def schedule(
    file: Path,
    overrides: Sequence[str],
    arm: str | None,
    results: Path,
    weights: Path | None,
    asking: Asking,
    out_path: Path,
    overwrite: bool,
    json_output: bool,
) -> None:
    if out_path.suffix.lower() != ".png":
        raise ConfigError("--out", [f"{out_path}: the map is written as .png"])
    from harness.data.export import taken

    check_folder(out_path.parent, "--out")
    for path in (out_path, out_path.with_suffix(".json")):
        if problem := taken(path, overwrite):
            raise ConfigError("--out", [f"{path}: {problem}"])
    store, out = Store(results), console(json_output)
    experiment = load_experiment(file, [*overrides, *asking.overrides()], arm)
    check_data([experiment])
    check_schedules([experiment])
    check_store(store)
    if weights is not None:
        load_facts(weights, Identifier().training(experiment))  # another network's are refused, also beside its table
    else:
        weights_of(store, experiment, Asked(file, overrides, results).command("train", *of_arm(arm)))
    table = _measured(store, experiment, weights, out)
    answer = _found(store, experiment, table)
    _draw(answer, out_path)
    json_path = out_path.with_suffix(".json")
    told = {key: value for key, value in answer.items() if not key.startswith("_")}
    write_json(json_path, told)
    if json_output:
        print_json({**told, "map": str(out_path), "schedule": str(json_path)})
    else:
        show(answer, out)
        say(f"map: {out_path}; the schedule as keys of a configuration: {json_path}", out)


def _measured(store: Store, experiment: Experiment, weights: Path | None, out: Console) -> str:
    """The id of the experiment's table, once it is measured."""
    from harness.engine.pair_tables import measure_pair_table

    id = Identifier().cell_table(experiment)
    assert id is not None
    target = Target("table", id)
    if store.is_measured(id):
        return id
    store.save_experiment(target, experiment)
    if weights is None:
        run_job(store, target, out)
        return id
    with bar(out, str(target), "table") as progress, lease(store.lease_path(target)):
        measure_pair_table(store, id, experiment, progress, weights=weights)
    return id


def _found(store: Store, experiment: Experiment, id: str) -> dict[str, Any]:
    """What the table says: the best schedule and its rivals of the same cost. Keys with _ are for drawing."""
    from harness.data import network_info
    from harness.engine.pair_tables import load_pair_table, split_of
    from harness.engine.schedules import Scheduler, bias_of, explicit, objective_of

    table = load_pair_table(store.table_path(id), id)
    size = network_info(experiment.data).size
    scheduler, objective = Scheduler(experiment, table, size), objective_of(experiment)
    schedules = scheduler.rivals(objective)
    best, uniform = schedules["optimal"], schedules["uniform"]
    gain = scheduler.bound(best, objective, over=uniform)
    mean, largest = table.interpolation_error()
    chosen = explicit(experiment, scheduler, best) if experiment.sample.budget is not None else None
    rows = {}
    for name, found in schedules.items():
        bound = scheduler.bound(found, objective)
        rows[name] = {
            "bound": bound.value,
            "standard_error": bound.standard_error,
            "gmacs_per_image": scheduler.gmacs(found),
            "steps": len(found.times),
            "refreshes": len(found.refreshes),
            "refresh_steps": list(found.refresh_steps),
            "times": scheduler.grid.times[list(found.times)].tolist(),
        }
    keys = {"steps": len(best.times), "refresh_steps": list(best.refresh_steps)}
    if chosen is not None:
        keys["times"] = as_plain(chosen)["sample"]["times"]
    return {
        "sample": keys,
        "objective": objective,
        "bias": bias_of(experiment) if objective == "sigmoid" else None,
        "table": id,
        "images": table.images,
        "split": split_of(store.table_path(id), id),
        "gain": {
            "value": gain.value,
            "standard_error": gain.standard_error,
            "share": gain.value / rows["uniform"]["bound"],
            "on_other_images": _cross_gain(experiment, table, size, objective),
        },
        "interpolation_error": {"mean": mean, "largest": largest},
        "schedules": rows,
        "assumes_additivity": experiment.model.kind == "single_rate",
        "_table": table,
        "_scheduler": scheduler,
        "_found": schedules,
    }


def _cross_gain(experiment: Experiment, table: PairTable, size: int, objective: str) -> float:
    """The gain on each half of the images of the schedule chosen by the other half, the mean of the two."""
    from harness.engine.schedules import Scheduler

    halves = [Scheduler(experiment, table.part(start), size) for start in (0, 1)]
    gains = []
    for own, other in (halves, halves[::-1]):
        chosen = own.rivals(objective)
        gains.append(other.bound(chosen["optimal"], objective, over=chosen["uniform"]).value)
    return sum(gains) / 2


def _draw(answer: dict[str, Any], path: Path) -> None:
    from harness.report.schedule_map import Drawn, schedule_map
    from harness.report.style import png
    from models.scheduling.measure import level_times

    scheduler: Scheduler = answer["_scheduler"]
    found: dict[str, Found] = answer["_found"]
    drawn = {name: Drawn(*scheduler.drawn(found[name])) for name in ("uniform", "optimal")}
    title = f"{answer['images']} images ({answer['split']}), {_objective(answer)}"
    table: PairTable = answer["_table"]
    figure = schedule_map(level_times(len(table.log_snr)).tolist(), table.loss, drawn, title)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure))


def _objective(answer: dict[str, Any]) -> str:
    return "ELBO" if answer["bias"] is None else f"sigmoid weight, b = {answer['bias']:g}"


LEAST_LISTED = 16
"""Fewest letters in a line of the steps that refresh; with less room they stand below the table."""
GAP = 2
"""Letters between columns."""


def show(answer: dict[str, Any], out: Console) -> None:
    """The table in the width of the terminal, and what goes with it."""
    rows, uniform = answer["schedules"], answer["schedules"]["uniform"]["bound"]
    columns = {
        "schedule": list(rows),
        "steps": [str(row["steps"]) for row in rows.values()],
        "GMACs": [f"{row['gmacs_per_image']:.4g}" for row in rows.values()],
        "bound": [f"{row['bound']:.4g} ± {row['standard_error']:.2g}" for row in rows.values()],
        "over\nuniform": [
            "–" if name == "uniform" else f"{row['bound'] / uniform - 1:+.1%}" for name, row in rows.items()
        ],
    }
    refreshes = [" ".join(map(str, row["refresh_steps"])) for row in rows.values()]
    alike = {name: columns.pop(name)[0] for name in ("steps", "GMACs") if len(set(columns[name])) == 1}
    said = [f"{alike['steps']} steps"] if "steps" in alike else []
    said += [f"{alike['GMACs']} GMACs per image"] if "GMACs" in alike else []
    with_cost = f"; {' and '.join(said)} in each" if said else ""
    say(f"schedules by their bound ({_objective(answer)}), nats per dimension{with_cost}", out)
    width = width_of(out) or WIDEST
    taken = sum(max(map(len, [*name.split("\n"), *texts])) + GAP for name, texts in columns.items())
    listed = width - taken >= min(LEAST_LISTED, max(map(len, refreshes)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "schedule" else "right", no_wrap=True)
    if listed:
        table.add_column("refreshes\nat steps", overflow="fold")
        columns["refreshes at steps"] = refreshes
    for line in zip(*columns.values(), strict=True):
        table.add_row(*line)
    Console(file=out.file, emoji=False, width=width).print(table)
    if not listed:
        say("refreshes at steps", out)
        for name, steps in zip(rows, refreshes, strict=True):
            say(f"  {name}: {steps}", out)
    gain, error = answer["gain"], answer["interpolation_error"]
    say(
        f"predicted gain over uniform: {gain['value']:.3g} ± {gain['standard_error']:.2g} nats per dimension "
        f"({gain['share']:.1%}); on images that did not choose it {gain['on_other_images']:.3g}",
        out,
    )
    held = "held-out" if answer["split"] == "test" else "training"
    say(
        f"{count_of(answer['images'], f'{held} image')}; interpolation errs by {error['mean']:.1%} on average and "
        f"{error['largest']:.1%} at most between twice as wide levels, by less between these",
        out,
    )
    if answer["split"] != "test":
        say("the data have no other split: the network was trained on the images that it is measured on", out)
    if answer["assumes_additivity"]:
        say(CACHED_NOTE, out)
    say("a better bound need not be a better distance: sample both, and compare", out)
