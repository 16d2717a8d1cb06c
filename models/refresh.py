"""When the encoder runs: one boolean per step of the sampler, the first always True."""

from __future__ import annotations

from collections.abc import Sequence

Refreshes = tuple[bool, ...]
KEYS = ("refresh_interval", "refreshes", "refresh_steps")
"""The ways to say it, of which a configuration has one."""


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps: {steps} is less than 1")


def schedule(
    steps: int,
    refresh_interval: int | None = None,
    refreshes: int | None = None,
    refresh_steps: Sequence[int] | None = None,
) -> Refreshes | None:
    """The refreshes of `steps` steps as a configuration says them; None where it says nothing.

    Raises ValueError where it says them twice, or for other steps than there are.
    """
    values = (refresh_interval, refreshes, refresh_steps)
    chosen = [key for key, value in zip(KEYS, values, strict=True) if value is not None]
    if len(chosen) > 1:
        raise ValueError(f"{chosen[1]}: set only one of {', '.join(KEYS)}")
    if refresh_interval is not None:
        return every(refresh_interval, steps)
    if refreshes is not None:
        return evenly(refreshes, steps)
    return None if refresh_steps is None else explicit(refresh_steps, steps)


def every(interval: int, steps: int) -> Refreshes:
    """Refresh at steps 0, interval, 2·interval, …; 1 ≤ interval ≤ steps."""
    _check_steps(steps)
    if not 1 <= interval <= steps:
        raise ValueError(f"refresh_interval: {interval} is not between 1 and {steps}, the number of steps")
    return tuple(step % interval == 0 for step in range(steps))


def evenly(refreshes: int, steps: int) -> Refreshes:
    """`refreshes` refreshes as evenly as whole steps allow: at steps ⌊i·steps/refreshes⌋; 1 ≤ refreshes ≤ steps."""
    _check_steps(steps)
    if not 1 <= refreshes <= steps:
        raise ValueError(f"refreshes: {refreshes} is not between 1 and {steps}, the number of steps")
    return explicit([i * steps // refreshes for i in range(refreshes)], steps)


def evenly_in(values: Sequence[float], refreshes: int) -> Refreshes:
    """`refreshes` refreshes as even in `values` as whole steps allow, rising: one for each step and one for the end.

    Refresh k is at the step nearest to the share k/refreshes of the way to the end that leaves each its own step.
    """
    steps = len(values) - 1
    _check_steps(steps)
    if not 1 <= refreshes <= steps:
        raise ValueError(f"refreshes: {refreshes} is not between 1 and {steps}, the number of steps")
    first, end = values[0], values[-1]
    chosen: list[int] = []
    for k in range(refreshes):
        wanted = first + k * (end - first) / refreshes
        free = range(chosen[-1] + 1 if chosen else 0, steps - (refreshes - k) + 1)
        chosen.append(min(free, key=lambda step: abs(values[step] - wanted)) if k else 0)
    return explicit(chosen, steps)


def explicit(refresh_steps: Sequence[int], steps: int) -> Refreshes:
    """Refresh at the very `refresh_steps`, rising, from 0 to below `steps`."""
    _check_steps(steps)
    chosen = list(refresh_steps)
    if not chosen or chosen[0] != 0:
        raise ValueError(f"refresh_steps: {chosen} does not start with step 0")
    if chosen != sorted(set(chosen)) or chosen[-1] >= steps:
        raise ValueError(f"refresh_steps: {chosen} does not rise, below {steps}, the number of steps")
    return tuple(step in set(chosen) for step in range(steps))
