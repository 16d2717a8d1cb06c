"""Moment matching distillation [MMD], and its form for a student that keeps a context [DR].

The student is moved until the posterior mean of its own samples, E[x̃ | z_s], is the teacher's E[x | z_s] at every
noise level. What tracks the former is a trained copy of the teacher ("alternating", [MMD]'s algorithm 2) or one
gradient step of the teacher ("instant", its algorithm 3, without a preconditioner).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from models.distillation.base import AUXILIARY, TEACHER, Distiller, Runs, StudentSettings

if TYPE_CHECKING:
    from torch import Tensor

    from models.distillation.networks import Distillation, Estimate
    from models.method import RunNetwork
    from models.objective import Randomness

Weights = dict[str, "Tensor"]
HALF = Fraction(1, 2)


def moment_matching(
    networks: Distillation,
    x: Tensor,
    labels: Tensor | None,
    randomness: Randomness,
    settings: StudentSettings,
    run: RunNetwork,
    *,
    deterministic: bool = False,
) -> Tensor:
    """The loss of one iteration: of the auxiliary network in even ones, of the student in odd ones; in the instant
    variant of the student alone.

    x (B, C, H, W) in [−1, 1]; labels (B,) int64 or None. Means over images and dimensions, weighted at s by the sigmoid
    weight of ordinary training. Raises ValueError for an odd number of images in the instant variant.
    `deterministic` re-noises by DDIM's step, which does not match moments: for tests.
    """
    import torch

    from models.distillation.networks import between, renoised, student_estimate
    from models.objective import drop_labels, sigmoid_weighted

    labels = drop_labels(labels, networks, randomness, settings.loss.label_dropout)
    instant = settings.variant == "instant"
    trains_student = instant or randomness.step % 2 == 1
    with torch.set_grad_enabled(trains_student):
        estimated = student_estimate(networks.student, x, labels, randomness, settings, run)
    s = between(estimated, randomness, settings)
    _, weight = sigmoid_weighted(s, settings.loss, x)
    z_s, log_snr_s = renoised(estimated, s, settings, randomness, deterministic=deterministic)
    networks.tell("estimate_rms", estimated.x.detach().square().mean().sqrt(), randomness.step)
    if instant:
        value, gap = _instant(networks, estimated, weight, z_s, log_snr_s, labels, settings)
        networks.tell("moment_gap", gap.square().mean().sqrt(), randomness.step)
        return value
    with torch.no_grad():
        teacher = networks.taught(z_s, log_snr_s, labels, settings.guidance, run)
    with torch.set_grad_enabled(not trains_student):
        tracked = networks.tracked(z_s, log_snr_s, labels, run)
    networks.tell("auxiliary_rms", tracked.detach().square().mean().sqrt(), randomness.step)
    if not trains_student:
        errors = (estimated.x - tracked).square() + (teacher - tracked).square()
        value = (errors.flatten(1).mean(1) * weight).mean()
        networks.tell("auxiliary_loss", value, randomness.step)
        return value
    gap = tracked - teacher
    networks.tell("moment_gap", gap.square().mean().sqrt(), randomness.step)
    return ((estimated.x * gap).flatten(1).mean(1) * weight).mean()


def _instant(
    networks: Distillation,
    estimated: Estimate,
    weight: Tensor,
    z_s: Tensor,
    log_snr_s: Tensor,
    labels: Tensor | None,
    settings: StudentSettings,
) -> tuple[Tensor, Tensor]:
    """Half of the images say where the teacher would move, the other half by how much its x̂ moves there: the loss, and
    that movement."""
    images = len(z_s)
    if images % 2:
        raise ValueError(f"the instant variant halves its images, which are {images}")
    first, second = slice(0, None, 2), slice(1, None, 2)  # times rise over the batch: each half has all of them
    teaching, moving = (_of_weights(networks, z_s, log_snr_s, labels, settings, half) for half in (first, second))
    weights = {name: parameter.detach() for name, parameter in networks.teacher.named_parameters()}
    direction = descent(teaching, weights, estimated.x.detach()[first], weight[first])
    moved = derivative(moving, weights, direction)
    return ((estimated.x[second] * moved).flatten(1).mean(1) * weight[second]).mean(), moved


def _of_weights(
    networks: Distillation,
    z: Tensor,
    log_snr: Tensor,
    labels: Tensor | None,
    settings: StudentSettings,
    half: slice,
) -> Callable[[Weights], Tensor]:
    """The teacher's x̂ of half of the images, as a function of its weights."""
    from torch.func import functional_call

    from models.distillation.networks import Whole

    whole = Whole(networks.teacher, settings.guidance)
    inputs = z[half], log_snr[half], None if labels is None else labels[half]

    def estimate(weights: Weights) -> Tensor:
        answer: Tensor = functional_call(whole, {f"model.{name}": value for name, value in weights.items()}, inputs)
        return answer

    return estimate


def descent(estimate: Callable[[Weights], Tensor], weights: Weights, x: Tensor, weight: Tensor) -> Weights:
    """ν = −∇_θ of the mean over images of `weight` (B,) times the squared error of the `estimate` at `weights` against
    x (B, C, H, W)."""
    from torch.func import grad

    from models.objective import weighted_error

    return {name: -value for name, value in grad(lambda at: weighted_error(estimate(at), x, weight))(weights).items()}


def derivative(estimate: Callable[[Weights], Tensor], weights: Weights, direction: Weights) -> Tensor:
    """The derivative of the `estimate` at `weights` along `direction`, (B, C, H, W)."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    whole = torch.autocast("cpu", enabled=False)  # there a normalisation's derivative has another type than its value
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), whole:
        # fused attention has no forward derivative, and the first one of a process loads functions by torch.jit
        warnings.simplefilter("ignore", FutureWarning)
        moved: Tensor = torch.func.jvp(estimate, (weights,), (direction,))[1]
    return moved.detach()


def _runs(settings: StudentSettings) -> Runs:
    guided = 1 + settings.is_guided
    if settings.variant == "alternating":
        return Runs({AUXILIARY: HALF}, {TEACHER: Fraction(guided), AUXILIARY: HALF})
    # half of the images: a gradient, 3 ×; the other half: a derivative beside the value, 2 ×
    return Runs(forward={TEACHER: Fraction(5, 2) * guided})


MOMENT_MATCHING = Distiller(
    "moment_matching",
    "the moments of the student's samples are those that the teacher expects [MMD]",
    moment_matching,
    has_auxiliary=lambda settings: settings.variant == "alternating",
    student_share=lambda settings: HALF if settings.variant == "alternating" else Fraction(1),
    runs=_runs,
    keys=("variant", "auxiliary_learning_rate"),
)
