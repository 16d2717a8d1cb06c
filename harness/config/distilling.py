"""The teacher of a distillation: its configuration beside the student's, and whether the two fit."""

from __future__ import annotations

from typing import Any

from harness.config.beside import checked_beside, experiment_beside
from harness.config.schema import Experiment
from harness.errors import ConfigError
from models.distillation import DISTILLERS
from models.distillation.base import Distiller

KEY = "distill.teacher"


def distiller_of(experiment: Experiment) -> Distiller | None:
    """The way in which the training of `experiment` distils; None for an ordinary training."""
    return None if experiment.distill.method is None else DISTILLERS[experiment.distill.method]


def teacher_experiment(experiment: Experiment) -> Experiment | None:
    """That of the network that teaches in `experiment`'s training, on the same data; None without one."""
    return None if experiment.distill.method is None else experiment_beside(experiment, experiment.teacher, KEY)


def check_teacher(experiment: Experiment, source: str) -> None:
    """Raise :class:`ConfigError` unless the teacher of `experiment` can teach its student."""
    if experiment.distill.method is None:
        return
    teacher = checked_beside(experiment, experiment.teacher, KEY, source, "cannot teach; name a single one")
    if teacher is None:
        return
    if _process(teacher) != _process(experiment):
        raise ConfigError(
            source, ["distill.teacher: the two networks have another schedule (diffusion.base_resolution or "
                     "log_snr_range); a student keeps its teacher's"]
        )  # fmt: skip
    if teacher.diffusion.prediction == "epsilon":
        raise ConfigError(
            source,
            [
                "distill.teacher: predicts epsilon, which says nothing about an image at pure noise, where a student's "
                "first step is; name one that predicts v or x"
            ],
        )
    if experiment.distill.guidance not in (None, 1) and teacher.train.label_dropout == 0:
        raise ConfigError(source, ["distill.guidance: the teacher was trained without train.label_dropout"])


def _process(experiment: Experiment) -> tuple[Any, ...]:
    diffusion = experiment.diffusion
    return diffusion.schedule, diffusion.base_resolution, diffusion.log_snr_range


def student_problem(experiment: Experiment) -> str | None:
    """What is unusual about how the student of `experiment` is sampled, in a sentence; None if it is as was taught."""
    distiller, distill, sample = distiller_of(experiment), experiment.distill, experiment.sample
    if distiller is None:
        return None
    problems = []
    if sample.steps != distill.steps:
        problems.append(f"in {sample.steps} steps, it was taught {distill.steps} (distill.steps)")
    if sample.sampler != distiller.sampler:
        problems.append(f"by {sample.sampler}, {distiller.name} is made for {distiller.sampler}")
    if sample.refresh_schedule != distill.refresh_schedule and sample.steps == distill.steps:
        problems.append("with refreshes at other steps than it was taught (distill.refreshes)")
    return f"the student is sampled {'; '.join(problems)}" if problems else None
