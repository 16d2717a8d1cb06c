"""`harness sweep`: plan, run what is missing, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.table import Table

from harness.cli import console, print_json
from harness.config import nearest
from harness.errors import ConfigError
from harness.plan import Plan, plan, without_damaged
from harness.store import Store, set_aside
from harness.sweep import Sweep, load_sweep

if TYPE_CHECKING:
    from harness.slurm.submit import Submitted

SHOWN_GPU_HOURS = 0.1
"""A sweep that takes less is none for a GPU's plan."""


def run(
    file: Path,
    overrides: Sequence[str],
    results: Path,
    cluster: str | None,
    workers: int,
    slurm: Sequence[str],
    wait: bool,
    dry_run: bool,
    json_output: bool,
) -> None:
    sweep = load_sweep(file, overrides)
    store = Store(results)
    planned, damaged = _checked(sweep, store)
    out = console(json_output)
    chosen = chosen_cluster(cluster, slurm)
    _set_aside(damaged, store, out, dry_run)
    if dry_run:
        show_plan(planned, store, out, chosen, slurm, json_output)
        return
    failures: dict[str, str] = {}
    if planned.missing_cells:
        from harness.checks import check_sweep

        check_sweep(planned, store)
        out.print(_announcement(planned), highlight=False)
        if chosen == "slurm":
            submitted = _submit(planned, store, out, slurm)
            if not wait:
                _print_submitted(submitted, file, out, json_output)
                return
            failures = _wait(planned, store, out)
        else:
            failures = _run_here(planned, store, out, chosen, workers)
    else:
        out.print(f"all {len(sweep.cells)} cells are done; nothing runs", highlight=False)
    from harness.commands import reporting

    made = reporting.make(sweep, store, failures)
    if json_output:
        print_json({"cells": len(sweep.cells), "failures": failures, **made.summary})
    else:
        reporting.show(made, out)
    if failures:
        sys.exit(1)


def _checked(sweep: Sweep, store: Store) -> tuple[Plan, dict[str, str]]:
    """(The plan, damaged records with the reason); nothing is read again that the last report was made of."""
    from harness.commands import reporting

    planned = plan(sweep, store)
    return (planned, {}) if reporting.is_current(sweep, store) else without_damaged(planned, store)


def _set_aside(damaged: Mapping[str, str], store: Store, out: Console, dry_run: bool) -> None:
    """Put damaged records where nothing reads them, and say so; a dry run only says so."""
    for cell, reason in damaged.items():
        place = "would be set aside" if dry_run else f"set aside as {set_aside(store.cell_path(cell)).name}"
        out.print(f"{reason}: {place}, and the cell measured again")


def chosen_cluster(named: str | None, slurm: Sequence[str]) -> str:
    """slurm, local or inline. Raises :class:`ConfigError` for another name, or settings of SLURM without it."""
    from harness import dispatch

    chosen = named or dispatch.default_cluster()
    choices = list(get_args(dispatch.ClusterKind))
    if chosen not in choices:
        raise ConfigError("--cluster", [f"{chosen!r} is not one of {', '.join(choices)}{nearest(chosen, choices)}"])
    if slurm and chosen != "slurm":
        raise ConfigError("--slurm", [f"{slurm[0]}: has no meaning with --cluster {chosen}"])
    return chosen


def _announcement(planned: Plan) -> str:
    return (
        f"{planned.sweep.config.title or planned.sweep.config.name}: {len(planned.missing_trainings)} trainings and "
        f"{len(planned.missing_cells)} cells to run, {len(planned.done_cells)} cells done already"
    )


def _run_here(planned: Plan, store: Store, out: Console, chosen: str, workers: int) -> dict[str, str]:
    from harness import dispatch

    if chosen == "local":
        outcome = dispatch.run_local(planned, store, out, workers)
    else:
        outcome = dispatch.run_inline(planned, store, out)
    return {str(target): reason for group in (outcome.failed, outcome.blocked) for target, reason in group.items()}


def _submit(planned: Plan, store: Store, out: Console, slurm: Sequence[str]) -> Submitted:
    from harness.commands import cluster

    return cluster.submit_sweep(planned, store, out, slurm)


def _wait(planned: Plan, store: Store, out: Console) -> dict[str, str]:
    from harness.commands import cluster

    return cluster.wait_for(planned.sweep, store, out)


def _print_submitted(submitted: Submitted, file: Path, out: Console, json_output: bool) -> None:
    if json_output:
        arrays = submitted.submission.arrays if submitted.submission else []
        print_json(
            {
                "submitted": [str(target) for target in submitted.targets],
                "jobs": [array.job for array in arrays],
                "live": [str(target) for target in submitted.live],
            }
        )
        return
    out.print(
        f"look at it with: harness status {file} --watch; once all is done, harness sweep {file} makes the report",
        highlight=False,
        markup=False,
    )


def show_plan(planned: Plan, store: Store, out: Console, chosen: str, slurm: Sequence[str], json_output: bool) -> None:
    """What would run: trainings, cells, what is done already, GMACs per cell; on SLURM also the jobs."""
    from harness.commands import cluster

    rows = _plan_rows(planned)
    if chosen == "slurm":
        rows["slurm"] = cluster.proposal(planned, store, slurm)
    if json_output:
        print_json(rows)
        return
    _show_rows(planned, rows, out)
    if chosen == "slurm":
        cluster.show_proposal(rows["slurm"], out)


def _show_rows(planned: Plan, rows: Mapping[str, Any], out: Console) -> None:
    trainings = Table(title="trainings", title_justify="left")
    for column in ("id", "for", "steps", "GMACs", "state"):
        trainings.add_column(column, justify="right" if column in ("steps", "GMACs") else "left")
    for row in rows["trainings"]:
        state = "done" if row["done"] else "to run" if row["runs"] else "not needed"
        trainings.add_row(row["id"], row["label"], str(row["steps"]), f"{row['gmacs']:,.0f}", state)
    cells = Table(title="cells", title_justify="left")
    for column in ("id", "cell", "GMACs per image", "GMACs", "state"):
        cells.add_column(column, justify="right" if "GMACs" in column else "left")
    for row in rows["cells"]:
        state = "done" if row["done"] else "to run"
        cells.add_row(row["id"], row["label"], f"{row['gmacs_per_image']:.4g}", f"{row['gmacs']:,.0f}", state)
    out.print(trainings)
    out.print(cells)
    to_run = {kind: [row for row in rows[kind] if row["runs"]] for kind in ("trainings", "cells")}
    gmacs = sum(row["gmacs"] for kind in to_run.values() for row in kind)
    out.print(
        f"to run: {len(to_run['trainings'])} trainings, {len(to_run['cells'])} cells, {gmacs:,.0f} GMACs; "
        f"done already: {len(planned.done_cells)} cells",
        highlight=False,
    )
    _show_planned_hours(rows["planned"], out)


def _planned_hours(rows: Mapping[str, Any]) -> dict[str, Any]:
    """GPU-hours of what is to run, by kind; what they assume."""
    from harness.estimate import PLANNED_DEVICE, PLANNED_UTILISATION

    hours = {
        kind: sum(row["planned_gpu_hours"] for row in rows[kind] if row["runs"]) for kind in ("trainings", "cells")
    }
    return {"device": PLANNED_DEVICE, "utilisation": PLANNED_UTILISATION, "gpu_hours": hours}


def _show_planned_hours(planned: Mapping[str, Any], out: Console) -> None:
    hours = planned["gpu_hours"]
    if sum(hours.values()) < SHOWN_GPU_HOURS:
        return
    out.print(
        f"planned, not measured: {sum(hours.values()):,.0f} GPU-hours ({hours['trainings']:,.0f} of trainings, "
        f"{hours['cells']:,.0f} of cells) on an {planned['device']} at {planned['utilisation']:.0%} of its peak",
        highlight=False,
    )


def _plan_rows(planned: Plan) -> dict[str, Any]:
    from harness.dispatch import describe
    from harness.estimate import cell_gmacs, gmacs_per_image, planned_gpu_hours, training_gmacs
    from harness.store import Target

    sweep = planned.sweep
    runs = {training.id for training in planned.missing_trainings}  # not those whose cells are done already
    rows: dict[str, Any] = {
        "sweep": sweep.config.name,
        "trainings": [
            {
                "id": t.id,
                "label": describe(Target("training", t.id), sweep),
                "steps": t.experiment.train.steps,
                "gmacs": training_gmacs(t.experiment),
                "planned_gpu_hours": planned_gpu_hours(training_gmacs(t.experiment), t.experiment.train.precision),
                "done": t.id in planned.done_trainings,
                "runs": t.id in runs,
            }
            for t in sweep.trainings.values()
        ],
        "cells": [
            {
                "id": c.id,
                "training": c.training,
                "label": describe(Target("cell", c.id), sweep),
                "gmacs_per_image": gmacs_per_image(c.experiment),
                "gmacs": cell_gmacs(c.experiment),
                "planned_gpu_hours": planned_gpu_hours(cell_gmacs(c.experiment), c.experiment.sample.precision),
                "done": c.id in planned.done_cells,
                "runs": c.id not in planned.done_cells,
            }
            for c in sweep.cells.values()
        ],
    }
    return {**rows, "planned": _planned_hours(rows)}
