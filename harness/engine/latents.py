"""What networks are trained on where the data are encoded: latents, made once and kept in the results.

The images are encoded in parts, a file for each, so that a kill loses one part at most; of several jobs one encodes, by
a lease, and the others wait. What networks see is :class:`LatentData`, which loads by index as a data set does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from harness.config.schema import DataConfig, Experiment
from harness.data import DataInfo, Dataset, fingerprint, open_data
from harness.data.autoencoder import autoencoder_facts, latent_info
from harness.data.dataset import MEMORY_LIMIT_BYTES
from harness.data.latents import Autoencoder, Encoded, load_autoencoder
from harness.engine.distributed import current_ranks, pick_device
from harness.engine.progress import ENCODING, WAITING, JobProgress, silent
from harness.errors import Stopped
from harness.files import set_aside, write_json
from harness.measure.fidelity import from_uint8
from harness.store.identity import Identifier
from harness.store.lease import lease
from harness.store.store import Store
from harness.store.weights import DamagedFile, load_facts, load_tensors, save_tensors, tensor_shapes
from models.augment import augment
from models.noise import Stream, normal
from models.objective import Randomness

log = logging.getLogger("harness")

PART = 4096
"""Images of a part. With another number raise :data:`harness.store.identity.LATENTS_SCHEMA`."""
USUAL_STD = (0.5, 2.0)
"""Of latents that networks can be trained on as they are: diffusion takes data of a deviation near 1."""
BLACK = -1.0
"""What a random translation fills in: a pixel of value 0."""
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Parts:
    """The files that hold the latents of one split."""

    folder: Path
    images: int
    shape: tuple[int, int, int]
    """Of the latents of one image, (C, h, w)."""

    @classmethod
    def of(cls, folder: Path, data: DataConfig, images: DataInfo) -> Parts:
        """Those in `folder`, which is called by their key."""
        latents = latent_info(data, images)
        return cls(folder, images.images, (latents.channels, latents.size, latents.size))

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(first image, the one after the last) of each part."""
        return [(start, min(start + PART, self.images)) for start in range(0, self.images, PART)]

    def path(self, start: int) -> Path:
        return self.folder / f"from-{start:08d}.safetensors"

    def missing(self) -> list[tuple[int, int]]:
        """What has still to be encoded. A part that is cut short is set aside, and encoded again."""
        return [(start, stop) for start, stop in self.ranges if not self._is_whole(start, stop)]

    def _is_whole(self, start: int, stop: int) -> bool:
        path = self.path(start)
        if not path.exists():
            return False
        try:
            return tensor_shapes(path, self.key)["mean"] == (stop - start, *self.shape)
        except DamagedFile as error:
            log.warning("%s; set aside as %s, and encoded again", error, set_aside(path).name)
            return False

    def save(self, start: int, encoded: Encoded) -> None:
        """Keep a part, and in its header what the deviation of all is told from."""
        mean = encoded.mean.double()
        sums = json.dumps([mean.numel(), float(mean.sum()), float(mean.square().sum())])
        tensors = {"mean": encoded.mean, **({} if encoded.std is None else {"std": encoded.std})}
        save_tensors(self.path(start), tensors, self.key, sums=sums)

    def spread(self) -> tuple[float, float]:
        """(mean, standard deviation) of all latents, those of a posterior's mean."""
        told = [json.loads(load_facts(self.path(start), self.key)["sums"]) for start, _ in self.ranges]
        count, total, squares = (sum(values) for values in zip(*told, strict=True))
        mean = total / count
        return mean, math.sqrt(max(squares / count - mean**2, 0.0))


class LatentData:
    """Latents and labels by index, as networks are trained on them; in memory where they fit.

    `info` is what networks must know of them. With `samples` a load gives the posterior's mean and, as further
    channels, its deviation.
    """

    def __init__(
        self, info: DataInfo, labels: Tensor, parts: Parts | None, whole: Tensor | None, samples: bool
    ) -> None:
        """Of a tensor (N, C, h, w) in memory, or of files."""
        self.info, self.labels = info, labels
        self._parts, self._whole, self._samples = parts, whole, samples
        self._opened: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.info.images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    @property
    def in_memory(self) -> bool:
        """Whether loading only copies from memory."""
        return self._whole is not None

    def load(self, indices: Sequence[int] | Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Latents float32 (B, C, h, w), with `samples` (B, 2C, h, w), and labels int64 (B,)."""
        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        if self._whole is not None:
            return self._whole[chosen], self.labels[chosen]
        return torch.stack([self._read(int(index)) for index in chosen]), self.labels[chosen]

    def _read(self, index: int) -> Tensor:
        assert self._parts is not None
        start = index // PART * PART
        if start not in self._opened:
            self._opened[start] = safe_open(self._parts.path(start), "pt")
        rows = [self._opened[start].get_slice(name)[index - start] for name in _names(self._samples)]
        return torch.cat(rows)


def _names(samples: bool) -> tuple[str, ...]:
    return ("mean", "std") if samples else ("mean",)


def ready_latents(
    store: Store,
    data: DataConfig,
    workers: int = 0,
    progress: JobProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Where the latents of the training images of `data` lie, which are encoded first where they are not there; None
    for data that are not encoded.

    Every rank of a job calls it and encodes its share. Raises :class:`Stopped` between two parts when `should_stop`.
    """
    if data.latents is None:
        return None
    dataset, ranks = open_data(data), current_ranks()
    stop = should_stop if ranks.world == 1 else lambda: False  # else the other ranks would wait for ever
    key = Identifier().latents(data)
    assert key is not None
    parts = Parts.of(store.latents_folder(key), data, dataset.info)
    with contextlib.ExitStack() as held:
        if ranks.is_first:
            held.enter_context(_lease(store.latents_lease(key), progress, stop))
        ranks.barrier()
        missing = parts.missing() if ranks.is_first or ranks.world == 1 else []
        missing = _shared(missing)[ranks.rank :: ranks.world]
        if missing:
            dataset.ready(workers)
            encode_parts(dataset, data, parts, missing, progress, stop)
        ranks.barrier()
        if ranks.is_first:
            _tell(store, parts, data, dataset.info)
    return parts.folder


def _shared(missing: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first rank's list, on every rank."""
    if current_ranks().world == 1:
        return missing
    values = [missing]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _lease(
    path: Path, progress: JobProgress, should_stop: Callable[[], bool]
) -> contextlib.AbstractContextManager[None]:
    """The lease, to be held; while another job encodes, it is told whose it is. Raises :class:`Stopped`."""

    def waiting(holder: str) -> None:
        if should_stop():
            raise Stopped("stopped while another job encodes the images")
        progress(0, 0, f"{WAITING} for the latents, encoded by {holder}")

    return lease(path, math.inf, WAIT_SECONDS, waiting)


def encode_parts(
    dataset: Dataset,
    data: DataConfig,
    parts: Parts,
    missing: Sequence[tuple[int, int]],
    progress: JobProgress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Encode the `missing` parts and keep them."""
    autoencoder = load_autoencoder(data.latents or "", pick_device())
    done = parts.images - sum(stop - start for start, stop in missing)  # of several ranks what the others encode, too
    for start, stop in missing:
        progress(done, parts.images, ENCODING)
        if should_stop():
            raise Stopped(f"stopped with {done} of {parts.images} images encoded")
        parts.save(start, _encode(dataset, autoencoder, start, stop))
        done += stop - start
        progress(done, parts.images, ENCODING)


def _encode(dataset: Dataset, autoencoder: Autoencoder, start: int, stop: int) -> Encoded:
    images = dataset.load(range(start, stop))[0]
    found = [autoencoder.encode(from_uint8(part.to(autoencoder.device))) for part in images.split(256)]
    stds = [one.std.cpu() for one in found if one.std is not None]
    return Encoded(torch.cat([one.mean.cpu() for one in found]), torch.cat(stds) if stds else None)


def _tell(store: Store, parts: Parts, data: DataConfig, images: DataInfo) -> None:
    """Leave beside the parts that they are whole, and what they are, for people; warn of latents that are scaled
    badly."""
    if store.is_encoded(parts.key):
        return
    mean, std = parts.spread()
    facts = {**asdict(autoencoder_facts(data.latents or "")), "folder": data.latents}
    told: dict[str, Any] = {"data": images.name, "split": images.split, "images": images.images, "shape": parts.shape}
    sizes = {parts.path(start).name: parts.path(start).stat().st_size for start, _ in parts.ranges}
    told |= {"mean": mean, "standard_deviation": std, "autoencoder": facts, "parts": sizes}
    write_json(store.latents_facts(parts.key), told)
    if not USUAL_STD[0] <= std <= USUAL_STD[1]:
        log.warning(
            "data.latents: %s gives latents of standard deviation %.3g, and networks expect about 1: scaling_factor in "
            "its config.json should be about %.3g times what it is",
            data.latents,
            std,
            1 / std if std else math.inf,
        )


def training_data(experiment: Experiment, latents: Path | None = None) -> Dataset | LatentData:
    """What a training loads, ready: images, or their `latents`, which are encoded in memory where no folder of them is
    given. Trainings that follow one another in a process share them."""
    data, workers = experiment.data, experiment.train.workers
    if data.latents is None:
        dataset = _opened(data, fingerprint(data))
        dataset.ready(workers)
        return dataset
    return _encoded(data, autoencoder_facts(data.latents).digest, fingerprint(data), latents, workers)


@lru_cache(maxsize=1)
def _opened(data: DataConfig, fingerprint: str) -> Dataset:
    return open_data(data)


@lru_cache(maxsize=1)
def _encoded(data: DataConfig, digest: str, fingerprint: str, folder: Path | None, workers: int) -> LatentData:
    dataset, samples = open_data(data), data.posterior == "sample"
    info = latent_info(data, dataset.info)
    if folder is None:
        dataset.ready(workers)
        autoencoder = load_autoencoder(data.latents or "", pick_device())
        found = _encode(dataset, autoencoder, 0, len(dataset))
        whole = torch.cat([found.mean, found.std], 1) if samples and found.std is not None else found.mean
        return LatentData(info, dataset.labels, None, whole, samples)
    parts = Parts.of(folder, data, dataset.info)
    size = 4 * math.prod((parts.images, *parts.shape, len(_names(samples))))
    if size > MEMORY_LIMIT_BYTES:
        return LatentData(info, dataset.labels, parts, None, samples)
    loaded = [load_tensors(parts.path(start), parts.key)[0] for start, _ in parts.ranges]
    whole = torch.cat([torch.cat([one[name] for name in _names(samples)], 1) for one in loaded])
    return LatentData(info, dataset.labels, None, whole, samples)


def network_input(experiment: Experiment, loaded: Tensor, randomness: Randomness) -> Tensor:
    """x (B, C, H, W), float32, of a training step: of pixels uint8 in [−1, 1] and augmented, of latents as they are or
    drawn from their posterior."""
    data, train = experiment.data, experiment.train
    if data.latents is None:
        return augment(from_uint8(loaded), randomness, train.translation, train.flip, BLACK)
    if data.posterior != "sample":
        return loaded
    mean, std = loaded.chunk(2, dim=1)
    return Encoded(mean, std).drawn(randomness.normal(Stream.POSTERIOR, mean.shape[1:]))


def measured_input(data: DataConfig, images: Tensor, device: torch.device, seed: int, places: Tensor) -> Tensor:
    """x of `images`, uint8 (B, C, H, W), for what is measured of a network: in [−1, 1], or their latents on `device`.

    A posterior is drawn from by `seed` and each image's place (B,) alone.
    """
    x = from_uint8(images.to(device))
    if data.latents is None:
        return x
    encoded = load_autoencoder(data.latents, device).encode(x)
    if data.posterior != "sample":
        return encoded.mean
    shape = encoded.mean.shape[1:]
    return encoded.drawn(normal(seed, places.to(device), 0, shape, Stream.POSTERIOR))
