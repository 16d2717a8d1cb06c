"""1 024 features (class token) of DINOv2 ViT-L/14, the network of published FD-DINOv2 figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.metrics.declare import ExtractorKind

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 224
HUB = ("facebookresearch/dinov2", "dinov2_vitl14")
FILE = "dinov2_vitl14_pretrain.pth"


def weights_file() -> Path:
    """Where torch.hub keeps the usual weights; told without torch, since ids depend on the file's content."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(os.path.expandvars(home)).expanduser() / "hub" / "checkpoints" / FILE


def build(weights: Path | None) -> nn.Module:
    import torch

    from harness.metrics.extractors.weights import quietly, read_weights
    from harness.wording import reason

    try:
        with quietly():
            network: nn.Module = torch.hub.load(*HUB, pretrained=weights is None, trust_repo=True, verbose=False)
    except Exception as failure:
        raise DataError(
            f"features dinov2: torch.hub could not load {HUB[0]} ({reason(failure)}). Load it once "
            f"online into {torch.hub.get_dir()}, or set TORCH_HOME to a folder that has it"
        ) from failure
    if weights is not None:
        network.load_state_dict(read_weights(weights))
    return network


def features(network: nn.Module, images: Tensor) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (SIDE, SIDE), align_corners=False)
    mean = x.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
    deviation = x.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
    tokens: Tensor = network((x - mean) / deviation)
    return tokens


EXTRACTOR = ExtractorKind(
    name="dinov2",
    label="DINOv2",
    width=1024,
    preprocessing="224×224 bilinear as in TensorFlow 1, ImageNet mean and deviation",
    build=build,
    features=features,
    weights_file=weights_file,
)
