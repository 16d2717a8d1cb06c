"""A torchvision that does not fit torch is told in one message, before anything is trained."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from harness.measure.pair import check_torchvision
from tests.harness.tiny import command, environment, write_sweep

BROKEN = {
    "raise RuntimeError('operator torchvision::nms does not exist')": "operator torchvision::nms does not exist",
    "raise OSError('libtorch.so: undefined symbol')": "undefined symbol",
    "import torch._none_such": "No module named 'torch._none_such'",
}


def test_the_pair_that_is_here_fits() -> None:
    check_torchvision()


@pytest.mark.parametrize("broken", BROKEN)
def test_a_pair_that_does_not_fit_ends_a_sweep_before_it_begins(broken: str, tmp_path: Path) -> None:
    package = tmp_path / "path" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(broken)
    results = tmp_path / "results"
    variables = {**environment(results), "PYTHONPATH": f"{package.parent}{os.pathsep}{Path(__file__).parents[2]}"}
    sweep = write_sweep(tmp_path)
    done = subprocess.run(command("sweep", sweep), env=variables, capture_output=True, text=True, check=False)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in said, said
    assert BROKEN[broken] in said and f"does not fit torch {torch.__version__}" in said
    assert "pip install --upgrade torch torchvision" in said and "whl/cpu" in said
    assert not (results / "runs" / "trainings").exists()
