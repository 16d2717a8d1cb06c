"""A CUDA device that is not there: its tensors have shapes and no values, those of the host are as always.

An operator that mixes tensors of the two raises, as it would on a GPU, and so does all that the host would have to wait
for the device for: a value that is read, a copy to the host, a shape that depends on values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda")


class Waits(AssertionError):
    """The host waited for the device."""


class PretendedDevice(TorchDispatchMode):
    """Operators on the device are traced, those on the host run.

    Attributes:
        operators: how many ran on the device.
        uploads: copies from the host to the device. Of pageable memory such a copy waits, too.
        strict: whether an upload of more than one value raises.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake
        self.operators = self.uploads = 0
        self.strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        traced = any(isinstance(leaf, FakeTensor) for leaf in leaves)
        target = next((leaf.type for leaf in leaves if isinstance(leaf, torch.device)), None)
        if not traced and target != DEVICE.type:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        name = str(func)
        if traced and target == "cpu":
            raise Waits(f"{name}: the host waits for a copy from the device")
        real = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)]
        if any(tensor.numel() > 1 for tensor in real) or (real and target == DEVICE.type):
            self.uploads += 1
            if self.strict:
                raise Waits(f"{name}: a copy to the device, which the host waits for")
        self.operators += 1
        try:
            with self._fake:
                return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Waits(f"{name}: the host needs to know a value of the device") from error


@contextmanager
def pretended_device() -> Iterator[PretendedDevice]:
    """Within the block there is a CUDA device, of which no tensor has values.

    Modules are to be made there, within ``with DEVICE``: parameters without values cannot be moved.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with mock.patch.object(nn.Module, "to", lambda module, *_, **__: module), fake, PretendedDevice(fake) as mode:
        yield mode
