"""The samplers by name. A further one is a module here and a line below."""

from __future__ import annotations

from models.samplers.ancestral import ANCESTRAL
from models.samplers.base import Option, Sampler
from models.samplers.ddim import DDIM
from models.samplers.dpmpp_2m import DPMPP_2M
from models.samplers.heun import HEUN

SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in (ANCESTRAL, DDIM, HEUN, DPMPP_2M)}

__all__ = ["SAMPLERS", "Option", "Sampler"]
