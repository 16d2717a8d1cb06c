"""The feature extractors: one module each, by the name that a configuration gives them."""

from __future__ import annotations

from harness.metrics.declare import ExtractorKind, by_name
from harness.metrics.extractors import digits, dinov2, efficientnet_lite0, inception

EXTRACTORS: dict[str, ExtractorKind] = {
    extractor.name: extractor
    for extractor in (
        digits.EXTRACTOR,
        inception.EXTRACTOR,
        efficientnet_lite0.EXTRACTOR,
        dinov2.EXTRACTOR,
    )
}
"""Every extractor of the package by name."""


def extractor_of(name: str) -> ExtractorKind:
    """The extractor called `name`: one of :data:`EXTRACTORS`, or ``package.module:NAME``. Raises ValueError."""
    return by_name(name, EXTRACTORS, ExtractorKind)
