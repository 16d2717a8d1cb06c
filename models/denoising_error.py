"""How well a network denoises: r(λ) = E‖x − x̂(z_λ, λ)‖² per dimension, measured at a grid of log-SNRs.

With x | z_λ ~ N(x̂, r) it is what is still unknown of an image once the network has seen z_λ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.method import RunNetwork, run_network
from models.noise import Stream, normal
from models.process import CosineSchedule, diffuse

LEVELS = 33
"""Log-SNRs of a table, evenly spaced over the schedule's range, both ends included."""
LEAST_ERROR = 1e-12
"""A smaller error is the rounding of float32, and may be none at all, which has no logarithm."""


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
    the mean of r over images and dimensions; ``standard_error`` of that mean, over images. The noise of an image
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
        "error": errors.mean(1),
        "standard_error": errors.std(1) / len(images) ** 0.5,
    }


def _parts(labels: Tensor | None, images: Tensor, batch: int) -> list[Tensor | None]:
    return [None] * -(-len(images) // batch) if labels is None else list(labels.split(batch))


class DenoisingError(nn.Module):
    """r(λ) as a part of a network: the logarithm of a table's errors, interpolated linearly in λ, its ends kept beyond.

    The table lies in buffers, so that it is saved with the weights; until one is loaded, r is 1 everywhere. Plain
    products and sums, which are compiled with the network around them and index nothing.
    """

    log_snr_range: Tensor
    """(2,): the lowest and the highest log-SNR."""
    log_error: Tensor
    """(levels,)."""

    def __init__(self, levels: int = LEVELS) -> None:
        super().__init__()
        self.register_buffer("log_snr_range", torch.tensor([0.0, 1.0]))
        self.register_buffer("log_error", torch.zeros(levels))

    def load(self, table: dict[str, Tensor]) -> None:
        """Take over what :func:`measure_denoising_error` has returned. Raises ValueError for another grid."""
        log_snr, error = table["log_snr"], table["error"]
        grid = torch.linspace(float(log_snr[0]), float(log_snr[-1]), len(self.log_error), dtype=torch.float64)
        if log_snr.shape != grid.shape or not torch.allclose(log_snr.double(), grid):
            raise ValueError(f"log_snr: {len(self.log_error)} evenly spaced log-SNRs are needed")
        if not bool(torch.isfinite(error).all()):
            raise ValueError("error: is not finite")
        self.log_snr_range.copy_(log_snr[[0, -1]])
        self.log_error.copy_(error.clamp_min(LEAST_ERROR).log())

    def forward(self, log_snr: Tensor) -> Tensor:
        """r at each log-SNR, of its shape."""
        low, high = self.log_snr_range.unbind()
        last = len(self.log_error) - 1
        place = ((log_snr - low) / (high - low) * last).clamp(0, last)
        levels = torch.arange(last + 1, device=place.device, dtype=place.dtype)
        share = (1 - (place[..., None] - levels).abs()).clamp_min(0)
        return (share * self.log_error.to(share.dtype)).sum(-1).exp()
