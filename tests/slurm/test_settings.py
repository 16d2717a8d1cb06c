"""Cluster settings: sources and their order, and what a person is told of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.dispatch.slurm.sbatch import sbatch_options, sbatch_parameters
from harness.dispatch.slurm.settings import (
    KINDS,
    OWN_KEYS,
    JobSettings,
    load_settings,
    preferred_place,
    seconds_of,
    user_file,
)
from harness.dispatch.sweep import load_sweep
from harness.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


READ_OR_REFUSED = "as it is written, or not at all"


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
        ({"kind": "slrum"}, r"cluster: kind: 'slrum' is not one of .*\(did you mean 'slurm'\?\)"),
        ({"trainings": {"kind": "slurm"}}, "trainings.kind: unknown key"),
        ({"account": 83}, "cluster: account: 83 is a number to YAML; text is needed: write it in quotes"),
        ({"cells": {"qos": False}}, "cells.qos: False is a yes or no to YAML; text is needed: write it in quotes"),
        ({"memory": 16}, "memory: 16 is a number to YAML; write it as 500M or 16G"),
        ({"gpu_type": "a100"}, "gpu_type: a100 needs gpus"),
        ({"after": "soon"}, "after: 'soon' is no job to wait for; write it as 12345 or afterany:12345"),
        ({"after": 1.5}, "after: 1.5 is no job to wait for"),
        ({"memory": "1G", "sbatch": {"mem-per-cpu": "1G"}}, "sbatch.mem-per-cpu: memory is 1G per node already"),
    ],
)
def test_mistakes_are_named(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(section, "s.yaml")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        *((option, f"has a key of its own here: {key}$") for option, key in OWN_KEYS.items()),
        ("memory", "is no option of sbatch but a key of its own here: memory"),
        ("cpus_per_task", "has a key of its own here: cpus"),
        ("part", r"is an abbreviation \(partition\); write an option of sbatch in full"),
        ("t", r"is an abbreviation \(test-only, time, .*\)"),
        ("gres", "GPUs have keys of their own here: gpus, gpu_type"),
    ],
)
def test_what_has_a_key_of_its_own_is_no_free_option(option: str, said: str) -> None:
    """Or the harness's checks, and its GPU-hours, would be of another value than the job's."""
    for section in ({"sbatch": {option: "gpu:1"}}, {"cells": {"sbatch": {option: "gpu:1"}}}):
        with pytest.raises(ConfigError, match=rf"sbatch\.{option}: {said}"):
            load_settings(section, "s.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exclusive: yes", ["--exclusive"]),
        ("exclusive: no", []),
        ("exclusive: user", ["--exclusive=user"]),
        ("nice: 7", ["--nice=7"]),
        ("begin: '16:00'", ["--begin=16:00"]),
        ("begin: 16:00", READ_OR_REFUSED),
        ("reservation: 0123", READ_OR_REFUSED),
        ("time-min: 1:30:00", READ_OR_REFUSED),
        ("begin: 2026-12-01", READ_OR_REFUSED),
        ("reservation: no", READ_OR_REFUSED),
        ("mail-user:", None),
        ("reservation: '0123'", ["--reservation=0123"]),
        ("gres: lscratch:100", ["--gres=lscratch:100"]),
        ("licenses: [a, b]", None),
    ],
)
def test_a_free_option_keeps_the_text_that_was_written_or_is_refused(text: str, expected: Any) -> None:
    user_file().parent.mkdir()
    user_file().write_text(f"sbatch:\n  {text}\n")
    try:
        settings = load_settings({}, "s.yaml").training
    except ConfigError as refused:
        assert expected in (None, READ_OR_REFUSED) and "sbatch" in str(refused)
        return
    if expected == READ_OR_REFUSED:
        expected = [f"--{text.replace(': ', '=')}"]
    plain = sbatch_options(sbatch_parameters(JobSettings(), "n", Path("s"), None), Path("f"), 1)
    given = sbatch_options(sbatch_parameters(settings, "n", Path("s"), None), Path("f"), 1)
    assert [option for option in given if option not in plain] == expected


class Written(int):
    """A number of a file that remembers how it was written."""

    text = "0123"


def test_a_number_that_remembers_its_text_is_that_text() -> None:
    settings = load_settings({"account": Written(83), "sbatch": {"reservation": Written(83)}}, "s.yaml").training
    assert (settings.account, settings.sbatch) == ("0123", {"reservation": "0123"})


def test_a_later_source_takes_a_flag_back() -> None:
    settings = load_settings({"sbatch": {"exclusive": True}}, "s.yaml", ["cells.sbatch.exclusive=false"])
    assert settings.training.sbatch == {"exclusive": True} and settings.cell.sbatch == {}


def test_every_problem_of_a_source_is_told_at_once() -> None:
    section = {"sbatch": {"time": 172800, "exclusive": False, "account": 83}, "account": 83, "cells": {"gpu": 1}}
    with pytest.raises(ConfigError) as refused:
        load_settings(section, "s.yaml")
    assert len(refused.value.problems) == 4


def test_text_on_the_command_line_is_taken_as_it_is_written() -> None:
    options = ["account=0123", "time=4:00:00", "cells.sbatch.begin=16:00", "sbatch.wckey=no", "after=12_3"]
    settings = load_settings({}, "s.yaml", options)
    assert (settings.training.account, settings.training.minutes) == ("0123", 240)
    assert settings.cell.sbatch == {"begin": "16:00", "wckey": "no"}
    assert settings.training.dependencies == ["afterok:12_3"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12345, ["afterok:12345"]),
        ("12345_7", ["afterok:12345_7"]),
        ("afterany:12:13", ["afterany:12:13"]),
        ([12, "afternotok:13"], ["afterok:12", "afternotok:13"]),
        (None, []),
    ],
)
def test_jobs_to_wait_for(value: Any, expected: list[str]) -> None:
    assert load_settings({"after": value}, "s.yaml").cell.dependencies == expected


def test_the_type_of_gpu_is_asked_for() -> None:
    settings = load_settings({"gpus": 2, "cells": {"gpus": 1}, "gpu_type": "a100"}, "s.yaml")
    asked = [sbatch_parameters(settings.of(kind), "n", Path("s"), None)["gpus_per_node"] for kind in KINDS]
    assert dict(zip(KINDS, asked, strict=True)) == {
        "encoding": "a100:2",
        "training": "a100:2",
        "table": "a100:1",
        "cell": "a100:1",
    }
    assert settings.training.gpu_hours == 8


def test_where_a_sweep_runs_is_said_by_its_file_before_the_users() -> None:
    assert preferred_place({}, "s.yaml") is None
    user_file().parent.mkdir()
    user_file().write_text("kind: local\n")
    assert preferred_place({}, "s.yaml") == ("local", str(user_file()))
    assert preferred_place({"kind": "inline"}, "s.yaml") == ("inline", "s.yaml")
    with pytest.raises(ConfigError, match="--slurm: kind: where a sweep runs is said by --cluster local"):
        load_settings({}, "s.yaml", ["kind=local"])


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
    """What looks like a number is text where text is; a flag of sbatch set to no is left out."""
    user_file().parent.mkdir()
    user_file().write_text("# nothing yet\n", encoding="utf-8")
    assert load_settings({}, "s.yaml").cell.account is None
    user_file().write_text("account: 0123\nsbatch: {nice: 010, exclusive: true}\n", encoding="utf-8")
    sweep = tmp_path / "s.yaml"
    sweep.write_text(
        "name: s\narms: {a: {}}\ncluster: {qos: 1e3, time: 48:00:00, gpus: 2.0, sbatch: {wckey: 007, hold: no}}\n",
        encoding="utf-8",
    )
    options = ["constraint=a100&80gb", "cells.account=007", "sbatch.begin=*x: #3", "sbatch.reboot=true", "memory=null"]
    settings = load_settings(load_sweep(sweep).config.cluster, str(sweep), options)
    assert (settings.training.account, settings.cell.account) == ("0123", "007")
    assert (settings.training.qos, settings.training.minutes, settings.training.gpus) == ("1e3", 2880, 2)
    assert (settings.training.constraint, settings.training.memory) == ("a100&80gb", None)
    assert settings.training.sbatch == {
        "nice": "010", "exclusive": True, "wckey": "007", "begin": "*x: #3", "reboot": True,
    }  # fmt: skip
