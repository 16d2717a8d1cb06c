"""A training that is not trained: its weights are those that ``model.weights`` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config.dotted import flatten
from harness.config.schema import Experiment, as_plain, standing_by_itself
from harness.data import known_info
from harness.engine.distributed import current_ranks
from harness.engine.start import misfit, network_shapes
from harness.errors import ConfigError
from harness.files import expanded, file_sha256, write_json
from harness.store.pretrained import Pretrained, open_pretrained
from harness.store.records import TRAINING_SCHEMA, Provenance, TrainingRecord
from harness.store.weights import save_tensors
from harness.wording import count_of
from models.diffusers_folder import Folder, read_folder

KEY = "model.weights"
SHOWN = 4
"""Keys that a message shows."""


def take_weights(experiment: Experiment, training: str, folder: Path) -> None:
    """Leave weights.safetensors and done.json in `folder`, as a training does, with the weights that are given.

    Raises :class:`ConfigError` for those of another network, :class:`StoreError` for a file that cannot be used.
    """
    from harness.store.provenance import method_provenance, provenance

    assert experiment.model.weights is not None
    ranks = current_ranks()
    if ranks.is_first:
        opened = open_pretrained(expanded(experiment.model.weights))
        check_given(experiment, opened)
        tensors = opened.read()
        _check_shapes(experiment, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "weights.safetensors"
        save_tensors(weights, tensors, training, step="0", config=standing_by_itself(experiment), origin="given")
        record = TrainingRecord(
            schema_=TRAINING_SCHEMA,
            training=training,
            steps=0,
            data=known_info(experiment.data, labelled=experiment.model.class_conditional).name,
            weights_bytes=weights.stat().st_size,
            weights_sha256=file_sha256(weights),
            provenance=Provenance.model_validate({**provenance(), **method_provenance(experiment)}),
        )
        write_json(folder / "done.json", record.plain)
    ranks.barrier()


def given_problem(experiment: Experiment) -> None:
    """Raise what :func:`take_weights` would for the file that is named, before anything is made."""
    if experiment.model.weights is not None:
        check_given(experiment, open_pretrained(expanded(experiment.model.weights)))


def check_given(experiment: Experiment, opened: Pretrained) -> None:
    """Raise :class:`ConfigError` where the file tells of another network than the configuration."""
    if opened.folder is not None:
        _check_folder(experiment, opened.folder)
    if opened.keys is None or opened.folder is not None:
        return
    wrong = [
        f"{key} is {_shown(there)} there and {_shown(here)} here"
        for key, here, there in _differences(experiment, opened.keys)
    ]
    if wrong:
        more = f", and {count_of(len(wrong) - SHOWN, 'more key')}" if len(wrong) > SHOWN else ""
        raise ConfigError(
            KEY,
            [
                f"{opened.path} is another network: {', '.join(wrong[:SHOWN])}{more} (there: in the file; here: in the "
                f"configuration or its data); harness weights show {opened.path} prints its keys"
            ],
        )


def _check_folder(experiment: Experiment, folder: Folder) -> None:
    """That the network is built from the folder of its weights, and can be."""
    named = flatten({"model": as_plain(experiment.model)}, KEY).get("model.folder")
    if named is None:
        raise ConfigError(
            KEY,
            [
                f"{folder.path} is a folder of diffusers; set model.backbone: diffusers and model.folder to it, too "
                f"(harness weights show {folder.path} prints all its keys)"
            ],
        )
    try:
        same = read_folder(named).identity == folder.identity
    except ValueError as error:
        raise ConfigError("model.folder", [str(error)]) from None
    if not same:
        raise ConfigError(KEY, [f"{folder.path} is another network than that of model.folder: {named}"])
    network_shapes(experiment)  # which holds the keys against the folder


def _differences(experiment: Experiment, told: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, here, there) of each key that differs."""
    info = known_info(experiment.data, labelled=experiment.model.class_conditional)
    plain = flatten({key: as_plain(experiment)[key] for key in ("model", "diffusion")}, KEY)
    here = {**plain, "data.size": info.size, "data.channels": info.channels, "data.classes": info.classes}
    for one in (here, told := dict(told)):
        one["model.embedding"] = one.get("model.embedding") or 4 * (one.get("model.width") or 0)
    if here.get("diffusion.preconditioning") != "edm":
        told.pop("diffusion.sigma_data", None)
    if here.get("diffusion.preconditioning") == told.get("diffusion.preconditioning") == "none":
        for one in (here, told):
            one["diffusion.prediction"] = one.get("diffusion.prediction") or "v"
    yield from ((key, here.get(key), there) for key, there in told.items() if here.get(key) != there)


def _shown(value: Any) -> str:
    return "not set" if value is None else f"{value}"


def _check_shapes(experiment: Experiment, shapes: Mapping[str, tuple[int, ...]]) -> None:
    reason = misfit(network_shapes(experiment), shapes)
    if reason is not None:
        raise ConfigError(KEY, [f"{experiment.model.weights} {reason}"])
