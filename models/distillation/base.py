"""What the ways of distilling share: the grid of the student, the networks that run, and how one declares itself.

A student of k steps is sampled at the grid t_i = 1 − i/k, i = 0 … k − 1; its last step returns its x̂. A student that
refreshes does so at fixed steps of that grid, and is trained on the states that these lead it to.

Declarations need no torch, which is imported inside the functions that use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from models.refresh import Refreshes

if TYPE_CHECKING:
    from torch import Tensor

    from models.distillation.networks import Distillation
    from models.guidance import Guidance
    from models.method import RunNetwork
    from models.objective import LossSettings, Randomness
    from models.process import CosineSchedule

Variant = Literal["alternating", "instant"]
Times = Literal["discrete", "continuous"]
Rollout = Literal["data", "full"]

DistillationLoss = Callable[
    ["Distillation", "Tensor", "Tensor | None", "Randomness", "StudentSettings", "RunNetwork"], "Tensor"
]
"""``loss(networks, x, labels, randomness, settings, run)``: the scalar that one training iteration minimises."""


@dataclass(frozen=True)
class StudentSettings:
    """What a student is to become, and how it is taught.

    Attributes:
        steps: k, the steps that it will be sampled in.
        loss: schedule, weight and label dropout, as of ordinary training.
        refreshes: one boolean per step; None for a student that keeps nothing between steps.
        times: "discrete", its steps stand on the grid; "continuous", anywhere, as [MMD]'s algorithm 2.
        rollout: where the state comes from that a refresh starts from: "data", a noised image; "full", the student's
            own sampling from noise, for which no image is needed.
        clips: whether the student's x̂ is clipped to [−1, 1] where it is stepped, as in sampling.
        guidance: of the teacher.
        variant: of moment matching.
        teacher_steps: of the teacher, for each of the student's: of regression.
    """

    steps: int
    loss: LossSettings
    refreshes: Refreshes | None = None
    times: Times = "discrete"
    rollout: Rollout = "data"
    clips: bool = True
    guidance: Guidance | None = None
    variant: Variant = "alternating"
    teacher_steps: int = 1

    def __post_init__(self) -> None:
        check_student(self.steps, self.refreshes, self.times, self.rollout)

    @property
    def schedule(self) -> CosineSchedule:
        """Of the process."""
        return self.loss.schedule

    @property
    def refresh_of_step(self) -> list[int]:
        """Of each step, the step of the refresh whose state it is given."""
        return refresh_of_step(self.steps, self.refreshes)

    @property
    def is_guided(self) -> bool:
        """Whether the teacher is, and so costs two evaluations."""
        return self.guidance is not None and self.guidance.scale != 1

    @property
    def longest_segment(self) -> int:
        """Steps of the longest segment from one refresh to the next."""
        return longest_segment(self.steps, self.refreshes)


def check_student(steps: int, refreshes: Refreshes | None, times: str, rollout: str) -> None:
    """Raise ValueError, the key first, where a student of these steps cannot be taught so."""
    if steps < 1:
        raise ValueError(f"steps: {steps} is less than 1")
    if refreshes is not None and (len(refreshes) != steps or not refreshes[0]):
        raise ValueError(f"refreshes: has {len(refreshes)} entries for {steps} steps, and must start with True")
    if times == "continuous" and (longest_segment(steps, refreshes) > 1 or rollout == "full"):
        what = "a full rollout" if rollout == "full" else "a student that keeps its context over several steps"
        raise ValueError(f"times: continuous times have no grid, on which {what} lies; set discrete")


def refresh_of_step(steps: int, refreshes: Refreshes | None) -> list[int]:
    """Of each step, the step of the last refresh up to it."""
    last, answer = 0, []
    for step in range(steps):
        last = step if refreshes is None or refreshes[step] else last
        answer.append(last)
    return answer


def longest_segment(steps: int, refreshes: Refreshes | None) -> int:
    """Steps of the longest segment from one refresh to the next."""
    refresh = refresh_of_step(steps, refreshes)
    return max(step - refresh[step] + 1 for step in range(steps))


@dataclass(frozen=True)
class Runs:
    """How often one training iteration runs networks, on average and per image.

    Attributes:
        trained: forward and backward.
        forward: forward alone.
    """

    trained: Mapping[str, Fraction] = field(default_factory=dict)
    forward: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True)
class Distiller:
    """A way to distil, as it declares itself: all that the rest of the project knows of it.

    Attributes:
        name: in configurations and reports.
        description: in a few words.
        loss: what a training iteration minimises.
        has_auxiliary: whether a trained copy of the teacher tracks the student.
        student_share: the share of the iterations that train the student.
        runs: evaluations per iteration of the teacher and of its trained copy, as :data:`TEACHER` and
            :data:`AUXILIARY`.
        is_deterministic: whether its students are sampled by DDIM's steps, or by ancestral ones.
        keys: its own keys of the section `distill`.
    """

    name: str
    description: str
    loss: DistillationLoss
    has_auxiliary: Callable[[StudentSettings], bool]
    student_share: Callable[[StudentSettings], Fraction]
    runs: Callable[[StudentSettings], Runs]
    is_deterministic: bool = False
    keys: tuple[str, ...] = ()

    @property
    def sampler(self) -> str:
        """The sampler that its students are made for."""
        return "ddim" if self.is_deterministic else "ancestral"


TEACHER, AUXILIARY = "teacher", "auxiliary"


def student_runs(
    settings: StudentSettings, share: Fraction, refresh: Mapping[str, int], between: Mapping[str, int]
) -> Runs:
    """Runs of the student's networks per iteration, of which a `share` has a backward pass.

    `refresh` and `between` are the runs of a step that refreshes, and of one that does not.
    """
    segment = settings.longest_segment
    taught: dict[str, Fraction] = {name: Fraction(count) for name, count in refresh.items()}
    forward: dict[str, Fraction] = {}

    def add(runs: dict[str, Fraction], counts: Mapping[str, int], times: int) -> None:
        for name, count in counts.items():
            runs[name] = runs.get(name, Fraction(0)) + count * times

    if segment > 1:
        add(taught, between, 1)
        add(forward, between, segment - 2)
    if settings.rollout == "full":
        before = settings.refresh_of_step[-1]
        refreshes = sum(step == at for step, at in enumerate(settings.refresh_of_step[:before]))
        add(forward, refresh, refreshes)
        add(forward, between, before - refreshes)
    trained = {name: count * share for name, count in taught.items()}
    for name, count in taught.items():
        forward[name] = forward.get(name, Fraction(0)) + count * (1 - share)
    return Runs(trained, {name: count for name, count in forward.items() if count})
