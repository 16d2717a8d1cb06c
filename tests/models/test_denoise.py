"""What a sampler is handed: image i whatever its batch, refreshes, guidance, and the count of what ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.denoise import Denoise, first
from models.dual_rate import DualRate
from models.guidance import Guidance
from models.noise import ImageNoise
from models.process import CosineSchedule, noise_level
from models.refresh import Refreshes, every, explicit
from models.samplers import SAMPLERS
from models.single_rate import SingleRate
from models.spacing import karras_steps
from tests.models.networks import CLASSES, IMAGE, METHODS, cached, dual_rate, single_rate

SCHEDULE = CosineSchedule()
STEPS = 8
TIMES = karras_steps(STEPS, SCHEDULE)
OPTIONS: dict[str, dict[str, Any]] = {
    "ancestral": {"variance": 0.5},
    "ddim": {},
    "heun": {"churn": 2.0},
    "dpmpp_2m": {},
}


def refreshes_of(method: str) -> Refreshes | None:
    return None if method == "single_rate" else every(3, STEPS)


@torch.inference_mode()
def sample(method: str, sampler: str, indices: list[int], guidance: Guidance | None = None) -> Tensor:
    labels = torch.tensor(indices) % CLASSES
    denoise = Denoise(METHODS[method](), SCHEDULE, TIMES, refreshes_of(method), labels=labels, guidance=guidance)
    return SAMPLERS[sampler](denoise, ImageNoise(4, indices, IMAGE), TIMES, SCHEDULE, **OPTIONS[sampler])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("method", METHODS)
def test_image_i_is_the_same_at_batch_1_and_64_and_in_any_order(method: str, sampler: str) -> None:
    together = sample(method, sampler, list(range(64)))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
    assert torch.allclose(sample(method, sampler, order), together[order], atol=2e-4)
    for index in (0, 37):
        assert torch.allclose(sample(method, sampler, [index])[0], together[index], atol=2e-4)
    assert (together[0] - together[37]).abs().max() > 0.1


def test_a_guided_image_does_not_depend_on_its_batch_either() -> None:
    guidance = Guidance(2.0, (0.05, 20.0))
    together = sample("dual_rate", "ancestral", list(range(8)), guidance)
    assert torch.allclose(sample("dual_rate", "ancestral", [5], guidance)[0], together[5], atol=2e-4)


@contextmanager
def counting(*networks: nn.Module) -> Iterator[list[int]]:
    """Images that went through each network."""
    counts = [0] * len(networks)

    def count(i: int) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: object) -> None:
            counts[i] += len(given[0])

        return hook

    handles = [network.register_forward_hook(count(i)) for i, network in enumerate(networks)]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [("ancestral", STEPS), ("ddim", STEPS), ("heun", 2 * STEPS - 1), ("dpmpp_2m", STEPS)],
)
@pytest.mark.parametrize("guidance", [None, Guidance(3.0), Guidance(3.0, (0.01, 1.0)), Guidance(3.0, (1.0, 90.0))])
def test_dual_rate_counts_what_runs(sampler: str, evaluations: int, guidance: Guidance | None) -> None:
    model = dual_rate()
    denoise = Denoise(model, SCHEDULE, TIMES, every(3, STEPS), labels=torch.tensor([0, 1]), guidance=guidance)
    with torch.inference_mode(), counting(model.encoder, model.denoiser) as counts:
        SAMPLERS[sampler](denoise, ImageNoise(0, [0, 1], IMAGE), TIMES, SCHEDULE)
    assert denoise.networks_run == {"encoder": counts[0] // 2, "denoiser": counts[1] // 2}
    if guidance is None:
        assert denoise.networks_run == {"encoder": 3, "denoiser": evaluations}
    elif guidance.interval is None:
        assert denoise.networks_run == {"encoder": 6, "denoiser": 2 * evaluations}
    else:
        assert evaluations < denoise.networks_run["denoiser"] < 2 * evaluations


@pytest.mark.parametrize(("sampler", "evaluations"), [("ddim", STEPS), ("heun", 2 * STEPS - 1)])
def test_single_rate_counts_two_where_guided_and_one_elsewhere(sampler: str, evaluations: int) -> None:
    guidance = Guidance(3.0, (0.05, 2.0))
    guided = sum(guidance.active(noise_level(SCHEDULE.log_snr(TIMES))[:-1].tolist()))
    model = single_rate()
    denoise = Denoise(model, SCHEDULE, TIMES, labels=torch.tensor([0, 1]), guidance=guidance)
    with torch.inference_mode(), counting(model.network) as counts:
        SAMPLERS[sampler](denoise, ImageNoise(0, [0, 1], IMAGE), TIMES, SCHEDULE)
    assert 0 < guided < STEPS
    assert denoise.networks_run == {"network": counts[0] // 2}
    assert denoise.networks_run["network"] == evaluations + guided * (2 if sampler == "heun" else 1)


@pytest.mark.parametrize(("sampler", "evaluations"), [("ddim", STEPS), ("heun", 2 * STEPS - 1)])
def test_cached_counts_whole_and_shallow_runs(sampler: str, evaluations: int) -> None:
    model = cached()
    denoise = Denoise(model, SCHEDULE, TIMES, explicit([0, 5], STEPS))
    lower = model.model.network.levels[1].down
    assert isinstance(lower, nn.Module)
    with torch.inference_mode(), counting(model.model.network, lower) as counts:
        SAMPLERS[sampler](denoise, ImageNoise(0, [0], IMAGE), TIMES, SCHEDULE)
    assert denoise.networks_run == {"network": 2, "shallow": evaluations - 2}
    assert counts == [evaluations, 2]


def test_the_encoder_runs_at_the_refresh_steps_on_what_the_sampler_has_then() -> None:
    model = dual_rate()
    asked: list[tuple[Tensor, Tensor]] = []
    visited: dict[int, Tensor] = {}
    model.encoder.register_forward_hook(lambda module, given, out: asked.append((given[0], given[1])))
    denoise = Denoise(model, SCHEDULE, TIMES, explicit([0, 2, 3], STEPS))
    with torch.inference_mode():
        SAMPLERS["heun"](
            denoise, ImageNoise(0, [0, 1], IMAGE), TIMES, SCHEDULE,
            callback=lambda step, z, x: visited.update({step: z}),
        )  # fmt: skip
    assert len(asked) == 3
    for (z, log_snr), step in zip(asked, (0, 2, 3), strict=True):
        assert torch.equal(z, visited[step])
        assert log_snr.item() == pytest.approx(SCHEDULE.log_snr(TIMES[step]).item(), rel=1e-5)


def test_refreshing_at_every_step_is_encode_then_denoise() -> None:
    model = dual_rate()
    denoise = Denoise(model, SCHEDULE, TIMES, every(1, STEPS), labels=torch.tensor([2]), clip=False)
    z = torch.randn(1, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for step in range(3):
            log_snr = SCHEDULE.log_snr(TIMES[step]).float()
            context = model.encode(z, log_snr, torch.tensor([2]))
            assert torch.allclose(denoise(z, TIMES[step], step), model.denoise(z, log_snr, context), atol=1e-6)


def guided_by_hand(model: SingleRate | DualRate, z: Tensor, labels: Tensor, steps: range, scale: float) -> Tensor:
    """The last step's guided estimate, with the two halves run apart, both refreshed at the first step."""
    halves = []
    for label in (labels, torch.full_like(labels, CLASSES)):
        state, x = None, z
        for step in steps:
            x, state = model.step(z, SCHEDULE.log_snr(TIMES[step]).float(), label, state)
        halves.append(x)
    return halves[1] + scale * (halves[0] - halves[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guidance_is_the_two_halves_combined(method: str, scale: float) -> None:
    model = METHODS[method]()
    labels = torch.tensor([0, 1, 2])
    z = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(0))
    denoise = Denoise(model, SCHEDULE, TIMES, refreshes_of(method), labels=labels, guidance=Guidance(scale), clip=False)
    with torch.inference_mode():
        for step in range(3):
            expected = guided_by_hand(model, z, labels, range(step + 1), scale)  # type: ignore[arg-type]
            assert torch.allclose(denoise(z, TIMES[step], step), expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_guidance_that_starts_or_ends_between_refreshes(method: str) -> None:
    """Steps 0–2 share a context. Whatever part of them is guided, each step is what it is when run by hand."""
    model = METHODS[method]()
    labels = torch.tensor([0, 1, 2])
    z = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(0))
    levels = noise_level(SCHEDULE.log_snr(TIMES)).tolist()
    for interval in (
        (levels[1] * 0.99, 100.0),
        (1e-4, levels[1] * 1.01),
        (levels[1] * 0.99, levels[1] * 1.01),
    ):
        guidance = Guidance(2.0, interval)
        denoise = Denoise(model, SCHEDULE, TIMES, refreshes_of(method), labels=labels, guidance=guidance, clip=False)
        with torch.inference_mode():
            for step in range(3):
                scale = 2.0 if guidance.active([levels[step]])[0] else 1.0
                expected = guided_by_hand(model, z, labels, range(step + 1), scale)  # type: ignore[arg-type]
                assert torch.allclose(denoise(z, TIMES[step], step), expected, atol=1e-4), (interval, step)


def test_clip_comes_after_guidance() -> None:
    model, labels = single_rate(), torch.tensor([0, 1])
    z = 4 * torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(0))
    guidance = Guidance(5.0)
    bounded = Denoise(model, SCHEDULE, TIMES, labels=labels, guidance=guidance)(z, TIMES[4], 4)
    free = Denoise(model, SCHEDULE, TIMES, labels=labels, guidance=guidance, clip=False)(z, TIMES[4], 4)
    assert free.abs().max() > 1
    assert torch.equal(bounded, free.clamp(-1, 1))


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=f"refreshes: has 3 entries for {STEPS} steps"):
        Denoise(dual_rate(), SCHEDULE, TIMES, every(1, 3))
    with pytest.raises(ValueError, match="must start with True"):
        Denoise(dual_rate(), SCHEDULE, TIMES, (False,) * STEPS)
    with pytest.raises(ValueError, match="guidance: needs a model with classes, and labels"):
        Denoise(single_rate(), SCHEDULE, TIMES, guidance=Guidance(2.0))
    with pytest.raises(ValueError, match="guidance: needs a model with classes, and labels"):
        Denoise(single_rate(classes=None), SCHEDULE, TIMES, labels=torch.tensor([0]), guidance=Guidance(2.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_loop_never_reads_from_the_device(method: str, sampler: str) -> None:
    """On the meta device there are no values: whatever had to wait for one would raise."""
    labels = torch.tensor([0, 1], device="meta")
    denoise = Denoise(
        METHODS[method]().to("meta"), SCHEDULE, TIMES, refreshes_of(method),
        labels=labels, guidance=Guidance(2.0, (0.1, 1.0)),
    )  # fmt: skip
    noise = ImageNoise(0, [0, 1], IMAGE, "meta")
    with torch.inference_mode():
        images = SAMPLERS[sampler](denoise, noise, TIMES, SCHEDULE, **OPTIONS[sampler])
    assert images.shape == (2, *IMAGE)
    with pytest.raises(RuntimeError, match="meta"):
        images.sum().item()


def test_first_cuts_what_is_per_image_and_keeps_what_is_shared() -> None:
    model = dual_rate()
    _, state = model.step(torch.zeros(6, *IMAGE), torch.tensor(0.0), torch.tensor([0, 1, 2, 3, 3, 3]))
    cut = first(state, 3)
    assert type(cut) is type(state)
    assert cut.conditioning.hidden.shape[0] == 1
    assert all(len(film) == 3 for film in cut.conditioning.film)
    assert all(len(entry) == 3 for level in cut.projection for entry in level)


def test_counts_start_empty_and_gather_over_one_run() -> None:
    denoise = Denoise(single_rate(), SCHEDULE, TIMES)
    assert denoise.networks_run == Counter()
    denoise(torch.zeros(1, *IMAGE), TIMES[0], 0)
    denoise(torch.zeros(1, *IMAGE), TIMES[1], 1)
    assert denoise.networks_run == Counter(network=2)
