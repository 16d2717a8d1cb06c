"""Drawing images from a trained network: what a configuration's `sample` section says, as one object.

Image i of a seed depends on the seed and i alone: not on the batch, the order, or the number of ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.build import build_schedule, refresh_mask, time_steps
from harness.config import Experiment
from models.cache import CachedSingleRate
from models.denoise import Denoise
from models.noise import ImageNoise
from models.samplers import SAMPLERS


@dataclass
class Drawing:
    """A network ready to draw images, on its device."""

    experiment: Experiment
    model: torch.nn.Module
    image_shape: tuple[int, int, int]
    classes: int | None
    device: torch.device

    def __post_init__(self) -> None:
        sample = self.experiment.sample
        self.model.eval().requires_grad_(False)
        self.stepper = (
            CachedSingleRate(self.model, sample.cache_from_level)
            if sample.cache_from_level is not None
            else self.model
        )
        self.schedule = build_schedule(self.experiment, self.image_shape[-1])
        self.times = time_steps(self.experiment, self.schedule)
        self.refreshing = refresh_mask(sample)
        self.evaluations: Counter[str] = Counter()
        """Evaluations per image of the last draw, by network, counted as they happened."""

    @torch.no_grad()
    def draw(
        self, seed: int, indices: Tensor, callback: Callable[[int, Tensor, Tensor], None] | None = None
    ) -> Tensor:
        """Images `indices` (int64, (B,)) of `seed`: float32 (B, C, H, W) in [-1, 1]."""
        sample = self.experiment.sample
        indices = indices.to(self.device)
        labels = indices % self.classes if self.classes is not None else None
        denoise = Denoise(
            self.stepper,
            self.schedule,
            self.times,
            self.refreshing,
            labels=labels,
            guidance=sample.guidance,
            guidance_interval=sample.guidance_interval,
            clip=sample.clip,
        )
        noise = ImageNoise(seed, indices, self.image_shape, self.device)
        options = {
            key: value
            for key in SAMPLER_OPTIONS[sample.sampler]
            if (value := getattr(sample, key)) is not None
        }
        with torch.autocast(self.device.type, torch.bfloat16, enabled=sample.precision == "bfloat16"):
            images = SAMPLERS[sample.sampler](
                denoise, noise, self.times, self.schedule, callback=callback, **options
            )
        self.evaluations = Counter(denoise.evaluations)
        return images.float().clamp(-1, 1)


SAMPLER_OPTIONS = {
    "ancestral": ("variance",),
    "ddim": ("eta",),
    "heun": ("churn", "churn_range", "churn_noise"),
    "dpmpp_2m": (),
}


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to 0..255, rounded to the nearest."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
