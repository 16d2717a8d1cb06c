"""Encoder, context and denoiser; and EDM's preconditioning."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from models.dual_rate import ContextLevels, DualRate
from models.parameterization import Preconditioning, Prediction
from models.process import KINDS, Kind, alpha_sigma, diffuse, noise_level, to_x
from models.single_rate import SingleRate
from models.uvit import ContextEntry, UViT
from tests.models.networks import CLASSES, IMAGE, config, dual_rate, single_rate

NOW, THEN = torch.tensor(0.8), torch.tensor(-1.1)
LABELS = torch.tensor([0, 1, 2, CLASSES])


def noise(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("levels", ["all", "last"])
@pytest.mark.parametrize("entry", ["level", "block"])
def test_step_is_encode_then_denoise(levels: ContextLevels, entry: ContextEntry) -> None:
    model = dual_rate(levels, entry)
    context = model.encode(noise(0), THEN, LABELS)
    x, state = model.step(noise(0), THEN, LABELS)
    assert torch.equal(x, model.denoise(noise(0), THEN, context))
    later, kept = model.step(noise(1), NOW, LABELS, state)
    assert torch.equal(later, model.denoise(noise(1), NOW, context))
    assert kept is state


@pytest.mark.parametrize("entry", ["level", "block"])
def test_the_denoiser_sees_the_context_its_time_and_the_class(entry: ContextEntry) -> None:
    model = dual_rate(context_entry=entry)
    z = noise(1)

    def estimate(z_tau: Tensor = noise(0), tau: Tensor = THEN, labels: Tensor = LABELS) -> Tensor:  # noqa: B008
        return model.denoise(z, NOW, model.encode(z_tau, tau, labels))

    for changed in (
        estimate(z_tau=noise(2)),
        estimate(tau=torch.tensor(-3.0)),
        estimate(labels=LABELS.flip(0)),
    ):
        assert (changed - estimate()).abs().amax((1, 2, 3)).min() > 1e-4


def test_the_contexts_time_reaches_film_and_not_only_the_encoder() -> None:
    model = dual_rate()
    one, other = (model.denoiser.condition(LABELS, tau).hidden for tau in (THEN, NOW))
    assert (one - other).abs().max() > 1e-2


def test_the_encoder_sees_the_class() -> None:
    model = dual_rate()
    one, other = (model.encode(noise(0), THEN, labels).projection[0][0] for labels in (LABELS, LABELS.flip(0)))
    assert (one - other).abs().amax((1, 2, 3)).min() > 1e-4


def test_every_level_of_the_encoder_matters() -> None:
    model = dual_rate()
    base = model.denoise(noise(1), NOW, model.encode(noise(0), THEN))
    for level in range(2):
        silenced = dual_rate()
        nn.init.zeros_(silenced.projections[level].weight)  # type: ignore[arg-type]
        changed = silenced.denoise(noise(1), NOW, silenced.encode(noise(0), THEN))
        assert (changed - base).abs().max() > 1e-3


def test_last_takes_level_0_alone() -> None:
    model = dual_rate("last")
    assert len(model.projections) == 1
    projection = model.encode(noise(0), THEN).projection
    assert [len(entries) for entries in projection] == [1, 0]


@pytest.mark.parametrize("entry", ["level", "block"])
def test_a_dropped_context_is_dropped_whole_and_for_its_image_alone(entry: ContextEntry) -> None:
    model = dual_rate(context_entry=entry)
    keep = torch.tensor([True, False, False, True])
    tau = torch.tensor([-1.0, -2.0, -3.0, 0.0])
    mixed = model.denoise(noise(1), NOW, model.encode(noise(0), tau, LABELS, keep))
    kept = model.denoise(noise(1), NOW, model.encode(noise(0), tau, LABELS))
    elsewhere = model.denoise(noise(1), NOW, model.encode(noise(5), tau - 2, LABELS, keep))
    assert torch.allclose(mixed[keep], kept[keep], atol=1e-6)
    assert torch.allclose(mixed[~keep], elsewhere[~keep], atol=1e-6), "it depends on neither z_τ nor τ"
    assert (mixed[~keep] - kept[~keep]).abs().amax((1, 2, 3)).min() > 1e-3
    sees = model.denoise(noise(2), NOW, model.encode(noise(0), tau, LABELS, keep))
    assert (sees - mixed)[~keep].abs().amax((1, 2, 3)).min() > 1e-3, "it still sees z_t"


def test_the_context_is_projected_once_per_refresh() -> None:
    model = dual_rate(context_entry="block")
    calls: list[nn.Module] = []
    projections = [*model.projections, *(level.project for level in model.denoiser.levels)]
    for layer in projections:
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    state = None
    for step in range(6):
        _, state = model.step(noise(step), NOW, LABELS, None if step % 3 == 0 else state)
    assert len(calls) == 2 * len(projections)


def test_the_context_keeps_its_scale_whatever_the_encoders() -> None:
    """Each pixel of a feature enters with root mean square 1."""
    model = dual_rate()
    with torch.no_grad():
        for projection in model.projections:
            assert isinstance(projection, nn.Conv2d)
            projection.weight.copy_(torch.eye(*projection.weight.shape[:2])[:, :, None, None])
    seen: list[Tensor] = []
    model.projections[0].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model.encode(1000 * noise(0), THEN)
    assert torch.allclose(seen[0].square().mean(1), torch.ones(4, 8, 8), atol=1e-4)


def test_refuses_networks_that_do_not_fit() -> None:
    encoder = UViT(config(out_channels=None))
    for changes, message in (
        ({"context_channels": None}, "context_channels"),
        ({"context_channels": (4, 0)}, "context_channels"),
        ({"context_channels": (4, 4), "patch": 2}, "sides"),
        ({"context_channels": (4, 4), "classes": None}, "classes"),
    ):
        with pytest.raises(ValueError, match=message):
            DualRate(encoder, UViT(config(**changes)))
    with pytest.raises(ValueError, match="'some' is not one of all, last"):
        DualRate(encoder, UViT(config(context_channels=(4, 4))), context_levels="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="context_channels"):
        DualRate(encoder, UViT(config(context_channels=(4, 4))), context_levels="last")


@pytest.mark.parametrize("kind", KINDS)
def test_each_prediction_is_read_as_what_it_is(kind: Kind) -> None:
    model = single_rate(Prediction(kind))
    output = model.network(noise(0), NOW, model.network.condition(LABELS)).image
    assert torch.allclose(model.step(noise(0), NOW, LABELS)[0], to_x(output, noise(0), NOW, kind), atol=1e-6)


@pytest.mark.parametrize("log_snr", [-12.0, -1.0, 0.0, 3.0, 12.0])
def test_preconditioning_is_edms(log_snr: float) -> None:
    """Against EDM's table 1 in its own coordinates, y = z/α."""
    data, value = 0.5, torch.tensor(log_snr, dtype=torch.float64)
    z, output = noise(0).double(), noise(1).double()
    y, sigma = z / alpha_sigma(value)[0], noise_level(value)
    total = sigma**2 + data**2
    c_skip, c_out, c_in = data**2 / total, sigma * data / total.sqrt(), 1 / total.sqrt()
    edm = Preconditioning(data)
    assert torch.allclose(edm.input(z, value), c_in * y)
    assert torch.allclose(edm.estimate(output, z, value), c_skip * y + c_out * output)


def test_preconditioned_inputs_and_targets_have_variance_1() -> None:
    x = 0.5 * noise(0, 4000).double()
    edm = Preconditioning(0.5)
    for log_snr in (-8.0, 0.0, 1.4, 8.0):
        value = torch.tensor(log_snr, dtype=torch.float64)
        z = diffuse(x, value, noise(1, 4000).double())
        zero, one = torch.zeros_like(z), torch.ones_like(z)
        skip = edm.estimate(zero, z, value)
        target = (x - skip) / (edm.estimate(one, z, value) - skip)
        assert edm.input(z, value).var().item() == pytest.approx(1, rel=0.02)
        assert target.var().item() == pytest.approx(1, rel=0.02)


class Traced(nn.Module):
    """A method's parts as plain modules, as a counter of multiply-adds sees them."""

    def __init__(self, model: SingleRate | DualRate, state: object, part: str) -> None:
        super().__init__()
        self.model, self.state, self.part = model, state, part

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        if self.part == "encode":
            assert isinstance(self.model, DualRate)
            return self.model.encode(z, log_snr).projection[0][0]
        x: Tensor = self.model.step(z, log_snr, None, self.state)[0]
        return x


@pytest.mark.parametrize(
    ("method", "part"), [("single", "step"), ("dual", "step"), ("dual", "encode"), ("dual", "refresh")]
)
def test_can_be_traced_without_depending_on_the_data(method: str, part: str) -> None:
    model = single_rate() if method == "single" else dual_rate()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = None if part == "refresh" else model.step(noise(0), NOW)[1]
        module = Traced(model, state, part)
        traced = torch.jit.trace(module, (noise(1), NOW))
        assert torch.allclose(traced(noise(2), THEN), module(noise(2), THEN), atol=1e-5)


def test_starts_from_the_scaled_input() -> None:
    """v starts at zero: x̂ = αz."""
    encoder, denoiser = UViT(config(out_channels=None)), UViT(config(context_channels=(4, 4)))
    x, _ = DualRate(encoder, denoiser).step(noise(0), NOW)
    assert torch.allclose(x, alpha_sigma(NOW)[0] * noise(0), atol=1e-6)


def test_compiles_without_a_graph_break() -> None:
    model, compiled = dual_rate(context_entry="block"), dual_rate(context_entry="block")
    compiled.encoder.compile(fullgraph=True, backend="eager")
    compiled.denoiser.compile(fullgraph=True, backend="eager")
    with torch.no_grad():
        x, state = model.step(noise(0), THEN, LABELS)
        same, same_state = compiled.step(noise(0), THEN, LABELS)
        assert torch.allclose(same, x, atol=1e-6)
        again = compiled.step(noise(1), NOW, LABELS, same_state)[0]
        assert torch.allclose(again, model.step(noise(1), NOW, LABELS, state)[0], atol=1e-6)
