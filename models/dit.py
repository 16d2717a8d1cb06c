"""Diffusion Transformer [DiT]: patches as tokens of one resolution, all its blocks modulated by adaLN-Zero.

It has the face of :class:`models.uvit.UViT`. Its levels are runs of blocks, one after the other and all of the same
side and width: features are the last layer of each run, so that dividing the blocks into runs chooses the depths that
they are taken at; context goes in before each run, or before each block. What the runs from one on have added to the
stream can be kept between steps.

It differs from the original in what a step is told: the log-SNR, as all of this project's networks are, in place of a
number of 0 to 999. With that number's sines and cosines it is the original network; a test holds it against that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.uvit import (
    Conditioning,
    ContextEntry,
    LogSnrFeatures,
    Output,
    Projection,
    context_time,
    largest_divisor,
    modulated_norm,
    projected,
)

EPSILON = 1e-6
"""Of every normalisation [DiT]."""
EMBEDDING_STD = 0.02
"""Of the initial weights that embed noise level and class [DiT]."""


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a network.

    Attributes:
        size: side of the images in pixels; divisible by patch.
        channels: of the images that come in.
        out_channels: of the image that comes out; None for a network of features only.
        patch: side of a patch in pixels.
        width: channels of a token; divisible by 4.
        blocks: blocks of each run.
        head_width: channels per attention head; where it does not divide the width, the largest count of wider heads is
            taken.
        mlp_ratio: hidden width of a block's MLP over its width.
        embedding: width of the embedding of noise level and class; the original's is `width`.
        dropout: after attention and MLP, from torch's global generator.
        classes: number of classes; None for a network without labels. Label `classes` is the null label.
        context_channels: channels of the context at each run, 0 where it takes none; None for a network without.
        context_entry: "level": the context enters before each run; "block": before each block.
        checkpoint_activations: recompute blocks in the backward pass.
    """

    size: int
    channels: int
    out_channels: int | None
    patch: int
    width: int
    blocks: tuple[int, ...]
    head_width: int = 64
    mlp_ratio: float = 4.0
    embedding: int = 256
    dropout: float = 0.0
    classes: int | None = None
    context_channels: tuple[int, ...] | None = None
    context_entry: ContextEntry = "level"
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        given = self.context_channels
        if given is not None and len(given) != len(self.blocks):
            raise ValueError(f"context_channels: has {len(given)} entries, but blocks has {len(self.blocks)}")
        if self.context_entry not in get_args(ContextEntry):
            raise ValueError(f"context_entry: {self.context_entry!r} is not one of {', '.join(get_args(ContextEntry))}")
        if not self.blocks or min(*self.blocks, self.width, self.patch, self.channels, self.head_width) < 1:
            raise ValueError("width, blocks, patch, channels, head_width: must be at least 1, in at least one run")
        if self.width % 4:
            raise ValueError(f"width: {self.width} is not divisible by 4, what positions in two dimensions need")
        if self.size % self.patch:
            raise ValueError(f"size: {self.size} is not divisible by {self.patch}, the side of a patch")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each run's features."""
        return (self.width,) * len(self.blocks)

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each run's features."""
        return (self.size // self.patch,) * len(self.blocks)

    def build(self) -> DiT:
        """A network of this shape."""
        return DiT(self)


def _linear(inner: int, outer: int, *, std: float | None = None) -> nn.Linear:
    """Zero biases, and Xavier's uniform weights, or normal ones of deviation `std` (all zero for 0)."""
    layer = nn.Linear(inner, outer)
    nn.init.zeros_(layer.bias)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=std)
    return layer


def sine_cosine_positions(width: int, side: int) -> Tensor:
    """Fixed positions (side², width): sines, then cosines, of the column in the first half, of the row in the second,
    at frequencies falling from 1 to 1/10 000 [DiT]."""
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # side width/2
    columns = waves[None, :, :].expand(side, -1, -1)
    rows = waves[:, None, :].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=2).flatten(0, 1).float()


class Block(nn.Module):
    """Self-attention, then an MLP; each pre-normed, scaled and shifted, and its result gated. On tokens (B, N, C)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, hidden = config.width, max(1, round(config.mlp_ratio * config.width))
        self.heads = largest_divisor(width, max(1, width // config.head_width))
        self.dropout = config.dropout
        self.modulation = _linear(config.embedding, 6 * width, std=0)
        self.queries_keys_values = _linear(width, 3 * width)
        self.attended = _linear(width, width)
        self.expand = _linear(width, hidden)
        self.contract = _linear(hidden, width)

    def forward(self, h: Tensor, hidden: Tensor) -> Tensor:
        """`hidden` is the embedding, (1 or B, embedding)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(hidden).chunk(6, dim=1)
        h = h + gate[:, None] * self._drop(self._attend(modulated_norm(h, scale, shift, EPSILON)))
        inner = F.gelu(self.expand(modulated_norm(h, mlp_scale, mlp_shift, EPSILON)), approximate="tanh")
        return h + mlp_gate[:, None] * self._drop(self.contract(inner))

    def _attend(self, h: Tensor) -> Tensor:
        projected = self.queries_keys_values(h).unflatten(-1, (3, self.heads, -1))  # B N 3 heads d
        q, k, v = projected.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N d
        return self.attended(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _drop(self, h: Tensor) -> Tensor:
        return F.dropout(h, self.dropout, self.training) if self.dropout else h


class Run(nn.Module):
    """Blocks one after the other, and the way in of their context. On tokens (B, N, C)."""

    def __init__(self, config: DiTConfig, level: int) -> None:
        super().__init__()
        count, self.checkpoint = config.blocks[level], config.checkpoint_activations
        self.blocks = nn.ModuleList(Block(config) for _ in range(count))
        channels = config.context_channels[level] if config.context_channels else 0
        self.entries = (count if config.context_entry == "block" else 1) if channels else 0
        self.project = nn.Conv2d(channels, self.entries * config.width, 1, bias=False) if channels else None

    def forward(self, h: Tensor, hidden: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """`contexts` has one (B, C, H, W) per place of entry, or none at all."""
        for block, context in zip(self.blocks, [*contexts, *(None,) * len(self.blocks)], strict=False):
            if context is not None:
                h = h + context.flatten(2).transpose(1, 2)
            h = self._run(block, h, hidden)
        return h

    def _run(self, block: nn.Module, h: Tensor, hidden: Tensor) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, h, hidden, use_reentrant=False)
        result: Tensor = block(h, hidden)
        return result


class Head(nn.Module):
    """Tokens to an image: normed, scaled and shifted, and a patch of each. (B, N, C) → (B, out_channels, H, W)."""

    def __init__(self, config: DiTConfig, out_channels: int) -> None:
        super().__init__()
        self.patch, self.side = config.patch, config.sides[0]
        self.modulation = _linear(config.embedding, 2 * config.width, std=0)
        self.last = _linear(config.width, config.patch**2 * out_channels, std=0)

    def forward(self, h: Tensor, hidden: Tensor) -> Tensor:
        shift, scale = self.modulation(hidden).chunk(2, dim=1)
        patches = self.last(modulated_norm(h, scale, shift, EPSILON))
        patches = patches.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (self.side, self.side))
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # B C (side patch) (side patch)


class DiT(nn.Module):
    """A Diffusion Transformer of a :class:`DiTConfig`."""

    positions: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.width, config.embedding
        self.log_snr_features = LogSnrFeatures()
        self.first_layer = _linear(LogSnrFeatures.count, embedding, std=EMBEDDING_STD)
        self.second_layer = _linear(embedding, embedding, std=EMBEDDING_STD)
        self.class_embedding: nn.Embedding | None = None
        if config.classes is not None:
            self.class_embedding = nn.Embedding(config.classes + 1, embedding)
            nn.init.normal_(self.class_embedding.weight, std=EMBEDDING_STD)
        if config.context_channels is not None:
            self.embed_context = nn.Linear(LogSnrFeatures.count, embedding, bias=False)
            self.null_context = nn.Parameter(torch.zeros(embedding))
        self.enter = nn.Conv2d(config.channels, width, config.patch, config.patch)
        nn.init.xavier_uniform_(self.enter.weight.flatten(1))  # as the linear layer over a patch that it is
        nn.init.zeros_(self.enter.bias)  # type: ignore[arg-type]
        self.register_buffer("positions", sine_cosine_positions(width, config.sides[0]), persistent=False)
        self.levels = nn.ModuleList(Run(config, level) for level in range(len(config.blocks)))
        self.head = None if config.out_channels is None else Head(config, config.out_channels)

    def condition(
        self, labels: Tensor | None = None, context_log_snr: Tensor | None = None, keep: Tensor | None = None
    ) -> Conditioning:
        """What no step changes, class and context's time in one: as :meth:`models.uvit.UViT.condition`."""
        if self.config.context_channels is None:
            hidden = self.first_layer.weight.new_zeros(1, self.config.embedding)
        else:
            hidden = context_time(self, context_log_snr, keep)
        if self.class_embedding is None:
            return Conditioning(hidden, ())
        if labels is None:
            labels = torch.full((1,), self.class_embedding.num_embeddings - 1, device=hidden.device)
        return Conditioning(hidden + self.class_embedding(labels), ())

    def project_context(self, features: Sequence[Tensor]) -> Projection:
        """The context of every place of entry: as :meth:`models.uvit.UViT.project_context`."""
        return projected(self._levels(), features)

    def forward(
        self,
        z: Tensor,
        log_snr: Tensor,
        conditioning: Conditioning,
        context: Projection | None = None,
        from_level: int | None = None,
        residual: Tensor | None = None,
    ) -> Output:
        """One evaluation: as :meth:`models.uvit.UViT.forward`. What the runs from `from_level` on add is what they make
        of the stream less the stream itself, (B, width, side, side)."""
        embedded = self.second_layer(F.silu(self.first_layer(self.log_snr_features(log_snr))))
        hidden = F.silu(embedded + conditioning.hidden)
        stream = self.enter(z).to(self.enter.weight.dtype)  # keeps full precision under autocast
        stream = stream.flatten(2).transpose(1, 2) + self.positions
        entered, outputs = [], []
        for i, level in enumerate(self._levels()[: from_level if residual is not None else None]):
            entered.append(stream)
            stream = level(stream, hidden, context[i] if context is not None else ())
            outputs.append(stream)
        added = residual
        if residual is not None:
            stream = stream + residual.flatten(2).transpose(1, 2)
        elif from_level is not None:
            added = self._as_image(stream - entered[from_level])
        features = tuple(self._as_image(output) for output in outputs)
        image: Tensor = features[-1] if self.head is None else self.head(stream, hidden)
        return Output(image, features, added)

    def _as_image(self, tokens: Tensor) -> Tensor:
        side = self.config.sides[0]
        return tokens.transpose(1, 2).unflatten(2, (side, side))

    def _levels(self) -> list[Run]:
        return list(self.levels)  # type: ignore[arg-type]
