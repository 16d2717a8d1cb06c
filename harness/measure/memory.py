"""Peak memory: what a GPU's allocator held at most, on a CPU the most that the process had resident."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What resets a process's peak of resident memory (proc(5), since Linux 4.0)."""


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, to measure from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # without permission the peak is that since the process's start: an upper bound
        with contextlib.suppress(OSError):
            CLEAR.write_text(RESET_PEAK, encoding="utf-8")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most bytes since :func:`reset_peak_memory`; None where the system does not tell.

    On a GPU what tensors took; on a CPU the whole process, with Python, torch and the data in memory.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not STATUS.exists():
        return None
    lines = (line.split() for line in STATUS.read_text(encoding="utf-8", errors="replace").splitlines())
    return next((1024 * int(words[1]) for words in lines if words and words[0] == "VmHWM:"), None)


def peak_memory_of(device: torch.device) -> str:
    """What :func:`peak_memory_bytes` counts, in words."""
    return "tensors on the GPU" if device.type == "cuda" else "the whole process"
