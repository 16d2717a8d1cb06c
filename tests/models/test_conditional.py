"""The conditional update against closed forms, and the denoiser that starts from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from models.conditional import Anchor, Conditional, ErrorTable, gaussian_error, update
from models.denoise import Denoise
from models.dual_rate import DualRate, EncoderAtRefresh
from models.dual_rate_loss import PairSettings, draw_pairs, dual_rate_loss
from models.method import RunNetwork, State, run_network
from models.noise import Stream
from models.objective import LossSettings, Randomness, sigmoid_weighted, weighted_error
from models.process import CosineSchedule, alpha_sigma, deterministic_step, diffuse, markov_step, posterior
from models.refresh import evenly
from models.samplers import SAMPLERS
from models.spacing import time_steps
from models.uvit import UViT
from tests.models.closed_forms import BasisNoise, Mixture
from tests.models.networks import CLASSES, IMAGE, config, randomised

MEAN, DEVIATION = 0.3, 0.7
SCHEDULE = CosineSchedule()
ROUND = Mixture(
    torch.ones(1, dtype=torch.float64),
    torch.full((1, 2), MEAN, dtype=torch.float64),
    DEVIATION**2 * torch.eye(2, dtype=torch.float64)[None],
)
"""Normal data of the same variance in every direction: what the update takes x | z_τ for."""


def exact(z: Tensor, log_snr: Tensor) -> Tensor:
    """E[x | z] of that data, by the sum of precisions."""
    alpha, _ = alpha_sigma(log_snr.double())
    precision = 1 / DEVIATION**2 + log_snr.double().exp()
    return (MEAN / DEVIATION**2 + log_snr.double().exp() * z.double() / alpha) / precision


@pytest.mark.parametrize("log_snr_tau", [-15.0, -9.0, -2.0, 0.0, 3.0, 8.0, 15.0])
@pytest.mark.parametrize("rise", [0.0, 1e-6, 1e-3, 0.5, 4.0, 30.0])
def test_of_normal_data_it_is_the_exact_posterior(log_snr_tau: float, rise: float) -> None:
    """At every (t, τ), t = τ and t → 0 included, in float32; and x depends on the pair through z_t alone."""
    tau, t = torch.tensor([log_snr_tau]), torch.tensor([min(15.0, log_snr_tau + rise)])
    generator = torch.Generator().manual_seed(0)
    x, one, other = torch.randn(3, 64, 1, 2, 2, generator=generator)
    z_t = diffuse(MEAN + DEVIATION * x, t, one)
    z_tau = markov_step(z_t, t, tau, other)
    error = gaussian_error(tau.double(), DEVIATION)
    found = update(Anchor(z_tau, exact(z_tau, tau).float(), tau, error.float()), z_t, t)
    torch.testing.assert_close(found.mean, exact(z_t, t).float(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.variance.double(), gaussian_error(t.double(), DEVIATION), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("t", "tau", "r"), [(2.0, -1.0, 0.2), (0.5, 0.4, 1.3), (9.0, -8.0, 0.01)])
def test_it_is_bayes_on_the_bridge(t: float, tau: float, r: float) -> None:
    """Prior N(x̂_τ, r), likelihood q(z_t | z_τ, x) = N(a z_τ + b x, s²) as `posterior` has it: by solving the normal
    equations in float64."""
    log_snr_t, log_snr_tau = (torch.tensor([v], dtype=torch.float64) for v in (t, tau))
    z_t, z_tau, x_tau = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64).reshape(3, 1, 1, 1, 1)
    at_0, s2 = posterior(z_tau, torch.zeros_like(z_tau), log_snr_tau, log_snr_t)
    b = posterior(z_tau, torch.ones_like(z_tau), log_snr_tau, log_snr_t)[0] - at_0
    precision = 1 / r + b.square() / s2
    mean = (x_tau / r + b * (z_t - at_0) / s2) / precision
    found = update(Anchor(z_tau, x_tau, log_snr_tau, torch.tensor([r], dtype=torch.float64)), z_t, log_snr_t)
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.variance, 1 / precision.reshape(1), rtol=1e-9, atol=0)
    added = log_snr_t.exp() - log_snr_tau.exp()
    torch.testing.assert_close(found.variance, 1 / (1 / r + added), rtol=1e-9, atol=0)  # precisions add


class ExactBase(nn.Module):
    """The exact base of the round data as encoder, and a light denoiser that answers 0."""

    networks, classes = ("encoder", "denoiser"), None

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        if state is None:
            log_snr = log_snr.reshape(-1)
            state = Anchor(z, exact(z, log_snr), log_snr.double(), gaussian_error(log_snr.double(), DEVIATION))
        return update(state, z, log_snr).mean, state


@pytest.mark.parametrize("refreshes", [1, 3, 16])
@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpmpp_2m", "heun"])
def test_the_samplers_moments_are_those_of_the_base(name: str, refreshes: int) -> None:
    """However seldom it refreshes; and with many steps, those of the data."""
    for steps in (16, 256):
        times = time_steps(steps)
        denoise = Denoise(ExactBase(), SCHEDULE, times, evenly(refreshes, steps), clip=False)
        noise = BasisNoise(steps)
        mean, covariance = noise.moments(SAMPLERS[name](denoise, noise, times, SCHEDULE))
        of_base = noise.moments(SAMPLERS[name](ROUND.denoiser(SCHEDULE), noise, times, SCHEDULE))
        torch.testing.assert_close(mean, of_base[0], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(covariance, of_base[1], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(mean, ROUND.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(covariance, ROUND.covariance, atol=0.02, rtol=0)


def test_the_table_is_that_of_normal_data_until_it_is_filled() -> None:
    table = ErrorTable((-10.0, 10.0), 0.5)
    log_snr = torch.linspace(-10, 10, 65)
    torch.testing.assert_close(table(log_snr), gaussian_error(log_snr.double(), 0.5).float())
    log_snr = torch.tensor([-9.0, 0.0, 7.3], dtype=torch.float64)
    torch.testing.assert_close(table(log_snr).double(), gaussian_error(log_snr, 0.5), rtol=0.01, atol=0)


def test_the_table_is_linear_in_log_r_and_constant_beyond_the_ends() -> None:
    table = ErrorTable((-4.0, 4.0))
    table.fill(torch.tensor([-2.0, 2.0]), torch.tensor([1.0, 0.01]))
    found = table(torch.tensor([-9.0, -4.0, -2.0, 0.0, 1.0, 2.0, 9.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1**1.5, 0.01, 0.01]), rtol=1e-5, atol=0)
    assert table(torch.tensor(0.3)).shape == ()
    for log_snr, error in (([0.0, 0.0], [1.0, 1.0]), ([0.0, 1.0], [1.0, 0.0])):
        with pytest.raises(ValueError, match="must rise and the errors be above 0"):
            table.fill(torch.tensor(log_snr), torch.tensor(error))


# --- the network ------------------------------------------------------------------------------------------


def conditional(kind: Conditional | None = "conditional", levels: Any = "all", *, fresh: bool = False) -> DualRate:
    """With random weights everywhere, or as a training begins."""
    images = 1 + (kind is not None) + 2 * (levels == "output")
    light = config(
        widths=(8, 8), blocks=(1, 1), kinds=("conv", "conv"), channels=images, context_entry="block",
        context_channels={"all": (6, 5), "last": (6, 0), "output": (0, 0)}[levels],
    )  # fmt: skip

    def make() -> DualRate:
        return DualRate(UViT(config()), UViT(light), context_levels=levels, conditional=kind)

    model = randomised(make)
    if fresh:
        for parameter in model.denoiser.head.parameters():
            nn.init.zeros_(parameter)
    return model


def noise(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))


THEN, NOW = torch.tensor(-1.1), torch.tensor(0.8)
LABELS = torch.tensor([0, 1, 2, CLASSES])


@pytest.mark.parametrize("kind", get_args(Conditional))
def test_it_begins_as_what_it_starts_from(kind: Conditional) -> None:
    """Before any training: the update, or the encoder's estimate; `input` alone begins as any v-prediction does."""
    model = conditional(kind, fresh=True)
    at_refresh, context = model.step(noise(0), THEN, LABELS)
    later, _ = model.step(noise(1), NOW, LABELS, context)
    own = model.estimate(noise(0), THEN, LABELS)
    assert model.errors is not None and torch.equal(context.anchor.x, own)
    anchor = Anchor(noise(0), own, THEN.reshape(1), model.errors(THEN.reshape(1)))
    expected = {
        "conditional": (own, update(anchor, noise(1), NOW).mean),
        "unscaled": (own, update(anchor, noise(1), NOW).mean),
        "anchor": (own, own),
        "input": (alpha_sigma(THEN)[0] * noise(0), alpha_sigma(NOW)[0] * noise(1)),
    }[kind]
    torch.testing.assert_close(at_refresh, expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(later, expected[1], atol=1e-6, rtol=1e-5)


def test_the_output_is_scaled_by_the_deviation_that_is_left() -> None:
    """The denoiser's output, by hand: x̂ = x̂_0 + √p F."""
    model = conditional()
    context = model.encode(noise(0), THEN, LABELS)
    mean, variance = update(context.anchor, noise(1), NOW)  # type: ignore[arg-type]
    seen = torch.cat([noise(1), mean], dim=1)
    output = model.denoiser(seen, NOW, context.conditioning, context.projection).image
    expected = mean + variance.sqrt() * output
    torch.testing.assert_close(model.denoise(noise(1), NOW, context), expected)


@pytest.mark.parametrize("kind", [None, "conditional"])
def test_output_as_context_sees_the_anchor_and_no_features(kind: Conditional | None) -> None:
    model = conditional(kind, "output")
    assert len(model.projections) == 0 and model.denoiser.config.channels == 3 + (kind is not None)
    context = model.encode(noise(0), THEN, LABELS)
    estimate = model.denoise(noise(1), NOW, context)
    for changed in ({"z": noise(2)}, {"x": noise(2)}):
        other = context._replace(anchor=context.anchor._replace(**changed))  # type: ignore[union-attr]
        assert (model.denoise(noise(1), NOW, other) - estimate).abs().max() > 1e-3


@pytest.mark.parametrize("levels", ["all", "output"])
def test_a_dropped_context_tells_nothing_but_the_update(levels: Any) -> None:
    model = conditional(None if levels == "output" else "input", levels)
    keep = torch.tensor([True, True, False, False])
    context = model.encode(noise(0), THEN, LABELS, keep)
    other = model.encode(noise(2), THEN, LABELS, keep)
    if levels == "all":  # the update's own part stays: give both the same
        other = other._replace(anchor=context.anchor)
    same = (model.denoise(noise(1), NOW, context) - model.denoise(noise(1), NOW, other)).abs().amax((1, 2, 3))
    assert (same[:2] > 1e-4).all() and (same[2:] == 0).all()


def test_at_a_refresh_the_encoder_may_answer_itself() -> None:
    model = conditional()
    sampled = EncoderAtRefresh(model)
    names: list[str] = []

    def seen(name: str, function: Any, *inputs: Any) -> Any:
        names.append(name)
        return function(*inputs)

    x, state = sampled.step(noise(0), THEN, LABELS, None, seen)
    assert torch.equal(x, model.estimate(noise(0), THEN, LABELS))
    later, _ = sampled.step(noise(1), NOW, LABELS, state, seen)
    assert torch.equal(later, model.step(noise(1), NOW, LABELS, state)[0])
    assert names == ["encoder", "denoiser"]
    with pytest.raises(ValueError, match="has no head"):
        EncoderAtRefresh(DualRate(UViT(config(out_channels=None)), UViT(config(context_channels=(4, 4)))))


@pytest.mark.parametrize(
    ("encoder", "denoiser", "arguments", "message"),
    [
        ({"out_channels": None}, {"channels": 2}, {"conditional": "conditional"}, "the encoder needs a head"),
        ({}, {"channels": 1}, {"conditional": "conditional"}, "takes 1, but sees 2 images"),
        ({}, {"channels": 3}, {"context_levels": "output"}, r"context_channels: \(4, 4\) does not take"),
        ({}, {"channels": 2}, {"conditional": "all"}, "'all' is not one of conditional, input"),
    ],
)
def test_refuses_networks_that_do_not_fit(encoder: Any, denoiser: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualRate(UViT(config(**encoder)), UViT(config(context_channels=(4, 4), **denoiser)), **arguments)


# --- the loss ---------------------------------------------------------------------------------------------

SETTINGS = LossSettings(SCHEDULE)
IMAGES = noise(7, 8).clamp(-1, 1)
OF_IMAGES = torch.arange(8) % CLASSES


def draws() -> Randomness:
    return Randomness(0, 0, torch.arange(8))


def pairs(**changes: Any) -> PairSettings:
    values: dict[str, Any] = {"context_dropout": 0.0, "pairs": "range", "refreshes": (2, 8), "denoiser_times": 3}
    return PairSettings(**(values | changes))


@dataclass
class Seen:
    """What a loss has run."""

    names: list[str]
    states: list[tuple[Tensor, Tensor]]

    def __call__(self, name: str, function: Any, *inputs: Any) -> Any:
        self.names.append(name)
        if name == "denoiser":
            self.states.append((inputs[0], inputs[1]))
        return function(*inputs)


def seen_in(settings: PairSettings, model: DualRate | None = None) -> tuple[Seen, Tensor]:
    seen = Seen([], [])
    value = dual_rate_loss(model or conditional(), IMAGES, OF_IMAGES, draws(), SETTINGS, settings, seen)
    return seen, value


def test_the_encoders_own_estimate_may_be_the_target() -> None:
    model = conditional()
    (seen, value), data = seen_in(pairs(target="encoder"), model), seen_in(pairs(), model)[1]
    assert seen.names == ["encoder", *["denoiser", "encoder"] * 3] and value != data
    value.backward()
    through_target = model.encoder.head[2].bias.grad
    assert through_target is None or torch.isfinite(through_target).all()


def test_no_gradient_comes_through_the_target() -> None:
    """The denoiser's answer is made a leaf, so that only the target is left for a gradient to reach the encoder by."""
    model = conditional()
    answers: list[Tensor] = []

    def run(name: str, function: Any, *inputs: Any) -> Any:
        if name == "denoiser":
            answers.append(torch.zeros_like(inputs[0], requires_grad=True))
            return answers[-1]
        return function(*inputs)

    dual_rate_loss(model, IMAGES, OF_IMAGES, draws(), SETTINGS, pairs(target="encoder"), run).backward()
    assert all(answer.grad is not None and bool(answer.grad.any()) for answer in answers)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_denoiser_that_answers_as_the_encoder_has_no_loss_against_it() -> None:
    """The denoiser is made to answer with the encoder's own x̂(z_t): then the target is met exactly."""
    model = conditional()

    def run(name: str, function: Any, *inputs: Any) -> Any:
        return model.estimate(inputs[0], inputs[1], OF_IMAGES) if name == "denoiser" else function(*inputs)

    for states in ("bridge", "rollout"):
        settings = pairs(target="encoder", states=states)
        assert dual_rate_loss(model, IMAGES, OF_IMAGES, draws(), SETTINGS, settings, run) == 0


def test_a_rollouts_states_are_the_denoisers_own_deterministic_steps() -> None:
    model = conditional()
    seen, _ = seen_in(pairs(target="encoder", states="rollout"), model)
    times = draw_pairs(draws(), pairs())
    z_tau = diffuse(IMAGES, SCHEDULE.log_snr(times.tau).float(), draws().normal(Stream.CONTEXT_NOISE, IMAGES.shape[1:]))
    context = model.encode(z_tau, SCHEDULE.log_snr(times.tau).float(), OF_IMAGES)
    z, log_snr = z_tau, SCHEDULE.log_snr(times.tau).float()
    for place, (state, at) in enumerate(seen.states):
        torch.testing.assert_close(state, z)
        torch.testing.assert_close(at, log_snr)
        if place < 2:
            following = SCHEDULE.log_snr(times.t[1:].sort(dim=0, descending=True).values[place]).float()
            assert (following >= log_snr).all()
            z = deterministic_step(z, model.denoise(z, log_snr, context), log_snr, following).detach()
            log_snr = following


def test_the_deterministic_step_is_ddims() -> None:
    times = time_steps(4)
    x = noise(3)
    z = [noise(5)]

    def denoise(state: Tensor, t: Tensor, step: int) -> Tensor:
        z.append(state)
        return x

    class Start:
        def initial(self) -> Tensor:
            return noise(5)

        def __call__(self, step: int) -> Tensor:
            raise AssertionError("a deterministic sampler draws nothing")

    SAMPLERS["ddim"](denoise, Start(), times, SCHEDULE)
    levels = SCHEDULE.log_snr(times)
    for i in range(1, 4):
        stepped = deterministic_step(z[i], x, levels[i - 1 : i].float(), levels[i : i + 1].float())
        torch.testing.assert_close(z[i + 1], stepped, atol=1e-5, rtol=1e-5)


def test_the_encoders_own_loss_is_added() -> None:
    model = conditional()
    without, with_it = (seen_in(pairs(encoder_weight=weight), model)[1] for weight in (0.0, 0.5))
    times = draw_pairs(draws(), pairs())
    log_snr, weight = sigmoid_weighted(times.tau, SETTINGS, IMAGES)
    first = diffuse(IMAGES, SCHEDULE.log_snr(times.t[0]).float(), draws().normal(Stream.NOISE, (3, *IMAGE))[:, 0])
    onward = draws().normal(Stream.CONTEXT_NOISE, IMAGE)
    z_tau = markov_step(first, SCHEDULE.log_snr(times.t[0]).float(), log_snr, onward)
    own = weighted_error(model.estimate(z_tau, log_snr, OF_IMAGES), IMAGES, weight)
    torch.testing.assert_close(with_it - without, 0.5 * own, rtol=1e-4, atol=1e-5)


def test_pairs_of_the_same_time_see_the_same_state() -> None:
    """DDT's training: τ = t, z_τ = z_t."""
    settings = pairs(pairs="same", refreshes=1, denoiser_times=1)
    times = draw_pairs(draws(), settings)
    assert torch.equal(times.t[0], times.tau)
    given: list[Tensor] = []

    def run(name: str, function: Any, *inputs: Any) -> Any:
        given.append(inputs[0])
        return function(*inputs)

    dual_rate_loss(conditional(None), IMAGES, OF_IMAGES, draws(), SETTINGS, settings, run)
    torch.testing.assert_close(given[0], given[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": "same", "refreshes": 1}, "denoiser_times: pairs of the same time have one"),
        ({"pairs": "same", "refreshes": 4, "denoiser_times": 1}, "refreshes: pairs of the same time have none"),
        ({"states": "rollout"}, "a rollout needs the target encoder"),
        ({"target": "teacher"}, "are not known"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(**changes)
