"""What squeue and sacct print, other people's lines among it, read into jobs. No cluster: the lines are SLURM's own."""

from __future__ import annotations

import pytest

from harness.dispatch.slurm import queue
from harness.dispatch.slurm.queue import Job, cancel, expand, read_ended, read_live, read_queue
from tests.slurm.fakes import Fakes

PENDING = [f"5_{index}" for index in (0, 1, 2, 7)]


def prints(fakes: Fakes, command: str, lines: list[str | bytes]) -> None:
    """Make `command` print the lines."""
    content = fakes.folder / f"{command}.txt"
    content.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    fakes.add(command, f"cat {content}")


def test_lines_of_other_kinds_and_names_of_any_kind_are_no_hindrance(fakes: Fakes) -> None:
    prints(
        fakes,
        "squeue",
        [
            "CLUSTER: one",
            "1|RUNNING|1700000000|n1|None|mine",
            "",
            b"2|RUNNING|1700000000|n1|None|caf\xe9 \xff",
            "3|PENDING|N/A||Priority|a|b || c",
            "4|PENDING|N/A||Priority|two",
            "lines of a name",
            "7|PENDING|N/A||Priority|name with \u2028, \x0b and \x85 in it",
            "CLUSTER: two",
            "5_[0-2,7%2]|PENDING|N/A||Resources|array",
            "6_[0,...]|PENDING|N/A||Resources|theirs",
            "12+1|RUNNING|1700000000|n[1-3]|None|of several parts",
            "",
        ],
    )
    jobs = read_live(["me"])
    assert jobs["1"] == Job("1", "mine", "RUNNING", "", "n1", 1.7e9)
    assert jobs["3"].name == "a|b || c" and jobs["2"].name.startswith("caf") and jobs["7"].name.endswith("in it")
    assert [id for id in jobs if id.startswith("5")] == PENDING
    assert all(jobs[id].is_pending for id in PENDING) and "12+1" in jobs
    assert "--array" in fakes.calls("squeue")[0]


def test_encodings_of_the_terminal_do_not_matter(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    prints(fakes, "squeue", ["1|RUNNING|N/A|n1|None|grün"])
    assert read_live(["me"])["1"].name == "grün"


@pytest.mark.parametrize(
    ("ids", "single"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("1_[0-5,7%2]", [f"1_{index}" for index in (0, 1, 2, 3, 4, 5, 7)]),
        ("1_[0-798:399%3]", ["1_0", "1_399", "1_798"]),
        ("1_[0,...]", ["1_0", "1_[...]"]),
        ("1_[0-3,8,...%4]", ["1_0", "1_1", "1_2", "1_3", "1_8", "1_[...]"]),
    ],
)
def test_lists_of_elements(ids: str, single: list[str]) -> None:
    assert list(expand(ids)) == single


@pytest.mark.parametrize("listed", ["9_[0-2,...]", "9"])
def test_elements_that_never_began_are_found_though_accounting_does_not_name_them(fakes: Fakes, listed: str) -> None:
    prints(fakes, "sacct", [f"{listed}|CANCELLED by 0|None|None assigned|0:0|None|cells"])
    ended = read_ended(["9_1", "9_700"])
    assert ended is not None
    assert ended["9_700"] == Job("9_700", "cells", "CANCELLED", "by 0") and ended["9_1"].reason == "by 0"


@pytest.mark.parametrize(
    ("squeue", "sacct", "reason"),
    [
        ([], ["1|CANCELLED by 1000|None|None assigned|0:0|None|mine"], "by 1000"),
        ([], ["1|CANCELLED|None|None assigned|0:0|None|mine"], ""),
        ([], ["1|CANCELLED|None|None assigned|0:0|Dependency|mine"], "Dependency"),
        (["1|CANCELLED|N/A||DependencyNeverSatisfied|mine"], [], "DependencyNeverSatisfied"),
        (["1|CANCELLED|N/A|n1|None|mine"], ["1|CANCELLED by 7|None|n1|0:0|None|mine"], "by 7"),
        (["1|CANCELLED|N/A|n1|None|mine"], ["1|CANCELLED|None|n1|0:0|None|mine"], ""),
        (["1|CANCELLED|N/A|n1|None|mine"], ["1|RUNNING|None|n1|0:0|None|mine"], "by scancel"),
        (["1|CANCELLED|N/A|n1|JobHeldUser|mine"], None, "by scancel"),
    ],
)
def test_who_cancelled_a_job(
    fakes: Fakes, squeue: list[str | bytes], sacct: list[str | bytes] | None, reason: str
) -> None:
    """Accounting says; where it is off or late, the queue remembers none that was cancelled for no known cause."""
    prints(fakes, "squeue", squeue)
    prints(fakes, "sacct", sacct or [])
    if sacct is None:
        fakes.add("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    job = read_queue(["me"], [("1", "mine")]).get("1", "mine")
    assert job is not None and (job.state, job.reason) == ("CANCELLED", reason)


def test_one_cancels_what_is_listed_and_the_whole_array_where_a_list_is_cut_short(fakes: Fakes) -> None:
    fakes.add("scancel", "")
    cancel(["3_1", "3_0", "4", "5_0", "5_[...]"])
    assert fakes.calls("scancel") == ["--quiet 3_[0,1] 4 5"]


def test_a_command_that_cannot_be_run_is_an_error_of_slurm(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.add("squeue", "")
    monkeypatch.setenv("PATH", str(fakes.folder))
    (fakes.folder / "squeue").write_bytes(b"\x7fELF no program")
    with pytest.raises(queue.SlurmError, match="squeue cannot be run here: Exec format error"):
        read_live(["me"])
