"""Checksums of files' contents, remembered for as long as the files stay as they are.

A folder of a million images must be read whole once, to know what is in it, and not again: a cache in the user's cache
folder keeps each file's checksum beside its size, times and inode. A file is looked up by all of them and hashed anew
if one differs. One that was changed within :data:`SETTLED_NS` before it was looked at is not remembered, since the
clocks of file systems are coarse: it could change again without its times showing it. A cache file that is damaged is a
miss, and one that cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from harness.files import atomic_path

log = logging.getLogger("harness")

SETTLED_NS = 2_000_000_000
"""Coarser than the clock of any file system in use (FAT's ticks take two seconds)."""
UNKNOWN = -1
"""Stands for the checksum of a file that cannot be read."""
LARGEST_FILE = 2**30
"""Size in bytes from which on a file is not taken for an image."""
SAID_FROM_BYTES = 2 * 10**9
SAVED_EVERY_SECONDS = 60.0
CHUNK = 512
THREADS = 8
FORMAT = 1
FIELDS = 4
State = tuple[int, int, int, int]


def cache_folder() -> Path:
    """``HARNESS_CACHE``, or ``dual-rate-harness`` in the user's cache folder."""
    given = os.environ.get("HARNESS_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dual-rate-harness"


def state_of(status: os.stat_result) -> State:
    """Size, times and inode: they tell whether a file has changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & (2**63 - 1)


def is_settled(state: State, looked_at_ns: int) -> bool:
    """Whether a change after `looked_at_ns` would show in the file's times."""
    return bool(_is_settled(np.array([state], dtype=np.int64), looked_at_ns)[0])


def _is_settled(states: np.ndarray, looked_at_ns: int) -> np.ndarray:
    changed: np.ndarray = states[:, 2 if os.name == "posix" else 1]  # elsewhere the second time is the creation's
    return changed < looked_at_ns - SETTLED_NS


def read_file(path: str | bytes | Path) -> bytes:
    """The content of a regular file. Raises OSError for others: a pipe or device would block for ever."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:  # noqa: PTH123 - opened by its handle
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "Is not a regular file")
        if status.st_size > LARGEST_FILE:
            raise OSError(0, f"Has {status.st_size / 2**30:.1f} GiB, too large for an image")
        return file.read()


_digests: dict[tuple[Path, str], tuple[State, str]] = {}


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Digest of a file's content in hexadecimal; remembered in this process while the file stays as it is.

    Raises OSError.
    """
    looked_at, state = time.time_ns(), state_of(path.stat())
    known = _digests.get((path, algorithm))
    if known is not None and known[0] == state:
        return known[1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if is_settled(state, looked_at):
        _digests[path, algorithm] = state, digest
    return digest


def folder_checksums(
    root: bytes, names: Sequence[bytes], states: np.ndarray, looked_at_ns: int, wanted: np.ndarray
) -> np.ndarray:
    """CRC-32 of the files `names` below `root`, int64 (N,); :data:`UNKNOWN` for one that cannot be read.

    `states` are :func:`state_of` of each, int64 (N, 4), as they were at `looked_at_ns`. Of those that are not `wanted`
    (their rows) only what is remembered is told.
    """
    cache = _Cache(root)
    sums = cache.look_up(names, states)
    missing = wanted[sums[wanted] == UNKNOWN]
    total = int(states[missing, 0].sum())
    if total > SAID_FROM_BYTES:
        count, size = f"{len(missing):,}", f"{total / 1e9:.0f} GB"
        log.warning("%s: reading %s files (%s) once, to know their content", os.fsdecode(root), count, size)
    settled = _is_settled(states, looked_at_ns)
    saved, new = time.monotonic(), False
    try:
        for chunk, values in _hashed(root, names, missing):
            sums[chunk] = values
            new |= bool(settled[chunk].any())
            if time.monotonic() - saved > SAVED_EVERY_SECONDS:
                cache.save(names, states, np.where(settled, sums, UNKNOWN))
                saved, new = time.monotonic(), False
    finally:
        if new:  # also saved when a long read is interrupted
            cache.save(names, states, np.where(settled, sums, UNKNOWN))
    return sums


def forget(root: bytes) -> None:
    """Remove what is remembered of the files below `root`."""
    with contextlib.suppress(OSError):
        _Cache(root).path.unlink(missing_ok=True)


def _hashed(root: bytes, names: Sequence[bytes], missing: np.ndarray) -> Iterator[tuple[np.ndarray, list[int]]]:
    def checksum(index: int) -> int:
        try:
            return zlib.crc32(read_file(os.path.join(root, names[index])))  # noqa: PTH118 - names of any bytes
        except OSError:
            return UNKNOWN

    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    if len(missing) < CHUNK:
        yield from ((chunk, [checksum(int(index)) for index in chunk]) for chunk in chunks)
        return
    with ThreadPoolExecutor(THREADS) as readers:  # reading and hashing release the GIL
        for chunk in chunks:
            yield chunk, list(readers.map(checksum, map(int, chunk)))


class _Cache:
    """One folder's checksums in one file of the user's cache folder."""

    def __init__(self, root: bytes) -> None:
        real = os.path.realpath(root)
        self.path = cache_folder() / f"checksums-{FORMAT}" / f"{hashlib.sha256(real).hexdigest()[:32]}.npz"

    def look_up(self, names: Sequence[bytes], states: np.ndarray) -> np.ndarray:
        """Checksums of the files that are as they were, :data:`UNKNOWN` for the others."""
        sums = np.full(len(names), UNKNOWN, dtype=np.int64)
        read = self._read()
        if read is None:
            return sums
        known_names, known_states, known_sums = read
        if known_names == list(names):
            same = (known_states == states).all(axis=1)
            sums[same] = known_sums[same]
            return sums
        where = {name: row for row, name in enumerate(known_names)}
        rows = np.array([where.get(name, -1) for name in names], dtype=np.int64)
        found = np.flatnonzero(rows >= 0)
        same = found[(known_states[rows[found]] == states[found]).all(axis=1)]
        sums[same] = known_sums[rows[same]]
        return sums

    def save(self, names: Sequence[bytes], states: np.ndarray, sums: np.ndarray) -> None:
        """Remember the checksums that are known; in the place of what was remembered."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, names=np.frombuffer(b"\0".join(names), dtype=np.uint8), states=states, sums=sums)
        except OSError as failure:
            log.debug("%s: could not be written (%s)", self.path, failure)

    def _read(self) -> tuple[list[bytes], np.ndarray, np.ndarray] | None:
        try:
            with np.load(self.path, allow_pickle=False) as file:  # a zip: its own checksums tell damage
                names, states, sums = file["names"].tobytes(), file["states"], file["sums"]
        except FileNotFoundError:
            return None
        except Exception as failure:  # a damaged file may raise anything
            log.debug("%s: is damaged (%s)", self.path, failure)
            return None
        listed = names.split(b"\0") if names else []
        if states.shape != (len(listed), FIELDS) or sums.shape != (len(listed),):
            return None
        if states.dtype != np.int64 or sums.dtype != np.int64:
            return None
        return listed, states, sums
