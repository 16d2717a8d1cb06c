"""A distillation, made of a configuration: its networks, its settings, what an iteration runs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from harness.config.distilling import distiller_of, teacher_experiment
from harness.config.schema import Experiment
from harness.engine.build import ImageInfo, build_model, build_schedule, method_for
from harness.errors import ConfigError
from harness.store.weights import load_tensors
from models.distillation.base import StudentSettings
from models.distillation.networks import Distillation
from models.guidance import Guidance
from models.methods import Loss
from models.process import CosineSchedule


def student_settings(experiment: Experiment, schedule: CosineSchedule) -> StudentSettings:
    """What the section `distill` of `experiment` says."""
    distill = experiment.distill
    guidance = None
    if distill.guidance is not None:
        guidance = Guidance(distill.guidance, distill.guidance_interval)
    return StudentSettings(
        steps=distill.steps or 1,
        loss=method_for(experiment).loss_settings(experiment, schedule),
        refreshes=distill.refresh_schedule if distill.refreshes is not None else None,
        times=distill.times or "discrete",
        rollout=distill.rollout or "data",
        clips=method_for(experiment).clips(experiment),
        guidance=guidance,
        variant=distill.variant or "alternating",
        teacher_steps=distill.teacher_steps or 1,
    )


def with_teacher(experiment: Experiment, student: nn.Module, info: ImageInfo) -> Distillation:
    """`student`, freshly initialised, beside the networks that teach it."""
    teacher, distiller = _teacher_of(experiment), distiller_of(experiment)
    assert distiller is not None
    settings = student_settings(experiment, build_schedule(experiment.diffusion, info.size))
    auxiliary = build_model(teacher, info) if distiller.has_auxiliary(settings) else None
    try:
        return Distillation(student, build_model(teacher, info), auxiliary)
    except ValueError as error:
        raise ConfigError("distill.teacher", [str(error)]) from None


def _teacher_of(experiment: Experiment) -> Experiment:
    teacher = teacher_experiment(experiment)
    if teacher is None:
        raise ConfigError("distill.teacher", [f"the network of {experiment.distill.teacher} is not known"])
    return teacher


def distillation_loss(experiment: Experiment, schedule: CosineSchedule) -> Loss:
    """What an iteration minimises."""
    distiller, settings = distiller_of(experiment), student_settings(experiment, schedule)
    assert distiller is not None
    loss = distiller.loss
    return lambda model, x, labels, randomness, *, run: loss(model, x, labels, randomness, settings, run)


def load_teacher(networks: Distillation, weights: Path, training: str | None) -> None:
    """Put the weights of the teacher in place; the copy that tracks the student begins with them.

    Raises :class:`StoreError` for a file that cannot be used, or of another training.
    """
    tensors, _ = load_tensors(weights, training)
    networks.teacher.load_state_dict(tensors)
    networks.begin()
    networks.share_frozen()
