"""Compiled files that a killed process has left cut short are compiled once more."""

from __future__ import annotations

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from harness.engine import compiled_files
from harness.engine.compiling import CompiledNetworks
from harness.engine.jobs import run
from harness.store.identity import identify
from harness.store.store import Store, Target
from tests.harness.processes import started
from tests.harness.tiny_experiments import tiny

LIBRARY = Path(torch._C.__file__)
KEPT = [0, 3, 10, 64, 0.5]
"""How much of a file is kept: bytes, or a share of them."""


def compile_and_run() -> None:
    logging.basicConfig()
    run, x = CompiledNetworks(), torch.arange(100.0)
    print(run("double", lambda x: torch.sin(x) * 2 + x, x).sum().item())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.compile for this process and those that it starts."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache" / "ab").mkdir(parents=True)
    return tmp_path / "cache"


def cut(path: Path, kept: float) -> None:
    size = path.stat().st_size
    os.truncate(path, int(kept * size) if 0 < kept < 1 else int(kept))


@pytest.mark.parametrize("kept", KEPT)
def test_a_library_that_was_cut_short_is_told_from_a_whole_one(kept: float, cache: Path) -> None:
    whole, damaged = cache / "ab" / "cabc.main.so", cache / "ab" / "cabd.main.so"
    shutil.copy(LIBRARY, whole)
    shutil.copy(LIBRARY, damaged)
    cut(damaged, kept)
    assert compiled_files.remove_cut_libraries() == [damaged]
    assert whole.exists() and not damaged.exists()
    assert compiled_files.remove_cut_libraries() == []


def test_what_another_process_compiles_is_left_alone(cache: Path) -> None:
    half = cache / "ab" / "cabe.main.so"
    half.write_bytes(LIBRARY.read_bytes()[:100])
    (cache / "locks").mkdir()
    with FileLock(cache / "locks" / "cabe.lock"), ThreadPoolExecutor(1) as other:  # this thread's lock lets itself in
        assert other.submit(compiled_files.remove_cut_libraries).result() == []
    assert half.exists()
    assert compiled_files.remove_cut_libraries() == [half]


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_cut_libraries_are_compiled_once_more(cache: Path) -> None:
    def compiled(log: Path) -> list[str]:
        process = started(compile_and_run, log=log)
        process.join()
        said = log.read_text(encoding="utf-8")
        assert process.exitcode == 0, said
        return said.splitlines()

    first = compiled(cache / "first.log")
    libraries = sorted(cache.glob("??/*.so"))
    assert libraries
    for library in libraries:  # all but the last byte: the least that can be missing of what the linker made
        os.truncate(library, library.stat().st_size - 1)
    again = compiled(cache / "again.log")
    assert again[-1] == first[-1]
    assert any("compiled files were cut short" in line for line in again)
    assert sorted(cache.glob("??/*.so")) == libraries
    assert not any(compiled_files.is_cut_short(library) for library in libraries)


def test_a_job_that_failed_over_a_damaged_header_compiles_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler's own words over a precompiled header that was cut short."""
    headers = tmp_path / "default" / "precompiled_headers"
    headers.mkdir(parents=True)
    (headers / "cabf.h.gch").write_bytes(b"gpch")
    monkeypatch.setattr(compiled_files, "default_cache_dir", lambda: str(tmp_path / "default"))
    attempts: list[str] = []

    def trains(*arguments: Any) -> None:
        attempts.append("tried")
        if (headers / "cabf.h.gch").exists():
            raise RuntimeError("C++ compile error: cc1plus: error: while reading precompiled header: No such file")

    monkeypatch.setattr("harness.engine.train.train_network", trains)
    store, experiment = Store(tmp_path / "results"), tiny(train={"compile": True})
    target = Target("training", identify(experiment)[0])
    store.save_experiment(target, experiment)
    assert run(store, target)
    assert attempts == ["tried", "tried"]

    def fails(*arguments: Any) -> None:
        attempts.append("tried")
        raise RuntimeError("something else")

    monkeypatch.setattr("harness.engine.train.train_network", fails)
    with pytest.raises(RuntimeError, match="something else"):
        run(store, target)
    assert len(attempts) == 3, "nothing was removed, so it would fail again"
