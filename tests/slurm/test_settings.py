"""Cluster settings: sources and their order, and what a person is told of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.slurm.settings import load_settings, seconds_of, user_file
from harness.sweep import load_sweep


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_later_sources_win_and_a_kind_wins_over_both() -> None:
    user_file().parent.mkdir()
    user_file().write_text(
        "account: lab\npartition: short\ntime: 2h\ncells: {partition: tiny}\nsbatch: {mail-user: me}\n"
    )
    section = {"partition": "gpu", "gpus": 1, "cells": {"time": "30m"}, "sbatch": {"reservation": "r"}}
    settings = load_settings(section, "s.yaml", ["trainings.nodes=2", "cells.gpus=0"])
    training, cell = settings.training, settings.cell
    assert (training.account, training.partition, training.minutes, training.nodes) == ("lab", "gpu", 120, 2)
    assert (cell.account, cell.partition, cell.minutes, cell.nodes) == ("lab", "gpu", 30, 1)
    assert (training.gpus, cell.gpus) == (1, 0)
    assert training.sbatch == {"mail-user": "me", "reservation": "r"}
    assert training.gpu_hours == 4 and cell.gpu_hours == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("4h", 14400), ("1d12h", 129600), ("2-01:00:30", 176430), ("00:10:00", 600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"time": 14400}, "s.yaml: cluster: time: 14400 has no unit"),
        ({"cells": {"time": "soon"}}, "s.yaml: cluster: cells.time: 'soon' is no duration; write it as 90s"),
        ({"partion": "gpu"}, r"partion: unknown key \(did you mean 'partition'\?\)"),
        ({"memory": "16"}, "memory: '16' is no size; write it as 500M or 16G"),
        ({"sbatch": {"array": "0-3"}}, "sbatch.array: is set by the harness"),
        ({"sbatch": {"Mail User": "x"}}, "sbatch.Mail User: is no long option of sbatch"),
        ({"time": "1m", "warning": "2m"}, "warning: 2m is not less than the time of 1m"),
        ({"nodes": 0}, "nodes: input should be greater than or equal to 1, not 0"),
    ],
)
def test_mistakes_are_named(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(section, "s.yaml")


def test_a_mistake_in_the_users_file_names_that_file() -> None:
    user_file().parent.mkdir()
    user_file().write_text("gpu: 1\n")
    with pytest.raises(ConfigError, match=rf"{user_file()}: gpu: unknown key \(did you mean 'gpus'\?\)"):
        load_settings({}, "s.yaml")


@pytest.mark.parametrize(("option", "said"), [("partition", "is not key=value"), ("cells.gpus.x=1", "gpus")])
def test_a_mistake_on_the_command_line_names_the_option(option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--slurm: .*{said}"):
        load_settings({}, "s.yaml", [option])


def test_texts_are_taken_as_they_are_written(tmp_path: Path) -> None:
    """From the user's file, a sweep's section and the command line: what looks like a number is text where text is."""
    user_file().parent.mkdir()
    user_file().write_text("# nothing yet\n", encoding="utf-8")
    assert load_settings({}, "s.yaml").cell.account is None
    user_file().write_text("account: 0123\nsbatch: {nice: 010, exclusive: true}\n", encoding="utf-8")
    sweep = tmp_path / "s.yaml"
    sweep.write_text(
        "name: s\narms: {a: {}}\ncluster: {qos: 1e3, time: 48:00:00, gpus: 2.0, sbatch: {wckey: 007, hold: no}}\n",
        encoding="utf-8",
    )
    options = ["constraint=a100&80gb", "cells.account=007", "sbatch.begin=*x: #3", "sbatch.reboot=true", "memory="]
    settings = load_settings(load_sweep(sweep).config.cluster, str(sweep), options)
    assert (settings.training.account, settings.cell.account) == ("0123", "007")
    assert (settings.training.qos, settings.training.minutes, settings.training.gpus) == ("1e3", 2880, 2)
    assert (settings.training.constraint, settings.training.memory) == ("a100&80gb", None)
    assert settings.training.sbatch == {
        "nice": "010", "exclusive": True, "wckey": "007", "hold": "no", "begin": "*x: #3", "reboot": True,
    }  # fmt: skip
