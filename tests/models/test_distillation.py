"""Distillation: the student's states are those that sampling meets, moments are matched, gradients are as they say."""

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
from models.distillation.moment_matching import _of_weights, derivative, descent, moment_matching
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
        last = nn.Linear(width, 1)
        self.layers = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        seen = torch.stack([z.flatten(), log_snr / 10], dim=1)
        return posterior_mean(z, log_snr) + self.layers(seen).reshape(z.shape)

    def step(
        self, z: Tensor, log_snr: Tensor, labels: Tensor | None = None, state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:  # fmt: skip
        return run("network", self.forward, z, log_snr), ()


def distilled(chosen: StudentSettings, iterations: int, rate: float = 2e-3, **options: Any) -> Corrected:
    torch.manual_seed(0)
    student = Corrected()
    networks = Distillation(student, Corrected(), Corrected() if chosen.variant == "alternating" else None)
    optimizer = torch.optim.Adam([p for p in networks.parameters() if p.requires_grad], betas=(0.0, 0.99), fused=True)
    average = [p.detach().clone() for p in student.parameters()]
    x = data(1 << 14)
    for step in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / iterations)
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


def test_a_student_of_the_data_law_gets_no_gradient() -> None:
    """Where x̃ given z_t is a draw of q(x | z_t), the teacher is what the auxiliary network should be: its gradient
    there is zero in expectation, within four standard errors, and so is the student's. Of a student that gives the mean
    instead it is not."""
    count = 1 << 14
    x = data(count)
    sharp = _auxiliary_gradients(One(lambda z, log_snr: x), count)
    mean = _auxiliary_gradients(One(posterior_mean), count)
    errors = sharp.std(0) / count**0.5
    assert bool((sharp.mean(0).abs() < 4 * errors).all())
    assert bool((mean.mean(0).abs() > 8 * mean.std(0) / count**0.5).any())


def _auxiliary_gradients(student: nn.Module, count: int) -> Tensor:
    """Of each draw, the derivative of the auxiliary network's error in a shift of its x̂, at four bands of noise."""
    made = student_estimate(student, data(count), None, draws(count), settings(1))
    s = between(made, draws(count), settings(1))
    z_s, log_snr_s = renoised(made, s, settings(1), draws(count))
    gradient = 2 * (posterior_mean(z_s, log_snr_s) - made.x).flatten(1)
    bands = (log_snr_s[:, None] >= torch.tensor([-15.0, -2.0, 0.0, 2.0])) & (
        log_snr_s[:, None] < torch.tensor([-2.0, 0.0, 2.0, 15.0])
    )
    return gradient * bands


TOLERANCES = {"mean": 0.05, "standard deviation": 0.06, "skewness": 0.25, "kurtosis": 1.0}
TRUTH = moments(data(1 << 17, 3))


def strays(student: Any, steps: int) -> list[str]:
    """The moments of the student's samples that are off the data's by more than the tolerance."""
    pairs = zip(TOLERANCES.items(), moments(drawn(student, steps)), TRUTH, strict=True)
    return [name for (name, tolerance), mine, true in pairs if abs(mine - true) > tolerance]


@pytest.mark.parametrize(("steps", "variant"), [(1, "alternating"), (4, "alternating"), (2, "instant")])
def test_a_student_reaches_the_moments_of_the_data(steps: int, variant: Any) -> None:
    """The teacher alone, in as many steps, is far off: its first x̂ is the data's mean."""
    assert "standard deviation" in strays(Corrected(), steps)
    assert strays(distilled(settings(steps, variant=variant), 600), steps) == []


def test_deterministic_renoising_does_not() -> None:
    """As [MMD] finds: z_s is then a function of z_t, and tells which x̃ it came from."""
    assert "standard deviation" in strays(distilled(settings(1), 600, deterministic=True), 1)


def test_with_a_refresh_at_each_step_it_is_moment_matching_of_the_encoder() -> None:
    model = estimating()
    alone = SingleRate(model.encoder)
    for step in (0, 1):
        values = [
            moment_matching(
                Distillation(student, single_rate(), single_rate(widths=(16, 16))), images(), LABELS, draws(step=step),
                settings(4, refreshes), run_network,
            )
            for student, refreshes in ((EncoderAtRefresh(model), 4), (alone, None))
        ]  # fmt: skip
        torch.testing.assert_close(values[0], values[1], atol=0, rtol=1e-6)


def estimating() -> DualRate:
    """A dual-rate network whose encoder has a head."""
    light = config(widths=(8, 8), blocks=(1, 1), kinds=("conv", "conv"), channels=2, context_channels=(6, 5))
    return randomised(lambda: DualRate(UViT(config()), UViT(light), conditional="conditional"))


def test_the_two_networks_are_trained_in_turn() -> None:
    student, teacher, auxiliary = dual_rate(), single_rate(), single_rate(widths=(16, 16))
    networks = Distillation(student, teacher, auxiliary)
    for step, trained in ((0, auxiliary), (1, student)):
        networks.zero_grad()
        moment_matching(networks, images(), LABELS, draws(step=step), settings(4, 2), run_network).backward()
        for network in (student, teacher, auxiliary):
            moved = any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
            assert moved == (network is trained)
    assert {"estimate_rms", "auxiliary_rms", "auxiliary_loss", "moment_gap"} == networks.monitored.keys()


def test_what_is_told_of_an_iteration_is_the_mean_over_its_micro_batches() -> None:
    networks = Distillation(dual_rate(), single_rate(), single_rate())
    for value, step in ((5.0, 0), (1.0, 1), (2.0, 1), (6.0, 1)):
        networks.tell("moment_gap", torch.tensor(value, dtype=torch.bfloat16), step)
    networks.tell("auxiliary_loss", torch.tensor(7.0), 0)
    assert networks.monitored == {"moment_gap": 3.0, "auxiliary_loss": 7.0}


def test_the_student_is_moved_by_the_gap_of_the_two_estimates() -> None:
    """Its gradient at x̃ is w(s)·(g_φ − g_θ)/(B·C·H·W), whatever the student."""
    leaf = images().requires_grad_()
    networks = Distillation(
        One(lambda z, log_snr: leaf), One(lambda z, log_snr: 0.3 * z), One(lambda z, log_snr: 0.5 * z)
    )
    chosen, randomness = settings(4), draws()
    moment_matching(networks, images(), None, randomness, chosen, run_network).backward()
    made = student_estimate(One(lambda z, log_snr: leaf), images(), None, randomness, chosen)
    s = between(made, randomness, chosen)
    z_s, log_snr = renoised(made, s, chosen, randomness)
    rate, slope = SCHEDULE.log_snr(s), SCHEDULE.dlog_snr_dt(s)
    weight = (-slope / 2 * rate.exp() * torch.sigmoid(LOSS.bias - rate)).float()
    expected = per_image(weight, z_s) * 0.2 * z_s / leaf.numel()
    torch.testing.assert_close(leaf.grad, expected, atol=1e-7, rtol=1e-4)
    assert log_snr.shape == (COUNT,)


def test_the_instant_derivative_is_that_of_finite_differences() -> None:
    teacher = single_rate().double()
    networks, chosen = Distillation(single_rate().double(), teacher), settings(4, variant="instant")
    z, x = images().double(), images().double().flip(0)
    log_snr, weight = torch.linspace(-3, 3, COUNT).double(), torch.linspace(0.5, 2, COUNT).double()
    first, second = slice(0, None, 2), slice(1, None, 2)
    weights = {name: parameter.detach() for name, parameter in teacher.named_parameters()}
    teaching, moving = (_of_weights(networks, z, log_snr, LABELS, chosen, half) for half in (first, second))
    direction = descent(teaching, weights, x[first], weight[first])

    def error() -> Tensor:
        guess = teacher.step(z[first], log_snr[first], LABELS[first])[0]
        return ((guess - x[first]).square().flatten(1).mean(1) * weight[first]).mean()

    for parameter in teacher.parameters():
        parameter.requires_grad_(True)
    error().backward()
    for name, parameter in teacher.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else -parameter.grad
        torch.testing.assert_close(direction[name], expected, atol=1e-12, rtol=1e-9)
    moved_by = derivative(moving, weights, direction)
    ends = []
    with torch.no_grad():
        for size in (1e-5, -1e-5):
            moved = {name: value + size * direction[name] for name, value in teacher.named_parameters()}
            shifted = single_rate().double()
            shifted.load_state_dict({**teacher.state_dict(), **moved})
            ends.append(shifted.step(z[second], log_snr[second], LABELS[second])[0])
    torch.testing.assert_close(moved_by, (ends[0] - ends[1]) / 2e-5, atol=1e-7, rtol=1e-5)
    assert float(moved_by.abs().max()) > 1e-3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_regression_lands_where_the_teachers_steps_land(count: int) -> None:
    teacher, chosen = single_rate(), settings(4, teacher_steps=count)
    networks = Distillation(single_rate(), teacher)
    z = images()
    t, s = torch.full((COUNT,), 0.75).double(), torch.full((COUNT,), 0.5).double()
    with torch.no_grad():
        target = teacher_target(networks, z, t, s, LABELS, chosen, run_network)
        state = z
        for i in range(count):  # DDIM, by its formula
            at, to = (SCHEDULE.log_snr(t + (s - t) * k / count).float() for k in (i, i + 1))
            (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(at), alpha_sigma(to)
            x = teacher.step(state, at, LABELS)[0]
            state = per_image(alpha_s, x) * x + per_image(sigma_s / sigma, x) * (state - per_image(alpha, x) * x)
        alpha_sigmas = alpha_sigma(SCHEDULE.log_snr(t).float()), alpha_sigma(SCHEDULE.log_snr(s).float())
        (alpha, sigma), (alpha_s, sigma_s) = alpha_sigmas
        landed = per_image(alpha_s, z) * target + per_image(sigma_s / sigma, z) * (z - per_image(alpha, z) * target)
    torch.testing.assert_close(landed, state, atol=1e-5, rtol=1e-5)
    last = teacher_target(networks, z, torch.full((COUNT,), 0.25).double(), torch.zeros(COUNT).double(), LABELS, chosen,
                          run_network)  # fmt: skip
    assert torch.isfinite(last).all()


def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn_of_it() -> None:
    networks = Distillation(single_rate(), single_rate())
    with torch.no_grad():
        one, two = (
            float(regression(networks, images(), LABELS, draws(), settings(4, teacher_steps=steps), run_network))
            for steps in (1, 2)
        )
    assert one < 1e-10 and two > 1e-6


@pytest.mark.parametrize("interval", [None, (0.5, 2.0)])
def test_the_teacher_is_guided_as_sampling_guides(interval: tuple[float, float] | None) -> None:
    model, z, guidance = single_rate(), images(), Guidance(2.5, interval)
    levels = torch.linspace(-4, 4, COUNT)
    guided = estimate(model, z, levels, LABELS, guidance)
    for i, level in enumerate(levels.tolist()):
        time = SCHEDULE.time(torch.tensor(level, dtype=torch.float64))
        times = torch.stack([time, torch.zeros(()).double()])
        denoise = Denoise(model, SCHEDULE, times, labels=LABELS[i : i + 1], guidance=guidance, clip=False)
        torch.testing.assert_close(guided[i : i + 1], denoise(z[i : i + 1], time, 0), atol=1e-4, rtol=1e-4)


def test_what_is_frozen_is_held_once() -> None:
    teacher, student = single_rate(), DualRate(single_rate().network, dual_rate().denoiser)
    for parameter in student.encoder.parameters():
        parameter.requires_grad_(False)
    networks = Distillation(student, teacher, single_rate())
    networks.begin()
    networks.share_frozen()
    theirs = {parameter.data_ptr() for parameter in teacher.parameters()}
    ours = [p.data_ptr() for p in student.encoder.parameters()]
    assert set(ours) <= theirs
    assert len(set(ours)) == len(ours), (
        "equal ones, such as scales before training, lie apart: each is saved by its name"
    )
    auxiliary = networks.auxiliary
    assert auxiliary is not None and not {p.data_ptr() for p in auxiliary.parameters()} & theirs


@pytest.mark.parametrize("method", sorted(DISTILLERS))
@pytest.mark.parametrize("rollout", ["data", "full"])
@pytest.mark.parametrize("refreshes", [None, 6, 2])
@pytest.mark.parametrize("variant", ["alternating", "instant"])
@pytest.mark.parametrize("guided", [False, True])
def test_the_counted_runs_are_those_that_happen(
    method: str, rollout: Any, refreshes: int | None, variant: Any, guided: bool
) -> None:
    """Of two iterations: networks by name, forward alone and with a graph. The instant variant runs its teacher outside
    of `run`."""
    distiller = DISTILLERS[method]
    if method != "moment_matching" and variant == "instant":
        pytest.skip("a variant of moment matching")
    chosen = settings(
        6, refreshes, rollout=rollout, variant=variant, teacher_steps=1 if method == "moment_matching" else 2,
        guidance=Guidance(2.0) if guided else None,
    )  # fmt: skip
    student: Any = single_rate() if refreshes is None else dual_rate()
    networks = Distillation(student, single_rate(), single_rate() if distiller.has_auxiliary(chosen) else None)
    happened = {True: Counter[str](), False: Counter[str]()}

    def run(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        batch = max(len(value) for value in inputs if isinstance(value, Tensor))
        answer = function(*inputs)
        has_graph = any(t.requires_grad for t in torch.utils._pytree.tree_leaves(answer) if isinstance(t, Tensor))
        happened[has_graph][name] += batch // COUNT
        return answer

    for step in (0, 1):
        distiller.loss(networks, images(), LABELS, draws(step=step), chosen, run)
    refresh = {"network": 1} if refreshes is None else {"encoder": 1, "denoiser": 1}
    later = {"network": 1} if refreshes is None else {"denoiser": 1}
    own = student_runs(chosen, distiller.student_share(chosen), refresh, later)
    taught = distiller.runs(chosen) if variant == "alternating" else Runs()
    for has_graph, told in (
        (True, {**own.trained, **taught.trained}),
        (False, {**own.forward, **taught.forward}),
    ):
        wanted = {network: 2 * count for network, count in told.items() if count}
        assert {network: Fraction(count) for network, count in happened[has_graph].items()} == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"steps": 4, "refreshes": (True, False)}, "refreshes: has 2 entries for 4 steps"),
        ({"steps": 2, "refreshes": (True, False), "times": "continuous"}, "times: continuous times have no grid"),
        ({"steps": 2, "rollout": "full", "times": "continuous"}, "times: continuous times have no grid"),
    ],
)
def test_what_cannot_be_taught_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentSettings(**{"loss": LOSS, **values})


def test_networks_of_other_classes_do_not_teach_each_other() -> None:
    with pytest.raises(ValueError, match="the student has 3 classes, its teacher None"):
        Distillation(single_rate(), single_rate(classes=None))


def test_the_instant_variant_needs_two_halves() -> None:
    networks, chosen = Distillation(single_rate(), single_rate()), settings(2, variant="instant")
    with pytest.raises(ValueError, match="halves its images, which are 3"):
        moment_matching(networks, images(3), LABELS[:3], draws(3), chosen, run_network)
