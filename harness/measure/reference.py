"""What images are compared with: a reference set, its features made once and cached under all that they
depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness.errors import DataError
from harness.files import write_atomically
from harness.measure.features import Extractor

SCHEMA = 2
"""Raised whenever the meaning of a cached file changes: every older file is a miss then."""
SOFTWARE = ("torch", "torch-fidelity", "pillow")
"""What decodes images and computes their features: another version may do it otherwise in the last bits."""


@dataclass(frozen=True)
class Reference:
    """A set of real images: a name for tables, a fingerprint of its pixels, and how to get all of them.

    The fingerprint is of the very pixels that `images` gives, uint8 (N, 1 or 3, H, W), size and channels included.
    `count`, if known, saves loading them to look into the cache. `data` and `split` are the parts of the name.
    """

    name: str
    fingerprint: str
    images: Callable[[], Tensor]
    count: int | None = None
    data: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features (N, width) of a reference under one extractor, the key that they are cached under, and an id.

    Features of one id may be compared with the same images. The key is of the software and device too, in whose last
    bits two computations of the same features differ.
    """

    features: Tensor
    key: str
    id: str


def cache_key(reference: Reference, extractor: Extractor, count: int) -> tuple[str, dict[str, Any]]:
    """The key, and the facts it is the hash of: those of :func:`identity`, software and device."""
    facts = {
        **identity(reference, extractor, count),
        "device": extractor.device.type,
        "versions": {name: metadata.version(name) for name in SOFTWARE},
    }
    return _digest(facts), facts


def identity(reference: Reference, extractor: Extractor, count: int) -> dict[str, Any]:
    """What the features depend on: pixels, extractor (weights and preprocessing), layer, N."""
    return {
        "schema": SCHEMA,
        "data": reference.fingerprint,
        "extractor": extractor.identity,
        "preprocessing": extractor.kind.preprocessing,
        "layer": extractor.kind.layer_name,
        "images": count,
    }


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def reference_features(
    reference: Reference,
    extractor: Extractor,
    batch: int = 250,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReferenceFeatures:
    """Features of `reference`, from ``folder/<key>.safetensors`` if they are there, else extracted and put
    there.

    A file that is cut short or does not hold what its name says is replaced. Raises DataError for fewer than
    two images.
    """
    images = reference.images() if reference.count is None else None
    count = len(images) if images is not None else reference.count
    assert count is not None
    if count < 2:
        raise DataError(f"reference {reference.name}: at least 2 images are needed for a covariance, not {count}")
    key, facts = cache_key(reference, extractor, count)
    id_ = _digest(identity(reference, extractor, count))
    path = folder / f"{key}.safetensors" if folder is not None else None
    if path is not None and (cached := _read(path, facts)) is not None:
        return ReferenceFeatures(cached, key, id_)
    if images is None:
        images = reference.images()
        if len(images) != count:
            raise DataError(f"reference {reference.name}: {len(images)} images, {count} were announced")
    features = extractor.extract(images, batch, progress)[extractor.kind.layer_name]
    if path is not None:
        write_atomically(path, save({"features": features}, {"facts": json.dumps(facts, sort_keys=True)}))
    return ReferenceFeatures(features, key, id_)


def _read(path: Path, facts: dict[str, Any]) -> Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            if json.loads((file.metadata() or {}).get("facts", "null")) != facts:
                return None
            features = file.get_tensor("features")
    except (OSError, SafetensorError, ValueError):
        return None
    return features if torch.is_tensor(features) and len(features) == facts["images"] else None
