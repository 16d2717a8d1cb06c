"""Records of submissions: whose they are, and what is left of one that is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.dispatch import status as status_module
from harness.dispatch.plan import plan
from harness.dispatch.slurm.queue import Job, Queue
from harness.dispatch.slurm.submissions import (
    SubmittedArray,
    SweepKey,
    all_assignments,
    assignments,
    load_submissions,
    new_submission,
    read_records,
)
from harness.dispatch.status import read_status
from harness.store.store import Target
from tests.slurm.sweeping import Running


@pytest.fixture
def sweep(tmp_path: Path) -> Running:
    return Running(tmp_path)


def submit(sweep: Running, name: str = "tiny", job: str = "1", **known: Any) -> Path:
    """A record of one training's job; returns its file."""
    made = new_submission(sweep.store, name, "source", **known)
    made.arrays = [SubmittedArray(f"{name}-trainings-{made.mark}.0", "training", ((sweep.trainings[0].id,),), job=job)]
    made.save()
    return made.folder / "record.json"


DAMAGE = {
    "cut": lambda text: text[:60],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "without its arrays": lambda text: json.dumps({**json.loads(text), "arrays": None}),
    "with an array of nothing": lambda text: json.dumps({**json.loads(text), "arrays": [{"job": 3}]}),
    "with a time that is none": lambda text: json.dumps({**json.loads(text), "created": "soon"}),
    "not UTF-8": lambda text: b"\xff\xfe" + text.encode(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_passed_over_and_said(sweep: Running, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = submit(sweep, "other", job="7")
    whole = submit(sweep)
    broken = DAMAGE[damage](damaged.read_text())
    damaged.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    records = read_records(sweep.store)
    assert [submission.folder for submission in records.submissions] == [whole.parent]
    assert str(damaged) in records.note and "its jobs are left out" in records.note
    (found,) = records.damaged
    assert found.sweep_of(f"other-trainings-{damaged.parent.name[-6:]}.0") == "other"
    assert found.sweep_of(f"tiny-trainings-{whole.parent.name[-6:]}.0") is None
    assert load_submissions(sweep.store) == records.submissions
    monkeypatch.setattr(status_module, "read_queue", lambda users, wanted: Queue({}, "accounting is off"))
    note = read_status(plan(sweep.sweep, sweep.store), sweep.store).note
    assert note.startswith("accounting is off; ") and str(damaged) in note


def test_a_record_comes_back_as_it_was_written(sweep: Running) -> None:
    submit(sweep, file="f", overrides=["train.steps=3"], slurm=["nice=7"], shared=["3_1"], left=2)
    (read,) = load_submissions(sweep.store)
    assert (read.file, read.overrides, read.slurm, read.shared, read.left) == (
        "f",
        ["train.steps=3"],
        ["nice=7"],
        ["3_1"],
        2,
    )
    assert read.arrays[0].elements == ((sweep.trainings[0].id,),)


def test_whose_a_submission_is(sweep: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(sweep.file)
    submit(sweep, name="old-name", file=file, overrides=["seed=1"])
    (made,) = load_submissions(sweep.store)
    assert made.is_of(SweepKey("new-name", file, ("seed=1",)))  # the name was edited
    assert made.is_of(SweepKey("old-name", "/elsewhere", ("seed=1",)))  # the file was moved
    assert not made.is_of(SweepKey("old-name", file, ()))  # with --set it is another sweep
    assert not made.is_of(SweepKey("new-name", "/elsewhere", ("seed=1",)))
    monkeypatch.chdir(sweep.folder)
    assert made.is_of(SweepKey.of_file(Path(sweep.file.name), ["seed=1"]))


def test_records_of_an_older_version_are_known_by_their_names(sweep: Running) -> None:
    path = submit(sweep)
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("file", "overrides", "slurm", "shared")}
    path.write_text(json.dumps(kept))
    (made,) = load_submissions(sweep.store)
    assert made.is_of(SweepKey.of(sweep.sweep)) and not made.is_of(SweepKey("other", "f", ()))


def test_all_jobs_of_a_target_are_known_and_the_newest_counts(sweep: Running) -> None:
    submit(sweep, job="1")
    submit(sweep, job="2")
    training = Target("training", sweep.trainings[0].id)
    made = load_submissions(sweep.store)
    assert [one.job for one in all_assignments(made)[training]] == ["1", "2"]
    assert assignments(made)[training].job == "2"


def test_live_jobs_of_an_earlier_version_are_those_that_make_nothing_any_more(
    sweep: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = submit(sweep, job="5")
    job = Job("5", f"tiny-trainings-{path.parent.name[-6:]}.0", "RUNNING")
    monkeypatch.setattr(status_module, "read_queue", lambda users, wanted: Queue({"5": job}))
    assert read_status(plan(sweep.sweep, sweep.store), sweep.store).earlier == []
    sweep.file.write_text(sweep.text.replace("steps: 60", "steps: 61"))
    assert read_status(plan(sweep.sweep, sweep.store), sweep.store).earlier == ["5"]
