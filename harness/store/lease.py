"""A lease on a target: of two jobs for the same training or cell, one works and the other waits.

A lease is a file that names its holder; it is made whole in one step (a hard link or, where the file system has none,
O_EXCL) and touched by a heartbeat. A holder that can be seen from here (same machine since the same boot, same PID
namespace) holds it for as long as its process lives. Of any other, in a container or on another node, the heartbeat
tells: silent for `STALE_SECONDS` by the file system's own clock, so that clocks of two nodes need not agree, it is
stale and may be taken over.

Only a lease that was read and judged is ever removed, by its token and by one process at a time: whoever removes it
first takes a lease on the removal. Results are deterministic and written by rename: should two jobs run after all,
because a node was silent and came back, time is wasted and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 45.0
RELEASE_POLL_SECONDS = 0.005


class LeaseHeld(Exception):
    """Another process holds the lease; the message says which."""


@contextlib.contextmanager
def lease(
    path: Path,
    wait_seconds: float = 0.0,
    poll_seconds: float = 1.0,
    waiting: Callable[[str], object] = lambda holder: None,
) -> Iterator[None]:
    """Hold the lease at `path` for the block. While another holds it, `waiting` is told who, before each further look.

    Raises :class:`LeaseHeld` if it is not free within `wait_seconds`, and whatever `waiting` raises.
    """
    token = uuid.uuid4().hex
    deadline = time.monotonic() + wait_seconds
    while not _try_acquire(path, token):
        if time.monotonic() >= deadline:
            raise LeaseHeld(f"{path.name} is held by {describe_holder(path)}")
        waiting(describe_holder(path))
        time.sleep(poll_seconds)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, token, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        _release(path, token)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lease."""
    found = _read(path)
    return found is not None and not _is_stale(found)


def describe_holder(path: Path) -> str:
    """Host and process of the holder, for messages."""
    found = _read(path)
    holder = found.holder if found is not None else {}
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


@dataclass(frozen=True)
class _Found:
    """A lease as it was when it was read."""

    path: Path
    holder: dict[str, Any]
    touched: float
    key: str
    """Its token or, where none can be read, what tells this file from any other that is put in its place."""


def _read(path: Path) -> _Found | None:
    try:
        with path.open("rb") as file:
            content, status = file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    except OSError:
        # another user's, or a hiccup of the file system: the lease is there, and its age may be all that can be read
        try:
            content, status = b"", path.stat()
        except FileNotFoundError:
            return None
    try:
        value = json.loads(content)
    except ValueError:
        value = {}
    holder = value if isinstance(value, dict) else {}
    key = str(holder.get("token") or f"{status.st_ino}-{status.st_mtime_ns}")
    return _Found(path, holder, status.st_mtime, key)


def _try_acquire(path: Path, token: str) -> bool:
    found = _read(path)
    if found is not None and (not _is_stale(found) or not _remove(path, found.key)):
        return False
    return _create(path, token)


def _create(path: Path, token: str) -> bool:
    """Make the lease, whole from its first moment, unless there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"token": token, "pid": os.getpid(), "born": _born("self"), **_place()})
    draft = path.with_name(f".{path.name}.{token}.new")
    try:
        draft.write_text(content, encoding="utf-8")
        try:
            os.link(draft, path)
            return True
        except FileExistsError:  # or a file server that made the link and saw the request twice
            found = _read(path)
            return found is not None and found.key == token
        except OSError:  # no hard links here, as on many network and removable file systems
            return _create_exclusively(path, content)
    finally:
        draft.unlink(missing_ok=True)


def _create_exclusively(path: Path, content: str) -> bool:
    """Make the lease where there are no hard links; for a moment it is empty, and young enough to be respected."""
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    return True


def _remove(path: Path, key: str) -> bool:
    """Remove the lease `key`, and no other; returns False where another process is removing it.

    Who has the lease on the removal knows that nobody else removes `key`: what it then reads is what it unlinks.
    """
    removal = path.with_name(f".{path.name}.{key}.removal")
    token = uuid.uuid4().hex
    if not _try_acquire(removal, token):
        return False
    try:
        found = _read(path)
        if found is not None and found.key == key:
            path.unlink(missing_ok=True)
    finally:
        mine = _read(removal)
        if mine is not None and mine.key == token:
            removal.unlink(missing_ok=True)
    return True


def _release(path: Path, token: str) -> None:
    """Give the lease back, unless it was taken over while this process was silent."""
    deadline = time.monotonic() + 2 * STALE_SECONDS
    while (found := _read(path)) is not None and found.holder.get("token", token) == token:
        try:
            if (found.holder and _remove(path, token)) or time.monotonic() > deadline:
                return
        except OSError:  # no room for the lease on the removal
            if found.key == token:
                path.unlink(missing_ok=True)
                return
        time.sleep(RELEASE_POLL_SECONDS)


def _is_stale(found: _Found) -> bool:
    place = _place()
    if None not in place.values() and all(found.holder.get(name) == value for name, value in place.items()):
        return not _is_alive(found.holder)
    return _file_system_now(found.path.parent) - found.touched > STALE_SECONDS


def _place() -> dict[str, str | None]:
    """Where process numbers mean the same as here; None for what cannot be told (no Linux, or /proc of another)."""
    try:
        boot: str | None = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        is_own = str(Path("/proc/self").readlink()) == str(os.getpid())
        namespace = str(Path("/proc/self/ns/pid").readlink()) if is_own else None
    except OSError:
        boot = namespace = None
    return {"host": socket.gethostname(), "boot": boot, "namespace": namespace}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process of a holder in this place lives; a number that was given anew is another process."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    born = _born(pid)
    return born is None or born == holder.get("born")


def _born(process: int | str) -> str | None:
    """Start time of a process in the kernel's ticks, None where it cannot be read."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _file_system_now(folder: Path) -> float:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # a read-only folder
        return time.time()


def _beat(path: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        found = _read(path)
        if found is None or found.holder.get("token", token) != token:
            return
        with contextlib.suppress(OSError):
            os.utime(path)
