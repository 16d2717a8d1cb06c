"""Files written whole or not at all, and read with one clear error."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import StoreError

_UMASK_LOCK = threading.Lock()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, whole and synced, if the block succeeds.

    A kill at any moment leaves either the old file or the new one; the temporary name is unique, so a leftover of a
    killed process never blocks the next writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part; text as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(as_unicode(content).encode() if isinstance(content, str) else content)


@functools.cache
def _umask() -> int:
    with _UMASK_LOCK:  # it can only be read by setting it, which affects all threads
        mask = os.umask(0)
        os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON with sorted keys, written atomically."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in `path`. Raises :class:`StoreError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); move it away and run again") from None


def digest_of(value: Any) -> str:
    """A short hash, hexadecimal, of plain JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_files(named: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256, hexadecimal, of the names and contents of files in their order."""
    digest = hashlib.sha256()
    for name, content in named:
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_unicode(text: str) -> str:
    """`text` in which each byte of a file's name that is not UTF-8 is replaced; what else Python kept of it is read."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def expanded(path: str | Path) -> Path:
    """`path` with the home folder in the place of ``~``."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~name of no user: a file may be called so
        return Path(path)


def tried(path: Path) -> str:
    """Where a relative path was looked for, for messages about missing files."""
    return "" if path.is_absolute() else f" (tried {path.absolute()}, relative to the folder the command runs in)"


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nothing reads it and nothing is lost; returns where it lies."""
    number = 0
    while (aside := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
        number += 1
    path.rename(aside)
    return aside
