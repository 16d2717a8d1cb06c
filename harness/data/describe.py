"""What lies at a path, in plain values: for `harness data info`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from harness.data import cifar10
from harness.data.damage import Damaged
from harness.data.images import probe_headers, source_name
from harness.data.listing import Listing, list_images
from harness.data.pixels import decode
from harness.data.prepare import Cifar10Source, PrepareProgress
from harness.errors import DataError, printable

SPLITS = ("train", "test")


def info(path: str, *, check: bool = False, progress: PrepareProgress | None = None) -> dict[str, Any]:
    """The splits at `path` with their images, classes, sizes and fingerprints, as values for JSON.

    With `check` every image is decoded, and those that cannot be are counted and named under ``damaged``. Raises
    :class:`DataError` if there are no data at all.
    """
    if cifar10.is_archive(path):
        splits = {split: _archive_split(path, split) for split in SPLITS}
        return {"path": printable(path), "kind": "CIFAR-10 archive", "name": "CIFAR-10", "splits": splits}
    train = list_images(path, "train")
    listings = {"train": train}
    if train.splits > 1:
        listings["test"] = list_images(path, "test")
    return {
        "path": printable(path),
        "kind": "prepared images" if "prepared" in train.extra else "images",
        "name": source_name(train),
        "files": [printable(str(container.path)) for container in train.containers],
        "other_files": train.other_files,
        "splits": {split: _listed_split(listing, check, progress) for split, listing in listings.items()},
    }


def find_damaged(listing: Listing, progress: PrepareProgress | None = None) -> list[Damaged]:
    """Decode every image of `listing` and list those that cannot be."""
    found: list[Damaged] = []
    for index in range(len(listing.items)):
        try:
            decode(listing.read(index))
        except (ValueError, DataError) as failure:
            file = listing.label_of(index)
            found.append(Damaged(file, str(failure).removeprefix(f"{file}: ")))
        if progress is not None:
            progress("checking", index + 1, len(listing.items), len(found))
    return found


def _archive_split(path: str, split: str) -> dict[str, Any]:
    source = Cifar10Source(path, split)
    return {
        "images": len(source.names),
        **_classes(source.labels, source.classes),
        "sizes": {f"{source.side}×{source.side}": len(source.names)},
        "sizes_looked_at": len(source.names),
        "channels": 3,
        "fingerprint": source.fingerprint,
    }


def _listed_split(listing: Listing, check: bool, progress: PrepareProgress | None) -> dict[str, Any]:
    headers = probe_headers(listing)
    sizes = Counter(f"{header.width}×{header.height}" for header in headers.values())
    described: dict[str, Any] = {
        "images": len(listing.items),
        **_classes(listing.labels, listing.classes),
        "sizes": dict(sizes.most_common()),
        "sizes_looked_at": len(headers),
        "channels": 1 if headers and all(header.grey for header in headers.values()) else 3,
        "formats": dict(Counter(Path(item.path).suffix.lower() for item in listing.items).most_common()),
        "bytes": sum(item.size for item in listing.items),
        "fingerprint": listing.fingerprint,
    }
    left_out = listing.extra.get("damaged")
    if left_out:
        described["left_out_at_preparation"] = left_out
    if check:
        described["damaged"] = [[item.file, item.reason] for item in find_damaged(listing, progress)]
    return described


def _classes(labels: np.ndarray | None, classes: int | None) -> dict[str, Any]:
    if classes is None or labels is None:
        return {"classes": None}
    counts = np.bincount(labels, minlength=classes)
    return {"classes": classes, "images_per_class": [int(np.min(counts)), int(np.max(counts))]}
