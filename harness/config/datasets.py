"""The data sets that `data.name` can name, and what a configuration is checked against before their data are opened.

To add one, write a module of its name in `harness/data/` (:mod:`harness.data.sets` says what it needs) and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSetFacts:
    """What is known of a data set from its name alone; None stands for what only the data can tell.

    Attributes:
        description: a phrase.
        needs_path: whether ``data.path`` says where it lies; else it takes none.
        size: the one side that its images have, in pixels.
        classes: number of its classes.
        splits: which of "train" and "test" it has.
    """

    description: str
    needs_path: bool = True
    size: int | None = None
    classes: int | None = None
    splits: tuple[str, ...] = ("train", "test")


DATA_SETS = {
    "digits": DataSetFacts("scikit-learn's 8×8 digits", needs_path=False, size=8, classes=10, splits=("train",)),
    "cifar10": DataSetFacts("CIFAR-10's archive", classes=10),
    "images": DataSetFacts("a folder or zip of images"),
}
