"""What identifies images and labels wherever they lie. Cheap: nothing is decoded, and torch is not needed."""

from __future__ import annotations

from collections.abc import Callable

from harness.config.schema import DataConfig
from harness.data import cifar10, digits
from harness.data.listing import list_images
from harness.errors import DataError

SPLITS = ("train", "test")


def fingerprint(config: DataConfig, split: str = "train") -> str:
    """Identity of the images and labels of a split: part of every id, in the place of the path.

    The digits have a constant, CIFAR-10 the sums of its files; of other images it is a hash of names, checksums and
    labels. It says nothing of how pixels are made of the files: :data:`~harness.data.pixels.PIXEL_RULES` and the
    configuration do. Raises :class:`DataError` if the data are not there, are damaged, or could be read in two ways.
    """
    check_split(config.name, split)
    return FINGERPRINTS[config.name](config.path or "", split)


def check_split(name: str, split: str) -> None:
    """Raise :class:`DataError` unless data of kind `name` can have this split."""
    if split not in SPLITS:
        raise DataError(f"{split!r} is no split; choices: {', '.join(SPLITS)}")
    if name == "digits" and split != "train":
        raise DataError("digits: there is one split, train")


def _of_digits(path: str, split: str) -> str:
    return digits.FINGERPRINT


def _of_images(path: str, split: str) -> str:
    return list_images(path, split).fingerprint


FINGERPRINTS: dict[str, Callable[[str, str], str]] = {
    "digits": _of_digits,
    "cifar10": cifar10.fingerprint,
    "images": _of_images,
}
