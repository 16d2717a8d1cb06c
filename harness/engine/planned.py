"""Costs for plans, counted once for each configuration and kept on disk, so that planning need not load torch.

A count is kept under all that it depends on: the configuration, the data's content, our own source, and the versions of
what counts. The numbers are those of :mod:`harness.engine.estimate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from harness.config.methods import source_of
from harness.config.schema import DataConfig, Experiment
from harness.data import fingerprint
from harness.data.autoencoder import autoencoder_facts
from harness.data.checksums import cache_folder
from harness.errors import DataError, StoreError
from harness.files import digest_of, digest_of_files, read_json, write_json
from harness.measure.peaks import PEAK_TFLOPS
from harness.plugins import OWN_PACKAGES
from harness.processes import SOURCE
from harness.store.kinds import QUANTITIES, Kind, Quantity

COUNTED_WITH = ("torch", "fvcore")
PLANNED_DEVICE = "H100 SXM"
PLANNED_UTILISATION = 0.4
"""Share of the device's peak that a plan counts on. An assumption, to be corrected by measurements."""


def planned_gpu_hours(gmacs: float, precision: str) -> float:
    """Hours that :data:`PLANNED_DEVICE` takes for `gmacs` at :data:`PLANNED_UTILISATION`: a plan, not a measurement."""
    peak: float = getattr(PEAK_TFLOPS[PLANNED_DEVICE], precision)
    return 2 * gmacs * 1e9 / (PLANNED_UTILISATION * peak * 1e12) / 3600


class PlannedCosts:
    """Costs of experiments, from those kept on disk where they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        with suppress(StoreError):  # none yet, or damaged
            kept = read_json(path)
            if isinstance(kept, dict):
                self._kept = {key: value for key, value in kept.items() if isinstance(value, int | float)}

    def __call__(self, quantity: Quantity, experiment: Experiment) -> float:
        """One quantity of an experiment, in GMACs; kept on disk by :meth:`save` if it had to be counted."""
        key = _key_of(quantity, experiment)
        if key is None:
            return _count(quantity, experiment)
        if key not in self._kept:
            self._kept[key] = self._counted[key] = _count(quantity, experiment)
        return self._kept[key]

    def of_target(self, kind: Kind, experiment: Experiment) -> float:
        """GMACs of a whole target."""
        return self(QUANTITIES[kind], experiment)

    def save(self) -> None:
        """Keep what was counted. A disk that cannot be written is no reason to fail: it is counted again."""
        if self._counted:
            with suppress(OSError):
                write_json(self.path, self._kept)


@contextmanager
def planned_costs() -> Iterator[PlannedCosts]:
    """The costs that are on disk for our source as it is; what the block counts is kept there."""
    costs = PlannedCosts(cache_folder() / "costs" / f"{_counted_by()}.json")
    try:
        yield costs
    finally:
        costs.save()


def _count(quantity: Quantity, experiment: Experiment) -> float:
    from harness.engine import estimate

    counted: float = getattr(estimate, quantity)(experiment)
    return counted


def _key_of(quantity: Quantity, experiment: Experiment) -> str | None:
    """A hash of all that a count depends on besides what is the same for all; None where that is not known."""
    content = _content(experiment.data)
    if content is None:
        return None
    sections = {name: experiment.model_dump(mode="json", include={name}) for name in ("model", "diffusion", "sample")}
    train = experiment.train.model_dump(mode="json", exclude={"start"})
    measure = experiment.measure.model_dump(mode="json", include={"images", "latency"})
    data = experiment.data.model_dump(mode="json", exclude={"path", "label", "latents"})
    networks = [other for other in (experiment.stitched, experiment.teacher) if other is not None]
    own = _source_digest(experiment.model.kind)
    beside = [*networks, *(_source_digest(other["model"]["kind"]) for other in networks)]
    if experiment.distill.method is not None:
        beside.append(experiment.distill.model_dump(mode="json", exclude={"teacher"}))
    return digest_of([quantity, content, data, sections, train, measure, own, *beside])


def _source_digest(kind: str) -> str | None:
    """That of a method that is not ours."""
    source = source_of(kind)
    return None if source is None else source.digest


@lru_cache
def _content(data: DataConfig) -> str | None:
    with suppress(DataError):
        content = fingerprint(data)
        return content if data.latents is None else f"{content} {autoencoder_facts(data.latents).digest}"
    return None


@lru_cache
def _counted_by() -> str:
    """A hash of our source and of the versions of what it counts with."""
    paths = (path for package in sorted(OWN_PACKAGES) for path in sorted((SOURCE / package).rglob("*.py")))
    source = digest_of_files((path.relative_to(SOURCE).as_posix(), path.read_bytes()) for path in paths)
    return digest_of([source, [metadata.version(package) for package in COUNTED_WITH]])
