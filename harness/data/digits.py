"""scikit-learn's 1797 handwritten digits, 8×8, values 0..16: real images that come with a package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.schema import DataConfig
from harness.data.sets import DataSet
from harness.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from harness.data.dataset import DataInfo, Dataset

FILE = ("datasets", "data", "digits.csv.gz")
"""Where scikit-learn has them, within its package."""
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
    import numpy as np  # imported here: a fingerprint does not need it

    table = _table()
    images, labels = to_uint8(table[:, :-1]).reshape(-1, 1, SIZE, SIZE), table[:, -1].astype(np.int64)
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != CONTENT:
        raise DataError("digits: scikit-learn's digits are not those that are known here; install another version")
    return images, labels


def _table() -> np.ndarray:
    """Values 0..16 of the 64 pixels and the label, (1797, 65), from scikit-learn's file.

    Read without importing scikit-learn where the file lies at its place: that would take a second of every process.
    """
    import numpy as np

    found = find_spec("sklearn")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        file = Path(place, *FILE)
        if file.is_file():
            table: np.ndarray = np.loadtxt(file, delimiter=",")
            return table
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


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
