"""Every sampling loop and training step on a CUDA device that is pretended: no tensor is left on the host, and the host
never waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import harness.engine.distilling as distilling
import harness.engine.latents as latents
import harness.engine.sampling as sampling
import harness.engine.train as training
from harness.config.schema import Experiment
from harness.data import known_info
from harness.data.loader import Batch
from harness.engine.build import build_model
from harness.engine.sampling import ImageGenerator, fresh_generator
from models.method import RunNetwork
from tests.harness.pretended_device import DEVICE, PretendedDevice, Waits, pretended_device
from tests.harness.test_sampling import CLASSES, METHODS, SAMPLERS, sampled_by
from tests.harness.tiny_experiments import MODEL, tiny


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedDevice]:
    def made_there(*arguments: Any) -> Any:
        with DEVICE:
            return build_model(*arguments)

    for module in (sampling, training, distilling):
        monkeypatch.setattr(module, "build_model", made_there)
    with pretended_device() as mode:
        yield mode


def drawn(
    generator: ImageGenerator, device: PretendedDevice, callback: Callable[[int, Tensor, Tensor], None] | None = None
) -> Tensor:
    """Images; from the first evaluation on nothing may be copied to the device."""

    def watched(run: RunNetwork) -> RunNetwork:
        def strict(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
            device.strict = True
            return run(name, function, *inputs)

        return strict

    return generator.draw(0, torch.arange(2), callback, watched)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_sampling_loop_stays_on_the_device(method: str, sampler: str, device: PretendedDevice) -> None:
    generator = fresh_generator(sampled_by(METHODS[method], sampler), DEVICE)
    before = device.operators
    images = drawn(generator, device)
    assert images.device.type == "cuda" and images.shape == (2, 1, 8, 8)
    assert device.strict and device.operators - before > 100


PLANTED: dict[str, Callable[[Tensor], Any]] = {
    "a value that is read": lambda x: float(x.mean()),
    "a branch on a value": lambda x: bool((x > 0).all()),
    "a copy to the host": lambda x: x.cpu(),
    "a shape that depends on values": lambda x: x[x > 0],
    "a copy to the device": lambda x: torch.tensor([1.0, 2.0]).to(x.device),
    "values of the host made there": lambda x: torch.tensor([1.0, 2.0], device=x.device),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_wait_that_is_put_in_is_found(planted: str, device: PretendedDevice) -> None:
    generator = fresh_generator(METHODS["single_rate"], DEVICE)
    with pytest.raises(Waits):
        drawn(generator, device, lambda step, z, x: PLANTED[planted](x))


def test_a_tensor_that_is_left_on_the_host_is_found(device: PretendedDevice) -> None:
    generator = fresh_generator(METHODS["single_rate"], DEVICE)
    left = torch.ones(2, 1, 8, 8)

    def mixed(step: int, z: Tensor, x: Tensor) -> None:
        x + left

    with pytest.raises((RuntimeError, Waits), match=r"devices|copy to the device"):
        drawn(generator, device, mixed)


ID = "training:0123456789abcdef"


def student(kind: str = "single_rate", **keys: Any) -> Experiment:
    """Of a tiny single network, distilled."""
    distill = {"method": "moment_matching", "teacher": ID, "steps": 4, **keys}
    train = {"start": ID, **({"context_dropout": 0.0} if kind == "dual_rate" else {})}
    return tiny(kind, train=train, distill=distill, teacher={"model": {"kind": "single_rate", **MODEL}})


TRAINED: dict[str, Experiment] = {
    "single_rate": tiny(),
    "classes": tiny(**CLASSES),
    "augmented": tiny(train={"translation": 1, "flip": True, "accumulate": 2}),
    "edm": tiny(diffusion={"preconditioning": "edm"}),
    "dual_rate": tiny("dual_rate"),
    "several times": tiny("dual_rate", train={"denoiser_times": 3}),
    "pairs on a grid": tiny("dual_rate", train={"pairs": "grid"}),
    "pairs of a sampling": tiny("dual_rate", train={"pairs": "grid", "refreshes": 2, "grid_steps": 4}),
    "rollout": tiny("dual_rate", train={"target": "encoder", "states": "rollout"}),
    "learned noise schedule": tiny(train={"noise_schedule": "learned"}),
    "adaptive noise schedule": tiny("dual_rate", train={"noise_schedule": "adaptive", "denoiser_times": 2}),
    "moment matching": student(),
    "moment matching, continuous": student(times="continuous"),
    "moment matching, dual_rate": student("dual_rate", refreshes=2, rollout="full"),
    "regression": student(method="regression", teacher_steps=2),
}


def batch_of(experiment: Experiment) -> Batch:
    count = experiment.train.batch
    return Batch(
        torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64), torch.arange(count)
    )


def optimised(experiment: Experiment, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """One step. Gradients are given: torch's engine needs a driver to go backward on a CUDA device."""
    state, objective = training.build_training(
        experiment, known_info(experiment.data, labelled=experiment.model.class_conditional), DEVICE
    )

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad and loss.shape == ()
        for parameter in state.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    micro_batch = experiment.train.batch // experiment.train.accumulate
    return training.optimise(state, objective, experiment, batch_of(experiment), micro_batch, DEVICE)


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_stays_on_the_device(
    name: str, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = training._loss_of_part

    def strict(*arguments: Any) -> Tensor:
        device.strict = True
        return part(*arguments)

    monkeypatch.setattr(training, "_loss_of_part", strict)
    value = optimised(TRAINED[name], device, monkeypatch)
    assert value.device.type == "cuda" and device.strict


def test_a_wait_in_a_loss_is_found(device: PretendedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = latents.augment
    monkeypatch.setattr(latents, "augment", lambda images, *rest: augment(images * float(images.max()), *rest))
    with pytest.raises(Waits, match="needs to know a value"):
        optimised(TRAINED["single_rate"], device, monkeypatch)
