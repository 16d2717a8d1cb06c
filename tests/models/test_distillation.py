"""Distillation: the student's states are those that sampling meets, moments are matched, gradients are what they say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.denoise import Denoise
from models.distillation import DISTILLERS
from models.distillation.base import Runs, StudentSettings, refresh_of_step, student_runs
from models.distillation.moment_matching import moment_matching, teacher_derivative, teacher_direction
from models.distillation.networks import Distillation, between, estimate, renoised, student_estimate
from models.distillation.regression import regression, teacher_target
from models.dual_rate import DualRate, EncoderAtRefresh
from models.guidance import Guidance
from models.method import RunNetwork, State, run_network
from models.noise import Stream
from models.objective import LossSettings, Randomness
from models.process import CosineSchedule, alpha_sigma, diffuse, per_image
from models.refresh import evenly
from models.samplers import SAMPLERS
from models.single_rate import SingleRate
from models.spacing import time_steps
from models.uvit import UViT
from tests.models.closed_forms import GAUSSIAN, TWO_GAUSSIANS, Mixture
from tests.models.networks import CLASSES, IMAGE, config, dual_rate, randomised, single_rate

SCHEDULE = CosineSchedule()
LOSS = LossSettings(schedule=SCHEDULE)
COUNT = 12
LABELS = torch.arange(COUNT) % CLASSES


def settings(steps: int, refreshes: int | None = None, **changes: Any) -> StudentSettings:
    chosen = None if refreshes is None else evenly(refreshes, steps)
    return StudentSettings(steps, LOSS, chosen, clips=False, **changes)


def draws(count: int = COUNT, step: int = 1, seed: int = 3) -> Randomness:
    return Randomness(seed, step, torch.arange(count), count)


def images(count: int = COUNT) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)


class RolloutNoise:
    """What a full rollout draws, as the noise of a sampler."""

    def __init__(self, randomness: Randomness, steps: int, shape: tuple[int, ...]) -> None:
        self.start = randomness.normal(Stream.ROLLOUT_START, shape)
        self.steps = randomness.normal(Stream.ROLLOUT, (steps, *shape))

    def initial(self) -> Tensor:
        return self.start

    def __call__(self, step: int) -> Tensor:
        return self.steps[:, step]


def sampled_states(
    model: Any, chosen: StudentSettings, randomness: Randomness, sampler: str
) -> list[tuple[Tensor, Tensor]]:
    """z and x̂ of each step of the sampler."""
    times, seen = time_steps(chosen.steps), []
    refreshes = chosen.refreshes if isinstance(model, DualRate | EncoderAtRefresh) else None
    denoise = Denoise(model, SCHEDULE, times, refreshes, labels=LABELS, clip=chosen.clips)
    noise = RolloutNoise(randomness, chosen.steps, IMAGE)
    with torch.no_grad():
        SAMPLERS[sampler](denoise, noise, times, SCHEDULE, callback=lambda step, z, x: seen.append((z, x)))
    return seen


@pytest.mark.parametrize(("steps", "refreshes"), [(8, 2), (8, 3), (5, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("clips", [True, False])
def test_a_full_rollout_meets_the_very_states_of_sampling(
    steps: int, refreshes: int, sampler: str, clips: bool
) -> None:
    model, chosen = dual_rate(), replace(settings(steps, refreshes, rollout="full"), clips=clips)
    randomness = draws()
    nothing = torch.full((COUNT, *IMAGE), math.nan)  # no image is looked at
    made = student_estimate(model, nothing, LABELS, randomness, chosen, deterministic=sampler == "ddim")
    states = sampled_states(model, chosen, randomness, sampler)
    taught = (randomness.time() * steps).long()
    assert steps == 1 or len(taught.unique()) == min(steps, COUNT)
    for i, step in enumerate(taught.tolist()):
        torch.testing.assert_close(made.z[i], states[step][0][i], atol=2e-5, rtol=2e-5)
        x = made.x[i].clamp(-1, 1) if clips else made.x[i]
        torch.testing.assert_close(x, states[step][1][i], atol=2e-5, rtol=2e-5)
        assert float(made.t[i]) == 1 - step / steps
        assert float(made.s[i]) == pytest.approx(1 - (step + 1) / steps, abs=1e-15)


def test_a_rollout_of_one_network_is_its_sampling_too() -> None:
    model, chosen, randomness = single_rate(), settings(6, rollout="full"), draws()
    made = student_estimate(model, torch.full((COUNT, *IMAGE), math.nan), LABELS, randomness, chosen)
    states = sampled_states(model, chosen, randomness, "ancestral")
    for i, step in enumerate((randomness.time() * 6).long().tolist()):
        torch.testing.assert_close(made.z[i], states[step][0][i], atol=2e-5, rtol=2e-5)


def test_a_rollout_from_data_begins_with_the_noised_image() -> None:
    """At its refreshes the state is a draw of q(z_t | x); between them the light network's own steps from it."""
    model, chosen, randomness, x = dual_rate(), settings(8, 2), draws(), images()
    made = student_estimate(model, x, LABELS, randomness, chosen)
    steps = (randomness.time() * 8).long()
    first = torch.tensor(refresh_of_step(8, evenly(2, 8)))[steps]
    log_snr = SCHEDULE.log_snr(time_steps(8)).float()
    noised = diffuse(x, log_snr[first], randomness.normal(Stream.NOISE, IMAGE))
    at_refresh = steps == first
    assert at_refresh.any() and not at_refresh.all()
    torch.testing.assert_close(made.z[at_refresh], noised[at_refresh], atol=0, rtol=0)
    noise = randomness.normal(Stream.ROLLOUT, (8, *IMAGE))
    for i in range(COUNT):  # one image at a time, by the plain loop
        one, label = noised[i : i + 1], LABELS[i : i + 1]
        with torch.no_grad():
            context = model.encode(one, log_snr[first[i]].reshape(1), label)
            for step in range(int(first[i]), int(steps[i])):
                at, to = log_snr[step].reshape(1), log_snr[step + 1].reshape(1)
                drop = torch.exp(at - to)
                (alpha_t, _), (alpha_s, sigma_s) = alpha_sigma(at), alpha_sigma(to)
                guess = model.denoise(one, at, context)
                one = drop * alpha_s / alpha_t * one + (1 - drop) * alpha_s * guess
                one = one + sigma_s * (1 - drop).sqrt() * noise[i, step]
        torch.testing.assert_close(made.z[i], one[0], atol=2e-5, rtol=2e-5)


def test_the_state_has_no_gradient_and_the_estimate_has() -> None:
    model, x = dual_rate(), images()
    for rollout in ("data", "full"):
        made = student_estimate(model, x, LABELS, draws(), settings(8, 2, rollout=rollout))
        assert not made.z.requires_grad and made.x.requires_grad
        model.zero_grad()
        made.x.square().sum().backward()
        for network in (model.encoder, model.denoiser):
            norm = sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
            assert norm > 0


def test_continuous_times_are_those_of_the_paper() -> None:
    """s uniform; t − s uniform in [0, 1/k] where it does not end at 1; z_t has the law of the process."""
    count, k = 4096, 4
    x = torch.zeros(count, 1, 1, 1)
    made = student_estimate(One(lambda z, _: z), x, None, draws(count), settings(k, times="continuous"))
    assert float(made.s.mean()) == pytest.approx(0.5, abs=0.01)
    step = (made.t - made.s)[made.s < 1 - 1 / k]
    assert float(step.max()) <= 1 / k and float(step.mean()) == pytest.approx(1 / (2 * k), abs=0.005)
    assert float(made.t.max()) == 1
    sigma = alpha_sigma(SCHEDULE.log_snr(made.t))[1]
    assert float((made.z.flatten().double() / sigma).std()) == pytest.approx(1, abs=0.05)


def test_a_grids_comparison_lies_between_the_step_and_the_next() -> None:
    made = student_estimate(One(lambda z, _: z), torch.zeros(512, 1, 1, 1), None, draws(512), settings(4))
    s = between(made, draws(512), settings(4))
    assert bool((s > made.s).all()) and bool((s < made.t).all())
    assert float(s.mean()) == pytest.approx(0.5, abs=0.02)  # uniform over all times


class One(nn.Module):
    """A function of z and λ (B,) as a network."""

    networks = ("network",)
    classes: int | None = None

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None, state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:  # fmt: skip
        return run("network", self.function, z, log_snr), ()


WEIGHTS, MEANS, STDS = torch.tensor([0.3, 0.7]), torch.tensor([-0.7, 0.5]), torch.tensor([0.15, 0.25])
"""A mixture of two Gaussians in one dimension, as images of one pixel."""


def posterior_mean(z: Tensor, log_snr: Tensor) -> Tensor:
    """E[x | z] for z (B, 1, 1, 1) at λ (B,), float32."""
    alpha, sigma = (value.reshape(-1, 1) for value in alpha_sigma(log_snr))
    flat = z.flatten(1)
    total = alpha.square() * STDS.square() + sigma.square()  # B k
    away = flat - alpha * MEANS
    evidence = WEIGHTS.log() - total.log() / 2 - away.square() / (2 * total)
    means = MEANS + alpha * STDS.square() / total * away
    return (evidence.softmax(1) * means).sum(1).reshape(z.shape)


def data(count: int, seed: int = 7) -> Tensor:
    """(count, 1, 1, 1)."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    noise = torch.randn(count, generator=generator)
    return (MEANS[which] + STDS[which] * noise).reshape(count, 1, 1, 1)


def test_the_exact_teacher_is_the_closed_form() -> None:
    """Against quadrature of Bayes' rule."""
    grid = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    density = (WEIGHTS * torch.exp(-((grid[:, None] - MEANS) ** 2) / (2 * STDS**2)) / STDS).sum(1)
    z = torch.tensor([-1.2, 0.0, 0.7]).reshape(3, 1, 1, 1)
    for level in (-3.0, 0.0, 4.0):
        alpha, sigma = alpha_sigma(torch.tensor(level, dtype=torch.float64))
        likely = density * torch.exp(-((z.reshape(3, 1).double() - alpha * grid) ** 2) / (2 * sigma**2))
        expected = (likely * grid).sum(1) / likely.sum(1)
        mine = posterior_mean(z, torch.full((3,), level)).flatten().double()
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)


class Corrected(nn.Module):
    """The exact teacher and a small network that is added to it, zero at the start."""

    networks = ("network",)
    classes: int | None = None

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        seen = torch.stack([z.flatten(), log_snr / 10], dim=1)
        return posterior_mean(z, log_snr) + self.layers(seen).reshape(z.shape)

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None, state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:  # fmt: skip
        return run("network", self.forward, z, log_snr), ()


def distilled(chosen: StudentSettings, iterations: int, **options: Any) -> Corrected:
    torch.manual_seed(0)
    student = Corrected()
    networks = Distillation(student, Corrected(), Corrected() if chosen.variant == "alternating" else None)
    optimizer = torch.optim.Adam([p for p in networks.parameters() if p.requires_grad], betas=(0.0, 0.99), fused=True)
    average = [p.detach().clone() for p in student.parameters()]
    x = data(1 << 14)
    for step in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / iterations)
        batch = x[torch.randint(len(x), (256,))]
        optimizer.zero_grad(set_to_none=True)
        moment_matching(networks, batch, None, draws(256, step), chosen, run_network, **options).backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in student.parameters()], 0.01)
    with torch.no_grad():
        for parameter, value in zip(student.parameters(), average, strict=True):
            parameter.copy_(value)
    return student


def moments(x: Tensor) -> list[float]:
    """Of samples: mean, standard deviation, skewness and kurtosis."""
    flat = x.flatten().double()
    away = (flat - flat.mean()) / flat.std()
    return [float(flat.mean()), float(flat.std()), float(away.pow(3).mean()), float(away.pow(4).mean())]


def drawn(student: Any, steps: int, count: int = 1 << 15) -> Tensor:
    """Samples of the student by the ancestral sampler."""
    generator = torch.Generator().manual_seed(11)

    class Noise:
        def initial(self) -> Tensor:
            return torch.randn(count, 1, 1, 1, generator=generator)

        def __call__(self, step: int) -> Tensor:
            return torch.randn(count, 1, 1, 1, generator=generator)

    times = time_steps(steps)

    def denoise(z: Tensor, t: Tensor, step: int) -> Tensor:
        answer: Tensor = student.step(z, SCHEDULE.log_snr(t).float().expand(count))[0]
        return answer

    with torch.no_grad():
        return SAMPLERS["ancestral"](denoise, Noise(), times, SCHEDULE)
