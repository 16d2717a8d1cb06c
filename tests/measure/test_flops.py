"""Counts against closed form, against a second counter, and what happens where a cost is unknown."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from harness.config.schema import parse_experiment
from harness.engine.costs import sampling_cost
from harness.measure.flops import (
    COUNTED_OPERATORS,
    FREE_OPERATORS,
    MacCount,
    UnknownOperatorError,
    count_macs,
    einsum_macs,
    flop_counter_count,
    flop_counter_macs,
    network_calls,
    network_costs,
    parameter_counts,
    sampling_macs,
    training_macs_per_step,
)
from models.methods import METHODS
from models.refresh import every
from tests.measure import networks

SHAPE = (1, 8, 8)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "conv and transformer": {},
    "conv alone": {"kinds": ("conv", "conv")},
    "transformer alone": {"kinds": ("transformer", "transformer")},
    "classes": {"classes": 10},
    "patches": {"patch": 2, "widths": (16, 24), "channels": 3, "out_channels": 3},
    "three levels": {"widths": (8, 16, 24), "blocks": (1, 2, 1), "kinds": ("conv", "transformer", "transformer")},
}
DENOISERS: dict[str, dict[str, Any]] = {
    "all levels": {},
    "last level": {"context_channels": (8, 0)},
    "in each block": {"context_entry": "block"},
    "few channels": {"context_channels": (2, 3)},
    "convolutional": {"kinds": ("conv", "conv")},
}


def hand_count_of_tokens() -> int:
    tokens = 4 * 4
    patches = tokens * 8 * (3 * 2 * 2)
    qkv = tokens * 8 * 24
    attention = tokens * tokens * 8 + tokens * tokens * 8
    out = tokens * 8 * 5
    return patches + qkv + attention + out


def test_a_network_counted_on_paper() -> None:
    count = count_macs(networks.tokens_network(), (torch.zeros(1, 3, 8, 8),))
    assert count.macs == hand_count_of_tokens() == 9344
    assert dict(count.by_operator) == {"conv": 1536, "linear": 3712, "scaled_dot_product_attention": 4096}
    assert dict(count.by_module) == {"": 9344, "patches": 1536, "qkv": 3072, "out": 640}
    assert (count.gmacs, count.gflops) == (9344e-9, 2 * 9344e-9)


def test_fvcore_alone_misses_the_attention_that_we_count() -> None:
    network, x = networks.tokens_network(), torch.zeros(1, 3, 8, 8)
    alone = FlopCountAnalysis(network, x).unsupported_ops_warnings(False)
    assert alone.by_operator()["scaled_dot_product_attention"] == 0
    assert count_macs(network, (x,)).by_operator["scaled_dot_product_attention"] == 2 * 16 * 16 * 8


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_single_rate_equals_its_closed_form(changes: dict[str, Any]) -> None:
    model = networks.single_rate(**changes)
    config = model.network.config
    shape = (config.channels, 8, 8)
    costs = network_costs(model, shape, config.classes or 0)
    assert {name: cost.macs for name, cost in costs.items()} == {"network": networks.evaluation(config)}
    training = network_costs(model, shape, config.classes or 0, training=True)
    assert training["network"].macs == networks.evaluation(config) + networks.class_film(config)


@pytest.mark.parametrize("light", DENOISERS.values(), ids=DENOISERS)
@pytest.mark.parametrize("classes", [None, 10])
def test_dual_rate_equals_its_closed_form(light: dict[str, Any], classes: int | None) -> None:
    model = networks.dual_rate(light, classes=classes)
    heavy, small = model.encoder.config, model.denoiser.config
    costs = network_costs(model, SHAPE, classes or 0)
    once = networks.class_film(heavy) + networks.class_film(small) + networks.context(heavy, small)
    assert costs["encoder"].macs == networks.evaluation(heavy) + once
    assert costs["denoiser"].macs == networks.evaluation(small)


@pytest.mark.parametrize("from_level", [1, 2])
def test_a_cache_leaves_out_the_levels_that_it_reuses(from_level: int) -> None:
    model = networks.cached(from_level, **ARCHITECTURES["three levels"])
    config = model.model.network.config
    costs = network_costs(model, SHAPE)
    assert costs["network"].macs == networks.evaluation(config)
    assert costs["shallow"].macs == networks.evaluation(config, levels=from_level)


@pytest.mark.parametrize(
    "model",
    [
        *(networks.single_rate(**changes) for changes in ARCHITECTURES.values()),
        networks.edm(),
        *(networks.dual_rate(light) for light in DENOISERS.values()),
        networks.dual_rate(classes=10),
        networks.cached(),
        networks.cached(classes=10),
        networks.cached(order=1),
    ],
)
def test_torchs_counter_agrees_on_every_architecture(model: Any) -> None:
    first = next(m for m in model.modules() if hasattr(m, "config")).config
    for training in (False, True):
        calls = network_calls(model, (first.channels, 8, 8), first.classes or 0, training=training)
        for name, (function, inputs) in calls.items():
            assert count_macs(function, inputs).macs == flop_counter_macs(function, inputs), name


def test_a_step_costs_what_its_evaluations_cost() -> None:
    model = networks.dual_rate(classes=10)
    costs = network_costs(model, SHAPE, 10)
    z, log_snr, labels = torch.zeros(1, *SHAPE), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    _, state = model.step(z, log_snr, labels, None)
    assert count_macs(model.step, (z, log_snr, labels, None)).macs == sum(c.macs for c in costs.values())
    assert count_macs(model.step, (z, log_snr, labels, state)).macs == costs["denoiser"].macs


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Inner(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (torch.linalg.inv, "aten::linalg_inv"),
        (lambda x: torch.fft.fft(x).real, "aten::fft_fft"),
        (lambda x: torch.cdist(x, x), "aten::cdist"),
        (Square.apply, "prim::PythonOp.Square"),
    ],
)
def test_an_unknown_operator_raises_with_its_name_and_module(function: Any, operator: str) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Inner(function)))
    with pytest.raises(UnknownOperatorError) as raised:
        count_macs(network, (torch.eye(4),))
    message = str(raised.value)
    assert operator in message
    assert "in 1.0" in message.replace("module ", "")
    for choice in ("COUNTED_OPERATORS", "FREE_OPERATORS", "aten::linear"):
        assert choice in message


def test_no_operator_is_both_free_and_counted() -> None:
    assert not FREE_OPERATORS & set(COUNTED_OPERATORS)


X = torch.randn(2, 6, 8, 8)
OPERATORS: dict[str, tuple[Any, tuple[Tensor, ...], int]] = {
    "conv": (lambda x, w: F.conv2d(x, w, padding=1), (X, torch.randn(4, 6, 3, 3)), 2 * 4 * 64 * 54),
    "stride": (lambda x, w: F.conv2d(x, w, stride=2), (X, torch.randn(4, 6, 2, 2)), 2 * 4 * 16 * 24),
    "groups": (lambda x, w: F.conv2d(x, w, groups=3), (X, torch.randn(9, 2, 1, 1)), 2 * 9 * 64 * 2),
    "transposed": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2),
        (X, torch.randn(6, 4, 2, 2)),
        2 * 64 * 6 * 4 * 4,
    ),
    "one axis": (F.conv1d, (torch.randn(1, 3, 10), torch.randn(5, 3, 3)), 5 * 8 * 9),
    "matrices": (torch.matmul, (torch.randn(3, 4), torch.randn(4, 5)), 60),
    "broadcast": (torch.matmul, (torch.randn(3, 4), torch.randn(7, 4, 5)), 7 * 60),
    "linear": (F.linear, (torch.randn(2, 3, 4), torch.randn(5, 4)), 2 * 60),
    "addmm": (torch.addmm, (torch.randn(3, 5), torch.randn(3, 4), torch.randn(4, 5)), 60),
    "baddbmm": (torch.baddbmm, (torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)), 120),
    "einsum": (
        lambda q, k: torch.einsum("bihd, bjhd -> bhij", q, k),
        (torch.randn(2, 3, 4, 5), torch.randn(2, 7, 4, 5)),
        2 * 4 * 3 * 7 * 5,
    ),
    "attention": (
        F.scaled_dot_product_attention,
        (torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 6)),
        2 * 3 * 5 * 7 * (8 + 6),
    ),
    "causal": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        (torch.randn(1, 2, 5, 8),),
        2 * 5 * 5 * 16,
    ),
    "norms and activations": (
        lambda x: F.silu(F.group_norm(x, 2)) + F.softmax(F.layer_norm(x, (8,)), -1) * F.gelu(x).tanh(),
        (X,),
        0,
    ),
    "resampling": (lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2), (X,), 0),
}


@pytest.mark.parametrize(("function", "inputs", "macs"), OPERATORS.values(), ids=OPERATORS)
def test_each_operator_by_hand_and_by_torchs_counter(function: Any, inputs: tuple[Tensor, ...], macs: int) -> None:
    assert count_macs(function, inputs).macs == macs
    assert flop_counter_macs(function, inputs) == macs


def test_a_matrix_times_a_vector_counts_though_torchs_counter_gives_nothing() -> None:
    assert count_macs(torch.matmul, (torch.randn(3, 4), torch.randn(4))).macs == 12
    assert count_macs(torch.mv, (torch.randn(3, 4), torch.randn(4))).macs == 12


def test_an_einsum_whose_cost_is_ambiguous_raises() -> None:
    assert einsum_macs("ij->ji", [(3, 4)]) == 0
    assert einsum_macs("i,j->ij", [(3,), (4,)]) == 12
    for equation, shapes in (("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("...i,i->...", [(2, 3), (3,)])):
        with pytest.raises(UnknownOperatorError, match="einsum"):
            einsum_macs(equation, shapes)


def test_breakdowns_add_up() -> None:
    count = network_costs(networks.dual_rate(), SHAPE)["encoder"]
    assert count.by_module[""] == count.macs == sum(count.by_operator.values())
    top = {name: macs for name, macs in count.by_module.items() if name and "." not in name}
    assert set(top) == {"encoder", "denoiser", "projections"}
    outside_calls = count.macs - sum(top.values())
    assert outside_calls == 0
    for name, macs in count.by_module.items():
        children = [m for child, m in count.by_module.items() if child and child.rpartition(".")[0] == name]
        assert sum(children) <= macs or name == ""


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, (torch.zeros(1, 4),))
    assert [module.training for module in network.modules()] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())


def teraflops(gigaflops: dict[str, float], evaluations: dict[str, int]) -> float:
    costs = {name: MacCount(round(cost * 1e9), {}, {}) for name, cost in gigaflops.items()}
    return sampling_macs(costs, evaluations) / 1e12


def test_the_papers_arithmetic() -> None:
    """[DR]'s table from its costs per evaluation (method.md, section 1), through the project's own accounting."""
    assert teraflops({"network": 108.5}, {"network": 512}) == pytest.approx(55.55, abs=0.005)
    gigaflops = {"encoder": 108.5, "denoiser": 22.27}
    for steps, expected in ((512, 13.14), (256, 7.44)):
        evaluations = {"encoder": sum(every(steps // 16, steps)), "denoiser": steps}
        assert evaluations["encoder"] == 16
        assert teraflops(gigaflops, evaluations) == pytest.approx(expected, abs=0.005)
    distilled = teraflops({"encoder": 108.5, "denoiser": 44.0}, {"encoder": 4, "denoiser": 8})
    assert distilled == pytest.approx(0.79, abs=0.005)


def test_training_is_three_forward_passes_of_all_networks() -> None:
    costs = {"encoder": MacCount(1000, {}, {}), "denoiser": MacCount(10, {}, {})}
    assert training_macs_per_step(costs, batch=4) == 3 * 4 * 1010
    assert training_macs_per_step(costs, batch=4, runs={"denoiser": 3}) == 3 * 4 * 1030
    assert training_macs_per_step(costs, batch=4, recomputed=True) == 4 * 4 * 1010


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("light", DENOISERS.values(), ids=DENOISERS)
def test_a_frozen_encoder_runs_forward_only(light: dict[str, Any], classes: int | None) -> None:
    """E + 3·P + 3·M·g per image, each written down from the architecture; in all E + P, 2·P and 3·M·g."""
    model = networks.dual_rate(light, classes=classes)
    heavy, small = model.encoder.config, model.denoiser.config
    encoder = networks.evaluation(heavy) + networks.class_film(heavy)
    projections = networks.context(heavy, small) + networks.class_film(small)
    each = networks.evaluation(small)
    costs = network_costs(model, SHAPE, classes or 0, training=True)
    for times in (1, 4):
        step = partial(training_macs_per_step, costs, 5, runs={"denoiser": times})
        assert step() == 5 * 3 * (encoder + projections + times * each)
        assert step(frozen=["encoder"]) == 5 * (encoder + 3 * projections + 3 * times * each)
        # what is frozen has no activations to recompute
        assert step(frozen=["encoder"], recomputed=True) == 5 * (encoder + 4 * projections + 4 * times * each)
        # a target made without a gradient is the encoder's alone
        assert step(forward_runs={"encoder": 2}) == step() + 5 * 2 * encoder


def test_a_plan_without_weights_knows_what_is_frozen_too() -> None:
    model = networks.dual_rate(classes=10)
    for function, inputs in network_calls(model, SHAPE, 10, training=True).values():
        by_fvcore, by_torch = (count(function, inputs, model=model) for count in (count_macs, flop_counter_count))
        shares = {name: macs for name, macs in by_fvcore.by_module.items() if "." not in name}
        assert by_torch.by_module == shares and by_torch.macs == by_fvcore.macs


def test_an_evaluation_that_is_no_module_s_is_frozen_whole() -> None:
    costs = {"encoder": MacCount(1000, {"": 1000}, {}), "denoiser": MacCount(10, {"": 10}, {})}
    assert training_macs_per_step(costs, batch=4, frozen=["encoder"]) == 4 * (1000 + 3 * 10)
    with pytest.raises(UnknownOperatorError, match="teacher: a training step runs it"):
        training_macs_per_step(costs, batch=1, frozen=["teacher"])


def test_three_forward_passes_is_what_autograd_runs() -> None:
    """Backward is two matrix products per forward one, but for the first layer, whose input needs no gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    network = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(5, 6, requires_grad=True)).sum().backward()
    count = count_macs(network, (torch.zeros(1, 6),))
    assert counter.get_total_flops() // 2 == training_macs_per_step({"network": count}, batch=5)


def test_parameters_by_network() -> None:
    model = networks.dual_rate()
    counts = parameter_counts(model, METHODS["dual_rate"].network_parameters(model))
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["encoder"] == sum(p.numel() for p in model.encoder.parameters())
    single = networks.single_rate()
    assert set(parameter_counts(single, METHODS["single_rate"].network_parameters(single))) == {"network"}


@pytest.mark.parametrize("wrong", [lambda model: model.encoder, lambda model: nn.ModuleList([model, model.encoder])])
def test_parameters_that_belong_to_no_network_or_to_two_are_refused(wrong: Any) -> None:
    model = networks.dual_rate()
    owned = {"encoder": [p for part in wrong(model).children() for p in part.parameters()]}
    with pytest.raises(ValueError, match="do not divide its parameters"):
        parameter_counts(model, owned)


def test_a_network_that_training_runs_and_sampling_does_not_is_said() -> None:
    with pytest.raises(UnknownOperatorError, match="teacher: a training step runs it"):
        training_macs_per_step({"network": MacCount(1, {}, {})}, batch=1, runs={"teacher": 1})


def test_the_compute_of_a_record() -> None:
    model = networks.cached()
    experiment = parse_experiment({"train": {"batch": 16, "steps": 7}}, "test")
    generator: Any = SimpleNamespace(
        model=model,
        trained_model=model.model,
        image_shape=SHAPE,
        classes=None,
        experiment=experiment,
        second=None,
        decoder=None,
        models=(model,),
    )
    compute = sampling_cost(generator, {"network": 3, "shallow": 5})
    whole, shallow = networks.evaluation(networks.HEAVY), networks.evaluation(networks.HEAVY, levels=1)
    assert compute["macs_per_image"] == 3 * whole + 5 * shallow
    assert compute["gmacs_per_image"] == compute["macs_per_image"] / 1e9
    assert compute["gflops_per_image"] == 2 * compute["gmacs_per_image"]
    assert compute["gmacs_per_evaluation"] == {"network": whole / 1e9, "shallow": shallow / 1e9}
    assert compute["training_gmacs_per_step"] == pytest.approx(3 * 16 * whole / 1e9, rel=1e-12)
    assert compute["training_steps"] == 7
