"""Training one network, resumable at any step.

All randomness is a function of (seed, step, position in the global batch), so a resumed run repeats an uninterrupted
one bit for bit on a CPU, and the number of ranks and micro-batches changes nothing but rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.config.schema import Experiment, TrainConfig, standing_by_itself
from harness.data import DataInfo, Dataset, batches
from harness.data.loader import Batch
from harness.engine.build import build_model, build_schedule, method_for
from harness.engine.compiling import CompiledNetworks
from harness.engine.distilling import distillation_loss, load_teacher, with_teacher
from harness.engine.distributed import Ranks, current_ranks, pick_device
from harness.engine.latents import LatentData, network_input, training_data
from harness.engine.loggers import Loggers
from harness.engine.noise_schedule import noise_schedule_record
from harness.engine.spent import Spent
from harness.engine.start import load_start, selected_weights
from harness.engine.tables import load_table
from harness.engine.training_samples import TrainingSamples, is_due
from harness.errors import ConfigError, Stopped, StoreError
from harness.files import file_sha256, write_atomically, write_json
from harness.measure.latency import device_name
from harness.store.checkpoints import CheckpointWriter, checkpoints, read_newest, set_aside_and_say
from harness.store.identity import start_training, teacher_training
from harness.store.records import TRAINING_SCHEMA, InheritedCost, Provenance, TrainingRecord
from harness.store.training_log import SAMPLES
from harness.store.weights import keep_replaced, save_tensors, tensors_digest
from models.distillation.networks import Distillation
from models.method import RunNetwork, run_network
from models.methods import Loss
from models.noise_schedule import noise_schedule_of
from models.objective import Randomness

log = logging.getLogger("harness")

Progress = Callable[[int, int], None]
STOP_EVERY = 10
"""Steps between the ranks asking each other whether to stop."""


class Diverged(Exception):
    """The loss is not finite."""


class TrainingLoss(nn.Module):
    """Network and objective as one module: what DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, loss: Loss, run: RunNetwork = run_network) -> None:
        super().__init__()
        self.model, self.loss, self.run = model, loss, run

    def forward(self, images: Tensor, labels: Tensor | None, randomness: Randomness) -> Tensor:
        """The mean loss of images (B, C, H, W) in [-1, 1], or of latents."""
        value = self.loss(self.model, images, labels, randomness, run=self.run)
        if isinstance(self.run, CompiledNetworks) and not self.run.networks:
            raise ConfigError(
                "train.compile", ["the method's loss runs no network through `run`, so there is nothing to compile"]
            )
        return value


@dataclass
class State:
    """All that changes during a training."""

    model: nn.Module
    """All networks that a training step runs."""
    result: nn.Module
    """Those of them whose weights the training leaves: all, or the student alone."""
    average: dict[str, Tensor]
    """Of what is trained of the result."""
    optimizer: torch.optim.Adam
    step: int = 0

    def trained(self) -> dict[str, Tensor]:
        """The networks' tensors, without those that are frozen."""
        return _trained(self.model)

    def frozen(self) -> dict[str, Tensor]:
        """Those of the frozen networks."""
        return _frozen(self.model)

    def weights(self) -> dict[str, Tensor]:
        """What a training leaves: the average, and what was frozen."""
        return {**_frozen(self.result), **self.average}

    def restart_average(self) -> None:
        """The average is the weights as they are."""
        self.average = {name: value.detach().clone() for name, value in _trained(self.result).items()}

    def tensors(self) -> dict[str, Tensor]:
        """Flat, named tensors: the content of a checkpoint, in which the frozen networks are not."""
        named = {f"model.{k}": v for k, v in self.trained().items()}
        named |= {f"average.{k}": v for k, v in self.average.items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                named[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        if (noise := noise_schedule_of(self.model)) is not None:
            named |= {f"noise.{key}": value for key, value in noise.running().items()}
        return named

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take over the content of a checkpoint."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict({**self.frozen(), **part("model.")})
        for name, value in part("average.").items():
            self.average[name].copy_(value)
        if (noise := noise_schedule_of(self.model)) is not None:
            noise.go_on(part("noise."))
        for name, parameter in self.model.named_parameters():
            entries = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if any(value is None for value in entries.values()):
                continue
            device = parameter.device
            self.optimizer.state[parameter] = {
                key: value.to(device) for key, value in entries.items() if value is not None
            }
        self.step = step


def _trained(model: nn.Module) -> dict[str, Tensor]:
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if not value.requires_grad}


def train_network(
    experiment: Experiment,
    training: str,
    folder: Path,
    progress: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    start: Path | None = None,
    table: Path | None = None,
    inherited: InheritedCost | None = None,
    teacher: Path | None = None,
    references: Path | None = None,
    latents: Path | None = None,
) -> dict[str, Any]:
    """Train `experiment`'s network to the end and leave weights.safetensors (the average) and done.json in `folder`.

    Begins with the weights in `start`, if it is given, and with the `table` that is measured of them, but with a new
    optimiser and at step 0. Goes on from the newest whole checkpoint. Every rank of a job calls it; the first writes.
    `inherited` is what the weights in `start` have cost; `teacher` are those of the network that a student is distilled
    from; `references` is the folder of features that distances during training are taken to; `latents` that of the
    encoded images, where the data are encoded.

    Returns what done.json holds. Raises :class:`Stopped` (saved) when `should_stop`, :class:`Diverged`, and
    HarnessError for bad input.
    """
    settings, ranks = experiment.train, current_ranks()
    micro_batch = micro_batch_of(settings, ranks)
    if experiment.distill.variant == "instant" and micro_batch % 2:
        over = f"over {ranks.world} × {settings.accumulate} ranks × accumulations"
        raise ConfigError(
            "train.batch",
            [f"the instant variant halves each micro-batch, of {micro_batch} images {over}; make it even"],
        )
    device = pick_device(ranks)
    dataset = training_data(experiment, latents)
    looks_on = settings.sample_every is not None and ranks.is_first
    samples = TrainingSamples(experiment, dataset, folder, device, references) if looks_on else None
    state, objective = build_training(experiment, dataset.info, device)
    frozen: dict[str, str] = {}
    if start is not None and has_frozen(experiment):  # what is frozen is in no checkpoint
        _start_from(state, start, experiment, table, teacher)
        frozen = {"frozen": tensors_digest(state.frozen())}
    resumed = _resume(state, experiment, training, folder, ranks, frozen)
    if resumed is None and start is not None and not frozen:
        _start_from(state, start, experiment, table)
    module = objective if ranks.world == 1 else _distributed(objective, experiment, device)
    journal = Journal(folder / "log.jsonl", state.step, ranks)
    started, first, spent = time.monotonic(), state.step, Spent.resumed(resumed, inherited)
    progress(state.step, settings.steps)
    told_before = list(_entries(journal.path)) if ranks.is_first else []
    with (
        CheckpointWriter(folder, training) as writer,
        Loggers(experiment, training, folder, told_before, ranks.is_first) as loggers,
    ):

        def look() -> None:
            """Let the first rank draw what is due; the others wait for it where they next need each other."""
            if samples is not None and is_due(settings, state.step):
                with journal.paused(), spent.paused():
                    if (line := samples.take(state.step, state.weights())) is not None:
                        journal.write(line)
                        loggers.add(line)

        if samples is not None:
            samples.begin(state.step)
            if not any(line["step"] == state.step and SAMPLES in line for line in told_before):
                look()  # a stop or a kill came between the checkpoint and its images
        for batch in _batches(dataset, experiment, state.step, ranks, device):
            value = optimise(state, module, experiment, batch, micro_batch, device)
            state.step += 1
            writer.check()
            finished = state.step == settings.steps
            if state.step % settings.log_every == 0 or finished:
                with _naming_checkpoint(writer):
                    told = _monitored_over_ranks(state.model, ranks)
                    loggers.add(journal.add(state.step, float(_mean_over_ranks(value, ranks)), settings.batch, told))
            progress(state.step, settings.steps)
            asked = (ranks.world == 1 or state.step % STOP_EVERY == 0) and _any_rank(should_stop(), ranks, device)
            stopping = asked and not finished
            due = state.step % settings.checkpoint_every == 0 and not finished
            if stopping or due or finished or is_due(settings, state.step):
                with _naming_checkpoint(writer):
                    _check_sound(state, objective, experiment, batch, value, micro_batch, device, ranks)
            if ranks.is_first and (stopping or due):
                writer.write(state.tensors(), state.step, **frozen, **spent.facts())
            if stopping:
                writer.wait()
                ranks.barrier()
                raise Stopped(f"training {training} stopped at step {state.step} of {settings.steps}")
            look()
    seconds = time.monotonic() - started - journal.seconds_apart
    return _finish(state, training, folder, ranks, experiment, dataset, seconds, state.step - first, spent)


def build_training(experiment: Experiment, info: DataInfo, device: torch.device) -> tuple[State, TrainingLoss]:
    """A training at its start, and the loss that it minimises; the networks compiled if the configuration says so."""
    torch.manual_seed(experiment.seed)
    student = build_model(experiment, info).to(device)
    _freeze(student, experiment)
    distils = experiment.distill.method is not None
    model = with_teacher(experiment, student, info).to(device) if distils else student
    run = CompiledNetworks() if experiment.train.compile else run_network
    schedule = build_schedule(experiment.diffusion, info.size)
    loss = (distillation_loss if distils else method_for(experiment).loss)(experiment, schedule)
    state = State(model, student, {}, _optimizer(model, student, experiment))
    state.restart_average()
    return state, TrainingLoss(model, loss, run)


def has_frozen(experiment: Experiment) -> bool:
    """Whether networks take part in the training that it does not change."""
    return bool(experiment.train.freeze) or experiment.distill.method is not None


def _holding_frozen(experiment: Experiment) -> str:
    """The keys that name the weights which a training leaves as they are."""
    given = {"train.start": experiment.train.freeze, "distill.teacher": experiment.distill.method}
    return " and ".join(key for key, value in given.items() if value)


def _freeze(model: nn.Module, experiment: Experiment) -> None:
    """Put the networks that the configuration freezes into evaluation mode, their parameters without gradients."""
    owned = method_for(experiment).network_parameters(model)
    for name in experiment.train.freeze or ():
        for parameter in owned[name]:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("train.freeze", ["leaves nothing to train"])
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _distributed(objective: nn.Module, experiment: Experiment, device: torch.device) -> DistributedDataParallel:
    """The loss over all ranks."""
    return DistributedDataParallel(
        objective,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=experiment.distill.method is not None
        or method_for(experiment).may_leave_parameters_unused(experiment),
        gradient_as_bucket_view=True,
    )


def _batches(
    dataset: Dataset | LatentData, experiment: Experiment, step: int, ranks: Ranks, device: torch.device
) -> Iterator[Batch]:
    return batches(
        dataset,
        experiment.train.batch,
        experiment.seed,
        step,
        experiment.train.steps,
        rank=ranks.rank,
        world=ranks.world,
        workers=experiment.train.workers,
        pin_memory=device.type == "cuda",
    )


def micro_batch_of(settings: TrainConfig, ranks: Ranks) -> int:
    parts = settings.accumulate * ranks.world
    if settings.batch % parts:
        raise ConfigError(
            "train.batch",
            [f"{settings.batch} is not divisible by ranks × accumulations, {ranks.world} × {settings.accumulate}"],
        )
    return settings.batch // parts


def _optimizer(model: nn.Module, student: nn.Module, experiment: Experiment) -> torch.optim.Adam:
    """Adam over what is trained, with a group of parameters for each network that has a learning rate of its own.

    A parameter that an iteration gives no gradient is left alone with all its averages: for networks that are trained
    in turn it is as good as an optimiser for each.
    """
    settings, method = experiment.train, method_for(experiment)
    own_rates = method.learning_rates(experiment)
    owned = method.network_parameters(student) if own_rates else {}
    rates = {id(parameter): rate for name, rate in own_rates.items() for parameter in owned[name]}
    if isinstance(model, Distillation) and model.auxiliary is not None:
        rate = experiment.distill.auxiliary_learning_rate or settings.learning_rate
        rates |= {id(parameter): rate for parameter in model.auxiliary.parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(rates.get(id(parameter), settings.learning_rate), []).append(parameter)
    return torch.optim.Adam(
        [{"params": parameters, "lr": rate, "peak": rate} for rate, parameters in groups.items()],
        betas=settings.adam_betas,
        eps=1e-8,
        fused=True,
    )


def _generator_key(seed: int, step: int, position: int) -> int:
    """A seed of torch's generator for the micro-batch that starts at `position` of the global batch."""
    digest = hashlib.blake2b(f"{seed} {step} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def optimise(
    state: State,
    module: nn.Module,
    experiment: Experiment,
    batch: Batch,
    micro_batch: int,
    device: torch.device,
) -> Tensor:
    """One optimiser step on this rank's part of the global batch; returns the mean loss as a tensor on the device."""
    settings = experiment.train
    parts = _parts(batch, micro_batch, device)
    total = torch.zeros((), device=device)
    state.optimizer.zero_grad(set_to_none=True)
    for part in parts:
        with contextlib.ExitStack() as stack:
            if isinstance(module, DistributedDataParallel) and part is not parts[-1]:
                stack.enter_context(module.no_sync())
            value = _loss_of_part(module, experiment, state.step, part)
        (value / len(parts)).backward()
        total += value.detach() / len(parts)
    if settings.gradient_clip is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.gradient_clip)
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * min(1.0, (state.step + 1) / (settings.warmup + 1))
    state.optimizer.step()
    _update_noise_schedule(state.model)
    _update_average(state, settings.ema)
    return total


def _update_noise_schedule(model: nn.Module) -> None:
    """Move the noise schedule, if one is trained, by what this step's losses tell, over all ranks."""
    noise = noise_schedule_of(model)
    if noise is None:
        return
    sums = noise.take_seen()
    if current_ranks().world > 1:
        torch.distributed.all_reduce(sums)
    noise.update(sums)


class _Part(NamedTuple):
    """A micro-batch on the device, and the place of its first image in the global batch."""

    batch: Batch
    first: int


def _parts(batch: Batch, micro_batch: int, device: torch.device) -> list[_Part]:
    """The micro-batches of this rank's part of the global batch."""
    moved = [tensor.to(device, non_blocking=True) for tensor in batch]
    return [
        _Part(Batch(*(tensor[start : start + micro_batch] for tensor in moved)), int(batch.positions[start]))
        for start in range(0, len(batch.images), micro_batch)
    ]


def _loss_of_part(module: nn.Module, experiment: Experiment, step: int, part: _Part) -> Tensor:
    """The loss of a micro-batch at `step`."""
    settings, (images, labels, positions) = experiment.train, part.batch
    randomness = Randomness(experiment.seed, step, positions, settings.batch)
    # torch's own generator, for dropout and the like: keyed, so that a resumed run repeats it
    torch.manual_seed(_generator_key(experiment.seed, step, part.first))
    x = network_input(experiment, images, randomness)
    with torch.autocast(
        images.device.type,
        torch.bfloat16,
        enabled=settings.precision == "bfloat16",
        # what is recomputed must cast as the first pass did, whatever the cache of casts held then
        cache_enabled=not method_for(experiment).recomputes_activations(experiment),
    ):
        value: Tensor = module(x, labels if experiment.model.class_conditional else None, randomness)
    return value


@torch.no_grad()
def _update_average(state: State, decay: float) -> None:
    """Exponential moving average, its decay ramped so that a short training is not held back by its start."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    current = state.result.state_dict()
    floating = [name for name, value in state.average.items() if value.is_floating_point()]
    torch._foreach_lerp_([state.average[n] for n in floating], [current[n] for n in floating], 1 - decay)
    for name in state.average.keys() - set(floating):
        state.average[name].copy_(current[name])


def _start_from(
    state: State, path: Path, experiment: Experiment, table: Path | None, teacher: Path | None = None
) -> None:
    """Begin with the weights in `path`, and with a table measured of them; the average begins with both too."""
    load_start(state.result, path, start_training(experiment), experiment)
    if table is not None:
        load_table(state.result, experiment, table)
    if isinstance(state.model, Distillation):
        if teacher is None:
            raise ConfigError("distill.teacher", ["its weights are not there"])
        load_teacher(state.model, teacher, teacher_training(experiment))
    state.restart_average()


RUNAWAY = 4.0
"""Root mean square of an x̂ beyond which its network has run away: pixels are within ±1, latents are scaled to a
deviation near 1."""
WATCHED = {"estimate_rms": "the student", "auxiliary_rms": "the copy of the teacher"}
"""Where an iteration tells that of each network that is trained."""


def monitored(model: nn.Module) -> dict[str, float]:
    """What a training has to tell beside its loss: a distillation of its newest iterations, one that trains a noise
    schedule of its loss's variance, with it and without; any other nothing."""
    if isinstance(model, Distillation):
        return {name: float(value) for name, value in model.monitored.items()}
    noise = noise_schedule_of(model)
    return {} if noise is None else dict(zip(("variance", "variance_fixed"), noise.variance(), strict=True))


def check_monitored(step: int, values: Mapping[str, float]) -> None:
    """Raise :class:`Diverged` where a network has run away; a loss of moments may stay small meanwhile."""
    for name, network in WATCHED.items():
        size = values.get(name, 0.0)
        if not size < RUNAWAY:
            raise Diverged(
                f"{network} has run away: its estimates have a root mean square of {size:.3g} at step {step}"
            )


def _monitored_over_ranks(model: nn.Module, ranks: Ranks) -> dict[str, float]:
    """:func:`monitored`, the mean over all ranks: each knows the same, and stops for the same."""
    own = monitored(model)
    if ranks.world == 1 or not own:
        return own
    values = torch.tensor(list(own.values()), device=next(model.parameters()).device)
    return dict(zip(own, _mean_over_ranks(values, ranks).tolist(), strict=True))


def _check_sound(
    state: State,
    objective: TrainingLoss,
    experiment: Experiment,
    batch: Batch,
    value: Tensor,
    micro_batch: int,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Raise :class:`Diverged` unless the weights as they are may be kept, so that what is kept is from before.

    `value` is the last iteration's loss. Of a distillation the loss is computed once more, after its update.
    """
    if isinstance(state.model, Distillation):
        value = _loss_of_part(objective, experiment, state.step, _parts(batch, micro_batch, device)[0]).detach()
        check_monitored(state.step, _monitored_over_ranks(state.model, ranks))
    check_loss(state.step, float(_mean_over_ranks(value, ranks)))


def check_loss(step: int, loss: float) -> None:
    """Raise :class:`Diverged` for one that is not finite."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at step {step}")


@contextlib.contextmanager
def _naming_checkpoint(writer: CheckpointWriter) -> Iterator[None]:
    """Say of a training that diverges which checkpoint it leaves."""
    try:
        yield
    except Diverged as error:
        writer.wait()
        newest = max(checkpoints(writer.folder), default=None)
        left = "no checkpoint was written before" if newest is None else f"the last checkpoint before is {newest}"
        raise Diverged(f"{error}; {left}") from None


def _resume(
    state: State, experiment: Experiment, training: str, folder: Path, ranks: Ranks, frozen: Mapping[str, str]
) -> dict[str, str] | None:
    """Take over the newest whole checkpoint, if there is one; the first rank sets a damaged one aside and says so.

    Returns the checkpoint's metadata. Raises :class:`StoreError` for one that was made with other `frozen` weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks.barrier()
    found = read_newest(folder, training, set_aside_and_say if ranks.is_first else lambda path, error: None)
    if found is not None:
        if found.metadata.get("frozen") != frozen.get("frozen"):
            raise StoreError(
                f"{found.path}: was made beside other frozen weights than those of {_holding_frozen(experiment)}; move "
                f"{folder} away to train anew"
            )
        state.restore(found.tensors, found.step)
        log.info("training %s goes on from step %d", training, state.step)
    ranks.barrier()
    return None if found is None else found.metadata


def _finish(
    state: State,
    training: str,
    folder: Path,
    ranks: Ranks,
    experiment: Experiment,
    dataset: Dataset | LatentData,
    seconds: float,
    steps: int,
    spent: Spent,
) -> dict[str, Any]:
    from harness.store.provenance import method_provenance, provenance

    weights = folder / "weights.safetensors"
    done: dict[str, Any] = {}
    seconds_of_all_runs, others_share = spent.total()
    if ranks.is_first:
        keep_replaced(weights)
        save_tensors(weights, state.weights(), training, step=str(state.step), config=standing_by_itself(experiment))
        schedule = build_schedule(experiment.diffusion, dataset.info.size)
        selected = selected_weights(experiment, state.result)
        noise = noise_schedule_record(state.weights(), noise_schedule_of(state.model), experiment.train, schedule)
        record = TrainingRecord(
            schema_=TRAINING_SCHEMA,
            training=training,
            steps=state.step,
            data=dataset.info.name,
            weights_bytes=weights.stat().st_size,
            weights_sha256=file_sha256(weights),
            ranks=ranks.world,
            device=device_name(next(state.model.parameters()).device),
            precision=experiment.train.precision,
            seconds_of_last_run=round(seconds, 3),
            steps_of_last_run=steps,
            seconds=seconds_of_all_runs,
            others_share=others_share,
            inherited=spent.inherited,
            images_per_second=round(steps * experiment.train.batch / seconds, 2) if steps and seconds else None,
            provenance=Provenance.model_validate({**provenance(), **method_provenance(experiment)}),
            **({} if noise is None else {"noise_schedule": noise}),
            **({"selected": selected} if selected else {}),
        )
        done = record.plain
        write_json(folder / "done.json", done)
        for path in checkpoints(folder):
            path.unlink(missing_ok=True)
    ranks.barrier()
    return done


def _mean_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    if ranks.world == 1:
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / ranks.world


def _any_rank(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether any rank says so: all must stop at the same step."""
    if ranks.world == 1:
        return flag
    shared = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return bool(shared.item())


class Journal:
    """The training's log, one JSON object a line; on resume it is cut back to the step that is resumed."""

    def __init__(self, path: Path, step: int, ranks: Ranks) -> None:
        self.path, self.ranks = path, ranks
        if ranks.is_first:
            kept = [line for line in _entries(path) if line["step"] <= step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.last_time, self.last_step = time.monotonic(), step
        self.seconds_apart = 0.0
        """Of what was no part of the training."""

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no part of the training: its seconds do not count."""
        before = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - before
            self.last_time += seconds
            self.seconds_apart += seconds

    def write(self, line: Mapping[str, Any]) -> None:
        """A line as it stands."""
        if self.ranks.is_first:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def add(
        self, step: int, loss: float, batch: int, further: Mapping[str, float] | None = None
    ) -> dict[str, float | None]:
        """Note the loss and `further` values, and return the line; raises :class:`Diverged` where it is not finite or a
        student ran away."""
        check_loss(step, loss)
        check_monitored(step, further or {})
        now = time.monotonic()
        seconds = now - self.last_time
        rate = (step - self.last_step) * batch / seconds if seconds > 0 else None
        self.last_time, self.last_step = now, step
        line = {
            "step": step,
            "loss": round(loss, 6),
            "seconds": round(seconds, 3),
            "images_per_second": rate and round(rate, 1),
            **{name: round(value, 6) for name, value in (further or {}).items()},
        }
        self.write(line)
        return line


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("step"), int):  # the rest of a line that was cut
                    yield entry
