"""The batch script, written through submitit and run by bash: its set-up, its signals, its status. No cluster."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.dispatch.slurm.job import SlurmJob
from harness.dispatch.slurm.logs import telling
from harness.dispatch.slurm.sbatch import Refused, sbatch_parameters, submit_array
from harness.dispatch.slurm.settings import load_settings
from harness.store.store import Target
from tests.slurm.fakes import Fakes

RUNNING = 'echo "JobId=7 JobState=RUNNING Reason=None"'
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@dataclass
class Script:
    """What was given to sbatch, and what became of it."""

    path: Path
    fakes: Fakes
    log: Path

    def start(self, srun: str = "exit 0", show: str = RUNNING, **environment: str) -> subprocess.Popen[bytes]:
        self.fakes.add("srun", srun)
        self.fakes.add("scontrol", f'[ "$1" = requeue ] || {show}')
        values = {**os.environ, "PATH": self.fakes.path, "SLURM_JOB_ID": "7", **environment}
        with self.log.open("w") as log:
            return subprocess.Popen(["bash", self.path], env=values, stderr=log, start_new_session=True)

    def run(self, srun: str = "exit 0", show: str = RUNNING, **environment: str) -> int:
        return self.start(srun, show, **environment).wait(30)

    @property
    def is_started_again(self) -> bool:
        return "requeue 7" in self.fakes.calls("scontrol")


Submit = Callable[..., Script]


@pytest.fixture
def submit(tmp_path: Path, fakes: Fakes) -> Submit:
    """Submits a job, in the folder `folder` of the test's; the script and the environment of sbatch are kept."""
    script = shlex.quote(str(tmp_path / "slurm_script"))
    fakes.add("sbatch", f'cat "$1" >{script}; env >{script}.env; echo "Submitted batch job 7"')

    def submitted(*options: str, folder: str = "submission", elements: int = 1, setup: tuple[str, ...] = ()) -> Script:
        settings = load_settings({"setup": list(setup)} if setup else {}, "test", options).training
        parameters = sbatch_parameters(settings, "name", tmp_path / "source", None)
        jobs = [SlurmJob(tmp_path, [Target("training", str(place))], 90) for place in range(elements)]
        assert submit_array(jobs, tmp_path / folder, parameters) == "7"
        return Script(tmp_path / "slurm_script", fakes, tmp_path / "log")

    return submitted


@pytest.mark.parametrize("status", [0, 1, 75, 137, 140, 143])
def test_the_status_is_the_ranks_and_only_a_killed_process_starts_again(submit: Submit, status: int) -> None:
    """137: kill -9 or out of memory. 140: SIGUSR2 before it listened. 143: told to stop; SLURM or a person decides."""
    script = submit()
    assert script.run(f"exit {status}") == status
    assert script.is_started_again == (status in (137, 140))


def test_a_killed_process_starts_again_so_often_and_only_in_a_running_job(submit: Submit) -> None:
    script = submit("restarts=2")
    assert script.run("exit 140", SLURM_RESTART_COUNT="2") == 140 and not script.is_started_again
    assert script.run("exit 140", show='echo "JobId=7 JobState=CANCELLED "') == 140 and not script.is_started_again
    assert script.run("exit 140", show="exit 1") == 140 and not script.is_started_again
    assert script.run("exit 140", SLURM_RESTART_COUNT="1") == 140 and script.is_started_again


def test_the_warning_of_the_time_limit_does_not_end_the_script(submit: Submit, tmp_path: Path) -> None:
    """Not while the ranks are started, at work or ending, and not after; `scancel --full` sends it to all of these."""
    begun = tmp_path / "begun"
    script = submit(setup=(f"touch {begun}", "sleep 0.3"))
    running = script.start("sleep 0.5; exit 0")
    while not begun.exists():
        time.sleep(0.002)
    while running.poll() is None:
        os.killpg(running.pid, signal.SIGUSR2)
        time.sleep(0.002)
    assert running.returncode == 0


@pytest.mark.parametrize(
    ("commands", "status", "said"),
    [
        (("no_such_command -x",), 127, "no_such_command -x: no_such_command: command not found"),
        (("export A=1", "ls /nowhere; export B=2"), 2, "ls /nowhere; export B=2: ls: cannot access '/nowhere'"),
        (("load() { echo no such module >&2; return 3; }", "load it"), 3, "load it: no such module"),
        (("source /nowhere/env.sh",), 1, "source /nowhere/env.sh: /nowhere/env.sh: No such file or directory"),
        (("exit 0",), 1, "exit 0"),
        (("set -u", "cd $NOT_SET"), 1, "cd $NOT_SET: NOT_SET: unbound variable"),
    ],
)
def test_a_set_up_that_fails_ends_the_job_with_its_message(
    submit: Submit, commands: tuple[str, ...], status: int, said: str
) -> None:
    script = submit(setup=(*commands, "echo not reached >&2"))
    assert script.run(LC_ALL="C") == status
    assert script.fakes.calls("srun") == []
    told = telling(script.log)
    assert told.is_cause and told.line.startswith("set-up failed with status ") and f": {said}" in told.line


def test_what_a_set_up_may_do(submit: Submit, tmp_path: Path) -> None:
    """Things that end with a status other than 0 and are no failure; and it does not change how the job ends."""
    (tmp_path / "env.sh").write_text("grep -q x /dev/null\nexport LOADED='a b'\n")
    script = submit(
        setup=(
            f"source {tmp_path}/env.sh",
            "[ -d /nowhere ] && cd /nowhere",
            "grep -q x /dev/null || true",
            "set -eu -o pipefail",
            "for i in 1 2; do\n  test $i = 1 || export SECOND=$i\ndone",
        )
    )
    assert script.run('[ "$LOADED$SECOND" = "a b2" ] && exit 137 || exit 1') == 137
    assert script.is_started_again


def test_a_run_that_starts_again_marks_its_log(submit: Submit) -> None:
    script = submit()
    script.run("echo told >&2", SLURM_RESTART_COUNT="1")
    assert script.log.read_text() == "== run 2\ntold\n"


def test_sbatch_asks_the_cluster_that_squeue_asks(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"SLURM_CONF": "/etc/other.conf", "SLURM_CLUSTERS": "other", "SLURM_CONF_SERVER": "host"}
    of_a_job = {"SLURM_JOB_ID": "3", "SBATCH_PARTITION": "x", "SLURM_NTASKS": "4"}
    for name, value in (points | of_a_job).items():
        monkeypatch.setenv(name, value)
    submit()
    seen = dict(line.split("=", 1) for line in (tmp_path / "slurm_script.env").read_text().splitlines() if "=" in line)
    assert points.items() <= seen.items() and not of_a_job.keys() & seen.keys()
    assert {name: os.environ[name] for name in points | of_a_job} == points | of_a_job


@pytest.mark.parametrize("elements", [1, 3])
@pytest.mark.parametrize("folder", ["50% of it", "%j/%a%t%A", "%%x", 'it\'s a "b" $HOME `x` #1; & (é)', "a:b"])
def test_the_name_of_the_folder_is_taken_as_it_is(submit: Submit, tmp_path: Path, folder: str, elements: int) -> None:
    script = submit(folder=folder, elements=elements)
    names = ["7_0", "7_1", "7_2"] if elements == 3 else ["7"]
    submission = tmp_path / folder
    expected = {f"{name}_submitted.pkl" for name in names} | {"7_submission.sh"}
    assert {path.name for path in submission.iterdir()} == expected
    assert not list(tmp_path.glob("7*"))
    stem = str(submission).replace("%", "%%") + ("/%A_%a" if elements == 3 else "/%j")
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in script.path.read_text().splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert shlex.split(options["output"]) == [f"{stem}_0_log.out"] and shlex.split(options["error"]) == [
        f"{stem}_0_log.err"
    ]
    script.run('printf "%s\\n" "$@" >"$ARGUMENTS"', ARGUMENTS=str(tmp_path / "arguments"))
    arguments = (tmp_path / "arguments").read_text().splitlines()
    outputs = [a.removeprefix("--output=") for a in arguments if a.startswith("--output=")]
    outputs = outputs or [arguments[arguments.index("--output") + 1]]
    assert outputs == [f"{stem}_%t_log.out"]
    assert arguments[-2:] == [str(tmp_path / "source" / "harness" / "dispatch" / "slurm" / "start.py"), str(submission)]


@pytest.mark.parametrize("folder", ["back\\slash", "two\nlines"])
def test_a_folder_in_which_slurm_cannot_name_a_log_is_refused(submit: Submit, fakes: Fakes, folder: str) -> None:
    with pytest.raises(Refused, match="with a backslash or a line break in its name; choose another"):
        submit(folder=folder)
    assert fakes.calls("sbatch") == []
