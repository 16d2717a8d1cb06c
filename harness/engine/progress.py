"""What a job tells of its work as it goes."""

from __future__ import annotations

from typing import Protocol

MAIN = ""
"""The phase that a target's progress is counted in: the steps of a training, the images of a cell."""


WAITING = "waiting"
"""What a phase starts with in which another job works on the target."""


class JobProgress(Protocol):
    """What a job tells of itself: how far it has come, and in which phase; a total of 0 is none."""

    def __call__(self, done: int, total: int, phase: str = MAIN) -> None: ...


def silent(done: int, total: int, phase: str = MAIN) -> None:
    """For whom it may not concern."""
