"""Quality of generated images: distances to a reference set by torch-fidelity, each with its conditions
beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from harness.config.schema import NEIGHBOURS, SCORE_SPLITS, MeasureConfig
from harness.data.checksums import file_digest
from harness.errors import DataError
from harness.files import expanded
from harness.measure.features import Extractor, load_extractor
from harness.measure.frechet import Bias, distance_and_standard_error, small_sample_bias
from harness.measure.reference import Reference, ReferenceFeatures, reference_features

__all__ = ["KernelSubsets", "QualityMeter", "Reference", "measure_quality", "quality_meter", "to_uint8"]


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8 0..255, rounded to the nearest; what lies outside is clipped.

    Raises DataError for values that are not finite: a distance of them would be a number without a meaning.
    """
    if not torch.isfinite(images).all():
        raise DataError("the generated images hold values that are not finite")
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclasses.dataclass(frozen=True)
class KernelSubsets:
    """How the kernel distance is estimated: the mean over `count` random subsets of `size` images of each
    side."""

    count: int
    size: int

    @classmethod
    def usual(cls, features: str, images: int, reference_images: int) -> KernelSubsets:
        """100 of 1 000 for Inception, the literature's; 20 of 500 else. At most half of the smaller side, at
        least 2."""
        count, size = (100, 1000) if features == "inception" else (20, 500)
        return cls(count, max(2, min(size, min(images, reference_images) // 2)))


def _checked(**options: Any) -> dict[str, Any]:
    """`options`, each of which torch-fidelity knows: it ignores a misspelt one in silence."""
    unknown = set(options) - set(DEFAULTS)
    if unknown:
        raise TypeError(f"torch-fidelity has no option {', '.join(sorted(unknown))}")
    return {"verbose": False, **options}


class QualityMeter:
    """Measures any number of sets of images against one reference with one extractor."""

    def __init__(
        self,
        extractor: Extractor,
        reference: Reference,
        *,
        batch: int = 250,
        cache: Path | None = None,
        inception_score: bool = False,
        precision_recall: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.extractor, self.reference = extractor, reference
        self._batch = batch
        self._inception_score, self._precision_recall = inception_score, precision_recall
        self._real: ReferenceFeatures = reference_features(reference, extractor, batch, cache, progress)
        self._real_statistics = fid_features_to_statistics(self._real.features)

    def measure(self, images: Tensor, progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """Measures of generated uint8 images (N, 1 or 3, H, W).

        ``frechet`` by torch-fidelity, ``frechet_float64`` by an independent computation,
        ``frechet_standard_error`` (see :func:`~harness.measure.frechet.distance_and_standard_error`),
        ``kernel`` (mean over subsets; unbiased, so it may be slightly negative) and ``kernel_std`` (over
        subsets); if asked for ``inception_score`` and ``inception_score_std``, ``precision`` and ``recall``.
        Raises DataError for fewer than two images.
        """
        if len(images) < 2:
            raise DataError(f"{len(images)} generated images have no covariance; at least 2 are needed")
        if self._inception_score and len(images) < SCORE_SPLITS:
            raise DataError(f"the Inception score of {SCORE_SPLITS} splits needs as many images, not {len(images)}")
        if self._precision_recall and min(len(images), len(self._real.features)) <= NEIGHBOURS:
            raise DataError(
                f"precision and recall look at {NEIGHBOURS} neighbours and need more images of each side, not "
                f"{len(images)} generated and {len(self._real.features)} real"
            )
        extracted = self.extractor.extract(images, self._batch, progress)  # once, for all the measures
        generated = extracted[self.extractor.kind.layer]
        values = self._frechet(generated) | self._kernel(generated)
        if self._inception_score:
            assert self.extractor.kind.logits is not None
            score = isc_features_to_metric(extracted[self.extractor.kind.logits], splits=SCORE_SPLITS)
            values["inception_score"] = score[KEY_METRIC_ISC_MEAN]
            values["inception_score_std"] = score[KEY_METRIC_ISC_STD]
        if self._precision_recall:
            values |= self._precision_and_recall(generated)
        return values

    def bias(self, sizes: Sequence[int], repeats: int = 20, seed: int = 0) -> list[Bias]:
        """The Fréchet distance that a perfect generator would score at each number of images.

        See :func:`~harness.measure.frechet.small_sample_bias`.
        """
        return small_sample_bias(self._real.features.numpy(), sizes, repeats, seed)

    def conditions(self, images: int) -> dict[str, Any]:
        """What the measures of `images` images hold for: features, labels, N, reference, subsets,
        warnings."""
        subsets = self._subsets(images)
        return {
            "features": self.extractor.features,
            "frechet_label": self.extractor.frechet_label,
            "kernel_label": self.extractor.kernel_label,
            "extractor": self.extractor.identity,
            "images": images,
            "reference": {
                "name": self.reference.name,
                "data": self.reference.data,
                "split": self.reference.split,
                "images": len(self._real.features),
                "id": self._real.id,
                "fingerprint": self.reference.fingerprint,
            },
            "kernel_subsets": dataclasses.asdict(subsets),
            "covariance_singular": min(images, len(self._real.features)) <= self.extractor.kind.width,
        }

    def _subsets(self, images: int) -> KernelSubsets:
        return KernelSubsets.usual(self.extractor.features, images, len(self._real.features))

    def _frechet(self, generated: Tensor) -> dict[str, float]:
        own = fid_features_to_statistics(generated)
        distance = fid_statistics_to_metric(own, self._real_statistics, verbose=False)[KEY_METRIC_FID]
        independent, error = distance_and_standard_error(generated.numpy(), self._real.statistics)
        return {"frechet": distance, "frechet_float64": independent, "frechet_standard_error": error}

    def _kernel(self, generated: Tensor) -> dict[str, float]:
        subsets = self._subsets(len(generated))
        options = _checked(kid_subsets=subsets.count, kid_subset_size=subsets.size)
        found = kid_features_to_metric(generated, self._real.features, **options)
        return {"kernel": found[KEY_METRIC_KID_MEAN], "kernel_std": found[KEY_METRIC_KID_STD]}

    def _precision_and_recall(self, generated: Tensor) -> dict[str, float]:
        # torch-fidelity takes the generated first, the real second
        options = _checked(save_cpu_ram=True, prc_neighborhood=NEIGHBOURS)
        found = prc_features_to_metric(generated, self._real.features, **options)
        return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


@lru_cache(maxsize=2)
def _extractor(
    features: str, weights: str | None, content: str | None, device: torch.device, logits: bool
) -> Extractor:
    return load_extractor(features, weights, device, logits=logits)


def _content(weights: str | None) -> str | None:
    """Digest of the weights, so that a file that has changed is loaded anew."""
    with suppress(OSError):  # loading says what is wrong
        return None if weights is None else file_digest(expanded(weights))
    return None


def quality_meter(
    reference: Reference,
    settings: MeasureConfig,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> QualityMeter:
    """The meter of `settings` (features, weights, batch, optional scores). The extractor is loaded once per
    process.

    Building it is the cheap test that weights and reference are there: do it before anything is trained.
    """
    weights = settings.weights
    extractor = _extractor(
        settings.features, weights, _content(weights), torch.device(device), settings.inception_score
    )
    return QualityMeter(
        extractor,
        reference,
        batch=settings.batch,
        cache=cache,
        inception_score=settings.inception_score,
        precision_recall=settings.precision_recall,
        progress=progress,
    )


def measure_quality(
    images: Tensor,
    reference: Reference,
    settings: MeasureConfig,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Measures of generated uint8 images (N, 1 or 3, H, W) under ``values``, beside the conditions they hold
    for."""
    meter = quality_meter(reference, settings, cache, device)
    return {"values": meter.measure(images), **meter.conditions(len(images))}
