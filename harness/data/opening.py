"""From a configuration to a data set, or to what is known of it without its files."""

from __future__ import annotations

from collections.abc import Callable

from harness.config.schema import DataConfig
from harness.data import cifar10, digits
from harness.data.dataset import ArrayPixels, DataInfo, Dataset, display_name
from harness.data.fingerprints import check_split
from harness.data.images import open_images
from harness.data.pixels import area_average, check_averaging, with_channels
from harness.errors import DataError, MissingDataError

STAND_IN_CLASSES = 1
"""Taken where nobody tells how many there are: a class's embedding is looked up, which costs no multiply-add."""


def open_data(config: DataConfig, split: str = "train") -> Dataset:
    """The data set of `config`; cheap: nothing is decoded but a few headers. Raises :class:`DataError`, one message."""
    check_split(config.name, split)
    dataset = OPENERS[config.name](config, split)
    _check_classes(config, dataset.info)
    return dataset


def known_info(config: DataConfig, *, labelled: bool = False) -> DataInfo:
    """What a network must know of the data of `config`, for what needs no image: costs and times.

    Of digits and CIFAR-10 it is known; of other data it is read from them or, where they are not there, from
    ``data.size``, ``data.channels`` and ``data.classes``; if they are `labelled`, classes that nobody tells are taken
    to be :data:`STAND_IN_CLASSES`. What was not read has 0 images and no fingerprint. Raises
    :class:`MissingDataError` that names the keys that would do.
    """
    if config.name == "digits":
        return _digits_info(config)
    if config.name == "cifar10":
        return _cifar10_info(config)
    try:
        return open_data(config).info
    except MissingDataError as missing:
        if config.size is None or config.channels is None:
            wanted = {"data.size": config.size, "data.channels": config.channels}
            lacking = " and ".join(key for key, value in wanted.items() if value is None)
            raise MissingDataError(f"{missing}; to count costs without the data set {lacking}") from None
    name = display_name(config.label or "images", config.size, config.channels, config.channels)
    classes = config.classes or (STAND_IN_CLASSES if labelled else None)
    return DataInfo(name, "train", 0, config.size, config.channels, classes, "")


def _check_classes(config: DataConfig, info: DataInfo) -> None:
    if config.classes is not None and config.classes != info.classes:
        have = "no labels" if info.classes is None else f"{info.classes} classes"
        right = "leave it out" if info.classes is None else f"set data.classes: {info.classes}, or leave it out"
        raise DataError(f"{config.path or config.name}: has {have}, but data.classes is {config.classes}; {right}")


def _digits_info(config: DataConfig, images: int = 0) -> DataInfo:
    channels = config.channels or 1
    name = display_name(config.label or "digits", digits.SIZE, channels, 1)
    return DataInfo(name, "train", images, digits.SIZE, channels, digits.CLASSES, digits.FINGERPRINT)


def _open_digits(config: DataConfig, split: str) -> Dataset:
    images, labels = digits.load()
    info = _digits_info(config, len(images))
    return Dataset(info, labels, ArrayPixels(with_channels(images, info.channels)))


def _cifar10_info(config: DataConfig, split: str = "train", images: int = 0, fingerprint: str = "") -> DataInfo:
    size, channels = config.size or cifar10.SIZE, config.channels or 3
    try:
        check_averaging(cifar10.SIZE, cifar10.SIZE, size)
    except ValueError as failure:
        raise DataError(f"{config.path}: every image {failure}") from None
    name = display_name(config.label or "CIFAR-10", size, channels, 3)
    return DataInfo(name, split, images, size, channels, cifar10.CLASSES, fingerprint)


def _open_cifar10(config: DataConfig, split: str) -> Dataset:
    assert config.path is not None
    images, labels = cifar10.load(config.path, split)
    info = _cifar10_info(config, split, len(images), cifar10.fingerprint(config.path, split))
    return Dataset(info, labels, ArrayPixels(with_channels(area_average(images, info.size), info.channels)))


OPENERS: dict[str, Callable[[DataConfig, str], Dataset]] = {
    "digits": _open_digits,
    "cifar10": _open_cifar10,
    "images": open_images,
}
