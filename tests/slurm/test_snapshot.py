"""The copy of the source that jobs run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.dispatch.slurm import snapshot
from harness.dispatch.slurm.snapshot import take_snapshot
from harness.store.provenance import commit_of
from harness.store.store import Store

ROOT = Path(__file__).parents[2]


def test_the_copy_runs_by_itself_and_knows_its_commit(tmp_path: Path) -> None:
    copied = take_snapshot(Store(tmp_path))
    script = (
        "import harness.engine.jobs, harness.dispatch.slurm.job, models, json\n"
        "from harness.store.provenance import provenance\n"
        "made = provenance()\n"
        "print(json.dumps([harness.__path__[0], models.__path__[0], made['commit'], made['dirty']]))"
    )
    environment = {"PYTHONPATH": str(copied), "PYTHONSAFEPATH": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    harness, models, commit, dirty = json.loads(done.stdout)
    assert (harness, models) == (str(copied / "harness"), str(copied / "models"))
    expected = dict(commit_of(ROOT))
    assert commit == expected["commit"] and dirty == bool(expected["dirty"])
    names = {path.relative_to(ROOT) for name in ("harness", "models") for path in (ROOT / name).rglob("*.py")}
    assert names <= {path.relative_to(copied) for path in copied.rglob("*.py")}


def test_the_same_source_is_copied_once_and_an_edit_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {name: tmp_path / "src" / name for name in ("harness", "models")}
    for folder in sources.values():
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "__init__.py").write_text("x = 1\n")
        (folder / "data.bin").write_bytes(b"\x00\xff")
    monkeypatch.setattr(snapshot, "_package_folder", sources.__getitem__)
    store = Store(tmp_path / "results")
    first = take_snapshot(store)
    (sources["models"] / "__pycache__" / "x.pyc").write_bytes(b"cache")
    assert take_snapshot(store) == first
    (sources["models"] / "__init__.py").write_text("x = 2\n")
    second = take_snapshot(store)
    assert second != first
    assert (first / "models" / "__init__.py").read_text() == "x = 1\n"
    assert (second / "models" / "data.bin").read_bytes() == b"\x00\xff"
    assert not list((store.runs / "source").glob(".*"))
