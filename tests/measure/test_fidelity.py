"""What the measures mean: which input is real, what they are for equal sets, and the conditions told with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config.schema import MeasureConfig
from harness.errors import ConfigError, DataError
from harness.measure.features import Extractor, load_extractor
from harness.measure.fidelity import QualityMeter, measure_quality, quality_meter, to_uint8
from harness.measure.reference import Reference
from harness.measure.train_digits_extractor import digits
from harness.metrics import METRICS, fidelity_options
from harness.metrics.extractors import EXTRACTORS
from harness.metrics.frechet_distance import small_sample_bias
from harness.metrics.kernel import KernelSubsets

IMAGES, CLASSES = digits()
REAL = Reference("digits train", "digits", lambda: IMAGES)


def measured(generated: Tensor, reference: Reference = REAL, **settings: Any) -> dict[str, Any]:
    return measure_quality(generated, reference, MeasureConfig(**settings))


def test_rounding_to_bytes() -> None:
    values = torch.tensor([-1.0, 1.0, 0.0, -1.5, 1.5, 0.5 / 127.5, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1])
    assert to_uint8(values).tolist() == [0, 255, 128, 0, 255, 128, 0, 1]
    steps = torch.arange(256)
    assert torch.equal(to_uint8(steps / 127.5 - 1), steps.to(torch.uint8))
    assert to_uint8(values.double()).dtype == torch.uint8
    for bad in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="finite"):
            to_uint8(torch.tensor([0.0, bad]))


def test_a_set_is_at_no_distance_from_itself() -> None:
    quality = measured(IMAGES, precision_recall=True)["values"]
    assert quality["frechet"] == pytest.approx(0, abs=1e-4)
    assert quality["frechet_float64"] == pytest.approx(0, abs=1e-4)
    assert abs(quality["kernel"]) < 3 * quality["kernel_std"]
    assert quality["precision"] == quality["recall"] == 1


def test_both_computations_of_the_distance_agree() -> None:
    quality = measured(IMAGES[CLASSES < 8])
    distance = quality["values"]["frechet"]
    assert distance == pytest.approx(quality["values"]["frechet_float64"], rel=1e-3)
    assert distance > 20 * quality["standard_errors"]["frechet"] / 2 > 0


def test_worse_images_are_further_away() -> None:
    noise = torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(IMAGES + noise * deviation).round().clamp(0, 255).to(torch.uint8) for deviation in (20, 60, 120)]
    values = [measured(images)["values"] for images in noisy]
    for measure in ("frechet", "kernel"):
        assert values[0][measure] < values[1][measure] < values[2][measure]


def test_the_generated_images_are_the_first_input() -> None:
    """A generator of zeros alone: what it makes is real (precision), most of what is real it never makes (recall)."""
    zeros = IMAGES[CLASSES == 0]
    narrow = measured(zeros, precision_recall=True)["values"]
    assert narrow["precision"] == 1
    assert narrow["recall"] < 0.2
    wide = measured(IMAGES, Reference("zeros", "zeros", lambda: zeros), precision_recall=True)["values"]
    assert wide["precision"] < 0.2
    assert wide["recall"] == 1


def test_the_conditions_are_told() -> None:
    quality = measured(IMAGES[:100])
    assert quality["features"] == "digits"
    labels = {name: measure["label"] for name, measure in quality["measures"].items()}
    assert labels == {"frechet": "FD-digits", "kernel": "KD-digits"}
    assert quality["images"] == 100
    reference = quality["reference"]
    assert (reference["name"], reference["images"], reference["fingerprint"]) == ("digits train", 1797, "digits")
    assert quality["kernel_subsets"] == {"count": 20, "size": 50}
    assert set(quality["values"]) == {"frechet", "frechet_float64", "kernel", "kernel_std"}
    assert set(quality["standard_errors"]) == {"frechet"}


def test_too_few_images_are_flagged_and_one_is_refused() -> None:
    assert measured(IMAGES[:64])["covariance_singular"]
    assert not measured(IMAGES[:65])["covariance_singular"]
    few = Reference("few", "few", lambda: IMAGES[:64])
    assert measured(IMAGES, few)["covariance_singular"]
    assert np.isfinite(list(measured(IMAGES[:2])["values"].values())).all()
    with pytest.raises(DataError, match="frechet of 1 generated images"):
        measured(IMAGES[:1])


def test_features_of_the_generated_are_extracted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[int] = []
    extract = Extractor.extract

    def counting(self: Extractor, images: Tensor, batch: int, progress: Any = None) -> dict[str, Tensor]:
        sets.append(len(images))
        return extract(self, images, batch)

    monkeypatch.setattr(Extractor, "extract", counting)
    measured(IMAGES[:300], precision_recall=True)
    assert sorted(sets) == [300, 1797]


def test_a_perfect_generators_score_is_the_bias_of_n() -> None:
    meter = quality_meter(REAL, MeasureConfig())
    features = meter.extractor.extract(IMAGES, 250)["64"].numpy()
    few, many = small_sample_bias(features, (200, 800), repeats=4)
    assert few.mean > 3 * many.mean > 0
    draws = torch.randint(len(IMAGES), (800,), generator=torch.Generator().manual_seed(0))
    assert meter.measure(IMAGES[draws])["frechet"].value == pytest.approx(many.mean, rel=0.5)


def test_a_rerun_gives_the_same_figures_to_the_bit(tmp_path: Path) -> None:
    generated = IMAGES[:400].flip(-1)
    runs = [measure_quality(generated, REAL, MeasureConfig(), tmp_path) for _ in range(3)]  # extracted, then cached
    assert runs[0] == runs[1] == runs[2]


class Oracle(Extractor):
    """Stands in for Inception: sure of one of four classes, in turn."""

    def extract(self, images: Tensor, batch: int, progress: Any = None) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(len(images))
        logits = 100.0 * torch.nn.functional.one_hot(torch.arange(len(images)) % 4, 1008)
        return {"64": torch.randn(len(images), 64, generator=random), "logits": logits}


def oracle_meter() -> QualityMeter:
    kind = dataclasses.replace(EXTRACTORS["inception"], width=64)
    oracle = Oracle("inception", kind, load_extractor("digits").module, torch.device("cpu"), "oracle", official=False)
    return QualityMeter(oracle, REAL, [METRICS["inception_score"]])


def test_the_inception_score_counts_the_classes_that_are_told_apart() -> None:
    values = oracle_meter().measure(IMAGES[:1000])
    assert values["inception_score"].value == pytest.approx(4, rel=0.02)
    assert values["inception_score_std"].value < 0.05


def test_an_inception_score_without_a_meaning_is_refused() -> None:
    with pytest.raises(DataError, match="10 splits"):
        oracle_meter().measure(IMAGES[:9])
    with pytest.raises(ConfigError, match="inception_score: needs features: inception, not digits"):
        measured(IMAGES[:10], inception_score=True)


def test_a_misspelt_option_of_torch_fidelity_raises() -> None:
    assert fidelity_options.checked(kid_subsets=3) == {"verbose": False, "kid_subsets": 3}
    with pytest.raises(TypeError, match="kid_subset_count"):
        fidelity_options.checked(kid_subset_count=3)


def test_kernel_subsets_never_hold_all_images() -> None:
    """A subset that is the whole set would give a deviation of zero: an uncertainty that is not there."""
    assert KernelSubsets.usual("inception", 50_000, 50_000) == KernelSubsets(100, 1000)
    assert KernelSubsets.usual("digits", 2000, 1797) == KernelSubsets(20, 500)
    assert KernelSubsets.usual("digits", 300, 1797).size == 150
    assert KernelSubsets.usual("digits", 3, 1797).size == 2
