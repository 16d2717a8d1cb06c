"""From any images to one zip of small square ones, in the layout that EDM and StyleGAN read.

The zip holds ``00000/img00000000.png`` … without compression and ``dataset.json`` with labels, size, channels, class
names and a hash of the content. Same source and settings, same bytes: sorted order, fixed dates, PNG without
compression. (The pixels of a JPEG are those of Pillow's decoder, libjpeg-turbo, which is exact across machines.)

Work is done in parts, each written whole beside the destination, so that a preparation that was cut off goes on where
it was; the zip appears at the end by rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from harness.data import cifar10, png
from harness.data.damage import Damaged, DamagedImageError, damage_report
from harness.data.images import known_or_probed, source_name
from harness.data.listing import Listing, list_images
from harness.data.pixel_rules import PIXEL_RULES
from harness.data.pixels import GREY_MODES, centre_crop, check_cropping, open_image, plain, to_array
from harness.errors import DataError, printable
from harness.files import atomic_path, write_atomically
from harness.wording import count_of

FORMAT = 1
PART_BYTES = 2**24
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
PrepareProgress = Callable[[str, int, int, int], None]
"""Called with phase ("decoding" or "writing"), images done, total, damaged so far; first with what is already there."""


@dataclass(frozen=True)
class Prepared:
    """What a preparation made."""

    path: str
    images: int
    size: int
    channels: int
    classes: int | None
    content: str
    damaged: tuple[Damaged, ...]
    resumed: int


class Source(Protocol):
    """Images to prepare: `names` are relative, so that they are the same on every machine."""

    title: str
    fingerprint: str
    names: list[str]
    labels: np.ndarray | None
    classes: int | None
    class_names: tuple[str, ...] | None
    side: int | None
    grey: bool

    def open(self, index: int) -> Image.Image:
        """Image `index`, opened, not yet decoded. Raises ValueError with the reason it cannot be."""


class ListedSource:
    """Images of a folder or of zips."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.title = source_name(listing)
        self.fingerprint = listing.fingerprint
        self.names = [item.path for item in listing.items]
        self.labels = listing.labels if listing.classes is not None else None
        self.classes, self.class_names = listing.classes, listing.class_names
        self.side, self.grey = known_or_probed(listing)

    def open(self, index: int) -> Image.Image:
        """Image `index`, opened, not yet decoded. Raises ValueError with the reason it cannot be."""
        try:
            return open_image(self.listing.read(index))
        except DamagedImageError as failure:
            raise ValueError(failure.damaged.reason) from None


class Cifar10Source:
    """CIFAR-10's archive."""

    def __init__(self, path: str, split: str) -> None:
        images, labels = cifar10.load(path, split)
        self.images = images.transpose(0, 2, 3, 1)
        self.title = "CIFAR-10"
        self.labels: np.ndarray | None = labels
        self.classes: int | None = cifar10.CLASSES
        self.class_names: tuple[str, ...] | None = cifar10.CLASS_NAMES
        self.side: int | None = cifar10.SIZE
        self.grey = False
        self.fingerprint = cifar10.fingerprint(path, split)
        self.names = [f"{split}-{index:05d}" for index in range(len(images))]

    def open(self, index: int) -> Image.Image:
        """Image `index`."""
        return Image.fromarray(self.images[index])


@dataclass(frozen=True)
class Renderer:
    """Makes parts: images `start` … of a source, square, of one size and number of channels."""

    source: Source
    size: int
    channels: int
    refuse_colour: bool
    part_images: int

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-len(self.source.names) // self.part_images)

    def image(self, index: int) -> np.ndarray:
        """Image `index` as uint8 (channels, size, size). Raises ValueError with the reason it cannot be."""
        with self.source.open(index) as opened:
            if self.refuse_colour and opened.mode not in GREY_MODES:
                raise ValueError("is in colour, but the first looked at are grey; choose --channels 3 or 1")
            check_cropping(*opened.size, self.size)
            decoded = plain(opened)
            if decoded.size != (self.size, self.size):
                decoded = centre_crop(decoded, self.size)
            return to_array(decoded, self.channels)

    def write_part(self, number: int, path: Path) -> tuple[int, int]:
        """Part `number` to `path`; returns how many images it covers and how many of them are damaged."""
        start = number * self.part_images
        indices = range(start, min(start + self.part_images, len(self.source.names)))
        images, kept, damaged, reasons = [], [], [], []
        for index in indices:
            try:
                images.append(self.image(index))
                kept.append(index)
            except ValueError as failure:
                damaged.append(index)
                reasons.append(str(failure))
        shape = (-1, self.channels, self.size, self.size)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                images=np.array(images, dtype=np.uint8).reshape(shape),
                kept=np.array(kept, dtype=np.int64),
                damaged=np.array(damaged, dtype=np.int64),
                reasons=np.array(reasons, dtype=np.str_),
            )
        return len(indices), len(damaged)


def prepare(
    src: str,
    dst: str | Path,
    size: int | None = None,
    *,
    split: str = "train",
    channels: int | None = None,
    name: str | None = None,
    workers: int | None = None,
    allow_damaged: int = 0,
    overwrite: bool = False,
    progress: PrepareProgress | None = None,
) -> Prepared:
    """Crop and resize the images of `split` at `src` into the zip `dst`; a rerun goes on where the last one stopped.

    `size` None keeps the size that all have. `workers` None takes all cores. More than `allow_damaged` images that
    cannot be used raise :class:`DataError` that counts and names them, and nothing is written to `dst` but
    ``<dst>.damaged.tsv``, the full list; what was decoded is kept for a rerun.
    """
    destination = Path(dst)
    if destination.suffix.lower() != ".zip":
        raise DataError(f"{dst}: the destination is a zip; call it {destination.name}.zip")
    source = find_source(src, split)
    renderer = _renderer(source, src, size, channels)
    key = _key(renderer, name)
    finished = _finished(destination, key, overwrite)
    if finished is not None:
        return finished
    parts = destination.with_name(f".{destination.name}.parts-{key}")
    resumed = _decode(renderer, parts, destination, workers, progress)
    damaged = _damaged(renderer, parts)
    listing_file = destination.with_name(destination.name + ".damaged.tsv")
    if damaged:
        write_atomically(listing_file, "".join(f"{item.file}\t{item.reason}\n" for item in damaged))
    else:
        listing_file.unlink(missing_ok=True)
    if len(damaged) > allow_damaged:
        raise DataError(
            damage_report(src, damaged, len(source.names))
            + f"\nall are listed in {listing_file}; to leave them out: --allow-damaged {len(damaged)}"
        )
    if len(damaged) == len(source.names):
        raise DataError(f"{src}: none of {count_of(len(damaged), 'image')} can be used, the first: {damaged[0].reason}")
    content = _write_zip(renderer, parts, destination, key, name, damaged, progress)
    shutil.rmtree(parts)
    return Prepared(
        str(destination),
        len(source.names) - len(damaged),
        renderer.size,
        renderer.channels,
        source.classes,
        content,
        tuple(damaged),
        resumed,
    )


def find_source(src: str, split: str) -> Source:
    """CIFAR-10's archive if `src` looks like it, or else a folder or zips of images."""
    return Cifar10Source(src, split) if cifar10.is_archive(src) else ListedSource(list_images(src, split))


def _renderer(source: Source, src: str, size: int | None, channels: int | None) -> Renderer:
    if channels not in (None, 1, 3):
        raise DataError(f"{channels} channels: choose 1 (grey) or 3 (RGB)")
    side = size or source.side
    if side is None:
        raise DataError(f"{src}: its images have several sizes or are not square; choose --size")
    if side < 1:
        raise DataError(f"size {side}: must be at least 1 pixel")
    depth = channels or (1 if source.grey else 3)
    part_images = max(1, min(1024, PART_BYTES // (depth * side**2)))
    return Renderer(source, side, depth, source.grey and channels is None, part_images)


def _key(renderer: Renderer, name: str | None) -> str:
    settings = [
        FORMAT,
        PIXEL_RULES,
        renderer.source.fingerprint,
        renderer.size,
        renderer.channels,
        name or renderer.source.title,
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def _finished(destination: Path, key: str, overwrite: bool) -> Prepared | None:
    if not destination.exists():
        return None
    try:
        with zipfile.ZipFile(destination) as archive:
            made = json.loads(archive.read("dataset.json"))
        if made["prepared"] == key:
            damaged = tuple(Damaged(file, reason) for file, reason in made["damaged"])
            images = made["images"]
            shape = (made["size"], made["channels"], made["classes"])
            return Prepared(str(destination), images, *shape, made["content"], damaged, images + len(damaged))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError):
        pass
    if overwrite:
        return None
    raise DataError(f"{destination}: exists and is something else; remove it, or use --overwrite")


def _decode(
    renderer: Renderer, parts: Path, destination: Path, workers: int | None, progress: PrepareProgress | None
) -> int:
    """Write the parts that are missing; returns the number of images whose parts were there."""
    total = len(renderer.source.names)
    missing = [number for number in range(renderer.parts) if not _whole(_part_path(parts, number))]
    covered = sum(min(renderer.part_images, total - n * renderer.part_images) for n in missing)
    done, damaged = total - covered, 0
    _check_disk(renderer, destination, covered)
    parts.mkdir(parents=True, exist_ok=True)
    resumed = done
    for images, bad in _run(renderer, parts, missing, workers):
        done, damaged = done + images, damaged + bad
        if progress is not None:
            progress("decoding", done, total, damaged)
    return resumed


def _run(renderer: Renderer, parts: Path, missing: list[int], workers: int | None) -> Iterator[tuple[int, int]]:
    """Images and damaged ones of each part as it is made; the first is (0, 0), once all processes have started.

    They start by fork where that is safe, before any callback that may start threads: no imports, no copying.
    """
    processes = min(workers or os.cpu_count() or 1, len(missing))
    if processes <= 1:
        yield 0, 0
        for number in missing:
            yield renderer.write_part(number, _part_path(parts, number))
        return
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(processes, context, _set_renderer, (renderer, parts))
    try:
        futures: list[Future[tuple[int, int]]] = [pool.submit(_write_part, number) for number in missing]
        yield 0, 0
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise DataError("a process that decoded images died (out of memory?); a rerun goes on from here") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, tuple[Renderer, Path]] = {}  # what a process of the pool works on, set once at its start


def _set_renderer(renderer: Renderer, parts: Path) -> None:
    _worker["job"] = renderer, parts


def _write_part(number: int) -> tuple[int, int]:
    renderer, parts = _worker["job"]
    return renderer.write_part(number, _part_path(parts, number))


def _part_path(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


def _whole(part: Path) -> bool:
    """Whether a part is there and without damage: a rerun looks again at damaged images, as they may be new."""
    if not part.exists():
        return False
    with np.load(part, allow_pickle=False) as content:
        return not len(content["damaged"])


def _damaged(renderer: Renderer, parts: Path) -> list[Damaged]:
    found: list[Damaged] = []
    for number in range(renderer.parts):
        with np.load(_part_path(parts, number), allow_pickle=False) as part:
            pairs = zip(part["damaged"], part["reasons"], strict=True)
            found += [Damaged(printable(renderer.source.names[int(index)]), str(reason)) for index, reason in pairs]
    return found


def _check_disk(renderer: Renderer, destination: Path, missing: int) -> None:
    """Parts and zip hold every pixel once each."""
    per_image = renderer.channels * renderer.size**2 + 512
    needed = per_image * (missing + len(renderer.source.names))
    place = destination.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(f"{place}: {free / 1e9:.1f} GB are free, the preparation needs {needed / 1e9:.1f} GB")


def _write_zip(
    renderer: Renderer,
    parts: Path,
    destination: Path,
    key: str,
    name: str | None,
    damaged: list[Damaged],
    progress: PrepareProgress | None,
) -> str:
    source, written = renderer.source, 0
    digest, labels = hashlib.sha256(), []
    total = len(source.names) - len(damaged)
    with atomic_path(destination) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number in range(renderer.parts):
            with np.load(_part_path(parts, number), allow_pickle=False) as part:
                images, kept = part["images"], part["kept"]
            for image, index in zip(images, kept, strict=True):
                file = f"{written // 1000:05d}/img{written:08d}.png"
                label = None if source.labels is None else int(source.labels[index])
                _store(archive, file, png.encode(image))
                digest.update(image.tobytes() + str(label).encode())
                labels.append([file, label])
                written += 1
            if progress is not None:
                progress("writing", written, total, len(damaged))
        description = {
            "labels": None if source.labels is None else labels,
            "name": name or source.title,
            "prepared": key,
            "images": written,
            "size": renderer.size,
            "channels": renderer.channels,
            "classes": source.classes,
            "class_names": source.class_names,
            "damaged": [[item.file, item.reason] for item in damaged],
            "content": digest.hexdigest()[:32],
        }
        _store(archive, "dataset.json", json.dumps(description, separators=(",", ":")).encode())
    return digest.hexdigest()[:32]


def _store(archive: zipfile.ZipFile, file: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(file, FIXED_DATE)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_STORED)
