"""Residual U-ViT [SiD2]: one network for encoder, denoiser and base.

Patch embedding, then levels of falling resolution, each convolutional or transformer. One skip per level,
around the whole lower part: x_up = x_before + upsample(inner(h) − h), h = downsample(x_before). Features come
out of every level; context goes in at every level. Conditioning is FiLM from the embedding of the log-SNR, of
the context's log-SNR and of the class.

Three kinds of work are kept apart, so that each is done only as often as it has to be: what depends on the context
alone (:meth:`UViT.project_context`), what depends on the class and the context's time
(:meth:`UViT.condition`), and a step (:meth:`UViT.forward`). Where all images share one log-SNR, the embedding
of a step is of batch 1 and broadcasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.weight_selection import Axis

LevelKind = Literal["conv", "transformer"]
ContextEntry = Literal["level", "block"]


@dataclass(frozen=True)
class UViTConfig:
    """Shape of a network. Tuples have one entry per level, from the highest resolution to the lowest.

    Attributes:
        size: side of the images in pixels; divisible by patch · 2^(levels − 1).
        channels: of the images that come in.
        out_channels: of the image that comes out; None for a network of features only.
        patch: side of a patch in pixels.
        widths: channels.
        blocks: blocks; on all levels but the lowest this many on the way down and again on the way up.
        kinds: "conv" or "transformer".
        head_width: channels per attention head; where it does not divide a width, the largest count of wider
            heads is taken.
        mlp_ratio: hidden width of a transformer's MLP over its width.
        embedding: width of the embedding that FiLM reads.
        dropout: inside transformer blocks, from torch's global generator.
        classes: number of classes; None for a network without labels. Label `classes` is the null label.
        context_channels: channels of the context at each level, 0 where it takes none; None for a network
            without context.
        context_entry: "level": the context is concatenated to the input of a level's entry layer (patch
            embedding or downsampling); "block": concatenated to the stream before each block.
        checkpoint_activations: recompute blocks in the backward pass.
    """

    size: int
    channels: int
    out_channels: int | None
    patch: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    kinds: tuple[LevelKind, ...]
    head_width: int = 32
    mlp_ratio: float = 4.0
    embedding: int = 256
    dropout: float = 0.0
    classes: int | None = None
    context_channels: tuple[int, ...] | None = None
    context_entry: ContextEntry = "level"
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        levels = len(self.widths)
        for name in ("blocks", "kinds", "context_channels"):
            value = getattr(self, name)
            if value is not None and len(value) != levels:
                raise ValueError(f"{name}: has {len(value)} entries, but widths has {levels}")
        for kind in self.kinds:
            if kind not in get_args(LevelKind):
                raise ValueError(f"kinds: {kind!r} is not one of {', '.join(get_args(LevelKind))}")
        if self.context_entry not in get_args(ContextEntry):
            raise ValueError(f"context_entry: {self.context_entry!r} is not one of {', '.join(get_args(ContextEntry))}")
        if levels < 1 or min(*self.widths, *self.blocks, self.patch, self.channels, self.head_width) < 1:
            raise ValueError("widths, blocks, patch, channels, head_width: must be at least 1, on at least one level")
        if self.size % (self.patch * 2 ** (levels - 1)):
            raise ValueError(
                f"size: {self.size} is not divisible by {self.patch * 2 ** (levels - 1)}, "
                f"what a patch of {self.patch} on {levels} levels needs"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each level's feature map."""
        return tuple(self.size // self.patch // 2**level for level in range(len(self.widths)))

    def build(self) -> UViT:
        """A network of this shape."""
        return UViT(self)

    def blocks_run(self, level: int) -> int:
        """Blocks of a level in all: twice `blocks`, but once on the lowest level."""
        return self.blocks[level] * (1 if level == len(self.widths) - 1 else 2)


class Conditioning(NamedTuple):
    """What FiLM reads and no step changes; made by :meth:`UViT.condition`."""

    hidden: Tensor
    """(1 or B, embedding): the context's time, added before the embedding's nonlinearity."""
    film: tuple[Tensor, ...]
    """Per level (1 or B, ·): the class's share of the scales and shifts."""


Projection = tuple[tuple[Tensor, ...], ...]
"""The projected context: per level, one tensor per place of entry, none where the level takes no context."""


class Output(NamedTuple):
    """What one evaluation gives."""

    image: Tensor
    """(B, out_channels, H, W); for a network of features only, those of level 0."""
    features: tuple[Tensor, ...]
    """Per level that ran, its last layer (B, width, H_level, W_level)."""
    residual: Tensor | None
    """What the levels from `from_level` down added to the level above, at its resolution; None if not asked for."""


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is at most `at_most`, and at least 1."""
    return next(d for d in range(max(1, min(number, at_most)), 0, -1) if number % d == 0)


def _first(size: int) -> Axis:
    """An axis of which the first entries may be selected."""
    return Axis(size, "first")


def _group_norm(width: int) -> nn.GroupNorm:
    """Groups of at least 8 channels, at most 32 of them."""
    return nn.GroupNorm(largest_divisor(width, min(32, width // 8)), width)


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class LogSnrFeatures(nn.Module):
    """Sines and cosines of λ at frequencies from 1/20 to 2, which tell apart all of [−15, 15]. (B,) → (B, 64)."""

    frequencies: Tensor
    phases: Tensor
    count = 64

    def __init__(self) -> None:
        super().__init__()
        half = torch.logspace(math.log10(0.05), math.log10(2.0), self.count // 2)
        self.register_buffer("frequencies", half.repeat(2), persistent=False)
        self.register_buffer("phases", torch.tensor([0.0, math.pi / 2]).repeat_interleave(len(half)), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """(1 or B, 64) of a log-SNR of shape (), (1,) or (B,)."""
        return torch.sin(torch.addcmul(self.phases, log_snr.reshape(-1, 1).to(self.phases.dtype), self.frequencies))


class ConvBlock(nn.Module):
    """h + conv(silu(FiLM(conv(norm(h))))), 3×3 convolutions, the last zero at the start. On (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _group_norm(width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = _zero(nn.Conv2d(width, width, 3, padding=1))

    def layout(self) -> dict[str, tuple[Axis, ...]]:
        """Of each tensor what :mod:`models.weight_selection` must know."""
        channels, side = _first(len(self.first.weight)), Axis(3)
        own = {"weight": (channels, channels, side, side), "bias": (channels,)}
        layers = {f"{layer}.{name}": axes for layer in ("first", "last") for name, axes in own.items()}
        return {"norm.weight": (channels,), "norm.bias": (channels,), **layers}

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        """`film` is (1 or B, 2C): scale and shift."""
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        inner = self.first(self.norm(h))
        return h + self.last(F.silu(torch.addcmul(shift, inner, 1 + scale)))


def modulated_norm(h: Tensor, scale: Tensor, shift: Tensor, epsilon: float = 1e-5) -> Tensor:
    """LayerNorm then FiLM, in one operator where scale and shift (1 or B, C) are shared by the batch. On (B, N, C)."""
    scale, shift = scale.to(h.dtype), shift.to(h.dtype)
    if scale.shape[0] == 1:
        return F.layer_norm(h, h.shape[-1:], 1 + scale[0], shift[0], epsilon)
    return torch.addcmul(shift[:, None], F.layer_norm(h, h.shape[-1:], eps=epsilon), 1 + scale[:, None])


class TransformerBlock(nn.Module):
    """Self-attention with normalised queries and keys, then an MLP, both pre-normed with FiLM. On tokens (B, N, C)."""

    def __init__(self, width: int, head_width: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.heads = largest_divisor(width, max(1, width // head_width))
        self.dropout = dropout
        hidden = round(mlp_ratio * width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.query_key_scale = nn.Parameter(torch.ones(width // self.heads))
        self.attended = _zero(nn.Linear(width, width))
        self.expand = nn.Linear(width, hidden)
        self.contract = _zero(nn.Linear(hidden, width))

    def layout(self) -> dict[str, tuple[Axis, ...]]:
        """Of each tensor what :mod:`models.weight_selection` must know; heads are taken whole."""
        channels, hidden = _first(len(self.attended.weight)), _first(len(self.expand.weight))
        heads, of_head = _first(self.heads), Axis(len(self.query_key_scale))
        return {
            "queries_keys_values.weight": (Axis(3), heads, of_head, channels),
            "queries_keys_values.bias": (Axis(3), heads, of_head),
            "query_key_scale": (of_head,),
            "attended.weight": (channels, heads, of_head),
            "attended.bias": (channels,),
            "expand.weight": (hidden, channels),
            "expand.bias": (hidden,),
            "contract.weight": (channels, hidden),
            "contract.bias": (channels,),
        }

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        """`film` is (1 or B, 4C): scale and shift before the attention, scale and shift before the MLP."""
        scale, shift, mlp_scale, mlp_shift = film.chunk(4, dim=1)
        h = h + self._drop(self._attend(modulated_norm(h, scale, shift)))
        inner = F.gelu(self.expand(modulated_norm(h, mlp_scale, mlp_shift)))
        return h + self._drop(self.contract(inner))

    def _attend(self, h: Tensor) -> Tensor:
        projected = self.queries_keys_values(h).unflatten(-1, (3, self.heads, -1))  # B N 3 heads d
        qk = F.layer_norm(projected[:, :, :2], projected.shape[-1:], self.query_key_scale)
        q, k = qk.permute(2, 0, 3, 1, 4).unbind(0)  # B heads N d
        v = projected[:, :, 2].transpose(1, 2).to(q.dtype)
        return self.attended(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _drop(self, h: Tensor) -> Tensor:
        return F.dropout(h, self.dropout, self.training) if self.dropout else h


class Stage(nn.Module):
    """Blocks of one kind in a row, on (B, C, H, W)."""

    def __init__(self, config: UViTConfig, level: int) -> None:
        super().__init__()
        width = config.widths[level]
        self.tokens = config.kinds[level] == "transformer"
        self.checkpoint = config.checkpoint_activations
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.head_width, config.mlp_ratio, config.dropout)
            if self.tokens
            else ConvBlock(width)
            for _ in range(config.blocks[level])
        )

    def forward(self, h: Tensor, films: Sequence[Tensor], contexts: Sequence[Tensor]) -> Tensor:
        """`films` has one entry per block; `contexts` one per block, (B, C, H, W), or none at all."""
        side = h.shape[-2:]
        if self.tokens:
            h = h.flatten(2).transpose(1, 2)
            contexts = [context.flatten(2).transpose(1, 2) for context in contexts]
        for i, block in enumerate(self.blocks):
            if contexts:
                h = h + contexts[i]
            h = self._run(block, h, films[i])
        return h.transpose(1, 2).unflatten(2, side) if self.tokens else h

    def _run(self, block: nn.Module, h: Tensor, film: Tensor) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, h, film, use_reentrant=False)
        return block(h, film)


class Level(nn.Module):
    """One resolution: entry, blocks, one linear layer for all their FiLM, context in, and the way back up."""

    def __init__(self, config: UViTConfig, level: int) -> None:
        super().__init__()
        width, side = config.widths[level], config.sides[level]
        self.lowest = level == len(config.widths) - 1
        self.width, self.count = width, config.blocks[level]
        self.down = Stage(config, level)
        self.up = None if self.lowest else Stage(config, level)
        if level == 0:
            self.enter = nn.Conv2d(config.channels, width, config.patch, config.patch)
            self.leave = None
        else:
            above = config.widths[level - 1]
            self.enter = nn.Conv2d(above, width, 2, 2)
            self.leave = nn.ConvTranspose2d(width, above, 2, 2, bias=False)
        self.position = (
            nn.Parameter(sinusoidal_positions(width, side)) if config.kinds[level] == "transformer" else None
        )
        block_film = 2 * width if config.kinds[level] == "conv" else 4 * width
        self.film = _zero(nn.Linear(config.embedding, config.blocks_run(level) * block_film))
        channels = config.context_channels[level] if config.context_channels else 0
        self.entries = (config.blocks_run(level) if config.context_entry == "block" else 1) if channels else 0
        self.project = nn.Conv2d(channels, self.entries * width, 1, bias=False) if channels else None

    def layout(self, embedding: int) -> dict[str, tuple[Axis, ...]]:
        """Of each tensor but what takes context what :mod:`models.weight_selection` must know. What enters of further
        images stays as it is."""
        width, above, side = _first(self.width), self.enter.in_channels, Axis(self.enter.kernel_size[0])
        axes = {
            "enter.weight": (width, Axis(above, "shared") if self.leave is None else _first(above), side, side),
            "enter.bias": (width,),
        }
        if self.leave is not None:
            axes["leave.weight"] = (width, _first(above), side, side)
        if self.position is not None:
            axes["position"] = (width, *map(Axis, self.position.shape[1:]))
        runs, kinds = Axis(1 if self.lowest else 2), Axis(4 if self.down.tokens else 2)
        film = (runs, _first(self.count), kinds, width)
        axes |= {"film.weight": (*film, _first(embedding)), "film.bias": film}
        for name, stage in (("down", self.down), ("up", self.up)):
            for i, block in enumerate(stage.blocks if stage is not None else ()):
                axes |= {f"{name}.blocks.{i}.{key}": own for key, own in block.layout().items()}  # type: ignore[operator]
        return axes

    def input(self, above: Tensor) -> Tensor:
        """The level's input from the level above (or the image), without context: (B, width, side, side)."""
        h = self.enter(above).to(self.enter.weight.dtype)  # the stream keeps full precision under autocast
        return h if self.position is None else h + self.position

    def go_down(self, h: Tensor, films: Sequence[Tensor], contexts: Sequence[Tensor]) -> Tensor:
        """The blocks on the way down (on the lowest level, all)."""
        if self.entries == 1 and contexts:
            h, contexts = h + contexts[0], ()
        return self.down(h, films[: self.count], contexts[: self.count])

    def go_up(self, h: Tensor, films: Sequence[Tensor], contexts: Sequence[Tensor]) -> Tensor:
        """The blocks on the way up (on the lowest level, none)."""
        return h if self.up is None else self.up(h, films[self.count :], contexts[self.count :])


def sinusoidal_positions(width: int, side: int) -> Tensor:
    """What learned positions start from, (width, side, side).

    Sines and cosines of row and column at rising frequencies.
    """
    count = -(-width // 4)
    frequencies = math.pi / side * torch.logspace(0, math.log2(max(2, side // 2)), count, base=2.0)
    angles = torch.arange(side)[None, :] * frequencies[:, None]
    waves = torch.stack([angles.sin(), angles.cos()], dim=1)  # count 2 side
    rows = waves[..., :, None].expand(-1, -1, side, side)
    columns = waves[..., None, :].expand(-1, -1, side, side)
    return 0.5 * torch.cat([rows, columns], dim=1).flatten(0, 1)[:width].contiguous()


class ClassFilm(nn.Module):
    """The class's share of each level's scales and shifts. A module without parameters of its own, so that what it
    costs is told as its network's."""

    def forward(self, embedded: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Per level, of the embedded classes (1 or B, embedding)."""
        return tuple(F.linear(embedded, weight) for weight in weights)


def projected(levels: Sequence[Any], features: Sequence[Tensor]) -> Projection:
    """The context of every place of entry: of each of `levels` that takes some its projection of the next of
    `features`, as many parts as the level has entries."""
    given = iter(features)
    return tuple(
        () if level.project is None else level.project(next(given)).chunk(level.entries, dim=1) for level in levels
    )


def context_time(network: Any, log_snr: Tensor | None, keep: Tensor | None) -> Tensor:
    """What a `network` that takes context is told of the time that it was made at, (1 or B, embedding).

    A learned vector where there is no context (`log_snr` None), or where `keep` (B,) is False.
    """
    null: Tensor = network.null_context
    if log_snr is None:
        return null[None]
    hidden: Tensor = network.embed_context(network.log_snr_features(log_snr))
    return hidden if keep is None else torch.where(keep[:, None], hidden, null)


class UViT(nn.Module):
    """Residual U-ViT of a :class:`UViTConfig`."""

    def __init__(self, config: UViTConfig) -> None:
        super().__init__()
        self.config = config
        self.log_snr_features = LogSnrFeatures()
        self.embed = nn.Linear(LogSnrFeatures.count, config.embedding)
        self.levels = nn.ModuleList(Level(config, level) for level in range(len(config.widths)))
        self.class_film = ClassFilm()
        self.class_embedding = None if config.classes is None else nn.Embedding(config.classes + 1, config.embedding)
        if config.context_channels is not None:
            self.embed_context = nn.Linear(LogSnrFeatures.count, config.embedding, bias=False)
            self.null_context = nn.Parameter(torch.zeros(config.embedding))
        if config.out_channels is not None:
            width = config.widths[0]
            self.head: nn.Module = nn.Sequential(
                _group_norm(width),
                nn.SiLU(),
                _zero(nn.Conv2d(width, config.out_channels * config.patch**2, 1)),
                nn.PixelShuffle(config.patch) if config.patch > 1 else nn.Identity(),
            )
        else:
            self.head = nn.Identity()

    def layout(self) -> dict[str, tuple[Axis, ...]]:
        """Of each tensor but the head's, and what takes context, what :mod:`models.weight_selection` must know."""
        embedding = _first(self.config.embedding)
        axes: dict[str, tuple[Axis, ...]] = {
            "embed.weight": (embedding, Axis(LogSnrFeatures.count)),
            "embed.bias": (embedding,),
        }
        if self.class_embedding is not None:
            axes["class_embedding.weight"] = (Axis(self.class_embedding.num_embeddings), embedding)
        for i, level in enumerate(self._levels()):
            axes |= {f"levels.{i}.{name}": own for name, own in level.layout(self.config.embedding).items()}
        return axes

    def condition(
        self, labels: Tensor | None = None, context_log_snr: Tensor | None = None, keep: Tensor | None = None
    ) -> Conditioning:
        """The part of FiLM that no step changes.

        Args:
            labels: (B,) int64 in [0, classes], where `classes` is the null label; None is the null label for
                all.
            context_log_snr: (), (1,) or (B,), the log-SNR that the context was made at; None without context.
            keep: (B,) bool, False where the context is dropped: a learned vector then stands in for its time.
        """
        if self.config.context_channels is None:
            hidden = self.embed.weight.new_zeros(1, self.config.embedding)
        else:
            hidden = context_time(self, context_log_snr, keep)
        return Conditioning(hidden, self._class_film(labels))

    def _class_film(self, labels: Tensor | None) -> tuple[Tensor, ...]:
        if self.class_embedding is None:
            return ()
        if labels is None:
            labels = torch.full((1,), self.class_embedding.num_embeddings - 1, device=self.embed.weight.device)
        films: tuple[Tensor, ...] = self.class_film(
            self.class_embedding(labels), [level.film.weight for level in self._levels()]
        )
        return films

    def project_context(self, features: Sequence[Tensor]) -> Projection:
        """W_c c of every place of entry: the share of a linear layer over [h; c] that depends on the context
        alone.

        `features` has one tensor (B, context_channels, H_level, W_level) per level that takes context, high
        to low.
        """
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
        """One evaluation.

        Args:
            z: (B, channels, H, W).
            log_snr: (), (1,) or (B,).
            conditioning: from :meth:`condition`.
            context: from :meth:`project_context`; None is the null context.
            from_level: also return what the levels from this one down (≥ 1) added to the level above.
            residual: with `from_level`: an earlier evaluation's, in place of running those levels.
        """
        hidden = F.silu(self.embed(self.log_snr_features(log_snr)) + conditioning.hidden)
        levels = self._levels()[: from_level if residual is not None else None]
        films = [self._films(level, i, hidden, conditioning) for i, level in enumerate(levels)]
        contexts = [context[i] if context is not None else () for i in range(len(levels))]
        inputs, outputs, h = [], [], z
        for level, film, entering in zip(levels, films, contexts, strict=True):
            inputs.append(level.input(h))
            h = level.go_down(inputs[-1], film, entering)
            outputs.append(h)
        if residual is not None:
            outputs[-1] = outputs[-1] + residual
        for i in reversed(range(len(levels))):
            level = levels[i]
            outputs[i] = level.go_up(outputs[i], films[i], contexts[i])
            if level.leave is not None:
                added = level.leave(outputs[i] - inputs[i])
                residual = added if i == from_level else residual
                outputs[i - 1] = outputs[i - 1] + added
        return Output(self.head(outputs[0]), tuple(outputs), residual if from_level is not None else None)

    def _films(self, level: Level, i: int, hidden: Tensor, conditioning: Conditioning) -> Sequence[Tensor]:
        film = level.film(hidden)
        if conditioning.film:
            film = film + conditioning.film[i]
        return film.chunk(self.config.blocks_run(i), dim=1)

    def _levels(self) -> list[Level]:
        return list(self.levels)  # type: ignore[arg-type]
