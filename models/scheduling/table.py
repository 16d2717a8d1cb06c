"""What is measured of a network on pairs of times, as a function of both.

ℓ(t, τ) = E‖x − g(z_t; e_τ)‖² per dimension, where z_t ~ q(z_t | x), z_τ ~ q(z_τ | z_t), τ ≥ t, and e_τ is what the
network keeps of a refresh at τ. With q Markov, the bound of an ancestral sampler is Σ W(t, s) ℓ(t, τ) over its steps,
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from models.scheduling.objectives import OBJECTIVES, Errors, Floats

LEAST_LOSS = 1e-14
"""A smaller error is the rounding of float32; it may be none at all, which has no logarithm."""


class Estimate(NamedTuple):
    """A mean with its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class PairTable:
    """Errors at levels 0 … T − 1, in the order of sampling: 0 is the noisiest. Float64.

    Entry [i, a] is of z at level i with the context of level a ≤ i; those above the diagonal have no meaning.

    Attributes:
        log_snr: (T,), rising.
        losses: (N, T, T), of each image, per dimension.
        changes: (N, T, T), ‖g(z_t; e_τ) − g(z_t; e_t)‖² per dimension.
        dissimilarity: (T, T), 1 − cos of what is kept of refreshes at two levels of one sampling run; None where that
            was not measured.
    """

    log_snr: Floats
    losses: Floats
    changes: Floats
    dissimilarity: Floats | None = None

    def __post_init__(self) -> None:
        levels = len(self.log_snr)
        shapes = [self.losses.shape[1:], self.changes.shape[1:]]
        shapes += [] if self.dissimilarity is None else [self.dissimilarity.shape]
        if levels < 2 or not (np.diff(self.log_snr) > 0).all() or any(shape != (levels, levels) for shape in shapes):
            raise ValueError("pair table: the log-SNRs must rise, with an error for each pair of them")
        for values in (self.losses, self.changes):
            if not np.isfinite(values[:, *np.tril_indices(levels)]).all():
                raise ValueError("pair table: an error is not finite")

    @classmethod
    def of(cls, tensors: Mapping[str, ArrayLike]) -> PairTable:
        """Of tensors or arrays by name, as :meth:`plain` gives them."""
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()}
        levels = len(arrays["log_snr"])
        return cls(
            arrays["log_snr"],
            _square(arrays["losses"], levels),
            _square(arrays["changes"], levels),
            arrays.get("dissimilarity"),
        )

    @property
    def images(self) -> int:
        """How many were measured."""
        return len(self.losses)

    def part(self, start: int) -> PairTable:
        """Of every second image, from `start`."""
        return replace(self, losses=self.losses[start::2], changes=self.changes[start::2])

    @property
    def loss(self) -> Floats:
        """ℓ (T, T), the mean over images."""
        return np.asarray(self.losses.mean(0))

    @property
    def loss_error(self) -> Floats:
        """Its standard error (T, T)."""
        return _standard_error(self.losses)

    @property
    def excess(self) -> Floats:
        """ℓ(t, τ) − ℓ(t, t) (T, T)."""
        return self.loss - np.diagonal(self.loss)[:, None]

    @property
    def excess_error(self) -> Floats:
        """Its standard error (T, T); both losses are of the same images and noise."""
        return _standard_error(self.losses - np.diagonal(self.losses, axis1=1, axis2=2)[:, :, None])

    @property
    def change(self) -> Floats:
        """E‖g(z_t; e_τ) − g(z_t; e_t)‖² (T, T): the excess of a network whose fresh estimate is the posterior mean,
        for then x ⟂ z_τ given z_t makes the cross term vanish."""
        return np.asarray(self.changes.mean(0))

    @property
    def change_error(self) -> Floats:
        """Its standard error (T, T)."""
        return _standard_error(self.changes)

    def errors(self, kind: Errors, log_snr: Floats) -> Floats:
        """The errors that an objective weighs, at the log-SNRs (N,) of a grid's steps: (N, N).

        Raises ValueError where they were not measured.
        """
        if kind == "loss":
            return interpolated(self.log_snr, self.loss, log_snr)
        if self.dissimilarity is None:
            raise ValueError("pair table: what is kept of a refresh was not compared")
        return _interpolated_ratio(self.log_snr, self.dissimilarity, log_snr)

    def bound(
        self, objective: str, bias: float, log_snr: Floats, anchors: Floats, over: Floats | None = None
    ) -> Estimate:
        """The bound of a schedule in nats per dimension, and its standard error over images.

        Its steps begin at `log_snr` (n + 1,), the last entry being the end, with the contexts of `anchors` (n,). With
        `over`, of the difference to the schedule of that many entries, see :meth:`bounds`.
        """
        values = self.bounds(objective, bias, log_snr, anchors)
        values = values if over is None else over - values
        return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

    def bounds(self, objective: str, bias: float, log_snr: Floats, anchors: Floats) -> Floats:
        """The bound of a schedule for each image, (N,)."""
        weights = np.diagonal(OBJECTIVES[objective].weights(log_snr, bias), 1)
        mean = self.loss
        at_knots = _weights_of_knots(self.log_snr, mean, log_snr[:-1], anchors)
        # interpolation is linear in the ratio to the loss without a lag, so that each image has its share of it
        share = np.einsum("s,sij->ij", weights, at_knots)
        lower = np.tril_indices(len(self.log_snr))
        return np.asarray(self.losses[:, lower[0], lower[1]] @ share[lower])

    def interpolation_error(self) -> tuple[float, float]:
        """(mean, largest) relative error of ℓ at the levels that are left out, interpolated from every second one.

        That of interpolation from all levels is smaller: by about four where ℓ is smooth.
        """
        if len(self.log_snr) < 5:
            raise ValueError("pair table: too few levels to leave some out")
        kept = np.arange(0, len(self.log_snr), 2)
        inside = np.arange(kept[-1] + 1)
        coarse = interpolated(self.log_snr[kept], self.loss[np.ix_(kept, kept)], self.log_snr[inside])
        places = [(i, a) for i in inside for a in range(i + 1) if i % 2 or a % 2]
        relative = np.array([abs(coarse[i, a] / max(self.loss[i, a], LEAST_LOSS) - 1) for i, a in places])
        return float(relative.mean()), float(relative.max())


def _square(values: Floats, levels: int) -> Floats:
    """(N, T, T) of the (N, T (T + 1) / 2) entries on and below the diagonal; those above it are 0."""
    if values.ndim == 3:
        return values
    rows, columns = np.tril_indices(levels)
    whole = np.zeros((len(values), levels, levels))
    whole[:, rows, columns] = values
    return whole


def _standard_error(values: Floats) -> Floats:
    return np.asarray(values.std(0, ddof=1) / np.sqrt(len(values)))


def interpolated(knots: Floats, loss: Floats, log_snr: Floats) -> Floats:
    """ℓ at all pairs of `log_snr` (N,): (N, N), of which those above the diagonal are 0.

    ℓ(t, t) is linear in log ℓ over λ_t, and ℓ(t, τ)/ℓ(t, t) − 1, 0 at τ = t, linear over (λ_t, λ_τ): in four corners,
    and in three next to the diagonal. Outside the knots it is what it is at the nearest.
    """
    fresh = np.exp(np.interp(log_snr, knots, np.log(np.diagonal(loss).clip(LEAST_LOSS))))
    ratio = loss / np.diagonal(loss).clip(LEAST_LOSS)[:, None] - 1
    return np.tril(fresh[:, None] * (1 + _interpolated_ratio(knots, ratio, log_snr)))


def _interpolated_ratio(knots: Floats, values: Floats, log_snr: Floats) -> Floats:
    """Values (T, T), 0 on the diagonal, at all pairs of `log_snr`: (N, N), 0 above the diagonal."""
    rows, columns = np.tril_indices(len(log_snr))
    found = np.zeros((len(log_snr), len(log_snr)))
    for i, a, share in _corners(knots, log_snr[rows], log_snr[columns]):
        found[rows, columns] += share * values[i, a]
    return found


def _corners(knots: Floats, at: Floats, anchor: Floats) -> list[tuple[np.ndarray, np.ndarray, Floats]]:
    """(i, a, share) of the knots around pairs of log-SNRs, (P,) each, anchor ≤ at: none above the diagonal."""
    u, i = _place(knots, at)
    v, a = _place(knots, anchor)
    beside = i == a  # in a cell that the diagonal cuts: its corners (i, a), (i + 1, a) and (i + 1, a + 1)
    zero = np.zeros_like(u)
    return [
        (i, a, np.where(beside, 1 - u, (1 - u) * (1 - v))),
        (i + 1, a, np.where(beside, u - v, u * (1 - v))),
        (i + 1, a + 1, np.where(beside, v, u * v)),
        (i, np.where(beside, a, a + 1), np.where(beside, zero, (1 - u) * v)),
    ]


def _place(knots: Floats, values: Floats) -> tuple[Floats, np.ndarray]:
    """(share of the way to the next knot, in [0, 1]; the knot before)."""
    before = np.clip(np.searchsorted(knots, values, side="right") - 1, 0, len(knots) - 2)
    share = (values - knots[before]) / (knots[before + 1] - knots[before])
    return np.clip(share, 0.0, 1.0), before


def _weights_of_knots(knots: Floats, loss: Floats, at: Floats, anchor: Floats) -> Floats:
    """For each of the pairs (S,): by how much ℓ grows with the loss at each knot, (S, T, T); its sum with the mean
    losses is ℓ itself.

    ℓ(t, τ) = f(t) Σ share · ℓ_{i a}/ℓ_{i i}: for single images ℓ_{i i} is that of the mean, which is linear in them.
    """
    fresh = np.exp(np.interp(at, knots, np.log(np.diagonal(loss).clip(LEAST_LOSS))))
    weights = np.zeros((len(at), len(knots), len(knots)))
    steps = np.arange(len(at))
    for i, a, share in _corners(knots, at, anchor):
        np.add.at(weights, (steps, i, a), fresh * share / np.diagonal(loss).clip(LEAST_LOSS)[i])
    return weights
