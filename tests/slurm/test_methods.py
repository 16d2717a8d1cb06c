"""A method from outside of the repository, on the cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import plugins
from harness.config import methods
from tests.harness.contributing import follow
from tests.slurm.sweeping import Running

pytestmark = pytest.mark.slurm


def test_jobs_run_the_copy_of_a_methods_source(
    running: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package is gone from where it was when the jobs start."""
    folder = tmp_path / "mine"
    _, _, sweep_file = follow("Add a method", folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(methods, "_loaded", dict(methods._loaded))
    monkeypatch.setattr(plugins, "_loaded", {})
    sweep = running(text=sweep_file.read_text(encoding="utf-8"))
    sweep.submit()
    shutil.move(folder / "plain_nets", tmp_path / "away")
    sweep.wait_complete()
    records = [json.loads(path.read_text()) for path in (sweep.store.runs / "cells").glob("*.json")]
    sources = [record["provenance"].get("method_source", {}).get("files") for record in records]
    assert sources.count(["plain_nets/__init__.py", "plain_nets/convolutions.py"]) == 2 and len(sources) == 3
    assert all(record["time"]["share"]["network"] > 0 for record in records)
