"""Data whose exact denoiser x̂(z, λ) = E[x | z] is known: Gaussians and mixtures of them. Float64 throughout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.noise import ImageNoise
from models.process import CosineSchedule, alpha_sigma

SHAPE = (1, 1, 2)
"""Two-dimensional data, as images of one channel, one row and two columns."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ_k weight_k N(mean_k, covariance_k) in two dimensions."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        centred = self.means - self.mean
        between = torch.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + between

    def denoise(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """E[x | z] for z (B, 1, 1, 2), by conditioning each component and weighing it by its evidence."""
        alpha, sigma = alpha_sigma(log_snr.double())
        total = alpha**2 * self.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)  # k 2 2
        away = z.flatten(1) - alpha * self.means[:, None]  # k B 2
        solved = away @ total.inverse()
        evidence = self.weights.log() - torch.logdet(total) / 2 - (away * solved).sum(-1).T / 2  # B k
        estimates = self.means[:, None] + alpha * solved @ self.covariances
        return torch.einsum("bk,kbi->bi", evidence.softmax(1), estimates).reshape(z.shape)

    def denoiser(self, schedule: CosineSchedule) -> ExactDenoiser:
        return ExactDenoiser(self, schedule)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """(count, 1, 1, 2)."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, dtype=torch.float64, generator=generator)
        factors = torch.linalg.cholesky(self.covariances)
        return (self.means[which] + torch.einsum("bij,bj->bi", factors[which], noise)).reshape(count, *SHAPE)


@dataclass(frozen=True)
class ExactDenoiser:
    """What a sampler is handed: ``(z, t, step) -> x̂``."""

    data: Mixture
    schedule: CosineSchedule

    def __call__(self, z: Tensor, t: Tensor, step: int) -> Tensor:
        return self.data.denoise(z, self.schedule.log_snr(t))


def _tensor(values: Sequence[object]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


GAUSSIAN = Mixture(_tensor([1.0]), _tensor([[0.3, -0.5]]), _tensor([[[0.25, 0.12], [0.12, 0.16]]]))
TWO_GAUSSIANS = Mixture(
    _tensor([0.3, 0.7]),
    _tensor([[-0.7, 0.2], [0.5, -0.3]]),
    _tensor([[[0.06, 0.02], [0.02, 0.04]], [[0.05, -0.01], [-0.01, 0.09]]]),
)


class DoubleNoise(ImageNoise):
    """:class:`ImageNoise` in float64."""

    def initial(self) -> Tensor:
        return super().initial().double()

    def __call__(self, step: int) -> Tensor:
        return super().__call__(step).double()


class BasisNoise:
    """Image 0 gets no noise at all; each further image gets one unit in one place: the start, or one step's noise.

    A sampler of Gaussian data is affine in its noise, so its images' mean is image 0 and their covariance the sum of
    the outer products of what each unit adds: exact, without a Monte Carlo error.
    """

    def __init__(self, steps: int) -> None:
        self.count = 1 + 2 * (steps + 1)

    def _units(self, first: int) -> Tensor:
        noise = torch.zeros(self.count, 2, dtype=torch.float64)
        noise[first, 0] = noise[first + 1, 1] = 1
        return noise.reshape(self.count, *SHAPE)

    def initial(self) -> Tensor:
        return self._units(1)

    def __call__(self, step: int) -> Tensor:
        return self._units(3 + 2 * step)

    @staticmethod
    def moments(images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (2,) and covariance (2, 2)."""
        flat = images.flatten(1)
        added = flat[1:] - flat[0]
        return flat[0], added.T @ added


def order(errors: Sequence[float]) -> float:
    """Order of convergence from errors at steps N, 2N, 4N, …: the slope over the last doubling."""
    return math.log2(errors[-2] / errors[-1])
