"""A frozen autoencoder in use: images to the latents that networks see, and back.

diffusers is imported where an autoencoder is built, which takes seconds, and is needed for nothing else.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness.data.autoencoder import CONFIG, KEY, WEIGHTS, AutoencoderFacts, autoencoder_facts, configuration
from harness.errors import ConfigError, DataError
from harness.wording import count_of

DECODER = "decoder"
"""What the network that makes images of latents is called where costs are told."""
PIXELS_AT_ONCE = 2**20
"""Pixels that are encoded or decoded together: an autoencoder's widest layers lie at the images' full size."""
MOST_AT_ONCE = 256


class Encoded(NamedTuple):
    """What an autoencoder makes of images, as networks see it."""

    mean: Tensor
    """float32 (B, C, h, w)."""
    std: Tensor | None
    """Of its posterior, the same shape; None where it encodes to a point."""

    def drawn(self, noise: Tensor) -> Tensor:
        """A sample of the posterior, by standard normal `noise` of the mean's shape; the point without one."""
        return self.mean if self.std is None else self.mean + self.std * noise


class Autoencoder(nn.Module):
    """The frozen network and the scale of its latents. It runs in float32, whatever the networks run in."""

    scaling: Tensor
    shift: Tensor

    def __init__(self, facts: AutoencoderFacts, network: Any) -> None:
        super().__init__()
        self.facts, self.network = facts, network
        for name, values in (("scaling", facts.scaling), ("shift", facts.shift)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.scaling.device

    @torch.no_grad()
    def encode(self, images: Tensor) -> Encoded:
        """Scaled latents of `images`, float32 (B, C, H, W) in [−1, 1]."""
        parts = [self._encoded(part) for part in images.split(at_once(images.shape[-1]))]
        stds = [part.std for part in parts if part.std is not None]
        return Encoded(torch.cat([part.mean for part in parts]), torch.cat(stds) if stds else None)

    def _encoded(self, images: Tensor) -> Encoded:
        found = self.network.encode(images, return_dict=False)[0]
        if not self.facts.has_posterior:
            return Encoded(self._scaled(found), None)
        return Encoded(self._scaled(found.mean), found.std * self.scaling.abs())

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self.shift) * self.scaling

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 (B, C, H, W), of scaled `latents`, float32 (B, C, h, w). They may leave [−1, 1] a little."""
        images: Tensor = self.network.decode(latents / self.scaling + self.shift, return_dict=False)[0]
        return images


def at_once(side: int) -> int:
    """How many images of `side` pixels are encoded or decoded together."""
    return min(max(PIXELS_AT_ONCE // side**2, 1), MOST_AT_ONCE)


def check_diffusers() -> None:
    """Raise :class:`ConfigError` where the package is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise ConfigError(KEY, ["needs the package diffusers: pip install 'dual-rate-harness[diffusers]'"])


def check_autoencoder(path: str) -> None:
    """Raise one message for what would keep the autoencoder in the folder `path` from being used."""
    check_diffusers()
    facts = autoencoder_facts(path)
    _check_built(facts.folder, facts.digest)


@lru_cache(maxsize=8)
def _check_built(folder: Path, digest: str) -> None:
    with torch.device("meta"):
        network = build(folder)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    there = _shapes(folder / WEIGHTS)
    wrong = [name for name in (*wanted, *there) if wanted.get(name) != there.get(name)]
    if wrong:
        raise DataError(
            f"{KEY}: {folder / WEIGHTS} is of another network than {CONFIG} beside it: "
            f"{count_of(len(set(wrong)), 'tensor')} differ, {wrong[0]} first"
        )
    with safe_open(folder / WEIGHTS, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            if not file.get_tensor(name).isfinite().all():
                raise DataError(f"{KEY}: {folder / WEIGHTS}: {name} holds values that are not finite; get it anew")


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(weights, "pt") as file:
            return {_modern(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{KEY}: {weights} is cut short or damaged ({error})") from None


OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of an attention's layers, in files that diffusers wrote before 0.17: Stable Diffusion's own autoencoder is one."""


def _modern(name: str) -> str:
    """What diffusers calls a tensor today."""
    before, attention, rest = name.rpartition(".attentions.")
    number, _, layer = rest.partition(".")
    old, _, kind = layer.rpartition(".")
    return f"{before}{attention}{number}.{OLD_NAMES[old]}.{kind}" if attention and old in OLD_NAMES else name


def build(folder: Path) -> Any:
    """The network that the folder's config.json describes, with random weights. Raises :class:`DataError`."""
    import diffusers

    values = configuration(folder)
    kind: Any = getattr(diffusers, values.pop("_class_name"))
    known = known_keys(kind, values)
    try:
        return kind(**known)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
        raise DataError(f"{KEY}: {folder / CONFIG} describes no {kind.__name__}: {error}") from None


def known_keys(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that `kind` takes; lists as diffusers wants them."""
    taken = inspect.signature(kind.__init__).parameters
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in taken}


def load_autoencoder(path: str, device: torch.device) -> Autoencoder:
    """The autoencoder in the folder `path`, on `device`; loaded once while its files stay as they are."""
    check_autoencoder(path)
    facts = autoencoder_facts(path)
    return _loaded(facts, device)


@lru_cache(maxsize=2)
def _loaded(facts: AutoencoderFacts, device: torch.device) -> Autoencoder:
    network = build(facts.folder)
    with safe_open(facts.folder / WEIGHTS, "pt") as file:
        tensors = {_modern(name): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
    network.load_state_dict(tensors)
    return Autoencoder(facts, network).to(device)


def shapeless_autoencoder(path: str) -> Autoencoder:
    """The same without memory for its weights, on the meta device: for counting what it costs."""
    check_diffusers()
    facts = autoencoder_facts(path)
    with torch.device("meta"):
        return Autoencoder(facts, build(facts.folder)).to("meta")
