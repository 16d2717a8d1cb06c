"""The networks of a distillation as one module, and the states and estimates of its student."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from models.distillation.base import AUXILIARY, TEACHER, StudentSettings
from models.guidance import Guidance, with_unconditional
from models.method import Model, RunNetwork, State, names_beside, run_as, run_network
from models.noise import Stream
from models.objective import Randomness
from models.process import alpha_sigma, deterministic_step, diffuse, noise_level, per_image, posterior


class Distillation(nn.Module):
    """A student with its teacher and, where there is one, the trained copy of the teacher that tracks the student.

    As a model it is the student. The teacher keeps its weights, and it and its copy drop nothing out, so that their
    difference is of weights alone.
    """

    def __init__(self, student: Any, teacher: Any, auxiliary: Any | None = None) -> None:
        super().__init__()
        if student.classes != teacher.classes:
            raise ValueError(f"the student has {student.classes} classes, its teacher {teacher.classes}")
        self.student, self.teacher, self.auxiliary = student, teacher, auxiliary
        self.classes = student.classes
        beside = {TEACHER: teacher, **({} if auxiliary is None else {AUXILIARY: auxiliary})}
        self._names = {role: names_beside(model.networks, role) for role, model in beside.items()}
        self.networks = (*student.networks, *(name for names in self._names.values() for name in names.values()))
        self._told: dict[str, _Told] = {}
        for model in beside.values():
            model.eval()
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)

    def step(
        self,
        z: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        state: State = None,
        run: RunNetwork = run_network,
    ) -> tuple[Tensor, State]:
        """The student's step."""
        estimate: tuple[Tensor, State] = self.student.step(z, log_snr, labels, state, run)
        return estimate

    def taught(
        self, z: Tensor, log_snr: Tensor, labels: Tensor | None, guidance: Guidance | None, run: RunNetwork
    ) -> Tensor:
        """The teacher's x̂ for z (B, C, H, W) at λ (B,), guided where the noise level lies in the interval."""
        return estimate(self.teacher, z, log_snr, labels, guidance, run_as(run, self._names[TEACHER]))

    def tracked(self, z: Tensor, log_snr: Tensor, labels: Tensor | None, run: RunNetwork) -> Tensor:
        """The x̂ of the copy that tracks the student."""
        if self.auxiliary is None:
            raise ValueError("there is no auxiliary network")
        return estimate(self.auxiliary, z, log_snr, labels, None, run_as(run, self._names[AUXILIARY]))

    @property
    def monitored(self) -> dict[str, Tensor]:
        """What the newest iterations have to tell beside their loss, by name: the mean over micro-batches."""
        return {name: told.total / told.parts for name, told in self._told.items()}

    def tell(self, name: str, value: Tensor, step: int) -> None:
        """Note the `value` of a micro-batch of iteration `step`; what an iteration before has told under that name is
        forgotten."""
        told = self._told.get(name)
        if told is None or told.step != step:
            told = _Told(step, torch.zeros_like(value, dtype=torch.float32), 0)
        self._told[name] = _Told(step, told.total + value.detach().float(), told.parts + 1)

    @torch.no_grad()
    def begin(self) -> None:
        """The auxiliary network begins as the teacher."""
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(self.teacher.state_dict())

    @torch.no_grad()
    def share_frozen(self) -> None:
        """Hold what is frozen once: a student's tensor that equals one of the teacher's lies where that lies.

        No two of the student's lie in one place, however equal they are: each is saved by its own name.
        """
        held: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for parameter in self.teacher.parameters():
            held.setdefault((parameter.dtype, tuple(parameter.shape)), []).append(parameter)
        for parameter in self.student.parameters():
            if not parameter.requires_grad:
                free = held.get((parameter.dtype, tuple(parameter.shape)), [])
                for place, there in enumerate(free):
                    if torch.equal(parameter, there):
                        parameter.data = free.pop(place).data
                        break


class _Told(NamedTuple):
    """The sum of a figure over the first `parts` micro-batches of iteration `step`."""

    step: int
    total: Tensor
    parts: int


def estimate(
    model: Model,
    z: Tensor,
    log_snr: Tensor,
    labels: Tensor | None,
    guidance: Guidance | None = None,
    run: RunNetwork = run_network,
) -> Tensor:
    """x̂ of a network that is run at z (B, C, H, W) and λ (B,) alone; `guidance` as in sampling."""
    if guidance is None or guidance.scale == 1 or labels is None or model.classes is None:
        return model.step(z, log_snr, labels, None, run)[0]
    both = with_unconditional(labels, model.classes)
    conditional, unconditional = model.step(torch.cat([z, z]), log_snr.repeat(2), both, None, run)[0].chunk(2)
    guided = guidance.combine(conditional, unconditional)
    if guidance.interval is None:
        return guided
    low, high = guidance.interval
    sigma = noise_level(log_snr)
    return torch.where(per_image((sigma >= low) & (sigma <= high), z).bool(), guided, conditional)


class Estimate(NamedTuple):
    """A step of the student: its state z_t (B, C, H, W), its x̂, and the times t and s (B,), float64, of the step and of
    the state that it leads to."""

    z: Tensor
    x: Tensor
    t: Tensor
    s: Tensor


def student_estimate(
    model: Any,
    x: Tensor,
    labels: Tensor | None,
    randomness: Randomness,
    settings: StudentSettings,
    run: RunNetwork = run_network,
    *,
    deterministic: bool = False,
) -> Estimate:
    """A step of the student `model` at a random one of its k steps, for each image of its own.

    x (B, C, H, W) are images, of which a full rollout uses the shape alone. The x̂ has a gradient; the state that it was
    made at has none. A reconstruction of [DR]'s algorithms 3 and 4, and for a student that refreshes at every step
    those of [MMD].
    """
    u = randomness.time()  # spread evenly over the batch
    if settings.times == "continuous":
        s, t = _continuous(u, randomness, settings.steps)
        z = diffuse(x, settings.schedule.log_snr(t).to(x.dtype), _noise(randomness, Stream.NOISE, x))
        return Estimate(z, model.step(z, settings.schedule.log_snr(t).to(x.dtype), labels, None, run)[0], t, s)
    step = (u * settings.steps).long().clamp(max=settings.steps - 1)
    rollout = _Rollout(model, labels, randomness, settings, run, deterministic, x)
    refresh = _on_device(settings.refresh_of_step, x.device)[step]
    if settings.rollout == "full":
        z_refresh = rollout.from_noise(refresh)
    else:
        z_refresh = diffuse(x, rollout.log_snr[refresh], _noise(randomness, Stream.NOISE, x))
    z, estimated = rollout.of_segment(z_refresh, refresh, step)
    return Estimate(z, estimated, 1 - step.double() / settings.steps, 1 - (step + 1).double() / settings.steps)


def _on_device(refresh_of_step: list[int], device: torch.device) -> Tensor:
    """The same, int64 (k,): filled in there, as the host would wait for a copy to be over."""
    filled = torch.zeros(len(refresh_of_step), dtype=torch.int64, device=device)
    for refresh in sorted(set(refresh_of_step)):
        filled[refresh:] = refresh
    return filled


def _continuous(u: Tensor, randomness: Randomness, steps: int) -> tuple[Tensor, Tensor]:
    """[MMD], algorithm 2: s ~ U(0, 1), t = min(s + U(0, 1/k), 1)."""
    return u, (u + randomness.uniform(Stream.TARGET_TIME).double() / steps).clamp(max=1)


def between(estimated: Estimate, randomness: Randomness, settings: StudentSettings) -> Tensor:
    """A time (B,) to compare student and teacher at: s itself where times are continuous; on a grid anywhere from s to
    t, as the last step's own s is 0, where any two networks agree."""
    if settings.times == "continuous":
        return estimated.s
    return estimated.s + (estimated.t - estimated.s) * randomness.uniform(Stream.TARGET_TIME).double()


def renoised(
    estimated: Estimate, s: Tensor, settings: StudentSettings, randomness: Randomness, *, deterministic: bool = False
) -> tuple[Tensor, Tensor]:
    """z_s ~ q(z_s | z_t, x̂), without a gradient, and λ_s (B,); `deterministic`: DDIM's step, which [MMD] warns of."""
    z, x = estimated.z, estimated.x.detach()
    log_snr_t, log_snr_s = (settings.schedule.log_snr(time).to(z.dtype) for time in (estimated.t, s))
    noise = None if deterministic else _noise(randomness, Stream.RENOISE, z)
    return stepped(z, x, log_snr_t, log_snr_s, noise), log_snr_s


def stepped(z: Tensor, x: Tensor, log_snr_t: Tensor, log_snr_s: Tensor, noise: Tensor | None) -> Tensor:
    """The step from z_t to z_s by x̂, log-SNRs (B,): ancestral with `noise`, DDIM's without."""
    if noise is None:
        return deterministic_step(z, x, log_snr_t, log_snr_s)
    mean, variance = posterior(z, x, log_snr_t, log_snr_s)
    return mean + per_image(variance.sqrt(), z) * noise


def _noise(randomness: Randomness, stream: Stream, x: Tensor) -> Tensor:
    return randomness.normal(stream, x.shape[1:]).to(x.dtype)


class _Rollout:
    """The student's own sampling, every image up to a step of its own."""

    def __init__(
        self,
        model: Any,
        labels: Tensor | None,
        randomness: Randomness,
        settings: StudentSettings,
        run: RunNetwork,
        deterministic: bool,
        x: Tensor,
    ) -> None:
        self.model, self.labels, self.settings, self.run = model, labels, settings, run
        times = torch.linspace(1, 0, settings.steps + 1, dtype=torch.float64, device=x.device)
        self.log_snr = settings.schedule.log_snr(times).to(x.dtype)
        self.start = _noise(randomness, Stream.ROLLOUT_START, x) if settings.rollout == "full" else None
        walks = settings.longest_segment > 1 or settings.rollout == "full"
        self.noise = None
        if walks and not deterministic:
            self.noise = randomness.normal(Stream.ROLLOUT, (settings.steps, *x.shape[1:])).to(x.dtype)

    def _moved(self, z: Tensor, x: Tensor, step: Tensor) -> Tensor:
        """z at the step after `step` (B,)."""
        x = x.clamp(-1, 1) if self.settings.clips else x
        noise = None if self.noise is None else self.noise[torch.arange(len(z), device=z.device), step]
        return stepped(z, x, self.log_snr[step], self.log_snr[step + 1], noise)

    @torch.no_grad()
    def from_noise(self, refresh: Tensor) -> Tensor:
        """The state at step `refresh` (B,) of the student's sampling from noise."""
        assert self.start is not None
        refreshes = self.settings.refresh_of_step
        z = per_image(alpha_sigma(self.log_snr[:1])[1], self.start) * self.start
        kept, state = z, None
        for i in range(refreshes[-1]):
            at = torch.full_like(refresh, i)
            x, new = self.model.step(z, self.log_snr[at], self.labels, None if refreshes[i] == i else state, self.run)
            state = new if refreshes[i] == i else state
            z = self._moved(z, x, at)
            kept = torch.where(per_image(refresh == i + 1, z).bool(), z, kept)
        return kept

    def of_segment(self, z: Tensor, refresh: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """(z, x̂) at `step` (B,), from the state z at the step `refresh` (B,) before it."""
        at_refresh, state = self.model.step(z, self.log_snr[refresh], self.labels, None, self.run)
        segment = self.settings.longest_segment
        if segment == 1:
            return z, at_refresh
        offset = step - refresh
        with torch.no_grad():
            known = tree_map_only(Tensor, Tensor.detach, state)
            x = at_refresh.detach()
            for i in range(segment - 1):
                if i > 0:
                    at = refresh + offset.clamp(max=i)
                    x = self.model.step(z, self.log_snr[at], self.labels, known, self.run)[0]
                moved = self._moved(z, x, (refresh + i).clamp(max=self.settings.steps - 1))
                z = torch.where(per_image(offset > i, z).bool(), moved, z)
        later = self.model.step(z, self.log_snr[step], self.labels, state, self.run)[0]
        return z, torch.where(per_image(offset == 0, z).bool(), at_refresh, later)


class Whole(nn.Module):
    """x̂ of a network as a module's forward pass, for what differentiates in its weights."""

    def __init__(self, model: Any, guidance: Guidance | None = None) -> None:
        super().__init__()
        self.model, self.guidance = model, guidance

    def forward(self, z: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
        """x̂ for z (B, C, H, W) at λ (B,)."""
        return estimate(self.model, z, log_snr, labels, self.guidance)
