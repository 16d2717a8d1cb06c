"""Data: opened by configuration, loaded by index, identified by content.

>>> from harness.config.schema import DataConfig
>>> images, labels = open_data(DataConfig(name="digits")).load([0, 1])
>>> images.shape, images.dtype
(torch.Size([2, 1, 8, 8]), torch.uint8)

Names are imported when they are first used: :func:`fingerprint` works without waiting for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.data.damage import DamagedImageError
    from harness.data.dataset import DataInfo, Dataset
    from harness.data.fingerprints import fingerprint
    from harness.data.loader import Batch, Throughput, batches, loader_throughput
    from harness.data.opening import counted_images, known_info, network_info, open_data

__all__ = [
    "Batch",
    "DamagedImageError",
    "DataInfo",
    "Dataset",
    "Throughput",
    "batches",
    "counted_images",
    "fingerprint",
    "known_info",
    "loader_throughput",
    "network_info",
    "open_data",
]
_HOMES = {
    "DamagedImageError": "damage",
    "DataInfo": "dataset",
    "Dataset": "dataset",
    "fingerprint": "fingerprints",
    "counted_images": "opening",
    "known_info": "opening",
    "network_info": "opening",
    "open_data": "opening",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'loader')}"), name)
