"""Commands that messages suggest: each works when it is pasted into the same terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.shipped import name_of

RESULTS = Path("results")


@dataclass(frozen=True)
class Asked:
    """The arguments of the command that was called, which a suggested command must repeat."""

    file: Path
    overrides: Sequence[str] = ()
    results: Path = RESULTS
    cluster: str | None = None
    slurm: Sequence[str] = field(default=())

    def command(self, name: str, *arguments: str, submits: bool = False) -> str:
        """``harness NAME FILE ARGUMENTS…`` for the same sweep and folder; `submits`: and the same cluster settings."""
        words = [
            "harness",
            name,
            name_of(self.file) or str(self.file),
            *arguments,
            *options_of(self.overrides, self.results),
        ]
        if submits:
            words += ["--cluster", self.cluster] if self.cluster else []
            words += [word for text in self.slurm for word in ("--slurm", text)]
        return shlex.join(words)


def options_of(overrides: Sequence[str], results: Path) -> list[str]:
    """``--set`` and, where it is not the usual folder, ``--results``."""
    words = [word for text in overrides for word in ("--set", text)]
    return words if results == RESULTS else [*words, "--results", str(results)]


def of_arm(arm: str | None) -> list[str]:
    """The options that name an arm, or none."""
    return ["--arm", arm] if arm else []
