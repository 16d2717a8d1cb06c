"""Latents on SLURM: one job encodes, trainings wait for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.dispatch.slurm.submissions import assignments, read_records
from harness.store.store import Target
from tests.autoencoders import save_autoencoder
from tests.slurm.fakes import Fakes
from tests.slurm.sweeping import TINY, Running, harness
from tests.slurm.test_queue import prints

COUNTING = """
grep ^#SBATCH "$1" | tr '\\n' ' ' >>"$0.asked"; echo >>"$0.asked"
echo "Submitted batch job $((6 + $(wc -l <"$0.calls")))"
"""
"""Notes what each script asks for, and numbers jobs from 7."""


def encoded(folder: Path) -> str:
    """Two trainings on the latents of the digits."""
    save_autoencoder(folder / "ae", "AutoencoderTiny", scaling_factor=6.0)
    text = TINY.replace("base:\n  model", f"base:\n  data: {{latents: {folder / 'ae'}}}\n  model", 1)
    return text + "  dual-rate:\n    set: {model.kind: dual_rate, sample.refreshes: 1}\n"


def encoding_of(sweep: Running) -> Target:
    (id,) = sweep.sweep.encodings
    return Target("encoding", id)


def test_one_job_encodes_and_the_trainings_wait_for_it(fakes: Fakes, tmp_path: Path) -> None:
    fakes.add("sbatch", COUNTING)
    sweep = Running(tmp_path / "run", encoded(tmp_path))
    submitted = sweep.submit("trainings.gpus=4", "encodings.time=20m")
    assert submitted.submission is not None and submitted.targets[0] == encoding_of(sweep)
    kinds = [(array.kind, len(array.elements)) for array in submitted.submission.arrays]
    assert kinds[:2] == [("encoding", 1), ("training", 2)] and {kind for kind, _ in kinds[2:]} == {"cell"}
    first, second, *_ = (fakes.folder / "sbatch.asked").read_text().splitlines()
    assert "--time=20 " in first and "--gpus-per-node=4 " in first and "--dependency" not in first
    assert "--dependency=afterok:7 " in second
    assigned = assignments(read_records(sweep.store).submissions)
    reasons = {one.job: "Resources" if one.job == "7" else "Dependency" for one in assigned.values()}
    prints(fakes, "squeue", [f"{one.job}|PENDING|N/A||{reasons[one.job]}|{one.name}" for one in assigned.values()])
    rows = sweep.status().rows
    assert {(rows[target].state, rows[target].reason) for target in sweep.trainings} == {("waiting", "for its latents")}


@pytest.mark.slurm
def test_it_is_cancelled_blocks_and_is_retried(running: Callable[..., Running], tmp_path: Path) -> None:
    sweep = running(text=encoded(tmp_path))
    sweep.submit("encodings.sbatch.hold=true")
    encoding = encoding_of(sweep)
    sweep.hurry()
    assert sweep.row(encoding).state == "queued"
    harness("cancel", sweep, encoding.id)
    rows = sweep.status().rows
    followers = [*sweep.trainings, *sweep.cells]
    told = {(rows[target].state, rows[target].reason) for target in followers}
    assert told == {("blocked", f"encoding {encoding.id} cancelled: by harness cancel")}
    harness("retry", sweep, encoding.id, "--slurm", "time=10m")
    sweep.wait_complete()
    assert sweep.row(encoding).state == "done"
