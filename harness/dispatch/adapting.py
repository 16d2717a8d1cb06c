"""From a trained network to the sweep that makes it dual-rate, beside the network as it is.

The sweep is a file like any other. Its arm `base` is the trained network's own configuration, so that its training is
the one that the results have already; its arm `adapted` begins with that training's weights as a frozen encoder.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from harness.config.dotted import flatten, nest
from harness.config.schema import PLACES, Experiment, as_plain, owners_of, parse_experiment
from harness.config.values import decoded, plain
from harness.config.yamlfile import load_mapping, load_text
from harness.dispatch.sweep import grid_points, parse_overrides
from harness.dispatch.trained import Trained
from harness.errors import ConfigError
from harness.files import digest_of, write_atomically
from harness.store.identity import START_TRAINING, Identifier
from harness.wording import percentage
from models.refresh import KEYS as REFRESHING

BASE, ADAPTED = "base", "adapted"
KIND = "dual_rate"
DEFAULT_BUDGET = "10%"
LEAST_STEPS = 50
"""Fewer teach a light denoiser nothing."""
AVERAGED_SHARE = 0.05
"""Half-life of the weights' average, as a share of the training's steps, at most."""
SOLVERS = ["ddim", "dpmpp_2m"]
BASE_STEPS = [4, 6, 8, 16]
STEPS_AND_REFRESHES = [[6, 3], [8, 4], [16, 4], [16, 8]]
KEPT_OF_SAMPLING = ("batch", "clip", "compile", "guidance", "guidance_interval", "precision", "seeds")
"""Of the base's section `sample`: all but what the grids vary and what belongs to one sampler."""
CHECKPOINTS, LOG_LINES = 5, 10
"""At least so many in a training."""
STEPS = "train.steps"
LOSS_BIAS, DEVIATION = "diffusion.loss_bias", "diffusion.sigma_data"
DEVIATION_OF_LATENTS = 1.0
"""As an autoencoder's scaling makes it: what the light denoiser's preconditioning is told of data in latents."""


def parse_budget(text: str) -> float:
    """The share that ``10%``, ``10 %`` or ``0.1`` means. Raises :class:`ConfigError` for anything else."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text)
    if found is None:
        raise ConfigError("--budget", [f"{text!r} is no share of the base's training; write it as 10% or 0.1"])
    number, percent = float(found[1]), bool(found[2])
    share = number / 100 if percent else number
    if share == 0:
        raise ConfigError("--budget", [f"{text!r} leaves nothing to train; write a share such as {DEFAULT_BUDGET}"])
    if not percent and share > 1:
        raise ConfigError(
            "--budget", [f"{text!r} is more than the whole of the base's training; did you mean {found[1]}%?"]
        )
    return share


def percent(share: float) -> str:
    """``10 %``, with three figures."""
    return f"{percentage(share)} %"


def steps_within(share: float, base_gmacs: float, gmacs_per_step: float) -> int:
    """The most steps that cost no more than `share` of the base's training."""
    return int(share * base_gmacs / gmacs_per_step * (1 + 1e-12))  # a whole number stays one in floating point


def average_decay(steps: int, of_base: float) -> float:
    """The decay of the weights' average whose half-life is a share of `steps`; never longer than the base's."""
    return min(of_base, round(math.exp(-math.log(2) / max(1.0, AVERAGED_SHARE * steps)), 6))


@dataclass(frozen=True)
class Adaptation:
    """The sweep that makes a trained network dual-rate, and what it adds to the training."""

    trained: Trained
    name: str
    values: dict[str, Any]
    """The sweep's mapping, as its file has it."""
    steps: int
    batch: int
    wanted: float | None
    """The share of the base's training that was asked for; None where the steps were."""
    share: float
    """The share that the steps cost."""

    @property
    def sentence(self) -> str:
        """What it adds, in one line."""
        if math.isnan(self.share):
            return f"adds {self.steps:,} steps of {self.batch}"
        adds = f"adds {percent(self.share)} of the base's training: {self.steps:,} steps of {self.batch}"
        if self.wanted is not None and self.share > self.wanted * (1 + 1e-9):
            return f"{adds}, the fewest that teach it anything ({percent(self.wanted)} would be fewer)"
        return adds

    @cached_property
    def text(self) -> str:
        """The sweep's file."""
        training = self.trained.training
        head = [
            f"# A trained network, {BASE}, becomes dual-rate, {ADAPTED}: written by harness adapt, to be read, edited",
            f"# and run by harness sweep. Results that have training {training} do not train {BASE} again.",
            f"# {ADAPTED} {self.sentence}.",
        ]
        body = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
        return "\n".join(head) + f"\n{body}"

    def write(self, path: Path) -> None:
        """Write the file, unless it says the same already.

        Raises :class:`ConfigError` where another stands there: a person's changes are never lost.
        """
        if path.exists():
            there = plain(load_mapping(path))
            mine = plain(load_text(self.text, str(path)))
            if there == mine:
                return
            if _without_place(there) != _without_place(mine):
                raise ConfigError(
                    str(path),
                    [
                        "is another sweep than this command makes: it was edited, or made by another version. Run it "
                        f"as it is (harness sweep {path}), move it away, or write this one elsewhere: --write FILE"
                    ],
                )
        write_atomically(path, self.text)


def _without_place(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep without where its data lie."""
    base = sweep.get("base") or {}
    data = base.get("data") or {}
    return {**sweep, "base": {**base, "data": {key: value for key, value in data.items() if key not in PLACES}}}


def adaptation(trained: Trained, budget: str | None, overrides: list[str]) -> Adaptation:
    """Derive the sweep; `budget` is a share of the base's training (:data:`DEFAULT_BUDGET` if None), `overrides` are
    ``key=value`` texts. Raises :class:`ConfigError` for what cannot be."""
    given = parse_overrides([decoded(text, "--set") for text in overrides])
    _check_given(given, trained.experiment, budget)
    wanted = None if STEPS in given else parse_budget(budget or DEFAULT_BUDGET)
    arms = _Arms.of(trained, given)
    steps, share = _steps(arms, trained, wanted, given)
    lengths = {STEPS: steps, **_lengths(trained.experiment, steps)}
    arms.adapted |= {key: value for key, value in lengths.items() if key not in arms.adapted}
    base, *_, last = arms.check(trained.experiment.seed)
    if Identifier().training(base) != trained.training:
        changed = [key for key in given if key.startswith("data.")] or ["the sweep"]
        raise ConfigError("--set", [f"{key}: would change the data that the network was trained on" for key in changed])
    name = _name(trained, wanted, given)
    values = {
        "name": name,
        "title": "A trained network becomes dual-rate"
        + ("" if math.isnan(share) else f" for {percent(share)} more training"),
        "base": nest(arms.base),
        "seeds": [trained.experiment.seed],
        "arms": {
            BASE: {"grid": arms.base_grid},
            ADAPTED: {"label": "dual-rate, adapted", "set": nest(arms.adapted), "grid": arms.adapted_grid},
        },
        "report": {"base": BASE, "subject": ADAPTED},
    }
    return Adaptation(trained, name, values, steps, last.train.batch, wanted, share)


def _name(trained: Trained, wanted: float | None, given: Mapping[str, Any]) -> str:
    """Of the report's folder: another for every other question, so that no answer takes another's place."""
    parts = ["adapt", trained.training[:8]]
    if wanted is not None and wanted != parse_budget(DEFAULT_BUDGET):
        parts.append(f"{100 * wanted:g}pct".replace("+", ""))
    asked = sorted((key, value) for key, value in given.items() if key not in ("data.path", "data.label"))
    if asked:
        parts.append(f"set-{digest_of(asked)[:6]}")
    return "-".join(parts)


def _check_given(given: Mapping[str, Any], base: Experiment, budget: str | None) -> None:
    """Raise :class:`ConfigError` for keys that would change the network that is there."""
    problems = []
    for key in given:
        section = key.partition(".")[0]
        if key in ("seed", "seeds"):
            problems.append(f"{key}: the trained network has one, {base.seed}; the other is trained with the same")
        elif key == "train.start":
            problems.append(f"{key}: it starts from the network that is adapted; leave it out")
        elif key == "data.path":
            problems.append(f"{key}: --data says where the data lie")
        elif (section == "model" and not _is_light(key)) or (section == "diffusion" and key not in _free(base)):
            problems.append(f"{key}: is the trained network's, which becomes the encoder as it is; leave it out")
        elif key.startswith("sample.stitch") or (section == "sample" and KIND not in (owners_of(key) or [KIND])):
            problems.append(f"{key}: is no part of an adaptation; add an arm to the sweep's file")
    if STEPS in given and budget is not None:
        problems.append(f"{STEPS}: says how long it is trained, and so does --budget; give one of them")
    if problems:
        raise ConfigError("--set", problems)


def _free(base: Experiment) -> tuple[str, ...]:
    """The keys of `diffusion` that are the light denoiser's alone, beside a network that does not read them."""
    return (LOSS_BIAS,) if base.diffusion.preconditioning == "edm" else (LOSS_BIAS, DEVIATION)


def _is_light(key: str) -> bool:
    """Whether it is a key of what a dual_rate model has beside its encoder."""
    owners = owners_of(key)
    return KIND in owners and "single_rate" not in owners


@dataclass
class _Arms:
    """The keys of the two arms, dotted."""

    base: dict[str, Any]
    """Those of both."""
    adapted: dict[str, Any]
    base_grid: dict[str, list[Any]]
    adapted_grid: dict[str, list[Any]]

    @classmethod
    def of(cls, trained: Trained, given: Mapping[str, Any]) -> _Arms:
        shared = {k: v for k, v in given.items() if k.partition(".")[0] in ("data", "measure") or _is_shared(k)}
        refreshing = {key: given[key] for key in given if key.removeprefix("sample.") in REFRESHING}
        own = {key: value for key, value in given.items() if key not in shared}
        taken = {*given, *(["sample.refreshes"] if refreshing else [])}
        network = as_plain(trained.experiment.model)
        levels = len(network["levels"])
        network_own = _own_keys(trained.experiment)
        unsaid = DEVIATION in _free(trained.experiment) and DEVIATION not in network_own
        says_deviation = unsaid and trained.experiment.data.latents is not None
        adapted = {
            "model.kind": KIND,
            "model.light_width": 0.5,
            "model.light_blocks": [1] * levels,
            "model.light_levels": ["transformer" if network.get("backbone") == "dit" else "conv"] * levels,
            "model.context_entry": "block",
            "model.preconditioning": "conditional",
            "train.start": BASE,
            "train.freeze": ["encoder"],
            **({} if own.get("train.pairs") == "same" else {"train.denoiser_times": 4}),
            **({} if trained.experiment.model.weights is None else {"model.weights": None}),
            **({DEVIATION: DEVIATION_OF_LATENTS} if says_deviation else {}),
            **own,
        }
        return cls(
            {**network_own, **shared},
            adapted,
            _without({"sample.sampler": SOLVERS, "sample.steps": BASE_STEPS}, taken),
            _without({"sample.sampler": SOLVERS, "sample.steps, sample.refreshes": STEPS_AND_REFRESHES}, taken),
        )

    def points(self, arm: str) -> Iterator[dict[str, Any]]:
        """Of each cell of an arm the keys, before its start is resolved."""
        alone, grid = ({}, self.base_grid) if arm == BASE else (self.adapted, self.adapted_grid)
        yield from ({**self.base, **alone, **point} for point in grid_points(grid, f"harness adapt: arm {arm!r}"))

    def experiment(self, values: Mapping[str, Any], arm: str, seed: int) -> Experiment:
        """The experiment of a cell; what it starts from is not known here, and costs nothing."""
        known = {"train.start": f"{START_TRAINING}{'0' * 16}"} if arm == ADAPTED else {}
        return parse_experiment(nest({**values, **known, "seed": seed}), f"harness adapt: arm {arm!r}")

    def check(self, seed: int) -> list[Experiment]:
        """All cells, those of the adapted network last. Raises :class:`ConfigError` for the first that cannot be."""
        return [self.experiment(values, arm, seed) for arm in (BASE, ADAPTED) for values in self.points(arm)]


def _is_shared(key: str) -> bool:
    """Whether a key of sampling is one that both arms take."""
    section, _, name = key.partition(".")
    return section == "sample" and name not in REFRESHING and not owners_of(key)


def _own_keys(base: Experiment) -> dict[str, Any]:
    """The configuration of the trained network, without what it has by default and without what the grids vary."""
    default = flatten(as_plain(parse_experiment({}, "default")), "default")
    own = {k: v for k, v in flatten(_sections(base), "base").items() if default.get(k) != v or k == "model.kind"}
    own = {k: v for k, v in own.items() if not k.startswith("sample.") or k.removeprefix("sample.") in KEPT_OF_SAMPLING}
    return {**{f"data.{key}": value for key, value in as_plain(base.data).items() if value is not None}, **own}


def _sections(base: Experiment) -> dict[str, Any]:
    return {key: value for key, value in as_plain(base).items() if isinstance(value, dict) and key != "stitched"}


def _without(grid: Mapping[str, list[Any]], taken: set[str]) -> dict[str, list[Any]]:
    """A grid without the keys that are `taken` already, each of what is left once."""
    left: dict[str, list[Any]] = {}
    for joined, values in grid.items():
        keys = joined.split(", ")
        kept = [place for place, key in enumerate(keys) if key not in taken]
        points = [value if len(keys) == 1 else [value[place] for place in kept] for value in values]
        points = [point[0] if len(keys) > 1 and len(kept) == 1 else point for point in points]
        if kept:
            left[", ".join(keys[place] for place in kept)] = list({json.dumps(p): p for p in points}.values())
    return left


def _steps(arms: _Arms, trained: Trained, wanted: float | None, given: Mapping[str, Any]) -> tuple[int, float]:
    """(Steps of the adapted network's training, the share of the base's training that they cost)."""
    from harness.engine.planned import planned_costs

    seed = trained.experiment.seed
    first = {**next(arms.points(ADAPTED)), STEPS: 1}
    with planned_costs() as costs:
        whole = costs("training_gmacs", trained.experiment)
        per_step = costs("training_gmacs", arms.experiment(first, ADAPTED, seed))
    if whole == 0 and wanted is not None:
        raise ConfigError(
            "--budget",
            [f"its weights were given, so what their training cost is not known; say how long: --set {STEPS}=N"],
        )
    if wanted is None:
        steps = given[STEPS]
        if not isinstance(steps, int):
            arms.experiment({**first, STEPS: steps}, ADAPTED, seed)  # which refuses it in its own words
    else:
        steps = max(LEAST_STEPS, steps_within(wanted, whole, per_step))
    return steps, steps * per_step / whole if whole else math.nan


def _lengths(base: Experiment, steps: int) -> dict[str, Any]:
    """What depends on the length of a training, for one of `steps`."""
    train = base.train
    return {
        "train.warmup": min(train.warmup, round(train.warmup * steps / train.steps)),
        "train.ema": average_decay(steps, train.ema),
        "train.checkpoint_every": max(1, min(train.checkpoint_every, steps // CHECKPOINTS)),
        "train.log_every": max(1, min(train.log_every, steps // LOG_LINES)),
    }
