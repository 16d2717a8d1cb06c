"""How far an autoencoder's reconstructions are from the images themselves: what perfect samples of its latents have.

Images of the reference are encoded and decoded, and measured against the reference as generated ones are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import ValidationError

from harness.config.schema import DataConfig
from harness.data import Dataset
from harness.data.autoencoder import autoencoder_facts
from harness.data.latents import load_autoencoder
from harness.engine.tables import chosen_images
from harness.errors import StoreError
from harness.files import digest_of, read_json, write_json
from harness.measure.fidelity import QualityMeter, from_uint8, to_uint8
from harness.store.records import ReconstructionRecord
from models.noise import Stream

SCHEMA = 1
SEED = 0
"""Of the images that are chosen: the same ones for every cell."""
BATCH = 256


def reconstruction(
    data: DataConfig,
    dataset: Dataset,
    meter: QualityMeter,
    images: int,
    device: torch.device,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReconstructionRecord | None:
    """Of up to `images` images of `dataset`, the reference; kept in `folder` for other cells. None without latents."""
    if data.latents is None:
        return None
    count, facts = min(images, len(dataset)), autoencoder_facts(data.latents)
    told = {key: value for key, value in meter.conditions(count).items() if key != "covariance_singular"}
    identity = [SCHEMA, facts.digest, dataset.info.identity, told, [metric.name for metric in meter.metrics]]
    path = folder / f"reconstruction-{digest_of(json.loads(json.dumps(identity)))}.json"
    with suppress(StoreError, ValidationError):  # none yet, or damaged
        return ReconstructionRecord.model_validate(read_json(path))
    autoencoder = load_autoencoder(data.latents, device)
    chosen, _ = chosen_images(dataset, count, SEED, Stream.POSTERIOR)
    parts, squares = [], 0.0
    for part in chosen.split(BATCH):
        x = from_uint8(part.to(device))
        decoded = autoencoder.decode(autoencoder.encode(x).mean).clamp(-1, 1)
        squares += float((decoded - x).double().square().sum())
        parts.append(to_uint8(decoded).cpu())
    found = meter.measure(torch.cat(parts), progress)
    record = ReconstructionRecord(
        images=count,
        squared_error=squares / chosen.numel(),
        values={name: one.value for name, one in found.items()},
        standard_errors={name: one.standard_error for name, one in found.items() if one.standard_error is not None},
    )
    write_json(path, record.model_dump(mode="json"))
    return record
