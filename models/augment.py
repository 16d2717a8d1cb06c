"""Random translation and flips, per image and keyed like all of training's randomness."""

from __future__ import annotations

import torch
from torch import Tensor

from models.noise import Stream
from models.objective import Randomness


def translate(x: Tensor, offsets: Tensor, fill: float = 0.0) -> Tensor:
    """Move each image of x (B, C, H, W) by its own `offsets` (B, 2) int64, down and right; outside is `fill`."""
    rows, row_inside = _sources(x.shape[2], offsets[:, 0])
    columns, column_inside = _sources(x.shape[3], offsets[:, 1])
    images = torch.arange(len(x), device=x.device)[:, None, None]
    moved = x.movedim(1, -1)[images, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    return torch.where(inside[:, None], moved, fill)


def _sources(side: int, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of `side` pixels comes from (B, side), and whether that lies inside the image."""
    source = torch.arange(side, device=offset.device)[None] - offset[:, None]
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def flip(x: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images of x (B, C, H, W), left to right, where `flipped` (B,) bool."""
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def augment(x: Tensor, randomness: Randomness, translation: int = 0, flips: bool = False, fill: float = 0.0) -> Tensor:
    """x (B, C, H, W) moved by up to `translation` pixels each way, and flipped half the time.

    Every whole offset is equally likely; pixels from outside are `fill`.
    """
    if flips:
        x = flip(x, randomness.uniform(Stream.FLIP) < 0.5)
    if translation:
        steps = randomness.uniform(Stream.TRANSLATION, (2,)) * (2 * translation + 1)
        x = translate(x, steps.floor().long() - translation, fill)
    return x
