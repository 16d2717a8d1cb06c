"""cluster.sh by itself: it never ends without a word. No cluster is touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.slurm.cluster import SCRIPT


@pytest.mark.parametrize("given", [{}, {"CPUS": "4"}, {"CPUS": "4", "NODES": "2"}])
def test_it_says_how_it_is_used_on_a_machine_without_slurm(tmp_path: Path, given: dict[str, str]) -> None:
    copy = tmp_path / "cluster.sh"
    copy.write_text(SCRIPT.read_text().replace("/etc/slurm", str(tmp_path / "slurm")))
    plain = {name: value for name, value in os.environ.items() if name not in ("CPUS", "NODES")}
    done = subprocess.run(["bash", copy], env={**plain, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cluster.sh up [NODES]" in done.stdout, done.stderr
