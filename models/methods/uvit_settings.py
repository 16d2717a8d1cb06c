"""The keys of a Residual U-ViT, which the project's own methods share, and the network that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from models.limits import LOG_SIGMA_MEAN, LOG_SIGMA_STD
from models.methods.base import Configuration, ImageShape, PositiveInt, Probability, Settings

if TYPE_CHECKING:
    from models.diffusers_networks import DiffusersConfig
    from models.dit import DiTConfig
    from models.unet import UNetConfig
    from models.uvit import UViTConfig

MOST_CHANNELS = 2**20
WIDTH_STEP = 8
"""Widths are rounded to multiples of this."""
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Factor = Annotated[float, Field(gt=0, le=1024)]
BlockCount = Annotated[int, Field(ge=1, le=256)]
LevelKind = Literal["conv", "transformer"]
BackboneName = Literal["ddpmpp", "ncsnpp", "adm", "dit", "diffusers"]
UNETS: tuple[BackboneName, ...] = ("ddpmpp", "ncsnpp", "adm")
DIT, DIFFUSERS = "dit", "diffusers"
HEAD_WIDTH = 32
READERS: dict[str, tuple[Any, tuple[BackboneName | None, ...]]] = {
    "mlp_ratio": (4.0, (None, "dit")),
    "head_width": (HEAD_WIDTH, (None, "dit", "adm")),
    "embedding": (None, (None, "dit", *UNETS)),
    "dropout": (0.0, (None, "dit", *UNETS)),
}
"""Keys that not every architecture reads: the default, and those that do (None is the U-ViT)."""


class UViTSettings(Settings):
    """Of the section `model`. Tuples have one entry per resolution level, from the highest resolution to the lowest."""

    backbone: BackboneName | None = Field(
        None,
        description="the architecture: a Residual U-ViT [SiD2] if unset, else one of EDM's U-Nets [EDM], where "
        "`transformer` is a level with attention, a Diffusion Transformer [DiT], whose levels are runs of blocks at "
        "one resolution, or the network in a folder of the diffusers library's (model.folder)",
    )
    folder: str | None = Field(
        None,
        min_length=1,
        description="of a diffusers network: the folder of its pipeline, whose configurations say its shape and how "
        "noisy each of its steps is. Relative to the folder the command runs in; ~ is your home. Or `owner/name` of "
        "the Hugging Face hub",
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
        ("conv", "transformer"),
        min_length=1,
        description="kind of the blocks of each level; each halves the side, but for a dit's",
    )
    head_width: Channels = Field(HEAD_WIDTH, description="channels per attention head")
    mlp_ratio: Factor = Field(4.0, description="hidden channels of a transformer block's MLP over its channels")
    embedding: Channels | None = Field(
        None, description="width of the time and class embedding; 4 × width if unset, of a dit its own width"
    )
    dropout: Probability = Field(0.0, description="dropout inside transformer blocks")

    @model_validator(mode="after")
    def _check_backbone(self) -> Self:
        backbones = self.backbones()
        unets = sorted(name for name in backbones if name in UNETS)
        if self.noise_input is not None and self.backbone not in UNETS:
            raise ValueError("noise_input: only a U-Net of EDM's has it; set model.backbone, or leave it out")
        unread = [
            key
            for key, (default, readers) in READERS.items()
            if not set(readers) & set(backbones) and getattr(self, key) != default
        ]
        if unets and self.patch != 1:
            unread.append("patch")
        if unread:
            name = unets[0] if unets else DIFFUSERS
            raise ValueError(f"{unread[0]}: {name} does not read it; leave it out")
        if (self.backbone == DIFFUSERS) != (self.folder is not None):
            raise ValueError(
                "folder: missing; model.backbone: diffusers needs the folder of its network"
                if self.folder is None
                else "folder: only model.backbone: diffusers reads it; set that, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_dit(self) -> Self:
        backbones = self.backbones()
        if DIT not in backbones:
            return self
        others = ", ".join(sorted({name or "uvit" for name in backbones} - {DIT, DIFFUSERS}))
        if len(self.levels) > 1 and others:
            raise ValueError(
                f"levels: a dit keeps one resolution on its {len(self.levels)} levels, {others} halves it at each; "
                "give both one level, or both the same architecture (model.backbone, model.light_backbone)"
            )
        if len(set(self.multipliers)) > 1:
            raise ValueError("multipliers: a dit has one width; give each level the same, as multipliers: [1]")
        for name, key, kinds in zip(backbones, self.keys_of_kinds(), self.kinds(), strict=True):
            if name == DIT and set(kinds) != {"transformer"}:
                raise ValueError(f"{key}: a dit has transformer blocks alone; give it levels as {key}: [transformer]")
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
        halvings = 0 if {DIT, DIFFUSERS} & set(self.backbones()) else len(self.levels) - 1
        multiple = self.patch * 2**halvings
        if size % multiple:
            raise ValueError(
                f"patch: images of {size}×{size} do not divide into patches of {self.patch} and halve {halvings} times "
                f"({len(self.levels)} levels): the side must be a multiple of {multiple}; "
                f"choose a smaller model.patch, fewer model.levels, or data.size: {max(1, size // multiple) * multiple}"
            )

    def backbones(self) -> tuple[BackboneName | None, ...]:
        """The architectures of its networks; None is the U-ViT."""
        return (self.backbone,)

    def kinds(self) -> tuple[tuple[LevelKind, ...], ...]:
        """The kinds of the levels of each of its networks."""
        return (self.levels,)

    def keys_of_kinds(self) -> tuple[str, ...]:
        """The keys that say them."""
        return ("levels",)

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
    backbone: BackboneName | None,
    noise: Any = None,
    **changes: Any,
) -> UViTConfig | UNetConfig | DiTConfig | DiffusersConfig:
    """The network of `model`, a :class:`UViTSettings`, with its widths times `scale`; `changes` of a U-ViT win."""
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
        **changes,
    }
    if backbone is None:
        from models.uvit import UViTConfig

        return UViTConfig(**values)
    if backbone == DIFFUSERS:
        return _diffusers_config(model, images, values)
    if backbone == DIT:
        return _dit_config(values, has_embedding=model.embedding is not None)
    return _unet_config(values, backbone, rounded(model.width * scale), noise or "edm")


def _diffusers_config(model: Any, images: ImageShape, values: Mapping[str, Any]) -> DiffusersConfig:
    """The network of a folder. What the configuration says beside it is held against it by :func:`check_folder`."""
    from models.diffusers_folder import read_folder
    from models.diffusers_networks import DiffusersConfig

    return DiffusersConfig(
        read_folder(model.folder),
        values["out_channels"],
        images.classes,
        tuple(model.blocks),
        values["checkpoint_activations"],
    )


def check_folder(config: Configuration, images: ImageShape) -> None:
    """Raise ValueError where a network of diffusers is another one than the configuration says, or cannot do what it
    asks for."""
    from models.diffusers_folder import read_folder

    model, sample = config.model, config.sample
    if model.backbone != DIFFUSERS:
        return
    folder = read_folder(model.folder)
    wrong = folder.differences(model, config.diffusion, images.size, images.channels, images.classes)
    if wrong:
        raise ValueError(
            f"folder: {model.folder} holds another network: {', '.join(wrong)} (there: in the folder; here: in the "
            f"configuration or its data); harness weights show {model.folder} prints its keys"
        )
    halving = {name for name in model.backbones() if name not in (DIT, DIFFUSERS)}
    if folder.kind == DIT and len(model.levels) > 1 and halving:
        raise ValueError(
            f"light_backbone: the network in {model.folder} keeps one resolution on its {len(model.levels)} levels, "
            "which only light_backbone: dit does, too; set that, or give model.levels one level"
        )
    is_guided = sample.guidance not in (None, 1)
    if is_guided and images.classes is not None and not folder.has_null_class(images.classes):
        raise ValueError(
            f"sample.guidance: the network in {model.folder} embeds its {images.classes} classes and no null class, so "
            "that it has no unconditional estimate; leave it out"
        )


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _dit_config(values: Mapping[str, Any], *, has_embedding: bool) -> DiTConfig:
    """Of a U-ViT's `values`, those that a DiT reads; its embedding is as wide as it is itself where nothing says so."""
    from models.dit import DiTConfig

    width = values["widths"][0]
    own = {"width": width, "embedding": values["embedding"] if has_embedding else width}
    return DiTConfig(**_without(values, "widths", "kinds") | own)


def _unet_config(values: Mapping[str, Any], backbone: Any, width: int, noise: Any) -> UNetConfig:
    from models.unet import UNetConfig

    attention = tuple(kind == "transformer" for kind in values["kinds"])
    own = {"architecture": backbone, "width": width, "attention": attention, "noise": noise}
    return UNetConfig(**_without(values, "kinds", "patch", "mlp_ratio") | own)


def rounded(width: float) -> int:
    """`width` to the nearest multiple of :data:`WIDTH_STEP`, and at least that."""
    return max(WIDTH_STEP, round(width / WIDTH_STEP) * WIDTH_STEP)
