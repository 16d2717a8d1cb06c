"""The Inception score: how confident a classifier is about each image, and how many classes it finds overall."""

from __future__ import annotations

from harness.metrics.declare import ImageSet, Measure, Metric, Values

SPLITS = 10
"""The score is the mean over this many parts of the images, as in the literature."""


def compute(generated: ImageSet, real: ImageSet) -> Values:
    """Mean and standard deviation over the splits; the real images are not looked at."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    score = isc_features_to_metric(generated.logits, splits=SPLITS)
    return {"inception_score": score[KEY_METRIC_ISC_MEAN], "inception_score_std": score[KEY_METRIC_ISC_STD]}


METRIC = Metric(
    name="inception_score",
    measures=(Measure("inception_score", better="higher"),),
    compute=compute,
    needs=frozenset({"logits"}),
    least_images=SPLITS,
    least_because=f"measure.inception_score (of {SPLITS} splits)",
    flag="inception_score",
)
