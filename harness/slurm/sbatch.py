"""One job array as a call of sbatch, through submitit."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env
from submitit.slurm.slurm import _make_sbatch_string

from harness.errors import DispatchError
from harness.slurm.job import SlurmJob
from harness.slurm.settings import JobSettings

TIMEOUTS = 10_000
"""Runs that reach the time limit before submitit gives a job up: each goes on where the last one stopped."""


class Refused(DispatchError):
    """sbatch did not take an array; the message is SLURM's."""


def submit_array(jobs: Sequence[SlurmJob], folder: Path, parameters: dict[str, Any]) -> str:
    """Submit `jobs` in one call of sbatch; returns the number SLURM gives. Raises :class:`Refused`."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
        executor.update_parameters(**parameters)
        with clean_env():
            submitted = executor.submit_array(list(jobs))
    except (FailedJobError, FailedSubmissionError) as error:
        raise Refused(sbatch_message(str(error))) from None
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # no srun, no sbatch, no disk
        raise Refused(str(error)) from None
    number: str = submitted[0].job_id.partition("_")[0]
    return number


def sbatch_parameters(settings: JobSettings, name: str, source: Path, dependency: str | None) -> dict[str, Any]:
    """What submitit is told of an array."""
    return {
        "job_name": name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.minutes,
        "mem": settings.memory,
        "gpus_per_node": f"{settings.gpu_type}:{settings.gpus}" if settings.gpu_type else settings.gpus or None,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.tasks_per_node,
        "cpus_per_task": settings.cpus,
        "array_parallelism": settings.array_parallelism,
        "signal_delay_s": settings.warning_seconds,
        "dependency": dependency,
        "wckey": None,
        "setup": [*settings.setup, *_environment(settings, source)],
        "teardown": _restart_if_killed(settings.restarts),
        "srun_args": _srun_options(settings),
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **settings.sbatch},
    }


def sbatch_options(parameters: dict[str, Any], folder: Path, elements: int) -> list[str]:
    """The options of the script that sbatch would be given, for people."""
    script = _make_sbatch_string("", folder, **parameters, map_count=elements if elements > 1 else None)
    lines = re.findall(r"^#SBATCH (--.*)$", script, re.MULTILINE)
    return [line for line in lines if not line.startswith(("--output", "--error", "--open-mode"))]


def _environment(settings: JobSettings, source: Path) -> list[str]:
    """The job's Python reads the copied source, not what lies in the folder it was submitted from."""
    lines = [
        f'export PYTHONPATH={shlex.quote(str(source))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        "export PYTHONSAFEPATH=1",
    ]
    if settings.cpus is not None:
        lines.append(f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{settings.cpus}}}"')
    return lines


def _srun_options(settings: JobSettings) -> list[str]:
    options = ["--kill-on-bad-exit=1", "--export=ALL"]  # one lost rank ends all; sites may set --export=NONE
    if settings.cpus is not None:
        options.append(f"--cpus-per-task={settings.cpus}")  # since SLURM 22.05 srun does not inherit it
    return options


def _restart_if_killed(restarts: int) -> list[str]:
    """A process that was killed (kill -9, out of memory) while its job goes on is started again by a requeue.

    scancel and preemption end the script itself, so a cancelled job is never revived.
    """
    return [
        "status=$?",
        f'if [ "$status" -eq 137 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] &&',
        '  [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then',
        '  echo "killed: the job starts again" >&2',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]


def sbatch_message(text: str) -> str:
    """What SLURM said, without the prefixes of its programs and what submitit adds."""
    lines = [re.sub(r"^(sbatch: )?(error: )?", "", line.strip()) for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason given"
