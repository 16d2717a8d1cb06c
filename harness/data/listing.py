"""Which images a path holds, in what order, with which labels, in which split. Nothing is decoded.

A path is a folder, a zip, a folder of zips, or a pattern such as ``data/train-*.zip`` that matches several zips, which
are then one data set. Images are labelled by

* ``dataset.json`` as EDM and StyleGAN write it, ``{"labels": [[name, label], …]}``, if there is one, or else
* the folder they lie in (the layout of ImageFolder): classes are the sorted names of the folders at the top, over all
  zips together; images that lie in no folder have no labels.

Splits. Train and test are told apart by folders at the top named ``train`` and ``val`` (or ``validation``, ``test`` and
the like), or by such a word in the name of a zip (``tiny-val.zip``). With both val and test, val is taken: test sets
often have no labels. What holds one split only is the train split. Classes are those of the train split, whichever
split is opened.

What could be read in two ways is refused: see :mod:`harness.data.layout`.
"""

from __future__ import annotations

import gc
import glob
import hashlib
import json
import re
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.data.checksums import State, is_settled, state_of
from harness.data.containers import Container, Folder, Member, Zip
from harness.data.description import Description, descriptions
from harness.data.layout import IMAGE_SUFFIXES, Layout, check_names, is_image, split_in
from harness.errors import DataError, MissingDataError, printable
from harness.files import expanded, tried

QUICK_SECONDS = 0.2
TRUSTED_TIMES = 20
"""A folder that took longer than QUICK_SECONDS to look through is trusted to stay as it is for so many times longer."""
REMEMBERED = 4
EDM_NAME = re.compile(r"(\d{5})/img\1\d{3}\.\w+")


class Item(NamedTuple):
    """An image: where it lies, its path below root and split folder, and what is known of it."""

    container: int
    member: int
    path: str
    size: int
    crc: int = 0
    group: str | None = None
    label: int | None = None


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
    """Of the content: paths, checksums and labels of all images. A folder and its zip have the same."""

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
    files = tuple(resolve(path))
    look = _looks.pop((path, files), None)
    if look is None or not look.holds():
        look = _look(path, files)
    _looks[path, files] = look  # the most recently used ones stay
    while len(_looks) > REMEMBERED:
        del _looks[next(iter(_looks))]
    if split not in look.listings:
        if split == "test" and not look.scan.test:
            raise DataError(
                f"{path}: has no test split; name one by a folder val/ or test/ beside train/, or by zips with "
                "such a word in their names that the path matches too; or set measure.reference: train"
            )
        with _no_collection():
            look.listings[split] = _labelled(path, look.scan, look.scan.train if split == "train" else look.scan.test)
    return look.listings[split]


def resolve(path: str) -> list[Path]:
    """The folder or the zips that `path` means. Raises :class:`DataError` with the nearest match."""
    place = expanded(path)
    if place.is_dir():
        zips = sorted(place.glob("*.zip"))
        return zips if zips and not _has_image(place) else [place]
    if place.exists():
        return [place]
    if glob.has_magic(path):
        matches = sorted(Path(match) for match in glob.glob(str(place)))  # noqa: PTH207 (the pattern may be absolute)
        if matches:
            return matches
        raise MissingDataError(f"{path}: no file matches this pattern{tried(place)}{_nearest(place)}")
    raise MissingDataError(f"{path}: there is no such file or folder{tried(place)}{_nearest(place)}")


def _nearest(place: Path) -> str:
    parent = place.parent
    while not parent.is_dir():
        place, parent = parent, parent.parent
    names: list[str] = []
    with suppress(OSError):
        names = sorted(printable(entry.name) for entry in parent.iterdir())
    match = get_close_matches(place.name, names, n=1, cutoff=0.5)
    if match:
        return f" (did you mean {str(parent / match[0])!r}?)"
    return f"; {parent.absolute()} holds {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"


def _has_image(folder: Path) -> bool:
    return any(is_image(str(file)) for file in folder.rglob("*"))


class _Scan(NamedTuple):
    """All that lies at a path, sorted into splits."""

    containers: tuple[Container, ...]
    descriptions: tuple[Description | None, ...]
    train: list[Item]
    test: list[Item]
    unread: dict[str, str]
    """Folders among the classes of the train split that hold no image, each with what it holds."""
    other_files: int


@dataclass
class _Look:
    """What was found at a path, and how long that may be trusted."""

    scan: _Scan
    files: tuple[Path, ...]
    states: tuple[State, ...] | None
    """Of the zips, if their states would show a change since; None of folders, whose files may change unseen."""
    until: float
    listings: dict[str, Listing] = field(default_factory=dict)

    def holds(self) -> bool:
        """Whether the files are as they were, as far as can be told at little cost."""
        if self.states is None:
            return time.monotonic() < self.until
        return self.states == _states(self.files)


_looks: dict[tuple[str, tuple[Path, ...]], _Look] = {}


def _states(files: Iterable[Path]) -> tuple[State, ...]:
    return tuple(state_of(file.stat()) for file in files)


def _look(path: str, files: tuple[Path, ...]) -> _Look:
    looked_at, states, started = time.time_ns(), _states(files), time.monotonic()
    with _no_collection():
        scan = _scan(path, files)
    took = time.monotonic() - started
    shows = all(is_settled(state, looked_at) for state in states) and not any(file.is_dir() for file in files)
    until = time.monotonic() + TRUSTED_TIMES * took if took > QUICK_SECONDS else 0.0
    return _Look(scan, files, states if shows else None, until)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector: of the millions of small objects made here none is garbage, and collecting would
    double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _scan(path: str, files: tuple[Path, ...]) -> _Scan:
    containers = tuple(_open_container(file) for file in files)
    described = descriptions(path, containers)
    by_split: dict[str, list[Item]] = {}
    unread: dict[str, dict[str, str]] = {}
    for index, container in enumerate(containers):
        part = _part(index, container, described[index])
        if not part.items and len(containers) > 1:
            raise DataError(f"{container.path}: holds no images; {path} should match zips of images alone")
        for split, items in part.items.items():
            by_split.setdefault(split, []).extend(items)
            unread.setdefault(split, {}).update(part.unread.get(split, {}))
    others = sum(len(container.members) for container in containers) - sum(map(len, by_split.values()))
    if not by_split:
        raise DataError(f"{path}: {_nothing(containers, others)}")
    if "" in by_split and "train" in by_split:
        one, other = (_where(containers, by_split[split][0]) for split in ("train", ""))
        raise DataError(f"{path}: {one} is of the train split by its name, {other} of none; say which by a pattern")
    split = next(name for name in ("train", "", "val", "test") if name in by_split)
    test = [] if split in ("val", "test") else by_split.get("val") or by_split.get("test") or []
    return _Scan(containers, tuple(described), by_split[split], test, unread[split], others)


def _open_container(file: Path) -> Container:
    if file.is_dir():
        return Folder(file)
    if file.suffix.lower() == ".zip" or zipfile.is_zipfile(file):
        return Zip(file)
    name = file.name.lower()
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")):
        hint = "set data.name: cifar10" if "cifar-10" in name else "unpack it and give the folder, or make a zip of it"
        raise DataError(f"{file}: is neither a folder nor a zip of images; {hint}")
    if is_image(name):
        raise DataError(f"{file}: is one image; a folder or a zip of images is needed")
    raise DataError(f"{file}: is neither a folder nor a zip of images")


def _nothing(containers: Sequence[Container], others: int) -> str:
    if not others and not any(container.folders for container in containers):
        return "holds no images: it is empty"
    return f"holds no images (looked for {', '.join(IMAGE_SUFFIXES)}; found {others} other files)"


def _where(containers: Sequence[Container], item: Item) -> str:
    return containers[item.container].label(item.member)


class _Part(NamedTuple):
    """The images of one container by split, and the folders among their classes that hold none."""

    items: dict[str, list[Item]]
    unread: dict[str, dict[str, str]]


def _part(index: int, container: Container, description: Description | None) -> _Part:
    images: list[tuple[int, Member]] = []
    others: list[str] = []
    for i, member in enumerate(container.members):
        if is_image(member.name):
            images.append((i, member))
        else:
            others.append(member.name)
    _check_member_names(container, [member.name for _, member in images])
    layout = Layout(str(container.path), (member.name for _, member in images), others, container.folders)
    labelled = description is not None
    root = layout.root(labelled)
    splits = layout.splits(root)
    whole = split_in(container.path.stem) if isinstance(container, Zip) else ""
    given = description.labels if description is not None else None
    found: dict[str, list[Item]] = {}
    for number, member in images:
        path, split = member.name[len(root) + 1 :] if root else member.name, whole
        if splits:
            top, _, path = path.partition("/")
            split = splits[top]
        group, slash, _ = path.partition("/")
        label = given.get(member.name) if given is not None else None
        item = Item(index, number, path, member.size, group=group if slash else None, label=label)
        found.setdefault(split, []).append(item)
    if labelled:
        return _Part(found, {})
    tops = {split: "/".join(part for part in (root, top) if part) for top, split in splits.items()} or {whole: root}
    return _Part(found, {split: _unread(layout, top) for split, top in tops.items()})


def _unread(layout: Layout, folder: str) -> dict[str, str]:
    lost = layout.unreadable(folder)
    if lost is not None:
        raise DataError(f"{layout.where}: {lost} are images that are not read here; convert them, or move them away")
    return layout.without_images(folder)


def _check_member_names(container: Container, names: Sequence[str]) -> None:
    """Raise :class:`DataError` for a name twice in a zip, of which an unpacker keeps one, and for lost folders."""
    twisted = next((name for name in names if "\\" in name), None)
    if twisted is not None:  # of a folder: in a zip they have been read as slashes
        raise DataError(
            f"{container.path}: {twisted!r} holds a backslash: was it unpacked from a zip of Windows? Unpack it by "
            "another program, or use the zip itself"
        )
    for one, other in pairwise(names):
        if one == other:
            raise DataError(f"{container.path}: holds {printable(one)!r} twice; make the zip again, with one of them")


def _labelled(path: str, scan: _Scan, chosen: Sequence[Item]) -> Listing:
    containers, described, train = scan.containers, scan.descriptions, scan.train
    description = next((d for d in described if d is not None), None)
    extra = dict(description.extra) if description else {}
    names: tuple[str, ...] | None = None
    numbers: list[int | None] = [item.label for item in chosen]
    if description is None:
        names = _class_names(path, scan)
        numbers = _by_folder(containers, names, chosen)
    elif description.labels is not None:
        given = extra.get("class_names")
        names = tuple(given) if given else None
    classes = len(names) if names is not None else _count_classes(containers, described, train, chosen)
    if isinstance(extra.get("classes"), int) and classes is not None:
        classes = extra["classes"]
    sums = _checksums(containers, chosen)
    complete = [
        Item(item.container, item.member, item.path, item.size, crc, item.group, number)
        for item, crc, number in zip(chosen, sums, numbers, strict=True)
    ]
    _check_labels(containers, complete, classes)
    items = tuple(sorted(complete, key=lambda item: (item.path, item.crc, item.size)))
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


def _checksums(containers: Sequence[Container], chosen: Sequence[Item]) -> list[int]:
    """CRC-32 of each image's content."""
    members = np.array([(item.container, item.member) for item in chosen], dtype=np.int64).reshape(-1, 2)
    sums = np.empty(len(chosen), dtype=np.int64)
    for index, container in enumerate(containers):
        rows = np.flatnonzero(members[:, 0] == index)
        if len(rows):
            sums[rows] = container.checksums(members[rows, 1])
    listed: list[int] = sums.tolist()
    return listed


def _class_names(path: str, scan: _Scan) -> tuple[str, ...] | None:
    groups = {item.group for item in scan.train}
    if groups == {None}:
        return None
    if None in groups:
        stray = next(item for item in scan.train if item.group is None)
        raise DataError(f"{path}: {_where(scan.containers, stray)} lies outside the folders of the classes")
    names = sorted(group for group in groups if group is not None)
    for name, content in sorted(scan.unread.items()):
        if name not in groups:
            raise DataError(
                f"{path}: the folder {printable(name)!r} beside those of the classes holds no image that is read "
                f"({content}); convert what is in it ({', '.join(IMAGE_SUFFIXES)} are read), or move the folder away"
            )
    check_names(path, names)
    _check_not_numbered(path, scan)
    return tuple(names)


def _check_not_numbered(path: str, scan: _Scan) -> None:
    """Raise :class:`DataError` for images as EDM's tool names them: its folders hold a thousand each, no class."""
    if all(EDM_NAME.fullmatch(item.path) for item in scan.train):
        raise DataError(
            f"{path}: {_where(scan.containers, scan.train[0])} is named as EDM's dataset_tool does, whose folders are "
            "no classes, but there is no dataset.json; put it beside them, or name the folders of classes otherwise"
        )


def _by_folder(
    containers: Sequence[Container], names: tuple[str, ...] | None, chosen: Sequence[Item]
) -> list[int | None]:
    if names is None:
        return [None] * len(chosen)
    number = {name: label for label, name in enumerate(names)}
    for item in chosen:
        if item.group in number:
            continue
        where = _where(containers, item)
        if item.group is None:
            raise DataError(
                f"{where}: lies in no folder of a class, as ImageNet's validation images come; sort them into "
                "folders named as those of the train split, or set measure.reference: train and move them away"
            )
        close = get_close_matches(item.group, names, n=1)
        hint = f" (did you mean {printable(close[0])!r}?)" if close else ""
        raise DataError(
            f"{where}: its folder {printable(item.group)!r} is none of the {len(names)} classes of the train split"
            f"{hint}"
        )
    return [number[item.group] for item in chosen if item.group is not None]


def _count_classes(
    containers: Sequence[Container],
    described: Sequence[Description | None],
    train: Sequence[Item],
    chosen: Sequence[Item],
) -> int | None:
    given = [d for d in described if d is not None and d.labels is not None]
    if not given:
        return None
    for item in (*train, *chosen):
        if item.label is None:
            raise DataError(f"{given[0].file}: gives no label for {_where(containers, item)}")
    return 1 + max(item.label for item in train if item.label is not None)


def _check_labels(containers: Sequence[Container], chosen: Sequence[Item], classes: int | None) -> None:
    if classes is None:
        return
    for item in chosen:
        if item.label is not None and 0 <= item.label < classes:
            continue
        where = _where(containers, item)
        if item.label is None:
            raise DataError(f"{where}: has no label")
        raise DataError(f"{where}: label {item.label} is out of range, the {classes} classes are 0..{classes - 1}")


def _check_distinct(containers: Sequence[Container], items: Sequence[Item]) -> None:
    for first, second in pairwise(items):
        same = (first.path, first.crc, first.size) == (second.path, second.crc, second.size)
        if same and first.container != second.container:
            one, other = _where(containers, first), _where(containers, second)
            raise DataError(f"{one} and {other} are the same image: is a zip there twice?")


def _fingerprint(
    items: Sequence[Item], names: tuple[str, ...] | None, classes: int | None, extra: dict[str, Any]
) -> str:
    digest = hashlib.sha256(json.dumps([classes, names, extra.get("content")]).encode())
    for start in range(0, len(items), 1000):
        lines = [f"\n{item.path}\0{item.size}\0{item.crc}\0{item.label}" for item in items[start : start + 1000]]
        digest.update("".join(lines).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
