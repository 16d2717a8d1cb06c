"""The kernel distance (squared MMD with a cubic kernel) between features: KID, where they are Inception's [KID]."""

from __future__ import annotations

from dataclasses import dataclass

from harness.metrics.declare import ImageSet, Measure, Metric, Values
from harness.metrics.fidelity_options import checked


@dataclass(frozen=True)
class KernelSubsets:
    """How it is estimated: the mean over `count` random subsets of `size` images of each side."""

    count: int
    size: int

    @classmethod
    def usual(cls, features: str, images: int, reference_images: int) -> KernelSubsets:
        """100 of 1 000 for Inception, the literature's; else 20 of 500. At most half of the smaller side, at least 2.

        A subset that were all images would give a deviation of zero: an uncertainty that is not there.
        """
        count, size = (100, 1000) if features == "inception" else (20, 500)
        return cls(count, max(2, min(size, min(images, reference_images) // 2)))


def compute(generated: ImageSet, real: ImageSet) -> Values:
    """The mean over subsets (unbiased, so it may be slightly negative) and the standard deviation over them."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    subsets = KernelSubsets.usual(generated.extractor, len(generated), len(real))
    options = checked(kid_subsets=subsets.count, kid_subset_size=subsets.size)
    found = kid_features_to_metric(generated.features, real.features, **options)
    return {"kernel": found[KEY_METRIC_KID_MEAN], "kernel_std": found[KEY_METRIC_KID_STD]}


METRIC = Metric(
    name="kernel",
    measures=(Measure("kernel", label="KD-{features}", inception_label="KID"),),
    compute=compute,
    always=True,
)
