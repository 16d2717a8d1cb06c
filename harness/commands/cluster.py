"""Sweeps on SLURM: submit, wait, retry, cancel, and what a submission would ask for."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from harness.cli import console, print_json
from harness.commands.status import find_targets, summary_line, table_of
from harness.commands.sweeping import chosen_cluster
from harness.plan import Plan, plan
from harness.slurm.settings import ClusterSettings, load_settings
from harness.slurm.status import LIVE, TO_RETRY, SweepStatus, read_status
from harness.slurm.submit import Submitted, cancel_jobs, propose, submit
from harness.store import Store, Target
from harness.sweep import Sweep, load_sweep
from harness.wording import count_of

WAIT_SECONDS = 5.0


def settings_of(sweep: Sweep, options: Sequence[str]) -> ClusterSettings:
    """The user's file, the sweep's `cluster:` section and ``--slurm`` merged."""
    return load_settings(sweep.config.cluster, str(sweep.path), options)


def submit_sweep(
    planned: Plan, store: Store, out: Console, options: Sequence[str], only: Collection[Target] | None = None
) -> Submitted:
    """Submit what is missing and say so."""
    submitted = submit(planned.sweep, store, settings_of(planned.sweep, options), only)
    out.print(describe_submission(submitted), highlight=False, markup=False)
    return submitted


def describe_submission(submitted: Submitted) -> str:
    """What was submitted, in words, and how to look after it."""
    parts = []
    if submitted.submission is not None:
        arrays = submitted.submission.arrays
        trainings = sum(target.kind == "training" for target in submitted.targets)
        numbers = ", ".join(array.job or "" for array in arrays)
        cells = len(submitted.targets) - trainings
        what = f"{count_of(trainings, 'training')} and {count_of(cells, 'cell')}"
        parts.append(f"submitted {what} as {count_of(len(arrays), 'job array')}: {numbers}")
    if submitted.live:
        parts.append(f"{len(submitted.live)} of its trainings and cells have a job already")
    return "; ".join(parts) or "nothing to submit"


def wait_for(sweep: Sweep, store: Store, out: Console) -> dict[str, str]:
    """Show the status until no job of the sweep is left; what has no result then, with the reason."""
    shown = ""
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while True:
            status = read_status(plan(sweep, store), store)
            if out.is_terminal:
                live.update(table_of(status, sweep, out.height - 4), refresh=True)
            elif (line := summary_line(status)) != shown:
                out.print(line, highlight=False, markup=False)
                shown = line
            if not status.is_live:
                return failures_of(status)
            time.sleep(WAIT_SECONDS)


def failures_of(status: SweepStatus) -> dict[str, str]:
    """Why each cell without a result has none, and each training that ended badly."""
    bad = status.in_states(TO_RETRY) + [row for row in status.in_states(["missing"]) if row.target.kind == "cell"]
    return {str(row.target): row.reason or row.state for row in bad}


def retry(
    file: Path,
    names: Sequence[str],
    overrides: Sequence[str],
    results: Path,
    cluster: str | None,
    options: Sequence[str],
    json_output: bool,
) -> None:
    """Run again what has failed, was cancelled, is blocked or lost; of that only `names` (ids), if given."""
    from harness.checks import check_sweep

    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    planned = plan(sweep, store)
    status = read_status(planned, store)
    chosen = set(find_targets(sweep, names)) if names else {row.target for row in status.in_states(TO_RETRY)}
    if all(status.rows[target].state in LIVE | {"done"} for target in chosen):
        out.print(f"nothing to retry: {summary_line(status)}", highlight=False, markup=False)
        if json_output:
            print_json({"retried": []})
        return
    check_sweep(planned, store)
    if chosen_cluster(cluster, options) == "slurm":
        retried = submit_sweep(planned, store, out, options, chosen).targets
    else:
        retried = _retry_here(planned, store, out, chosen)
    if json_output:
        print_json({"retried": [str(target) for target in retried]})


def _retry_here(planned: Plan, store: Store, out: Console, chosen: Collection[Target]) -> list[Target]:
    from harness.dispatch import run_inline

    trainings = {target.id for target in chosen if target.kind == "training"}
    left_out = {
        cell.id
        for cell in planned.missing_cells
        if Target("cell", cell.id) not in chosen and cell.training not in trainings
    }
    outcome = run_inline(replace(planned, done_cells=planned.done_cells | left_out), store, out)
    if not outcome.is_complete:
        sys.exit(1)
    return outcome.done


def cancel(file: Path, names: Sequence[str], overrides: Sequence[str], results: Path, json_output: bool) -> None:
    """End the sweep's jobs on SLURM; of those only the jobs of `names` (ids), if given."""
    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    chosen = find_targets(sweep, names) if names else None
    cancelled = cancel_jobs(sweep, store, chosen)
    if json_output:
        print_json({"cancelled": sorted(cancelled.jobs), "left": cancelled.left})
        return
    out.print(f"{count_of(len(cancelled.jobs), 'job')} cancelled", highlight=False)
    for sentence in cancelled.left:
        out.print(sentence, highlight=False, markup=False)


def proposal(planned: Plan, store: Store, options: Sequence[str]) -> dict[str, Any]:
    """The jobs that a submission would ask for, as plain values."""
    proposals, note = propose(planned.sweep, store, settings_of(planned.sweep, options))
    return {
        "arrays": [
            {
                "kind": made.array.kind,
                "jobs": len(made.array.elements),
                "sbatch": made.options,
                "gpu_hours_at_most": made.gpu_hours,
            }
            for made in proposals
        ],
        "gpu_hours_at_most": sum(made.gpu_hours for made in proposals),
        "note": note,
    }


def show_proposal(asked: Mapping[str, Any], out: Console) -> None:
    """The sbatch lines and the GPU-hours, for people."""
    if asked["note"]:
        out.print(asked["note"], style="yellow", highlight=False, markup=False)
    for place, array in enumerate(asked["arrays"]):
        line = f"ARRAY{place}: {count_of(array['jobs'], array['kind'] + ' job')}: sbatch {' '.join(array['sbatch'])}"
        out.print(line, highlight=False, markup=False)
    jobs = sum(array["jobs"] for array in asked["arrays"])
    calls, hours = len(asked["arrays"]), asked["gpu_hours_at_most"]
    what = f"{count_of(jobs, 'job')} in {count_of(calls, 'call')} of sbatch"
    out.print(f"{what}; at most {hours:,.1f} GPU-hours per run of all", highlight=False)
