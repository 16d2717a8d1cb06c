"""What samplers share: their interface, the noise levels of a run, and how one declares itself.

A sampler is a pure function from a denoiser and noise to images; it knows no network, no refresh, no label. All share
one signature, ``sampler(denoise, noise, times, schedule, *, callback=None, **options) -> images``:

- ``denoise(z, t, step) -> x̂`` estimates the data, z being (B, C, H, W) on the variance preserving scale and t a 0-dim
  tensor on z's device;
- ``noise.initial()`` is what sampling starts from, and ``noise(step)`` fresh standard normal noise for a step;
- ``times`` is float64, (steps + 1,), falling to 0 (see :mod:`models.spacing`); the last step returns its x̂, and may
  itself stand at time 0;
- ``callback(step, z, x̂)`` sees every step, with the x̂ of its first evaluation.

Every coefficient is a float64 on the host, so that nothing in a loop waits for the device. This package does not import
torch, so that a configuration is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from models.process import CosineSchedule

SpacingName = Literal["time", "karras", "log_snr"]


class Denoiser(Protocol):
    """The denoiser that a sampler calls."""

    def __call__(self, z: Tensor, t: Tensor, step: int) -> Tensor:
        """x̂ for z_t at a step of the sampler."""


class Noise(Protocol):
    """Where a sampler's noise comes from."""

    def initial(self) -> Tensor:
        """Standard normal start."""

    def __call__(self, step: int) -> Tensor:
        """Standard normal noise of a step."""


Callback = Callable[[int, "Tensor", "Tensor"], None]


@dataclass(frozen=True)
class Option:
    """A key of a sampler's own: a number from `low` to `high`, or with `is_range` two of them, rising."""

    description: str
    low: float = 0.0
    high: float | None = None
    above_low: bool = False
    """Whether `low` itself is excluded."""
    is_range: bool = False


@dataclass(frozen=True)
class Sampler:
    """A sampler as it declares itself: all that the rest of the project knows of it.

    Attributes:
        name: in configurations and reports.
        run: the function, with the signature of this module.
        options: its own keys, handed to `run` where they are set.
        spacing: where its steps lie by default.
    """

    name: str
    run: Callable[..., Tensor]
    options: Mapping[str, Option] = field(default_factory=dict)
    spacing: SpacingName = "time"

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        """Sample."""
        return self.run(*arguments, **options)


@dataclass(frozen=True)
class Grid:
    """The noise levels of a run as host floats: t, α, σ_t and λ at each of the steps + 1 times."""

    t: list[float]
    alpha: list[float]
    sigma: list[float]
    log_snr: list[float]

    @classmethod
    def of(cls, times: Tensor, schedule: CosineSchedule) -> Grid:
        """Raises ValueError unless `times` are at least two and end at 0, the steps' own falling strictly."""
        host = times.detach().cpu().double()
        steps = host[:-1]
        if host.ndim != 1 or len(host) < 2 or host[-1] != 0 or steps[-1] < 0 or not bool((steps.diff() < 0).all()):
            raise ValueError(f"times: must fall strictly to 0, not {host.tolist()}")
        log_snr = schedule.log_snr(host)
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        return cls(host.tolist(), alpha.tolist(), sigma.tolist(), log_snr.tolist())

    @property
    def last(self) -> int:
        """The last step."""
        return len(self.t) - 2


def last_step(denoise: Denoiser, z: Tensor, t: Tensor, step: int, callback: Callback | None) -> Tensor:
    """The last step, at the 0-dim time t: its x̂ is the image."""
    x = denoise(z, t, step)
    if callback is not None:
        callback(step, z, x)
    return x
