"""Whether a time was taken on a quiet machine: how much of the processors others used, and how long ours waited.

A median over repeats hides a busy machine: every repeat is slow alike and the quartiles look tight. So beside each time
stands what the scheduler says of it (Linux): processor time of this process, processor time of all others on the
processors that it may use, and the time that its threads were ready and had to wait for one. And a yardstick: a fixed
piece of work on the device, timed before and after, the same for every cell of a sweep.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.measure.waiting import percent, share_of_ready, waited
from harness.threads import busy_and_own_seconds, processors

MOST_WAITING = 0.05
"""How many of this process's threads may wait for a processor, on average, before the time is not to be trusted."""
MOST_OTHERS = 0.1
"""Share of the processors that other processes may take."""
MOST_DRIFT = 0.25
"""How far the yardstick may move between the start and the end."""
TICKS_SECONDS = 0.04
"""Tolerance: the system counts processor time in hundredths of a second."""
YARDSTICK_SIDE = 256
YARDSTICK_REPEATS = 5


@dataclass(frozen=True)
class Reading:
    """Running totals, in seconds; None where the system does not tell."""

    wall: float
    own: float
    """Processor time of this process, all threads."""
    waiting: float | None
    """Time that its threads were ready to run and had no processor."""
    busy: float | None
    """Processor time of everybody on the processors that this process may use."""


def read_scheduler() -> Reading:
    """The present totals."""
    busy = busy_and_own_seconds()
    return Reading(time.monotonic(), time.process_time(), _waiting_seconds(), None if busy is None else busy[0])


def _waiting_seconds() -> float | None:
    try:
        threads = list(Path("/proc/self/task").iterdir())
    except OSError:
        return None
    total = 0
    for thread in threads:
        with contextlib.suppress(OSError, IndexError, ValueError):  # a thread that has just ended
            total += int((thread / "schedstat").read_text(encoding="ascii").split()[1])
    return total / 1e9


def others_share(before: Reading, after: Reading) -> float | None:
    """Share of this process's processors that others took between two readings."""
    if before.busy is None or after.busy is None:
        return None
    others = after.busy - before.busy - (after.own - before.own)
    return max(0.0, others - TICKS_SECONDS) / (max(after.wall - before.wall, 1e-9) * processors())


def waiting_share(before: Reading, after: Reading) -> float | None:
    """How many of this process's threads, on average, waited for a processor between two readings."""
    if before.waiting is None or after.waiting is None:
        return None
    return max(0.0, after.waiting - before.waiting) / max(after.wall - before.wall, 1e-9)


def delayed_share(before: Reading, after: Reading) -> float | None:
    """Share of the time in which this process's threads had work that they waited for a processor: 0 to 1, however
    many there are."""
    if before.waiting is None or after.waiting is None:
        return None
    return share_of_ready(after.waiting - before.waiting, after.own - before.own)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


@dataclass
class Watch:
    """What went on while times were taken; whole once the block of :func:`watch_quiet` has ended."""

    start: Reading
    conditions: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def is_quiet_so_far(self) -> bool:
        """Whether nothing so far speaks against the times."""
        return not _reasons(self.start, read_scheduler())

    @property
    def record(self) -> dict[str, Any]:
        """The part of a record's ``time`` that says whether to trust it."""
        return {"trusted": not self.reasons, "reasons": list(self.reasons), "conditions": dict(self.conditions)}


def _reasons(before: Reading, after: Reading) -> list[str]:
    """Why a time taken between two readings is not to be trusted; none if it is."""
    waiting, others = waiting_share(before, after), others_share(before, after)
    reasons = []
    if waiting is not None and waiting > MOST_WAITING:
        reasons.append(waited(delayed_share(before, after) or 0.0))
    if others is not None and others > MOST_OTHERS:
        of = "processor" if processors() == 1 else f"{processors()} processors"
        reasons.append(f"other processes took {percent(others)} of the {of}")
    return reasons


@contextlib.contextmanager
def watch_quiet(yardstick: Callable[[], float]) -> Iterator[Watch]:
    """Watch the machine while the block takes times; `yardstick` returns the seconds of a fixed piece of work."""
    first = yardstick()
    before = read_scheduler()
    watch = Watch(before)
    yield watch
    after = read_scheduler()
    last = yardstick()
    wall = after.wall - before.wall
    watch.conditions = {
        "wall_seconds": round(wall, 4),
        "processor_seconds": round(after.own - before.own, 4),
        "processors": processors(),
        "others_share": _rounded(others_share(before, after)),
        "waiting_share": _rounded(waiting_share(before, after)),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "yardstick_seconds": [first, last],
    }
    watch.reasons = _reasons(before, after)
    if abs(last - first) > MOST_DRIFT * min(first, last):
        watch.reasons.append(f"the same work took {last / first:.2f}× as long after as before")


def yardstick_of(device: torch.device, synchronize: Callable[[], None]) -> Callable[[], float]:
    """Seconds of a fixed chain of matrix products on `device`: the quickest of a few, after one to warm up."""
    side = YARDSTICK_SIDE if device.type == "cpu" else 8 * YARDSTICK_SIDE
    matrix = torch.full((side, side), 1 / side, device=device)

    def measure() -> float:
        seconds = []
        for _ in range(YARDSTICK_REPEATS + 1):
            synchronize()
            start = time.perf_counter()
            product = matrix
            for _ in range(20):
                product = product @ matrix
            synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    return measure
