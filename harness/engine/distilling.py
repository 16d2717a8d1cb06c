"""A distillation, made of a configuration: its networks, its settings, what an iteration runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from torch import nn

from harness.config.distilling import distiller_of, teacher_experiment
from harness.config.schema import Experiment
from harness.data import known_info
from harness.engine.build import ImageInfo, build_guidance, build_model, build_schedule, clips_unless_told, method_for
from harness.errors import ConfigError
from harness.measure.flops import MacCount, training_macs_per_step
from harness.store.weights import load_tensors
from models.distillation.base import StudentSettings, student_runs
from models.distillation.networks import Distillation
from models.methods import Loss
from models.process import CosineSchedule


def student_settings(experiment: Experiment, schedule: CosineSchedule) -> StudentSettings:
    """What the section `distill` of `experiment` says."""
    distill = experiment.distill
    return StudentSettings(
        steps=distill.steps or 1,
        loss=method_for(experiment).loss_settings(experiment, schedule),
        refreshes=distill.refresh_schedule,
        times=distill.times or "discrete",
        rollout=distill.rollout or "data",
        clips=clips_unless_told(experiment),
        guidance=build_guidance(distill),
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


def training_macs(
    experiment: Experiment,
    costs: Mapping[str, MacCount],
    refresh: Sequence[str],
    between: Sequence[str],
    teacher: int,
    *,
    recomputed: bool = False,
) -> int:
    """Multiply-adds of one training step of `experiment` over the global batch, a distillation or not; the mean over
    iterations that take turns.

    `costs` are those of its networks, of which a step that refreshes runs `refresh` and any other `between`; `teacher`
    those of an evaluation of its teacher. With `recomputed` what activation checkpointing adds is counted too.
    """
    method, distiller = method_for(experiment), distiller_of(experiment)
    runs: Mapping[str, int | Fraction] = method.runs_per_iteration(experiment)
    forward: Mapping[str, int | Fraction] = method.forward_runs_per_iteration(experiment)
    further = 0
    if distiller is not None:
        size = known_info(experiment.data, labelled=experiment.model.class_conditional).size
        settings = student_settings(experiment, build_schedule(experiment.diffusion, size))
        own = student_runs(settings, distiller.student_share(settings), Counter(refresh), Counter(between))
        beside = distiller.runs(settings)
        costs = {**costs, **dict.fromkeys({*beside.trained, *beside.forward}, MacCount(teacher, {}, {}))}
        runs = {**dict.fromkeys(costs, 0), **own.trained, **beside.trained}
        # a student's step without a gradient runs all that an evaluation does, the projections of a context too
        whole = sum(costs[name].macs * count for part in (own, beside) for name, count in part.forward.items())
        forward, further = {}, round(whole * experiment.train.batch)
    return further + training_macs_per_step(
        costs,
        experiment.train.batch,
        runs=runs,
        recomputed=recomputed and method.recomputes_activations(experiment),
        frozen=experiment.train.freeze or (),
        forward_runs=forward,
    )
