"""The time that a training takes, added up over its runs, and how much of the machine others had meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.measure.quiet import Reading, others_share, read_scheduler
from harness.store.records import InheritedCost

KEY = "spent"
"""Of a checkpoint's metadata."""


@dataclass
class Spent:
    """Seconds of the steps that count: what a kill has lost is taken again, and does not count twice.

    It goes along in each checkpoint, with what the training inherits, so that neither a later run nor the loss of what
    it started from forgets it.
    """

    before: float | None = 0.0
    """Seconds of the runs before this one; None where its checkpoint is of a version that did not say."""
    others_before: float | None = 0.0
    """Of these, times the share of the processors that other processes took."""
    inherited: InheritedCost | None = None
    _start: Reading = field(default_factory=lambda: read_scheduler())

    @classmethod
    def resumed(cls, metadata: Mapping[str, str] | None, inherited: InheritedCost | None) -> Spent:
        """Goes on from a checkpoint's `metadata`; begins where it is None, with what is `inherited`."""
        if metadata is None:
            return cls(inherited=inherited)
        if KEY not in metadata:
            return cls(None, None, inherited)
        kept = json.loads(metadata[KEY])
        told = kept["inherited"]
        return cls(
            kept["seconds"],
            kept["others"],
            inherited if told is None else InheritedCost.model_validate(told),
        )

    def _now(self) -> tuple[float | None, float | None]:
        """(seconds, seconds × share of others) up to now."""
        now = read_scheduler()
        run = now.wall - self._start.wall
        share = others_share(self._start, now)
        seconds = None if self.before is None else self.before + run
        others = None if self.others_before is None or share is None else self.others_before + share * run
        return seconds, others

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no part of the training: neither its seconds nor what others took meanwhile count."""
        self.before, self.others_before = self._now()
        try:
            yield
        finally:
            self._start = read_scheduler()

    def facts(self) -> dict[str, str]:
        """For a checkpoint's metadata."""
        seconds, others = self._now()
        inherited = None if self.inherited is None else self.inherited.model_dump(mode="json")
        return {KEY: json.dumps({"seconds": seconds, "others": others, "inherited": inherited})}

    def total(self) -> tuple[float | None, float | None]:
        """(seconds of all runs, share of the processors that others took meanwhile); None where not known."""
        seconds, others = self._now()
        share = round(others / seconds, 4) if seconds and others is not None else None
        return (None if seconds is None else round(seconds, 3)), share
