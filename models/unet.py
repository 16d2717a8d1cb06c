"""EDM's U-Nets [EDM]: DDPM++ and NCSN++ of the score SDEs [SDE], and ADM [ADM].

They have the face of :class:`models.uvit.UViT`.

Levels of falling resolution, each a row of convolutional residual blocks on the way down and a longer one on the way
up, which takes the output of every block of the way down beside its own input. Features are the last layer of each
level; context goes in at every level. What depends on the context alone, on the class alone, and on the step is kept
apart as it is there. The three architectures differ in :class:`Style` alone.

With the weights of the original code these are its networks; :mod:`models.edm_weights` has the names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.process import alpha_sigma, noise_level, per_image
from models.uvit import Conditioning, ContextEntry, LogSnrFeatures, Output, Projection, context_time, largest_divisor

Architecture = Literal["ddpmpp", "ncsnpp", "adm"]
NoiseInput = Literal["edm", "vp", "ve", "iddpm"]
Resampling = Literal["down", "up"]

VP_BETA, VP_BETA_MIN = 19.9, 0.1
"""β_d and β_min of the variance preserving SDE [EDM, table 1]."""
DISCRETE_TIMES = 1000
"""M of DDPM and iDDPM [EDM, table 1]."""
IDDPM_OFFSET, IDDPM_LEAST = 0.008, 0.001
"""C_2 and C_1 of iDDPM [EDM, table 1]."""


class Style(NamedTuple):
    """What tells the architectures apart."""

    taps: tuple[int, ...]
    """The filter of up- and downsampling, along one axis."""
    fourier: bool
    """Random Fourier features of the noise level, else sines and cosines at fixed frequencies."""
    noise_scale: int
    """Width of the noise level's embedding over that of the network."""
    residual_image: bool
    """Whether the image enters at every level, downsampled by learned convolutions."""
    is_adm: bool
    """ADM: FiLM scales as well as shifts, attention in every block of a level and of several heads, the class enters
    last, resampling skips without a convolution. Else residuals are scaled by √½, as [SDE] does."""

    @property
    def residual_scale(self) -> float:
        return 1.0 if self.is_adm else math.sqrt(0.5)

    @property
    def epsilon(self) -> float:
        """Of the blocks' normalisation."""
        return 1e-5 if self.is_adm else 1e-6


STYLES: dict[Architecture, Style] = {
    "ddpmpp": Style((1, 1), fourier=False, noise_scale=1, residual_image=False, is_adm=False),
    "ncsnpp": Style((1, 3, 3, 1), fourier=True, noise_scale=2, residual_image=True, is_adm=False),
    "adm": Style((1, 1), fourier=False, noise_scale=1, residual_image=False, is_adm=True),
}


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a network. Tuples have one entry per level, from the highest resolution to the lowest.

    Attributes:
        architecture: one of :data:`STYLES`.
        size: side of the images in pixels; divisible by 2^(levels − 1).
        channels: of the images that come in.
        out_channels: of the image that comes out; None for a network of features only.
        width: channels that the embeddings, and in DDPM++ and NCSN++ the first convolution, are made for.
        widths: channels of each level.
        blocks: blocks on the way down; there is one more on the way up.
        attention: whether the level's blocks have self-attention. The lowest level has a further block with it.
        head_width: of ADM, channels per attention head; where it does not divide a width, the largest count of wider
            heads is taken. The others have one head.
        embedding: width of the embedding that FiLM reads.
        dropout: inside blocks, from torch's global generator.
        classes: number of classes; None for a network without labels. Label `classes` is the null label.
        noise: how the network is told the noise level σ = σ_t/α_t [EDM, table 1, c_noise]: ln σ/4, the time of the
            VP SDE, ln(σ/2), or iDDPM's step. Of "ve" z/α goes in and −ε comes out, as its training had it; of "iddpm"
            the last layer has as many channels again, a learned variance, which are dropped.
        context_channels, context_entry, checkpoint_activations: as :class:`models.uvit.UViTConfig` has them.
    """

    architecture: Architecture
    size: int
    channels: int
    out_channels: int | None
    width: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    head_width: int = 64
    embedding: int = 256
    dropout: float = 0.0
    classes: int | None = None
    noise: NoiseInput = "edm"
    context_channels: tuple[int, ...] | None = None
    context_entry: ContextEntry = "level"
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        levels = len(self.widths)
        for name in ("blocks", "attention", "context_channels"):
            value = getattr(self, name)
            if value is not None and len(value) != levels:
                raise ValueError(f"{name}: has {len(value)} entries, but widths has {levels}")
        for name, choices in (("architecture", Architecture), ("noise", NoiseInput), ("context_entry", ContextEntry)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(choices))}")
        if levels < 1 or min(*self.widths, *self.blocks, self.width - 3, self.channels, self.head_width) < 1:
            raise ValueError(
                "widths, blocks, channels, head_width: must be at least 1, on at least one level; width at least 4"
            )
        if self.size % 2 ** (levels - 1):
            raise ValueError(f"size: {self.size} is not divisible by {2 ** (levels - 1)}, what {levels} levels need")

    @property
    def style(self) -> Style:
        return STYLES[self.architecture]

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each level's feature map."""
        return tuple(self.size // 2**level for level in range(len(self.widths)))

    def build(self) -> UNet:
        """A network of this shape."""
        return UNet(self)

    def entry_width(self, level: int) -> int:
        """Channels that a level's entry gives: those of the level above."""
        if level:
            return self.widths[level - 1]
        return self.widths[0] if self.style.is_adm else self.width


def _initialised(layer: nn.Linear | nn.Conv2d, config: UNetConfig, scale: float = 1.0) -> None:
    """Uniform weights as the original has them [SDE, ADM], times `scale`: Xavier's with zero biases, or PyTorch's."""
    receptive = math.prod(layer.weight.shape[2:])
    fan_in, fan_out = layer.weight.shape[1] * receptive, layer.weight.shape[0] * receptive
    bound = math.sqrt(1 / fan_in if config.style.is_adm else 6 / (fan_in + fan_out))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound).mul_(scale)
        if layer.bias is not None:
            layer.bias.uniform_(-bound, bound).mul_(scale if config.style.is_adm else 0.0)


def _last(layer: nn.Conv2d, config: UNetConfig) -> nn.Conv2d:
    """The last layer of a residual branch: it begins at nothing, or almost."""
    _initialised(layer, config, 0.0 if config.style.is_adm else 1e-5)
    return layer


def _linear(config: UNetConfig, inner: int, outer: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inner, outer, bias)
    _initialised(layer, config)
    return layer


def _conv(config: UNetConfig, inner: int, outer: int, side: int = 3, scale: float = 1.0, padding: int = 0) -> nn.Conv2d:
    layer = nn.Conv2d(inner, outer, side, padding=padding or side // 2)
    _initialised(layer, config, scale)
    return layer


def _group_norm(width: int, epsilon: float) -> nn.GroupNorm:
    """Groups of at least 4 channels, at most 32 of them."""
    return nn.GroupNorm(largest_divisor(width, min(32, width // 4)), width, epsilon)


class Resample(nn.Module):
    """To twice or half the side by a fixed filter. On (B, C, H, W)."""

    kernel: Tensor

    def __init__(self, taps: Sequence[int], direction: Resampling, padding: int | None = None) -> None:
        super().__init__()
        self.up, self.is_box = direction == "up", tuple(taps) == (1, 1)
        self.padding = (len(taps) - 1) // 2 if padding is None else padding
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps) * (2 if self.up else 1)
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        if self.is_box:
            return F.interpolate(h, scale_factor=2, mode="nearest") if self.up else F.avg_pool2d(h, 2)
        kernel = self.kernel.to(h.dtype).repeat(h.shape[1], 1, 1, 1)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(h, kernel, stride=2, padding=self.padding, groups=h.shape[1])


class Attention(nn.Module):
    """h + proj(self-attention of norm(h)), scaled. On (B, C, H, W)."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        style = config.style
        self.scale = style.residual_scale
        self.heads = largest_divisor(width, max(1, width // config.head_width)) if style.is_adm else 1
        self.norm = _group_norm(width, style.epsilon)
        self.queries_keys_values = _conv(config, width, 3 * width, 1, 1.0 if style.is_adm else math.sqrt(0.2))
        self.attended = _last(nn.Conv2d(width, width, 1), config)

    def forward(self, h: Tensor) -> Tensor:
        projected = self.queries_keys_values(self.norm(h)).flatten(2)  # B 3C N
        projected = projected.unflatten(1, (self.heads, -1, 3)).permute(3, 0, 1, 4, 2)  # 3 B heads N d
        q, k, v = projected.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(h.shape)
        return (h + self.attended(mixed)) * self.scale


class Block(nn.Module):
    """Residual block with FiLM from the embedding, optionally resampling and with attention after it."""

    def __init__(
        self,
        config: UNetConfig,
        inner: int,
        outer: int,
        *,
        resample: Resampling | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        style = config.style
        self.scale, self.dropout, self.is_adm = style.residual_scale, config.dropout, style.is_adm
        self.first_norm = _group_norm(inner, style.epsilon)
        self.resample = Resample(style.taps, resample) if resample else None
        self.first = _conv(config, inner, outer)
        self.film = _linear(config, config.embedding, outer * (2 if style.is_adm else 1))
        self.last_norm = _group_norm(outer, style.epsilon)
        self.last = _last(nn.Conv2d(outer, outer, 3, padding=1), config)
        has_skip = inner != outer or (resample is not None and not style.is_adm)
        self.skip = _conv(config, inner, outer, 1) if has_skip else None
        self.attention = Attention(config, outer) if attention else None

    def forward(self, h: Tensor, hidden: Tensor) -> Tensor:
        """`h` is (B, inner, H, W), `hidden` the embedding, (1 or B, embedding)."""
        film = self.film(hidden)[:, :, None, None]
        x = self.first(self._resampled(F.silu(self.first_norm(h))))
        if self.is_adm:
            scale, shift = film.chunk(2, dim=1)
            normed = self.last_norm(x)
            x = F.silu(torch.addcmul(shift.to(normed.dtype), normed, 1 + scale.to(normed.dtype)))
        else:
            x = F.silu(self.last_norm(x + film))
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        h = self._resampled(h)
        h = h if self.skip is None else self.skip(h).to(h.dtype)  # the stream keeps full precision under autocast
        h = (h + self.last(x)) * self.scale
        return h if self.attention is None else self.attention(h)

    def _resampled(self, h: Tensor) -> Tensor:
        return h if self.resample is None else self.resample(h)


class ImageEntry(nn.Module):
    """NCSN++: the image, or what the level above made of it, at half the side.

    (B, inner, H, W) → (B, outer, H/2, W/2).
    """

    def __init__(self, config: UNetConfig, inner: int, outer: int) -> None:
        super().__init__()
        self.conv = _conv(config, inner, outer, padding=2)  # the filter takes the rest of its border away
        self.resample = Resample(config.style.taps, "down", padding=0)

    def forward(self, image: Tensor) -> Tensor:
        return self.resample(self.conv(image))


class Level(nn.Module):
    """One resolution: entry, blocks down, blocks up with what those gave, the way to the level above, context in."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        width, entry, count = config.widths[level], config.entry_width(level), config.blocks[level]
        attention, style = config.attention[level], config.style
        lowest = level == len(config.widths) - 1
        self.checkpoint = config.checkpoint_activations
        self.enter: nn.Module = (
            Block(config, entry, entry, resample="down") if level else _conv(config, config.channels, entry)
        )
        self.enter_image: nn.Module | None = None
        if level and style.residual_image:
            self.enter_image = ImageEntry(config, config.channels if level == 1 else config.widths[level - 2], entry)
        given = [entry, *[width] * count]  # channels of what the way down hands the way up
        self.down = nn.ModuleList(Block(config, inner, width, attention=attention) for inner in given[:-1])
        self.middle = nn.ModuleList(
            [Block(config, width, width, attention=True), Block(config, width, width)] if lowest else []
        )
        arriving = width if lowest else config.widths[level + 1]
        entering = [arriving, *[width] * count]
        self.up = nn.ModuleList(
            Block(
                config,
                inner + skipped,
                width,
                attention=attention and (style.is_adm or i == count),
            )
            for i, (inner, skipped) in enumerate(zip(entering, reversed(given), strict=True))
        )
        self.leave = Block(config, width, width, resample="up") if level else None
        channels = config.context_channels[level] if config.context_channels else 0
        at_blocks = [*given[:-1], *[width] * len(self.middle), *entering]
        self.places = () if not channels else (entry,) if config.context_entry == "level" else tuple(at_blocks)
        self.project = nn.Conv2d(channels, sum(self.places), 1, bias=False) if channels else None

    def entered(self, h: Tensor, image: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The level's input from the level above (or the image), without context, and what the image has become."""
        if not isinstance(self.enter, Block):
            return self.enter(h).to(self.enter.weight.dtype), image
        h = self._run(self.enter, h, hidden)
        if self.enter_image is not None:
            h = image = (h + self.enter_image(image)) * math.sqrt(0.5)
        return h, image

    def go_down(self, h: Tensor, hidden: Tensor, contexts: Sequence[Tensor]) -> list[Tensor]:
        """The entry and the output of each block on the way down, with the context of each place."""
        at_entry = len(contexts) == 1
        given = [h + contexts[0]] if at_entry else [h]
        for i, block in enumerate(self.down):
            seen = given[-1] if at_entry or not contexts else given[-1] + contexts[i]
            given.append(self._run(block, seen, hidden))
        return given

    def go_up(self, h: Tensor, given: Sequence[Tensor], hidden: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """The blocks on the way up, of what arrives from below and what the way down has `given`."""
        later = iter(contexts[len(self.down) :] if len(contexts) > 1 else ())
        for block in self.middle:
            h = self._run(block, _added(h, next(later, None)), hidden)
        for block, skipped in zip(self.up, reversed(given), strict=True):
            h = self._run(block, torch.cat([_added(h, next(later, None)), skipped], dim=1), hidden)
        return h

    def left(self, h: Tensor, hidden: Tensor) -> Tensor:
        """The level's output at the resolution of the level above."""
        assert self.leave is not None
        return self._run(self.leave, h, hidden)

    def _run(self, block: nn.Module, h: Tensor, hidden: Tensor) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, h, hidden, use_reentrant=False)
        result: Tensor = block(h, hidden)
        return result


def _added(h: Tensor, context: Tensor | None) -> Tensor:
    return h if context is None else h + context


class NoiseEmbedding(nn.Module):
    """Sines and cosines of c_noise. (1 or B,) log-SNRs → (1 or B, width)."""

    frequencies: Tensor
    levels: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        style, width = config.style, config.width * config.style.noise_scale
        self.kind, self.sines_first = config.noise, not style.is_adm
        half = width // 2
        if style.fourier:
            frequencies = 2 * math.pi * 16 * torch.randn(half)
        else:
            frequencies = 1e-4 ** (torch.arange(half) / (half if style.is_adm else half - 1))
        self.register_buffer("frequencies", frequencies, persistent=style.fourier)
        self.register_buffer("levels", iddpm_levels() if config.noise == "iddpm" else None, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        angles = self.told(log_snr.reshape(-1, 1).to(self.frequencies.dtype)) * self.frequencies
        parts = [angles.cos(), angles.sin()]
        return torch.cat(parts[::-1] if self.sines_first else parts, dim=1)

    def told(self, log_snr: Tensor) -> Tensor:
        """c_noise(σ), σ = e^{−λ/2} [EDM, table 1]."""
        if self.kind == "vp":
            inside = VP_BETA_MIN**2 + 2 * VP_BETA * F.softplus(-log_snr)
            return (DISCRETE_TIMES - 1) * (inside.sqrt() - VP_BETA_MIN) / VP_BETA
        if self.kind == "ve":
            return -log_snr / 2 - math.log(2)
        if self.kind == "iddpm":
            step = (noise_level(log_snr) - self.levels).abs().argmin(dim=1, keepdim=True)
            return (DISCRETE_TIMES - 1 - step).to(log_snr.dtype)
        return -log_snr / 8


def iddpm_levels() -> Tensor:
    """σ of iDDPM's steps, falling from step 0 to step M, where it is 0; float32 (M + 1,) [EDM, table 1]."""
    steps = torch.arange(DISCRETE_TIMES + 1)
    alpha_bar = (0.5 * math.pi * steps / DISCRETE_TIMES / (IDDPM_OFFSET + 1)).sin().square()
    levels = torch.zeros(DISCRETE_TIMES + 1)
    for j in range(DISCRETE_TIMES, 0, -1):
        kept = (alpha_bar[j - 1] / alpha_bar[j]).clip(min=IDDPM_LEAST)
        levels[j - 1] = ((levels[j].square() + 1) / kept - 1).sqrt()
    return levels


class UNet(nn.Module):
    """A U-Net of a :class:`UNetConfig`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        style, noise_width = config.style, config.width * config.style.noise_scale
        self.embed_noise = NoiseEmbedding(config)
        self.first_layer = _linear(config, noise_width, config.embedding)
        self.second_layer = _linear(config, config.embedding, config.embedding)
        self.embed_class: nn.Linear | None = None
        if config.classes is not None:
            self.embed_class = _linear(
                config, config.classes, config.embedding if style.is_adm else noise_width, bias=not style.is_adm
            )
            if style.is_adm:
                nn.init.normal_(self.embed_class.weight)
        if config.context_channels is not None:
            self.log_snr_features = LogSnrFeatures()
            self.embed_context = nn.Linear(LogSnrFeatures.count, config.embedding, bias=False)
            self.null_context = nn.Parameter(torch.zeros(config.embedding))
        self.levels = nn.ModuleList(Level(config, level) for level in range(len(config.widths)))
        self.head: nn.Module = nn.Identity()
        if config.out_channels is not None:
            learned = config.out_channels * (2 if config.noise == "iddpm" else 1)
            last = _last(nn.Conv2d(config.widths[0], learned, 3, padding=1), config)
            self.head = nn.Sequential(_group_norm(config.widths[0], style.epsilon), nn.SiLU(), last)

    def condition(
        self, labels: Tensor | None = None, context_log_snr: Tensor | None = None, keep: Tensor | None = None
    ) -> Conditioning:
        """What no step changes: as :meth:`models.uvit.UViT.condition`."""
        if self.config.context_channels is None:
            hidden = self.first_layer.weight.new_zeros(1, self.config.embedding)
        else:
            hidden = context_time(self, context_log_snr, keep)
        return Conditioning(hidden, () if self.embed_class is None else (self._class(labels),))

    def _class(self, labels: Tensor | None) -> Tensor:
        """The embedded class, (1 or B, ·): of the null label that of no class at all."""
        assert self.embed_class is not None
        weight, classes = self.embed_class.weight, self.embed_class.in_features
        if labels is None:
            chosen = weight.new_zeros(1, classes)
        else:
            chosen = (labels[:, None] == torch.arange(classes, device=labels.device)).to(weight.dtype)
        embedded: Tensor = self.embed_class(chosen if self.config.style.is_adm else chosen * math.sqrt(classes))
        return embedded

    def project_context(self, features: Sequence[Tensor]) -> Projection:
        """The context of every place of entry: as :meth:`models.uvit.UViT.project_context`."""
        given = iter(features)
        return tuple(
            () if level.project is None else level.project(next(given)).split(level.places, dim=1)
            for level in self._levels()
        )

    def forward(
        self,
        z: Tensor,
        log_snr: Tensor,
        conditioning: Conditioning,
        context: Projection | None = None,
        from_level: int | None = None,
        residual: Tensor | None = None,
    ) -> Output:
        """One evaluation: as :meth:`models.uvit.UViT.forward`. What the levels from `from_level` down add is their
        output, upsampled, which the way up of the level above begins with."""
        hidden = self._hidden(log_snr, conditioning)
        levels = self._levels()[: from_level if residual is not None else None]
        contexts = [context[i] if context is not None else () for i in range(len(levels))]
        if self.config.noise == "ve":
            z = z / per_image(alpha_sigma(log_snr)[0], z)
        h = image = z
        given: list[list[Tensor]] = []
        for level, entering in zip(levels, contexts, strict=True):
            h, image = level.entered(h, image, hidden)
            given.append(level.go_down(h, hidden, entering))
            h = given[-1][-1]
        outputs: list[Tensor] = []
        added = residual
        h = h if added is None else added
        for i in reversed(range(len(levels))):
            h = levels[i].go_up(h, given[i], hidden, contexts[i])
            outputs.insert(0, h)
            if i:
                h = levels[i].left(h, hidden)
                added = h if i == from_level else added
        return Output(self._image(h), tuple(outputs), added if from_level is not None else None)

    def _hidden(self, log_snr: Tensor, conditioning: Conditioning) -> Tensor:
        """The embedding that FiLM reads, (1 or B, embedding)."""
        of_class = conditioning.film[0] if conditioning.film else None
        embedded = self.embed_noise(log_snr)
        if not self.config.style.is_adm:
            embedded, of_class = _added(embedded, of_class), None
        embedded = self.second_layer(F.silu(self.first_layer(embedded)))
        return F.silu(_added(embedded, of_class) + conditioning.hidden)

    def _image(self, h: Tensor) -> Tensor:
        image: Tensor = self.head(h)
        if self.config.out_channels is None:
            return image
        image = image[:, : self.config.out_channels]
        return -image if self.config.noise == "ve" else image

    def _levels(self) -> list[Level]:
        return list(self.levels)  # type: ignore[arg-type]
