"""Sweeps on SLURM: submit, wait, retry, cancel, and preview a submission."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from harness.cli.console import console, print_json
from harness.cli.hints import Asked
from harness.cli.place import choose
from harness.cli.status import find_targets, submitted_targets, summary_line, table_of
from harness.dispatch.plan import Plan, plan
from harness.dispatch.slurm.advice import expected_times, time_advice
from harness.dispatch.slurm.cancel import cancel_jobs, cancel_jobs_of_file
from harness.dispatch.slurm.live import earlier_sentence
from harness.dispatch.slurm.memory import more_memory
from harness.dispatch.slurm.outside import outside_dependencies
from harness.dispatch.slurm.settings import ClusterSettings, JobSettings, load_settings
from harness.dispatch.slurm.submissions import Submission
from harness.dispatch.slurm.submit import NoRoom, StillSubmitted, Submitted, propose, submit
from harness.dispatch.status import LIVE, TO_RETRY, SweepStatus, read_status
from harness.dispatch.sweep import Sweep, load_sweep
from harness.errors import ConfigError, DispatchError
from harness.store.kinds import counted, in_words
from harness.store.store import Store, Target
from harness.wording import count_of

SUBMIT_SECONDS = 30.0
"""Shortest time between two attempts to submit what a limit on jobs has kept out of the queue."""
WAIT_SECONDS = 5.0


def settings_of(sweep: Sweep, options: Sequence[str]) -> ClusterSettings:
    """The user's file, the sweep's `cluster:` section and ``--slurm`` merged."""
    return load_settings(sweep.config.cluster, str(sweep.path), options)


def submit_sweep(
    planned: Plan, store: Store, out: Console, asked: Asked, only: Collection[Target] | None = None
) -> Submitted:
    """Submit what is missing and print what was submitted."""
    try:
        submitted = submit(planned.sweep, store, settings_of(planned.sweep, asked.slurm), only, asked.slurm)
    except StillSubmitted as error:
        rest = f"to submit the rest: {asked.command('sweep', submits=True)}"
        raise StillSubmitted(f"{error}\n{rest}\nto end them: {asked.command('cancel')}") from None
    for line in describe_submission(submitted, asked):
        out.print(line)
    return submitted


def describe_submission(submitted: Submitted, asked: Asked) -> list[str]:
    """What was submitted, what was not, and what to do about it, in words."""
    parts = []
    if submitted.submission is not None:
        arrays = submitted.submission.arrays
        numbers = ", ".join(array.job or "" for array in arrays)
        parts.append(f"submitted {_counted(submitted.targets)} as {count_of(len(arrays), 'job array')}: {numbers}")
    if submitted.live:
        parts.append(f"{len(submitted.live)} of its {in_words(t.kind for t in submitted.live)} have a job already")
    lines = [*submitted.notes, "; ".join(parts) or "nothing to submit"]
    if submitted.left:
        lines.append(
            f"left for later: {_counted(submitted.left)}. SLURM takes no more jobs of yours at once "
            f"({submitted.limit}); once some have ended, the same again submits more (with --wait by itself): "
            f"{asked.command('sweep', submits=True)}"
        )
    if submitted.earlier:
        lines.append(
            f"{earlier_sentence(submitted.earlier)}; they go on beside these. "
            f"To end them: {asked.command('cancel', '--earlier')}"
        )
    return lines


def _counted(targets: Collection[Target]) -> str:
    return counted(target.kind for target in targets)


def wait_for(sweep: Sweep, store: Store, out: Console, options: Sequence[str] = ()) -> dict[str, str]:
    """Show the status until no job of the sweep is left; return what has no result by then, with the reason.

    What the cluster's limit on jobs has kept out of the queue is submitted as jobs end.
    """
    shown, rest = "", _Rest(sweep, store, options)
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while True:
            planned = plan(sweep, store)
            status = read_status(planned, store)
            if out.is_terminal:
                live.update(table_of(status, planned.sweep, out.height - 4, out.width), refresh=True)
            elif (line := summary_line(status)) != shown:
                out.print(line)
                shown = line
            if not rest.submit(status) and not status.is_live:
                return failures_of(status)
            time.sleep(WAIT_SECONDS)


class _Rest:
    """Submits what has no job yet, whenever some jobs have ended since the last attempt."""

    def __init__(self, sweep: Sweep, store: Store, options: Sequence[str]) -> None:
        self.sweep, self.store, self.options = sweep, store, options
        self.live: int | None = None
        """How many targets had a job at the last attempt."""
        self.next_try = 0.0

    def submit(self, status: SweepStatus) -> bool:
        """Whether there is something to wait for: jobs were submitted, or still wait for room in the queue."""
        missing = {row.target for row in status.in_states(["missing"])}
        live = len(status.in_states(LIVE))
        self.live = live if self.live is None else self.live
        if not missing or (live and live >= self.live):
            return False
        if time.monotonic() < self.next_try:
            return True
        self.live, self.next_try = live, time.monotonic() + SUBMIT_SECONDS
        try:
            submitted = submit(self.sweep, self.store, settings_of(self.sweep, self.options), missing, self.options)
        except NoRoom:
            return True
        except DispatchError:
            if not live:
                raise  # there is no other job to wait for
            return False
        if submitted.submission is not None:
            self.live = None
        return submitted.submission is not None or bool(submitted.left)


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
    """Run again what failed, was cancelled, is blocked or lost; if `names` (ids) are given, only those."""
    sweep, store, out = load_sweep(file, overrides), Store(results), console(json_output)
    planned = plan(sweep, store)
    status = read_status(planned, store)
    chosen = set(find_targets(planned.sweep, names)) if names else {row.target for row in status.in_states(TO_RETRY)}
    if all(status.rows[target].state in LIVE | {"done"} for target in chosen):
        out.print(f"nothing to retry: {summary_line(status)}")
        if status.in_states(["missing"]):
            asked = Asked(file, overrides, results, cluster, options)
            out.print(f"to run what is missing: {asked.command('sweep', submits=True)}")
        if json_output:
            print_json({"retried": []})
        return
    from harness.dispatch.checks import check_sweep

    check_sweep(planned, store)
    before = _last_submission(chosen, status)
    where = choose(cluster, options, sweep, was_submitted=before is not None)
    out.print(where.sentence)
    if where.kind == "slurm":
        remembered = _remembered(before, options, out)
        settings = settings_of(sweep, [*remembered, *options])
        more, sentences = more_memory(chosen, status, settings, options)
        for sentence in sentences:
            out.print(sentence)
        asked = Asked(file, overrides, results, cluster, [*remembered, *more, *options])
        retried = submit_sweep(planned, store, out, asked, chosen).targets
    else:
        retried = _retry_here(planned, store, out, chosen)
    if json_output:
        print_json({"retried": [str(target) for target in retried]})


def _last_submission(chosen: Collection[Target], status: SweepStatus) -> Submission | None:
    """The newest submission of any of `chosen`."""
    submissions = [status.assigned[target].submission for target in chosen if target in status.assigned]
    return max(submissions, key=lambda submission: submission.created, default=None)


def _remembered(before: Submission | None, options: Sequence[str], out: Console) -> list[str]:
    """The ``--slurm`` settings that the jobs were submitted with; those given now follow and take precedence."""
    kept = [text for text in before.slurm if not _is_over(text)] if before is not None else []
    if kept:
        repeated = " ".join(f"--slurm {text}" for text in kept)
        also = ", and those of this command" if options else ""
        out.print(f"with the settings of the earlier submission: {repeated}{also}")
    return kept


def _is_over(option: str) -> bool:
    """Whether `option` names jobs to wait for that have all ended, well or not: a retry need not wait for them."""
    key, _, value = option.partition("=")
    if key.strip().rpartition(".")[2] != "after":
        return False
    try:
        pending, _ = outside_dependencies(JobSettings(after=value).dependencies)
    except ConfigError:
        return True
    return not pending


def _retry_here(planned: Plan, store: Store, out: Console, chosen: Collection[Target]) -> list[Target]:
    from harness.dispatch.local import run_inline

    outcome = run_inline(planned.only(chosen), store, out)
    if not outcome.is_complete:
        sys.exit(1)
    return outcome.done


def cancel(
    file: Path, names: Sequence[str], overrides: Sequence[str], results: Path, earlier: bool, json_output: bool
) -> None:
    """End the sweep's jobs on SLURM: all, or only those of `names` (ids) or of earlier versions of the sweep."""
    store, out = Store(results), console(json_output)
    try:
        sweep = load_sweep(file, overrides)
    except ConfigError:
        if names or earlier:
            raise
        cancelled = cancel_jobs_of_file(file, overrides, store)
        if not cancelled.jobs and not cancelled.left:
            raise
        out.print(f"{file} cannot be read as a sweep; its jobs are known from their records")
    else:
        chosen = find_targets(sweep, names, submitted_targets(sweep, store)) if names else None
        cancelled = cancel_jobs(sweep, store, chosen, earlier_only=earlier)
    if json_output:
        print_json({"cancelled": sorted(cancelled.jobs), "left": cancelled.left, "notes": cancelled.notes})
        return
    out.print(f"{count_of(len(cancelled.jobs), 'job')} cancelled")
    for sentence in [*cancelled.left, *cancelled.notes]:
        out.print(sentence)
    if cancelled.kept:
        ids = [target.id for target in cancelled.kept]
        command = Asked(file, overrides, results).command("cancel", *ids)
        out.print(f"to end them as well, although others wait for them: {command}")


def proposal(planned: Plan, store: Store, options: Sequence[str]) -> dict[str, Any]:
    """The jobs that a submission would request, as plain values."""
    settings = settings_of(planned.sweep, options)
    from harness.engine.planned import planned_costs

    proposals, note = propose(planned.sweep, store, settings)
    with planned_costs() as costs:
        expected = expected_times(planned, store, costs.of_target)
    return {
        "arrays": [
            {
                "kind": proposed.array.kind,
                "jobs": len(proposed.array.elements),
                "sbatch": proposed.options,
                "gpu_hours_at_most": proposed.gpu_hours,
                "accepted": proposed.trial.accepted if proposed.trial else None,
                "said": proposed.trial.said if proposed.trial else "",
            }
            for proposed in proposals
        ],
        "gpu_hours_at_most": sum(proposed.gpu_hours for proposed in proposals),
        "note": note,
        "time": [time_advice(one, settings) for one in expected],
    }


def show_proposal(proposed: Mapping[str, Any], out: Console) -> None:
    """Print the sbatch lines, what SLURM says about them, and the GPU-hours."""
    if proposed["note"]:
        out.print(proposed["note"], style="yellow")
    for number, array in enumerate(proposed["arrays"]):
        line = f"ARRAY{number}: {count_of(array['jobs'], array['kind'] + ' job')}: sbatch {' '.join(array['sbatch'])}"
        out.print(line)
        if array["said"]:
            style = "" if array["accepted"] else "red"
            out.print(f"  sbatch --test-only: {array['said']}", style=style)
    for line in proposed["time"]:
        out.print(line)
    jobs = sum(array["jobs"] for array in proposed["arrays"])
    calls, hours = len(proposed["arrays"]), proposed["gpu_hours_at_most"]
    total = f"{count_of(jobs, 'job')} in {count_of(calls, 'call')} of sbatch"
    out.print(f"{total}; at most {hours:,.1f} GPU-hours per run of all")
