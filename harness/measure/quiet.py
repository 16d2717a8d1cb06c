"""Whether a time was taken in quiet: what other processes took of the processors meanwhile, and how long ours waited.

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

MOST_WAITING = 0.05
"""Share of the wall time that a thread may wait for a processor before the time is not to be trusted."""
MOST_OTHERS = 0.1
"""Share of the processors that other processes may take."""
MOST_DRIFT = 0.25
"""How far the yardstick may move between the start and the end."""
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
    """The totals as they are now."""
    return Reading(time.monotonic(), time.process_time(), _waiting_seconds(), _busy_seconds())


def _waiting_seconds() -> float | None:
    try:
        threads = list(Path("/proc/self/task").iterdir())
    except OSError:
        return None
    total = 0
    for thread in threads:
        with contextlib.suppress(OSError, IndexError, ValueError):  # a thread that ends meanwhile
            total += int((thread / "schedstat").read_text(encoding="ascii").split()[1])
    return total / 1e9


def _busy_seconds() -> float | None:
    try:
        allowed = os.sched_getaffinity(0)
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except (OSError, AttributeError):
        return None
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            user, nice, system, _, _, irq, softirq, steal = (int(value) for value in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return float(ticks / os.sysconf("SC_CLK_TCK"))


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_share(before: Reading, after: Reading) -> float | None:
    """Share of this process's processors that others took between two readings."""
    if before.busy is None or after.busy is None:
        return None
    others = after.busy - before.busy - (after.own - before.own)
    return max(0.0, others / (max(after.wall - before.wall, 1e-9) * processors()))


@dataclass
class Watch:
    """What went on while times were taken; whole once the block of :func:`watch_quiet` has ended."""

    conditions: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        """The part of a record's ``time`` that says whether to trust it."""
        return {"trusted": not self.reasons, "reasons": list(self.reasons), "conditions": dict(self.conditions)}


@contextlib.contextmanager
def watch_quiet(yardstick: Callable[[], float]) -> Iterator[Watch]:
    """Watch the machine while the block takes times; `yardstick` returns the seconds of a fixed piece of work."""
    watch = Watch()
    first = yardstick()
    before = read_scheduler()
    yield watch
    after = read_scheduler()
    last = yardstick()
    wall = max(after.wall - before.wall, 1e-9)
    others = others_share(before, after)
    waiting = None
    if before.waiting is not None and after.waiting is not None:
        waiting = max(0.0, after.waiting - before.waiting) / wall
    watch.conditions = {
        "wall_seconds": round(wall, 4),
        "processor_seconds": round(after.own - before.own, 4),
        "processors": processors(),
        "others_share": None if others is None else round(others, 4),
        "waiting_share": None if waiting is None else round(waiting, 4),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "yardstick_seconds": [first, last],
    }
    if waiting is not None and waiting > MOST_WAITING:
        watch.reasons.append(f"its threads waited for a processor {waiting:.0%} of the time")
    if others is not None and others > MOST_OTHERS:
        watch.reasons.append(f"other processes took {others:.0%} of the {processors()} processors")
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
