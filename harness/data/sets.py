"""What a data set's module has: :data:`DATA_SET`, an object of this class. It is called what ``data.name`` is.

The module is imported wherever ids are computed, so what is slow to import, torch included, is imported inside its
functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from harness.config.schema import DataConfig

if TYPE_CHECKING:
    from harness.data.dataset import DataInfo, Dataset


@dataclass(frozen=True)
class DataSet:
    """How a data set is identified and opened.

    Attributes:
        fingerprint: of its images and labels in a split, by content, wherever they lie. Cheap, and without torch.
        info: what a network must know of it, without its data being there where that is possible. Raises
            :class:`harness.errors.MissingDataError` where it is not.
        opened: the images and labels of a split.
    """

    fingerprint: Callable[[DataConfig, str], str]
    info: Callable[[DataConfig], DataInfo]
    opened: Callable[[DataConfig, str], Dataset]


def data_set(name: str) -> DataSet:
    """The data set that ``data.name`` names."""
    found: DataSet = import_module(f"harness.data.{name}").DATA_SET
    return found
