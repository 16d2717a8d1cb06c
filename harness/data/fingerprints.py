"""What identifies images and labels wherever they lie. Cheap: nothing is decoded, and torch is not needed."""

from __future__ import annotations

from harness.config.datasets import DATA_SETS
from harness.config.schema import DataConfig
from harness.data.sets import data_set
from harness.errors import DataError

SPLITS = ("train", "test")


def fingerprint(config: DataConfig, split: str = "train") -> str:
    """Identity of the images and labels of a split: part of every id, in the place of the path.

    The digits have a constant, CIFAR-10 the sums of its files; of other images it is a hash of names, checksums and
    labels. It says nothing of how pixels are made of the files: :data:`~harness.data.pixel_rules.PIXEL_RULES` and
    the configuration do. Raises :class:`DataError` if the data are not there, are damaged, or could be read in two
    ways.
    """
    check_split(config.name, split)
    return data_set(config.name).fingerprint(config, split)


def check_split(name: str, split: str) -> None:
    """Raise :class:`DataError` unless the data set `name` has this split."""
    if split not in SPLITS:
        raise DataError(f"{split!r} is no split; choices: {', '.join(SPLITS)}")
    has = DATA_SETS[name].splits
    if split not in has:
        raise DataError(f"{name}: there is one split, {has[0]}, and no {split}")
