"""Classifier-free guidance [CFG], optionally inside an interval of noise levels only [interval]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """x̂ = x̂_uncond + scale·(x̂_cond − x̂_uncond) where the noise level σ is inside [low, high]; x̂_cond
    elsewhere.

    A scale of 1 is no guidance and costs nothing; 0 is the unconditional network.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None

    def active(self, noise_levels: Sequence[float]) -> tuple[bool, ...]:
        """For each step's σ, whether it is guided (and so costs two evaluations)."""
        if self.scale == 1:
            return (False,) * len(noise_levels)
        if self.interval is None:
            return (True,) * len(noise_levels)
        low, high = self.interval
        return tuple(low <= sigma <= high for sigma in noise_levels)

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """The guided estimate."""
        return torch.lerp(unconditional, conditional, self.scale)


def with_unconditional(labels: Tensor, null_label: int) -> Tensor:
    """`labels` (B,) followed by as many null labels: (2B,)."""
    return torch.cat([labels, torch.full_like(labels, null_label)])
