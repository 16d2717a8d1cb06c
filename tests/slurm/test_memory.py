"""More memory for what ran out of it, and only for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.dispatch.slurm import memory as memory_module
from harness.dispatch.slurm.memory import more_memory, ran_out_of_memory
from harness.dispatch.slurm.queue import SlurmError
from harness.dispatch.slurm.settings import load_settings
from harness.dispatch.slurm.submissions import Assignment, Submission, SubmittedArray
from harness.dispatch.status import Row, SweepStatus
from harness.store.store import Target

CELL, TRAINING = Target("cell", "c"), Target("training", "t")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def assigned(folder: Path, target: Target, memory: str | None, said: str = "") -> Assignment:
    (folder / "7_0_log.err").write_text(said)
    array = SubmittedArray("n", target.kind, ((target.id,),), job="7", memory=memory)
    return Assignment("7", "n", Submission(folder, "s", "source"), (), array)


@pytest.mark.parametrize(
    ("reason", "said", "expected"),
    [
        ("the job ran out of memory", "", True),
        ("MemoryError: Unable to allocate 1.00 TiB", "", True),
        ("its process was killed", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", True),
        ("its process was killed", "srun: error: n1: task 0: Out Of Memory", True),
        ("its process was killed", "slurmstepd: error: Exceeded job memory limit", True),
        ("its process was killed", "an example of out of memory, printed by a program", False),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "", False),  # a GPU's: no help in --mem
        ("ValueError: no", "", False),
    ],
)
def test_what_counts_as_out_of_memory(tmp_path: Path, reason: str, said: str, expected: bool) -> None:
    assert ran_out_of_memory(Row(CELL, "failed", reason), assigned(tmp_path, CELL, None, said)) is expected


def told(tmp_path: Path, memory: str | None, given: list[str]) -> tuple[list[str], list[str]]:
    status = SweepStatus(
        {CELL: Row(CELL, "failed", "the job ran out of memory"), TRAINING: Row(TRAINING, "failed", "ValueError: no")},
        assigned={CELL: assigned(tmp_path, CELL, memory), TRAINING: assigned(tmp_path, TRAINING, memory)},
    )
    return more_memory([CELL, TRAINING], status, load_settings({}, "s"), given)


def test_the_kind_that_ran_out_asks_for_twice_what_it_had(tmp_path: Path) -> None:
    assert told(tmp_path, "1500M", []) == (
        ["cells.memory=3000M"],
        ["1 cell ran out of memory with 1500M; cells ask for 3000M now"],
    )


@pytest.mark.parametrize("given", ["memory=3G", "cells.memory=3G"])
def test_what_a_person_says_stands(tmp_path: Path, given: str) -> None:
    assert told(tmp_path, "1G", [given]) == ([], [])


def test_the_partitions_default_is_asked_of_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module.queue, "run", lambda command: "2Gn\n")
    assert told(tmp_path, None, [])[0] == ["cells.memory=4G"]

    def off(command: list[str]) -> str:
        raise SlurmError("accounting is off")

    monkeypatch.setattr(memory_module.queue, "run", off)
    options, (sentence,) = told(tmp_path, None, [])
    assert options == [] and sentence.endswith("say how much they need: --slurm cells.memory=16G")
