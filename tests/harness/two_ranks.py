"""Trainings by two processes of this machine together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.config.schema import Experiment

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from harness.config.schema import parse_experiment
from harness.engine.distributed import process_group
from harness.engine.train import train_network
torch.set_num_threads(1)
with process_group():
    for values, folder, given in json.loads(sys.argv[1]):
        given = {name: Path(path) for name, path in given.items()}
        train_network(parse_experiment(values, "test"), "t", Path(folder), **given)
"""


@dataclass(frozen=True)
class Training:
    """What is trained, where it leaves its weights, and the weights that it is given."""

    experiment: Experiment
    folder: Path
    start: Path | None = None
    teacher: Path | None = None


def train_by_two(*trainings: Training) -> None:
    """Run the trainings one after another, each by the same two processes; their id is "t"."""
    asked = []
    for one in trainings:
        given = {"start": one.start, "teacher": one.teacher}
        values = one.experiment.model_dump(mode="json", exclude_none=True)
        asked.append((values, str(one.folder), {name: str(path) for name, path in given.items() if path is not None}))
    port = 20_000 + os.getpid() % 20_000
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(asked)],
            env={**os.environ, **group, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
