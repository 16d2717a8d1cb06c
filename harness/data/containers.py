"""Files to read images from: a folder, or a zip that is read in place by offset.

Both can be read from several processes and threads at once, also after a fork, since no file position is shared. Names
are text whose UTF-8 is the name's bytes; bytes that are no UTF-8 are kept by surrogates (``surrogateescape``), whatever
the locale, so that a name is the same in a folder and in its zip. :func:`~harness.errors.printable` shows them.
"""

from __future__ import annotations

import os
import struct
import time
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from harness.data.checksums import LARGEST_FILE, UNKNOWN, folder_checksums, forget, read_file, state_of
from harness.data.damage import DamagedImageError
from harness.errors import DataError, printable

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
ENCRYPTED, UTF_8 = 0x1, 0x800
NOT_THE_USERS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"})
"""Folders that operating systems add to a user's files; they are left out, as hidden ones are."""


class Member(NamedTuple):
    """A file in a container: its path there, with slashes, and its bytes."""

    name: str
    size: int


class Container(Protocol):
    """Something that holds files."""

    path: Path
    members: list[Member]
    folders: list[str]
    """Every folder that is named, also one without files."""

    def read(self, index: int) -> bytes:
        """The bytes of member `index`. Raises :class:`DamagedImageError`."""

    def label(self, index: int) -> str:
        """How a message names member `index`."""

    def checksums(self, indices: np.ndarray) -> np.ndarray:
        """CRC-32 of the content of members `indices`, int64 (N,), -1 where it cannot be read."""


class Folder:
    """All files below a folder, sorted by path; hidden ones are left out, links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._looked_at = time.time_ns()
        files, folders = _walk(os.fsencode(path))
        files.sort()
        self.members = [Member(_decoded(name), state[0]) for name, state in files]
        self.folders = [_decoded(name) for name in folders]
        self._states = np.array([state for _, state in files], dtype=np.int64).reshape(-1, 4)
        self._sums = np.full(len(files), UNKNOWN, dtype=np.int64)

    def read(self, index: int) -> bytes:
        """The bytes of member `index`, the same that its checksum was taken of. Raises :class:`DamagedImageError`."""
        try:
            content = read_file(self._file(index))
        except OSError as failure:
            raise DamagedImageError(self.label(index), f"cannot be read ({failure.strerror})") from None
        if self._sums[index] not in (UNKNOWN, zlib.crc32(content)):
            forget(os.fsencode(self.path))
            raise DamagedImageError(self.label(index), "was changed since its data set was looked at; run again")
        return content

    def label(self, index: int) -> str:
        """How a message names member `index`."""
        return printable(os.path.join(_decoded(os.fsencode(self.path)), self.members[index].name))  # noqa: PTH118

    def checksums(self, indices: np.ndarray) -> np.ndarray:
        """CRC-32 of the content of members `indices`, int64 (N,), -1 where it cannot be read."""
        wanted = indices[self._sums[indices] == UNKNOWN]
        if len(wanted):
            names = [_encoded(member.name) for member in self.members]
            sums = folder_checksums(os.fsencode(self.path), names, self._states, self._looked_at, wanted)
            self._sums = np.where(sums == UNKNOWN, self._sums, sums)
        return self._sums[indices]

    def _file(self, index: int) -> bytes:
        return os.path.join(os.fsencode(self.path), _encoded(self.members[index].name))  # noqa: PTH118 - any bytes


class Zip:
    """All files of a zip, sorted by path; hidden ones are left out.

    The checksums are those of its directory: every read is held against them, so content that is not theirs is
    never used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        named, self.folders = _central_directory(path)
        infos = [info for _, info in named]
        self.members = [Member(name, info.file_size) for name, info in named]
        self._sums = np.array([info.CRC for info in infos], dtype=np.int64)
        self._where = np.array(
            [(i.header_offset, i.compress_size, i.compress_type, i.flag_bits) for i in infos], dtype=np.int64
        ).reshape(-1, 4)
        self._handle: int | None = None

    def read(self, index: int) -> bytes:
        """The bytes of member `index`, verified by its checksum. Raises :class:`DamagedImageError`."""
        try:
            return self._read(index)
        except (OSError, ValueError, zlib.error, struct.error) as failure:
            raise DamagedImageError(self.label(index), f"cannot be read ({failure})") from None

    def label(self, index: int) -> str:
        """How a message names member `index`."""
        return printable(f"{_decoded(os.fsencode(self.path))}/{self.members[index].name}")

    def checksums(self, indices: np.ndarray) -> np.ndarray:
        """CRC-32 of the content of members `indices`, int64 (N,), as the zip's directory has them."""
        return self._sums[indices]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None}

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            os.close(self._handle)  # type: ignore[arg-type]

    def _read(self, index: int) -> bytes:
        offset, stored, method, flags = (int(value) for value in self._where[index])
        size = self.members[index].size
        if flags & ENCRYPTED:
            raise ValueError("it is encrypted")
        if max(stored, size) > LARGEST_FILE:
            raise ValueError(f"it has {max(stored, size) / 2**30:.1f} GiB, too large for an image")
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDONLY)
        header = LOCAL_HEADER.unpack(os.pread(self._handle, LOCAL_HEADER.size, offset))
        if header[0] != LOCAL_SIGNATURE:
            raise ValueError("the zip is damaged here: no local header")
        name_bytes, extra_bytes = header[9:11]
        content = os.pread(self._handle, stored, offset + LOCAL_HEADER.size + name_bytes + extra_bytes)
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(wbits=-15).decompress(
                content, size + 1
            )  # never unpack more than the directory says
        elif method != zipfile.ZIP_STORED:
            raise ValueError(f"compression method {method} is not supported, only stored and deflate are")
        if len(content) != size or zlib.crc32(content) != self._sums[index]:
            raise ValueError("its checksum does not match: the zip is damaged here")
        return content


def _central_directory(path: Path) -> tuple[list[tuple[str, zipfile.ZipInfo]], list[str]]:
    """(name, entry) of each file, sorted, and the names of the folders that have an entry of their own."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except UnicodeDecodeError as failure:
        raise DataError(
            f"{path}: a name in it is marked as UTF-8 and is not ({failure}); make the zip again, or unpack it"
        ) from None
    except (zipfile.BadZipFile, struct.error, EOFError, ValueError, NotImplementedError) as failure:
        raise DataError(
            f"{path}: is not a whole zip ({failure}); it has {path.stat().st_size} bytes: cut short in a download?"
        ) from None
    except OSError as failure:
        raise DataError(f"{path}: cannot be read ({failure.strerror or failure})") from None
    named, folders = [], []
    for info in infos:
        name, is_folder = _entry_name(path, info)
        if not name or _hidden(name):
            continue
        if is_folder:
            folders.append(name)
        else:
            named.append((name, info))
    return sorted(named, key=lambda pair: pair[0]), sorted(folders)


def _entry_name(path: Path, info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The path of an entry, with slashes and without ``.``, and whether it is a folder.

    Old Windows programs write backslashes, which the format does not allow: they are read as slashes. A name that is
    not marked as UTF-8 but is taken for it, as the zips of Linux and macOS mean it, or else for code page 437.
    """
    name = info.orig_filename.partition("\0")[0]
    if not info.flag_bits & UTF_8 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    name = name.replace("\\", "/")
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts:
        if ".." in parts:
            raise DataError(f"{path}: {printable(name)!r} leads out of the zip; make the zip again")
        return "/".join(part for part in parts if part not in ("", ".")), name.endswith("/")
    return name, False


Ancestors = tuple[tuple[int, int], ...]


def _walk(root: bytes) -> tuple[list[tuple[bytes, Sequence[int]]], list[bytes]]:
    """(path below `root`, state) of each file, and every folder's path."""
    files: list[tuple[bytes, Sequence[int]]] = []
    folders: list[bytes] = []
    not_the_users = {name.encode() for name in NOT_THE_USERS}
    status = Path(os.fsdecode(root)).stat()
    waiting: list[tuple[bytes, Ancestors]] = [(b"", ((status.st_dev, status.st_ino),))]
    while waiting:
        below, ancestors = waiting.pop()
        place = os.path.join(root, below)  # noqa: PTH118 - names of any bytes
        try:
            with os.scandir(place) as entries:
                prefix = below + b"/" if below else b""
                for entry in entries:
                    name = prefix + entry.name
                    if entry.name.startswith(b".") or entry.name in not_the_users:
                        continue
                    if entry.is_dir():
                        folders.append(name)
                        waiting.append((name, _with_folder(entry, ancestors)))
                    else:
                        files.append((name, _state(entry)))
        except OSError as failure:
            where = printable(_decoded(place))
            raise DataError(f"{where}: cannot be read ({failure.strerror or failure})") from None
    return files, folders


def _with_folder(entry: os.DirEntry[bytes], ancestors: Ancestors) -> Ancestors:
    """`ancestors` and `entry`. Raises :class:`DataError` for a link to one of them: its images would never end."""
    status = entry.stat()
    own = status.st_dev, status.st_ino
    if own in ancestors:
        raise DataError(f"{printable(_decoded(entry.path))}: links to a folder that it lies in; remove the link")
    return (*ancestors, own)


def _state(entry: os.DirEntry[bytes]) -> Sequence[int]:
    try:
        return state_of(entry.stat())
    except OSError:  # a dangling link: reading it will report that
        return 0, 0, 0, 0


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name or not NOT_THE_USERS.isdisjoint(name.split("/"))
