"""Trainings by two processes of this machine together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.config.schema import Experiment
from harness.engine.distributed import process_group
from harness.engine.train import train_network
from tests.harness.processes import started


@dataclass(frozen=True)
class Training:
    """What is trained, where it leaves its weights, and the weights that it is given."""

    experiment: Experiment
    folder: Path
    start: Path | None = None
    teacher: Path | None = None


def train_by_two(*trainings: Training) -> None:
    """Run the trainings one after another, each by the same two processes; their id is "t"."""
    port = 20_000 + os.getpid() % 20_000
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    log = trainings[0].folder.parent / "ranks.log"
    ranks = [started(_train, trainings, environment={**group, "RANK": str(rank)}, log=log) for rank in range(2)]
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0, 0], log.read_text(encoding="utf-8")


def _train(trainings: Sequence[Training]) -> None:
    torch.set_num_threads(1)
    with process_group():
        for one in trainings:
            train_network(one.experiment, "t", one.folder, start=one.start, teacher=one.teacher)
