"""Ctrl-C: the first ends the work where nothing is lost, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = "stopping at the end of this step, to save it; Ctrl-C again stops at once"


class StopRequest:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self._asked = False

    def is_set(self) -> bool:
        return self._asked

    def set(self) -> None:
        self._asked = True


@contextmanager
def on_signal(number: int, handler: Callable[[], None]) -> Iterator[None]:
    """Call `handler` when the signal comes, in the block; in another thread than the first signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        handler()

    before = signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def blocked(number: int) -> Iterator[None]:
    """A signal to this thread waits for the end of the block; a process that is started in it has it blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_on_interrupt(looks: Callable[[], bool], say: Callable[[str], None]) -> Iterator[StopRequest]:
    """In the block a Ctrl-C asks the work to stop, if it `looks` for such requests; a second raises KeyboardInterrupt.

    Where it does not look nothing would be saved by waiting, and the first raises.
    """
    request = StopRequest()

    def handle() -> None:
        if request.is_set() or not looks():
            raise KeyboardInterrupt
        request.set()
        say(STOPPING)

    with on_signal(signal.SIGINT, handle):
        yield request
