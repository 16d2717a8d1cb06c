"""Processes of this machine (`--cluster local`): the folders that they may write to, and what they say at their end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import submitit
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.app import app
from harness.dispatch.local import run_local
from harness.dispatch.plan import plan
from harness.dispatch.sweep import load_sweep
from harness.store.store import Store
from tests.harness.test_own_packages import ROOT, SHADOW, SWEEP, shadows

DIES = """
import os, sys
if "SUBMITIT_LOCAL_JOB_ID" in os.environ:
    sys.stderr.write("OSError: of the library\\n")
    sys.stderr.flush()
    os._exit(3)
"""


def sweep(folder: Path, results: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(SWEEP)
    command = ["sweep", "tiny.yaml", "--cluster", "local", "--results", results, "--json"]
    values = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-P", "-m", "harness.cli", *command],
        cwd=folder,
        env=values,
        capture_output=True,
        text=True,
        check=False,
    )


def test_neither_the_results_name_nor_the_working_directory_reaches_into_jobs(tmp_path: Path) -> None:
    """The program is started as the installed command is, with `-P`: it imports nothing from the working directory,
    and its processes must not either."""
    name = 'it\'s a "b" #1, 50% %j %a'
    before = [*shadows(tmp_path), "harness"]
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text(SHADOW)
    done = sweep(tmp_path, name)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", name, *before}
    assert (tmp_path / name / "tiny" / "table.md").exists()
    logs = list((tmp_path / name / "runs" / "logs").glob("*/*_log.out"))
    assert len(logs) == 2 and all("Job completed successfully" in path.read_text() for path in logs)
    (training,) = load_sweep(tmp_path / "tiny.yaml").trainings
    asked = ["logs", str(tmp_path / "tiny.yaml"), training, "--results", str(tmp_path / name)]
    said = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert said.exit_code == 0 and "Job completed successfully" in said.stdout
    assert "a process of " in said.stdout


def test_a_process_that_ends_without_a_word_of_its_own_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIES)
    done = sweep(tmp_path, "50%j", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path / 'site'}")
    assert done.returncode == 1
    failures = json.loads(done.stdout)["failures"]
    (training,) = (name for name in failures if name.startswith("training"))
    reason = failures.pop(training)
    assert list(failures.values()) == [f"{training} failed: {reason}"]  # its cell is blocked, and does not run
    assert reason.startswith("the process ended without a result: OSError: of the library; its log: ")
    assert Path(reason.rpartition("its log: ")[2]).is_file()


def test_ctrl_c_while_a_process_is_being_started_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    submit, store = submitit.LocalExecutor.submit, Store(tmp_path / "results")

    def interrupted(executor: Any, job: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return submit(executor, job)

    monkeypatch.setattr(submitit.LocalExecutor, "submit", interrupted)
    planned = plan(load_sweep(tmp_path / "tiny.yaml"), store)
    with pytest.raises(KeyboardInterrupt, match=r"stopped; .*the same command goes on from there"):
        run_local(planned, store, Console(file=io.StringIO()), 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert not list(tmp_path.rglob("*.lease")), "the process that was started has been stopped"
