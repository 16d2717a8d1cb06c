"""Images that cannot be used: each is named, all are counted, none is dropped in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import DataError
from harness.wording import count_of

NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Damaged:
    """An image that cannot be used: its file and why."""

    file: str
    reason: str


class DamagedImageError(DataError):
    """One image that cannot be used; its message is ``file: reason``."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.damaged = Damaged(file, reason)


def damage_report(name: str, damaged: Sequence[Damaged], images: int) -> str:
    """The one message about all damaged images of a data set: their count, then file and reason of each."""
    lines = [f"{name}: {len(damaged)} of {count_of(images, 'image')} cannot be used:"]
    lines += [f"  {item.file}: {item.reason}" for item in damaged[:NAMED_AT_MOST]]
    if len(damaged) > NAMED_AT_MOST:
        lines.append(f"  … and {count_of(len(damaged) - NAMED_AT_MOST, 'more image')}")
    return "\n".join(lines)
