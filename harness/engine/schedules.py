"""Finding the schedule that a configuration asks for: of refreshes, or with a budget of steps and refreshes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from harness.config.methods import source_of
from harness.config.scheduling import with_schedule
from harness.config.schema import Experiment
from harness.data import known_info, network_info
from harness.engine.build import build_model, build_schedule, sampled_model, time_steps
from harness.engine.estimate import schedule_macs
from harness.engine.pair_tables import load_pair_table
from harness.errors import Blocked, ConfigError
from harness.store.identity import Identifier
from harness.store.needs import missing_need
from harness.store.store import Store, Target
from harness.wording import count_of
from models.noise import Stream, uniform
from models.refresh import evenly, evenly_in
from models.scheduling.measure import Featured
from models.scheduling.objectives import OBJECTIVES, Floats
from models.scheduling.solvers import Found, FreeGrid, best_refreshes, bound_of
from models.scheduling.table import Estimate, PairTable

GIGA = 1e9
FEATURES_CURE = "a model tells them by a method: see models.scheduling.measure.Featured"


@dataclass(frozen=True)
class Candidates:
    """The times that a schedule is chosen from."""

    times: Floats
    """(N + 1,), falling to 0."""
    log_snr: Floats
    """(N + 1,), rising."""

    @classmethod
    def of(cls, experiment: Experiment, size: int) -> Candidates:
        """The times of ``sample.steps`` and ``sample.spacing``, for images of side `size`."""
        schedule = build_schedule(experiment.diffusion, size)
        times = time_steps(experiment.sample, schedule)
        return cls(times.numpy(), schedule.log_snr(times).numpy())


def bias_of(experiment: Experiment) -> float:
    """b of the sigmoid objective: what is set, or that of training."""
    bias = experiment.sample.objective_bias
    return experiment.diffusion.loss_bias if bias is None else bias


def objective_of(experiment: Experiment) -> str:
    """The name of what ``sample.schedule`` minimises."""
    return "cosine" if experiment.sample.schedule == "ddt" else experiment.sample.objective or "sigmoid"


class Scheduler:
    """Schedules of one experiment on its candidate times, found and judged by a table."""

    def __init__(self, experiment: Experiment, table: PairTable, size: int) -> None:
        self.experiment, self.table = experiment, table
        self.grid = Candidates.of(experiment, size)

    def problem(self, objective: str) -> tuple[Floats, Floats]:
        """(weights, errors) of the solvers."""
        chosen = OBJECTIVES[objective]
        weights = chosen.weights(self.grid.log_snr, bias_of(self.experiment))
        return weights, self.table.errors(chosen.errors, self.grid.log_snr[:-1])

    def refreshes(self, objective: str, count: int) -> Found:
        """The best `count` refreshes where each candidate time is a step."""
        return best_refreshes(*self.problem(objective), count)[-1]

    def within(self, objective: str, gmacs: float) -> Found:
        """The best steps and refreshes that cost at most `gmacs` per image."""
        check_budget(self.experiment)
        macs, budget = schedule_macs(self.experiment), round(gmacs * GIGA)
        steps = len(self.grid.times) - 1
        most = max(r for r in range(1, steps + 1) if macs(r, r) <= budget)
        return FreeGrid.solved(*self.problem(objective), steps, most).within(macs, budget)

    def fixed(self, refresh_steps: tuple[int, ...], objective: str) -> Found:
        """The schedule of given refreshes where each candidate time is a step."""
        times = tuple(range(len(self.grid.times) - 1))
        return Found(bound_of(*self.problem(objective), times, refresh_steps), times, refresh_steps)

    def rivals(self, objective: str) -> dict[str, Found]:
        """The best schedule by `objective`, and others of the same cost by name.

        Of a budget only the best uniform one: steps and refreshes even in the candidate times, as many of either as
        have the least bound.
        """
        sample, steps = self.experiment.sample, len(self.grid.times) - 1
        if sample.budget is not None:
            return {"optimal": self.within(objective, sample.budget), "uniform": self._uniform(objective)}
        count = sample.refreshes or 0
        rivals = {
            "uniform": evenly(count, steps),
            "uniform_log_snr": evenly_in(self.grid.log_snr.tolist(), count),
        }
        found = {"optimal": self.refreshes(objective, count)}
        for name, chosen in rivals.items():
            found[name] = self.fixed(tuple(step for step, refresh in enumerate(chosen) if refresh), objective)
        if self.table.dissimilarity is not None:
            found["ddt"] = self.refreshes("cosine", count)
        return found

    def _uniform(self, objective: str) -> Found:
        weights, errors = self.problem(objective)
        size, macs = len(self.grid.times) - 1, schedule_macs(self.experiment)
        budget = round((self.experiment.sample.budget or 0) * GIGA)
        found = []
        for steps in range(1, size + 1):
            times = tuple(i * size // steps for i in range(steps))
            for count in range(1, steps + 1):
                if macs(steps, count) <= budget:
                    anchors = tuple(times[i * steps // count] for i in range(count))
                    found.append(Found(bound_of(weights, errors, times, anchors), times, anchors))
        return min(found)

    def gmacs(self, found: Found) -> float:
        """GMACs per image."""
        return schedule_macs(self.experiment)(len(found.times), len(found.refreshes)) / GIGA

    def drawn(self, found: Found) -> tuple[list[float], list[float]]:
        """(the times of its steps, those of their contexts)."""
        return self.grid.times[list(found.times)].tolist(), self.grid.times[self._anchors(found)].tolist()

    def bound(self, found: Found, objective: str, over: Found | None = None) -> Estimate:
        """The bound of `found` in nats per dimension; where `over` is given, by how much that one's is higher, over the
        same images."""
        of_over = None if over is None else self._bounds(over, objective)
        log_snr, anchors = self._levels(found)
        return self.table.bound(objective, bias_of(self.experiment), log_snr, anchors, over=of_over)

    def _bounds(self, found: Found, objective: str) -> Floats:
        return self.table.bounds(objective, bias_of(self.experiment), *self._levels(found))

    def _levels(self, found: Found) -> tuple[Floats, Floats]:
        """(log-SNRs of its steps and of the end, those of their contexts)."""
        return self.grid.log_snr[[*found.times, -1]], self.grid.log_snr[self._anchors(found)]

    @staticmethod
    def _anchors(found: Found) -> NDArray[np.int64]:
        """The place of each step's context."""
        refreshes = np.array(found.refreshes)
        placed = np.searchsorted(refreshes, np.array(found.times), side="right") - 1
        return np.asarray(refreshes[placed])


def check_budget(experiment: Experiment) -> None:
    """Raise :class:`ConfigError` where ``sample.budget`` is too little for one step."""
    sample, macs = experiment.sample, schedule_macs(experiment)
    budget, least, most = sample.budget or 0.0, macs(1, 1), macs(sample.steps, sample.steps)
    if round(budget * GIGA) < least:
        raise ConfigError(
            "sample.budget",
            [
                f"{budget:g} GMACs are too few: one step, which refreshes, costs {_rounded_up(least / GIGA)}; "
                f"give from that on, up to the {_rounded_up(most / GIGA)} that {count_of(sample.steps, 'step')} "
                "(sample.steps) with a refresh at each cost"
            ],
        )


def _rounded_up(gmacs: float) -> str:
    """With four figures, and not less than it is, so that it is enough."""
    digits = 3 - math.floor(math.log10(gmacs))
    return f"{math.ceil(gmacs * 10**digits - 1e-6) / 10**digits:.4g}"


def check_features(experiment: Experiment) -> None:
    """Raise :class:`ConfigError` where the method's model does not tell its features."""
    if source_of(experiment.model.kind) is None:
        return  # the project's own do
    info = known_info(experiment.data, labelled=experiment.model.class_conditional)
    if not isinstance(sampled_model(experiment, build_model(experiment, info)), Featured):
        raise ConfigError("sample.schedule", [f"ddt: {experiment.model.kind} has no `features`; {FEATURES_CURE}"])


def drawn_refreshes(steps: int, count: int, seed: int) -> tuple[int, ...]:
    """The first step and count − 1 others, all sets of them alike likely."""
    order = uniform(seed, torch.arange(1, max(steps, 2)), 0, (), Stream.SCHEDULE).argsort(stable=True) + 1
    return (0, *sorted(order[: count - 1].tolist()))


def scheduled(experiment: Experiment, size: int, table: PairTable | None = None) -> Experiment:
    """`experiment` with the schedule that it asks for; images have the side `size`.

    Raises :class:`ConfigError` where there is no such schedule.
    """
    sample = experiment.sample
    count = sample.refreshes or 0
    match sample.schedule:
        case None:
            return experiment
        case "random":
            return with_schedule(experiment, drawn_refreshes(sample.steps, count, sample.schedule_seed or 0))
        case "uniform_log_snr":
            chosen = evenly_in(Candidates.of(experiment, size).log_snr.tolist(), count)
            return with_schedule(experiment, [step for step, refresh in enumerate(chosen) if refresh])
    assert table is not None
    scheduler, objective = Scheduler(experiment, table, size), objective_of(experiment)
    try:
        if sample.budget is None:
            return with_schedule(experiment, scheduler.refreshes(objective, count).refresh_steps)
    except ValueError as error:
        raise ConfigError("sample.schedule", [f"{sample.schedule}: {error}; {FEATURES_CURE}"]) from error
    return explicit(experiment, scheduler, scheduler.within(objective, sample.budget))


def explicit(experiment: Experiment, scheduler: Scheduler, found: Found) -> Experiment:
    """`experiment` with the steps and refreshes that were `found`."""
    return with_schedule(experiment, found.refresh_steps, scheduler.grid.times[list(found.times)].tolist())


def scheduled_of(store: Store, experiment: Experiment) -> Experiment:
    """`experiment` with the schedule that it asks for, found by the table in `store` where it needs one.

    Raises :class:`Blocked` where that is not there, :class:`ConfigError` where there is no such schedule.
    """
    if experiment.sample.schedule is None:
        return experiment
    id = Identifier().cell_table(experiment)
    table = None
    if id is not None:
        if not store.is_measured(id):
            raise Blocked(missing_need(store, Target("table", id)))
        table = load_pair_table(store.table_path(id), id)
    return scheduled(experiment, network_info(experiment.data).size, table)
