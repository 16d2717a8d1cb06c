"""The methods by name. A further one is a module here and a line below, or any class (`package.module:Class`)."""

from __future__ import annotations

from models.methods.base import Configuration, ImageShape, Loss, Method, Settings, StartNames
from models.methods.dual_rate import DualRateMethod
from models.methods.single_rate import SingleRateMethod

METHODS: dict[str, Method] = {
    "single_rate": SingleRateMethod(),
    "dual_rate": DualRateMethod(),
}
for _kind, _method in METHODS.items():
    _method.kind = _kind

__all__ = ["METHODS", "Configuration", "ImageShape", "Loss", "Method", "Settings", "StartNames"]
