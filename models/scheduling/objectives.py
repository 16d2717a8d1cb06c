"""What a schedule minimises: a sum over its steps of a weight of the step times an error of its pair (t, τ).

An objective is one function from the log-SNRs of a grid of times, (N + 1,) and rising, to the weight of the step from
each of them to each later one, (N + 1, N + 1); entries on and below the diagonal have no meaning. Steps that the
objective cannot judge weigh infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Errors = Literal["loss", "dissimilarity"]


@dataclass(frozen=True)
class Objective:
    """An objective by the error that it weighs, of those of :class:`models.scheduling.table.PairTable`."""

    errors: Errors
    weights: Callable[[Floats, float], Floats]
    """Of log-SNRs (N + 1,) and the bias b."""


def elbo(log_snr: Floats, bias: float) -> Floats:
    """½ (SNR_s − SNR_t): a step's share of the evidence bound, in nats per dimension [KG]. `bias` plays no part."""
    snr = np.exp(log_snr)
    return _differences(snr) / 2


def sigmoid(log_snr: Floats, bias: float) -> Floats:
    """½ e^b [softplus(λ_s − b) − softplus(λ_t − b)]: the integral over the step of ½ e^λ sigmoid(b − λ) dλ, the
    weighting of training [KG, SiD2]. It tends to :func:`elbo`'s as b grows."""
    return _differences(np.exp(bias) * np.logaddexp(0.0, log_snr - bias)) / 2


def cosine(log_snr: Floats, bias: float) -> Floats:
    """1 for each step to the very next time: DDT's sum of dissimilarities, which cannot tell where to step [DDT]."""
    weights = np.full((len(log_snr), len(log_snr)), np.inf)
    weights[np.arange(len(log_snr) - 1), np.arange(1, len(log_snr))] = 1.0
    return weights


def _differences(values: Floats) -> Floats:
    """(from, to): values[to] − values[from]."""
    return np.asarray(values[None, :] - values[:, None])


OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective("loss", elbo),
    "sigmoid": Objective("loss", sigmoid),
    "cosine": Objective("dissimilarity", cosine),
}
