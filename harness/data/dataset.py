"""A data set in use: images as uint8 and labels as int64, by index, the same bytes at every call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from harness.data.damage import Damaged, DamagedImageError, damage_report
from harness.data.pixel_rules import PIXEL_RULES
from harness.errors import DataError
from harness.wording import count_of

MEMORY_LIMIT_BYTES = 2**30
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DataInfo:
    """What a data set is: `name` for reports, `fingerprint` of its files' content, wherever they lie."""

    name: str
    split: str
    images: int
    size: int
    channels: int
    classes: int | None
    fingerprint: str

    @property
    def identity(self) -> str:
        """What identifies the pixels: the files' content and all that turns it into images of this size."""
        facts = [PIXEL_RULES, self.fingerprint, self.size, self.channels]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def display_name(name: str, size: int, channels: int, own_channels: int) -> str:
    """A data set's name for reports: with the size, and with the channels where they are not the data's own."""
    colour = "" if channels == own_channels else " grey" if channels == 1 else " RGB"
    return f"{name}{colour} {size}×{size}"


class Pixels(Protocol):
    """Where pixels come from."""

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (C, H, W). Raises :class:`DamagedImageError`."""


class ArrayPixels:
    """Pixels in memory: uint8 (N, C, H, W)."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (C, H, W)."""
        return self.array[index]


class Dataset:
    """Images and labels by index. Data in files are decoded at each :meth:`load`, or once after :meth:`ready`."""

    def __init__(self, info: DataInfo, labels: np.ndarray, pixels: Pixels, checked: bool = False) -> None:
        """`checked` says that every image is known to decode, as those that the project prepared itself."""
        self.info = info
        self._labels = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
        self._pixels = pixels
        self._checked = checked or isinstance(pixels, ArrayPixels)

    def __len__(self) -> int:
        return self.info.images

    @property
    def labels(self) -> Tensor:
        """All labels, int64 (N,); zeros where the data have none (``info.classes is None``)."""
        return self._labels

    @property
    def in_memory(self) -> bool:
        """Whether loading only copies from memory."""
        return isinstance(self._pixels, ArrayPixels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images decoded."""
        return self.info.images * self.info.channels * self.info.size**2

    def load(self, indices: Sequence[int] | Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, C, H, W), 0..255, and labels int64 (B,).

        Raises :class:`DataError` that names the file of an image that cannot be used, and IndexError.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (np.min(chosen) < 0 or np.max(chosen) >= len(self)):
            raise IndexError(f"{self.info.name}: index outside 0..{len(self) - 1}")
        labels = self._labels[torch.from_numpy(chosen)]
        if isinstance(self._pixels, ArrayPixels):
            return torch.from_numpy(self._pixels.array[chosen]), labels
        images = np.empty((len(chosen), *self._shape), dtype=np.uint8)
        for row, index in enumerate(chosen):
            images[row] = self._pixels.read(int(index))
        return torch.from_numpy(images), labels

    def all_uint8(self) -> Tensor:
        """All images in order, uint8 (N, C, H, W); keeps them in memory from then on."""
        if not isinstance(self._pixels, ArrayPixels):
            self._decode_all()
        assert isinstance(self._pixels, ArrayPixels)
        return torch.from_numpy(self._pixels.array)

    def ready(self, workers: int = 0, memory_limit: int = MEMORY_LIMIT_BYTES, progress: Progress | None = None) -> None:
        """Make sure that no image fails later: call it before a training.

        What fits into `memory_limit` bytes is decoded once and kept. The rest is read through once, unless it is known
        to be whole. Raises one :class:`DataError` that counts and names all damaged images.
        """
        if self.in_memory:
            return
        if self.nbytes <= memory_limit:
            self._decode_all(workers, progress)
        elif not self._checked:
            damaged = self.check(workers, progress)
            if damaged:
                raise DataError(damage_report(self.info.name, damaged, len(self)))
            self._checked = True

    def check(self, workers: int = 0, progress: Progress | None = None) -> list[Damaged]:
        """Decode every image and list those that cannot be used."""
        found: list[Damaged] = []
        for _, _, damaged in self._read_all(workers, progress):
            found += damaged
        return found

    def chunks(self, workers: int = 0) -> Iterator[Tensor]:
        """All images in order, uint8 (B, C, H, W) a few hundred at a time, without keeping them.

        Raises one :class:`DataError` at the end that counts and names all damaged images; from the first of these on
        nothing is given.
        """
        found: list[Damaged] = []
        for _, images, damaged in self._read_all(workers, None):
            found += damaged
            if not found:
                yield torch.from_numpy(images)
        if found:
            raise DataError(damage_report(self.info.name, found, len(self)))

    def require(self, images: int, purpose: str) -> None:
        """Raise :class:`DataError` if there are fewer than `images`; `purpose` ends the message."""
        if len(self) < images:
            raise DataError(
                f"{self.info.name}, split {self.info.split}: {count_of(len(self), 'image')} "
                f"{'is' if len(self) == 1 else 'are'} too few, "
                f"at least {images} are needed {purpose}"
            )

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.info.channels, self.info.size, self.info.size

    def _decode_all(self, workers: int = 0, progress: Progress | None = None) -> None:
        everything = np.empty((len(self), *self._shape), dtype=np.uint8)
        found: list[Damaged] = []
        for start, images, damaged in self._read_all(workers, progress):
            everything[start : start + len(images)] = images
            found += damaged
        if found:
            raise DataError(damage_report(self.info.name, found, len(self)))
        self._pixels, self._checked = ArrayPixels(everything), True

    def _read_all(self, workers: int, progress: Progress | None) -> Iterator[tuple[int, np.ndarray, list[Damaged]]]:
        chunks: Iterable[tuple[int, np.ndarray, list[Damaged]]] = ordered(
            _Chunks(self._pixels, self._shape, len(self)), range(0, len(self), _Chunks.length), workers
        )
        for start, images, damaged in chunks:
            if progress is not None:
                progress(min(start + _Chunks.length, len(self)), len(self))
            yield start, images, damaged


class _Chunks(TorchDataset[Any]):
    """Consecutive images; a damaged one is listed and its place left at zero."""

    length = 256

    def __init__(self, pixels: Pixels, shape: tuple[int, int, int], images: int) -> None:
        self.pixels, self.shape, self.images = pixels, shape, images

    def __getitem__(self, start: int) -> tuple[int, np.ndarray, list[Damaged]]:
        stop = min(start + self.length, self.images)
        chunk, damaged = np.zeros((stop - start, *self.shape), dtype=np.uint8), []
        for row in range(stop - start):
            try:
                chunk[row] = self.pixels.read(start + row)
            except DamagedImageError as failure:
                damaged.append(failure.damaged)
        return start, chunk, damaged


def ordered(items: TorchDataset[Any], keys: Iterable[int], workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """``items[key]`` for each of `keys`, in order, fetched ahead by `workers` processes (0: in this one, on demand).

    Draws nothing from torch's global generator, which a loader would by default.
    """
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),
    )
    return iter(loader)


def _as_it_is(item: Any) -> Any:
    return item
