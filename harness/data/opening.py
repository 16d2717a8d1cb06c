"""From a configuration to a data set."""

from __future__ import annotations

from collections.abc import Callable

from harness.config import DataConfig
from harness.data import cifar10, digits
from harness.data.dataset import ArrayPixels, DataInfo, Dataset
from harness.data.fingerprints import check_split
from harness.data.images import open_images
from harness.data.pixels import area_average, with_channels
from harness.errors import DataError


def open_data(config: DataConfig, split: str = "train") -> Dataset:
    """The data set of `config`; cheap: nothing is decoded but a few headers. Raises :class:`DataError`, one message."""
    check_split(config.name, split)
    return OPENERS[config.name](config, split)


def _open_digits(config: DataConfig, split: str) -> Dataset:
    images, labels = digits.load()
    images = with_channels(images, config.channels or 1)
    name = f"{config.label or 'digits'} 8×8"
    info = DataInfo(name, split, len(images), digits.SIZE, images.shape[1], digits.CLASSES, digits.FINGERPRINT)
    return Dataset(info, labels, ArrayPixels(images))


def _open_cifar10(config: DataConfig, split: str) -> Dataset:
    assert config.path is not None
    images, labels = cifar10.load(config.path, split)
    size = config.size or cifar10.SIZE
    try:
        images = with_channels(area_average(images, size), config.channels or 3)
    except ValueError as failure:
        raise DataError(f"{config.path}: every image {failure}") from None
    info = DataInfo(
        f"{config.label or 'CIFAR-10'} {size}×{size}",
        split,
        len(images),
        size,
        images.shape[1],
        cifar10.CLASSES,
        cifar10.fingerprint(config.path, split),
    )
    return Dataset(info, labels, ArrayPixels(images))


OPENERS: dict[str, Callable[[DataConfig, str], Dataset]] = {
    "digits": _open_digits,
    "cifar10": _open_cifar10,
    "images": open_images,
}
