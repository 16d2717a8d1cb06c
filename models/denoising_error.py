"""How well a network denoises: r(λ) = E‖x − x̂(z_λ, λ)‖² per dimension, measured at a grid of log-SNRs.

With x | z_λ ~ N(x̂, r) it is what is still unknown of an image once the network has seen z_λ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.method import RunNetwork, run_network
from models.noise import Stream, normal
from models.process import CosineSchedule, diffuse

LEVELS = 33
"""Log-SNRs of a table, evenly spaced over the schedule's range, both ends included."""
LEAST_ERROR = 1e-14
"""A smaller error is the rounding of float32; it may be none at all, which has no logarithm."""


@torch.no_grad()
def measure_denoising_error(
    model: Any,
    images: Tensor,
    labels: Tensor | None,
    schedule: CosineSchedule,
    *,
    seed: int = 0,
    batch: int = 64,
    levels: int = LEVELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    run: RunNetwork = run_network,
) -> dict[str, Tensor]:
    """The table of `model`'s own estimate, ``model.step(z, λ, labels)`` with nothing kept from an earlier step.

    images are (N, C, H, W) in [−1, 1] and labels (N,) int64 or None, on the device of the model, which is evaluated as
    it is (put it into evaluation mode). Returns float64 tensors (`levels`,) on the CPU: ``log_snr``, rising; ``error``,
    the mean over images and dimensions, above 0; ``standard_error`` of that mean, over images. The noise of an image
    depends on the seed, the image's place and the level alone, not on `batch`.
    """
    if len(images) < 2:
        raise ValueError(f"images: {len(images)} are too few for a standard error")
    low, high = schedule.log_snr_range
    log_snrs = torch.linspace(low, high, levels, dtype=torch.float64)
    places = torch.arange(len(images), device=images.device)
    parts = list(zip(images.split(batch), places.split(batch), _parts(labels, images, batch), strict=True))
    errors = torch.empty(levels, len(images), dtype=torch.float64)
    for level, log_snr in enumerate(log_snrs.to(images.device, images.dtype)):
        progress(level, levels)
        found = []
        for x, place, label in parts:
            noise = normal(seed, place, level, x.shape[1:], Stream.TABLE).to(x.dtype)
            estimate, _ = model.step(diffuse(x, log_snr, noise), log_snr, label, None, run)
            found.append((estimate - x).double().square().flatten(1).mean(1))
        errors[level] = torch.cat(found).cpu()
    progress(levels, levels)
    return {
        "log_snr": log_snrs,
        "error": errors.mean(1).clamp_min(LEAST_ERROR),
        "standard_error": errors.std(1) / len(images) ** 0.5,
    }


def _parts(labels: Tensor | None, images: Tensor, batch: int) -> list[Tensor | None]:
    return [None] * -(-len(images) // batch) if labels is None else list(labels.split(batch))
