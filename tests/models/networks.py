"""Tiny networks with random weights everywhere, the layers that start at zero included."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from models.cache import CachedSingleRate
from models.dual_rate import ContextLevels, DualRate, Parameterization, SingleRate
from models.uvit import UViT, UViTConfig

Net = TypeVar("Net", bound=nn.Module)
IMAGE = (1, 8, 8)
CLASSES = 3


def randomised(network: Net, seed: int = 0, scale: float = 0.15) -> Net:
    """The network with noise added to every parameter, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def config(**changes: Any) -> UViTConfig:
    """Two levels, convolutional and transformer, on 8×8 images."""
    values: dict[str, Any] = {
        "size": 8,
        "channels": 1,
        "out_channels": 1,
        "patch": 1,
        "widths": (8, 16),
        "blocks": (1, 2),
        "kinds": ("conv", "transformer"),
        "head_width": 8,
        "embedding": 16,
        "classes": CLASSES,
    }
    return UViTConfig(**(values | changes))


def single_rate(parameterization: Parameterization | None = None, **changes: Any) -> SingleRate:
    return randomised(SingleRate(UViT(config(**changes)), parameterization))


def dual_rate(context_levels: ContextLevels = "all", context_entry: str = "level", **changes: Any) -> DualRate:
    """A denoiser of other widths, blocks and kinds than its encoder."""
    channels = (6, 5) if context_levels == "all" else (6, 0)
    encoder = UViT(config(out_channels=None, **changes))
    light: dict[str, Any] = {"widths": (8, 8), "blocks": (1, 1), "kinds": ("conv", "conv")}
    denoiser = UViT(config(context_channels=channels, context_entry=context_entry, **(light | changes)))
    return randomised(DualRate(encoder, denoiser, context_levels=context_levels))


def cached(from_level: int = 1) -> CachedSingleRate:
    return CachedSingleRate(single_rate(), from_level)


METHODS = {"single_rate": single_rate, "dual_rate": dual_rate, "cached": cached}
