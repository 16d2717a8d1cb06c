"""When the encoder runs: one boolean per step of the sampler, the first always True."""

from __future__ import annotations

from collections.abc import Sequence

Refreshes = tuple[bool, ...]


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps: {steps} is less than 1")


def every(interval: int, steps: int) -> Refreshes:
    """Refresh at steps 0, interval, 2·interval, …; 1 ≤ interval ≤ steps."""
    _check_steps(steps)
    if not 1 <= interval <= steps:
        raise ValueError(f"interval: {interval} is not between 1 and the {steps} steps")
    return tuple(step % interval == 0 for step in range(steps))


def evenly(refreshes: int, steps: int) -> Refreshes:
    """`refreshes` refreshes as evenly as whole steps allow: at steps ⌊i·steps/refreshes⌋; 1 ≤ refreshes ≤ steps."""
    _check_steps(steps)
    if not 1 <= refreshes <= steps:
        raise ValueError(f"refreshes: {refreshes} is not between 1 and the {steps} steps")
    return explicit([i * steps // refreshes for i in range(refreshes)], steps)


def explicit(refresh_steps: Sequence[int], steps: int) -> Refreshes:
    """Refresh at the very `refresh_steps`, rising, from 0 to below `steps`."""
    _check_steps(steps)
    chosen = list(refresh_steps)
    if not chosen or chosen[0] != 0:
        raise ValueError(f"refresh_steps: {chosen} does not start with step 0")
    if chosen != sorted(set(chosen)) or chosen[-1] >= steps:
        raise ValueError(f"refresh_steps: {chosen} does not rise below {steps} steps")
    return tuple(step in set(chosen) for step in range(steps))
