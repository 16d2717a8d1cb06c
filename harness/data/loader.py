"""Batches of a training: which images a step sees depends on (seed, step) alone, so any step can be the first."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from harness.data.dataset import ordered
from harness.errors import DataError
from harness.wording import count_of

ORDER_STREAM = 0x6F72646572  # "order": keeps these random numbers apart from others of the same seed


class Loadable(Protocol):
    """Data by index: :class:`harness.data.Dataset`, or what is made of one."""

    def __len__(self) -> int: ...
    @property
    def in_memory(self) -> bool: ...
    def load(self, indices: np.ndarray) -> tuple[Tensor, Tensor]: ...


class Batch(NamedTuple):
    """One rank's part of a step's batch."""

    images: Tensor
    """uint8 (B, C, H, W), 0..255; of data that are encoded what :mod:`harness.engine.latents` loads of them."""
    labels: Tensor
    """int64 (B,)."""
    positions: Tensor
    """int64 (B,): place of each image in the global batch, for randomness that does not depend on the ranks."""


@lru_cache(maxsize=4)
def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..images-1 that depends on (images, seed, epoch) alone, in every version of every library.

    The ranks of raw Philox words; numpy promises those to stay as they are, but not its own shuffles.
    """
    key = np.array([seed, ORDER_STREAM], dtype=np.uint64)  # a plain list with a seed of 2⁶³ or more would become floats
    words = np.random.Philox(key=key, counter=[0, 0, epoch, 0]).random_raw(images)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


def step_indices(images: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Indices int64 (batch,) of global step `step`: epochs follow one another without gaps, no image is left out."""
    stream = np.arange(step * batch, (step + 1) * batch)
    epochs, offsets = stream // images, stream % images
    indices = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = epoch_order(images, seed, int(epoch))[offsets[here]]
    return indices


def batches(
    dataset: Loadable,
    batch: int,
    seed: int,
    start_step: int = 0,
    stop_step: int | None = None,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches of steps `start_step`, `start_step` + 1, … up to `stop_step` (endless if None).

    `batch` counts images over all `world` ranks; rank r gets positions [r, r + 1) · batch / world of it. `workers`
    processes decode ahead; data in memory need none and start none. Call :meth:`Dataset.ready` first. Raises
    :class:`DataError` if `world` does not divide `batch`, or that names an image that cannot be used.
    """
    if batch % world:
        raise DataError(f"a batch of {count_of(batch, 'image')} cannot be shared equally by {count_of(world, 'rank')}")
    share = batch // world
    steps = _Steps(dataset, batch, seed, slice(rank * share, (rank + 1) * share))
    keys: Any = itertools.count(start_step) if stop_step is None else range(start_step, stop_step)
    return _raising(ordered(steps, keys, 0 if dataset.in_memory else workers, pin_memory))


class _Steps(TorchDataset[Any]):
    """Item `step` is this rank's batch, or an error's message (an exception would lose its type between processes)."""

    def __init__(self, dataset: Loadable, batch: int, seed: int, part: slice) -> None:
        self.dataset, self.batch, self.seed, self.part = dataset, batch, seed, part

    def __getitem__(self, step: int) -> Batch | str:
        indices = step_indices(len(self.dataset), self.batch, self.seed, step)[self.part]
        try:
            images, labels = self.dataset.load(indices)
        except DataError as failure:
            return str(failure)
        return Batch(images, labels, torch.arange(self.part.start, self.part.stop))


def _raising(items: Iterator[Batch | str]) -> Iterator[Batch]:
    for item in items:
        if isinstance(item, str):
            raise DataError(item)
        yield item


@dataclass(frozen=True)
class Throughput:
    """What a loader delivers on its own."""

    images_per_second: float
    seconds: float
    images: int
    batch: int
    workers: int
    in_memory: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def loader_throughput(
    dataset: Loadable, batch: int, *, workers: int = 0, seconds: float = 5.0, pin_memory: bool = False
) -> Throughput:
    """Images per second of the loader alone, over about `seconds` after two batches of warm-up per worker."""
    stream = batches(dataset, batch, seed=0, workers=workers, pin_memory=pin_memory)
    for _ in range(2 * max(workers, 1)):
        next(stream)
    images, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not images:
        images += len(next(stream).labels)
    return Throughput(images / elapsed, elapsed, images, batch, workers, dataset.in_memory)
