"""Where a sweep runs, why, and what a person is told of it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.hints import Asked
from harness.cli.place import choose
from harness.dispatch.sweep import Sweep, load_sweep
from harness.errors import ConfigError
from tests.slurm.sweeping import TINY

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "sweeps" / "quickstart.yaml"


@pytest.fixture(autouse=True)
def login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an `sbatch` that must not be called."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'sbatch was called' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("HARNESS_CLUSTER", "SLURM_JOB_ID", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    return program


def sweep(folder: Path, kind: str | None = None) -> Sweep:
    file = folder / "tiny.yaml"
    file.write_text(TINY + (f"cluster: {{kind: {kind}}}\n" if kind else ""))
    return load_sweep(file)


@pytest.mark.parametrize("named", ["inline", "local", "slurm", None])
def test_a_wrong_key_of_the_section_cluster_is_told_wherever_it_runs(named: str | None, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY + "cluster: {tiem: 4h}\n")
    with pytest.raises(ConfigError, match=r"tiny.yaml: cluster: tiem: unknown key .did you mean 'time'"):
        choose(named, [], load_sweep(file))


def test_the_order_of_who_says_where(tmp_path: Path, login_node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, inline = sweep(tmp_path), sweep(tmp_path, "inline")
    assert choose(None, [], plain).kind == "slurm"
    assert choose(None, [], inline).kind == "inline"
    assert choose("local", [], inline).kind == "local"
    assert choose(None, [], inline, was_submitted=True).kind == "slurm"
    config = tmp_path / "config" / "harness" / "cluster.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("kind: local\n")
    assert choose(None, [], plain).kind == "local"
    assert choose(None, [], inline).kind == "inline"
    config.unlink()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert choose(None, [], plain).kind == "inline"
    monkeypatch.delenv("SLURM_JOB_ID")
    login_node.unlink()
    assert choose(None, [], plain).kind == "inline"


def test_what_is_chosen_is_said_with_its_reason_and_the_way_out(
    tmp_path: Path, login_node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, inline = sweep(tmp_path), sweep(tmp_path, "inline")
    said = choose(None, [], plain).sentence
    assert said == "submits to SLURM (there is sbatch on this machine); --cluster inline runs it here"
    said = choose(None, [], inline).sentence
    assert said == f"runs here, one by one (cluster.kind in {inline.path}); --cluster slurm submits it"
    assert "(--cluster)" in choose("inline", [], plain).sentence
    monkeypatch.setenv("HARNESS_CLUSTER", "inline")
    assert "(HARNESS_CLUSTER)" in choose("inline", [], plain).sentence
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert "inside SLURM's job 12, though on this machine: srun" in choose(None, [], plain).sentence
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert "(inside SLURM's job 12)" in choose(None, [], plain).sentence
    monkeypatch.delenv("SLURM_JOB_ID")
    login_node.unlink()
    said = choose(None, [], plain).sentence
    assert "there is no sbatch on this machine" in said and "--cluster local --workers N runs N at once" in said


@pytest.mark.parametrize(
    ("named", "slurm", "said"),
    [
        ("slrum", [], r"--cluster: 'slrum' is not one of inline, local, slurm \(did you mean 'slurm'\?\)"),
        (None, ["partition=x"], "partition=x: has no meaning with --cluster inline .*; --cluster slurm submits it"),
    ],
)
def test_mistakes_name_the_cure(tmp_path: Path, named: str | None, slurm: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(named, slurm, sweep(tmp_path, "inline"))


def test_the_quickstart_runs_here_where_there_is_sbatch(tmp_path: Path) -> None:
    """Or the README's first command would submit, and give no table."""
    done = CliRunner().invoke(
        app, ["sweep", str(QUICKSTART), "--dry-run", "--json", "--results", str(tmp_path / "results")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["where"] == {"cluster": "inline", "why": f"cluster.kind in {QUICKSTART}"}


def test_a_sweep_that_is_not_submitted_says_so_before_it_runs(tmp_path: Path) -> None:
    made = sweep(tmp_path, "inline")
    text = made.path.read_text().replace("steps: 60", "steps: 2")
    made.path.write_text(text)
    done = CliRunner().invoke(app, ["sweep", str(made.path), "--results", str(tmp_path / "results")])
    assert done.exit_code == 0, done.output
    first, second, *rest = done.output.splitlines()
    assert re.search("1 trainings? and 2 cells to run", first)
    assert second.startswith("runs here, one by one (cluster.kind in ")
    assert any("report:" in line for line in rest)


def test_a_command_that_is_told_gives_again_what_was_given() -> None:
    asked = Asked(
        Path("my sweep.yaml"), ["data.label=run #3", "train.steps=5"], Path("/r s"), "slurm", ["sbatch.comment=a b"]
    )
    words = shlex.split(asked.command("sweep", "--wait", submits=True))
    assert words == [
        "harness", "sweep", "my sweep.yaml", "--wait", "--set", "data.label=run #3", "--set", "train.steps=5",
        "--results", "/r s", "--cluster", "slurm", "--slurm", "sbatch.comment=a b",
    ]  # fmt: skip
    assert "--slurm" not in asked.command("status") and "--cluster" not in asked.command("status")
    assert Asked(Path("s.yaml")).command("status") == "harness status s.yaml"


@pytest.mark.parametrize("extra", [["--set", "train.steps=3"], []])
def test_every_command_that_is_printed_can_be_pasted(tmp_path: Path, extra: list[str]) -> None:
    """What status, a report and a retry with nothing to do advise, typed in as it stands there."""
    made = sweep(tmp_path, "inline")
    options = ["--results", str(tmp_path / "results"), *extra]
    told = []
    for command in (["status"], ["retry"], ["report"]):
        done = CliRunner().invoke(app, [command[0], str(made.path), *options])
        assert done.exit_code == 0, done.output
        told += [line[line.index("harness ") :] for line in done.output.splitlines() if "harness " in line]
    page = next((tmp_path / "results").glob("tiny*/index.html")).read_text()
    told.append(page[page.index("harness report") :].partition("</code>")[0])
    assert len(told) == 3
    for line in told:
        words = shlex.split(line)
        assert [word for word in options if word not in words] == []
        again = CliRunner().invoke(app, [*words[1:], *(["--dry-run"] if words[1] == "sweep" else [])])
        assert again.exit_code == 0, again.output
