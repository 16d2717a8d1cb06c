"""Any folder or zip of images as a data set: size and channels found out from a sample, pixels decoded on demand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from harness.config.schema import DataConfig
from harness.data import png
from harness.data.damage import DamagedImageError
from harness.data.listing import Listing, list_images
from harness.data.pixels import (
    GREY_MODES,
    Header,
    area_average,
    check_averaging,
    open_image,
    plain,
    read_header,
    to_array,
)
from harness.data.sets import DataSet
from harness.errors import DataError, printable
from harness.files import expanded

if TYPE_CHECKING:
    from harness.data.dataset import DataInfo, Dataset

PROBED = 64


class ImagePixels:
    """Pixels of encoded images, each square of side `side` (any multiple of `size` if None), reduced to `size`."""

    def __init__(self, listing: Listing, size: int, channels: int, side: int | None, grey_only: bool) -> None:
        """With `grey_only` a colour image is refused rather than turned grey without having been asked."""
        self.listing, self.size, self.channels = listing, size, channels
        self.side, self.grey_only = side, grey_only

    def read(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (channels, size, size). Raises :class:`DamagedImageError`."""
        content = self.listing.read(index)
        stored = png.decode(content)
        if stored is not None and stored.shape == (self.channels, self.size, self.size):
            return stored
        try:
            with open_image(content) as image:
                if self.grey_only and image.mode not in GREY_MODES:
                    raise ValueError("is in colour, but the data set was taken for grey; set data.channels: 3")
                if self.side is not None and image.size != (self.side, self.side):
                    raise ValueError(_mixed(image.size, self.side))
                check_averaging(*image.size, self.size)
                return area_average(to_array(plain(image), self.channels), self.size)
        except ValueError as failure:
            raise DamagedImageError(self.listing.label_of(index), str(failure)) from None


def open_images(config: DataConfig, split: str) -> Dataset:
    """The images at ``config.path``. Raises :class:`DataError`, one message."""
    from harness.data.dataset import DataInfo, Dataset, display_name

    assert config.path is not None
    listing = list_images(config.path, split)
    side, grey = known_or_probed(listing)
    if config.size is None and side is None:
        raise DataError(_different_sizes(listing))
    size = config.size or side
    assert size is not None
    if side is not None and (side < size or side % size):
        raise DataError(
            f"{config.path}: its images are {side}×{side}; area averaging to {size}×{size} needs a multiple of {size}"
            f"; `harness data prepare {config.path} DST --size {size}` crops and resizes"
        )
    channels = config.channels or (1 if grey else 3)
    info = DataInfo(
        name=display_name(config.label or source_name(listing), size, channels, 1 if grey else 3),
        split=split,
        images=len(listing.items),
        size=size,
        channels=channels,
        classes=listing.classes,
        fingerprint=listing.fingerprint,
    )
    pixels = ImagePixels(listing, size, channels, side, grey_only=grey and config.channels is None)
    return Dataset(info, listing.labels, pixels, checked="prepared" in listing.extra)


def probe_headers(listing: Listing, count: int = PROBED) -> dict[int, Header]:
    """Headers of up to `count` images spread evenly over the listing; those that cannot be read are left out."""
    headers = {}
    for index in np.unique(np.linspace(0, len(listing.items) - 1, count).round().astype(int)):
        try:
            headers[int(index)] = read_header(listing.read(int(index)))
        except (ValueError, DamagedImageError):
            continue  # reported when all images are decoded
    return headers


def known_or_probed(listing: Listing) -> tuple[int | None, bool]:
    """The side that all images have (None: they differ or are not square) and whether all are grey.

    As ``dataset.json`` states them if the project prepared the data, or else as a sample of headers shows.
    """
    return _known(listing) or _probe(listing)


def source_name(listing: Listing) -> str:
    """What a person would call the data: the name given at preparation, or the name of the file or folder."""
    given = listing.extra.get("name")
    if isinstance(given, str) and given:
        return given
    name = expanded(listing.source).absolute().name
    return printable(re.sub(r"[*?\[\]]+", "", name.removesuffix(".zip")).strip("-_. ")) or "images"


def _known(listing: Listing) -> tuple[int, bool] | None:
    """Side and greyness where the project's own ``dataset.json`` states them."""
    size, channels = listing.extra.get("size"), listing.extra.get("channels")
    return (size, channels == 1) if isinstance(size, int) and isinstance(channels, int) else None


def _probe(listing: Listing) -> tuple[int | None, bool]:
    headers = probe_headers(listing)
    if not headers:
        first = listing.label_of(0)
        try:
            read_header(listing.read(0))
        except (ValueError, DamagedImageError) as failure:
            reason = str(failure).removeprefix(f"{first}: ")
            raise DataError(f"{listing.source}: none of {PROBED} images tried can be read; {first}: {reason}") from None
    sizes = {(header.width, header.height) for header in headers.values()}
    width, height = next(iter(sizes))
    side = width if len(sizes) == 1 and width == height else None
    return side, all(header.grey for header in headers.values())


def _different_sizes(listing: Listing) -> str:
    headers = probe_headers(listing)
    (first, one), *rest = headers.items()
    other = next((item for item in rest if item[1] != one and _size(item[1]) != _size(one)), None)
    if other is None:
        what = f"{listing.label_of(first)} is {_size(one)}, not square"
    else:
        what = f"{listing.label_of(first)} is {_size(one)}, {listing.label_of(other[0])} is {_size(other[1])}"
    return (
        f"{listing.source}: {what}; set data.size where all are squares of multiples of one size, "
        "or crop and resize them with `harness data prepare SRC DST --size N`"
    )


def _size(header: Header) -> str:
    return f"{header.width}×{header.height}"


def _mixed(size: tuple[int, int], side: int) -> str:
    return f"is {size[0]}×{size[1]}, others are {side}×{side}"


def _fingerprint(config: DataConfig, split: str) -> str:
    return list_images(config.path or "", split).fingerprint


def _info(config: DataConfig) -> DataInfo:
    return open_images(config, "train").info


DATA_SET = DataSet(_fingerprint, _info, open_images)
