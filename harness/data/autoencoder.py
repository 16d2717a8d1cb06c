"""What a folder of diffusers says of its autoencoder: read from its config.json, without diffusers and without torch.

Only two files of the folder are read, ``config.json`` and ``diffusion_pytorch_model.safetensors``; no code of it runs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.schema import DataConfig
from harness.data.checksums import file_digest
from harness.errors import DataError, MissingDataError
from harness.files import expanded, tried

if TYPE_CHECKING:
    from harness.data.dataset import DataInfo

KEY = "data.latents"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
DEFAULTS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {"block_out_channels": [64], "scaling_factor": 0.18215},
    "AutoencoderTiny": {
        "num_encoder_blocks": [1, 3, 3, 3],
        "num_decoder_blocks": [3, 3, 3, 1],
        "upsampling_scaling_factor": 2,
        "scaling_factor": 1.0,
    },
}
"""Of each class that is known, what diffusers takes where its config.json is silent."""
SAME_FOR_BOTH = {"in_channels": 3, "out_channels": 3, "latent_channels": 4}
WHAT_IT_IS = "a folder of diffusers with an AutoencoderKL or an AutoencoderTiny"


@dataclass(frozen=True)
class AutoencoderFacts:
    """An autoencoder as its folder describes it.

    Attributes:
        folder: where it lies.
        kind: ``AutoencoderKL`` or ``AutoencoderTiny``.
        digest: of its configuration and weights, wherever they lie.
        channels: of its images.
        latent_channels: of its latents.
        factor: pixels to a latent, along a side.
        scaling, shift: networks see (latent − shift) · scaling, per channel; `shift` and `scaling` have one value, or
            one for each channel of the latents.
    """

    folder: Path
    kind: str
    digest: str
    channels: int
    latent_channels: int
    factor: int
    scaling: tuple[float, ...]
    shift: tuple[float, ...]

    @property
    def has_posterior(self) -> bool:
        """Whether it encodes an image to a normal distribution, not to a point."""
        return self.kind == "AutoencoderKL"


def autoencoder_facts(path: str) -> AutoencoderFacts:
    """The autoencoder in the folder `path`. Raises :class:`DataError`, one message."""
    folder = expanded(path)
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not folder.exists():
        raise MissingDataError(
            f"{KEY}: {path} does not exist{tried(folder)}; it is the path of {WHAT_IT_IS}, and nothing is downloaded"
        )
    if not folder.is_dir():
        raise DataError(f"{KEY}: {path} is a file; give the folder that it lies in: {Path(path).parent}")
    if not config.is_file():
        inside = folder / "vae" / CONFIG
        hint = f"; its vae/ is one: {KEY}: {Path(path) / 'vae'}" if inside.is_file() else ""
        raise DataError(f"{KEY}: {path} has no {CONFIG}, so it is not {WHAT_IT_IS}{hint}")
    if not weights.is_file():
        pickles = sorted(one.name for one in folder.iterdir() if one.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = f"; {pickles[0]} is a pickle, which could run code: save it anew by save_pretrained" if pickles else ""
        raise DataError(f"{KEY}: {path} has no {WEIGHTS}, and only safetensors are read{hint}")
    values = configuration(folder)
    try:
        digest = file_digest(weights)
    except OSError as error:
        raise DataError(f"{KEY}: {path} cannot be read: {error.strerror}") from None
    return _facts(folder, json.dumps(values, sort_keys=True), digest)


def configuration(folder: Path) -> dict[str, Any]:
    """The values of an autoencoder's config.json, without what says nothing of the network but its class."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{KEY}: {folder / CONFIG} cannot be read: {error}") from None
    kind = values.get("_class_name") if isinstance(values, Mapping) else None
    if kind not in DEFAULTS:
        said = "names no class" if kind is None else f"is of a {kind}"
        raise DataError(f"{KEY}: {folder / CONFIG} {said}; choices: {', '.join(DEFAULTS)}")
    known = {key: value for key, value in values.items() if not key.startswith("_")}
    return {**SAME_FOR_BOTH, **DEFAULTS[kind], **known, "_class_name": kind}


@lru_cache(maxsize=16)
def _facts(folder: Path, values: str, weights: str) -> AutoencoderFacts:
    config = json.loads(values)
    kind, where = config["_class_name"], folder / CONFIG
    channels, out, latent_channels = (
        _positive(config, key, where) for key in ("in_channels", "out_channels", "latent_channels")
    )
    if channels != out:
        raise DataError(f"{KEY}: {where}: takes images of {channels} channels and makes some of {out}")
    factor = _factor(kind, config, where)
    scaling, shift = _scale(config, latent_channels, where)
    digest = hashlib.sha256(f"{values}\n{weights}".encode()).hexdigest()[:32]
    return AutoencoderFacts(folder, kind, digest, channels, latent_channels, factor, scaling, shift)


def _positive(config: Mapping[str, Any], key: str, where: Path) -> int:
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"{KEY}: {where}: {key} is {value!r}, not a whole number above 0")
    return value


def _factor(kind: str, config: Mapping[str, Any], where: Path) -> int:
    """Pixels to a latent along a side: each stage after the first halves it."""
    keys = ("block_out_channels",) if kind == "AutoencoderKL" else ("num_encoder_blocks", "num_decoder_blocks")
    for key in keys:
        if not isinstance(config[key], list) or not config[key]:
            raise DataError(f"{KEY}: {where}: {key} is {config[key]!r}, not a list of numbers")
    down = 2 ** (len(config[keys[0]]) - 1)
    up = down if len(keys) == 1 else config["upsampling_scaling_factor"] ** (len(config[keys[1]]) - 1)
    if up != down:
        raise DataError(f"{KEY}: {where}: reduces images {down} times and enlarges latents {up} times")
    return down


def _scale(config: Mapping[str, Any], channels: int, where: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scaling, shift) of the latents, one number or one for each channel."""
    scaling = _numbers(config, "scaling_factor", 1, where) or (1.0,)
    shift = _numbers(config, "shift_factor", 1, where) or (0.0,)
    mean, std = (_numbers(config, key, channels, where) for key in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:  # as diffusers' pipelines read them, in the place of the shift
        scaling, shift = tuple(scaling[0] / one if one else math.nan for one in std), mean
    if not all(math.isfinite(value) and value != 0 for value in scaling):
        raise DataError(f"{KEY}: {where}: scaling_factor and latents_std must be finite and not 0")
    return scaling, shift


def _numbers(config: Mapping[str, Any], key: str, count: int, where: Path) -> tuple[float, ...] | None:
    value = config.get(key)
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if len(values) != count or not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
        raise DataError(f"{KEY}: {where}: {key} is {value!r}, not {count} finite numbers")
    return tuple(float(one) for one in values)


def latent_info(config: DataConfig, images: DataInfo) -> DataInfo:
    """What networks must know of the data of `config`, of whose images `images` tells: latents have another side and
    other channels. Without ``data.latents`` it is `images` itself.

    Raises :class:`DataError` where the autoencoder is not for such images.
    """
    if config.latents is None:
        return images
    facts = autoencoder_facts(config.latents)
    if images.channels != facts.channels:
        have, takes = _colour(images.channels), _colour(facts.channels)
        raise DataError(
            f"{KEY}: {config.latents} takes {takes} images, those of {images.name} are {have}; set data.channels: "
            f"{facts.channels}, or take another autoencoder"
        )
    if images.size % facts.factor:
        raise DataError(
            f"{KEY}: {config.latents} reduces a side {facts.factor} times, which does not divide the {images.size} "
            f"pixels of {images.name}; set data.size to a multiple of {facts.factor}"
        )
    if config.posterior == "sample" and not facts.has_posterior:
        raise DataError(f"data.posterior: {config.latents} is an {facts.kind}, which encodes to a point; leave it out")
    return replace(images, size=images.size // facts.factor, channels=facts.latent_channels)


def _colour(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
