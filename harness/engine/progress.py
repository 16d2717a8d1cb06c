"""How a job reports its progress."""

from __future__ import annotations

from typing import Protocol

MAIN = ""
"""The phase that a target's progress is counted in: the steps of a training, the images of a cell."""


WAITING = "waiting"
"""Prefix of the phase in which another job works on the target."""


ENCODING = "encoding"
"""The phase in which images are encoded."""


class JobProgress(Protocol):
    """Called with how far a job has come, the total (0 where there is none) and the phase."""

    def __call__(self, done: int, total: int, phase: str = MAIN) -> None: ...


def silent(done: int, total: int, phase: str = MAIN) -> None:
    """Progress that nobody watches."""
