"""What is said of the time that threads waited for a processor, in records and in reports."""

from __future__ import annotations

import re

OLDER = re.compile(r"its threads waited for a processor (\d+)% of the time")
"""How records said it before: in seconds of all threads together, relative to the clock's; with several threads that is
more than all of the time."""


def share_of_ready(waiting: float, running: float) -> float:
    """Seconds in which threads waited for a processor over those in which they had one or waited: 0 to 1, however many
    threads there are."""
    waiting, running = max(0.0, waiting), max(0.0, running)
    return waiting / (waiting + running) if waiting else 0.0


def waited(share: float) -> str:
    """That threads waited for a processor; `share` is that of :func:`share_of_ready`."""
    return f"its threads waited for a processor in {percent(share)} of the time in which they had work"


def percent(share: float) -> str:
    """As a whole number, unless that would be nothing; never more than all."""
    return "less than 1%" if share < 0.005 else f"{min(share, 1.0):.0%}"


def reworded(reason: str, waiting: float | None, wall: float | None, running: float | None) -> str:
    """A record's `reason`, in today's words where it is an older one's.

    `waiting` is how many threads waited on average in the `wall` seconds, in which all together ran for `running`
    seconds of a processor; None where the record does not say.
    """
    told = OLDER.fullmatch(reason)
    if told is None:
        return reason
    if waiting is None or wall is None or running is None:
        return f"on average {int(told[1]) / 100:.2g} of its threads waited for a processor"
    return waited(share_of_ready(waiting * wall, running))
