"""A sweep's own report and the published one of the same name never meet."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app as cli
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError
from harness.store.store import Store, is_published
from tests.report.conftest import Ran
from tools.same_figures import main, published

ROOT = Path(__file__).parents[2]
NAME = "hardly-trained"


@pytest.fixture
def mine(ran: Ran, tmp_path: Path) -> Path:
    """A copy of the sweep's results that a test may change."""
    return Path(shutil.copytree(ran.results, tmp_path / "results"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def made(results: Path, *arguments: object) -> Path:
    """Where the command says that its report lies."""
    command = [*map(str, arguments), "--results", str(results), "--json"]
    try:
        done = CliRunner().invoke(cli.app, command, env={"HARNESS_CLUSTER": "inline"}, catch_exceptions=False)
    finally:
        assert gc.isenabled(), "the command leaves the collector as it found it"
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)["report"])


def test_a_published_report_is_left_alone_by_the_sweep_that_made_it(ran: Ran, mine: Path) -> None:
    assert made(mine, "sweep", ran.sweep) == mine / NAME, "nothing is published yet"
    assert made(mine, "report", ran.sweep, "--publish") == mine / NAME and is_published(mine / NAME)
    (mine / NAME / "table.md").write_text("as it was published")
    before = bytes_of(mine / NAME)
    own = mine / "local" / NAME
    for command in ("sweep", "report"):
        assert made(mine, command, ran.sweep) == own, command
    assert bytes_of(own).keys() == before.keys() and not is_published(own)
    assert made(mine, "time", ran.sweep) == own
    assert bytes_of(mine / NAME) == before
    made(mine, "report", ran.sweep, "--publish")
    assert bytes_of(mine / NAME) != before


def test_a_published_report_stays_one_when_it_is_made_again_from_its_cells(ran: Ran, mine: Path) -> None:
    made(mine, "report", mine / NAME, "--publish")
    before = bytes_of(mine / NAME)
    assert made(mine, "report", mine / NAME) == mine / NAME
    assert bytes_of(mine / NAME) == before and is_published(mine / NAME)


def test_a_look_by_another_measure_leaves_a_published_report_alone(ran: Ran, mine: Path) -> None:
    made(mine, "report", mine / NAME, "--publish")
    before = bytes_of(mine / NAME)
    own = made(mine, "report", mine / NAME, "--metric", "kernel")
    assert own == mine / "local" / NAME and not is_published(own)
    assert bytes_of(mine / NAME) == before and bytes_of(own).keys() == before.keys()
    assert made(mine, "report", mine / NAME, "--metric", "kernel", "--publish") == mine / NAME, "if it is asked for"
    assert bytes_of(mine / NAME) != before


def test_an_own_report_is_published_from_its_cells_with_its_samples(ran: Ran, mine: Path) -> None:
    made(mine, "report", mine / NAME, "--publish")
    own = made(mine, "sweep", ran.sweep)
    shutil.rmtree(mine / NAME)
    assert made(mine, "report", own, "--publish") == mine / NAME
    assert "samples.png" in bytes_of(mine / NAME) and is_published(mine / NAME)


def test_after_a_sweep_of_a_published_report_git_has_nothing_to_say(ran: Ran, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    results = Path(shutil.copytree(ran.results, tmp_path / "results"))
    made(results, "report", ran.sweep, "--publish")
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "published")
    own = made(results, "sweep", ran.sweep)
    assert own == results / "local" / NAME and (own / "table.md").exists()
    assert git("status", "--porcelain") == ""
    assert published(own) == results / NAME
    main([str(own)])  # against what is under version control


@pytest.mark.parametrize("kept", sorted(ROOT.glob("results/*/cells.json")), ids=lambda path: path.parent.name)
def test_what_this_repository_publishes_is_marked_so(kept: Path) -> None:
    assert is_published(kept.parent)
    assert Store(ROOT / "results").report_folder(kept.parent.name) == ROOT / "results" / "local" / kept.parent.name


@pytest.mark.parametrize("name", ["runs", "local", "reported.csv"])
def test_a_sweep_is_not_called_what_lies_beside_the_reports(name: str, tmp_path: Path) -> None:
    sweep = tmp_path / "s.yaml"
    sweep.write_text(f"name: {name}\narms: {{a: {{}}}}\n")
    with pytest.raises(ConfigError, match=f"name: '{name}' is taken in the folder of results"):
        load_sweep(sweep)


@pytest.mark.parametrize("head", ["", "[]\n", "{\n", '{"options": 3}\n', '{"options": {"published": "yes"}}\n'])
def test_a_damaged_report_is_not_a_published_one(head: str, tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text(head)
    assert not is_published(tmp_path)
