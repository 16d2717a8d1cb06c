"""`harness sweep`: plan, run what is missing, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from harness.cli.console import console, print_json
from harness.cli.hints import Asked
from harness.cli.place import WORDS, Chosen, choose
from harness.config.distilling import student_problem
from harness.dispatch.plan import Plan, plan, without_damaged
from harness.dispatch.sweep import Encoding, Sweep, load_sweep
from harness.errors import ConfigError
from harness.files import set_aside
from harness.shipped import name_of
from harness.store.identity import UNKNOWN_ID
from harness.store.kinds import KINDS, counted, told_kinds
from harness.store.store import Store
from harness.wording import count_of

if TYPE_CHECKING:
    from harness.dispatch.slurm.submit import Submitted

SHOWN_GPU_HOURS = 0.1
"""Below this many planned GPU-hours none are shown: the sweep is not one for GPUs."""


def run(
    file: Path,
    overrides: Sequence[str],
    results: Path,
    cluster: str | None,
    workers: int | None,
    slurm: Sequence[str],
    wait: bool,
    dry_run: bool,
    json_output: bool,
) -> None:
    sweep = load_sweep(file, overrides, without_data=dry_run)
    if (name := name_of(file)) is not None:
        console(json_output).print(f"{name}: {file}, which comes with harness; results go to {results.absolute()}")
    asked = Asked(file, overrides, results, cluster, slurm)
    run_loaded(sweep, Store(results), asked, workers, wait, dry_run, json_output)


def run_loaded(
    sweep: Sweep,
    store: Store,
    asked: Asked,
    workers: int | None,
    wait: bool,
    dry_run: bool,
    json_output: bool,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Run a sweep that is loaded; `told` goes into the JSON document beside what became of it."""
    planned, damaged = _checked(sweep, store)
    out = console(json_output)
    chosen = choose(asked.cluster, asked.slurm, sweep)
    if workers is not None and chosen.kind != "local":
        raise ConfigError("--workers", [f"has no meaning where a sweep {WORDS[chosen.kind]}; --cluster local takes it"])
    _set_aside(damaged, store, out, dry_run)
    for note in student_notes(sweep):
        out.print(note)
    if dry_run:
        if not sweep.missing:
            from harness.dispatch.checks import check_starts

            check_starts(planned, store)
        show_plan(planned, store, out, chosen, asked.slurm, json_output, told)
        return
    failures: dict[str, str] = {}
    sweep = planned.sweep
    if planned.targets():
        from harness.dispatch.checks import check_sweep

        check_sweep(planned, store)
        out.print(_announcement(planned))
        out.print(chosen.sentence)
        if chosen.kind == "slurm":
            if not wait:
                _print_submitted(_submit(planned, store, out, asked), asked, out, json_output, told)
                return
            failures = _submit_and_wait(planned, store, out, asked)
        else:
            failures = _run_here(planned, store, out, chosen.kind, workers or 1)
    else:
        done = f"all {len(sweep.cells)} cells are" if len(sweep.cells) > 1 else "the one cell is"
        out.print(f"{done} done; nothing runs")
    from harness.cli import report as reporting

    made = reporting.make(sweep, store, failures)
    if json_output:
        print_json({"cells": len(sweep.cells), "failures": failures, **made.summary, **(told or {})})
    else:
        reporting.show(made, out)
    if failures:
        sys.exit(1)


def _checked(sweep: Sweep, store: Store) -> tuple[Plan, dict[str, str]]:
    """(The plan, damaged records with the reason); nothing is read again that the last report was made of."""
    from harness.cli import report as reporting

    planned = plan(sweep, store)
    return (planned, {}) if reporting.is_current(sweep, store) else without_damaged(planned, store)


def _set_aside(damaged: Mapping[str, str], store: Store, out: Console, dry_run: bool) -> None:
    """Set damaged records aside and say so; a dry run only says so."""
    for cell, reason in damaged.items():
        place = "would be set aside" if dry_run else f"set aside as {set_aside(store.cell_path(cell)).name}"
        out.print(f"{reason}: {place}, and the cell measured again")


def student_notes(sweep: Sweep) -> list[str]:
    """A line for each arm whose students are sampled otherwise than they were taught, which is allowed."""
    found: dict[str, list[str]] = {}
    for cell in sweep.cells.values():
        if (problem := student_problem(cell.experiment)) is not None:
            for arm, _ in cell.rows:
                found.setdefault(arm, []).append(problem)
    return [f"arm {arm!r}: {problems[0]}{_and_more(len(problems) - 1)}" for arm, problems in found.items()]


def _and_more(cells: int) -> str:
    return f" (and {count_of(cells, 'more cell')} so)" if cells else ""


def _in_figures(gmacs: float) -> str:
    """As a whole number from a hundred on, with three significant figures below."""
    return f"{gmacs:,.0f}" if gmacs >= 100 else f"{gmacs:.3g}"


def _announcement(planned: Plan) -> str:
    config, to_run = planned.sweep.config, counted(target.kind for target in planned.targets())
    return f"{config.title or config.name}: {to_run} to run, {count_of(len(planned.done_cells), 'cell')} done already"


def _run_here(planned: Plan, store: Store, out: Console, chosen: str, workers: int) -> dict[str, str]:
    from harness.dispatch import local as dispatch

    if chosen == "local":
        outcome = dispatch.run_local(planned, store, out, workers)
    else:
        outcome = dispatch.run_inline(planned, store, out)
    return {str(target): reason for group in (outcome.failed, outcome.blocked) for target, reason in group.items()}


def _submit(planned: Plan, store: Store, out: Console, asked: Asked) -> Submitted:
    from harness.cli import cluster

    return cluster.submit_sweep(planned, store, out, asked)


def _submit_and_wait(planned: Plan, store: Store, out: Console, asked: Asked) -> dict[str, str]:
    from harness.cli import cluster
    from harness.dispatch.slurm.submit import NoRoom

    try:
        _submit(planned, store, out, asked)
    except NoRoom as error:
        out.print(str(error))
    return cluster.wait_for(planned.sweep, store, out, asked.slurm)


def _print_submitted(
    submitted: Submitted, asked: Asked, out: Console, json_output: bool, told: Mapping[str, Any] | None = None
) -> None:
    if json_output:
        arrays = submitted.submission.arrays if submitted.submission else []
        print_json(
            {
                "submitted": [str(target) for target in submitted.targets],
                "jobs": [array.job for array in arrays],
                "live": [str(target) for target in submitted.live],
                "left": [str(target) for target in submitted.left],
                "limit": submitted.limit,
                "earlier": submitted.earlier,
                **(told or {}),
            }
        )
        return
    again = asked.command("sweep", submits=True)
    out.print(f"look at it with: {asked.command('status', '--watch')}")
    out.print(f"once all is done, this makes the report: {again}")


def show_plan(
    planned: Plan,
    store: Store,
    out: Console,
    chosen: Chosen,
    slurm: Sequence[str],
    json_output: bool,
    told: Mapping[str, Any] | None = None,
) -> None:
    """What would run, and where: targets, what is done already, GMACs per cell; on SLURM also the jobs."""
    rows = {**_plan_rows(planned), "where": {"cluster": chosen.kind, "why": chosen.why}}
    if chosen.kind == "slurm":
        from harness.cli import cluster

        rows["slurm"] = cluster.proposal(planned, store, slurm)
    if json_output:
        print_json({**rows, **(told or {})})
        return
    _show_rows(planned, rows, out)
    out.print(chosen.sentence)
    if chosen.kind == "slurm":
        cluster.show_proposal(rows["slurm"], out)


def _rows_table(title: str, what: str, *numbers: str) -> Table:
    """An empty table of targets: id, `what` they are, `numbers`, state."""
    table = Table(title=title, title_justify="left")
    table.add_column("id", no_wrap=True, overflow="fold")
    table.add_column(what, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", overflow="fold")
    table.add_column("state", overflow="fold")
    return table


def _show_rows(planned: Plan, rows: Mapping[str, Any], out: Console) -> None:
    trainings = _rows_table("trainings", "for", "steps", "GMACs")
    for row in rows["trainings"]:
        id_, state = _id_and_state(row)
        trainings.add_row(id_, row["label"], str(row["steps"]), f"{row['gmacs']:,.0f}", state)
    encodings = _rows_table("encodings", "latents", "images", "GMACs")
    for row in rows["encodings"]:
        id_, state = _id_and_state(row)
        encodings.add_row(id_, row["label"], f"{row['images'] or '?'}", f"{row['gmacs']:,.0f}", state)
    tables = _rows_table("tables", "table", "GMACs")
    for row in rows["tables"]:
        id_, state = _id_and_state(row)
        tables.add_row(id_, row["label"], f"{row['gmacs']:,.0f}", state)
    cells = _rows_table("cells", "cell", "GMACs per image", "GMACs")
    for row in rows["cells"]:
        id_, state = _id_and_state(row)
        cells.add_row(id_, row["label"], f"{row['gmacs_per_image']:.4g}", f"{row['gmacs']:,.0f}", state)
    if rows["encodings"]:
        out.print(encodings)
    out.print(trainings)
    if rows["tables"]:
        out.print(tables)
    out.print(cells)
    if planned.sweep.missing:
        out.print("\n".join(planned.sweep.missing), style="yellow")
        out.print("without that, ids cannot be told and nothing can be marked as done: this is all there may be to run")
    to_run = {kind: [row for row in rows[f"{kind}s"] if row["runs"]] for kind in KINDS}
    gmacs = sum(row["gmacs"] for of_kind in to_run.values() for row in of_kind)
    told = told_kinds(kind for kind, of_kind in to_run.items() if of_kind)
    counts = ", ".join(count_of(len(to_run[kind]), kind) for kind in told)
    out.print(
        f"to run: {counts}, {_in_figures(gmacs)} GMACs; done already: {count_of(len(planned.done_cells), 'cell')}",
    )
    _show_planned_hours(rows["planned"], out)


def _id_and_state(row: Mapping[str, Any]) -> tuple[str, str]:
    """In words: the id of a target and whether it is done, neither known where its data are not there."""
    if row["id"].startswith(UNKNOWN_ID):
        return "not known", "not known"
    return row["id"], "done" if row["done"] else "to run"


def _planned_hours(rows: Mapping[str, Any]) -> dict[str, Any]:
    """GPU-hours of what is to run, by kind; what they assume."""
    from harness.engine.planned import PLANNED_DEVICE, PLANNED_UTILISATION

    kinds = [f"{kind}s" for kind in KINDS]
    hours = {kind: sum(row["planned_gpu_hours"] for row in rows[kind] if row["runs"]) for kind in kinds}
    return {"device": PLANNED_DEVICE, "utilisation": PLANNED_UTILISATION, "gpu_hours": hours}


def _show_planned_hours(planned: Mapping[str, Any], out: Console) -> None:
    hours = planned["gpu_hours"]
    if sum(hours.values()) < SHOWN_GPU_HOURS:
        return
    told = told_kinds(kind for kind in KINDS if hours[f"{kind}s"])
    parts = ", ".join(f"{hours[f'{kind}s']:,.0f} of {kind}s" for kind in told)
    out.print(
        f"planned, not measured: {sum(hours.values()):,.0f} GPU-hours ({parts}) on an {planned['device']} "
        f"at {planned['utilisation']:.0%} of its peak",
    )


def _images_of(encoding: Encoding) -> int:
    """How many it encodes; 0 where they are not there."""
    from harness.data import counted_images  # here, as it takes torch

    return counted_images(encoding.experiment.data).images


def _plan_rows(planned: Plan) -> dict[str, Any]:
    from harness.dispatch.labels import labels_of
    from harness.engine.planned import planned_costs, planned_gpu_hours

    with planned_costs() as costs:
        gmacs = {
            target: costs(planned.sweep.quantity(target), planned.sweep.costed(target))
            for target in planned.sweep.nodes
        }
        per_image = {cell.id: costs("gmacs_per_image", cell.experiment) for cell in planned.sweep.cells.values()}
    sweep = planned.sweep
    labels = labels_of(sweep)
    runs = frozenset(planned.targets())  # not trainings whose cells are done already
    rows: dict[str, Any] = {
        "sweep": sweep.config.name,
        "missing": list(sweep.missing),
        "encodings": [
            {
                "id": e.id,
                "label": labels[e.target],
                "images": _images_of(e),
                "gmacs": gmacs[e.target],
                "planned_gpu_hours": planned_gpu_hours(gmacs[e.target], "float32"),
                "done": e.target in planned.done,
                "runs": e.target in runs,
            }
            for e in sweep.encodings.values()
        ],
        "trainings": [
            {
                "id": t.id,
                "label": labels[t.target],
                "steps": t.experiment.train.steps,
                "gmacs": gmacs[t.target],
                "planned_gpu_hours": planned_gpu_hours(gmacs[t.target], t.experiment.train.precision),
                "done": t.id in planned.done_trainings,
                "runs": t.target in runs,
            }
            for t in sweep.trainings.values()
        ],
        "tables": [
            {
                "id": t.id,
                "table": t.name,
                "label": labels[t.target],
                "gmacs": gmacs[t.target],
                "planned_gpu_hours": planned_gpu_hours(gmacs[t.target], "float32"),
                "done": t.target in planned.done,
                "runs": t.target in runs,
            }
            for t in sweep.tables.values()
        ],
        "cells": [
            {
                "id": c.id,
                "training": c.training,
                "label": labels[c.target],
                "gmacs_per_image": per_image[c.id],
                "gmacs": gmacs[c.target],
                "planned_gpu_hours": planned_gpu_hours(gmacs[c.target], c.experiment.sample.precision),
                "done": c.id in planned.done_cells,
                "runs": c.target in runs,
            }
            for c in sweep.cells.values()
        ],
    }
    return {**rows, "planned": _planned_hours(rows)}
