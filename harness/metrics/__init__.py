"""What is measured of images: one module per metric, and one per feature extractor under ``extractors/``.

A module declares what its metric is called, what it needs, how it is computed and which way is better. Importing one
is cheap: torch is imported where something is computed, so that configurations and reports know every metric by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.metrics import frechet, inception_score, kernel, precision_recall
from harness.metrics.declare import Measure, Metric, by_name

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        frechet.METRIC,
        kernel.METRIC,
        inception_score.METRIC,
        precision_recall.METRIC,
    )
}
"""Every metric of the package by name, in the order of the columns of tables."""
DEFAULT = "frechet"
"""The measure that rows are ranked and compared by unless another is asked for."""


def metric_of(name: str) -> Metric:
    """The metric called `name`: one of :data:`METRICS`, or ``package.module:NAME``. Raises ValueError."""
    return by_name(name, METRICS, Metric)


def measures() -> Mapping[str, Measure]:
    """Every number that the package's metrics give, by its name in records."""
    return {measure.name: measure for metric in METRICS.values() for measure in metric.measures}
