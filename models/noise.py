"""Randomness that depends on (seed, image index, draw, element) alone.

Counter-based Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011) on int64
tensors: no state, so image i gets the same numbers at any batch size, in any order, on any number of devices,
and after any resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from models.limits import SEEDS

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Stream(IntEnum):
    """Independent sequences of one seed: a draw for one purpose never moves a draw for another."""

    INITIAL = 0
    STEP = 1
    TIME = 2
    REFRESHES = 3
    LATER_TIME = 4
    NOISE = 5
    CONTEXT_NOISE = 6
    LABEL_DROPOUT = 7
    CONTEXT_DROPOUT = 8
    TRANSLATION = 9
    FLIP = 10
    TABLE = 11
    TARGET_TIME = 12
    RENOISE = 13
    ROLLOUT = 14
    ROLLOUT_START = 15
    PAIRS = 16
    SCHEDULE = 17
    POSTERIOR = 18


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low words of the 64-bit product of two 32-bit words, by halves of 16 bits: no int64 overflows."""
    low = word * (multiplier & 0xFFFF)
    high = word * (multiplier >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10 of four broadcastable int64 tensors of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = _product(c0, _MULTIPLIERS[0]), _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def random_words(seed: int, indices: Tensor, draw: int | Tensor, elements: int, stream: int = 0) -> Tensor:
    """Uniform 32-bit words as int64, (B, `elements`), of word e % 4 of counter (e // 4, draw, index, stream).

    `seed` is in [0, 2⁶⁴); `indices` (B,) int64, `draw` (an int or (B,) int64) and `stream` are in [0, 2³²).
    """
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed: {seed} is not between 0 and 2⁶⁴ − 1")
    block = torch.arange(-(-elements // 4), device=indices.device)[None, :]
    draws = draw[:, None] if isinstance(draw, Tensor) else torch.full_like(block, draw)
    counter = (block, draws, indices[:, None], torch.full_like(block, stream))
    words = philox(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(words, dim=-1).flatten(1)[:, :elements]


def uniform(seed: int, indices: Tensor, draw: int | Tensor, shape: Sequence[int] = (), stream: int = 0) -> Tensor:
    """Uniform float32 numbers strictly inside (0, 1), (B, *shape), with a resolution of 23 bits."""
    words = random_words(seed, indices, draw, math.prod(shape), stream)
    return ((words >> 9).float() + 0.5).mul_(2.0**-23).reshape(len(indices), *shape)


def normal(seed: int, indices: Tensor, draw: int | Tensor, shape: Sequence[int], stream: int = 0) -> Tensor:
    """Standard normal float32 numbers, (B, *shape), by Box and Muller; the largest possible is 5.8."""
    elements = math.prod(shape)
    pairs = random_words(seed, indices, draw, elements + elements % 2, stream) >> 8
    radius = ((pairs[:, 0::2] + 1).float() * 2.0**-24).log_().mul_(-2).sqrt_()
    angle = pairs[:, 1::2].float() * (2 * math.pi * 2.0**-24)
    values = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    return values[:, :elements].reshape(len(indices), *shape)


class ImageNoise:
    """The noise that a sampler asks for: image i's depends on `seed` and i alone.

    `indices` are the global indices of the batch's images, (B,), moved to `device` once; `shape` is an
    image's (C, H, W); `stream` sets apart further sequences of the same seed (beyond :class:`Stream`'s);
    `draw_normal` stands in for :func:`normal`, say compiled.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int] | Tensor,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        stream: int = 0,
        draw_normal: Callable[..., Tensor] = normal,
    ) -> None:
        values = indices if isinstance(indices, Tensor) else torch.tensor(list(indices))
        self.seed, self.shape, self.stream = seed, tuple(shape), stream
        self.indices = values.to(device=device, dtype=torch.int64)
        self._normal = draw_normal

    def initial(self) -> Tensor:
        """What sampling starts from, (B, *shape)."""
        return self._normal(self.seed, self.indices, 0, self.shape, self.stream + Stream.INITIAL)

    def __call__(self, step: int) -> Tensor:
        """Fresh noise of a step, (B, *shape); the same whenever the step is asked for again."""
        return self._normal(self.seed, self.indices, step, self.shape, self.stream + Stream.STEP)
