"""`harness flops` and `harness latency`: what a configuration costs, without training it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.cli.console import console, print_json
from harness.config.schema import Experiment
from harness.dispatch.sweep import load_experiment

if TYPE_CHECKING:
    from harness.data import DataInfo


def flops(file: Path, overrides: Sequence[str], arm: str | None, json_output: bool) -> None:
    from harness.engine.costs import sampling_cost
    from harness.engine.sampling import fresh_generator

    experiment = load_experiment(file, overrides, arm)
    generator = fresh_generator(experiment)
    from harness.engine.estimate import expected_runs, image_info, network_costs_of

    costs = network_costs_of(experiment)
    total = sampling_cost(generator, expected_runs(experiment))
    info = image_info(experiment)
    told = told_by(experiment, info)
    if json_output:
        details = {
            name: {"macs": cost.macs, "by_module": cost.by_module, "by_operator": cost.by_operator}
            for name, cost in costs.items()
        }
        data = {"size": info.size, "channels": info.channels, "classes": info.classes, "from": told}
        print_json({**total, "networks": details, "data": data})
        return
    out = console()
    if told != "data":
        out.print(f"{experiment.data.path} is not there: counted as the {told} says")
    parameters = total["parameters"]
    for name, cost in costs.items():
        table = Table(title=f"{name}: {cost.macs:,} multiply-adds per evaluation", title_justify="left")
        table.add_column("module or operator")
        table.add_column("MACs", justify="right")
        table.add_column("share", justify="right")
        for part, macs in [*sorted(cost.by_module.items()), *sorted(cost.by_operator.items())]:
            if part and part.count(".") <= 2:
                table.add_row(part, f"{macs:,}", f"{100 * macs / max(cost.macs, 1):.1f} %")
        out.print(table)
    summary = Table(show_header=False)
    for name, count in parameters.items():
        summary.add_row(f"parameters of the {name}", f"{count:,}")
    for name, count in total["evaluations"].items():
        summary.add_row(f"evaluations of the {name} per image", str(count))
    summary.add_row("GMACs per image", f"{total['gmacs_per_image']:.6g}")
    if "decoder_gmacs_per_image" in total:
        summary.add_row("of these the decoder's", f"{total['decoder_gmacs_per_image']:.6g}")
    summary.add_row("GFLOPs per image (2 × GMACs)", f"{total['gflops_per_image']:.6g}")
    summary.add_row("GMACs per training step", f"{total['training_gmacs_per_step']:.6g}")
    out.print(summary)


def told_by(experiment: Experiment, info: DataInfo) -> str:
    """Where size, channels and classes come from, in words: the data, or the configuration if there are none."""
    if info.images or experiment.data.name != "images":
        return "data"
    if experiment.model.class_conditional and experiment.data.classes is None:
        return "configuration (without data.classes: parameters are those of one class, multiply-adds of any number)"
    return "configuration"


def latency(file: Path, overrides: Sequence[str], arm: str | None, json_output: bool) -> None:
    from harness.engine.costs import measure_sampling
    from harness.engine.sampling import fresh_generator

    experiment = load_experiment(file, overrides, arm)
    timing = measure_sampling(fresh_generator(experiment), experiment.measure.latency)
    if json_output:
        print_json(timing)
        return
    table = Table(show_header=False, title="time of sampling", title_justify="left")
    for key, value in timing.items():
        table.add_row(key.replace("_", " "), _told(value))
    console().print(table)


def _told(value: Any) -> str:
    """A figure of a record, for people."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.5g}"
        case dict():
            return ", ".join(f"{key.replace('_', ' ')} {_told(one)}" for key, one in value.items())
        case list() | tuple():
            return ", ".join(map(_told, value)) or "none"
        case None:
            return "–"
    return str(value)
