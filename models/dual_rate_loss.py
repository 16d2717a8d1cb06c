"""The loss of Dual-Rate Diffusion [DR]: pairs of times of a context and of the denoiser that is given it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from models.dual_rate import Context, DualRate
from models.limits import Pairing, check_pairs
from models.method import RunNetwork, run_network
from models.noise import Stream
from models.noise_schedule import Drawn, NoiseSchedule, draw, noise_schedule_of
from models.objective import (
    LossSettings,
    Randomness,
    drop_labels,
    observed_error,
    weighted_error,
    weighted_level,
)
from models.process import bridge, deterministic_step, diffuse, markov_step
from models.spacing import time_steps

States = Literal["bridge", "rollout"]
Target = Literal["data", "encoder"]
Grid = Literal["process", "own"]


@dataclass(frozen=True)
class PairSettings:
    """How pairs are drawn.

    Attributes:
        context_dropout: probability that all of an image's context is dropped.
        pairs: how τ is drawn given t: "grid", the times of one number of refreshes; "range", of a number
            drawn per image; "same", τ = t, as DDT trains [DDT].
        refreshes: for "grid" one number; for "range" (fewest, most), log-uniform over the integers; for "same" 1.
        denoiser_times: times the denoiser is trained at per pass of the encoder.
        states: what the denoiser is trained on: "bridge", draws of the Markov process; "rollout", its own DDIM steps
            from z_τ, the states that a deterministic sampler meets. These come from no image, so only the encoder's
            estimate can be their target.
        target: "data", or "encoder": the encoder's own estimate at z_t, which has less variance and costs a run of it.
        encoder_weight: weight of the loss of the encoder's own estimate x̂_τ, which is added where it is above 0.
        grid_steps: for "grid": the steps, even in t, of the sampling that pairs are drawn from, so that t, too, is on
            its grid; None for a t anywhere.
        refresh_grid: where a noise schedule is trained: refreshes lie evenly in the process's time, so that the
            objective does not depend on the schedule ("process"), or in the schedule's own ("own").
    """

    context_dropout: float
    pairs: Pairing
    refreshes: int | tuple[int, int]
    denoiser_times: int
    states: States = "bridge"
    target: Target = "data"
    encoder_weight: float = 0.0
    refresh_grid: Grid = "process"
    grid_steps: int | None = None

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.refreshes, self.denoiser_times, self.grid_steps)
        if self.states not in get_args(States) or self.target not in get_args(Target):
            raise ValueError(f"states, target: {self.states!r}, {self.target!r} are not known")
        if self.states == "rollout" and (self.target != "encoder" or self.pairs == "same"):
            raise ValueError("states: a rollout needs the target encoder, and pairs of two times")

    @property
    def refreshes_range(self) -> tuple[int, int]:
        """(fewest, most)."""
        return (self.refreshes, self.refreshes) if isinstance(self.refreshes, int) else self.refreshes


class Pairs(NamedTuple):
    """Times of the denoiser and of the context it is given, t ≤ τ, of the process."""

    t: Tensor
    """float64 (denoiser_times, B); each is uniform on (0, 1), or over a grid, or of the density of a noise schedule."""
    tau: Tensor
    """float64 (B,)."""
    weight: Tensor | None = None
    """Of each t, what makes the mean loss that of uniform ones, float64 (denoiser_times, B); None for uniform ones."""
    weight_tau: Tensor | None = None
    """The same of τ, float64 (B,)."""

    def levels(self, i: int) -> Drawn:
        """The i-th t."""
        return Drawn(self.t[i], None if self.weight is None else self.weight[i])


def draw_pairs(randomness: Randomness, settings: PairSettings, noise: NoiseSchedule | None = None) -> Pairs:
    """t ~ U(0, 1) and τ = ⌈t·R⌉/R for R refreshes; τ = t for pairs of the same time.

    Further t's are uniform between τ − 1/R and τ, so that each has t's law. With a `noise` schedule all that is uniform
    is so in the schedule's own time. Its refreshes lie evenly in the process's time, so that the law of τ given t is
    what it is without it, or evenly in its own (``refresh_grid``). With ``grid_steps`` pairs are those of a sampling of
    so many steps (:func:`grid_pairs`). Raises ValueError for these with a noise schedule.
    """
    own = randomness.time()
    if settings.grid_steps is not None:
        if noise is not None:
            raise ValueError("grid_steps: a noise schedule finds a density of times, and takes no grid of them")
        later = randomness.uniform(Stream.LATER_TIME, (settings.denoiser_times - 1,)).double().T
        return grid_pairs(own, later, settings.grid_steps, settings.refreshes_range[0])
    first = draw(noise, own)
    if settings.pairs == "same":
        return Pairs(first.time[None], first.time, None if first.weight is None else first.weight[None], first.weight)
    low, high = settings.refreshes_range
    refreshes = torch.full_like(own, low)
    if high > low:
        chosen = randomness.uniform(Stream.REFRESHES).double()
        refreshes = (low * torch.exp(chosen * math.log((high + 1) / low))).floor().clamp(low, high)
    later = randomness.uniform(Stream.LATER_TIME, (settings.denoiser_times - 1,)).double().T
    if noise is None:
        tau = (own * refreshes).ceil() / refreshes
        return Pairs(torch.cat([own[None], tau - later / refreshes]).clamp(min=0), tau)
    if settings.refresh_grid == "own":
        own_end = (own * refreshes).ceil() / refreshes
        own_start = (own_end - 1 / refreshes).clamp(min=0)
        start, end = noise.process_time(own_start), noise.process_time(own_end)
    else:
        end = (first.time * refreshes).ceil() / refreshes
        start = (end - 1 / refreshes).clamp(min=0)
        own_start, own_end = noise.own_time(start), noise.own_time(end)
    drawn = noise.drawn(torch.cat([own[None], own_end - later * (own_end - own_start)]))
    return Pairs(torch.minimum(drawn.time, end), end, drawn.weight, noise.weight_of(start, end))


def grid_pairs(own: Tensor, later: Tensor, steps: int, refreshes: int) -> Pairs:
    """The pairs that a sampling meets in `steps` steps, even in t, with `refreshes` refreshes, even in the steps: t_i
    of step i, τ of the newest refresh at or before it.

    A uniform `own` (B,) chooses the step, so that each is met as often; uniform `later` (·, B) those of further times
    among the steps of that refresh, so that each has the law of the first.
    """
    times = time_steps(steps, own.device)
    step = (own * steps).long().clamp(max=steps - 1)
    refresh = ((step + 1) * refreshes - 1) // steps  # the last one with ⌊refresh·steps/refreshes⌋ ≤ step
    first, end = refresh * steps // refreshes, (refresh + 1) * steps // refreshes
    further = first + torch.minimum((later * (end - first)).long(), end - first - 1)
    return Pairs(times[torch.cat([step[None], further])], times[first])


def dual_rate_loss(
    model: DualRate,
    x: Tensor,
    labels: Tensor | None,
    randomness: Randomness,
    settings: LossSettings,
    pairs: PairSettings,
    run: RunNetwork = run_network,
) -> Tensor:
    """Scalar: :func:`models.objective.loss` with x̂ from a context at τ ≥ t, in the mean over the times of each image.

    Raises ValueError for another weighting than the sigmoid one, and for a rollout with a noise schedule.
    """
    if settings.weighting != "sigmoid":
        raise ValueError(f"weighting: {settings.weighting!r} is for one network; a DualRate has the sigmoid weighting")
    labels = drop_labels(labels, model, randomness, settings.label_dropout)
    noise = noise_schedule_of(model)
    times = draw_pairs(randomness, pairs, noise)
    log_snr_tau, weight_tau = weighted_level(Drawn(times.tau, times.weight_tau), settings, x)
    keep = None
    if pairs.context_dropout > 0:
        keep = randomness.uniform(Stream.CONTEXT_DROPOUT) >= pairs.context_dropout
    rolls_out = pairs.states == "rollout"
    if rolls_out:
        if noise is not None:
            raise ValueError("states: the later times of a rollout depend on one another, and take no noise schedule")
        t = torch.cat([times.tau[None], times.t[1:].sort(dim=0, descending=True).values])
        times = times._replace(t=t)
    levels = [weighted_level(times.levels(i), settings, x) for i in range(len(times.t))]
    noisy: list[Tensor] = []
    if rolls_out:
        z_tau = diffuse(x, log_snr_tau, randomness.normal(Stream.CONTEXT_NOISE, x.shape[1:]).to(x.dtype))
    else:
        noisy, z_tau = noisy_pair(x, [log_snr for log_snr, _ in levels], log_snr_tau, randomness)
    context = run("encoder", model.encode, z_tau, log_snr_tau, labels, keep)
    errors = []
    z = z_tau
    for i, (log_snr, weight) in enumerate(levels):
        z = z if rolls_out else noisy[i]
        estimate = run("denoiser", model.denoise, z, log_snr, context)
        target = x
        if pairs.target == "encoder":
            with torch.no_grad():
                target = run("encoder", model.estimate, z, log_snr, labels)
        errors.append(observed_error(estimate, target, weight, noise, times.t[i]))
        if rolls_out and i + 1 < len(levels):
            z = deterministic_step(z, estimate.detach(), log_snr, levels[i + 1][0])
    total = torch.stack(errors).mean()
    if pairs.encoder_weight > 0:
        total = total + pairs.encoder_weight * weighted_error(own_estimate(context), x, weight_tau)
    return total


def own_estimate(context: Context) -> Tensor:
    """The encoder's x̂_τ. Raises ValueError for an encoder without a head."""
    if context.anchor is None:
        raise ValueError("encoder_weight: the encoder has no head, so no estimate of its own")
    return context.anchor.x


def noisy_pair(
    x: Tensor, log_snrs: Sequence[Tensor], log_snr_tau: Tensor, randomness: Randomness
) -> tuple[list[Tensor], Tensor]:
    """z_t of each log-SNR (B,), and z_τ of `log_snr_tau` (B,): each (z_t, z_τ) has the law of the Markov
    process given x.

    The first z_t comes from x and z_τ from it; further ones from the bridge q(z_t | z_τ, x), so that they
    share one z_τ.
    """
    noise = randomness.normal(Stream.NOISE, (len(log_snrs), *x.shape[1:])).to(x.dtype)
    first = diffuse(x, log_snrs[0], noise[:, 0])
    onward = randomness.normal(Stream.CONTEXT_NOISE, x.shape[1:]).to(x.dtype)
    z_tau = markov_step(first, log_snrs[0], log_snr_tau, onward)
    later = [bridge(z_tau, x, log_snr_tau, log_snrs[i], noise[:, i]) for i in range(1, len(log_snrs))]
    return [first, *later], z_tau
