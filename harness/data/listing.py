"""Which images a path holds, in what order, with which labels, in which split. Nothing is decoded.

A path is a folder, a zip, a folder of zips, or a pattern such as ``data/train-*.zip`` that matches several zips, which
are then one data set. Images are labelled by

* ``dataset.json`` as EDM and StyleGAN write it, ``{"labels": [[name, label], …]}``, if there is one, or else
* the folder they lie in (the layout of ImageFolder): classes are the sorted names of the folders at the top, over all
  zips together; images that lie in no folder have no labels.

Splits. Train and test are told apart by folders at the top named ``train`` and ``val`` (or ``validation``, ``test``),
or by such a word in the name of a zip (``tiny-val.zip``). With both val and test, val is taken: test sets often have no
labels. What holds one split only is the train split. Classes are those of the train split, whichever split is opened.
"""

from __future__ import annotations

import gc
import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.data.containers import Container, Folder, Zip
from harness.errors import DataError
from harness.wording import count_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
DESCRIPTION = "dataset.json"


class Item(NamedTuple):
    """An image: where it lies, its path below root and split folder, and what is known of it."""

    container: int
    member: int
    path: str
    size: int
    crc: int
    group: str | None = None
    label: int | None = None


@dataclass(frozen=True)
class Description:
    """What a ``dataset.json`` says: labels by member name (None: no labels) and, where the project wrote it, more."""

    file: str
    labels: dict[str, int] | None
    extra: dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """The images of one split, in their fixed order."""

    source: str
    containers: tuple[Container, ...]
    items: tuple[Item, ...]
    labels: np.ndarray
    class_names: tuple[str, ...] | None
    classes: int | None
    extra: dict[str, Any]
    other_files: int
    splits: int
    fingerprint: str

    def label_of(self, index: int) -> str:
        """How a message names image `index`."""
        item = self.items[index]
        return self.containers[item.container].label(item.member)

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`."""
        item = self.items[index]
        return self.containers[item.container].read(item.member)


def list_images(path: str, split: str) -> Listing:
    """The images of `split` (train or test) at `path`; remembered for as long as the files stay as they are.

    Raises :class:`DataError` with one message.
    """
    files = resolve(path)
    return _list_images(path, tuple(files), tuple(_state(file) for file in files), split)


def resolve(path: str) -> list[Path]:
    """The folder or the zips that `path` means. Raises :class:`DataError` with the nearest match."""
    place = Path(path).expanduser()
    if place.is_dir():
        zips = sorted(place.glob("*.zip"))
        return zips if zips and not _has_image(place) else [place]
    if place.exists():
        return [place]
    if glob.has_magic(path):
        matches = sorted(Path(match) for match in glob.glob(str(place)))  # noqa: PTH207 (the pattern may be absolute)
        if matches:
            return matches
        raise DataError(f"{path}: no file matches this pattern{_nearest(place)}")
    raise DataError(f"{path}: there is no such file or folder{_nearest(place)}")


def _nearest(place: Path) -> str:
    parent = place.parent
    while not parent.is_dir():
        place, parent = parent, parent.parent
    names = sorted(entry.name for entry in parent.iterdir())
    match = get_close_matches(place.name, names, n=1, cutoff=0.5)
    if match:
        return f" (did you mean {str(parent / match[0])!r}?)"
    return f"; {parent} holds {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"


def _has_image(folder: Path) -> bool:
    return any(_is_image(str(file)) for file in folder.rglob("*"))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


class _Scan(NamedTuple):
    """All that lies at a path, sorted into splits."""

    containers: tuple[Container, ...]
    descriptions: tuple[Description | None, ...]
    train: list[Item]
    test: list[Item]
    other_files: int


@lru_cache(maxsize=8)
def _list_images(path: str, files: tuple[Path, ...], state: object, split: str) -> Listing:
    scan = _scan(path, files, state)
    if split == "test" and not scan.test:
        raise DataError(
            f"{path}: has no test split; name one by a folder val/ or test/ beside train/, or by zips with "
            "such a word in their names that the path matches too"
        )
    with _no_collection():
        return _labelled(path, scan, scan.train if split == "train" else scan.test)


@lru_cache(maxsize=2)
def _scan(path: str, files: tuple[Path, ...], state: object) -> _Scan:
    with _no_collection():
        return _scan_now(path, files)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small objects are made here and none is garbage: looking for some would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scan_now(path: str, files: tuple[Path, ...]) -> _Scan:
    containers = tuple(_open_container(file) for file in files)
    descriptions = _descriptions(path, containers)
    by_split: dict[str, list[Item]] = {}
    for index, container in enumerate(containers):
        for tag, item in _items(index, container, descriptions[index]):
            by_split.setdefault(tag, []).append(item)
    others = sum(len(container.members) for container in containers) - sum(map(len, by_split.values()))
    if not by_split:
        raise DataError(f"{path}: holds no images (looked for {', '.join(IMAGE_SUFFIXES)}; found {others} other files)")
    train, test = _train_and_test(by_split)
    return _Scan(containers, tuple(descriptions), train, test, others)


def _open_container(file: Path) -> Container:
    if file.is_dir():
        return Folder(file)
    if file.suffix.lower() == ".zip":
        return Zip(file)
    raise DataError(f"{file}: is neither a folder nor a zip of images")


def _train_and_test(by_split: dict[str, list[Item]]) -> tuple[list[Item], list[Item]]:
    test = by_split.get("val") or by_split.get("test") or []
    train = by_split.get("train", []) + by_split.get("", [])
    return (train, test) if train else (test, [])


def _items(index: int, container: Container, description: Description | None) -> list[tuple[str, Item]]:
    images = [(i, member) for i, member in enumerate(container.members) if _is_image(member.name)]
    parts = [member.name.split("/") for _, member in images]
    root = _common_root(parts)
    tops = {part[root] for part in parts if len(part) > root + 1}
    split_folders = bool(tops) and tops <= {top for top in tops if top.lower() in SPLIT_WORDS}
    zip_tag = _tag_of_zip(container.path) if isinstance(container, Zip) else ""
    found = []
    for (member_index, member), part in zip(images, parts, strict=True):
        below = part[root:]
        tag = zip_tag
        if split_folders and len(below) > 1:
            tag, below = SPLIT_WORDS[below[0].lower()], below[1:]
        label = None
        if description is not None and description.labels is not None:
            label = description.labels.get(member.name)
        group = below[0] if len(below) > 1 else None
        path = member.name if len(below) == len(part) else "/".join(below)
        item = Item(index, member_index, path, member.size, member.crc, group, label)
        found.append((tag, item))
    return found


def _common_root(parts: Sequence[list[str]]) -> int:
    """How many folders at the top hold everything and are neither a split nor a class."""
    root = 0
    while parts and all(len(part) > root + 2 for part in parts):
        tops = {part[root] for part in parts}
        if len(tops) > 1 or next(iter(tops)).lower() in SPLIT_WORDS:
            break
        root += 1
    return root


def _tag_of_zip(path: Path) -> str:
    words = re.split(r"[^a-z0-9]+", path.stem.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")


def _descriptions(path: str, containers: Sequence[Container]) -> list[Description | None]:
    found = [_description(container) for container in containers]
    known = [d for d in found if d is not None]
    if known and len(known) < len(containers):
        bare = next(c.path for c, d in zip(containers, found, strict=True) if d is None)
        raise DataError(f"{path}: {known[0].file} gives labels, but {bare} has no {DESCRIPTION}; prepare them together")
    for key in ("class_names", "size", "channels"):
        values = {json.dumps(d.extra.get(key)) for d in known}
        if len(values) > 1:
            raise DataError(f"{path}: its zips disagree on {key!r} in {DESCRIPTION}; prepare them together")
    return found


def _description(container: Container) -> Description | None:
    members = [i for i, m in enumerate(container.members) if m.name.rpartition("/")[2] == DESCRIPTION]
    if not members:
        return None
    index = min(members, key=lambda i: container.members[i].name.count("/"))
    file, folder = container.label(index), container.members[index].name.rpartition("/")[0]
    try:
        content = json.loads(container.read(index))
        labels = content["labels"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f'{file}: is not JSON of the form {{"labels": [[name, label], …]}}') from None
    if isinstance(labels, dict):
        labels = list(labels.items())
    extra = {key: value for key, value in content.items() if key != "labels"}
    if labels is None:
        return Description(file, None, extra)
    names = {member.name for member in container.members}
    by_name: dict[str, int] = {}
    for row in labels:
        name, label = _row(file, row)
        full = f"{folder}/{name}" if folder else name
        if full not in names:
            raise DataError(f"{file}: labels {name!r}, which is not there")
        by_name[full] = label
    return Description(file, by_name, extra)


def _row(file: str, row: Any) -> tuple[str, int]:
    if not (isinstance(row, (list, tuple)) and len(row) == 2 and isinstance(row[0], str)):
        raise DataError(f"{file}: {row!r} is not a pair [name, label]")
    name, label = row
    if isinstance(label, bool) or not isinstance(label, int):
        raise DataError(f"{file}: label {label!r} of {name!r} is not a whole number")
    return name, label


def _labelled(path: str, scan: _Scan, chosen: Sequence[Item]) -> Listing:
    containers, descriptions, train = scan.containers, scan.descriptions, scan.train
    description = next((d for d in descriptions if d is not None), None)
    extra = dict(description.extra) if description else {}
    names: tuple[str, ...] | None = None
    if description is None:
        names = _class_names(path, containers, train)
        chosen = _by_folder(containers, names, chosen)
    elif description.labels is not None:
        given = extra.get("class_names")
        names = tuple(given) if given else None
    classes = len(names) if names is not None else _count_classes(containers, descriptions, train, chosen)
    if isinstance(extra.get("classes"), int) and classes is not None:
        classes = extra["classes"]
    _check_labels(containers, chosen, classes)
    items = tuple(sorted(chosen, key=lambda item: (item.path, item.crc, item.size)))
    _check_distinct(containers, items)
    labels = np.array([item.label or 0 for item in items], dtype=np.int64)
    return Listing(
        source=path,
        containers=containers,
        items=items,
        labels=labels,
        class_names=names,
        classes=classes,
        extra=extra,
        other_files=scan.other_files,
        splits=1 + bool(scan.test),
        fingerprint=_fingerprint(items, names, classes, extra),
    )


def _class_names(path: str, containers: Sequence[Container], train: Sequence[Item]) -> tuple[str, ...] | None:
    groups = {item.group for item in train}
    if groups == {None}:
        return None
    if None in groups:
        stray = next(item for item in train if item.group is None)
        raise DataError(
            f"{path}: {containers[stray.container].label(stray.member)} lies outside the folders of the classes"
        )
    return tuple(sorted(group for group in groups if group is not None))


def _by_folder(containers: Sequence[Container], names: tuple[str, ...] | None, chosen: Sequence[Item]) -> list[Item]:
    if names is None:
        return list(chosen)
    number = {name: label for label, name in enumerate(names)}
    labelled = []
    for item in chosen:
        if item.group not in number:
            where = containers[item.container].label(item.member)
            close = get_close_matches(str(item.group), names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DataError(
                f"{where}: its folder {item.group!r} is none of the train split's {count_of(len(names), 'class')}{hint}"
            )
        labelled.append(item._replace(label=number[item.group]))
    return labelled


def _count_classes(
    containers: Sequence[Container],
    descriptions: Sequence[Description | None],
    train: Sequence[Item],
    chosen: Sequence[Item],
) -> int | None:
    given = [d for d in descriptions if d is not None and d.labels is not None]
    if not given:
        return None
    for item in (*train, *chosen):
        if item.label is None:
            raise DataError(f"{given[0].file}: gives no label for {containers[item.container].label(item.member)}")
    return 1 + max(item.label for item in train if item.label is not None)


def _check_labels(containers: Sequence[Container], chosen: Sequence[Item], classes: int | None) -> None:
    if classes is None:
        return
    for item in chosen:
        if item.label is not None and 0 <= item.label < classes:
            continue
        where = containers[item.container].label(item.member)
        if item.label is None:
            raise DataError(f"{where}: has no label")
        raise DataError(f"{where}: label {item.label} is out of range, the {classes} classes are 0..{classes - 1}")


def _check_distinct(containers: Sequence[Container], items: Sequence[Item]) -> None:
    for first, second in pairwise(items):
        same = (first.path, first.crc, first.size) == (second.path, second.crc, second.size)
        if same and first.container != second.container:
            raise DataError(
                f"{containers[first.container].label(first.member)} and "
                f"{containers[second.container].label(second.member)} are the same image: is a zip there twice?"
            )


def _fingerprint(
    items: Sequence[Item], names: tuple[str, ...] | None, classes: int | None, extra: dict[str, Any]
) -> str:
    digest = hashlib.sha256(json.dumps([classes, names, extra.get("content")]).encode())
    for item in items:
        digest.update(f"\n{item.path}\0{item.size}\0{item.crc}\0{item.label}".encode())
    return digest.hexdigest()[:32]
