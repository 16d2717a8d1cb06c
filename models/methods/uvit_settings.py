"""The keys of a Residual U-ViT, which the project's own methods share, and the network that they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from models.limits import LOG_SIGMA_MEAN, LOG_SIGMA_STD
from models.methods.base import Configuration, ImageShape, PositiveInt, Probability, Settings

if TYPE_CHECKING:
    from models.unet import UNetConfig
    from models.uvit import UViTConfig

MOST_CHANNELS = 2**20
WIDTH_STEP = 8
"""Widths are rounded to multiples of this."""
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Factor = Annotated[float, Field(gt=0, le=1024)]
BlockCount = Annotated[int, Field(ge=1, le=256)]
LevelKind = Literal["conv", "transformer"]
UNetName = Literal["ddpmpp", "ncsnpp", "adm"]
ONLY_UVIT = {"patch": 1, "mlp_ratio": 4.0}
"""Keys that a U-Net does not read, each with its default."""
HEAD_WIDTH = 32


class UViTSettings(Settings):
    """Of the section `model`. Tuples have one entry per resolution level, from the highest resolution to the lowest."""

    backbone: UNetName | None = Field(
        None,
        description="the architecture: a Residual U-ViT [SiD2] if unset, else one of EDM's U-Nets [EDM], where "
        "`transformer` is a level with attention",
    )
    noise_input: Literal["vp", "ve", "iddpm"] | None = Field(
        None,
        description="of a U-Net that was trained before EDM, with diffusion.prediction: epsilon: how it is told the "
        "noise level [EDM, table 1]; ln σ/4 if unset",
    )
    patch: PositiveInt = Field(1, description="side of a patch in pixels")
    width: Channels = Field(64, description="channels of level i are width × multipliers[i], to a multiple of 8")
    multipliers: tuple[Factor, ...] = Field((1, 2), description="channels of each level over width")
    blocks: tuple[BlockCount, ...] = Field(
        (1, 4), description="blocks per level; on all levels but the lowest this many on the way down and again up"
    )
    levels: tuple[LevelKind, ...] = Field(
        ("conv", "transformer"), min_length=1, description="kind of the blocks of each level; each halves the side"
    )
    head_width: Channels = Field(HEAD_WIDTH, description="channels per attention head")
    mlp_ratio: Factor = Field(4.0, description="hidden channels of a transformer block's MLP over its channels")
    embedding: Channels | None = Field(None, description="width of the time and class embedding; 4 × width if unset")
    dropout: Probability = Field(0.0, description="dropout inside transformer blocks")

    @model_validator(mode="after")
    def _check_backbone(self) -> Self:
        of_network = set(self.backbones())
        unets = sorted(name for name in of_network if name is not None)
        if self.noise_input is not None and self.backbone is None:
            raise ValueError("noise_input: only a U-Net has it; set model.backbone, or leave it out")
        unread = [] if None in of_network else [key for key, value in ONLY_UVIT.items() if getattr(self, key) != value]
        if not of_network & {None, "adm"} and self.head_width != HEAD_WIDTH:
            unread.append("head_width")
        if unets and self.patch != 1:
            unread.append("patch")
        if unread:
            raise ValueError(f"{unread[0]}: {unets[0]} does not read it; leave it out")
        return self

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        for key in self.per_level():
            value = getattr(self, key)
            if value is not None and len(value) != len(self.levels):
                entries = "1 entry" if len(value) == 1 else f"{len(value)} entries"
                raise ValueError(f"{key}: has {entries}, but levels has {len(self.levels)}")
        widest = self.width * max(self.multipliers) * self.largest_scale()
        if widest > MOST_CHANNELS:
            raise ValueError(f"width: a level would have {widest:.4g} channels, more than {MOST_CHANNELS:,}")
        return self

    def check_size(self, size: int) -> None:
        halvings = len(self.levels) - 1
        multiple = self.patch * 2**halvings
        if size % multiple:
            raise ValueError(
                f"patch: images of {size}×{size} do not divide into patches of {self.patch} and halve {halvings} times "
                f"({len(self.levels)} levels): the side must be a multiple of {multiple}; "
                f"choose a smaller model.patch, fewer model.levels, or data.size: {max(1, size // multiple) * multiple}"
            )

    def backbones(self) -> tuple[UNetName | None, ...]:
        """The architectures of its networks; None is the U-ViT."""
        return (self.backbone,)

    def per_level(self) -> tuple[str, ...]:
        """The keys with one entry per level, beside `levels` itself."""
        return ("multipliers", "blocks")

    def largest_scale(self) -> float:
        """Channels of the widest network over those that `width` says."""
        return 1.0


class UViTTraining(Settings):
    """Of the section `train`."""

    checkpoint_activations: bool = Field(
        False, description="recompute activations in the backward pass: less memory, a third more compute"
    )


EDM_KEYS = {"log_sigma_mean": LOG_SIGMA_MEAN, "log_sigma_std": LOG_SIGMA_STD}
"""The keys of the section `diffusion` that EDM's preconditioning alone reads, each with its default.

Not `sigma_data`: a dual-rate network's preconditioning reads it too, and shares the section with what it starts from.
"""


def check_edm_keys(config: Configuration) -> None:
    """Raise ValueError where a key of EDM's is set that nothing reads."""
    diffusion = config.diffusion
    for key, default in EDM_KEYS.items():
        if diffusion.preconditioning != "edm" and getattr(diffusion, key) != default:
            raise ValueError(f"diffusion.{key}: nothing reads it without diffusion.preconditioning: edm; leave it out")


def check_noise_input(config: Configuration) -> None:
    """Raise ValueError where a U-Net from before EDM would not predict ε."""
    model, diffusion = config.model, config.diffusion
    if model.noise_input is not None and diffusion.prediction != "epsilon":
        raise ValueError(
            f"model.noise_input: {model.noise_input} networks predict ε; set diffusion.prediction: epsilon"
        )


def network_config(
    model: Any,
    images: ImageShape,
    recompute: bool,
    scale: float = 1.0,
    *,
    backbone: UNetName | None,
    **changes: Any,
) -> UViTConfig | UNetConfig:
    """The network of `model`, a :class:`UViTSettings`, with its widths times `scale`; `changes` of a U-ViT win."""
    from models.unet import UNetConfig

    shape = uvit_config(model, images, recompute, scale, **{key: changes[key] for key in changes if key != "noise"})
    if backbone is None:
        return shape
    return UNetConfig(
        architecture=backbone,
        size=shape.size,
        channels=shape.channels,
        out_channels=shape.out_channels,
        width=rounded(model.width * scale),
        widths=shape.widths,
        blocks=shape.blocks,
        attention=tuple(kind == "transformer" for kind in shape.kinds),
        head_width=shape.head_width,
        embedding=shape.embedding,
        dropout=shape.dropout,
        classes=shape.classes,
        noise=changes.get("noise") or "edm",
        context_entry=shape.context_entry,
        checkpoint_activations=recompute,
    )


def uvit_config(model: Any, images: ImageShape, recompute: bool, scale: float = 1.0, **changes: Any) -> UViTConfig:
    """The network of `model`, a :class:`UViTSettings`, with its widths times `scale`; `changes` win."""
    from models.uvit import UViTConfig

    values: dict[str, Any] = {
        "size": images.size,
        "channels": images.channels,
        "out_channels": images.channels,
        "patch": model.patch,
        "widths": tuple(rounded(model.width * multiplier * scale) for multiplier in model.multipliers),
        "blocks": model.blocks,
        "kinds": model.levels,
        "head_width": model.head_width,
        "mlp_ratio": model.mlp_ratio,
        "embedding": rounded((model.embedding or 4 * model.width) * scale),
        "dropout": model.dropout,
        "classes": images.classes,
        "checkpoint_activations": recompute,
    }
    return UViTConfig(**values | changes)


def rounded(width: float) -> int:
    """`width` to the nearest multiple of :data:`WIDTH_STEP`, and at least that."""
    return max(WIDTH_STEP, round(width / WIDTH_STEP) * WIDTH_STEP)
