"""Anyone's images, wherever they come from: a folder, a zip, an archive that a data set is read from, or an array file.

An array file is an ``.npz`` as ADM's samplers write it: ``arr_0``, uint8 (N, H, W, C), and with classes ``arr_1``,
(N,). The array ``images`` of `harness sample`, uint8 (N, C, H, W), is read too.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.config.datasets import DATA_SETS
from harness.config.schema import DataConfig, parse_section
from harness.errors import DataError, MissingDataError
from harness.files import expanded, file_sha256, tried
from harness.wording import reason

if TYPE_CHECKING:
    from harness.data.dataset import Dataset

ADM_IMAGES, ADM_LABELS, OWN_IMAGES = "arr_0", "arr_1", "images"
ARCHIVES = (".tar.gz", ".tgz")
DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What numpy raises for a file of arrays that is cut short, or is none."""


def open_image_set(path: str, split: str = "train") -> Dataset:
    """The images at `path`: a folder, a zip, a pattern of zips, CIFAR-10's archive, an ``.npz`` of images, or the name
    of a data set that needs no path. Raises :class:`DataError`, one message."""
    from harness.data.opening import open_data

    place = expanded(path)
    if path.lower().endswith(".npz"):
        return array_images(place)
    facts = DATA_SETS.get(path)
    if facts is not None and not facts.needs_path and not place.exists():
        return open_data(parse_section(DataConfig, {"name": path}, "data"), split)
    name = "cifar10" if path.lower().endswith(ARCHIVES) else "images"
    return open_data(parse_section(DataConfig, {"name": name, "path": path}, "data"), split)


@contextmanager
def arrays_of(path: Path) -> Iterator[Any]:
    """The open ``.npz`` at `path`: arrays by name, never Python objects. Raises :class:`DataError` for what is none."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; a file of arrays is one .npz")
    if not path.exists():
        raise MissingDataError(f"{path}: there is no such file{tried(path)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: holds one array without a name; an .npz is needed, as numpy.savez writes it")
            yield file
    except DAMAGED as failure:
        raise DataError(f"{path}: cannot be read as a file of arrays ({reason(failure)})") from None


def array_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in the ``.npz`` at `path`. Raises :class:`DataError`."""
    with arrays_of(path) as file:
        return tuple(file.files)


def array_images(path: Path) -> Dataset:
    """The images in the ``.npz`` at `path`. Raises :class:`DataError` for arrays that are no images."""
    from harness.data.dataset import ArrayPixels, DataInfo, Dataset, display_name

    with arrays_of(path) as file:
        if ADM_IMAGES not in file.files and "mu" in file.files:
            raise DataError(f"{path}: holds statistics of images, and no images; images are measured --against them")
        key = next((key for key in (ADM_IMAGES, OWN_IMAGES) if key in file.files), None)
        if key is None:
            raise DataError(f"{path}: holds no array {ADM_IMAGES} of images, only {', '.join(file.files) or 'nothing'}")
        images = file[key]
        labels = file[ADM_LABELS] if key == ADM_IMAGES and ADM_LABELS in file.files else None
    images = _checked_images(path, key, images)
    if labels is not None:
        _check_labels(path, labels, len(images))
    count, channels, side = images.shape[:3]
    info = DataInfo(
        name=display_name(path.stem, side, channels, channels),
        split="train",
        images=count,
        size=side,
        channels=channels,
        classes=None if labels is None else int(labels.max()) + 1,
        fingerprint=hashlib.sha256(f"{key} {file_sha256(path)}".encode()).hexdigest()[:32],
    )
    return Dataset(info, np.zeros(count, np.int64) if labels is None else labels, ArrayPixels(images))


def _checked_images(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    """`images` as uint8 (N, C, H, W) with H = W. Raises :class:`DataError`."""
    form = "(N, H, W, C)" if key == ADM_IMAGES else "(N, C, H, W)"
    shape = "×".join(map(str, images.shape)) or "a single number"
    if images.dtype != np.uint8:
        raise DataError(f"{path}: {key} holds {images.dtype}; images are uint8 from 0 to 255, {form}")
    if images.ndim != 4:
        raise DataError(f"{path}: {key} is {shape}; images are {form}")
    if not len(images):
        raise DataError(f"{path}: {key} holds no image")
    channels_last = images.shape[3] in (1, 3)
    if key == ADM_IMAGES and not channels_last:
        transposed = " (N, C, H, W)? its channels must come last" if images.shape[1] in (1, 3) else ""
        raise DataError(f"{path}: {key} is {shape}, not {form} with 1 or 3 channels{transposed}")
    images = images.transpose(0, 3, 1, 2) if key == ADM_IMAGES else images
    if images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise DataError(f"{path}: {key} is {shape}; square images of 1 or 3 channels are needed, {form}")
    return images


def _check_labels(path: Path, labels: np.ndarray, images: int) -> None:
    if labels.shape != (images,) or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(f"{path}: {ADM_LABELS} must be one class from 0 for each of {images} images")
