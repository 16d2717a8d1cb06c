"""What lies in the working directory never stands in for our packages; in its jobs neither (test_local.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHADOW = "raise SystemExit('the working directory was imported')\n"
SWEEP = """
name: tiny
base:
  model: {kind: single_rate, width: 8, blocks: [1, 1], head_width: 8}
  train: {steps: 2, batch: 8}
  sample: {steps: 2}
  measure: {images: 16, latency: {repeats: 1, warmup: 0, batch: 8}}
arms: {base: {}}
"""


def shadows(folder: Path) -> list[str]:
    """Lay a package and modules of names that the harness imports into `folder`; what lies there now."""
    (folder / "models").mkdir()
    for name in ("models/__init__.py", "yaml.py", "rich.py", "submitit.py", "statistics.py"):
        (folder / name).write_text(SHADOW)
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory that shadows packages."""
    shadows(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["cli", "benchmarks.scale", "benchmarks.speed", "benchmarks.nodes"])
def test_python_m_imports_our_own(folder: Path, module: str) -> None:
    done = run(folder, "-m", f"harness.{module}", "--help")
    assert done.returncode == 0, done.stderr


def test_our_models_are_imported_wherever_python_looks_first(folder: Path) -> None:
    """A notebook's path begins with the folder that it lies in."""
    script = "import sys; sys.path.insert(0, ''); import harness, models.uvit; print(models.__path__[0])"
    done = run(folder, "-c", script)
    assert done.stdout.strip() == str(ROOT / "models"), done.stderr


def test_another_models_that_is_there_already_is_named(folder: Path) -> None:
    (folder / "models" / "__init__.py").write_text("")
    done = run(folder, "-c", "import sys; sys.path.insert(0, ''); import models, harness")
    assert "models/__init__.py: another `models` has been imported here" in done.stderr
