"""2 048 features of Inception v3 with the official weights, as torch-fidelity computes them: those of FID and KID."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DataError
from harness.metrics.declare import ExtractorKind

if TYPE_CHECKING:
    from torch import Tensor, nn

SHA256 = "6726825d"
"""First digits of the SHA-256 of the official weights; the name of their file carries them."""
LAYERS = ("2048", "logits_unbiased")


def build(weights: Path | None) -> nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    from harness.wording import reason

    path = _checked_weights(weights)
    try:
        network: nn.Module = create_feature_extractor(
            "inception-v3-compat",
            list(LAYERS),
            cuda=False,
            verbose=False,
            feature_extractor_weights_path=None if weights is None else str(path),
        )
    except RuntimeError as failure:  # a state dict that does not fit
        raise DataError(f"measure.weights: {path} is no file of inception's ({reason(failure)})") from failure
    return network


def features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    found, logits = network(images)
    return found, logits


def _checked_weights(weights: Path | None) -> Path:
    """The file of the weights, read once, safely, before torch-fidelity does; without a path it is downloaded into
    torch's cache."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    from harness.metrics.extractors.weights import download, has_sha256, read_weights

    if weights is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
        if not path.exists():
            download("inception", URL_INCEPTION_V3, path, SHA256)
        if not has_sha256(path, SHA256):
            raise DataError(f"features inception: {path} is damaged (its hash is not {SHA256}…); delete it")
    else:
        path = weights
        if path.suffix == ".safetensors":
            raise DataError(f"measure.weights: inception takes torch-fidelity's .pth file, not {path}")
    read_weights(path)
    return path


EXTRACTOR = ExtractorKind(
    name="inception",
    label="Inception",
    width=2048,
    preprocessing="299×299 bilinear as in TensorFlow 1, (x - 128)/128",
    build=build,
    features=features,
    logits=True,
    weights_sha256=SHA256,
)
