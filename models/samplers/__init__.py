"""The samplers by name. A further one is a module here, which ends with its ``SAMPLER``, and a line below."""

from __future__ import annotations

from importlib import import_module

from models.samplers.base import Option, Sampler

MODULES = (
    "ancestral",
    "ddim",
    "heun",
    "dpmpp_2m",
)
_DECLARED: list[Sampler] = [import_module(f"{__name__}.{module}").SAMPLER for module in MODULES]
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _DECLARED}

__all__ = ["SAMPLERS", "Option", "Sampler"]
