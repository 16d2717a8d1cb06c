"""Leases: never two holders, none taken from a live process, none left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.store import lease as lease_module
from harness.store.lease import LeaseHeld, is_held, lease

FORK = multiprocessing.get_context("fork")
HOLD = """
import sys, time
from pathlib import Path
from harness.store.lease import lease
with lease(Path(sys.argv[1])):
    time.sleep(60)
"""
TURNS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.lease"


@pytest.fixture(params=["links", "no links", "links not permitted"])
def hard_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and two that refuse them in their own ways."""
    number = {"links": None, "no links": errno.EOPNOTSUPP, "links not permitted": errno.EPERM}[request.param]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number or 0))

    if number is not None:
        monkeypatch.setattr(os, "link", refuse)


def age(path: Path) -> None:
    """As if the heartbeat had stopped long ago."""
    past = time.time() - lease_module.STALE_SECONDS - 5
    os.utime(path, (past, past))


def left_by_a_killed_process(path: Path) -> dict[str, Any]:
    """Leave the lease of a process of this machine that was killed; returns what it holds."""

    def hold(ready: Any) -> None:
        with lease(path):
            ready.set()
            time.sleep(60)

    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(20)
    process.kill()
    process.join()
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def is_refused(path: Path) -> bool:
    with contextlib.suppress(LeaseHeld), lease(path):
        return False
    return True


def take_turns(path: Path, counter: Path, start: Any) -> None:
    start.wait()
    for _ in range(TURNS):
        with lease(path, wait_seconds=60, poll_seconds=0.001):
            value = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(value + 1))


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.usefixtures("hard_links")
def test_four_processes_never_hold_it_at_once(path: Path, tmp_path: Path, attempt: int) -> None:
    """Each adds one in its turn; a lost count is a moment with two holders. They start by taking over a dead lease."""
    left_by_a_killed_process(path)
    counter, start = tmp_path / "count", FORK.Event()
    counter.write_text("0")
    processes = [FORK.Process(target=take_turns, args=(path, counter, start)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert counter.read_text() == str(4 * TURNS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["count"]


@pytest.mark.usefixtures("hard_links")
def test_holding_excludes_and_leaves_nothing_behind(path: Path) -> None:
    with lease(path):
        assert is_held(path)
        with pytest.raises(LeaseHeld, match=rf"x\.lease is held by process {os.getpid()} on "), lease(path):
            pass
    assert not is_held(path) and list(path.parent.iterdir()) == []


def test_the_lease_of_a_killed_process_is_taken_over_at_once(path: Path) -> None:
    left_by_a_killed_process(path)
    assert not is_held(path) and not is_refused(path)


def replaced_after_the_look(path: Path, monkeypatch: pytest.MonkeyPatch, fresh: str) -> None:
    """Make another process take the lease afresh in the moment between the judgement and what follows from it."""
    judge: Callable[..., bool] = lease_module._is_stale

    def judge_then_replace(*arguments: Any) -> bool:
        judged = judge(*arguments)
        if path.read_text() != fresh:
            path.unlink()
            path.write_text(fresh)
        return judged

    monkeypatch.setattr(lease_module, "_is_stale", judge_then_replace)


@pytest.mark.parametrize("damaged", [False, True])
def test_only_the_lease_that_was_judged_is_broken(path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    dead = left_by_a_killed_process(path)
    fresh = json.dumps({**dead, "token": "fresh", "pid": os.getpid(), "born": lease_module._born("self")})
    if damaged:  # no token can be read: it is told from others by its file
        path.write_text("")
        age(path)
    replaced_after_the_look(path, monkeypatch, fresh)
    assert is_refused(path)
    assert path.read_text() == fresh


def test_one_breaker_at_a_time(path: Path) -> None:
    dead = left_by_a_killed_process(path)
    removal = path.with_name(f".{path.name}.{dead['token']}.removal")
    with lease(removal):  # a live process is at it
        assert is_refused(path)
        assert json.loads(path.read_text()) == dead
    left_by_a_killed_process(removal)  # one that was killed in the middle of it is followed by the next
    with lease(path):
        assert is_held(path)
    assert list(path.parent.iterdir()) == []


def test_a_live_process_of_this_machine_keeps_its_lease_though_it_is_silent(path: Path) -> None:
    """Stopped with Ctrl-Z, or starved: it will go on."""
    with lease(path):
        age(path)
        assert is_held(path) and is_refused(path)


@pytest.mark.parametrize("elsewhere", [{"namespace": "pid:[1]"}, {"boot": "another"}, {"host": "another"}])
def test_a_process_number_means_nothing_in_another_place(path: Path, elsewhere: dict[str, str]) -> None:
    """Of a holder in a container, on another node or before a reboot only the heartbeat tells."""
    path.write_text(json.dumps({**left_by_a_killed_process(path), **elsewhere}))
    assert is_held(path) and is_refused(path)
    age(path)
    assert not is_held(path) and not is_refused(path)


@pytest.fixture
def contained(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a PID namespace of its own, as in a container, that holds the lease."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("a PID namespace needs root")
    process = subprocess.Popen([*unshare, sys.executable, "-c", HOLD, path])
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_lease_is_not_taken_from_a_live_process_in_a_container(
    path: Path, contained: subprocess.Popen[bytes]
) -> None:
    assert is_held(path) and is_refused(path)
    contained.kill()
    contained.wait()
    age(path)
    assert not is_refused(path)


def no_more_room() -> None:
    """As on a full disk: files can be made, but nothing can be written to them."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.parametrize("full", ["before", "while it is held"])
def test_a_full_disk_leaves_no_lease_behind(path: Path, full: str) -> None:
    def hold() -> None:
        if full == "before":
            no_more_room()
            with pytest.raises(OSError, match="File too large"), lease(path):
                pass
        else:
            with lease(path):
                no_more_room()

    process = FORK.Process(target=hold)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert list(path.parent.iterdir()) == []
