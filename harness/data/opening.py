"""From a configuration to a data set and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable

from harness.config import DataConfig
from harness.data import cifar10, digits
from harness.data.dataset import ArrayPixels, DataInfo, Dataset
from harness.data.images import images_fingerprint, open_images
from harness.data.pixels import area_average, with_channels
from harness.errors import DataError

SPLITS = ("train", "test")


def open_data(config: DataConfig, split: str = "train") -> Dataset:
    """The data set of `config`; cheap: nothing is decoded but a few headers. Raises :class:`DataError`, one message."""
    _check_split(split)
    return OPENERS[config.name](config, split)


def fingerprint(config: DataConfig, split: str = "train") -> str:
    """What identifies the images and labels of a split wherever they lie. Cheap, and without decoding."""
    _check_split(split)
    return FINGERPRINTS[config.name](config, split)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise DataError(f"{split!r} is no split; choices: {', '.join(SPLITS)}")


def _only_train(split: str) -> None:
    if split != "train":
        raise DataError("digits: there is one split, train")


def _open_digits(config: DataConfig, split: str) -> Dataset:
    _only_train(split)
    images, labels = digits.load()
    images = with_channels(images, config.channels or 1)
    info = DataInfo("digits 8×8", split, len(images), digits.SIZE, images.shape[1], digits.CLASSES, digits.FINGERPRINT)
    return Dataset(info, labels, ArrayPixels(images))


def _digits_fingerprint(config: DataConfig, split: str) -> str:
    _only_train(split)
    return digits.FINGERPRINT


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


def _cifar10_fingerprint(config: DataConfig, split: str) -> str:
    assert config.path is not None
    return cifar10.fingerprint(config.path, split)


OPENERS: dict[str, Callable[[DataConfig, str], Dataset]] = {
    "digits": _open_digits,
    "cifar10": _open_cifar10,
    "images": open_images,
}
FINGERPRINTS: dict[str, Callable[[DataConfig, str], str]] = {
    "digits": _digits_fingerprint,
    "cifar10": _cifar10_fingerprint,
    "images": images_fingerprint,
}
