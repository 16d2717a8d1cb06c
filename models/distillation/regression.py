"""Regression on the teacher: each step of the student is to land where m steps of the teacher's DDIM land.

m = 1 is a regression on the teacher's x̂; m = 2 the target of progressive distillation [PD], which halves the steps.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from models.distillation.base import TEACHER, Distiller, Runs, StudentSettings

if TYPE_CHECKING:
    from torch import Tensor

    from models.distillation.networks import Distillation
    from models.method import RunNetwork
    from models.objective import Randomness

LARGEST_WEIGHT = 1e4
"""Of max(SNR, 1): at continuous times t comes as near to 0 as it likes."""


def regression(
    networks: Distillation,
    x: Tensor,
    labels: Tensor | None,
    randomness: Randomness,
    settings: StudentSettings,
    run: RunNetwork,
) -> Tensor:
    """The mean over images and dimensions of the squared error of the student's x̂ against the x̂ that takes DDIM's step
    from z_t to where the teacher's m steps lead, weighted by max(SNR, 1) at t [PD, eq. 9].

    x (B, C, H, W) in [−1, 1]; labels (B,) int64 or None.
    """
    import torch

    from models.distillation.networks import student_estimate
    from models.objective import drop_labels, weighted_error

    labels = drop_labels(labels, networks, randomness, settings.loss.label_dropout)
    estimated = student_estimate(networks.student, x, labels, randomness, settings, run, deterministic=True)
    with torch.no_grad():
        target = teacher_target(networks, estimated.z, estimated.t, estimated.s, labels, settings, run)
    networks.tell("estimate_rms", estimated.x.detach().square().mean().sqrt(), randomness.step)
    weight = settings.schedule.log_snr(estimated.t).exp().clamp(1, LARGEST_WEIGHT).to(x.dtype)
    return weighted_error(estimated.x, target, weight)


def teacher_target(
    networks: Distillation,
    z: Tensor,
    t: Tensor,
    s: Tensor,
    labels: Tensor | None,
    settings: StudentSettings,
    run: RunNetwork,
) -> Tensor:
    """The x̂ whose DDIM step from z_t to z_s ends where the teacher's m DDIM steps end; where s is 0 their last x̂."""
    import torch

    from models.distillation.networks import stepped
    from models.process import alpha_sigma, per_image

    count, state = settings.teacher_steps, z
    levels = [settings.schedule.log_snr(t + (s - t) * i / count).to(z.dtype) for i in range(count + 1)]
    x = z
    for i in range(count):
        x = networks.taught(state, levels[i], labels, settings.guidance, run)
        x = x.clamp(-1, 1) if settings.clips else x
        state = stepped(state, x, levels[i], levels[i + 1], None)
    if count == 1:
        return x
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(levels[0]), alpha_sigma(levels[-1])
    ratio = sigma_s / sigma_t
    landed = (state - per_image(ratio, z) * z) / per_image(alpha_s - alpha_t * ratio, z)
    return torch.where(per_image(s > 0, z).bool(), landed, x)


REGRESSION = Distiller(
    "regression",
    "each step lands where steps of the teacher's DDIM land [PD]",
    regression,
    has_auxiliary=lambda settings: False,
    student_share=lambda settings: Fraction(1),
    runs=lambda settings: Runs(forward={TEACHER: Fraction(settings.teacher_steps * (1 + settings.is_guided))}),
    is_deterministic=True,
    keys=("teacher_steps",),
)
