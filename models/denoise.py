"""The denoiser that a sampler is handed: a method with its refreshes, labels, guidance and clipping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from models.guidance import Guidance, with_unconditional
from models.method import Model, Remembering, RunNetwork, State, run_network
from models.process import CosineSchedule, noise_level
from models.refresh import Refreshes


class Denoise:
    """``denoise(z, t, step) -> x̂`` for one batch through one run of a sampler.

    The context is made at the first evaluation of a refresh step and kept for all others, the second
    evaluation of Heun's step included. Which steps refresh and which are guided is settled here, on the host,
    before the run. A guided step runs the method on the batch twice over (conditional, unconditional), and so
    does a refresh whose context a guided step will use.

    Args:
        model: any method, or the one of each step where several take turns. Each keeps what it needs to itself, so the
            first step of a turn refreshes.
        schedule: of the process.
        times: the sampler's, float64 (steps + 1,).
        refreshes: one boolean per step; None for a method with nothing to refresh.
        labels: (B,) int64 of the batch; None for a model without classes, or to sample unconditionally.
        guidance: classifier-free; needs labels.
        clip: whether to clip x̂ to the range of the data, [−1, 1], after guidance.
        run: what runs the method's networks.

    Attributes:
        networks_run: runs of each network per image, counted as they happen; a guided step counts two.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        schedule: CosineSchedule,
        times: Tensor,
        refreshes: Refreshes | None = None,
        *,
        labels: Tensor | None = None,
        guidance: Guidance | None = None,
        clip: bool = True,
        run: RunNetwork = run_network,
    ) -> None:
        host = times.detach().to("cpu", torch.float64)
        levels = noise_level(schedule.log_snr(host))[:-1].tolist()
        self._guided = (guidance or Guidance()).active(levels)
        models = tuple(model) if isinstance(model, Sequence) else (model,) * len(levels)
        if len(models) != len(levels):
            raise ValueError(f"model: there are {len(models)} for {len(levels)} steps")
        if any(self._guided) and (labels is None or any(one.classes is None for one in models)):
            raise ValueError("guidance: needs a model with classes, and labels")
        if refreshes is None:
            refreshes = (True, *(before != after for before, after in pairwise(self._guided)))
        refreshes = tuple(
            refresh or (step > 0 and models[step] is not models[step - 1]) for step, refresh in enumerate(refreshes)
        )
        if len(refreshes) != len(levels) or not refreshes[0]:
            raise ValueError(
                f"refreshes: has {len(refreshes)} entries for {len(levels)} steps, and must start with True"
            )
        self.models, self.schedule, self.clip = models, schedule, clip
        self.networks_run: Counter[str] = Counter()
        self._run_network = run
        self._guidance = guidance or Guidance()
        self._refreshes = refreshes
        self._doubled = _doubled(refreshes, self._guided)
        self._labels = labels
        self._both = None if labels is None else with_unconditional(labels, models[0].classes or 0)
        self._state: State = None
        self._refreshed_by: Model | None = None
        self._refreshed_at = -1

    def __call__(self, z: Tensor, t: Tensor, step: int) -> Tensor:
        """x̂ for z (B, C, H, W) at the 0-dim time t, in a step of the sampler."""
        log_snr = self.schedule.log_snr(t).to(z.dtype)
        refresh = self._refreshes[step] and self._refreshed_at != step
        if refresh:
            self._refreshed_at = step
        doubled = self._guided[step] or (refresh and self._doubled[step])
        x = self._step(z, log_snr, step, refresh, doubled)
        if self._guided[step]:
            x = self._guidance.combine(*x.chunk(2))
        elif doubled:
            x = x.chunk(2)[0]
        return x.clamp(-1, 1) if self.clip else x

    def _step(self, z: Tensor, log_snr: Tensor, step: int, refresh: bool, doubled: bool) -> Tensor:
        batch = torch.cat([z, z]) if doubled else z

        def counted(name: str, function: Callable[..., Any], *inputs: Any) -> Any:
            self.networks_run[name] += 2 if doubled else 1
            return self._run_network(name, function, *inputs)

        labels = self._both if doubled else self._labels
        if refresh:
            model = self.models[step]
            x, state = model.step(batch, log_snr, labels, None, counted)
            if isinstance(model, Remembering) and model is self._refreshed_by:
                state = model.remember(state, self._state)
            self._state, self._refreshed_by = state, model
            return x
        state = first(self._state, len(batch)) if self._doubled[step] and not doubled else self._state
        return self.models[step].step(batch, log_snr, labels, state, counted)[0]


def _doubled(refreshes: Refreshes, guided: tuple[bool, ...]) -> tuple[bool, ...]:
    """For each step, whether any step that shares its refresh is guided, so that its context serves both halves."""
    starts = [step for step, refresh in enumerate(refreshes) if refresh]
    answer: list[bool] = []
    for start, end in pairwise([*starts, len(refreshes)]):
        answer += [any(guided[start:end])] * (end - start)
    return tuple(answer)


def first(state: State, images: int) -> State:
    """The part of a state for the first `images` images; what the batch shares (first dimension 1) stays."""
    return tree_map_only(Tensor, lambda tensor: tensor[:images], state)
