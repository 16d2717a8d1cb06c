"""A configuration whose schedule is found, as the one that says it outright."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.schema import Experiment, as_plain, parse_experiment

CHOOSING = ("schedule", "objective", "objective_bias", "schedule_seed", "budget")
"""The keys of `sample` by which a schedule is found."""
PLACING = ("refresh_interval", "refreshes", "refresh_steps")
SPACING = ("spacing", "rho", "sigma_range", "times")


def with_schedule(
    experiment: Experiment, refresh_steps: Sequence[int], times: Sequence[float] | None = None
) -> Experiment:
    """`experiment` with refreshes at these steps, and its steps at `times` if they are given (the end, 0, left out)."""
    plain = as_plain(experiment)
    dropped = {*CHOOSING, *PLACING, *(() if times is None else SPACING)}
    sample = {key: value for key, value in plain["sample"].items() if key not in dropped}
    sample["refresh_steps"] = list(refresh_steps)
    if times is not None:
        sample |= {"times": list(times), "steps": len(times)}
    return parse_experiment({**plain, "sample": sample}, "the schedule that was found")


def with_counts(experiment: Experiment, steps: int, refreshes: int) -> Experiment:
    """`experiment` in so many steps even in time, with so many refreshes: what costs depend on."""
    evenly = [i * steps // refreshes for i in range(refreshes)]
    return with_schedule(experiment, evenly, [1 - i / steps for i in range(steps)])
