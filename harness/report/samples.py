"""Sample images of cells: read from the run, reduced to what the report shows, kept beside it."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from harness.errors import StoreError

log = logging.getLogger("harness")

SHOWN = 10
"""Images per line of the grid."""
DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, BadZipFile, zlib.error)
"""What reading a damaged file raises."""


def read_samples(path: Path, height: int | None = None) -> np.ndarray:
    """The first images of a cell, uint8 (N, H, W) or (N, H, W, 3), from an .npz or from a PNG that is a square grid.

    A PNG holds 8 × 8 images without margins unless `height`, an image's side in pixels, says otherwise.
    Raises :class:`StoreError` for a file that is damaged or of another form.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                images = archive["images" if "images" in archive else archive.files[0]]
            return _channels_last(images)
        grid = np.asarray(Image.open(path))
    except DAMAGE as error:
        raise StoreError(f"{path}: samples cannot be read: {error}") from None
    side = height or grid.shape[0] // 8
    rows, columns = grid.shape[0] // side, grid.shape[1] // side
    tiles = grid.reshape(rows, side, columns, side, *grid.shape[2:]).swapaxes(1, 2)
    return tiles.reshape(rows * columns, side, side, *grid.shape[2:])


def _channels_last(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(f"uint8 images are needed, not {images.dtype}")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def pack(samples: Mapping[str, np.ndarray]) -> bytes:
    """An .npz of the arrays by cell id; the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: samples[key] for key in sorted(samples)})  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(path: Path) -> dict[str, np.ndarray]:
    """The inverse of :func:`pack`; empty where there is no such file, or a damaged one, which is said."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except DAMAGE as error:
        log.warning("%s: samples cannot be read (%s); left out", path, error)
        return {}
