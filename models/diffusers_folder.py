"""A folder as diffusers saves a pipeline: what it says of its network and of its noise levels. Nothing in it is run.

Its configurations are JSON. The classes that they name are looked up in a short list here, so that no module and no
file of code that lies in the folder is ever imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Kind = Literal["unet", "dit"]
UNET_CLASS, DIT_CLASS = "UNet2DModel", "DiTTransformer2DModel"
CLASSES: dict[str, Kind] = {UNET_CLASS: "unet", DIT_CLASS: "dit", "Transformer2DModel": "dit"}
"""The networks that are read. A DiT was a Transformer2DModel before it had a class of its own."""
SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
)
"""Those whose noise levels are a table of betas. Which of them it is says nothing else here: samplers are this
project's."""
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
"""The keys of a scheduler that its noise levels depend on."""
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x"}
COMPONENTS = ("unet", "transformer", ".")
CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
LEVELS = {
    "DownBlock2D": "conv",
    "ResnetDownsampleBlock2D": "conv",
    "AttnDownBlock2D": "transformer",
}
DEFAULT_LEVELS = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
WAYS_UP = ("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D")
FIXED: dict[str, Any] = {"center_input_sample": False, "time_embedding_type": "positional", "class_embed_type": None}
"""Keys of a U-Net that are read with one value alone, which is the default."""
UNSAID = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")
"""Keys that say nothing of the network itself, but for its class."""


@dataclass(frozen=True)
class Folder:
    """A network of diffusers.

    Attributes:
        path: the folder as it was named.
        place: the folder in it that holds the network's configuration and weights.
        kind: which of the networks that are read here.
        model: its configuration.
        scheduler: the noise schedule's.
    """

    path: Path
    place: Path
    kind: Kind
    model: Mapping[str, Any]
    scheduler: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """All that is read of it, but for the weights."""
        model = {key: value for key, value in self.model.items() if key not in UNSAID}
        read = (*BETAS, "prediction_type", "_class_name")
        return {"kind": self.kind, "model": model, "scheduler": {key: self.scheduler.get(key) for key in read}}

    @cached_property
    def size(self) -> int:
        return _whole(self, "sample_size", 32 if self.kind == "dit" else None)

    @cached_property
    def channels(self) -> int:
        return _whole(self, "in_channels", 4 if self.kind == "dit" else 3)

    @cached_property
    def patch(self) -> int:
        return _whole(self, "patch_size", 2) if self.kind == "dit" else 1

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level of a U-Net; of a DiT its one width."""
        if self.kind == "dit":
            return (_whole(self, "num_attention_heads", 16) * _whole(self, "attention_head_dim", 72),)
        return tuple(int(width) for width in self.model.get("block_out_channels", (224, 448, 672, 896)))

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each level of a U-Net, on the way down; of a DiT all its blocks."""
        if self.kind == "dit":
            return (_whole(self, "num_layers", 28),)
        return (_whole(self, "layers_per_block", 2),) * len(self.widths)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        if self.kind == "dit":
            return ("transformer",)
        return tuple(LEVELS[name] for name in self.model.get("down_block_types", DEFAULT_LEVELS))

    @property
    def embedded_classes(self) -> int | None:
        """Classes that it has an embedding of; of a U-Net the null class may be the last of them."""
        key = "num_embeds_ada_norm" if self.kind == "dit" else "num_class_embeds"
        return self.model.get(key, 1000 if self.kind == "dit" else None)

    @property
    def prediction(self) -> str:
        """As ``diffusion.prediction`` calls it."""
        return PREDICTIONS[self.scheduler.get("prediction_type", "epsilon")]

    def has_null_class(self, classes: int) -> bool:
        """Whether label `classes` has an embedding of its own."""
        return self.kind == "dit" or (self.embedded_classes or 0) > classes

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of a configuration that has this network, dotted."""
        width, classes = self.widths[0], self.embedded_classes
        return {
            "data.size": self.size,
            "data.channels": self.channels,
            **({} if classes is None else {"data.classes": classes}),
            "model.kind": "single_rate",
            "model.backbone": "diffusers",
            "model.folder": str(self.path),
            **({"model.patch": self.patch} if self.patch > 1 else {}),
            "model.width": width,
            "model.multipliers": [one / width for one in self.widths],
            "model.blocks": list(self.blocks),
            "model.levels": list(self.levels),
            "model.class_conditional": classes is not None,
            "diffusion.prediction": self.prediction,
        }

    def differences(self, model: Any, diffusion: Any, size: int, channels: int, classes: int | None) -> list[str]:
        """What a configuration says otherwise, for a message: ``width is 8 there and 16 here``."""
        blocks, levels = tuple(model.blocks), tuple(model.levels)
        here: dict[str, Any] = {
            "data.size": size,
            "data.channels": channels,
            "model.patch": model.patch,
            "channels of the levels": tuple(round(model.width * multiplier) for multiplier in model.multipliers),
            "model.blocks": blocks,
            "model.levels": levels,
            "classes": classes,
            "diffusion.prediction": diffusion.prediction or "v",
            "diffusion.preconditioning": diffusion.preconditioning,
        }
        there: dict[str, Any] = {
            "data.size": self.size,
            "data.channels": self.channels,
            "model.patch": self.patch,
            "channels of the levels": self.widths,
            "model.blocks": self.blocks,
            "model.levels": self.levels,
            "classes": self.embedded_classes,
            "diffusion.prediction": self.prediction,
            "diffusion.preconditioning": "none",
        }
        if self.kind == "dit":  # its blocks may be divided into runs
            here["model.blocks"] = (sum(blocks),)
            there["model.levels"] = ("transformer",) * len(levels)
            there["channels of the levels"] = self.widths * len(levels)
        if self.kind == "unet" and classes is not None and self.embedded_classes == classes + 1:
            there["classes"] = classes  # the last one is the null class
        return [
            f"{key} is {_shown(there[key])} there and {_shown(here[key])} here"
            for key in there
            if here[key] != there[key]
        ]


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _whole(folder: Folder, key: str, default: int | None) -> int:
    value = folder.model.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FolderError(f"{folder.path}: its {key} is {value!r}; read is a whole number of at least 1")
    return value


class FolderError(ValueError):
    """What keeps a folder's network from being built or trained."""


class MissingFolder(FolderError):
    """There is none."""


WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""What the file of weights is called; the first that is there is read."""


def weights_file(folder: Folder) -> Path:
    """The file of its weights. Raises ValueError where there is none that is read here."""
    for name in WEIGHTS:
        if (folder.place / name).is_file():
            return folder.place / name
    parts = sorted(folder.place.glob("diffusion_pytorch_model*"))
    there = f"; it has {', '.join(part.name for part in parts[:3])}" if parts else ""
    raise FolderError(f"{folder.path}: {folder.place} has no {' nor '.join(WEIGHTS)}{there}")


def read_folder(path: str | Path) -> Folder:
    """What lies in the folder `path`: of a whole pipeline, or of the network with its scheduler beside it.

    Raises ValueError, which begins with the path, for what is no such folder or is not read here.
    """
    named = Path(path)
    root = named.expanduser()
    if not root.is_dir():
        where = "" if root.is_absolute() else f" (tried {root.absolute()}, relative to the folder the command runs in)"
        raise MissingFolder(
            f"{path}: no such folder{where}; of a model on the Hugging Face hub, download it first: "
            "hf download OWNER/NAME --local-dir FOLDER"
        )
    places = [root / part for part in COMPONENTS if (root / part / CONFIG).is_file()]
    if not places:
        raise FolderError(
            f"{path}: holds no {CONFIG} of a diffusers network, nor a folder unet or transformer with one"
        )
    place = places[0]
    model = _json(place / CONFIG)
    schedulers = (root / "scheduler", root, place.parent / "scheduler")
    found = next((one / SCHEDULER_CONFIG for one in schedulers if (one / SCHEDULER_CONFIG).is_file()), None)
    if found is None and str(model.get("_class_name")).startswith("Autoencoder"):
        raise FolderError(
            f"{path}: is an {model['_class_name']}, which makes latents of images: name it by data.latents"
        )
    if found is None:
        raise FolderError(
            f"{path}: has no scheduler/{SCHEDULER_CONFIG}, which says how noisy each of the network's steps is; give "
            "the folder of the whole pipeline"
        )
    return _checked(Folder(named, place, _kind(path, model), model, _json(found)))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise FolderError(f"{path}: holds no mapping")
    return content


def _kind(path: str | Path, model: Mapping[str, Any]) -> Kind:
    name = model.get("_class_name")
    known = f"{UNET_CLASS} and {DIT_CLASS}"
    if name not in CLASSES:
        raise FolderError(f"{path}: its network is {name}; read are {known}")
    if name == "Transformer2DModel" and model.get("norm_type") != "ada_norm_zero":
        raise FolderError(
            f"{path}: its Transformer2DModel is no DiT (norm_type is not ada_norm_zero); read are {known}"
        )
    return CLASSES[name]


def _checked(folder: Folder) -> Folder:
    """That nothing in it is of a kind that is read wrongly."""
    path, model, scheduler = folder.path, folder.model, folder.scheduler
    if scheduler.get("_class_name") not in SCHEDULERS:
        raise FolderError(f"{path}: its scheduler is {scheduler.get('_class_name')}; read are {', '.join(SCHEDULERS)}")
    if scheduler.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise FolderError(f"{path}: it predicts {scheduler['prediction_type']}; read are {', '.join(PREDICTIONS)}")
    if folder.kind == "unet":
        for key, value in FIXED.items():
            if model.get(key, value) != value:
                raise FolderError(f"{path}: its {key} is {model[key]}; read is {value}")
        for key, known in (("down_block_types", tuple(LEVELS)), ("up_block_types", WAYS_UP)):
            for name in model.get(key, ()):
                if name not in known:
                    raise FolderError(f"{path}: its {key} have a {name}; read are {', '.join(known)}")
    size, _, multiple = folder.size, folder.channels, folder.patch * 2 ** (len(folder.widths) - 1)
    if size % multiple:
        raise FolderError(f"{path}: its images of {size}×{size} do not halve {len(folder.widths) - 1} times")
    return folder
