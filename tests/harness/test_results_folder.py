"""A folder of results that cannot be one: one message with status 2 in every command, and nothing written."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest

from harness.cli import app as cli
from tests.harness.tiny import write_sweep

READING = [["sweep", "--dry-run"], ["status"], ["logs", "a"], ["sweep"], ["retry"], ["cancel"]]
WRITING = [["sweep"], ["report"], ["time"]]


def status(command: list[str], sweep: Path, results: Path) -> int:
    name, *rest = command
    words = ["harness", name, str(sweep), *rest, "--results", str(results)]
    words += ["--cluster", "inline"] if name in ("sweep", "retry") else []
    with mock.patch.object(sys, "argv", words), pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def check(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    assert str(results) in said and "Traceback" not in said


@pytest.mark.parametrize("command", [*READING, *WRITING[1:]], ids=" ".join)
@pytest.mark.parametrize("kind", ["a file", "in a file", "a loop", "runs is a file"])
def test_what_is_no_folder(command: list[str], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "results"
    if kind == "a loop":
        place.symlink_to(place)
    elif kind == "runs is a file":
        place.mkdir()
        (place / "runs").touch()
    else:
        place.touch()
    results = place / "below" if kind == "in a file" else place
    assert status(command, write_sweep(tmp_path), results) == 2
    check(capsys, place)


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_where_nothing_can_be_written(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(command, write_sweep(tmp_path), Path("/proc/results")) == 2
    check(capsys, Path("/proc/results"))


@pytest.mark.parametrize("command", [["cancel"], ["status"], ["sweep", "--dry-run"]], ids=" ".join)
def test_what_only_looks_makes_no_folder(command: list[str], tmp_path: Path) -> None:
    assert status(command, write_sweep(tmp_path), tmp_path / "results") == 0
    assert not (tmp_path / "results").exists()
