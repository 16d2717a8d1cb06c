"""What a report compares, and how things are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.metrics import DEFAULT


@dataclass(frozen=True)
class ReportOptions:
    """What a report compares, and how things are called."""

    base: str | None = None
    """The arm that others are compared with; the first if unset."""
    base_row: Mapping[str, Any] = field(default_factory=dict)
    """Varied keys of the base arm's row that speed-ups are relative to; its best row if unset."""
    subject: str | None = None
    """The arm whose gain the headline states; ``dual-rate`` if there is one."""
    metric: str = DEFAULT
    """The measure that rows are ranked and compared by; another than the Fréchet distance where it was measured."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Names of varied keys in tables and figures."""
    arms: Sequence[str] = ()
    """Order of the arms, and so their colours; the order of appearance if unset."""
    command: str = "harness report"
    """What a person runs to make the report again."""
    published: bool = False
    """Whether it is a report for others, under version control: a sweep's own report never takes its place."""
