"""Compiled files that a killed process has left cut short are removed, so that they are compiled once more.

torch.compile keeps what it compiles in a folder that all processes of a user share (``TORCHINDUCTOR_CACHE_DIR``, else
``torchinductor_USER`` in the system's temporary folder), and takes a file that is there for a whole one. The linker and
the compiler write in place, though: a process that is killed meanwhile leaves a library which cannot be loaded ("file
too short"), or which ends the process that reads beyond its end, or a precompiled header that no compilation can use.

Libraries tell by their header whether they are whole, so they are looked at before anything is loaded. A precompiled
header does not: it is removed when a compilation has failed over it. What another process compiles at this moment is
locked by torch and left alone.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

log = logging.getLogger("harness")

HEADER_COMPLAINTS = ("PCH", "precompiled header")
"""Words of a compiler that cannot use a precompiled header."""
ELF_HEADER_BYTES = 64
_whole: set[tuple[str, int]] = set()
"""(path, time of change) of the libraries that this process has found whole."""


def remove_cut_libraries() -> list[Path]:
    """Remove the libraries in torch's cache that were cut short; returns their former paths."""
    folder = Path(cache_dir())
    removed = [path for path in _libraries(folder) if _remove(path, folder / "locks")]
    if removed:
        log.warning(
            "%s: %d compiled files were cut short, as by a process that was killed; they are compiled once more",
            folder,
            len(removed),
        )
    return removed


def remove_damaged(error: BaseException) -> bool:
    """Remove the damaged files that may have caused `error`; whether any were, so that trying again makes sense."""
    removed = remove_cut_libraries()
    if any(words in str(error) for words in HEADER_COMPLAINTS):
        folder = Path(default_cache_dir()) / "precompiled_headers"
        headers = [path for path in folder.glob("*.gch") if _remove(path, folder / "locks")]
        if headers:
            log.warning("%s: precompiled headers that cannot be used are removed", folder)
        removed += headers
    return bool(removed)


def is_cut_short(library: Path) -> bool:
    """Whether a shared library lacks its end, where the table of sections lies that its header points to."""
    with library.open("rb") as file:
        header = file.read(ELF_HEADER_BYTES)
    size = library.stat().st_size
    if header[:4] != b"\x7fELF":  # the linker writes it last
        return size == 0 or sys.platform == "linux"
    if len(header) < ELF_HEADER_BYTES:
        return True
    if header[4] != 2:  # not 64-bit: its header has another layout
        return False
    order = "<" if header[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", header, 0x28)
    entry_bytes, entries = struct.unpack_from(f"{order}HH", header, 0x3A)
    return bool(size < table + entry_bytes * entries)


def _libraries(folder: Path) -> Iterator[Path]:
    """The libraries in torch's cache that were cut short; each is looked at once in the life of a process."""
    for path in folder.glob("??/*.so"):
        try:
            seen = (str(path), path.stat().st_mtime_ns)
            if seen in _whole:
                continue
            if is_cut_short(path):
                yield path
            else:
                _whole.add(seen)
        except OSError:  # another process has removed it
            continue


def _remove(path: Path, locks: Path) -> bool:
    """Remove `path` unless a process is at work on it, which holds torch's lock of that name."""
    locks.mkdir(exist_ok=True)
    try:
        with FileLock(locks / f"{path.name.partition('.')[0]}.lock", timeout=0):
            if path.suffix == ".so" and not is_cut_short(path):
                return False
            path.unlink()
    except (Timeout, OSError):  # it is being compiled, is gone, or is another user's
        return False
    return True
