"""Where a sweep runs: on SLURM, in processes of this machine, or here; and why, in one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from harness.config.schema import nearest
from harness.dispatch.slurm.settings import ClusterKind
from harness.dispatch.sweep import Sweep
from harness.errors import ConfigError

CHOICES: tuple[str, ...] = get_args(ClusterKind)
WORDS = {"slurm": "submits to SLURM", "local": "runs in processes of this machine", "inline": "runs here, one by one"}
OTHERS = {
    "slurm": "--cluster inline runs it here",
    "local": "--cluster inline runs it in this process",
    "inline": "--cluster slurm submits it",
}
WITHOUT_SLURM = "--cluster local --workers N runs N at once"


@dataclass(frozen=True)
class Chosen:
    """Where a sweep runs, and why."""

    kind: ClusterKind
    why: str

    @property
    def sentence(self) -> str:
        """In one line, with how to choose otherwise."""
        other = OTHERS[self.kind] if self.kind != "inline" or shutil.which("sbatch") else WITHOUT_SLURM
        return f"{WORDS[self.kind]} ({self.why}); {other}"


def choose(named: str | None, slurm: Sequence[str], sweep: Sweep, *, was_submitted: bool = False) -> Chosen:
    """The command line or HARNESS_CLUSTER, else where its jobs were submitted before, else the sweep's file or the
    user's, else what there is. Raises :class:`ConfigError` for another name, or settings of SLURM without it.
    """
    if sweep.config.cluster:  # wrong keys are reported wherever it runs this time
        from harness.dispatch.slurm.settings import parse_layer

        parse_layer(sweep.config.cluster, f"{sweep.path}: cluster")
    chosen = _choose(named, sweep, was_submitted)
    if slurm and chosen.kind != "slurm":
        cure = "" if named else "; --cluster slurm submits it"
        raise ConfigError("--slurm", [f"{slurm[0]}: has no meaning with --cluster {chosen.kind} ({chosen.why}){cure}"])
    return chosen


def _choose(named: str | None, sweep: Sweep, was_submitted: bool) -> Chosen:
    if named is not None:
        return Chosen(_checked(named), "HARNESS_CLUSTER" if os.environ.get("HARNESS_CLUSTER") == named else "--cluster")
    if was_submitted:
        return Chosen("slurm", "as its jobs before")
    from harness.dispatch.slurm.settings import preferred_place

    preferred = preferred_place(sweep.config.cluster, str(sweep.path))
    if preferred is not None:
        return Chosen(preferred[0], f"cluster.kind in {preferred[1]}")
    if not shutil.which("sbatch"):
        return Chosen("inline", "there is no sbatch on this machine")
    if job := os.environ.get("SLURM_JOB_ID"):
        return Chosen("inline", _inside(job))
    return Chosen("slurm", "there is sbatch on this machine")


def _inside(job: str) -> str:
    """Of a terminal that has a job. `salloc` may leave it on the machine where it was called."""
    if os.environ.get("SLURMD_NODENAME"):
        return f"inside SLURM's job {job}"
    return f"inside SLURM's job {job}, though on this machine: srun before the command runs it on the job's node"


def _checked(name: str) -> ClusterKind:
    for kind in get_args(ClusterKind):
        if name == kind:
            found: ClusterKind = kind
            return found
    raise ConfigError("--cluster", [f"{name!r} is not one of {', '.join(CHOICES)}{nearest(name, list(CHOICES))}"])
