"""Peak FLOP/s of devices from their makers' data sheets, to compare achieved FLOP/s with.

Dense matrix products, without sparsity. A device that is not listed has no peak here: a guess would be a wrong number.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from harness.wording import count_of

if TYPE_CHECKING:
    import torch


class Peak(NamedTuple):
    """10¹² floating point operations per second, two to a multiply-add."""

    bfloat16: float
    float32: float
    """Without TF32, which PyTorch leaves off unless it is asked for."""


PEAK_TFLOPS: dict[str, Peak] = {
    "H200": Peak(989.4, 66.9),
    "H100 80GB HBM3": Peak(989.4, 66.9),
    "H100 SXM": Peak(989.4, 66.9),
    "H100 PCIe": Peak(756.5, 51.2),
    "H100 NVL": Peak(835.5, 60.0),
    "GH200": Peak(989.4, 66.9),
    "A100": Peak(312.0, 19.5),
    "A40": Peak(149.7, 37.4),
    "L40S": Peak(362.0, 91.6),
    "L4": Peak(121.0, 30.3),
    "A10": Peak(125.0, 31.2),
    "RTX 4090": Peak(165.2, 82.6),
    "RTX 3090": Peak(71.0, 35.6),
}
"""By a part of the name that the device gives itself (torch.cuda.get_device_name), from NVIDIA's data sheets."""


def peak_tflops(device: str, precision: str) -> float | None:
    """The peak of the device named `device` in "float32" or "bfloat16"; None where it is unknown.

    The longest listed name that the device's contains as whole words counts, so that an L40S is no L4.
    """
    padded = f" {device} ".replace("-", " ")
    found = [name for name in PEAK_TFLOPS if f" {name} " in padded]
    return getattr(PEAK_TFLOPS[max(found, key=len)], precision) if found else None


def measured_matmul_tflops(side: int = 1024, repeats: int = 5) -> float:
    """What this CPU's float32 matrix product reaches now, with the threads that torch has: the best of `repeats`.

    A reference where no data sheet helps, not a peak.
    """
    import torch  # imported here: planning needs only the table

    a, b = torch.ones(side, side), torch.ones(side, side)
    best = float("inf")
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12


def reference_tflops(device: torch.device, name: str, precision: str) -> tuple[float | None, str]:
    """The peak that achieved FLOP/s on `device` are compared with, and a phrase that says what it is."""
    if device.type == "cpu":
        import torch

        threads = torch.get_num_threads()
        return measured_matmul_tflops(), f"a float32 matrix product measured here on {count_of(threads, 'thread')}"
    peak = peak_tflops(name, precision)
    return peak, f"the peak of {name} in {precision}" if peak is not None else f"peak unknown for {name}"
