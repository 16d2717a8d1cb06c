"""What a job tells while it works, what it does with damage, without space, and while another job holds its target."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.engine import jobs
from harness.errors import Blocked, DiskFull, StoreError, is_full
from harness.store import checkpoints
from harness.store.identity import identify
from harness.store.lease import lease
from harness.store.records import NewerRecord
from harness.store.store import DamagedRecord, Store, Target
from tests.harness.tiny_experiments import tiny

EXPERIMENT = tiny(sample={"seeds": [0, 1]}, measure={"latency": {"repeats": 2, "warmup": 1}})
TRAINING_ID, CELL_ID = identify(EXPERIMENT)
TRAINING, CELL = Target("training", TRAINING_ID), Target("cell", CELL_ID)


def prepared(folder: Path) -> Store:
    store = Store(folder)
    for target in (TRAINING, CELL):
        store.save_experiment(target, EXPERIMENT)
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, list[tuple[int, int, str]]]]:
    """(A store with a training and its cell, what each job told)."""
    store = prepared(tmp_path_factory.mktemp("made"))
    told: dict[str, list[tuple[int, int, str]]] = {}
    for target in (TRAINING, CELL):
        calls = told.setdefault(target.kind, [])
        jobs.run(store, target, lambda done, total, phase="", calls=calls: calls.append((done, total, phase)))
    return store, told


def test_a_job_names_its_phases_and_counts_in_them(made: tuple[Store, dict[str, list[tuple[int, int, str]]]]) -> None:
    store, told = made
    assert told["training"] == [(step, 6, "") for step in range(7)]
    phases = [phase for _, _, phase in told["cell"]]
    assert list(dict.fromkeys(phases)) == ["", "reference", "features", "counting", "timing"]
    counts = {name: [(done, total) for done, total, phase in told["cell"] if phase == name] for name in set(phases)}
    assert counts[""] == [(done, 16) for done in range(0, 17, 4)]
    assert counts["reference"][-1] == (1797, 1797)
    assert counts["features"] == [(0, 16), (8, 16), (8, 16), (16, 16)]
    assert counts["timing"] == [(run, 6) for run in range(7)]  # a warm-up and two repeats at two batches
    assert store.state(CELL)["state"] == "done" and store.state(CELL)["progress"] == [16, 16]


def test_a_job_that_waits_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = prepared(tmp_path)
    store.set_state(TRAINING, state="running", progress=[3, 6])
    monkeypatch.setattr(jobs, "WAITING_SECONDS", 0.01)
    told: list[tuple[int, int, str]] = []
    waits = threading.Event()

    def progress(done: int, total: int, phase: str = "") -> None:
        told.append((done, total, phase))
        waits.set()

    monkeypatch.setattr(jobs, "_work", lambda *arguments: None)
    with lease(store.lease_path(TRAINING)):
        waiting = threading.Thread(target=jobs.run, args=(store, TRAINING, progress))
        waiting.start()
        assert waits.wait(20)
    waiting.join(20)
    host = os.uname().nodename
    assert set(told) == {(3, 6, f"waiting, held by process {os.getpid()} on {host}")}
    with lease(store.lease_path(TRAINING)), pytest.raises(Exception, match=f"is held by process {os.getpid()}"):
        jobs.run(store, TRAINING, wait_seconds=0.0)


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_job_without_space_says_so_and_leaves_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = prepared(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(checkpoints, "save_tensors", no_space)
        with pytest.raises(DiskFull, match=r"checkpoint-.*: No space left on device; free some, and the same command"):
            jobs.run(store, TRAINING)
    assert "No space left on device" in store.state(TRAINING)["error"]
    with monkeypatch.context() as full:
        full.setattr(jobs, "_work", no_space)
        with pytest.raises(DiskFull, match=f"^{store.runs}: No space left on device; free some"):
            jobs.run(store, TRAINING)
    assert not list(tmp_path.rglob("*.lease*"))
    assert jobs.run(store, TRAINING)  # with space again it goes on


def test_a_lease_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str, **options: Any) -> Any:
        path.touch()
        no_space(content)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"), lease(tmp_path / "x.lease"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_for_want_of_space() -> None:
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    wrapped = StoreError("a checkpoint could not be written")
    wrapped.__cause__ = quota
    assert (
        is_full(quota)
        and is_full(wrapped)
        and is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    )
    assert not is_full(OSError(errno.ENOENT, "No such file")) and not is_full(ValueError("x"))


RECORDS = {
    "cut short": lambda text: text[:200],
    "empty": lambda text: "",
    "zeros": lambda text: "\0" * len(text),
    "a list": lambda text: f"[{text}]",
    "no record": lambda text: "3",
    "of another cell": lambda text: text.replace(f'"id": "{CELL.id}"', '"id": "0123456789abcdef"'),
    "without quality": lambda text: text.replace('"quality"', '"quantity"'),
    "without a schema": lambda text: text.replace('"schema"', '"scheme"'),
    "of schema 0": lambda text: text.replace('"schema": 3', '"schema": 0'),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_damaged_record_is_known_as_one(case: str, made: tuple[Store, dict[str, Any]], tmp_path: Path) -> None:
    good, store = made[0].cell_path(CELL.id), Store(tmp_path)
    text = good.read_text(encoding="utf-8")
    path = store.cell_path(CELL.id)
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert store.read_cell(CELL.id).plain == json.loads(text) and store.damaged_cells([CELL.id]) == {}
    path.write_text(RECORDS[case](text), encoding="utf-8")
    with pytest.raises(DamagedRecord, match=str(path)):
        store.read_cell(CELL.id)
    assert list(store.damaged_cells([CELL.id])) == [CELL.id]


def test_a_record_of_a_newer_version_is_not_damaged(made: tuple[Store, dict[str, Any]], tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.cell_path(CELL.id).parent.mkdir(parents=True)
    record = {**made[0].read_cell(CELL.id).plain, "schema": 99}
    store.cell_path(CELL.id).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(NewerRecord, match=r"newer version of this project \(schema 99, .*update"):
        store.read_cell(CELL.id)
    assert store.damaged_cells([CELL.id]) == {}, "whole: nothing is to be measured again"


@pytest.mark.parametrize(
    "content", ["", '{"training": "x', "[]", "\0\0", '{"training": "another", "weights_bytes": 1}']
)
def test_a_training_whose_last_word_is_damaged_has_not_finished(
    content: str, made: tuple[Store, dict[str, Any]], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.done_path(TRAINING.id).parent.mkdir(parents=True)
    store.weights_path(TRAINING.id).write_bytes(made[0].weights_path(TRAINING.id).read_bytes())
    store.done_path(TRAINING.id).write_bytes(made[0].done_path(TRAINING.id).read_bytes())
    assert store.is_trained(TRAINING.id)
    store.done_path(TRAINING.id).write_text(content, encoding="utf-8")
    assert not store.is_trained(TRAINING.id)


def test_a_job_gets_the_configuration_that_was_told_last(tmp_path: Path) -> None:
    """Damaged, or of a time when the data lay elsewhere: what changes no id may change."""
    store = prepared(tmp_path)
    path = store.experiment_path(TRAINING)
    written = path.stat().st_mtime_ns
    store.save_experiment(TRAINING, EXPERIMENT)
    assert path.stat().st_mtime_ns == written
    path.write_text('{"data": ', encoding="utf-8")
    store.save_experiment(TRAINING, EXPERIMENT)
    assert store.load_experiment(TRAINING) == EXPERIMENT
    moved = tiny(train={"workers": 1})
    store.save_experiment(TRAINING, moved)
    assert store.load_experiment(TRAINING) == moved


def test_damaged_weights_are_set_aside_and_damaged_images_drawn_again(
    made: tuple[Store, dict[str, Any]], tmp_path: Path
) -> None:
    store = prepared(tmp_path)
    jobs.run(store, TRAINING)
    weights = store.weights_path(TRAINING.id)
    whole = weights.read_bytes()
    weights.write_bytes(b"\0" * len(whole))
    with pytest.raises(Blocked, match=r"weights\.safetensors: is cut short or damaged .*; set aside as weights\.sa.*"):
        jobs.run(store, CELL)
    assert not store.is_trained(TRAINING.id) and weights.with_name("weights.safetensors.damaged").exists()
    jobs.run(store, TRAINING)
    assert weights.read_bytes() == whole
    shard = store.partial_folder(CELL.id) / "seed-1-from-0000004.safetensors"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"cut")
    jobs.run(store, CELL)
    here, there = store.read_cell(CELL.id), made[0].read_cell(CELL.id)
    assert (here.quality, here.compute, here.config) == (there.quality, there.compute, there.config)
    assert here.training == there.training


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("\n            Some tensors share memory\n            and more"),
            "RuntimeError: Some tensors share memory",
        ),
        (StoreError("cut short\nand more"), "cut short"),
        (ValueError(" \n"), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_a_failure_is_told_by_the_first_line_that_says_something(error: Exception, line: str) -> None:
    assert jobs.first_line(error) == line
