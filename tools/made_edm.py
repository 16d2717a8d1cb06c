"""Write a snapshot as EDM's code writes them, of a small network with random weights: `made_edm.py OUT.pkl`.

The format is that of its `torch_utils.persistence`: each object of a network is pickled with the name of its class, its
state, and the source of its module. Here that source ends whoever runs it.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from models.edm_weights import described, original_names  # noqa: E402

SOURCE = "raise SystemExit('the source in a file of weights was run')"
READER = "_reconstruct_persistent_obj"
TINY: dict[str, Any] = {
    "img_resolution": 32,
    "img_channels": 3,
    "label_dim": 10,
    "model_channels": 8,
    "channel_mult": [2, 2, 2],
    "num_blocks": 1,
    "attn_resolutions": [16],
    "augment_dim": 9,
}
"""Of CIFAR-10's network, DDPM++: sizes alone differ."""


@dataclass
class _Persistent:
    """An object of one of EDM's classes."""

    class_name: str
    state: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        reader = getattr(sys.modules["torch_utils.persistence"], READER)
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name, "state": self.state}
        return reader, (meta,)


def make(
    path: Path,
    arguments: Mapping[str, Any] = TINY,
    outer: str = "EDMPrecond",
    inner: str = "SongUNet",
    seed: int = 0,
) -> Path:
    """Write the snapshot of a network that is made with `arguments`: the same numbers each time.

    Not the same bytes, for torch names a storage by where it lay in memory.
    """
    own = {k: v for k, v in arguments.items() if k not in ("img_channels",)}
    kwargs = {**own, "in_channels": arguments["img_channels"], "out_channels": arguments["img_channels"]}
    values = {"img_resolution": kwargs["img_resolution"], "img_channels": kwargs["in_channels"], "sigma_data": 0.5}
    told = described(outer, values, inner, kwargs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        tensors = told.network.build().state_dict()
        for tensor in tensors.values():
            tensor.add_(0.02 * torch.randn(tensor.shape))
    names = original_names(told.network)
    original = {names[name]: tensor for name, tensor in tensors.items()}
    network = _Persistent(inner, {**_nested(original), "_init_args": (), "_init_kwargs": kwargs})
    ema = _Persistent(outer, {**_module({}, OrderedDict(model=network)), **values, "label_dim": kwargs["label_dim"]})
    content: dict[str, Any] = {
        "ema": ema,
        "loss_fn": _Persistent("EDMLoss", {"P_mean": -1.2}),
        "augment_pipe": None,
        "dataset_kwargs": {},
    }
    path.write_bytes(_pickled(content))
    return path


def _module(tensors: Mapping[str, Tensor], modules: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an `nn.Module`."""
    parameters = OrderedDict((name, nn.Parameter(tensor, requires_grad=False)) for name, tensor in tensors.items())
    return {"training": False, "_parameters": parameters, "_buffers": OrderedDict(), "_modules": OrderedDict(modules)}


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """That of a module with all tensors that it holds, by their dotted names."""
    own = {name: tensor for name, tensor in tensors.items() if "." not in name}
    inside: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        if rest:
            inside.setdefault(head, {})[rest] = tensor
    return _module(own, {name: _Persistent("Module", _nested(content)) for name, content in inside.items()})


def _pickled(content: Any) -> bytes:
    """`content` as a pickle that names EDM's reader, which need not be there."""
    package, module = ModuleType("torch_utils"), ModuleType("torch_utils.persistence")

    def reader(meta: Mapping[str, Any]) -> None:
        """What the file names. Nobody calls it."""

    reader.__module__, reader.__name__, reader.__qualname__ = module.__name__, READER, READER
    setattr(module, READER, reader)
    package.persistence = module  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in (package.__name__, module.__name__)}
    sys.modules |= {package.__name__: package, module.__name__: module}
    try:
        return pickle.dumps(content)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    print(make(parser.parse_args().out))


if __name__ == "__main__":
    main()
