"""Quality of images that come from anywhere, against data or a file of statistics, with the conditions it holds for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data import DataInfo, Dataset
from harness.data.image_sets import open_image_set
from harness.errors import ConfigError, DataError
from harness.files import expanded
from harness.measure.features import LOGITS, Extractor
from harness.measure.fidelity import estimates_of
from harness.measure.statistics_files import (
    Made,
    StatisticsFile,
    check_fits,
    form_of,
    is_statistics,
    made_of,
    read_statistics,
    statistics_of,
)
from harness.metrics import METRICS
from harness.metrics.declare import ImageSet, Metric
from harness.metrics.frechet_distance import Statistics
from harness.metrics.kernel import KernelSubsets

FRECHET, INCEPTION_SCORE = METRICS["frechet"], METRICS["inception_score"]
Progress = Callable[[str, int, int], None]
"""Called with whose features are extracted, the images done, and their number."""


@dataclass(frozen=True)
class Against:
    """What images are compared with: data, statistics, or a file that holds both, as ADM's references do."""

    name: str
    data: Dataset | None
    statistics: StatisticsFile | None


def open_against(path: str, split: str = "train") -> Against:
    """The data or statistics at `path`. Raises :class:`DataError`, one message."""
    place = expanded(path)
    known = read_statistics(place) if _may_be_statistics(place) and is_statistics(place) else None
    data = open_image_set(path, split) if known is None or known.has_images else None
    return Against(place.name if data is None else f"{data.info.name} {data.info.split}", data, known)


def _may_be_statistics(path: Path) -> bool:
    return path.suffix.lower() in (".npz", ".pt", ".pth")


def default_metrics(extractor: Extractor, against: Against) -> list[Metric]:
    """All of the package's that can be told: of a file of statistics, those that need no other images."""
    able = [metric for metric in METRICS.values() if "logits" not in metric.needs or extractor.kind.logits]
    return [metric for metric in able if against.data is not None or not _compares_images(metric)]


def _compares_images(metric: Metric) -> bool:
    """Whether the metric looks at more of the real images than the mean and covariance of their features."""
    return metric not in (FRECHET, INCEPTION_SCORE)


def check_comparable(images: DataInfo, against: Against, extractor: Extractor, metrics: Sequence[Metric]) -> None:
    """Raise before anything is extracted what would make a number without a meaning, or none.

    :class:`ConfigError` for a metric that cannot be told of statistics alone, or without a classifier;
    :class:`DataError` for other sizes, channels, features, or too few images.
    """
    for metric in metrics:
        if against.data is None and _compares_images(metric):
            raise ConfigError(
                "--metric",
                [f"{metric.name} compares images one by one, and {against.name} holds only their mean and covariance; "
                 "name the images themselves: --against DATA"],
            )  # fmt: skip
        if "logits" in metric.needs and not extractor.kind.logits:
            raise ConfigError("--metric", [f"{metric.name} needs --extractor inception, not {extractor.features}"])
    if against.statistics is not None:
        check_fits(against.statistics, extractor, images)
    sides = [images]
    if against.data is not None:
        real = against.data.info
        if (real.size, real.channels) != (images.size, images.channels):
            raise DataError(_unlike(images, real))
        sides.append(real)
    for metric in metrics:
        for side in sides:
            if side.images < metric.least_images and (side is images or metric is not INCEPTION_SCORE):
                raise DataError(
                    f"{side.name}: {side.images} images are too few for {metric.name}, which needs at least "
                    f"{metric.least_images} of each side"
                )


def _unlike(images: DataInfo, real: DataInfo) -> str:
    cure = (
        f"; `harness data prepare SRC DST --size {images.size}` makes data of that size"
        if real.size != images.size
        else f"; `harness data prepare SRC DST --channels {images.channels}` makes data like them"
    )
    return (
        f"{images.name}: {form_of(images.size, images.channels)} images against {form_of(real.size, real.channels)} "
        f"ones ({real.name}){cure}"
    )


def extract_all(
    data: Dataset, extractor: Extractor, batch: int, workers: int, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """Features of all images in order, by layer, without keeping the images. Raises :class:`DataError` that names all
    damaged ones."""
    parts: dict[str, list[Tensor]] = {}
    done = 0
    progress(0, len(data))
    for chunk in data.chunks(workers):
        for layer, values in extractor.extract(chunk, batch).items():
            parts.setdefault(layer, []).append(values)
        done += len(chunk)
        progress(done, len(data))
    return {layer: torch.cat(values) for layer, values in parts.items()}


def measure_images(
    images: Dataset,
    against: Against,
    extractor: Extractor,
    metrics: Sequence[Metric],
    *,
    batch: int = 250,
    workers: int = 0,
    progress: Progress = lambda whose, done, total: None,
) -> dict[str, Any]:
    """Values of `images` by name under ``values``, standard errors where known under ``standard_errors``, beside the
    conditions that they hold for and ``notes`` for whoever reads them.

    Raises what :func:`check_comparable` does, and :class:`DataError` for damaged images and for a covariance of zero.
    """
    check_comparable(images.info, against, extractor, metrics)
    layer = extractor.kind.layer_name
    extracted = extract_all(images, extractor, batch, workers, lambda done, total: progress("images", done, total))
    statistics_of(extracted[layer], images.info.name)
    generated = ImageSet(extracted[layer], images.all_uint8, extracted.get(LOGITS), extractor.features)
    real = _real_set(against, extractor, metrics, batch, workers, progress)
    found = estimates_of(metrics, generated, real)
    return {
        "values": {name: one.value for name, one in found.items()},
        "standard_errors": {name: one.standard_error for name, one in found.items() if one.standard_error is not None},
        **_conditions(images.info, against, extractor, metrics),
    }


def _real_set(
    against: Against, extractor: Extractor, metrics: Sequence[Metric], batch: int, workers: int, progress: Progress
) -> ImageSet:
    """What metrics may look at of the real side: features of the data, and the statistics of a file in their place."""
    features, images = torch.empty(0, extractor.kind.width), _none
    statistics_serve = () if against.statistics is None else (FRECHET,)
    if against.data is not None and any(metric not in (INCEPTION_SCORE, *statistics_serve) for metric in metrics):
        data = against.data
        told = extract_all(data, extractor, batch, workers, lambda done, total: progress(against.name, done, total))
        features, images = told[extractor.kind.layer_name], data.all_uint8
        statistics_of(features, data.info.name)
    real = ImageSet(features, images, extractor=extractor.features)
    if against.statistics is not None:
        put_statistics(real, against.statistics.as_statistics)
    return real


def _none() -> Tensor:
    raise DataError("a file of statistics holds no images")


def put_statistics(real: ImageSet, known: Statistics) -> None:
    """Have the Fréchet distance to `real` taken to `known` statistics: in float64, and as torch-fidelity holds them."""
    mean = known.mean.astype(np.float32)
    real.once("torch-fidelity", lambda: {"mu": mean, "sigma": known.covariance})
    real.once("statistics", lambda: known)


def _conditions(info: DataInfo, against: Against, extractor: Extractor, metrics: Sequence[Metric]) -> dict[str, Any]:
    kind, known, data = extractor.kind, against.statistics, against.data
    inception = extractor.is_official_inception
    counts = [
        info.images,
        *([data.info.images] if data else []),
        *([known.made.images] if known and known.made else []),
    ]
    subsets = None
    if data is not None and METRICS["kernel"] in metrics:
        subsets = vars(KernelSubsets.usual(extractor.features, info.images, data.info.images))
    return {
        "images": {
            "name": info.name,
            "images": info.images,
            "size": info.size,
            "channels": info.channels,
            "fingerprint": info.identity,
        },
        "against": {
            "name": against.name,
            "images": None if data is None else data.info.images,
            "fingerprint": None if data is None else data.info.identity,
            "statistics": None if known is None else _told(known),
        },
        "features": extractor.features,
        "features_label": kind.label,
        "extractor": extractor.identity,
        "official": extractor.official,
        "resizing": kind.preprocessing,
        "measures": {
            measure.name: {"label": measure.label_for(kind.label, inception), "better": measure.better}
            for metric in metrics
            for measure in metric.measures
        },
        "kernel_subsets": subsets,
        "covariance_singular": min(counts) <= kind.width,
        "notes": list(_notes(info, against, extractor, metrics)),
    }


def _told(known: StatisticsFile) -> dict[str, Any]:
    return {"file": str(known.path), **({"made": vars(known.made)} if known.made else {"made": None})}


def _notes(info: DataInfo, against: Against, extractor: Extractor, metrics: Sequence[Metric]) -> list[str]:
    notes = list(against.statistics.notes) if against.statistics else []
    if FRECHET not in metrics:
        notes = []
    elif against.statistics and against.data:
        notes.append(
            f"{against.name}: the Fréchet distance is to the file's statistics, the rest to its images, as ADM has it"
        )
    if FRECHET in metrics and info.images <= extractor.kind.width:
        notes.append(
            f"{info.images} images for {extractor.kind.width} features: their covariance is singular, and the Fréchet "
            "distance falls with their number; compare equal numbers only"
        )
    if against.data is not None and against.data.info.identity == info.identity:
        notes.append("both sides are the same images")
    if extractor.features == "inception" and not extractor.official:
        notes.append("not the official weights: not to be compared with published figures, nor called FID")
    return notes


def statistics_of_data(
    data: Dataset, extractor: Extractor, batch: int, workers: int, progress: Progress
) -> tuple[Statistics, Made]:
    """Statistics of all images of `data`, and what they are of."""
    told = extract_all(data, extractor, batch, workers, lambda done, total: progress(data.info.name, done, total))
    found = statistics_of(told[extractor.kind.layer_name], data.info.name)
    return found, replace(made_of(data.info, extractor), images=found.count)
