"""Generated images as other programs read them: a folder of PNGs, EDM's zip, or ADM's file of arrays.

* A folder holds ``00000000.png`` …, flat, as pytorch-fid, clean-fid and torch-fidelity look for images.
* A zip holds ``00000/img00000000.png`` …, stored without compression, and ``dataset.json``, as EDM's
  ``dataset_tool.py`` writes them and its trainings and ``fid.py`` read them.
* An ``.npz`` holds ``arr_0``, uint8 (N, H, W, C), and ``arr_1`` with the classes, as ADM's ``image_sample.py`` saves
  them.

A folder's classes are in a ``dataset.json`` of the same form as the zip's. What is written appears whole or not at all.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from harness.data import png
from harness.data.description import DESCRIPTION
from harness.data.image_sets import ADM_IMAGES, ADM_LABELS
from harness.errors import ConfigError
from harness.files import atomic_path

OWN_NAME = re.compile(r"\d{8,}\.png|dataset\.json")
"""Files of a folder that this module wrote: only these are ever replaced."""
FILES = (".zip", ".npz")
OTHER_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".gif",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".npy",
        ".pt",
        ".pth",
        ".pkl",
        ".tar",
        ".gz",
        ".tgz",
        ".h5",
    }
)
"""Endings of files that are not written: a folder of such a name would be a surprise."""
FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def check_destination(out: Path, overwrite: bool, *, own: re.Pattern[str] = OWN_NAME) -> None:
    """Raise :class:`ConfigError` where images cannot be written to `out`, before any is drawn. Makes nothing.

    A file is replaced only with `overwrite`, and so is a folder, if it holds nothing else than files called like `own`.
    """
    problem = _problem(out, overwrite, own)
    if problem:
        raise ConfigError("--out", [f"{out}: {problem}"])


def taken(out: Path, overwrite: bool) -> str:
    """What is wrong with writing the file `out`; empty where it is not there, or may be replaced."""
    return "exists; --overwrite replaces it, or name another" if out.exists() and not overwrite else ""


def _problem(out: Path, overwrite: bool, own: re.Pattern[str]) -> str:
    suffix, parent = out.suffix.lower(), out.absolute().parent
    if suffix in OTHER_SUFFIXES:
        return "images are written as a folder of PNGs, as .zip (EDM's), as .npz (ADM's), or as a grid, .png"
    if not parent.is_dir():
        return f"{parent} is no folder; make it first (mkdir -p {parent})"
    if suffix in (*FILES, ".png"):
        if out.is_dir():
            return "is a folder; name a file"
        return taken(out, overwrite)
    if not out.exists():
        return ""
    if not out.is_dir():
        return "is a file without the ending .zip or .npz; name a folder"
    names = sorted(entry.name for entry in out.iterdir())
    if names and not overwrite:
        return "is a folder with files in it; --overwrite replaces images that were written here, or name another"
    foreign = next((name for name in names if not own.fullmatch(name)), None)
    return f"holds {foreign}, which was not written here; nothing of it is replaced: name another" if foreign else ""


def save_images(images: np.ndarray, labels: np.ndarray | None, out: Path) -> None:
    """Write uint8 (N, C, H, W) images, C of 1 or 3, with their classes (N,) if there are any, in the form that the
    ending of `out` says. :func:`check_destination` says what may be there: it is replaced."""
    suffix = out.suffix.lower()
    if suffix == ".npz":
        _save_arrays(images, labels, out)
    elif suffix == ".zip":
        _save_zip(images, labels, out)
    else:
        _save_folder(images, labels, out)


def _save_arrays(images: np.ndarray, labels: np.ndarray | None, out: Path) -> None:
    arrays = {ADM_IMAGES: np.ascontiguousarray(images.transpose(0, 2, 3, 1))}
    if labels is not None:
        arrays[ADM_LABELS] = labels.astype(np.int64)
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _save_zip(images: np.ndarray, labels: np.ndarray | None, out: Path) -> None:
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        names = []
        for index, image in enumerate(images):
            name = f"{index:08d}"
            names.append(f"{name[:5]}/img{name}.png")
            archive.writestr(_entry(names[-1]), png.encode(image))
        archive.writestr(_entry(DESCRIPTION), _description(names, labels))


def _entry(name: str) -> zipfile.ZipInfo:
    """A file of the zip whose bytes depend on no clock, and that anybody may read once it is unpacked."""
    entry = zipfile.ZipInfo(name, FIXED_DATE)
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry


def _description(names: list[str], labels: np.ndarray | None) -> str:
    """``dataset.json`` as EDM writes it; null in the place of labels says that there are none."""
    pairs = None if labels is None else [[name, int(label)] for name, label in zip(names, labels, strict=True)]
    return json.dumps({"labels": pairs})


def _save_folder(images: np.ndarray, labels: np.ndarray | None, out: Path) -> None:
    """Written aside first. A folder that is not there yet appears by one rename; into one that is, the files are moved,
    and taken out again if that is interrupted."""
    there = out.exists()
    aside = Path(tempfile.mkdtemp(dir=out if there else out.absolute().parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        new = aside / "new"
        new.mkdir()
        for name, content in _files(images, labels):
            (new / name).write_bytes(content)
        if there:
            _move_in(new, out, aside)
        else:
            new.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _files(images: np.ndarray, labels: np.ndarray | None) -> Iterator[tuple[str, bytes]]:
    names = []
    for index, image in enumerate(images):
        names.append(f"{index:08d}.png")
        yield names[-1], png.encode(image)
    if labels is not None:
        yield DESCRIPTION, _description(names, labels).encode()


def _move_in(new: Path, out: Path, aside: Path) -> None:
    """The files of `new` in the place of those of `out`; what was there comes back where that fails."""
    old = aside / "old"
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        before = [entry for entry in out.iterdir() if entry.name != aside.name]
        for entry, target in [
            *((e, old / e.name) for e in before),
            *((e, out / e.name) for e in sorted(new.iterdir())),
        ]:
            entry.rename(target)
            moved.append((entry, target))
    except BaseException:
        for entry, target in reversed(moved):
            target.rename(entry)
        raise


def save_grid(images: np.ndarray, path: Path, most: int = 256) -> None:
    """uint8 (N, C, H, W) as one PNG of rows, each pixel enlarged where images are small."""
    shown = images[:most]
    columns = ceil(sqrt(len(shown)))
    scale = max(1, 64 // shown.shape[-1])
    enlarged = shown.repeat(scale, 2).repeat(scale, 3)
    blank = columns * ceil(len(shown) / columns) - len(shown)
    padded = np.concatenate([enlarged, np.zeros((blank, *enlarged.shape[1:]), enlarged.dtype)])
    count, channels, height, width = padded.shape
    rows = padded.reshape(count // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    array = rows.reshape(count // columns * height, columns * width, channels)
    with atomic_path(path) as temporary:
        Image.fromarray(array.squeeze(-1) if channels == 1 else array).save(temporary, format="PNG")
