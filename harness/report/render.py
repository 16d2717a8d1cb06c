"""Figures to bytes; in a large report drawn by a second process, while this one writes the tables."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.report.figure_list import Drawn


@dataclass(frozen=True)
class Rendered:
    """A figure as PNG and as PDF, with the name of its files and its caption."""

    name: str
    caption: str
    png: bytes
    pdf: bytes


Draw = Callable[[], Sequence[Sequence["Drawn"]]]
"""Makes the figures of each panel."""
All = list[list[Rendered]]


def render(draw: Draw) -> All:
    """Each figure that `draw` makes, by panel."""
    from harness.report.style import pdf, png

    return [[Rendered(one.name, one.caption, png(one.figure), pdf(one.figure)) for one in panel] for panel in draw()]


def begin(draw: Draw, apart: bool) -> Callable[[], All]:
    """Begin to draw and render; the function returned waits for the result.

    With `apart`, a forked child does it where that is safe and of use: on Linux, with a processor to spare, and with no
    other thread in this process. The bytes are the same either way.
    """
    if not (apart and can_fork()):
        return lambda: render(draw)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, draw), daemon=True)
    child.start()
    sender.close()

    def result() -> All:
        try:
            received: All = receiver.recv()
            return received
        except EOFError:
            # The child died; here the same work either succeeds or says why not.
            return render(draw)
        finally:
            receiver.close()
            child.join()

    return result


def can_fork() -> bool:
    """Whether a forked child is safe and of use here."""
    return sys.platform == "linux" and (os.cpu_count() or 1) > 1 and threading.active_count() == 1


def _send(sender: Connection, draw: Draw) -> None:
    try:
        rendered = render(draw)
    except Exception:  # the parent does the work again, and its error is the one that is told
        os._exit(1)
    sender.send(rendered)
