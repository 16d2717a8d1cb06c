"""Small networks of the original EDM code [EDM], and what they answer, kept in `edm_outputs.safetensors`.

`HARNESS_EDM_CODE=folder python -m tests.models.edm_original` makes that file anew, with the original code in `folder`
(github.com/NVlabs/edm). Their weights are no random numbers but follow from each tensor's name and place, so that they
need not be kept.
"""

from __future__ import annotations

import math
import os
import sys
import zlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CODE = os.environ.get("HARNESS_EDM_CODE")
OUTPUTS = Path(__file__).with_name("edm_outputs.safetensors")
SIGMAS = (0.002, 0.3, 80.0)
LABELS = (0, 2)
SONG: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 2,
    "attn_resolutions": [4],
    "augment_dim": 9,
}
NCSNPP: dict[str, Any] = {
    **SONG,
    "channel_mult": [1, 2, 1],
    "num_blocks": 1,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
ADM: dict[str, Any] = {
    **SONG,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [8, 4],
}
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddpmpp": ("EDMPrecond", "SongUNet", SONG),
    "ncsnpp": ("EDMPrecond", "SongUNet", NCSNPP),
    "adm": ("EDMPrecond", "DhariwalUNet", ADM),
    "vp": ("VPPrecond", "SongUNet", SONG),
    "ve": ("VEPrecond", "SongUNet", NCSNPP),
    "iddpm": ("iDDPMPrecond", "DhariwalUNet", ADM),
}
"""Class of the preconditioning, class of the network, arguments."""


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor called `name` of a network, float32: waves of a frequency of its own, of the usual size of weights."""
    count, key = math.prod(shape), zlib.crc32(name.encode()) % 1000
    values = torch.sin((0.7 + key / 1000) * torch.arange(1, count + 1, dtype=torch.float64) + key)
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 16
    size = 1.0 if name.endswith("freqs") else 1.4 / math.sqrt(fan_in)
    centre = 1.0 if name.endswith("weight") and len(shape) == 1 else 0.0  # of a norm
    return (centre + size * values).float().reshape(shape)


def images(sigma: float, arguments: dict[str, Any]) -> Tensor:
    """y = x + σε (2, C, H, W), float32."""
    side, channels = arguments["img_resolution"], arguments["img_channels"]
    values = torch.sin(1.3 * torch.arange(2 * channels * side * side, dtype=torch.float64) ** 1.1)
    return (values * math.sqrt(0.25 + sigma**2) * math.sqrt(2)).float().reshape(2, channels, side, side)


def original_modules() -> ModuleType:
    """The module of the original's networks; what its imports need and Python no longer has is stood in for."""
    assert CODE is not None
    distutils, util = ModuleType("distutils"), ModuleType("distutils.util")
    util.strtobool = bool  # type: ignore[attr-defined]
    sys.modules.setdefault("distutils", distutils)
    sys.modules.setdefault("distutils.util", util)
    sys.modules.setdefault("requests", ModuleType("requests"))
    if CODE not in sys.path:
        sys.path.append(CODE)
    from training import networks  # type: ignore[import-not-found]

    found: ModuleType = networks
    return found


def original(name: str) -> Any:
    """The original network, with its preconditioning around it."""
    outer, inner, arguments = NETWORKS[name]
    network = getattr(original_modules(), outer)(model_type=inner, **arguments).eval()
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not key.endswith(("resample_filter", "u")):
                tensor.copy_(filled(key, tuple(tensor.shape)))
    return network


def _kept(features: dict[str, Tensor], side: str, module: object, inputs: object, output: Tensor) -> None:
    """A forward hook: the last block of a side is its level's last layer."""
    features[side] = output.clone()


@torch.no_grad()
def outputs(name: str) -> dict[str, Tensor]:
    """What the original answers: the denoised images at each σ, and at the middle one the features of each level."""
    network, arguments = original(name), NETWORKS[name][2]
    labels = torch.eye(arguments["label_dim"])[list(LABELS)]
    found: dict[str, Tensor] = {}
    features: dict[str, Tensor] = {}
    for key, block in network.model.dec.items():
        if "block" in key:
            side = key.split("x")[0]
            block.register_forward_hook(partial(_kept, features, side))
    for sigma in SIGMAS:
        found[f"{name} {sigma}"] = network(images(sigma, arguments), torch.full((2,), sigma), labels)
        if sigma == SIGMAS[1]:
            sides = sorted(features, key=int, reverse=True)
            found |= {f"{name} level {level}": features[side].clone() for level, side in enumerate(sides)}
    return found


if __name__ == "__main__":
    save_file({key: value for name in NETWORKS for key, value in outputs(name).items()}, OUTPUTS)
