"""scikit-learn's 1797 handwritten digits, 8×8, values 0..16: real images that come with a package."""

from __future__ import annotations

from functools import cache

import numpy as np

LEVELS = 16
CLASSES = 10
SIZE = 8
FINGERPRINT = "digits-sklearn-1797-8x8"


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Values 0..16 to uint8 0..255: v·255/16, rounded. No two values meet; :func:`to_values` goes back."""
    return ((values.astype(np.int64) * 510 + LEVELS) // (2 * LEVELS)).astype(np.uint8)


def to_values(pixels: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_uint8` on its range: uint8 to int64 0..16."""
    return (pixels.astype(np.int64) * 2 * LEVELS + 255) // 510


@cache
def load() -> tuple[np.ndarray, np.ndarray]:
    """All digits: images uint8 (1797, 1, 8, 8) and labels int64 (1797,)."""
    from sklearn.datasets import load_digits  # here, since it takes half a second that a fingerprint does not need

    digits = load_digits()
    return to_uint8(digits.images)[:, None], digits.target.astype(np.int64)
