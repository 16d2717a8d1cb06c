"""The tensors of the original EDM code's networks, by their names here [EDM].

A network is described there by the name of a class and the arguments it was made with; :func:`described` turns these
into a :class:`models.unet.UNetConfig`, :func:`original_names` tells what each of its tensors is called there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.unet import STYLES, Architecture, NoiseInput, UNet, UNetConfig

Preconditioned = tuple[NoiseInput, str]
PRECONDITIONINGS: dict[str, Preconditioned] = {
    "EDMPrecond": ("edm", "edm"),
    "VPPrecond": ("vp", "none"),
    "VEPrecond": ("ve", "none"),
    "iDDPMPrecond": ("iddpm", "none"),
}
"""Of each class around a network: how the network is told the noise level, and its ``diffusion.preconditioning``. What
is not EDM's predicts ε."""
SONG, ADM = "SongUNet", "DhariwalUNet"
FIXED = ("resample_filter", "model.map_augment.weight", "u")
"""Ends of the names of what is made from the arguments here, or only training reads."""


@dataclass(frozen=True)
class Described:
    """A network of the original code."""

    network: UNetConfig
    multipliers: tuple[float, ...]
    preconditioning: str
    sigma_data: float

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of a configuration that has this network, dotted; None for one that must not be set."""
        network, is_edm = self.network, self.preconditioning == "edm"
        return {
            "data.size": network.size,
            "data.channels": network.channels,
            **({} if network.classes is None else {"data.classes": network.classes}),
            "model.kind": "single_rate",
            "model.backbone": network.architecture,
            "model.width": network.width,
            "model.multipliers": list(self.multipliers),
            "model.blocks": list(network.blocks),
            "model.levels": ["transformer" if attends else "conv" for attends in network.attention],
            **({"model.head_width": network.head_width} if network.style.is_adm else {}),
            "model.embedding": None if network.embedding == 4 * network.width else network.embedding,
            "model.class_conditional": network.classes is not None,
            "model.noise_input": None if network.noise == "edm" else network.noise,
            "diffusion.preconditioning": self.preconditioning,
            **({"diffusion.sigma_data": self.sigma_data} if is_edm else {}),
            "diffusion.prediction": None if is_edm else "epsilon",
        }


def described(outer: str, outer_values: Mapping[str, Any], inner: str, arguments: Mapping[str, Any]) -> Described:
    """The network of class `inner`, made with `arguments`, in the preconditioning of class `outer` with its values.

    Raises ValueError for one that this project has no network for.
    """
    if outer not in PRECONDITIONINGS:
        raise ValueError(f"its preconditioning is {outer}; known are {', '.join(PRECONDITIONINGS)}")
    if inner not in (SONG, ADM):
        raise ValueError(f"its network is {inner}; known are {SONG} and {ADM}")
    noise, preconditioning = PRECONDITIONINGS[outer]
    _check_process(outer, outer_values)
    architecture = "adm" if inner == ADM else _song(arguments)
    defaults: dict[str, Any] = (
        {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8]}
        if inner == ADM
        else {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16]}
    )
    given = {**defaults, "channel_mult_emb": 4, "label_dim": 0, **arguments}
    size, width = int(given["img_resolution"]), int(given["model_channels"])
    multipliers = tuple(float(value) for value in given["channel_mult"])
    config = UNetConfig(
        architecture,
        size=size,
        channels=int(given["in_channels"]),
        out_channels=int(given["in_channels"]),
        width=width,
        widths=tuple(int(width * value) for value in multipliers),
        blocks=(int(given["num_blocks"]),) * len(multipliers),
        attention=tuple((size >> level) in given["attn_resolutions"] for level in range(len(multipliers))),
        embedding=width * int(given["channel_mult_emb"]),
        classes=int(given["label_dim"]) or None,
        noise=noise,
    )
    return Described(config, multipliers, preconditioning, float(outer_values.get("sigma_data", 0.5)))


def _check_process(outer: str, values: Mapping[str, Any]) -> None:
    """That the process is the published one, where a class could have another."""
    usual = {
        "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000},
        "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
    }
    for name, value in usual.get(outer, {}).items():
        if values.get(name, value) != value:
            raise ValueError(f"its {outer} has {name} = {values[name]}; known is {value}")


def _song(arguments: Mapping[str, Any]) -> Architecture:
    """Which of the two architectures that share a class."""
    usual = {
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": [1, 1],
    }
    given = {key: arguments.get(key, value) for key, value in usual.items()}
    given["resample_filter"] = list(given["resample_filter"])
    ncsnpp = {
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1],
    }
    if given == usual:
        return "ddpmpp"
    if given == {**usual, **ncsnpp}:
        return "ncsnpp"
    raise ValueError(f"its SongUNet is neither DDPM++ nor NCSN++: {given}")


def original_names(config: UNetConfig) -> dict[str, str]:
    """Of each tensor of a :class:`models.unet.UNet`, its name in the original network."""
    with torch.device("meta"):
        network = UNet(config)
    return {name: _original(config, name) for name in network.state_dict()}


IN_BLOCK = {
    "first_norm": "norm0",
    "first": "conv0",
    "film": "affine",
    "last_norm": "norm1",
    "last": "conv1",
    "skip": "skip",
    "attention.norm": "norm2",
    "attention.queries_keys_values": "qkv",
    "attention.attended": "proj",
}
EMBEDDING = {
    "embed_noise.frequencies": "map_noise.freqs",
    "first_layer": "map_layer0",
    "second_layer": "map_layer1",
    "embed_class": "map_label",
}


def _original(config: UNetConfig, name: str) -> str:
    """The original's name of one tensor."""
    if name in EMBEDDING:
        return EMBEDDING[name]
    stem, _, kind = name.rpartition(".")
    if stem in EMBEDDING:
        return f"{EMBEDDING[stem]}.{kind}"
    side = f"{config.size}x{config.size}"
    if stem.startswith("head."):
        normed = stem == "head.0"
        if config.style.is_adm:
            return f"{'out_norm' if normed else 'out_conv'}.{kind}"
        return f"dec.{side}_aux_{'norm' if normed else 'conv'}.{kind}"
    _, level, part, *rest = stem.split(".")
    side = f"{config.sides[int(level)]}x{config.sides[int(level)]}"
    if part == "enter_image":
        return f"enc.{side}_aux_residual.{kind}"
    if part == "enter" and level == "0":
        return f"enc.{side}_conv.{kind}"
    if part == "leave":
        above = config.sides[int(level) - 1]
        return f"dec.{above}x{above}_up.{IN_BLOCK['.'.join(rest)]}.{kind}"
    if part == "enter":
        return f"enc.{side}_down.{IN_BLOCK['.'.join(rest)]}.{kind}"
    row = {"down": f"enc.{side}_block", "middle": f"dec.{side}_in", "up": f"dec.{side}_block"}[part]
    return f"{row}{rest[0]}.{IN_BLOCK['.'.join(rest[1:])]}.{kind}"


def renamed(config: UNetConfig, original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the original network `model.…` by their names here, float32.

    Raises ValueError where one is missing, of another shape, or has no place here.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in UNet(config).state_dict().items()}
    names = {name: f"model.{there}" for name, there in original_names(config).items()}
    foreign = [name for name in original if name not in names.values() and not name.endswith(FIXED)]
    missing = [there for there in names.values() if there not in original]
    if foreign or missing:
        which = f"{missing[0]} is missing" if missing else f"{foreign[0]} has no place in it"
        raise ValueError(f"its tensors are not those of the network it describes: {which}")
    found: dict[str, Tensor] = {}
    for name, there in names.items():
        tensor = original[there].detach().to(torch.float32)
        if name == "embed_noise.frequencies":
            tensor = 2 * math.pi * tensor
        if tensor.shape != shapes[name]:
            raise ValueError(
                f"its tensor {there} is {tuple(tensor.shape)}, the network it describes has {tuple(shapes[name])}"
            )
        found[name] = tensor.contiguous()
    return found


__all__ = ["FIXED", "PRECONDITIONINGS", "STYLES", "Described", "described", "original_names", "renamed"]
