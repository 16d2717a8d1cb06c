"""Feature extractors at work: what an image is turned into before distances are taken.

The extractors themselves are in :mod:`harness.metrics.extractors`. An extractor's identity is the hash of its
weights and of its preprocessing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import ConfigError, DataError
from harness.files import expanded
from harness.metrics import measures
from harness.metrics.declare import ExtractorKind
from harness.metrics.extractors import extractor_of
from harness.metrics.extractors.weights import has_sha256
from harness.wording import reason

CPU_BATCH = 4
"""Images of a heavy extractor at once on a CPU: what fits its caches. EfficientNet-Lite0 took 28 ms an image so on one
core of an Intel Xeon, 31 at 16 at once, and 48 at 32."""
LOGITS = "logits"
"""What a classifier's output is called beside the layer of features."""


@dataclass(frozen=True)
class Extractor:
    """A loaded extractor on its device."""

    features: str
    kind: ExtractorKind
    module: nn.Module
    device: torch.device
    identity: str
    """SHA-256 over weights and preprocessing, hexadecimal."""
    official: bool
    """Whether the weights are the ones that the literature's figures were made with."""

    @property
    def is_official_inception(self) -> bool:
        """Whether its distances may be called FID and KID."""
        return self.features == "inception" and self.official

    def label(self, measure: str) -> str:
        """The name in tables of one of the package's own measures: ``FID`` for Inception's official weights alone."""
        return measures()[measure].label_for(self.kind.label, self.is_official_inception)

    @torch.no_grad()
    def extract(
        self, images: Tensor, batch: int, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Tensor]:
        """Features of uint8 images (N, 1 or 3, H, W): layer → float32 (N, width) on the CPU, `batch` images at once, or
        fewer; ``logits`` (N, classes) beside it where there are any. `progress` is told of the images done."""
        if self.is_slow:
            batch = min(batch, CPU_BATCH)
        parts: dict[str, list[Tensor]] = {}
        done = 0
        for chunk in images.split(batch):
            found = self.kind.features(self.module, as_rgb(chunk).to(self.device))
            outputs = found if isinstance(found, tuple) else (found,)
            for layer, values in zip((self.kind.layer_name, LOGITS), outputs, strict=False):
                parts.setdefault(layer, []).append(values.float().cpu())
            done += len(chunk)
            if progress is not None:
                progress(done, len(images))
        return {layer: torch.cat(values) for layer, values in parts.items()}

    @property
    def is_slow(self) -> bool:
        """Whether its work is measured in tens of milliseconds an image."""
        return self.kind.heavy and self.device.type == "cpu"


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

    `weights` is a path where they are not in a package or in torch's cache; `logits` asks for a classifier's output
    too. Raises ConfigError for an unknown name, DataError where weights are missing, damaged or not this network's.
    Call it before a training starts, so that it fails early.
    """
    try:
        kind = extractor_of(features)
    except ValueError as error:
        raise ConfigError("measure.features", [str(error)]) from None
    if logits and not kind.logits:
        raise ConfigError("measure.inception_score", [f"needs features: inception, not {features}"])
    path, device = None if weights is None else expanded(weights), torch.device(device)
    try:
        module = kind.build(path)
    except RuntimeError as failure:  # a state dict that does not fit
        raise DataError(f"measure.weights: {path} is no file of {features}'s ({reason(failure)})") from failure
    identity = _identity(module, kind.preprocessing)
    known = kind.weights_sha256
    official = path is None or (known is not None and has_sha256(path, known))
    extractor = Extractor(features, kind, module.requires_grad_(False).eval(), device, identity, official)
    if extractor.is_slow:
        module = module.to(memory_format=torch.channels_last)
    module.to(device)
    return extractor


def check_extractor(features: str, weights: str | Path | None = None, *, logits: bool = False) -> None:
    """Raise what :func:`load_extractor` would, before anything is trained."""
    load_extractor(features, weights, logits=logits)


def _identity(module: nn.Module, preprocessing: str) -> str:
    digest = hashlib.sha256(preprocessing.encode())
    for name, tensor in sorted(module.state_dict(prefix="network.").items()):  # so named in every record
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
