"""Networks of the diffusers library [diffusers], read from a folder, with the face of :class:`models.uvit.UViT`.

The modules are diffusers' own. Their forward pass is written out here, level by level, so that each level hands out its
features and the deep ones can be kept between steps; with all levels it is the library's, as a test holds.

They were trained at numbered steps, each with its noise: here a network is told the number, with a fraction, whose
log-SNR lies at λ between those of its neighbours (:class:`StepNumber`).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.diffusers_folder import BETAS, CLASS_OF, STATES, UNSAID, Folder
from models.uvit import Conditioning, Output, Projection

CURE = "pip install 'dual-rate-harness[diffusers]'"
LEFT_SIGNAL = 2.0**-4
"""What a last step whose betas leave no signal at all has of it here, over the step before."""
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What layers of attention were called in weights of earlier versions."""
OLD_GROUP = "attentions"


def _library() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"backbone: diffusers needs the package diffusers ({error}); {CURE}") from None
    return diffusers


def log_snrs(folder: Folder) -> tuple[float, ...]:
    """The log-SNR of each of the network's steps, falling: log(ᾱ/(1 − ᾱ)) of the scheduler's betas."""
    scheduler = getattr(_library(), folder.scheduler["_class_name"])
    known = inspect.signature(scheduler.__init__).parameters
    given = {key: folder.scheduler[key] for key in BETAS if key in folder.scheduler and key in known}
    try:
        with torch.device("cpu"):
            betas = scheduler(**given).betas.double()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{folder.path}: its scheduler cannot be made ({error})") from None
    kept = torch.cumprod(1 - betas, 0)
    if len(kept) > 1 and kept[-1] == 0:
        kept[-1] = LEFT_SIGNAL * kept[-2]
    found: list[float] = torch.logit(kept).tolist()
    if len(found) < 2 or not all(a > b for a, b in itertools.pairwise(found)):
        raise ValueError(f"{folder.path}: the noise of its scheduler's steps does not rise")
    return tuple(found)


@dataclass(frozen=True)
class DiffusersConfig:
    """A network of a folder, as part of a method.

    Attributes:
        folder: what lies there.
        out_channels: of the image that comes out; None for a network of features only.
        classes: number of classes; None for a network without labels. Label `classes` is the null label.
        blocks: of a DiT, the blocks of each run that features are the end of.
        checkpoint_activations: recompute levels in the backward pass.
    """

    folder: Folder
    out_channels: int | None
    classes: int | None
    blocks: tuple[int, ...]
    checkpoint_activations: bool = False
    context_channels: tuple[int, ...] | None = None

    @property
    def channels(self) -> int:
        return self.folder.channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level's features."""
        return self.folder.widths * (len(self.blocks) if self.folder.kind == "dit" else 1)

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each level's features."""
        side = self.folder.size // self.folder.patch
        if self.folder.kind == "dit":
            return (side,) * len(self.blocks)
        return tuple(side // 2**level for level in range(len(self.widths)))

    def build(self) -> DiffusersUNet | DiffusersDiT:
        """A network of this shape, with random weights. Raises ValueError where the library makes none of it."""
        return DiffusersDiT(self) if self.folder.kind == "dit" else DiffusersUNet(self)


def _made(folder: Folder) -> Any:
    """The library's network. What it does not know is refused, but for keys that are off."""
    name = CLASS_OF[folder.kind]
    chosen = getattr(_library(), name)
    known = inspect.signature(chosen.__init__).parameters
    given = {key: value for key, value in folder.model.items() if key not in UNSAID}
    unknown = [key for key, value in given.items() if key not in known and value]
    if unknown:
        raise ValueError(f"{folder.path}: its network has {unknown[0]}, which this version of diffusers does not know")
    try:
        return chosen(**{key: value for key, value in given.items() if key in known})
    except (ValueError, TypeError, NotImplementedError, ZeroDivisionError) as error:
        raise ValueError(f"{folder.path}: diffusers makes no {name} of it ({error})") from None


class StepNumber(nn.Module):
    """The number of the step, with its fraction, whose log-SNR is λ: linear in λ between steps, constant beyond the
    ends. (), (1,) or (B,) → (1 or B,)."""

    starts: Tensor
    falls: Tensor

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        table = torch.tensor(levels)
        self.register_buffer("starts", table[:-1].clone(), persistent=False)
        self.register_buffer("falls", table[:-1] - table[1:], persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        passed = (self.starts - log_snr.reshape(-1, 1).to(self.starts.dtype)) / self.falls
        return passed.clamp(0, 1).sum(dim=1)


class _Network(nn.Module):
    """What both have in common: context goes into neither, and levels may be recomputed in the backward pass."""

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        self.config = config
        self.step_number = StepNumber(log_snrs(config.folder))

    def project_context(self, features: Sequence[Tensor]) -> Projection:
        """No level takes any."""
        return tuple(() for _ in self.config.widths)

    def _run(self, module: nn.Module, *inputs: Any, **further: Any) -> Any:
        if self.config.checkpoint_activations and self.training and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False, **further)
        return module(*inputs, **further)


class DiffusersUNet(_Network):
    """A ``UNet2DModel`` or ``UNet2DConditionModel``: at each level blocks down, blocks up with what those gave, and the
    ways between the levels."""

    states: Tensor | None

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__(config)
        made = _made(config.folder)
        self.time_proj, self.time_embedding = made.time_proj, made.time_embedding
        self.class_embedding: nn.Module | None = made.class_embedding
        self.joins_classes = bool(config.folder.value("class_embeddings_concat"))
        self.embedding_act: nn.Module | None = getattr(made, "time_embed_act", None)
        self.register_buffer("states", _states(config.folder), persistent=False)
        self.conv_in, self.mid_block = made.conv_in, made.mid_block
        self.down_blocks, self.up_blocks = made.down_blocks, made.up_blocks
        self.enter = nn.ModuleList(_taken(block, "downsamplers") for block in self.down_blocks[:-1])
        self.leave = nn.ModuleList(_taken(block, "upsamplers") for block in self.up_blocks[:-1])
        self.head = None
        if config.out_channels is not None:
            self.head = nn.Sequential(made.conv_norm_out, made.conv_act, made.conv_out)

    @staticmethod
    def name_here(original: str) -> str:
        """What one of the original's tensors is called."""
        group, _, rest = original.partition(".")
        if group in ("conv_norm_out", "conv_out"):
            return f"head.{0 if group == 'conv_norm_out' else 2}.{rest}"
        number, _, inside = rest.partition(".")
        for ways, here in (("downsamplers.0.", "enter"), ("upsamplers.0.", "leave")):
            if inside.startswith(ways):
                return f"{here}.{number}.{inside.removeprefix(ways)}"
        return original

    def condition(
        self, labels: Tensor | None = None, context_log_snr: Tensor | None = None, keep: Tensor | None = None
    ) -> Conditioning:
        """The embedded class, (1 or B, ·): as :meth:`models.uvit.UViT.condition`. Zero of the null label where the
        network has no embedding of it."""
        if labels is None:
            labels = torch.full((1,), self.config.classes or 0, device=self.conv_in.weight.device)
        numbers = (labels,) if self.config.folder.takes_any_class else ()
        states = () if self.states is None else (self._attended(labels),)
        return Conditioning(self._embedded(labels), (*numbers, *states))

    def _embedded(self, labels: Tensor) -> Tensor:
        """(B,) → (B, ·) of a table of classes, or (1, 1)."""
        if not isinstance(self.class_embedding, nn.Embedding):
            return self.conv_in.weight.new_zeros(1, 1)
        count = self.class_embedding.num_embeddings
        return torch.where((labels < count)[:, None], self.class_embedding(labels.clamp(max=count - 1)), 0.0)

    def _attended(self, labels: Tensor) -> Tensor:
        """(B,) → (B, tokens, ·), or (1, tokens, ·) where it is the same for all."""
        assert self.states is not None
        count = len(self.states)
        if count == 1:
            return self.states
        return torch.where((labels < count)[:, None, None], self.states[labels.clamp(max=count - 1)], 0.0)

    def forward(
        self,
        z: Tensor,
        log_snr: Tensor,
        conditioning: Conditioning,
        context: Projection | None = None,
        from_level: int | None = None,
        residual: Tensor | None = None,
    ) -> Output:
        """One evaluation: as :meth:`models.unet.UNet.forward`."""
        step = self.time_proj(self.step_number(log_snr)).to(self.conv_in.weight.dtype)
        embedded = self._with_class(self.time_embedding(step), conditioning)
        count = len(self.down_blocks)
        run = range(count if residual is None or from_level is None else from_level)
        given: list[tuple[Tensor, ...]] = []
        attended = [] if self.states is None else [conditioning.film[-1].to(z.dtype).expand(len(z), -1, -1)]
        h = z
        for i in run:
            h = _resampled(self.enter[i - 1], h, embedded) if i else self.conv_in(h)
            entered = h
            h, outputs = self._run(self.down_blocks[i], h, embedded, *_seen(self.down_blocks[i], attended))
            given.append((entered, *outputs))
        added = residual
        if residual is not None:
            h = residual
        elif self.mid_block is not None:
            h = self._run(self.mid_block, h, embedded, *_seen(self.mid_block, attended))
        features: list[Tensor] = []
        for i in reversed(run):
            up = self.up_blocks[count - 1 - i]
            h = self._run(up, h, given[i], embedded, *_seen(up, attended))
            features.insert(0, h)
            if i:
                h = _resampled(self.leave[count - 1 - i], h, embedded)
                added = h if i == from_level else added
        image = h if self.head is None else self.head(h)[:, : self.config.out_channels]
        return Output(image, tuple(features), added if from_level is not None else None)

    def _with_class(self, step: Tensor, conditioning: Conditioning) -> Tensor:
        """What every block is told: (1 or B, ·) of the step, and of the class."""
        embedded = conditioning.hidden
        if self.class_embedding is not None and not isinstance(self.class_embedding, nn.Embedding):
            labels = conditioning.film[0]
            embedded = self.class_embedding(self.time_proj(labels).to(step.dtype))
            embedded = torch.where((labels < (self.config.classes or 0))[:, None], embedded, 0.0)
        if self.joins_classes and self.class_embedding is not None:
            count = max(len(step), len(embedded))
            told = torch.cat([step.expand(count, -1), embedded.expand(count, -1)], dim=-1)
        else:
            told = step + embedded
        return told if self.embedding_act is None else self.embedding_act(told)


def _states(folder: Folder) -> Tensor | None:
    """What the network attends to, (rows, tokens, ·), float32."""
    if folder.states is None:
        return None
    found = load_file(folder.states.path)[STATES]
    return found.to(torch.get_default_device(), torch.float32)


def _seen(block: Any, attended: Sequence[Tensor]) -> Sequence[Tensor]:
    """`attended` of a block that attends to it."""
    return attended if getattr(block, "has_cross_attention", False) else ()


def _taken(block: Any, name: str) -> nn.Module:
    """The way to another level, which the library's block then no longer goes itself."""
    (way,) = getattr(block, name)
    setattr(block, name, None)
    result: nn.Module = way
    return result


def _resampled(way: nn.Module, h: Tensor, embedded: Tensor) -> Tensor:
    """Half or twice the side: a convolution, or a residual block, which sees the embedding."""
    result: Tensor = way(h, embedded) if hasattr(way, "time_emb_proj") else way(h)
    return result


class DiffusersDiT(_Network):
    """A ``DiTTransformer2DModel``; its levels are runs of blocks, as those of :class:`models.dit.DiT`."""

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__(config)
        made = _made(config.folder)
        self.pos_embed, self.transformer_blocks, self.norm_out = made.pos_embed, made.transformer_blocks, made.norm_out
        for block in self.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are dropped by who trains, not by each block
        self.head = None
        if config.out_channels is not None:
            self.head = nn.ModuleList([made.proj_out_1, made.proj_out_2])
        self.ends = [sum(config.blocks[: i + 1]) for i in range(len(config.blocks))]

    @staticmethod
    def name_here(original: str) -> str:
        """What one of the original's tensors is called."""
        if original.startswith("proj_out_"):
            number, _, kind = original.removeprefix("proj_out_").partition(".")
            return f"head.{int(number) - 1}.{kind}"
        return original

    def condition(
        self, labels: Tensor | None = None, context_log_snr: Tensor | None = None, keep: Tensor | None = None
    ) -> Conditioning:
        """The labels, which every block embeds by itself: as :meth:`models.uvit.UViT.condition`."""
        weight = self.pos_embed.proj.weight
        if labels is None:
            labels = torch.full((1,), self.config.classes or 0, device=weight.device)
        return Conditioning(weight.new_zeros(1, 1), (labels,))

    def forward(
        self,
        z: Tensor,
        log_snr: Tensor,
        conditioning: Conditioning,
        context: Projection | None = None,
        from_level: int | None = None,
        residual: Tensor | None = None,
    ) -> Output:
        """One evaluation: as :meth:`models.dit.DiT.forward`."""
        (labels,) = conditioning.film
        step = self.step_number(log_snr)
        levels = len(self.ends) if residual is None or from_level is None else from_level
        stream = self.pos_embed(z)
        entered, features = [], []
        for start, end in zip([0, *self.ends], self.ends[:levels], strict=False):
            entered.append(stream)
            for block in self.transformer_blocks[start:end]:
                stream = self._run(block, stream, timestep=step, class_labels=labels)
            features.append(self._as_image(stream))
        added = residual
        if residual is not None:
            stream = stream + residual.flatten(2).transpose(1, 2)
        elif from_level is not None:
            added = self._as_image(stream - entered[from_level])
        image = features[-1] if self.head is None else self._image(stream, step, labels)
        return Output(image, tuple(features), added)

    def _image(self, stream: Tensor, step: Tensor, labels: Tensor) -> Tensor:
        assert self.head is not None
        embedded = self.transformer_blocks[0].norm1.emb(step, labels, hidden_dtype=stream.dtype)
        shift, scale = self.head[0](F.silu(embedded)).chunk(2, dim=1)
        patches = self.head[1](self.norm_out(stream) * (1 + scale[:, None]) + shift[:, None])
        patch, side = self.config.folder.patch, self.config.sides[0]
        patches = patches.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))
        image = patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # B C (side patch) (side patch)
        return image[:, : self.config.out_channels]

    def _as_image(self, tokens: Tensor) -> Tensor:
        side = self.config.sides[0]
        return tokens.transpose(1, 2).unflatten(2, (side, side))


def renamed(folder: Folder, original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder's weights by their names here, float32.

    Those of earlier versions, with other names for the layers of attention, among them. Raises ValueError where one is
    missing, of another shape, or has no place here.
    """
    config = DiffusersConfig(folder, folder.channels, folder.embedded_classes, folder.blocks)
    with torch.device("meta"):
        network = config.build()
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        fixed = {name for name, _ in network.named_buffers()}
    found: dict[str, Tensor] = {}
    for there, tensor in original.items():
        name = network.name_here(_newer(there))
        if name in fixed and name not in shapes:
            continue  # made from the configuration, and saved by some versions
        if name not in shapes:
            raise ValueError(f"{folder.path}: {there} has no place in the network that its configuration describes")
        if tensor.shape != shapes[name]:
            raise ValueError(
                f"{folder.path}: {there} is {tuple(tensor.shape)}, the network that its configuration describes has "
                f"{tuple(shapes[name])}"
            )
        found[name] = tensor.detach().to(torch.float32).contiguous()
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ValueError(f"{folder.path}: {missing[0]} is missing in its weights")
    return found


def _newer(name: str) -> str:
    """What newer versions call a tensor."""
    parts = name.split(".")
    if len(parts) > 2 and OLD_GROUP in parts and parts[-2] in OLD_NAMES:
        parts[-2] = OLD_NAMES[parts[-2]]
    return ".".join(parts)
