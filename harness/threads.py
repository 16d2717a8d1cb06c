"""How torch's threads wait for one another, chosen by how busy the machine is.

OpenMP's threads spin while they wait: quickest on a quiet machine, and many times slower beside other work, whose time
they burn as well. Sleeping threads are slower on a quiet machine and lose little on a busy one. The number of threads,
which summation order and so figures depend on, stays the same. The choice must be made before torch is imported.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

POLICY = "OMP_WAIT_POLICY"
BUSY_SHARE = 0.25
"""Threads sleep once others use this share of the processors that this process may use."""
SAMPLE_SECONDS = 0.15


def choose_wait_policy() -> str | None:
    """Set the policy for this process and those that it starts; what was chosen and why, where threads are to sleep.

    Leaves a choice of the user's, and a process that has torch already, as they are.
    """
    if POLICY in os.environ or "torch" in sys.modules or not _may_be_busy():
        return None
    before = busy_and_own_seconds()
    started = time.monotonic()
    time.sleep(SAMPLE_SECONDS)
    after = busy_and_own_seconds()
    if before is None or after is None:
        return None
    others = (after[0] - before[0] - (after[1] - before[1])) / (time.monotonic() - started)
    if others < BUSY_SHARE * processors():
        return None
    os.environ[POLICY] = "PASSIVE"
    return (
        f"this machine is busy (others take {min(others, processors()):.1f} of {processors()} processors): threads "
        f"sleep while they wait ({POLICY}=PASSIVE), which changes no figure; times taken now are marked as not to be "
        "trusted"
    )


def _may_be_busy() -> bool:
    """A cheap check: whether anything but this process runs now, or did in the last minute."""
    try:
        running = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running > 1 or os.getloadavg()[0] > 0.5


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_and_own_seconds() -> tuple[float, float] | None:
    """Processor seconds so far of everybody on the processors that this process may use, and of this process.

    None where the system does not tell (it is Linux's /proc/stat).
    """
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
    return ticks / os.sysconf("SC_CLK_TCK"), time.process_time()
