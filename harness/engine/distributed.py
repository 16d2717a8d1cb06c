"""Ranks of a job: one process, or several over GPUs and nodes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

WAIT = timedelta(days=1)
"""Longest wait of one rank for another: the first measures alone at the end of a cell, and may wait for a lease."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def share(self, flag: bool) -> bool:
        """The first rank's `flag`, on every rank."""
        if self.world == 1:
            return flag
        values = [flag]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def current_ranks() -> Ranks:
    """The ranks of the initialised process group, or the one process."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    return Ranks()


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the process group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe (as torchrun sets them).

    Without them, or with a world of one, there is one process and no group.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield current_ranks()
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=WAIT)
    try:
        yield current_ranks()
    finally:
        dist.destroy_process_group()


def pick_device(ranks: Ranks | None = None) -> torch.device:
    """This rank's GPU where there is one, else the CPU; HARNESS_DEVICE names another."""
    named = os.environ.get("HARNESS_DEVICE")
    if named:
        return torch.device(named)
    if torch.cuda.is_available():
        return torch.device("cuda", (ranks or current_ranks()).local_rank)
    return torch.device("cpu")
