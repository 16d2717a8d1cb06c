"""EDM's U-Nets against the original code, and what each of their parts promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

from harness.measure.flops import count_macs, flop_counter_count, flop_counter_macs, network_calls
from models.cache import CachedSingleRate
from models.distillation.moment_matching import derivative
from models.distillation.networks import Whole
from models.dual_rate import DualRate
from models.edm_weights import described, original_names, renamed
from models.method import Model
from models.parameterization import Preconditioning, Prediction
from models.process import alpha_sigma, log_snr_of, per_image
from models.single_rate import SingleRate
from models.unet import STYLES, Architecture, NoiseEmbedding, UNet, UNetConfig, iddpm_levels
from models.uvit import ContextEntry
from tests.models import edm_original
from tests.models.edm_original import LABELS, NETWORKS, OUTPUTS, SIGMAS, filled, images
from tests.models.networks import config as uvit_config
from tests.models.networks import randomised

ARCHITECTURES: list[Architecture] = list(STYLES)
TOLERANCE = 2e-5
"""Of the largest value: float32 sums in another order."""
NOISY_TIME = 2e-3
"""The VP network's time, in hundreds, goes into sines: there the original's own float32 is this coarse at small σ."""


def ours(name: str) -> tuple[SingleRate, dict[str, Any]]:
    """The original's network called `name` here, as a method."""
    outer, inner, arguments = NETWORKS[name]
    kwargs = {**arguments, "in_channels": arguments["img_channels"], "out_channels": arguments["img_channels"]}
    told = described(outer, {"sigma_data": 0.5}, inner, kwargs)
    shapes = {there: here for here, there in original_names(told.network).items()}
    state = told.network.build().state_dict()
    tensors = {f"model.{there}": filled(f"model.{there}", tuple(state[here].shape)) for there, here in shapes.items()}
    network = told.network.build()
    network.load_state_dict(renamed(told.network, tensors))
    parameterization = Preconditioning(told.sigma_data) if told.preconditioning == "edm" else Prediction("epsilon")
    return SingleRate(network, parameterization).eval(), arguments


def assert_close(got: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_denoised_images_and_features_are_the_original_s(name: str) -> None:
    """z_t and λ here, y = z_t/α and σ there: D(y; σ), and the last layer of every level."""
    model, arguments = ours(name)
    kept = load_file(OUTPUTS)
    for sigma in SIGMAS:
        log_snr = log_snr_of(torch.tensor([sigma], dtype=torch.float64))
        z = (per_image(alpha_sigma(log_snr)[0], y := images(sigma, arguments).double()) * y).float()
        with torch.no_grad():
            got, _ = model.step(z, log_snr.float(), torch.tensor(LABELS))
            seen = model.parameterization.input(z, log_snr.float())
            output = model.network(seen, log_snr.float(), model.network.condition(torch.tensor(LABELS)))
        assert_close(got, kept[f"{name} {sigma}"], NOISY_TIME if name == "vp" else TOLERANCE)
        if sigma == SIGMAS[1]:
            for level, feature in enumerate(output.features):
                assert_close(feature, kept[f"{name} level {level}"], NOISY_TIME if name == "vp" else TOLERANCE)
            assert f"{name} level {len(output.features)}" not in kept


@pytest.mark.skipif(edm_original.CODE is None, reason="the original code is not here: set HARNESS_EDM_CODE")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_kept_outputs_are_what_the_original_answers(name: str) -> None:
    kept = load_file(OUTPUTS)
    for key, value in edm_original.outputs(name).items():
        assert_close(kept[key], value, 1e-6)


def shape(architecture: Architecture, **changes: Any) -> UNetConfig:
    values: dict[str, Any] = {
        "architecture": architecture,
        "size": 8,
        "channels": 1,
        "out_channels": 1,
        "width": 8,
        "widths": (8, 16),
        "blocks": (1, 2),
        "attention": (False, True),
        "head_width": 8,
        "embedding": 16,
        "classes": 3,
    }
    return UNetConfig(**(values | changes))


def unet(architecture: Architecture, **changes: Any) -> UNet:
    return randomised(lambda: UNet(shape(architecture, **changes)))


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def dual_rate(architecture: Architecture, entry: ContextEntry = "level") -> DualRate:
    heavy = shape(architecture, out_channels=None)
    light = shape(architecture, widths=(8, 8), blocks=(1, 1), context_channels=(6, 5), context_entry=entry)
    return randomised(lambda: DualRate(UNet(heavy), UNet(light)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_noise_level_for_all_images_is_that_of_each(architecture: Architecture) -> None:
    network, z = unet(architecture), noise(2, 1, 8, 8)
    conditioning = network.condition(torch.tensor([0, 2]))
    one = network(z, torch.tensor(0.4), conditioning).image
    assert torch.allclose(one, network(z, torch.tensor([0.4, 0.4]), conditioning).image, atol=1e-5)
    assert not torch.allclose(one, network(z, torch.tensor([0.4, 2.0]), conditioning).image, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_null_label_is_no_label(architecture: Architecture) -> None:
    network, z, log_snr = unet(architecture), noise(2, 1, 8, 8), torch.tensor(0.4)
    null = network(z, log_snr, network.condition(torch.tensor([3, 3]))).image
    assert torch.allclose(null, network(z, log_snr, network.condition(None)).image, atol=1e-6)
    assert not torch.allclose(null, network(z, log_snr, network.condition(torch.tensor([0, 1]))).image, atol=1e-3)


@pytest.mark.parametrize("from_level", [1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cache_of_its_deep_levels(architecture: Architecture, from_level: int) -> None:
    deep = {"widths": (8, 8, 16), "blocks": (1, 2, 1), "attention": (False, True, True)}
    model = SingleRate(unet(architecture, **deep))
    cached = CachedSingleRate(model, from_level)
    z, log_snr, labels = noise(2, 1, 8, 8), torch.tensor(0.4), torch.tensor([0, 2])
    whole = model.step(z, log_snr, labels)[0]
    x, state = cached.step(z, log_snr, labels)
    assert torch.equal(x, whole)
    assert torch.allclose(cached.step(z, log_snr, labels, state)[0], whole, atol=1e-6)
    other = noise(2, 1, 8, 8, seed=1)
    assert not torch.allclose(cached.step(other, log_snr, labels, state)[0], model.step(other, log_snr, labels)[0])


@pytest.mark.parametrize("entry", ["level", "block"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_context_enters_at_every_level(architecture: Architecture, entry: ContextEntry) -> None:
    """As encoder and as denoiser: every level's context changes x̂, and every projection has a gradient."""
    model = dual_rate(architecture, entry)
    z, labels = noise(2, 1, 8, 8), torch.tensor([0, 2])
    context = model.encode(noise(2, 1, 8, 8, seed=1), torch.tensor(-1.0), labels)
    x = model.denoise(z, torch.tensor(0.4), context)
    assert [len(places) > 1 for places in context.projection] == [entry == "block"] * 2
    for level in range(2):
        changed = tuple(
            tuple(place + 1 for place in places) if i == level else places
            for i, places in enumerate(context.projection)
        )
        assert not torch.allclose(model.denoise(z, torch.tensor(0.4), context._replace(projection=changed)), x)
    x.square().mean().backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {"denoiser.null_context"}
    dropped = model.encode(z, torch.tensor(-1.0), labels, keep=torch.tensor([True, False]))
    assert all(not place[1].any() for places in dropped.projection for place in places)


def methods() -> dict[str, Model]:
    found: dict[str, Model] = {}
    for architecture in ARCHITECTURES:
        found[f"{architecture} single"] = SingleRate(unet(architecture))
        found[f"{architecture} cached"] = CachedSingleRate(SingleRate(unet(architecture)), 1)
        for entry in ("level", "block"):
            found[f"{architecture} dual {entry}"] = dual_rate(architecture, entry)
    light = uvit_config(widths=(8, 8), context_channels=(6, 5))
    heavy = shape("ddpmpp", out_channels=None)
    found["U-Net and U-ViT"] = randomised(lambda: DualRate(heavy.build(), light.build()))
    return found


@pytest.mark.parametrize("name", methods())
def test_both_counts_agree_to_the_unit(name: str) -> None:
    model = methods()[name]
    for function, inputs in network_calls(model, (1, 8, 8), 3).values():
        assert count_macs(function, inputs).macs == flop_counter_macs(function, inputs) > 0


@pytest.mark.parametrize(
    ("inner", "arguments", "published"),
    [
        ("SongUNet", {"img_resolution": 32, "label_dim": 10, "channel_mult": [2, 2, 2]}, 21.2),
        ("DhariwalUNet", {"img_resolution": 64, "label_dim": 1000}, 110.0),
    ],
)
def test_an_evaluation_costs_what_is_published(inner: str, arguments: dict[str, Any], published: float) -> None:
    """Of CIFAR-10's and ImageNet's networks, a multiply-add counted once (results/reported.csv)."""
    told = described("EDMPrecond", {}, inner, {"in_channels": 3, "out_channels": 3, **arguments})
    with torch.device("meta"):
        model = SingleRate(told.network.build(), Preconditioning())
        side = arguments["img_resolution"]
        ((function, inputs),) = network_calls(model, (3, side, side), arguments["label_dim"]).values()
        assert flop_counter_count(function, inputs, model=model).gmacs == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputed_activations_give_the_same_gradients(architecture: Architecture) -> None:
    grads = []
    for recompute in (False, True):
        network = unet(architecture, checkpoint_activations=recompute).train()
        network(noise(2, 1, 8, 8), torch.tensor(0.4), network.condition(None)).image.square().sum().backward()
        grads.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_derivative_in_the_weights_is_found_in_bfloat16(architecture: Architecture) -> None:
    """What instant distillation takes: a normalisation's output is bfloat16 there, and its derivative is not."""
    model, z, log_snr = SingleRate(unet(architecture)), noise(2, 1, 8, 8), torch.tensor([-1.0, 2.0])
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    direction = {name: torch.ones_like(value) for name, value in weights.items()}

    def estimate(at: dict[str, Tensor]) -> Tensor:
        answer: Tensor = functional_call(
            Whole(model), {f"model.{name}": value for name, value in at.items()}, (z, log_snr, None)
        )
        return answer

    plain = derivative(estimate, weights, direction)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(derivative(estimate, weights, direction), plain)


def test_noise_inputs_are_those_of_edm_s_table_1() -> None:
    """c_noise of each column, of σ over the whole range."""
    sigma = torch.logspace(-2.5, 1.9, 40, dtype=torch.float64)
    log_snr = log_snr_of(sigma)

    def told(kind: Any) -> Tensor:
        return NoiseEmbedding(shape("ddpmpp", noise=kind)).told(log_snr[:, None])[:, 0]

    assert torch.allclose(told("edm"), sigma.log() / 4)
    assert torch.allclose(told("ve"), (sigma / 2).log())
    t = told("vp") / 999
    assert torch.allclose((0.5 * 19.9 * t**2 + 0.1 * t).exp().sub(1).sqrt(), sigma)
    levels, steps = iddpm_levels().double(), 999 - told("iddpm")
    assert bool((levels.diff() < 0).all()) and levels[-1] == 0
    nearest = (sigma[:, None] - levels).abs().min(dim=1).values
    assert torch.allclose((sigma - levels[steps.long()]).abs(), nearest)


def test_a_shape_that_cannot_be_is_refused() -> None:
    for changes, said in (
        ({"size": 9}, "size: 9 is not divisible by 2"),
        ({"blocks": (1,)}, "blocks: has 1 entries"),
        ({"noise": "x"}, "noise: 'x' is not one of edm, vp, ve, iddpm"),
        ({"architecture": "resnet"}, "architecture: 'resnet' is not one of ddpmpp, ncsnpp, adm"),
        ({"width": 2}, "width at least 4"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(shape("adm"), **changes)


def test_what_is_described_and_is_no_network_here_is_refused() -> None:
    song = {"img_resolution": 8, "in_channels": 3, "out_channels": 3}
    for outer, values, inner, arguments, said in (
        ("Precond", {}, "SongUNet", song, "its preconditioning is Precond; known are EDMPrecond"),
        ("EDMPrecond", {}, "Net", song, "its network is Net; known are SongUNet and DhariwalUNet"),
        ("EDMPrecond", {}, "SongUNet", {**song, "encoder_type": "skip"}, "neither DDPM[+][+] nor NCSN[+][+]"),
        ("VPPrecond", {"beta_d": 10}, "SongUNet", song, "its VPPrecond has beta_d = 10; known is 19.9"),
    ):
        with pytest.raises(ValueError, match=said):
            described(outer, values, inner, arguments)
    told = described("EDMPrecond", {}, "SongUNet", {**song, "model_channels": 8, "num_blocks": 1})
    tensors = {f"model.{there}": torch.zeros(1) for there in original_names(told.network).values()}
    with pytest.raises(ValueError, match=r"model[.]more has no place in it"):
        renamed(told.network, {**tensors, "model.more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"is \(1,\), the network it describes has"):
        renamed(told.network, tensors)
    assert math.isclose(told.sigma_data, 0.5)
