"""Quality of generated images: the metrics that are asked for, against a reference, with their conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.config.schema import MeasureConfig
from harness.data.checksums import file_digest
from harness.errors import ConfigError, DataError
from harness.files import expanded
from harness.measure.features import LOGITS, Extractor, load_extractor
from harness.measure.reference import Reference, ReferenceFeatures, reference_features
from harness.metrics import metric_of
from harness.metrics.declare import Estimate, ImageSet, Metric
from harness.metrics.kernel import KernelSubsets

__all__ = ["QualityMeter", "Reference", "measure_quality", "quality_meter", "to_uint8"]


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images as float32 in [−1, 1], what networks are trained on."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8 0..255, rounded to the nearest; what lies outside is clipped.

    Raises DataError for values that are not finite: a distance of them would be a number without a meaning.
    """
    if not torch.isfinite(images).all():
        raise DataError("the generated images hold values that are not finite")
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


class QualityMeter:
    """Measures any number of sets of images against one reference with one extractor."""

    def __init__(
        self,
        extractor: Extractor,
        reference: Reference,
        metrics: Sequence[Metric],
        *,
        batch: int = 250,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.extractor, self.reference, self.metrics = extractor, reference, tuple(metrics)
        self._batch = batch
        self._real: ReferenceFeatures = reference_features(reference, extractor, batch, cache, progress)
        self._real_set = ImageSet(self._real.features, reference.images, extractor=extractor.features)

    def measure(self, images: Tensor, progress: Callable[[int, int], None] | None = None) -> dict[str, Estimate]:
        """Every number of every metric for generated uint8 images (N, 1 or 3, H, W), by name.

        Raises DataError for fewer images than a metric needs.
        """
        for metric in self.metrics:
            if min(len(images), len(self._real_set)) < metric.least_images:
                raise DataError(
                    f"{metric.name} of {len(images)} generated images against {len(self._real_set)} real ones: "
                    f"{metric.least_because} needs at least {metric.least_images} of each side"
                )
        extracted = self.extractor.extract(images, self._batch, progress)  # computed once for all metrics
        features, logits = extracted[self.extractor.kind.layer_name], extracted.get(LOGITS)
        generated = ImageSet(features, lambda: images, logits, self.extractor.features)
        return estimates_of(self.metrics, generated, self._real_set)

    def conditions(self, images: int) -> dict[str, Any]:
        """What the measures of `images` images hold for, as a record's ``quality`` has it: features, N, reference,
        what each number is called and which way is better."""
        kind, real = self.extractor.kind, len(self._real.features)
        return {
            "features": self.extractor.features,
            "features_label": kind.label,
            "extractor": self.extractor.identity,
            "official": self.extractor.official,
            "images": images,
            "reference": {
                "name": self.reference.name,
                "data": self.reference.data,
                "split": self.reference.split,
                "images": real,
                "id": self._real.id,
                "fingerprint": self.reference.fingerprint,
            },
            "measures": {
                measure.name: {
                    "label": measure.label_for(kind.label, self.extractor.is_official_inception),
                    "better": measure.better,
                }
                for metric in self.metrics
                for measure in metric.measures
            },
            "kernel_subsets": vars(KernelSubsets.usual(self.extractor.features, images, real)),
            "covariance_singular": min(images, real) <= kind.width,
        }


def estimates_of(metrics: Sequence[Metric], generated: ImageSet, real: ImageSet) -> dict[str, Estimate]:
    """Every number of every metric, by name. Raises DataError as :meth:`QualityMeter.measure` does."""
    values: dict[str, Estimate] = {}
    for metric in metrics:
        found = _estimates(metric, generated, real)
        if twice := sorted(found.keys() & values.keys()):
            raise DataError(f"metric {metric.name}: its computation gives {twice[0]}, which another metric gives")
        values |= found
    return values


def _estimates(metric: Metric, generated: ImageSet, real: ImageSet) -> dict[str, Estimate]:
    """The metric's numbers, with bootstrap standard errors where it asks for them.

    Raises DataError for a number that it has declared and does not give, and for one that is none.
    """
    given = metric.compute(generated, real)
    if not isinstance(given, Mapping):
        raise DataError(f"metric {metric.name}: its computation gives a {type(given).__name__}, not numbers by name")
    found = {name: _estimate(metric, name, value) for name, value in given.items()}
    lacking = [measure.name for measure in metric.measures if measure.name not in found]
    if lacking:
        raise DataError(f"metric {metric.name}: its computation gives no {', '.join(lacking)}")
    unsure = [measure.name for measure in metric.measures if found[measure.name].standard_error is None]
    if metric.resamples and unsure:
        errors = _bootstrap(metric, generated, real, unsure)
        found |= {name: Estimate(found[name].value, errors.get(name)) for name in unsure}
    return found


def _estimate(metric: Metric, name: str, value: Any) -> Estimate:
    """`value` as a finite number, which records can hold. Raises DataError."""
    try:
        estimate = value if isinstance(value, Estimate) else Estimate(float(value))
        finite = math.isfinite(estimate.value)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise DataError(f"metric {metric.name}: its computation gives {name} = {value!r}, which is no finite number")
    return estimate


def _bootstrap(metric: Metric, generated: ImageSet, real: ImageSet, names: Sequence[str]) -> dict[str, float]:
    """Standard deviation of each number over draws of the generated images with replacement; the same draws each
    time. None is told of a number that is not finite for some draw."""
    randomness = torch.Generator().manual_seed(0)
    draws: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(metric.resamples):
        chosen = torch.randint(len(generated), (len(generated),), generator=randomness)
        logits = None if generated.logits is None else generated.logits[chosen]
        drawn = ImageSet(generated.features[chosen], _picker(generated, chosen), logits, generated.extractor)
        values = metric.compute(drawn, real)
        for name in names:
            value = values[name]
            draws[name].append(value.value if isinstance(value, Estimate) else float(value))
    return {name: float(np.std(of_name, ddof=1)) for name, of_name in draws.items() if np.isfinite(of_name).all()}


def _picker(images: ImageSet, chosen: Tensor) -> Callable[[], Tensor]:
    return lambda: images.images()[chosen]


@lru_cache(maxsize=2)
def _extractor(
    features: str, weights: str | None, content: str | None, device: torch.device, logits: bool
) -> Extractor:
    return load_extractor(features, weights, device, logits=logits)


def _content(weights: str | None) -> str | None:
    """Digest of the weights, so that a file that has changed is loaded anew."""
    with suppress(OSError):  # loading reports what is wrong
        return None if weights is None else file_digest(expanded(weights))
    return None


def quality_meter(
    reference: Reference,
    settings: MeasureConfig,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> QualityMeter:
    """The meter of `settings` (features, weights, batch, metrics). The extractor is loaded once per process.

    Building it is a cheap check that weights and reference are there: do it before anything is trained.
    """
    weights = settings.weights
    extractor = _extractor(settings.features, weights, _content(weights), torch.device(device), settings.needs_logits)
    try:
        metrics = [metric_of(name) for name in settings.metric_names]
    except ValueError as error:  # a module that has disappeared since the configuration was checked
        raise ConfigError("measure.metrics", [str(error)]) from None
    return QualityMeter(extractor, reference, metrics, batch=settings.batch, cache=cache, progress=progress)


def measure_quality(
    images: Tensor,
    reference: Reference,
    settings: MeasureConfig,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Values of generated uint8 images (N, 1 or 3, H, W) by name under ``values``, their standard errors where known
    under ``standard_errors``, beside the conditions they hold for."""
    meter = quality_meter(reference, settings, cache, device)
    found = meter.measure(images)
    errors = {name: one.standard_error for name, one in found.items() if one.standard_error is not None}
    values = {name: one.value for name, one in found.items()}
    return {"values": values, "standard_errors": errors, **meter.conditions(len(images))}
