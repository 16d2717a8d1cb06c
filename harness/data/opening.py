"""From a configuration to a data set, or to what is known of it without its files."""

from __future__ import annotations

from harness.config.schema import DataConfig
from harness.data.autoencoder import latent_info
from harness.data.dataset import DataInfo, Dataset, display_name
from harness.data.fingerprints import check_split
from harness.data.sets import data_set
from harness.errors import DataError, MissingDataError

STAND_IN_CLASSES = 1
"""Assumed where the number of classes is unknown: an embedding lookup costs no multiply-add."""


def open_data(config: DataConfig, split: str = "train") -> Dataset:
    """The data set of `config`; cheap: nothing is decoded but a few headers. Raises :class:`DataError`, one message."""
    check_split(config.name, split)
    dataset = data_set(config.name).opened(config, split)
    _check_classes(config, dataset.info)
    return dataset


def network_info(config: DataConfig) -> DataInfo:
    """What networks must know of the data of `config`, which are opened: of latents it is their side and channels."""
    return latent_info(config, open_data(config).info)


def known_info(config: DataConfig, *, labelled: bool = False) -> DataInfo:
    """What a network must know of the data of `config`, for what needs no image: costs and times. Of latents it is
    their side and channels.

    Of some data sets it is known; of others it is read from them or, where they are not there, from ``data.size``,
    ``data.channels`` and ``data.classes``; if they are `labelled`, an unknown number of classes is taken
    to be :data:`STAND_IN_CLASSES`. What was not read has 0 images and no fingerprint. Raises
    :class:`MissingDataError` that names the keys that would do.
    """
    return latent_info(config, _known_images(config, labelled=labelled))


def counted_images(config: DataConfig) -> DataInfo:
    """The images themselves, where networks see latents, with their number where they are there; else 0."""
    try:
        return open_data(config).info
    except MissingDataError:
        return _known_images(config, labelled=False)


def _known_images(config: DataConfig, *, labelled: bool) -> DataInfo:
    try:
        info = data_set(config.name).info(config)
        _check_classes(config, info)
        return info
    except MissingDataError as missing:
        if config.size is None or config.channels is None:
            wanted = {"data.size": config.size, "data.channels": config.channels}
            lacking = " and ".join(key for key, value in wanted.items() if value is None)
            raise MissingDataError(f"{missing}; to count costs without the data set {lacking}") from None
    name = display_name(config.label or config.name, config.size, config.channels, config.channels)
    classes = config.classes or (STAND_IN_CLASSES if labelled else None)
    return DataInfo(name, "train", 0, config.size, config.channels, classes, "")


def _check_classes(config: DataConfig, info: DataInfo) -> None:
    if config.classes is not None and config.classes != info.classes:
        have = "no labels" if info.classes is None else f"{info.classes} classes"
        right = "leave it out" if info.classes is None else f"set data.classes: {info.classes}, or leave it out"
        raise DataError(f"{config.path or config.name}: has {have}, but data.classes is {config.classes}; {right}")
