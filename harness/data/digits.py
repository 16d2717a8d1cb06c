"""scikit-learn's 1797 handwritten digits, 8×8, values 0..16: real images that come with a package."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

from harness.config.schema import DataConfig
from harness.data.sets import DataSet
from harness.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from harness.data.dataset import DataInfo, Dataset

LEVELS = 16
CLASSES = 10
SIZE = 8
FINGERPRINT = "digits-sklearn-1797-8x8"
CONTENT = "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
"""SHA-256 of pixels and labels that the fingerprint stands for: scikit-learn's own, since it has had them."""


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Values 0..16 to uint8 0..255: v·255/16, rounded. The mapping is one to one."""
    import numpy as np

    return ((values.astype(np.int64) * 510 + LEVELS) // (2 * LEVELS)).astype(np.uint8)


@cache
def load() -> tuple[np.ndarray, np.ndarray]:
    """All digits: images uint8 (1797, 1, 8, 8) and labels int64 (1797,). Raises :class:`DataError` for others."""
    import numpy as np  # imported here, as sklearn is: a fingerprint needs neither, and they take half a second
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = to_uint8(digits.images)[:, None], digits.target.astype(np.int64)
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != CONTENT:
        raise DataError("digits: scikit-learn's digits are not those that are known here; install another version")
    return images, labels


def _fingerprint(config: DataConfig, split: str) -> str:
    return FINGERPRINT


def _info(config: DataConfig, images: int = 0) -> DataInfo:
    from harness.data.dataset import DataInfo, display_name

    channels = config.channels or 1
    name = display_name(config.label or "digits", SIZE, channels, 1)
    return DataInfo(name, "train", images, SIZE, channels, CLASSES, FINGERPRINT)


def _opened(config: DataConfig, split: str) -> Dataset:
    from harness.data.dataset import ArrayPixels, Dataset
    from harness.data.pixels import with_channels

    images, labels = load()
    info = _info(config, len(images))
    return Dataset(info, labels, ArrayPixels(with_channels(images, info.channels)))


DATA_SET = DataSet(_fingerprint, _info, _opened)
