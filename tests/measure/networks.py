"""Small networks of every kind, and their cost by hand from their configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from models.cache import CachedSingleRate, Order
from models.dual_rate import ContextLevels, DualRate
from models.parameterization import Preconditioning
from models.single_rate import SingleRate
from models.uvit import UViT, UViTConfig

HEAVY = UViTConfig(
    size=8,
    channels=1,
    out_channels=1,
    patch=1,
    widths=(16, 24),
    blocks=(1, 2),
    kinds=("conv", "transformer"),
    head_width=8,
    mlp_ratio=2.0,
    embedding=20,
)
LIGHT: dict[str, Any] = {"widths": (8, 12), "blocks": (1, 1), "context_channels": (8, 12)}


def heavy(**changes: Any) -> UViTConfig:
    """The heavy network's configuration, changed."""
    return dataclasses.replace(HEAVY, **changes)


def single_rate(**changes: Any) -> SingleRate:
    torch.manual_seed(0)
    return SingleRate(UViT(heavy(**changes))).eval()


def edm() -> SingleRate:
    return SingleRate(UViT(HEAVY), Preconditioning()).eval()


def dual_rate(light: dict[str, Any] | None = None, **changes: Any) -> DualRate:
    torch.manual_seed(0)
    light = {**LIGHT, **(light or {})}
    levels: ContextLevels = "last" if 0 in light["context_channels"] else "all"
    encoder = UViT(heavy(**{**changes, "out_channels": None}))
    return DualRate(encoder, UViT(heavy(**changes, **light)), context_levels=levels).eval()


def cached(from_level: int = 1, order: Order = 0, **changes: Any) -> CachedSingleRate:
    return CachedSingleRate(single_rate(**changes), from_level, order).eval()


def films(config: UViTConfig, level: int) -> int:
    """Width of the scales and shifts of all blocks of a level."""
    per_block = {"conv": 2, "transformer": 4}[config.kinds[level]] * config.widths[level]
    return config.blocks_run(level) * per_block


def block(config: UViTConfig, level: int) -> int:
    """Multiply-adds of one block: two 3×3 convolutions, or attention (q, k, v, out, two products) and an MLP."""
    width, pixels = config.widths[level], config.sides[level] ** 2
    if config.kinds[level] == "conv":
        return 2 * 9 * width**2 * pixels
    hidden = round(config.mlp_ratio * width)
    return 4 * width**2 * pixels + 2 * pixels**2 * width + 2 * width * hidden * pixels


def evaluation(config: UViTConfig, levels: int | None = None) -> int:
    """One forward pass over the first `levels` levels, written down from the architecture."""
    pixels = [side**2 for side in config.sides]
    macs = 64 * config.embedding
    for level in range(levels or len(config.widths)):
        width = config.widths[level]
        macs += config.embedding * films(config, level)
        macs += config.blocks_run(level) * block(config, level)
        if level == 0:
            macs += config.channels * config.patch**2 * width * pixels[0]
        else:
            macs += 2 * 4 * config.widths[level - 1] * width * pixels[level]  # down, and up again
    if config.out_channels is not None:
        macs += config.widths[0] * config.out_channels * config.patch**2 * pixels[0]
    return macs


def class_film(config: UViTConfig) -> int:
    """The class's share of the scales and shifts, once per refresh."""
    if config.classes is None:
        return 0
    return sum(config.embedding * films(config, level) for level in range(len(config.widths)))


def context(encoder: UViTConfig, denoiser: UViTConfig) -> int:
    """Projection of the encoder's features, then of the context into the denoiser, and its time's embedding."""
    macs = 64 * denoiser.embedding
    for level, channels in enumerate(denoiser.context_channels or ()):
        pixels = denoiser.sides[level] ** 2
        entries = denoiser.blocks_run(level) if denoiser.context_entry == "block" else 1
        macs += encoder.widths[level] * channels * pixels + channels * entries * denoiser.widths[level] * pixels
    return macs


def tokens_network() -> nn.Module:
    """A convolution, one attention head and a linear layer: small enough to count on paper."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 2, stride=2)
            self.norm = nn.LayerNorm(8)
            self.qkv = nn.Linear(8, 3 * 8)
            self.out = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(self.patches(x).flatten(2).transpose(1, 2))
            q, k, v = self.qkv(h)[:, None].chunk(3, -1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])

    return Tokens()
