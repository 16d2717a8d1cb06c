"""The Fréchet distance between Gaussians fitted to features: FID, where they are Inception's [FID]."""

from __future__ import annotations

from harness.metrics.declare import Estimate, ImageSet, Measure, Metric, Values


def compute(generated: ImageSet, real: ImageSet) -> Values:
    """torch-fidelity's value, which is the one reported; an independent one in float64, and its standard error."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    from harness.metrics.frechet_distance import distance_and_standard_error, statistics

    of_real = real.once("torch-fidelity", lambda: fid_features_to_statistics(real.features))
    own = fid_features_to_statistics(generated.features)
    distance = fid_statistics_to_metric(own, of_real, verbose=False)[KEY_METRIC_FID]
    target = real.once("statistics", lambda: statistics(real.features.numpy()))
    independent, error = distance_and_standard_error(generated.features.numpy(), target)
    return {"frechet": Estimate(distance, error), "frechet_float64": independent}


METRIC = Metric(
    name="frechet",
    measures=(Measure("frechet", label="FD-{features}", inception_label="FID"),),
    compute=compute,
    always=True,
)
