"""The Fréchet distance against closed forms and independent computations; its standard error against replication."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from harness.benchmarks.bias import main
from harness.errors import ConfigError
from harness.measure.features import load_extractor
from harness.measure.train_digits_extractor import digits
from harness.metrics.frechet_distance import (
    Statistics,
    distance_and_standard_error,
    frechet_distance,
    held_out_bias,
    small_sample_bias,
    statistics,
)

RANDOM = np.random.default_rng(0)


def gaussian(dimensions: int, count: int = 500) -> np.ndarray:
    mixing = RANDOM.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)
    return RANDOM.normal(size=(count, dimensions)) @ mixing


def test_a_set_is_at_no_distance_from_itself() -> None:
    features = gaussian(12)
    scale = np.trace(statistics(features).covariance)
    assert frechet_distance(statistics(features), statistics(features)) == pytest.approx(0, abs=1e-12 * scale)


def test_a_shift_costs_its_square() -> None:
    features, shift = gaussian(12), RANDOM.normal(size=12)
    distance = frechet_distance(statistics(features + shift), statistics(features))
    assert distance == pytest.approx(shift @ shift, rel=1e-7)


def test_a_scaling_costs_the_squared_difference_of_deviations() -> None:
    features = gaussian(12)
    own = statistics(features)
    scaled = Statistics(own.mean, 1.5**2 * own.covariance, own.count)
    assert frechet_distance(scaled, own) == pytest.approx(0.25 * np.trace(own.covariance), rel=1e-10)


def test_symmetric_and_unchanged_by_a_common_rotation() -> None:
    a, b = gaussian(8), 0.7 * gaussian(8) + 0.2
    rotation = np.linalg.qr(RANDOM.normal(size=(8, 8)))[0]
    expected = frechet_distance(statistics(a), statistics(b))
    assert frechet_distance(statistics(b), statistics(a)) == pytest.approx(expected, rel=1e-10)
    rotated = frechet_distance(statistics(a @ rotation), statistics(b @ rotation))
    assert rotated == pytest.approx(expected, rel=1e-10)


def noisy_digits(count: int, deviation: float) -> torch.Tensor:
    images = digits()[0][:count]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * deviation
    return (images + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("deviation", [4.0, 40.0])
def test_three_computations_agree_on_real_features(deviation: float) -> None:
    extractor = load_extractor("digits")
    real = extractor.extract(digits()[0], 500)["64"]
    generated = extractor.extract(noisy_digits(1500, deviation), 500)["64"]
    ours = frechet_distance(statistics(generated.numpy()), statistics(real.numpy()))
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(generated), fid_features_to_statistics(real), verbose=False
    )[KEY_METRIC_FID]
    a, b = generated.double().numpy(), real.double().numpy()
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    direct = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours == pytest.approx(direct, rel=1e-6)


def replicate(scale: float, shift: float, dimensions: int = 8, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Distances and standard errors of 300 independent sets, against one reference."""
    random = np.random.default_rng(3)
    reference = statistics(random.normal(size=(5000, dimensions)))
    found = [
        distance_and_standard_error(random.normal(size=(count, dimensions)) * scale + shift, reference)
        for _ in range(300)
    ]
    distances, errors = np.array(found).T
    return distances, errors


@pytest.mark.parametrize(("scale", "shift"), [(1.5, 0.0), (1.0, 0.5), (0.6, 0.3)])
def test_the_standard_error_is_the_spread_over_replications(scale: float, shift: float) -> None:
    distances, errors = replicate(scale, shift)
    assert errors.mean() == pytest.approx(distances.std(ddof=1), rel=0.15)  # 300 replications know it to 4 %


def test_the_standard_error_is_cautious_where_the_distance_is_all_bias() -> None:
    distances, errors = replicate(1.0, 0.0)
    assert 1.0 < errors.mean() / distances.std(ddof=1) < 1.6


def test_the_standard_error_equals_the_jackknife() -> None:
    """Leave one out, literally: an independent estimate of the same spread."""
    features = gaussian(5, 300) * 1.3 + 0.4
    reference = statistics(gaussian(5, 800))
    left_out = [frechet_distance(statistics(np.delete(features, i, axis=0)), reference) for i in range(len(features))]
    jackknife = np.sqrt((len(features) - 1) * np.var(left_out))
    distance, error = distance_and_standard_error(features, reference)
    assert error == pytest.approx(jackknife, rel=0.03)
    assert distance == pytest.approx(frechet_distance(statistics(features), reference), rel=1e-10)


def test_more_images_a_smaller_error() -> None:
    reference = statistics(gaussian(6, 900))
    features = gaussian(6, 1600)
    few, many = (distance_and_standard_error(features[:n], reference)[1] for n in (100, 1600))
    assert few == pytest.approx(4 * many, rel=0.35)


def test_of_fewer_images_than_features_it_is_still_finite() -> None:
    features = gaussian(20, 12)
    distance, error = distance_and_standard_error(features, statistics(gaussian(20)))
    assert np.isfinite(distance)
    assert np.isfinite(error)
    with pytest.raises(ValueError, match="N ≥ 2"):
        statistics(features[:1])


def test_the_bias_falls_as_one_over_n() -> None:
    real = RANDOM.normal(size=(4000, 6))
    bias = small_sample_bias(real, (250, 500, 1000), repeats=30)
    assert [b.images for b in bias] == [250, 500, 1000]
    for b in bias:
        # to first order, for Gaussians with Σ = I: d/N of the mean, and E|Σ̂ - I|²/4 = d(d + 1)/4N of the covariance
        assert b.mean == pytest.approx((6 + 6 * 7 / 4) / b.images, rel=0.15)
    again = small_sample_bias(real, (250, 500, 1000), repeats=30)
    assert again == bias
    assert small_sample_bias(real, (250,), repeats=2, seed=1) != small_sample_bias(real, (250,), repeats=2)


def test_images_that_the_reference_does_not_hold_score_its_own_noise_too() -> None:
    """Both sides are draws: to first order the bias is that of N and that of the other half, added."""
    real = RANDOM.normal(size=(4000, 6))
    for bias in held_out_bias(real, (250, 500, 1000), repeats=30):
        assert bias.mean == pytest.approx((6 + 6 * 7 / 4) * (1 / bias.images + 1 / 2000), rel=0.15)
    assert held_out_bias(real, (250,), repeats=3) == held_out_bias(real, (250,), repeats=3)
    with pytest.raises(ValueError, match="2001 images cannot be held out: half of the reference is 2000"):
        held_out_bias(real, (250, 2001))


def test_what_real_digits_score_is_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--images", "200", "500", "1000", "2000", "--repeats", "20", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["reference"] == "FD-digits to digits 8×8 train (1797 images)"
    found = {way: {bias["images"]: bias["mean"] for bias in told[way]} for way in ("resampled", "held out")}
    assert found["resampled"] == pytest.approx({200: 1.18, 500: 0.46, 1000: 0.23, 2000: 0.11}, rel=0.15)
    assert found["held out"] == pytest.approx({200: 1.46, 500: 0.72}, rel=0.2)
    assert all(found["held out"][n] > 1.1 * found["resampled"][n] for n in (200, 500))


@pytest.mark.parametrize("arguments", [["--images", "1"], ["--repeats", "0"]])
def test_what_cannot_be_resampled_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        main(arguments)
