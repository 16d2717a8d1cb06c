"""What an id hashes: all that changes weights or figures, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.config.datasets import DATA_SETS
from harness.config.methods import method_of, source_of
from harness.config.schema import (
    DataConfig,
    Experiment,
    MeasureConfig,
    ModelConfig,
    Section,
    TrainConfig,
)
from harness.errors import ConfigError, DataError, MissingDataError
from harness.files import digest_of, expanded, tried
from harness.metrics.declare import ExtractorKind, source_digest
from harness.metrics.extractors import extractor_of
from harness.store.store import Store, Target
from harness.wording import nearest
from models.diffusers_folder import MissingFolder, read_folder, weights_file
from models.hub import is_hub_id
from models.limits import MEASURED_SCHEDULES
from models.tables import TABLES

SCHEMA = 3
"""Part of every id: raise it when a change of the code changes figures of the same configuration."""


DIFFUSERS = "diffusers"
"""The ``model.backbone`` whose network a folder describes."""
NOT_IN_TRAINING_ID = {"checkpoint_every", "log_every", "loggers", "sample_every", "sample_images", "workers"}
START_TRAINING = "training:"
"""How a `train.start`, `sample.stitch` or `distill.teacher` begins that names a training by its id; any other is the
path of a file."""


def identify(experiment: Experiment) -> tuple[str, str]:
    """(training id, cell id): hashes of all that changes the weights, and of all that changes the figures."""
    return Identifier()(experiment)


def start_training(experiment: Experiment) -> str | None:
    """The id of the training whose weights `experiment`'s training starts from, if it starts from a training."""
    return _training_named(experiment.train.start)


def start_file(experiment: Experiment) -> Path | None:
    """The file of weights that `experiment`'s training starts from, if it starts from a file."""
    return _file_named(experiment.train.start)


def stitched_training(experiment: Experiment) -> str | None:
    """The id of the training of the second network of `experiment`'s sampling, if it is a training's."""
    return _training_named(experiment.sample.stitch)


def stitched_file(experiment: Experiment) -> Path | None:
    """The file of weights of that network, if it is a file's."""
    return _file_named(experiment.sample.stitch)


def teacher_training(experiment: Experiment) -> str | None:
    """The id of the training whose network teaches in `experiment`'s training, if it is a training's."""
    return _training_named(experiment.distill.teacher)


def teacher_file(experiment: Experiment) -> Path | None:
    """The file of weights of that network, if it is a file's."""
    return _file_named(experiment.distill.teacher)


def teacher_weights(store: Store, experiment: Experiment) -> Path | None:
    """The file of weights of the network that ``distill.teacher`` names."""
    return _weights_file(store, experiment.distill.teacher)


def start_weights(store: Store, experiment: Experiment) -> Path | None:
    """The file of weights that the training of `experiment` begins with; None for random ones."""
    return _weights_file(store, experiment.train.start)


def stitched_weights(store: Store, experiment: Experiment) -> Path | None:
    """The file of weights of the network that ``sample.stitch`` names."""
    return _weights_file(store, experiment.sample.stitch)


def _weights_file(store: Store, weights: str | None) -> Path | None:
    training = _training_named(weights)
    return _file_named(weights) if training is None else store.weights_path(training)


def _training_named(weights: str | None) -> str | None:
    """The id of the training, where `weights` are named by one."""
    if weights is None or not weights.startswith(START_TRAINING):
        return None
    return weights.removeprefix(START_TRAINING)


def _file_named(weights: str | None) -> Path | None:
    """The file, where `weights` are named by one."""
    return None if weights is None or weights.startswith(START_TRAINING) else expanded(weights)


def start_table(experiment: Experiment) -> str | None:
    """The name of the table that `experiment`'s training needs of the weights it starts from, if it needs one."""
    if experiment.train.start is None:
        return None
    kind = experiment.model.kind
    name = method_of(kind).start_table(experiment)
    if name is not None and name not in TABLES:
        choices = ", ".join(TABLES)
        raise ConfigError("model.kind", [f"{kind!r} needs a table {name!r}{nearest(name, TABLES)}; choices: {choices}"])
    return name


def cell_table(experiment: Experiment) -> str | None:
    """The name of the table that `experiment`'s cell needs of its own network, to find its schedule; None without."""
    return "pair_error" if experiment.sample.schedule in MEASURED_SCHEDULES else None


def is_cell_table(table: str, experiment: Experiment) -> bool:
    """Whether `table` is the one that the cell of `experiment` needs, not the one that its training does."""
    return cell_table(experiment) is not None and table == Identifier().cell_table(experiment)


LATENTS_SCHEMA = 2
"""Raised whenever the meaning of latents, or of their parts, changes: every older one is a miss then."""


def needs_of(
    target: Target, experiment: Experiment, table: str | None = None, encoding: str | None = None
) -> tuple[Target, ...]:
    """What must be done before the job of `target` can run.

    `experiment` is the target's own; a table's is that of a training or a cell which needs it, an encoding's that of a
    training. `table` and `encoding` are the ids of those that a training needs, where they are known: else they are
    told from the data.
    """
    if target.kind == "encoding":
        return ()
    if target.kind == "cell":
        told = Identifier()
        return cell_needs(told(experiment)[0], experiment, told.cell_table(experiment))
    if target.kind == "table" and is_cell_table(target.id, experiment):
        return (Target("training", Identifier().training(experiment)),)
    trainings = [start_training(experiment)]
    if target.kind == "training":
        trainings.append(teacher_training(experiment))
    needed = [Target("training", id) for id in dict.fromkeys(trainings) if id is not None]
    if target.kind == "training":
        encoding = encoding or Identifier().encoding(experiment)
        needed = needed if encoding is None else [Target("encoding", encoding), *needed]
        table = table or Identifier().table(experiment)
        needed += [] if table is None else [Target("table", table)]
    return tuple(needed)


@lru_cache(maxsize=4096)
def _dump_all(section: Section) -> str:
    return section.model_dump_json(exclude_none=True)


def _dump(section: Section, without: set[str] | frozenset[str] = frozenset()) -> dict[str, Any]:
    return {key: value for key, value in json.loads(_dump_all(section)).items() if key not in without}


UNKNOWN_ID = "unknown-"
"""How a placeholder id begins: the data that the real one depends on are missing."""


def cell_needs(training: str, experiment: Experiment, table: str | None = None) -> tuple[Target, ...]:
    """What a cell of `training` needs: that training, the one of the network which it is stitched to, and a `table`."""
    second = stitched_training(experiment)
    ids = (training, *([] if second is None else [second]))
    needed = [Target("training", id) for id in dict.fromkeys(ids)]
    return tuple(needed if table is None else [*needed, Target("table", table)])


class Identifier:
    """Computes the ids of many experiments, reading each file that they depend on once.

    With `without_data`, experiments whose data or weights are missing get placeholder ids: these begin with
    :data:`UNKNOWN_ID` and keep the experiments apart, but match no result.
    """

    def __init__(self, *, without_data: bool = False) -> None:
        self.missing: list[str] = []
        """Messages about what is missing, each once."""
        self._without_data = without_data
        self._content: dict[tuple[DataConfig | str, str], str | None] = {}
        self._trainings: dict[tuple[Any, ...], str] = {}
        self._tables: dict[tuple[Any, ...], str] = {}
        self._measures: dict[tuple[MeasureConfig, DataConfig], dict[str, Any]] = {}

    def __call__(self, experiment: Experiment) -> tuple[str, str]:
        """(training id, cell id) of `experiment`. Raises :class:`HarnessError` where files it depends on are bad."""
        training, data = self.training(experiment), experiment.data
        measured = self._measures.get((experiment.measure, data))
        if measured is None:
            measured = self._measures[experiment.measure, data] = self._measure_identity(experiment.measure, data)
        sample, second = _dump(experiment.sample), self._weights_named(experiment.sample.stitch, "sample.stitch")
        if second is not None:
            sample["stitch"] = second
        table = self.cell_table(experiment)
        cell = digest_of([training, sample, measured, *([] if table is None else [table])])
        unknown = any(id is not None and id.startswith(UNKNOWN_ID) for id in (training, second))
        known = not unknown and None not in measured.values()
        return training, cell if known else UNKNOWN_ID + cell

    def training(self, experiment: Experiment) -> str:
        """The training's id alone, which depends on no file that only measuring needs."""
        sections = experiment.data, experiment.model, experiment.diffusion, experiment.train, experiment.distill
        key = (*sections, experiment.seed)
        if key not in self._trainings:
            self._trainings[key] = self._training_id(experiment)
        return self._trainings[key]

    def table(self, experiment: Experiment) -> str | None:
        """The id of the table that `experiment`'s training needs: a hash of what is measured, of which weights, on
        which data. None where it needs none."""
        name = start_table(experiment)
        if name is None:
            return None
        data, train = experiment.data, experiment.train
        key = name, data, train.start
        if key not in self._tables:
            start = self._start_identity(train)
            identity = {"table": name, "schema": TABLES[name], "data": self._data_identity(data), "weights": start}
            is_known = self._is_known(data) and not (start or "").startswith(UNKNOWN_ID)
            self._tables[key] = digest_of(identity) if is_known else UNKNOWN_ID + digest_of(identity)
        return self._tables[key]

    def encoding(self, experiment: Experiment) -> str | None:
        """The id of the latents that `experiment`'s training runs on. None where it sees images, or is not run."""
        return None if experiment.model.weights is not None else self.latents(experiment.data)

    def latents(self, data: DataConfig) -> str | None:
        """The id of the latents of the training images of `data`: a hash of all that they depend on, but for the
        device, which differs in the last bits. None of data that are not encoded.

        ``data.posterior`` is no part of it: mean and deviation are kept, and training draws from them.
        """
        if data.latents is None:
            return None
        with_posterior = self._data_identity(data)
        encoded = {key: value for key, value in with_posterior.items() if key != "posterior"}
        digest = digest_of({"latents": LATENTS_SCHEMA, "data": encoded, "diffusers": _version_of("diffusers")})
        return digest if self._is_known(data) else UNKNOWN_ID + digest

    def cell_table(self, experiment: Experiment) -> str | None:
        """The id of the table that `experiment`'s cell needs: a hash of what is measured, of which weights, sampled
        how, on which images. None where it needs none."""
        name = cell_table(experiment)
        if name is None:
            return None
        split, content = self.held_out(experiment.data)
        training = self.training(experiment)
        own = method_of(experiment.model.kind).sample_settings.model_fields
        sampled = {key: value for key, value in _dump(experiment.sample).items() if key in (*own, "clip")}
        data = {**self._data_identity(experiment.data), "fingerprint": content, "split": split}
        identity = {"table": name, "schema": TABLES[name], "data": data, "weights": training, "sample": sampled}
        is_known = content is not None and not training.startswith(UNKNOWN_ID)
        return digest_of(identity) if is_known else UNKNOWN_ID + digest_of(identity)

    def held_out(self, data: DataConfig) -> tuple[str, str | None]:
        """(The split that a cell's table is measured on, the identity of its images): images that no network was
        trained on, or where the data have no such split those of training."""
        if "test" in DATA_SETS[data.name].splits:
            try:
                return "test", self._fingerprint(data, "test")
            except MissingDataError:
                raise
            except DataError:  # it may have such a split, and does not
                pass
        return "train", self._fingerprint(data, "train")

    def _data_identity(self, data: DataConfig) -> dict[str, Any]:
        """What stands for the images that a network is trained on."""
        from harness.data.pixel_rules import PIXEL_RULES

        content = self._fingerprint(data, "train")
        latents = {} if data.latents is None else {"latents": self._autoencoder(data)}
        return {**_dump(data, NOT_IN_DATA_ID), "fingerprint": content, "pixel_rules": PIXEL_RULES, **latents}

    def _autoencoder(self, data: DataConfig) -> str | None:
        """What stands for the autoencoder whose latents networks are trained on: its configuration and weights."""
        path = data.latents
        if path is None:
            return None
        from harness.data.autoencoder import autoencoder_facts

        return self._content_of(("data.latents", path), lambda: autoencoder_facts(path).digest)

    def _is_known(self, data: DataConfig) -> bool:
        """Whether all that a network is trained on is there."""
        is_encoded = data.latents is None or self._autoencoder(data) is not None
        return is_encoded and self._fingerprint(data, "train") is not None

    def _training_id(self, experiment: Experiment) -> str:
        data, model, train, distill = experiment.data, experiment.model, experiment.train, experiment.distill
        if model.weights is not None:
            return self._given_id(experiment)
        start = self._start_identity(train)
        teacher = self._weights_named(distill.teacher, "distill.teacher")
        identity: dict[str, Any] = {
            "schema": SCHEMA,
            "data": self._data_identity(data),
            "model": self._model_identity(model),
            "diffusion": _dump(experiment.diffusion),
            "train": {**_dump(train, NOT_IN_TRAINING_ID), **({} if train.start is None else {"start": start})},
            "seed": experiment.seed,
        }
        if distill.method is not None:
            identity["distill"] = {**_dump(distill), "teacher": teacher}
        table = self.table(experiment)
        if table is not None:
            identity["table"] = table
        source = source_of(model.kind)
        if source is not None:
            identity["source"] = source.digest
        ids = (start, teacher, identity["model"].get("folder"))
        is_known = self._is_known(data) and not any(str(id).startswith(UNKNOWN_ID) for id in ids)
        return digest_of(identity) if is_known else UNKNOWN_ID + digest_of(identity)

    def _given_id(self, experiment: Experiment) -> str:
        """Of weights that are given: how a training would go, and its seed, change nothing of them."""
        model = experiment.model
        weights = self._weights_named(model.weights, "model.weights")
        identity: dict[str, Any] = {
            "schema": SCHEMA,
            "data": self._data_identity(experiment.data),
            "model": {**self._model_identity(model), "weights": weights},
            "diffusion": _dump(experiment.diffusion),
        }
        source = source_of(model.kind)
        if source is not None:
            identity["source"] = source.digest
        ids = (weights, identity["model"].get("folder"))
        is_known = self._is_known(experiment.data) and not any(str(id).startswith(UNKNOWN_ID) for id in ids)
        return digest_of(identity) if is_known else UNKNOWN_ID + digest_of(identity)

    def _model_identity(self, model: ModelConfig) -> dict[str, Any]:
        """The section `model`; in place of the folder of a network of diffusers stands what it says of the network."""
        dumped = _dump(model)
        if dumped.get("backbone") == DIFFUSERS and (named := dumped.get("folder")) is not None:
            digest = self._content_of(("model.folder", named), lambda: _folder_digest(named))
            dumped["folder"] = digest or UNKNOWN_ID + named
        return dumped

    def _start_identity(self, train: TrainConfig) -> str | None:
        """What stands for the weights that a training starts from: a training's id, or the content of a file."""
        return self._weights_named(train.start, "train.start")

    def _weights_named(self, named: str | None, key: str) -> str | None:
        """The id of the training, or the content of the file, that the configuration's `key` names."""
        if named is None or named.startswith(START_TRAINING):
            return named and named.removeprefix(START_TRAINING)
        return self._file_digest(named, key) or UNKNOWN_ID + named

    def _measure_identity(self, measure: MeasureConfig, data: DataConfig) -> dict[str, Any]:
        """What a cell's figures depend on beside its images; None stands for what is not there."""
        identity = _dump(measure, {"weights", "batch"})
        if measure.reference == "test":
            identity["reference_fingerprint"] = self._fingerprint(data, "test")
        identity["extractor_weights"] = self._weights_identity(measure)
        sources = {name: source_digest(name) for name in (measure.features, *measure.metrics)}
        if any(sources.values()):  # a person's own: what it computes is its source
            identity["sources"] = sources
        return identity

    def _weights_identity(self, measure: MeasureConfig) -> str | None:
        """What identifies the extractor's weights: the usual ones alike, whether a path to them is given or not."""
        kind = extractor_of(measure.features)
        usual = kind.weights_sha256
        if measure.weights is not None:
            digest = self._file_digest(measure.weights, "measure.weights")
            return usual if usual and digest and digest.startswith(usual) else digest
        if usual is None and kind.weights_file is not None:
            return self._content_of((measure.features, "usual weights"), lambda: _usual_digest(measure.features, kind))
        return usual or "none"

    def _fingerprint(self, data: DataConfig, split: str) -> str | None:
        from harness.data import fingerprint

        return self._content_of((data, split), lambda: fingerprint(data, split))

    def _file_digest(self, path: str, key: str) -> str | None:
        return self._content_of((key, path), lambda: _weights_digest(path, key))

    def _content_of(self, key: tuple[DataConfig | str, str], hashed: Callable[[], str]) -> str | None:
        """The hash of a file or data set, from `hashed` the first time; None where it is not there and need not be."""
        if key not in self._content:
            try:
                self._content[key] = hashed()
            except MissingDataError as missing:
                if not self._without_data:
                    raise
                self.missing += [str(missing)] if str(missing) not in self.missing else []
                self._content[key] = None
        return self._content[key]


def _version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _usual_digest(features: str, kind: ExtractorKind) -> str:
    from harness.data.checksums import file_digest

    assert kind.weights_file is not None
    path = kind.weights_file()
    try:
        return file_digest(path)
    except OSError:
        raise MissingDataError(
            f"measure.features: {features}: its weights are not at {path}, and a cell's id depends on them; load them "
            f'there once (python -c "from harness.measure.features import check_extractor; '
            f"check_extractor('{features}')\"), or set measure.weights to a path of them"
        ) from None


def _weights_digest(path: str, key: str) -> str:
    """The hash of the weights file that the configuration's `key` names."""
    from harness.data.checksums import file_digest

    place = expanded(path)
    try:
        return file_digest(place)
    except (FileNotFoundError, IsADirectoryError) as error:
        if key == "model.weights" and (place.is_dir() or is_hub_id(place)):  # of diffusers: the file in it
            return _weights_digest(str(_weights_in(path)), key)
        if isinstance(error, FileNotFoundError):
            raise MissingDataError(f"{key}: {path} does not exist{tried(place)}") from None
        raise ConfigError(key, [f"{path} is a folder; give the path of the file of weights"]) from None
    except OSError as error:
        raise ConfigError(key, [f"{path} cannot be read: {error.strerror}"]) from None


def _weights_in(path: str) -> Path:
    try:
        return weights_file(read_folder(path))
    except MissingFolder as missing:
        raise MissingDataError(f"model.weights: {missing}") from None
    except ValueError as error:
        raise ConfigError("model.weights", [str(error)]) from None


def _folder_digest(path: str) -> str:
    """The hash of what a folder of diffusers says of its network."""
    try:
        return digest_of(read_folder(path).identity)
    except MissingFolder as missing:
        raise MissingDataError(f"model.folder: {missing}") from None
    except ValueError as error:
        raise ConfigError("model.folder", [str(error)]) from None


NOT_IN_DATA_ID = {"path", "label", "classes", "latents"}
"""Where the data lie, what they are called, what is held against their content, which stands for all three, and where
their autoencoder lies, which its content stands for."""
