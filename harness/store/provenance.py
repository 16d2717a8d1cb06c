"""Where a figure comes from: commit, versions, device, job. Never the environment, which may hold tokens."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.config.methods import source_of
from harness.config.schema import Experiment
from harness.processes import SOURCE

PACKAGES = ("dual-rate-harness", "torch", "torch-fidelity", "fvcore", "numpy")


def provenance() -> dict[str, Any]:
    """What made a result, as plain JSON values."""
    return {
        **dict(_commit()),
        "versions": {"python": platform.python_version(), **_versions()},
        "host": platform.node(),
        "slurm_job_id": _slurm_job(),
    }


def method_provenance(experiment: Experiment) -> dict[str, Any]:
    """Of a method that is not the project's own: the SHA-256 of its source and the files it covers."""
    source = source_of(experiment.model.kind)
    if source is None:
        return {}
    return {"method_source": {"sha256": source.digest, "files": [file.as_posix() for file in source.files]}}


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def _commit() -> tuple[tuple[str, Any], ...]:
    recorded = SOURCE / "harness" / "SOURCE_COMMIT"
    if recorded.exists():  # a snapshot of the source carries the commit it was taken from
        commit, _, dirty = recorded.read_text(encoding="utf-8").strip().partition(" ")
        return ("commit", commit or None), ("dirty", dirty == "dirty")
    return commit_of(SOURCE)


def commit_of(folder: Path) -> tuple[tuple[str, Any], ...]:
    """(commit, dirty) of the git checkout of the harness in `folder`; nothing known elsewhere.

    An environment that it was installed into may lie in a checkout of something else.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=20,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--", "harness/__init__.py"):
        return ("commit", None), ("dirty", None)
    status = git("status", "--porcelain", "--", "harness", "models")
    return ("commit", git("rev-parse", "HEAD")), ("dirty", None if status is None else bool(status))


def _slurm_job() -> str | None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
