"""A torchvision that does not fit torch is told in one message, before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from harness.measure.pair import check_torchvision
from tests.harness.processes import run_command, started
from tests.harness.tiny import environment, write_sweep

BROKEN = {
    "raise RuntimeError('operator torchvision::nms does not exist')": "operator torchvision::nms does not exist",
    "raise OSError('libtorch.so: undefined symbol')": "undefined symbol",
    "import torch._none_such": "No module named 'torch._none_such'",
}


def test_the_pair_that_is_here_fits() -> None:
    check_torchvision()


def sweep_with(path: str, file: Path) -> None:
    """`harness sweep FILE`, where what lies in `path` is imported first."""
    assert "torchvision" not in sys.modules
    sys.path.insert(0, path)
    run_command(["sweep", str(file)])


@pytest.mark.parametrize("broken", BROKEN)
def test_a_pair_that_does_not_fit_ends_a_sweep_before_it_begins(broken: str, tmp_path: Path) -> None:
    package = tmp_path / "path" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(broken)
    results, log = tmp_path / "results", tmp_path / "log"
    process = started(sweep_with, str(package.parent), write_sweep(tmp_path), environment=environment(results), log=log)
    process.join()
    said = " ".join(log.read_text(encoding="utf-8").split())
    assert process.exitcode == 2 and "Traceback" not in said, said
    assert BROKEN[broken] in said and f"does not fit torch {torch.__version__}" in said
    assert "pip install --upgrade torch torchvision" in said and "whl/cpu" in said
    assert not (results / "runs" / "trainings").exists()
