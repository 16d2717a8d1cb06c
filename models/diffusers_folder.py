"""A folder as diffusers saves a pipeline: what it says of its network and of its noise levels. Nothing in it is run.

Its configurations are JSON. The classes that they name are looked up in a short list here, so that no module and no
file of code that lies in the folder is ever imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from models.hub import NotHad, hub_folder, is_hub_id

Kind = Literal["unet", "conditional unet", "dit"]
CLASS_OF: dict[Kind, str] = {
    "unet": "UNet2DModel",
    "conditional unet": "UNet2DConditionModel",
    "dit": "DiTTransformer2DModel",
}
"""The networks that are read, by the library's names of them."""
CLASSES: dict[str, Kind] = {**{name: kind for kind, name in CLASS_OF.items()}, "Transformer2DModel": "dit"}
"""A DiT was a Transformer2DModel before it had a class of its own."""
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
WAYS_UP = ("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D")
CROSS_DOWN, CROSS_UP, CROSS_MIDDLE = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UNetMidBlock2DCrossAttn"
"""Blocks of a UNet2DConditionModel that attend to encoder_hidden_states."""
MIDDLES = ("UNetMidBlock2D", CROSS_MIDDLE, None)
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "unet": {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (224, 448, 672, 896),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "layers_per_block": 2,
    },
    "conditional unet": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", CROSS_UP, CROSS_UP, CROSS_UP),
        "mid_block_type": CROSS_MIDDLE,
        "layers_per_block": 2,
        "cross_attention_dim": 1280,
    },
    "dit": {
        "sample_size": 32,
        "in_channels": 4,
        "patch_size": 2,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "num_layers": 28,
        "num_embeds_ada_norm": 1000,
    },
}
"""What the library takes where a configuration does not say it."""
FIXED: dict[str, Any] = {"center_input_sample": False, "time_embedding_type": "positional"}
"""Keys of a U-Net that are read with one value alone, which is the default."""
TOLD_MORE: dict[str, Any] = {
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "attention_type": "default",
    "dual_cross_attention": False,
}
"""Those of a UNet2DConditionModel which, with another value, is told more than a class: a text, an image, a scale."""
CLASS_EMBEDDINGS = (None, "timestep")
"""How a U-Net may embed a class: by a table, or as a number as its steps are."""
STATES = "encoder_hidden_states"
"""The tensor, and the file beside config.json, of what the network attends to."""
UNSAID = ("_class_name", "_diffusers_version", "_name_or_path", "_use_default_values")
"""Keys that say nothing of the network itself, but for its class."""


@dataclass(frozen=True)
class States:
    """What the blocks with cross-attention attend to, of each class: (rows, tokens, channels), made once by whatever
    the network was trained with.

    A file of safetensors with one tensor. One row serves all images; of several each is a class's, and one more than
    there are classes is no class's.
    """

    path: Path
    shape: tuple[int, int, int]
    digest: str
    """Of the file."""


@dataclass(frozen=True)
class Folder:
    """A network of diffusers.

    Attributes:
        path: the folder as it was named.
        place: the folder in it that holds the network's configuration and weights.
        kind: which of the networks that are read here.
        model: its configuration.
        scheduler: the noise schedule's.
        states: what it attends to, where it does.
        from_hub: whether it is of the hub's cache; then only safetensors are taken.
    """

    path: Path
    place: Path
    kind: Kind
    model: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    states: States | None = None
    from_hub: bool = False

    def value(self, key: str) -> Any:
        """What its configuration has of `key`, or the library's default; None where there is neither."""
        return self.model.get(key, DEFAULTS[self.kind].get(key))

    @property
    def identity(self) -> dict[str, Any]:
        """All that is read of it, but for the weights."""
        model = {key: value for key, value in self.model.items() if key not in UNSAID}
        read = (*BETAS, "prediction_type", "_class_name")
        states = {} if self.states is None else {STATES: self.states.digest}
        return {
            "kind": self.kind,
            "model": model,
            "scheduler": {key: self.scheduler.get(key) for key in read},
            **states,
        }

    @cached_property
    def size(self) -> int:
        return _whole(self, "sample_size")

    @cached_property
    def channels(self) -> int:
        return _whole(self, "in_channels")

    @cached_property
    def patch(self) -> int:
        return _whole(self, "patch_size") if self.kind == "dit" else 1

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level of a U-Net; of a DiT its one width."""
        if self.kind == "dit":
            return (_whole(self, "num_attention_heads") * _whole(self, "attention_head_dim"),)
        return tuple(int(width) for width in self.value("block_out_channels"))

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each level of a U-Net, on the way down; of a DiT all its blocks."""
        if self.kind == "dit":
            return (_whole(self, "num_layers"),)
        if isinstance(several := self.value("layers_per_block"), list | tuple):
            return tuple(int(blocks) for blocks in several)
        return (_whole(self, "layers_per_block"),) * len(self.widths)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        if self.kind == "dit":
            return ("transformer",)
        return tuple(_kinds_of_levels(self.kind)[name] for name in self.value("down_block_types"))

    @property
    def embedded_classes(self) -> int | None:
        """Classes that it tells apart; of a U-Net the null class may be the last of them. None where it tells none, and
        where it takes any number of them."""
        if self.kind == "dit":
            return self.value("num_embeds_ada_norm")
        if self.states is not None and self.states.shape[0] > 1:
            return self.states.shape[0]
        return None if self.takes_any_class else self.model.get("num_class_embeds")

    @property
    def takes_any_class(self) -> bool:
        """Whether a class is a number to it, as a step is, and none is the last."""
        return self.kind != "dit" and self.model.get("class_embed_type") == "timestep"

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
            "model.class_conditional": classes is not None or self.takes_any_class,
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
        if self.embedded_classes is None and self.takes_any_class:
            there["classes"] = "any number" if classes is None else classes
        elif self.kind != "dit" and classes is not None and self.embedded_classes == classes + 1:
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


def _kinds_of_levels(kind: Kind) -> dict[str, str]:
    return {**LEVELS, CROSS_DOWN: "transformer"} if kind == "conditional unet" else LEVELS


def _whole(folder: Folder, key: str) -> int:
    value = folder.value(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FolderError(f"{folder.path}: its {key} is {value!r}; read is a whole number of at least 1")
    return value


class FolderError(ValueError):
    """What keeps a folder's network from being built or trained."""


class MissingFolder(FolderError):
    """There is none."""


WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""What the file of weights is called; the first that is there is read."""


DOWNLOADED = tuple(
    str(Path(part) / name) for part in COMPONENTS for name in (CONFIG, WEIGHTS[0], f"{STATES}.safetensors")
) + tuple(str(Path(part) / SCHEDULER_CONFIG) for part in ("scheduler", "."))
"""Of a model on the hub, the paths that are read: plain data and tensors, no pickle and no code."""


def weights_file(folder: Folder) -> Path:
    """The file of its weights. Raises ValueError where there is none that is read here."""
    names = WEIGHTS[:1] if folder.from_hub else WEIGHTS
    for name in names:
        if (folder.place / name).is_file():
            return folder.place / name
    parts = sorted(folder.place.glob("diffusion_pytorch_model*"))
    there = f"; it has {', '.join(part.name for part in parts[:3])}" if parts else ""
    cure = "; of the hub only safetensors are taken: save it anew by save_pretrained" if folder.from_hub else ""
    raise FolderError(f"{folder.path}: {folder.place} has no {' nor '.join(names)}{there}{cure}")


def read_folder(path: str | Path) -> Folder:
    """What lies in the folder `path`: of a whole pipeline, or of the network with its scheduler beside it; or what the
    hub has under that name.

    Raises ValueError, which begins with the path, for what is no such folder or is not read here.
    """
    named = Path(path)
    root = named.expanduser()
    from_hub = is_hub_id(root)
    if from_hub:
        try:
            root = hub_folder(root, DOWNLOADED, WEIGHTS[0])
        except NotHad as error:
            raise MissingFolder(f"{path}: {error}") from None
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
    states = place / f"{STATES}.safetensors"
    return _checked(
        Folder(
            named,
            place,
            _kind(path, model),
            model,
            _json(found),
            _states(states, *_stamp(states)) if states.is_file() else None,
            from_hub,
        )
    )


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    told = path.stat()
    return told.st_mtime_ns, told.st_size


@lru_cache(maxsize=16)
def _states(path: Path, changed: int, size: int) -> States:
    """What the file says of itself: eight bytes with the length of a header, JSON, numbers."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < size else {}
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{path}: cannot be read ({error})") from None
    told = header.get(STATES) if isinstance(header, dict) else None
    shape = tuple(told.get("shape", ())) if isinstance(told, dict) else ()
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise FolderError(f"{path}: holds no tensor {STATES} of (classes, tokens, channels)")
    return States(path, (shape[0], shape[1], shape[2]), digest)


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
    *others, last = CLASS_OF.values()
    known = f"{', '.join(others)} and {last}"
    if name not in CLASSES:
        raise FolderError(f"{path}: its network is {name}; read are {known}")
    if name == "Transformer2DModel" and model.get("norm_type") != "ada_norm_zero":
        raise FolderError(
            f"{path}: its Transformer2DModel is no DiT (norm_type is not ada_norm_zero); read are {known}"
        )
    return CLASSES[name]


def _checked(folder: Folder) -> Folder:
    """That nothing in it is of a kind that is read wrongly."""
    path, scheduler = folder.path, folder.scheduler
    if scheduler.get("_class_name") not in SCHEDULERS:
        raise FolderError(f"{path}: its scheduler is {scheduler.get('_class_name')}; read are {', '.join(SCHEDULERS)}")
    if scheduler.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise FolderError(f"{path}: it predicts {scheduler['prediction_type']}; read are {', '.join(PREDICTIONS)}")
    if folder.kind != "dit":
        _check_unet(folder)
    size, _, multiple = folder.size, folder.channels, folder.patch * 2 ** (len(folder.widths) - 1)
    if size % multiple:
        raise FolderError(f"{path}: its images of {size}×{size} do not halve {len(folder.widths) - 1} times")
    return folder


def _check_unet(folder: Folder) -> None:
    path, model = folder.path, folder.model
    for key, value in FIXED.items():
        if model.get(key, value) != value:
            raise FolderError(f"{path}: its {key} is {model[key]}; read is {value}")
    embeds = model.get("class_embed_type")
    if embeds not in CLASS_EMBEDDINGS:
        raise FolderError(
            f"{path}: its class_embed_type is {embeds}, which takes vectors that something else makes and no labels; "
            "read are None and timestep"
        )
    is_conditional = folder.kind == "conditional unet"
    for key, value in TOLD_MORE.items() if is_conditional else ():
        if model.get(key, value) != value:
            raise FolderError(
                f"{path}: its {key} is {model[key]}: it is told more than the class of an image; read is {value}"
            )
    ways_up = (*WAYS_UP, CROSS_UP) if is_conditional else WAYS_UP
    for key, known in (("down_block_types", tuple(_kinds_of_levels(folder.kind))), ("up_block_types", ways_up)):
        for name in folder.value(key) or ():
            if name not in known:
                raise FolderError(f"{path}: its {key} have a {name}; read are {', '.join(known)}")
    if is_conditional and folder.value("mid_block_type") not in MIDDLES:
        raise FolderError(
            f"{path}: its mid_block_type is {folder.value('mid_block_type')}; read are {', '.join(map(str, MIDDLES))}"
        )
    if _whole(folder, "out_channels") < folder.channels:
        raise FolderError(
            f"{path}: it takes {folder.channels} channels and gives {folder.value('out_channels')}: it is told more "
            "than a noisy image; read are networks that give as many"
        )
    _check_states(folder)


def _check_states(folder: Folder) -> None:
    """That a network with cross-attention has what it attends to, and no other has it."""
    names = [
        *folder.value("down_block_types"),
        *(folder.value("up_block_types") or ()),
        folder.value("mid_block_type"),
    ]
    crossing = next((name for name in names if name in (CROSS_DOWN, CROSS_UP, CROSS_MIDDLE)), None)
    path, states, file = folder.path, folder.states, folder.place / f"{STATES}.safetensors"
    if crossing is None:
        if states is not None:
            raise FolderError(f"{path}: none of its blocks attends to what lies in {file}; move it away")
        return
    channels = folder.value("cross_attention_dim")
    if not isinstance(channels, int):
        raise FolderError(f"{path}: its cross_attention_dim is {channels}; read is a whole number")
    if states is None:
        raise FolderError(
            f"{path}: its {crossing} attends to {STATES}, as of a text, and no text encoder is run here; make "
            f"them once for each class and leave them in {file}, a tensor {STATES} of (classes, tokens, {channels}) in "
            "order of the labels, last that of no label, or of one row for all images (docs/networks.md)"
        )
    rows, _, here = states.shape
    if here != channels:
        raise FolderError(f"{file}: has {here} channels; the network attends to {channels}")
    embedded = folder.model.get("num_class_embeds")
    if rows > 1 and embedded is not None and not folder.takes_any_class and embedded != rows:
        raise FolderError(f"{file}: has {rows} classes; the network embeds {embedded}")
