"""The test cluster (cluster.sh) from Python: its faults, its queue, and waiting for things to happen on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("cluster.sh")
NAME = "harness-test"
PATIENCE_SECONDS = 240.0
SETTLING_SECONDS = 2.0
_held_since: dict[str, float] = {}
"""When the jobs that SLURM holds back were first seen so, by :func:`time.monotonic`."""


def missing() -> str | None:
    """Why there is no test cluster here, or None."""
    if shutil.which("sbatch") is None:
        return "sbatch is not installed; `bash tests/slurm/cluster.sh up` (as root) installs and starts a cluster"
    asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return "no SLURM controller answers; `bash tests/slurm/cluster.sh up` (as root) starts one"
    if f"= {NAME}\n" not in asked.stdout:
        return f"this is not the test cluster {NAME}; faults are not made on a cluster that others use"
    if os.geteuid() != 0:
        return "faults on the test cluster need root"
    return None


def script(*arguments: str) -> None:
    """Run cluster.sh; raises with what it says."""
    environment = {**os.environ, "NODES": str(len(nodes()) or 3)}
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, f"cluster.sh {' '.join(arguments)}: {done.stdout}{done.stderr}"


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def final_state(job: str) -> str:
    """What accounting says of a job: its state and exit code."""
    said = command("sacct", "--allocations", "--noheader", "--parsable2", "--jobs", job, "--format=State,ExitCode")
    return said.strip().replace("|", " ")


def nodes() -> list[str]:
    asked = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%N"], capture_output=True, text=True, check=False
    )
    return sorted(set(asked.stdout.split()))


@contextmanager
def failed_node(node: str) -> Iterator[None]:
    script("fail", node)
    try:
        yield
    finally:
        script("mend", node)


@contextmanager
def stopped_controller() -> Iterator[None]:
    script("controller", "stop")
    try:
        yield
    finally:
        script("controller", "start")


@contextmanager
def no_accounting() -> Iterator[None]:
    script("accounting", "off")
    try:
        yield
    finally:
        script("accounting", "on")


@contextmanager
def job_limit(count: int) -> Iterator[None]:
    """At most so many jobs of one user in the queue."""
    script("limit", str(count))
    try:
        yield
    finally:
        script("limit", "off")


def release_held_jobs() -> None:
    """Let requeued jobs go that SLURM would hold back for two minutes, once they have been held for a moment.

    Not at once: SLURM 22.05 may then take the exit status of the run that ends for that of the run that begins, and the
    job has failed after 0 s.
    """
    said = command("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r").splitlines()
    held = {job for job, _, reason in (line.partition(" ") for line in said) if reason == "BeginTime"}
    now = time.monotonic()
    for job in _held_since.keys() - held:
        del _held_since[job]
    for job in held:
        if now - _held_since.setdefault(job, now) >= SETTLING_SECONDS:
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True, check=False)


def wait_until(
    happened: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS, poll: float = 0.5, release: bool = True
) -> None:
    """Wait for `happened`; requeued jobs are let go meanwhile, unless `release` is False."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for: {what}\n{command('squeue', '--states=all')}"
        if release:
            release_held_jobs()
        time.sleep(poll)
