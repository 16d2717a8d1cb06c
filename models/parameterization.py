"""What a network sees of z_t, and how its output becomes x̂."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from models.limits import SIGMA_DATA
from models.process import Kind, alpha_sigma, per_image, to_x


class Parameterization(Protocol):
    """How a network's input comes from z, and x̂ from its output."""

    def input(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """What the network sees."""

    def estimate(self, output: Tensor, z: Tensor, log_snr: Tensor) -> Tensor:
        """x̂."""


@dataclass(frozen=True)
class Prediction:
    """The network sees z and predicts v, x or ε."""

    kind: Kind = "v"

    def input(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return z

    def estimate(self, output: Tensor, z: Tensor, log_snr: Tensor) -> Tensor:
        return to_x(output.to(z.dtype), z, log_snr, self.kind)


@dataclass(frozen=True)
class Preconditioning:
    """EDM's preconditioning [EDM, table 1], on the variance preserving scale.

    With y = z/α, σ = σ_t/α and s = sigma_data: c_in y = z/d, c_skip y = s² α z/d², c_out = σ_t s/d, where d²
    = σ_t² + α² s². Its c_noise = ln(σ)/4 = −λ/8 is a scaling of λ, which the network's embedding has already.
    """

    sigma_data: float = SIGMA_DATA

    def _norm(self, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = (per_image(value, z) for value in alpha_sigma(log_snr))
        return alpha, sigma, (sigma.square() + (alpha * self.sigma_data).square()).sqrt()

    def input(self, z: Tensor, log_snr: Tensor) -> Tensor:
        return z / self._norm(z, log_snr)[2]

    def estimate(self, output: Tensor, z: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma, norm = self._norm(z, log_snr)
        skip = self.sigma_data**2 * alpha / norm.square()
        return skip * z + sigma * self.sigma_data / norm * output.to(z.dtype)


def parameterization_of(diffusion: Any) -> Parameterization:
    """The one that a configuration's section `diffusion` names."""
    if diffusion.preconditioning == "edm":
        return Preconditioning(diffusion.sigma_data)
    return Prediction() if diffusion.prediction is None else Prediction(diffusion.prediction)
