"""SLURM's commands as short scripts that note how they were called, where a test needs no cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Fakes:
    """A folder of commands that goes ahead of all others on PATH."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, script: str) -> None:
        """A command that notes its arguments in ``NAME.calls``, then runs `script` (bash)."""
        path = self.folder / name
        path.write_text(f'#!/bin/bash\necho "$*" >>"{path}.calls"\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def path(self) -> str:
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"
