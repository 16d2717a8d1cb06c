"""A lease on a target: of two jobs for the same training or cell, one works and the other waits.

A lease is a file made with O_EXCL that names its holder and is touched by a heartbeat. It is stale, and may be taken
over, once its holder is known to be dead (same host) or the heartbeat has been silent for `STALE_SECONDS` by the file
system's own clock, so that clocks of two nodes need not agree. Results are deterministic and written by rename:
should two jobs run after all, time is wasted and nothing else.
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
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 45.0


class LeaseHeld(Exception):
    """Another process holds the lease; the message says which."""


@contextlib.contextmanager
def lease(path: Path, wait_seconds: float = 0.0, poll_seconds: float = 1.0) -> Iterator[None]:
    """Hold the lease at `path` for the block. Raises :class:`LeaseHeld` if it is not free within `wait_seconds`."""
    token = uuid.uuid4().hex
    deadline = time.monotonic() + wait_seconds
    while not _try_acquire(path, token):
        if time.monotonic() >= deadline:
            raise LeaseHeld(f"{path.name} is held by {describe_holder(path)}")
        time.sleep(poll_seconds)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, token, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        if _holder(path).get("token") == token:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lease."""
    return path.exists() and not _is_stale(path)


def describe_holder(path: Path) -> str:
    """Host and process of the holder, for messages."""
    holder = _holder(path)
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _try_acquire(path: Path, token: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"token": token, "host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())})
    file = tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    try:
        with file:
            file.write(content.encode())
        for _ in range(2):
            try:
                os.link(file.name, path)  # atomic, and the file is whole from its first moment
                return True
            except FileExistsError:
                judged = _holder(path).get("token")
                if not _is_stale(path):
                    return False
                _break(path, judged)
        return False
    finally:
        os.unlink(file.name)  # noqa: PTH108


def _break(path: Path, judged: object) -> None:
    """Remove the lease with the token `judged`; one that was taken afresh in the meantime is put back."""
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}.stale")
    with contextlib.suppress(FileNotFoundError):
        path.rename(grave)
        if _holder(grave).get("token") != judged:
            with contextlib.suppress(FileExistsError):
                os.link(grave, path)
        grave.unlink(missing_ok=True)


def _holder(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_stale(path: Path) -> bool:
    holder = _holder(path)
    if holder.get("host") == socket.gethostname() and holder.get("born") != _born(holder.get("pid")):
        return True
    try:
        return _file_system_now(path.parent) - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def _born(pid: object) -> str | None:
    """Start time of a process of this host (Linux), so that a reused process number is not taken for the holder."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None if not Path("/proc/self").exists() else "dead"


def _file_system_now(folder: Path) -> float:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.") as probe:
        return os.fstat(probe.fileno()).st_mtime


def _beat(path: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        if _holder(path).get("token") != token:
            return
        with contextlib.suppress(OSError):
            os.utime(path)
