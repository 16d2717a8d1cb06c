"""Submits one job array with one call of sbatch, through submitit."""

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
    """sbatch refused an array; the message is SLURM's."""


class _Executor(submitit.SlurmExecutor):
    """submitit's executor, except that a job begins in our own start.py, which the batch script exports the path of."""

    def __init__(self, folder: Path, jobs_folder: Path) -> None:
        super().__init__(folder)
        self.jobs_folder = jobs_folder

    @property
    def _submitit_command_str(self) -> str:
        return f'{shlex.quote(sys.executable)} -u "$HARNESS_START" {shlex.quote(str(self.jobs_folder))}'


def submit_array(jobs: Sequence[SlurmJob], folder: Path, parameters: dict[str, Any]) -> str:
    """Submit `jobs` with one call of sbatch and return the job number. Raises :class:`Refused`."""
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
    for link in folder.glob(".submission_file_*"):  # links that submitit leaves behind
        link.unlink(missing_ok=True)
    number: str = submitted[0].job_id.partition("_")[0]
    return number


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """An environment without the variables that an enclosing job, or the user's shell, sets for SLURM's commands.

    Those that say which cluster is meant stay: sbatch must ask the same one as squeue.
    """
    kept = {name: value for name, value in os.environ.items() if points_to_cluster(name)}
    with clean_env():
        os.environ.update(kept)
        yield


def _with_logs(parameters: dict[str, Any], folder: Path, elements: int) -> dict[str, Any]:
    """`parameters` with the paths of the logs spelled out where submitit knows the folder by another name.

    ``%%`` stands for a literal ``%``, which sbatch and srun would otherwise replace.
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
    """The parameters of an array, as submitit takes them."""
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
    """The options of the script that sbatch would be given, to be shown."""
    script = _make_sbatch_string("", folder, **parameters, map_count=elements if elements > 1 else None)
    lines = re.findall(r"^#SBATCH (--.*)$", script, re.MULTILINE)
    return [line for line in lines if not line.startswith(("--output", "--error", "--open-mode"))]


def _beginning() -> list[str]:
    """Ignore the time limit's warning, which is meant for the ranks and not for the script that waits for them; mark
    where a restarted run begins in the log."""
    return [
        "trap '' USR2",
        f'[ "${{SLURM_RESTART_COUNT:-0}}" -eq 0 ] || echo "{RUN_MARK}$((SLURM_RESTART_COUNT + 1))" >&2',
    ]


def _checked(setup: Sequence[str]) -> list[str]:
    """The user's set-up commands; the first that fails ends the job with a message.

    Each runs in the script's own shell, as `module load` must. Of a file that is sourced only the last status counts,
    whatever fails inside it.
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
    """Variables that make the job's Python import the copied source, not the folder that it was submitted from."""
    lines = [
        f"export HARNESS_START={shlex.quote(str(source / 'harness' / 'dispatch' / 'slurm' / 'start.py'))}",
        f'export PYTHONPATH={shlex.quote(str(source))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        "export PYTHONSAFEPATH=1",
    ]
    if settings.cpus is not None:
        lines.append(f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{settings.cpus}}}"')
    return lines


def _srun_options(settings: JobSettings) -> list[str]:
    options = [
        "--kill-on-bad-exit=1",
        "--export=ALL",
    ]  # a lost rank ends the others; some sites default to --export=NONE
    if settings.cpus is not None:
        options.append(f"--cpus-per-task={settings.cpus}")  # since SLURM 22.05 srun does not inherit it
    return options


def _restart_if_killed(restarts: int) -> list[str]:
    """Requeue a job whose process was killed (kill -9, out of memory, a signal before its handler was installed).

    scancel and preemption end the script itself, so a cancelled job is never revived.
    """
    return [
        "status=$?",
        "trap '' TERM",  # the work is over: from here on only its exit status matters
        f'if {{ [ "$status" -eq {KILLED} ] || [ "$status" -eq {START_AGAIN} ]; }} &&',
        f'  [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] &&',
        '  scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q " JobState=RUNNING "; then',
        '  echo "killed: the job starts again" >&2',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]


def sbatch_message(text: str) -> str:
    """SLURM's message without the prefixes of its programs and without what submitit adds."""
    lines = [re.sub(r"^(sbatch: )?(error: )?", "", line.strip()) for line in text.strip().splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason given"
