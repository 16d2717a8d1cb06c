"""Files to read images from: a folder, or a zip that is read in place by offset.

Both can be read from several processes and threads at once, also after a fork, since no file position is shared.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from harness.data.damage import DamagedImageError
from harness.errors import DataError

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE = b"PK\x03\x04"
ENCRYPTED = 0x1
MAC_FOLDER = "__MACOSX"


class Member(NamedTuple):
    """A file in a container: its path there, bytes, and checksum (0 where none is known without reading)."""

    name: str
    size: int
    crc: int


class Container(Protocol):
    """Something that holds files."""

    path: Path
    members: list[Member]

    def read(self, index: int) -> bytes:
        """The bytes of member `index`. Raises :class:`DamagedImageError`."""

    def label(self, index: int) -> str:
        """How a message names member `index`."""


class Folder:
    """All files below a folder, sorted by path; hidden ones are left out, links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = [Member(name, size, 0) for name, size in sorted(_walk(path))]

    def read(self, index: int) -> bytes:
        """The bytes of member `index`. Raises :class:`DamagedImageError`."""
        try:
            return (self.path / self.members[index].name).read_bytes()
        except OSError as failure:
            raise DamagedImageError(self.label(index), f"cannot be read ({failure.strerror})") from None

    def label(self, index: int) -> str:
        """How a message names member `index`."""
        return str(self.path / self.members[index].name)


class Zip:
    """All files of a zip, sorted by path; hidden ones are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        infos = _central_directory(path)
        self.members = [Member(info.filename, info.file_size, info.CRC) for info in infos]
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
        return f"{self.path}/{self.members[index].name}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None}

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            os.close(self._handle)  # type: ignore[arg-type]

    def _read(self, index: int) -> bytes:
        offset, stored, method, flags = (int(value) for value in self._where[index])
        member = self.members[index]
        if flags & ENCRYPTED:
            raise ValueError("it is encrypted")
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDONLY)
        header = LOCAL_HEADER.unpack(os.pread(self._handle, LOCAL_HEADER.size, offset))
        if header[0] != LOCAL_SIGNATURE:
            raise ValueError("the zip is damaged here: no local header")
        name_bytes, extra_bytes = header[9:11]
        content = os.pread(self._handle, stored, offset + LOCAL_HEADER.size + name_bytes + extra_bytes)
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompress(content, wbits=-15)
        elif method != zipfile.ZIP_STORED:
            raise ValueError(f"compression method {method} is not supported, only stored and deflate are")
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise ValueError("its checksum does not match: the zip is damaged here")
        return content


def _central_directory(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and not _hidden(info.filename)]
    except (zipfile.BadZipFile, struct.error, EOFError, ValueError, NotImplementedError) as failure:
        raise DataError(
            f"{path}: is not a whole zip ({failure}); it has {path.stat().st_size} bytes: cut short in a download?"
        ) from None
    except OSError as failure:
        raise DataError(f"{path}: cannot be read ({failure.strerror or failure})") from None
    return sorted(infos, key=lambda info: info.filename)


def _walk(root: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(root / below) as entries:
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if _hidden(entry.name):
                        continue
                    if entry.is_dir():
                        waiting.append(name)
                    else:
                        found.append((name, _size(entry)))
        except OSError as failure:
            raise DataError(f"{root / below}: cannot be read ({failure.strerror or failure})") from None
    return found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a dangling link: reading it will say so
        return 0


def _hidden(name: str) -> bool:
    return name.startswith((".", MAC_FOLDER)) or "/." in name or f"/{MAC_FOLDER}/" in name
