"""How a folder or a zip is laid out: where its images begin, which of its folders are splits, which are classes.

Labels come from the names of folders, so a folder that was overlooked would shift all that follow it, and a split that
was taken for a class would be trained on. What could be read in two ways is refused here, with the way to say which.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from harness.errors import DataError, printable

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".avif", ".apng", ".jp2", ".tga",
)  # fmt: skip
UNREADABLE_SUFFIXES = frozenset(
    {".heic", ".heif", ".jxl", ".psd", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".svg", ".ico"}
)
"""Endings of image formats that are not supported."""
DOCUMENT_SUFFIXES = frozenset(
    {".txt", ".md", ".rst", ".json", ".csv", ".tsv", ".xml", ".html", ".pdf", ".yaml", ".yml", ".toml", ".log", ".py"}
)
"""Endings of documents: a folder that holds nothing else describes the data."""
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def split_in(name: str) -> str:
    """The split that a word in a file's or folder's name tells; empty where none does."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")


class Layout:
    """The folders of a container by what they hold, paths with slashes; ``""`` is the container itself."""

    def __init__(self, where: str, images: Iterable[str], others: Iterable[str], folders: Iterable[str]) -> None:
        """`where` opens the messages. `images` and `others` are paths of files, `folders` those named besides."""
        self.where = where
        self.direct = {_parent(name) for name in images}
        """Folders with an image directly in them."""
        self.filled: set[str] = set()
        """Folders with an image in them or below."""
        self.endings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Endings of the other files, in a folder or below."""
        self._children: defaultdict[str, set[str]] = defaultdict(set)
        for folder in self.direct:
            self.filled.update(self._register(folder))
        for name in others:
            for folder in self._register(_parent(name)):
                self.endings[folder][PurePosixPath(name).suffix.lower()] += 1
        for folder in folders:
            self._register(folder)

    def folders_in(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        return sorted(self._children[folder])

    def root(self, labelled: bool) -> str:
        """The folder that holds everything and is neither a split nor a class.

        Raises :class:`DataError` where images beside a folder of images leave open which of the two it is, unless
        the images are `labelled` already.
        """
        root = ""
        while root not in self.direct:
            below = [folder for name in self.folders_in(root) if self._counts(folder := _join(root, name))]
            if len(below) != 1 or _name(below[0]).lower() in SPLIT_WORDS:
                break
            if below[0] in self.direct:
                if not labelled:
                    self._refuse_mixed(below[0])
                break
            root = below[0]
        return root

    def splits(self, root: str) -> dict[str, str]:
        """Split (train, val or test) by name of each folder in `root`; empty where they are no splits.

        Raises :class:`DataError` where that is open.
        """
        tops = self._filled_in(root)
        words = {top: SPLIT_WORDS[top.lower()] for top in tops if top.lower() in SPLIT_WORDS}
        others = [top for top in tops if top not in words]
        if not words:
            self._refuse_inexact(tops)
            return {}
        first = next(iter(words))
        if others:
            if list(words.values()) == ["train"] and self._is_class(_join(root, first)):
                return {}  # the vehicle
            raise DataError(
                f"{self.where}: {first}/ is a split by its name, but {printable(others[0])}/ beside it is none; "
                "move it away, or rename what is a class"
            )
        if root in self.direct:
            raise DataError(
                f"{self.where}: images lie beside the folder {first}/, which is a split; move them into one, or away"
            )
        self._check_splits(root, words)
        return words

    def without_images(self, folder: str) -> dict[str, str]:
        """Folders directly in `folder` that hold no image, each with what it holds, in words."""
        return {
            name: self._content(below)
            for name in self.folders_in(folder)
            if (below := _join(folder, name)) not in self.filled
        }

    def unreadable(self, folder: str) -> str | None:
        """Images below `folder` that are not read, in words; None where there are none."""
        endings = self.endings.get(folder, Counter())
        found = {ending: count for ending, count in endings.items() if ending in UNREADABLE_SUFFIXES}
        return ", ".join(f"{count} of {ending}" for ending, count in sorted(found.items())) or None

    def _register(self, folder: str) -> list[str]:
        """`folder` and all that it lies in, each known as its parent's child from then on."""
        lineage = [folder]
        while folder:
            parent = _parent(folder)
            self._children[parent].add(_name(folder))
            folder = parent
            lineage.append(folder)
        return lineage

    def _refuse_inexact(self, tops: list[str]) -> None:
        """Raise for ``train_64x64/`` beside ``valid_64x64/``, which are no classes."""
        found = [split_in(top) for top in tops]
        if "" not in found and len(set(found)) > 1:
            named = ", ".join(f"{printable(top)}/" for top in tops)
            raise DataError(f"{self.where}: {named} look like splits and not like classes; call them train/ and val/")

    def _check_splits(self, root: str, words: dict[str, str]) -> None:
        taken: dict[str, str] = {}
        for name, split in words.items():
            if split in taken:
                raise DataError(f"{self.where}: {taken[split]}/ and {name}/ are both the {split} split; keep one")
            taken[split] = name
        for name, content in self.without_images(root).items():
            if SPLIT_WORDS.get(name.lower()) == "train" and "train" not in taken:
                raise DataError(f"{self.where}: {name}/ holds no image that is read ({content}), other splits do")

    def _counts(self, folder: str) -> bool:
        """Whether a folder may be a class or hold some: all but those that only describe."""
        endings = self.endings.get(folder, Counter())
        return folder in self.filled or not endings or not DOCUMENT_SUFFIXES.issuperset(endings)

    def _is_class(self, folder: str) -> bool:
        return folder in self.direct and not self._filled_in(folder)

    def _filled_in(self, folder: str) -> list[str]:
        return [name for name in self.folders_in(folder) if _join(folder, name) in self.filled]

    def _refuse_mixed(self, folder: str) -> None:
        inner = self._filled_in(folder)
        if inner:
            raise DataError(
                f"{self.where}: {printable(folder)}/ holds images beside folders of images ({printable(inner[0])}/): "
                "is it a class, or are they? Move the images into one of them, or away"
            )

    def _content(self, folder: str) -> str:
        endings = self.endings.get(folder, Counter())
        if not endings:
            return "it is empty"
        return f"{endings.total()} files of {', '.join(ending or 'no ending' for ending in sorted(endings))}"


def check_names(where: str, names: Iterable[str]) -> None:
    """Raise :class:`DataError` for names of classes that are one on systems that do not tell case or accents' forms."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen and seen[folded] != name:
            one, other = printable(seen[folded]), printable(name)
            raise DataError(
                f"{where}: the folders {one!r} and {other!r} differ in case or in the form of an accent only: "
                "one class or two? Merge or rename them"
            )
        seen[folded] = name


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
