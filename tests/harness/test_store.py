"""Atomic writes and leases under kills and races."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config.schema import parse_experiment
from harness.errors import StoreError
from harness.files import write_atomically
from harness.store.store import Store, Target


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
from harness.files import write_atomically
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
    record = json.loads((Path(__file__).parents[1] / "store" / "schema-1.json").read_text(encoding="utf-8"))
    write_atomically(store.cell_path("abc"), json.dumps(record))
    with pytest.raises(StoreError, match="is not the record of cell abc"):
        store.read_cell("abc")


def test_a_key_set_to_nothing_is_still_nothing_when_a_job_reads_it(tmp_path: Path) -> None:
    """`gradient_clip: null` is not its default; left out of the file it would come back as the default."""
    store, target = Store(tmp_path), Target("training", "abc")
    experiment = parse_experiment({"train": {"gradient_clip": None}}, "test")
    store.save_experiment(target, experiment)
    assert store.load_experiment(target) == experiment
