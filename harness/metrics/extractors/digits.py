"""64 features of a small classifier of 8×8 digits, whose weights are part of the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ConfigError
from harness.metrics.declare import ExtractorKind

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = 8
SHA256 = "50df130e7ed6e740da514bce830babfcab63e5bb7760431a779d069bef49afb1"


def build(weights: Path | None) -> nn.Module:
    from harness.metrics.extractors import digits_network
    from harness.metrics.extractors.weights import known, read_weights

    network = digits_network.DigitsNetwork()
    network.load_state_dict(read_weights(weights or known("digits", digits_network.WEIGHTS, SHA256)))
    return network


def features(network: nn.Module, images: Tensor) -> Tensor:
    if images.shape[-2:] != (SIZE, SIZE):
        side = "×".join(map(str, images.shape[-2:]))
        raise ConfigError("measure.features", [f"digits takes {SIZE}×{SIZE} images, these are {side}"])
    found: Tensor = network(images)[0]
    return found


EXTRACTOR = ExtractorKind(
    name="digits",
    label="digits",
    width=64,
    preprocessing="8×8 uint8, grey is the mean of the channels, x/127.5 - 1",
    build=build,
    features=features,
    heavy=False,
    weights_sha256=SHA256,
    only_data="digits",
)
