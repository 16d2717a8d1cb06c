"""What a training's record keeps of the noise schedule that it has found."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.config.schema import TrainConfig
from harness.engine.build import build_noise_schedule
from harness.store.records import NoiseScheduleRecord
from models.noise_schedule import NAME, NoiseSchedule
from models.process import CosineSchedule

POINTS_PER_KNOT = 4
"""Between two knots λ(t) bends as the process's own does."""


def noise_schedule_record(
    weights: Mapping[str, Tensor], trained: NoiseSchedule | None, train: TrainConfig, process: CosineSchedule
) -> NoiseScheduleRecord | None:
    """The curve of the schedule in `weights`, and the loss's variances as the one that was `trained` has seen them."""
    schedule = build_noise_schedule(train)
    if schedule is None or trained is None:
        return None
    prefix = f"{NAME}."
    held = {name.removeprefix(prefix): value.cpu() for name, value in weights.items() if name.startswith(prefix)}
    schedule.load_state_dict(held)
    s = torch.linspace(0, 1, POINTS_PER_KNOT * schedule.knots + 1, dtype=torch.float64)
    own, fixed = trained.variance()
    return NoiseScheduleRecord(
        kind=schedule.kind,
        knots=schedule.knots,
        process_times=_numbers(s),
        times=_numbers(schedule.own_time(s)),
        log_snr=_numbers(process.log_snr(s)),
        variance=own,
        variance_fixed=fixed,
    )


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in values.tolist())
