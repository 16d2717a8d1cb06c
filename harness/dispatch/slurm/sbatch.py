"""One job array as a call of sbatch, through submitit."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env
from submitit.slurm.slurm import _make_sbatch_string

from harness.dispatch.slurm.job import START_AGAIN, SlurmJob
from harness.dispatch.slurm.logs import RUN_MARK, SET_UP_FAILED
from harness.dispatch.slurm.queue import points_to_cluster
from harness.dispatch.slurm.settings import JobSettings
from harness.errors import DispatchError
from harness.processes import name_for_submitit

KILLED = 128 + 9


class Refused(DispatchError):
    """sbatch did not take an array; the message is SLURM's."""


class _Executor(submitit.SlurmExecutor):
    """submitit's, whose jobs begin in our own start.py; the script names it."""

    def __init__(self, folder: Path, jobs_folder: Path) -> None:
        super().__init__(folder)
        self.jobs_folder = jobs_folder

    @property
    def _submitit_command_str(self) -> str:
        return f'{shlex.quote(sys.executable)} -u "$HARNESS_START" {shlex.quote(str(self.jobs_folder))}'


def submit_array(jobs: Sequence[SlurmJob], folder: Path, parameters: dict[str, Any]) -> str:
    """Submit `jobs` in one call of sbatch; returns the number SLURM gives. Raises :class:`Refused`."""
    if re.search(r"[\\\n\r]", str(folder)):
        raise Refused(
            f"{str(folder)!r}: SLURM cannot write logs to a folder with a backslash or a line break in its name; "
            "choose another for the results"
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with name_for_submitit(folder) as name:
            executor = _Executor(name, folder)
            executor.update_parameters(**_with_logs(parameters, folder, len(jobs)))
            with _outside_of_jobs():
                submitted = executor.submit_array(list(jobs))
    except (FailedJobError, FailedSubmissionError) as error:
        raise Refused(sbatch_message(str(error))) from None
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # no srun, no sbatch, no disk
        raise Refused(str(error)) from None
    for link in folder.glob(".submission_file_*"):  # submitit's temporary names of the script
        link.unlink(missing_ok=True)
    number: str = submitted[0].job_id.partition("_")[0]
    return number


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """An environment without what a job around us, or a person's shell, sets for SLURM's commands.

    What says which cluster is meant stays: sbatch must ask the one that squeue asks.
    """
    kept = {name: value for name, value in os.environ.items() if points_to_cluster(name)}
    with clean_env():
        os.environ.update(kept)
        yield


def _with_logs(parameters: dict[str, Any], folder: Path, elements: int) -> dict[str, Any]:
    """`parameters` with the names of logs in full, where submitit has been given another name of the folder.

    ``%%`` stands for a ``%`` that neither sbatch nor srun replaces.
    """
    if "%" not in str(folder):
        return parameters
    logs = str(folder).replace("%", "%%") + ("/%A_%a" if elements > 1 else "/%j")
    names = {"output": f"{logs}_0_log.out", "error": f"{logs}_0_log.err"}
    ranks = [f"--output={logs}_%t_log.out", f"--error={logs}_%t_log.err"]
    return {
        **parameters,
        "additional_parameters": {**parameters["additional_parameters"], **names},
        "srun_args": [*parameters["srun_args"], *ranks],
    }


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
        "setup": [*_beginning(), *_checked(settings.setup), *_environment(settings, source)],
        "teardown": _restart_if_killed(settings.restarts),
        "srun_args": _srun_options(settings),
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **settings.sbatch},
    }


def sbatch_options(parameters: dict[str, Any], folder: Path, elements: int) -> list[str]:
    """The options of the script that sbatch would be given, for people."""
    script = _make_sbatch_string("", folder, **parameters, map_count=elements if elements > 1 else None)
    lines = re.findall(r"^#SBATCH (--.*)$", script, re.MULTILINE)
    return [line for line in lines if not line.startswith(("--output", "--error", "--open-mode"))]


def _beginning() -> list[str]:
    """The time limit's warning is for the ranks, not for the script that waits for them; logs tell runs apart."""
    return [
        "trap '' USR2",
        f'[ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || echo "{RUN_MARK}$((SLURM_RESTART_COUNT + 1))" >&2',
    ]


def _checked(setup: Sequence[str]) -> list[str]:
    """A person's commands, of which one that fails ends the job and says so.

    Each runs in the script's own shell, as `module load` must. What fails inside of a file that is sourced is that
    file's own affair: its last status counts.
    """
    if not setup:
        return []
    lines = [
        f"trap 'failed=$?; echo \"{SET_UP_FAILED}$failed: $set_up\" >&2; exit $((failed ? failed : 1))' EXIT",
        'trap \'failed=$?; [ "${#BASH_SOURCE[@]}" -gt 1 ] || exit "$failed"\' ERR',
    ]
    for command in setup:
        lines += [f"set_up={shlex.quote(command)}", command]
    return [*lines, "trap - EXIT ERR", "set +e +u +o pipefail"]


def _environment(settings: JobSettings, source: Path) -> list[str]:
    """The job's Python reads the copied source, not what lies in the folder it was submitted from."""
    lines = [
        f"export HARNESS_START={shlex.quote(str(source / 'harness' / 'dispatch' / 'slurm' / 'start.py'))}",
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
    """A process that was killed (kill -9, out of memory, a signal that came before it listened) while its job goes on
    is started again by a requeue.

    scancel and preemption end the script itself, so a cancelled job is never revived.
    """
    return [
        "status=$?",
        "trap '' TERM",  # the work is over, and the script's status is to tell how
        f'if {{ [ "$status" -eq {KILLED} ] || [ "$status" -eq {START_AGAIN} ]; }} &&',
        f'  [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] &&',
        '  scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING "; then',
        '  echo "killed: the job starts again" >&2',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]


def sbatch_message(text: str) -> str:
    """What SLURM said, without the prefixes of its programs and what submitit adds."""
    lines = [re.sub(r"^(sbatch: )?(error: )?", "", line.strip()) for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason given"
