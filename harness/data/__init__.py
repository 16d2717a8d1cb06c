"""Data: opened by configuration, loaded by index, identified by content.

>>> from harness.config import DataConfig
>>> images, labels = open_data(DataConfig(name="digits")).load([0, 1])
>>> images.shape, images.dtype
(torch.Size([2, 1, 8, 8]), torch.uint8)
"""

from harness.data.dataset import DamagedImageError, DataInfo, Dataset
from harness.data.loader import Batch, Throughput, batches, loader_throughput
from harness.data.opening import fingerprint, open_data

__all__ = [
    "Batch",
    "DamagedImageError",
    "DataInfo",
    "Dataset",
    "Throughput",
    "batches",
    "fingerprint",
    "loader_throughput",
    "open_data",
]
