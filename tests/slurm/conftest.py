"""Tests on a real SLURM cluster: they skip where there is none, and fail instead if HARNESS_REQUIRE_SLURM=1."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.dispatch.slurm import queue
from harness.store.store import Store
from tests.slurm import cluster
from tests.slurm.fakes import Fakes
from tests.slurm.sweeping import Running, read_figures, run_here

SLOW = Path(__file__).with_name("slow")


@functools.cache
def _missing() -> str | None:
    """Asked once: where SLURM is installed but stopped, each question waits for an answer for seconds."""
    return cluster.missing()


@pytest.fixture(autouse=True)
def _cluster_or_skip(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("slurm") is None:
        return
    reason = _missing()
    if reason is not None:
        if os.environ.get("HARNESS_REQUIRE_SLURM") == "1":
            pytest.fail(f"HARNESS_REQUIRE_SLURM=1, but {reason}")
        pytest.skip(reason)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Commands that stand in for SLURM's; a sbatch that takes everything as job 7, and a person without settings."""
    made = Fakes(tmp_path / "bin")
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, script in (("sbatch", 'echo "Submitted batch job 7"'), ("srun", ""), ("scontrol", "")):
        made.add(name, script)
    return made


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Makes sweeps whose jobs are slow until told to hurry; their jobs are gone at the end, whatever happened."""
    made: list[Running] = []
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHONPATH", str(SLOW))

    def make(name: str = "run", **options: Any) -> Running:
        sweep = Running(tmp_path / name, **options)
        monkeypatch.setenv("SLOW_WHILE", str(sweep.slow))
        made.append(sweep)
        return sweep

    yield make
    for sweep in made:
        sweep.hurry()
        queue.cancel(sweep.live_jobs())
        _wait_until_gone(sweep)


def _wait_until_gone(sweep: Running) -> None:
    cluster.wait_until(lambda: not sweep.live_jobs(), "the jobs of this test to be gone", seconds=60)


@pytest.fixture(scope="session")
def undisturbed_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The tiny sweep, run in this process without any fault."""
    sweep = Running(tmp_path_factory.mktemp("undisturbed"))
    run_here(sweep, set(sweep.cells))
    return sweep.store


@pytest.fixture
def undisturbed(undisturbed_store: Store) -> dict[str, Any]:
    """The figures of the tiny sweep without any fault, by cell."""
    return read_figures(undisturbed_store)
