"""Figures to bytes; in a large report by a second process, while this one writes the tables."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from matplotlib.figure import Figure

from harness.report.style import pdf, png

Rendered = list[tuple[bytes, bytes]]
"""(PNG, PDF) of each figure."""


def render(figures: Sequence[Figure]) -> Rendered:
    """Each figure as PNG and as PDF."""
    return [(png(figure), pdf(figure)) for figure in figures]


def begin(figures: Sequence[Figure], apart: bool) -> Callable[[], Rendered]:
    """Begin to render; the function returned waits for the result.

    With `apart`, a forked child does it where that is safe and of use: on Linux, with a processor to spare, and with no
    other thread in this process. The bytes are the same either way.
    """
    if not (apart and can_fork()):
        return lambda: render(figures)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, figures), daemon=True)
    child.start()
    sender.close()

    def result() -> Rendered:
        try:
            return [(receiver.recv_bytes(), receiver.recv_bytes()) for _ in figures]
        except EOFError:
            # The child died; here the same work either succeeds or says why not.
            return render(figures)
        finally:
            receiver.close()
            child.join()

    return result


def can_fork() -> bool:
    """Whether a forked child is safe and of use here."""
    return sys.platform == "linux" and (os.cpu_count() or 1) > 1 and threading.active_count() == 1


def _send(sender: Connection, figures: Sequence[Figure]) -> None:
    for figure in figures:
        sender.send_bytes(png(figure))
        sender.send_bytes(pdf(figure))
