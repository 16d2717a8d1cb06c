"""Sampling: nothing in the loop waits for the device, and no speed-up changes an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.benchmarks.speed import compare
from harness.config.schema import Experiment
from harness.engine import compiling
from harness.engine.costs import measure_sampling, sampling_cost
from harness.engine.estimate import gmacs_per_image
from harness.engine.sampling import ImageGenerator, fresh_generator
from models.denoise import Denoise
from tests.harness.tiny_experiments import MODEL, tiny

CLASSES: dict[str, Any] = {"model": {"class_conditional": True}, "train": {"label_dropout": 0.1}}
GUIDED = {"guidance": 2.0, "guidance_interval": [0.1, 5.0]}
STITCH = {"stitch": "training:0123456789abcdef", "stitch_share": 0.5}
STITCHED: dict[str, Any] = {
    "stitched": {"model": {**MODEL, "class_conditional": True, "width": 16}, "train": {"label_dropout": 0.1}}
}
METHODS: dict[str, Experiment] = {
    "single_rate": tiny(),
    "dual_rate": tiny("dual_rate"),
    "cached": tiny(sample={"cache_from_level": 1, "refreshes": 2}),
    "forecast": tiny(sample={"cache_from_level": 1, "cache_order": 1, "refreshes": 2}),
    "forecast, guided": tiny(**CLASSES, sample={**GUIDED, "cache_from_level": 1, "cache_order": 1, "refreshes": 2}),
    "guided": tiny(**CLASSES, sample=GUIDED),
    "dual_rate, guided": tiny("dual_rate", **CLASSES, sample=GUIDED),
    "edm": tiny(diffusion={"preconditioning": "edm"}),
    "stitched": tiny(**CLASSES, **STITCHED, sample={**GUIDED, **STITCH}),
}
SAMPLERS: dict[str, dict[str, Any]] = {
    "ancestral": {"variance": 0.5},
    "ddim": {"eta": 0.5},
    "heun": {"churn": 2.0},
    "dpmpp_2m": {},
}
WAITING = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::is_nonzero", "aten::masked_select"}
"""Operators whose answer the host must wait for."""


def sampled_by(experiment: Experiment, sampler: str) -> Experiment:
    sample = experiment.sample.model_copy(update={"sampler": sampler, **SAMPLERS[sampler]})
    return experiment.model_copy(update={"sample": sample})


def filled(experiment: Experiment) -> ImageGenerator:
    """A generator whose layers that start at zero are not zero."""
    generator = fresh_generator(experiment, torch.device("cpu"))
    seeded = torch.Generator().manual_seed(1)
    second = [] if generator.second is None else list(generator.second.parameters())
    for parameter in (*generator.trained_model.parameters(), *second):
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded))
    return generator


class NoWaiting(TorchDispatchMode):
    """Fails on any operator that makes the host wait for the device, and on any copy between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        assert function._schema.name not in WAITING, f"{function} in the sampling loop"
        result = function(*args, **(kwargs or {}))
        if function._schema.name == "aten::_to_copy" and isinstance(args[0], Tensor):
            assert args[0].device == result.device, "a copy between devices in the sampling loop"
        return result


@contextmanager
def watched_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[NoWaiting]:
    """The mode is on from the first evaluation to the end of the block: set-up before the loop may wait."""
    mode = NoWaiting()
    entered = False
    call = Denoise.__call__

    def first_entering(self: Denoise, z: Tensor, t: Tensor, step: int) -> Tensor:
        nonlocal entered
        if not entered:
            entered = True
            mode.__enter__()
        return call(self, z, t, step)

    monkeypatch.setattr(Denoise, "__call__", first_entering)
    try:
        yield mode
    finally:
        if entered:
            mode.__exit__(None, None, None)
        monkeypatch.setattr(Denoise, "__call__", call)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_the_loop_waits_for_the_device(method: str, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = fresh_generator(sampled_by(METHODS[method], sampler), torch.device("cpu"))
    with watched_loop(monkeypatch) as mode:
        generator.draw(0, torch.arange(2))
    assert mode.operators > 100


def test_the_watch_would_see_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = fresh_generator(METHODS["single_rate"], torch.device("cpu"))

    def wait(step: int, z: Tensor, x: Tensor) -> None:
        float(x.mean())

    with watched_loop(monkeypatch), pytest.raises(AssertionError, match="in the sampling loop"):
        generator.draw(0, torch.arange(2), callback=wait)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_the_loop_waits_for_the_gpu(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = fresh_generator(METHODS[method], torch.device("cuda"))
    generator.draw(0, torch.arange(2))
    call = Denoise.__call__

    def strict(self: Denoise, z: Tensor, t: Tensor, step: int) -> Tensor:
        torch.cuda.set_sync_debug_mode("error")
        return call(self, z, t, step)

    monkeypatch.setattr(Denoise, "__call__", strict)
    try:
        generator.draw(0, torch.arange(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", METHODS)
def test_memory_layout_and_batch_change_no_image(method: str) -> None:
    generator = filled(METHODS[method])
    together = generator.draw(3, torch.arange(4))
    alone = torch.cat([generator.draw(3, torch.tensor([i])) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-4)
    assert any(p.ndim == 4 and not p.is_contiguous() for p in generator.trained_model.parameters()), "channels last"
    generator.trained_model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(generator.draw(3, torch.arange(4)), together, rtol=0, atol=2e-4)
    assert together.std() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_generator_draws_and_is_counted_as_one_that_is_not(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is captured runs as it was captured, and is captured once; C++ is compiled where the miniatures run."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    original = torch.compile

    def compile_eagerly(function: Any, dynamic: bool, mode: str | None = None) -> Any:
        return original(function, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    experiment = METHODS[method]
    compiled = experiment.model_copy(update={"sample": experiment.sample.model_copy(update={"compile": True})})
    generator, plain = filled(compiled), filled(experiment)
    torch.testing.assert_close(generator.draw(0, torch.arange(4)), plain.draw(0, torch.arange(4)), rtol=0, atol=2e-4)
    made = len(graphs)
    assert made > 0
    generator.draw(1, torch.arange(4, 8))
    assert len(graphs) - made <= 2, "another seed may compile its noise again, and nothing else"
    generator.draw(1, torch.arange(8, 12))
    assert len(graphs) - made <= 2
    cost = sampling_cost(generator, generator.networks_run)
    assert cost == sampling_cost(plain, plain.networks_run)
    assert cost["gmacs_per_image"] == pytest.approx(gmacs_per_image(experiment))
    if method in ("dual_rate, guided", "stitched"):
        timing = measure_sampling(generator, experiment.measure.latency)
        assert timing["compiled"] and not timing["cuda_graphs"]
    compiling.prepare_dynamo()


def test_results_of_graph_replays_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA graphs do, a stand-in hands out the same memory at every call: no earlier answer may change."""
    buffer = torch.zeros(2)

    def replayed(value: float) -> tuple[Tensor, tuple[Tensor]]:
        buffer.fill_(value)
        return buffer, (buffer,)

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    run = compiling.CompiledNetworks(cuda_graphs=True)
    image, (context,) = run("network", replayed, 1.0)
    run("network", replayed, 2.0)
    assert image.tolist() == context.tolist() == [1.0, 1.0]


def test_the_speed_benchmark_holds_time_against_flops() -> None:
    base, subject = METHODS["single_rate"], METHODS["dual_rate"]
    result = compare(base, subject)
    assert result["flops_ratio"] == pytest.approx(gmacs_per_image(base) / gmacs_per_image(subject))
    seconds = [result[name]["seconds_per_image"] for name in ("base", "subject")]
    assert result["speed_up"] == pytest.approx(seconds[0] / seconds[1])
    assert result["efficiency"] == pytest.approx(result["speed_up"] / result["flops_ratio"])
    assert result["loop_share"] == result["subject"]["share"]["loop"] and 0 < result["loop_share"] < 1
