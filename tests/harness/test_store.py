"""Atomic writes and leases under kills and races."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import lease as lease_module
from harness.config import parse_experiment
from harness.errors import StoreError
from harness.lease import LeaseHeld, is_held, lease
from harness.store import Store, Target, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


WRITER = """
import sys
from pathlib import Path
from harness.store import write_atomically
content = sys.argv[2] * 4_000_000
print("ready", flush=True)
while True:
    write_atomically(Path(sys.argv[1]), content)
"""


def test_a_kill_in_the_middle_of_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "big"
    write_atomically(path, "a" * 4_000_000)
    for letter in "bcd":
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        content = path.read_text()
        assert len(content) == 4_000_000 and len(set(content)) == 1
    write_atomically(path, "end")
    assert path.read_text() == "end"


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    with lease(path):
        assert is_held(path)
        with pytest.raises(LeaseHeld, match=str(os.getpid())), lease(path):
            pass
    assert not is_held(path)
    with lease(path):
        pass


def _hold(path: Path, ready: object) -> None:
    with lease(path):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(path, ready))
    process.start()
    assert ready.wait(20) and is_held(path)
    process.kill()
    process.join()
    with lease(path):
        assert is_held(path)


def test_a_silent_holder_on_another_host_is_stale_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    path.write_text(json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "born": "1"}))
    assert is_held(path)
    past = time.time() - lease_module.STALE_SECONDS - 5
    os.utime(path, (past, past))
    assert not is_held(path)
    with lease(path):
        assert is_held(path)


def _contend(path: Path, counter: Path, ready: object) -> None:
    ready.wait()  # type: ignore[attr-defined]
    for _ in range(20):
        with lease(path, wait_seconds=60, poll_seconds=0.001):
            value = int(counter.read_text(encoding="utf-8"))
            time.sleep(0.0005)
            counter.write_text(str(value + 1), encoding="utf-8")


def test_leases_exclude_under_contention(tmp_path: Path) -> None:
    path, counter = tmp_path / "x.lease", tmp_path / "count"
    counter.write_text("0")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    processes = [context.Process(target=_contend, args=(path, counter, ready)) for _ in range(4)]
    for process in processes:
        process.start()
    ready.set()
    for process in processes:
        process.join(60)
    assert counter.read_text() == "80"


def test_store_round_trip_and_damage(tmp_path: Path) -> None:
    store, target = Store(tmp_path), Target("cell", "abc")
    experiment = parse_experiment({"sample": {"seeds": [0, 3]}}, "test")
    store.save_experiment(target, experiment)
    assert store.load_experiment(target) == experiment
    store.set_state(target, state="failed", error="x")
    store.forget_failure(target)
    assert store.state(target)["state"] == "waiting"
    write_atomically(store.cell_path("abc"), '{"id": "abc"')
    with pytest.raises(StoreError, match=r"abc\.json: cannot be read"):
        store.read_cell("abc")
    write_atomically(store.cell_path("abc"), '{"id": "other"}')
    with pytest.raises(StoreError, match="is not the record of cell abc"):
        store.read_cell("abc")


def test_a_key_set_to_nothing_is_still_nothing_when_a_job_reads_it(tmp_path: Path) -> None:
    """`gradient_clip: null` is not its default; left out of the file it would come back as the default."""
    store, target = Store(tmp_path), Target("training", "abc")
    experiment = parse_experiment({"train": {"gradient_clip": None}}, "test")
    store.save_experiment(target, experiment)
    assert store.load_experiment(target) == experiment
