"""Two networks that take turns at a sampler's steps: which runs which, bit for bit, and what is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.denoise import Denoise
from models.guidance import Guidance
from models.noise import ImageNoise
from models.process import CosineSchedule
from models.samplers import SAMPLERS
from models.single_rate import SingleRate
from models.spacing import karras_steps
from models.stitch import Place, Stitched, by_step, stitched_steps
from tests.models.networks import CLASSES, IMAGE, dual_rate, single_rate

SCHEDULE = CosineSchedule()
STEPS = 8
TIMES = karras_steps(STEPS, SCHEDULE)
GUIDED = Guidance(2.0, (0.05, 20.0))


def networks() -> tuple[SingleRate, SingleRate]:
    return single_rate(), single_rate(widths=(6, 8), blocks=(1, 1), head_width=2)


@torch.inference_mode()
def drawn(model: object, sampler: str = "dpmpp_2m", guidance: Guidance | None = None) -> tuple[Tensor, dict[str, int]]:
    labels = torch.arange(4) % CLASSES
    denoise = Denoise(model, SCHEDULE, TIMES, labels=labels, guidance=guidance)  # type: ignore[arg-type]
    images = SAMPLERS[sampler](denoise, ImageNoise(4, range(4), IMAGE), TIMES, SCHEDULE)
    return images, dict(denoise.networks_run)


@pytest.mark.parametrize("guidance", [None, GUIDED])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_share_of_0_is_the_own_network_and_of_1_the_other_bit_for_bit(
    sampler: str, guidance: Guidance | None
) -> None:
    own, second = networks()
    for share, alone, name in ((0.0, own, "network"), (1.0, second, "stitched")):
        images, runs = drawn(by_step(own, Stitched(second), STEPS, share), sampler, guidance)
        expected, expected_runs = drawn(alone, sampler, guidance)
        assert torch.equal(images, expected) and runs == {name: expected_runs["network"]}


@pytest.mark.parametrize("guidance", [None, GUIDED])
@pytest.mark.parametrize("sampler", ["ancestral", "heun"])
def test_the_second_network_runs_the_first_steps_and_the_own_the_rest(sampler: str, guidance: Guidance | None) -> None:
    own, second = networks()
    whole = drawn(own, sampler, guidance)[1]["network"]
    images, runs = drawn(by_step(own, Stitched(second), STEPS, 0.4), sampler, guidance)
    assert runs["network"] + runs["stitched"] == whole  # no run is added where they change
    if guidance is None:
        per_step = 2 if sampler == "heun" else 1
        assert runs["stitched"] == 3 * per_step  # 0.4 of 8 steps, to the nearest
    assert not torch.equal(images, drawn(own, sampler, guidance)[0])
    swapped = drawn(by_step(second, Stitched(own), STEPS, 0.6), sampler, guidance)[0]
    assert not torch.equal(images, swapped)


@pytest.mark.parametrize("guidance", [None, GUIDED])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_share_at_the_end_is_the_rest_at_the_start_by_the_other(sampler: str, guidance: Guidance | None) -> None:
    """The last 3 of 8 steps by the second network: the first 5 by the own one, whichever of the two is called own."""
    own, second = networks()
    images, runs = drawn(by_step(own, Stitched(second), STEPS, 0.375, "last"), sampler, guidance)
    swapped, swapped_runs = drawn(by_step(second, Stitched(own), STEPS, 0.625), sampler, guidance)
    assert torch.equal(images, swapped)
    assert (runs["network"], runs["stitched"]) == (swapped_runs["stitched"], swapped_runs["network"])
    assert not torch.equal(images, drawn(by_step(own, Stitched(second), STEPS, 0.375), sampler, guidance)[0])


@pytest.mark.parametrize("place", ["first", "last"])
def test_each_step_is_made_by_its_network_alone(place: Place) -> None:
    own, second = networks()
    turns = by_step(own, Stitched(second), STEPS, 0.5, place)
    labels = torch.arange(4) % CLASSES
    mixed, only = (Denoise(model, SCHEDULE, TIMES, labels=labels) for model in (turns, own))
    other = Denoise(second, SCHEDULE, TIMES, labels=labels)
    z = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for step in range(STEPS):
            wanted = (other if (step < 4) == (place == "first") else only)(z, TIMES[step], step)
            assert torch.equal(mixed(z, TIMES[step], step), wanted)


@pytest.mark.parametrize(
    ("steps", "share", "first"), [(8, 0.0, 0), (8, 1.0, 8), (8, 0.5, 4), (8, 0.06, 0), (8, 0.0625, 1), (3, 0.5, 2)]
)
def test_a_share_of_steps_is_rounded_to_the_nearest(steps: int, share: float, first: int) -> None:
    assert stitched_steps(steps, share) == first


def test_what_cannot_be_is_refused() -> None:
    own, second = networks()
    with pytest.raises(ValueError, match=r"share: 1\.5 is not between 0 and 1"):
        by_step(own, second, STEPS, 1.5)
    with pytest.raises(ValueError, match="place: 'middle' is not one of first, last"):
        by_step(own, second, STEPS, 0.5, "middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model: there are 3 for 8 steps"):
        Denoise((own, own, second), SCHEDULE, TIMES)
    plain = Stitched(single_rate(classes=None))
    with pytest.raises(ValueError, match="guidance: needs a model with classes"):
        Denoise(by_step(own, plain, STEPS, 0.5), SCHEDULE, TIMES, labels=torch.zeros(1).long(), guidance=GUIDED)


def test_the_networks_of_a_model_of_several_keep_names_of_their_own() -> None:
    assert Stitched(dual_rate()).networks == ("stitched encoder", "stitched denoiser")
    assert Stitched(single_rate()).networks == ("stitched",)
