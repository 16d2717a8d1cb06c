"""What stands in a training's log beside its losses: the images that were drawn on its way."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

SAMPLES = "samples"
"""Key of a line of samples: the grid, relative to the training's folder."""
SECONDS = "sample_seconds"
TAIL = 65_536
"""Bytes at the end of a log that are looked at."""


def newest_samples(log: Path) -> str:
    """What the newest samples in the file `log` measure, in words: ``step 500: FD-digits of 64 images 31.2``.

    Empty where none are.
    """
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        for text in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError):  # the rest of a line that was cut
                line = json.loads(text)
                if isinstance(line, dict) and SAMPLES in line:
                    told = {key: value for key, value in line.items() if key not in ("step", SAMPLES, SECONDS)}
                    return f"step {line['step']}: " + ", ".join(f"{name} {value:.4g}" for name, value in told.items())
    return ""
