"""Tiny networks with random weights everywhere, the layers that start at zero included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from models.cache import CachedSingleRate, Order
from models.dual_rate import ContextLevels, DualRate
from models.parameterization import Parameterization
from models.single_rate import SingleRate
from models.uvit import ContextEntry, UViT, UViTConfig

Net = TypeVar("Net", bound=nn.Module)
IMAGE = (1, 8, 8)
CLASSES = 3


def randomised(make: Callable[[], Net], scale: float = 0.15) -> Net:
    """The same network each time, in evaluation mode: made from one seed, with noise added to every parameter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = make()
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape))
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


def uvit(scale: float = 0.15, **changes: Any) -> UViT:
    return randomised(lambda: UViT(config(**changes)), scale)


def single_rate(parameterization: Parameterization | None = None, **changes: Any) -> SingleRate:
    return randomised(lambda: SingleRate(UViT(config(**changes)), parameterization))


def dual_rate(context_levels: ContextLevels = "all", context_entry: ContextEntry = "level", **changes: Any) -> DualRate:
    """A denoiser of other widths, blocks and kinds than its encoder."""
    channels = (6, 5) if context_levels == "all" else (6, 0)
    heavy = config(out_channels=None, **changes)
    light = config(
        widths=(8, 8), blocks=(1, 1), kinds=("conv", "conv"),
        context_channels=channels, context_entry=context_entry, **changes,
    )  # fmt: skip
    return randomised(lambda: DualRate(UViT(heavy), UViT(light), context_levels=context_levels))


def cached(from_level: int = 1, order: Order = 0, **changes: Any) -> CachedSingleRate:
    return CachedSingleRate(single_rate(**changes), from_level, order)


def forecast(**changes: Any) -> CachedSingleRate:
    return cached(order=1, **changes)


METHODS: dict[str, Callable[..., SingleRate | DualRate | CachedSingleRate]] = {
    "single_rate": single_rate,
    "dual_rate": dual_rate,
    "cached": cached,
    "forecast": forecast,
}
