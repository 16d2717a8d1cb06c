"""Improved precision and recall: the share of generated images that lie where real ones do, and the reverse."""

from __future__ import annotations

from harness.metrics.declare import ImageSet, Measure, Metric, Values
from harness.metrics.fidelity_options import checked

NEIGHBOURS = 3
"""k of the k-nearest-neighbour radius of each image, as in the literature."""


def compute(generated: ImageSet, real: ImageSet) -> Values:
    """Both, from 0 to 1."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    options = checked(save_cpu_ram=True, prc_neighborhood=NEIGHBOURS)
    found = prc_features_to_metric(generated.features, real.features, **options)  # generated images first
    return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


METRIC = Metric(
    name="precision_recall",
    measures=(Measure("precision", better="higher"), Measure("recall", better="higher")),
    compute=compute,
    least_images=NEIGHBOURS + 1,
    least_because=f"measure.precision_recall (of {NEIGHBOURS} neighbours)",
    flag="precision_recall",
)
