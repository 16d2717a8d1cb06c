"""Reading a pickle without trusting it: tensors and plain data come out, and nothing of the file runs.

Networks of the original EDM code are pickled with the source of their classes, which its reader executes. Here an
object of such a class is only what it was made of: the class's name and its state. Python's own pickle reader does the
parsing, but every name that a file asks for is answered by a stand-in of :data:`KNOWN` that does nothing but hold what
it is given; any other name is refused. What a file could use to fill the memory is refused before it is read.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor

from harness.errors import StoreError

MOST_OPERATIONS = 2_000_000
"""A snapshot of EDM's largest network has fewer than a tenth of them."""
MOST_DEEP = 1000
MOST_TENSORS = 100_000
MOST_NESTED_MODULES = 64
REFUSED_OPERATIONS = {
    "PERSID": "an object by a persistent id",
    "BINPERSID": "an object by a persistent id",
    "EXT1": "an object of the extension registry",
    "EXT2": "an object of the extension registry",
    "EXT4": "an object of the extension registry",
    "INST": "an instance of an old class",
    "OBJ": "an instance of an old class",
    "NEXT_BUFFER": "a buffer from outside",
}


class UntrustedPickle(StoreError):
    """A pickle that wants what no file of weights needs."""

    def __init__(self, path: Path, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(
            f"{path}: asks for {wanted}, which no network's weights need; nothing of it was run. A file of EDM's "
            "own (edm-*.pkl, network-snapshot-*.pkl) holds tensors and plain data alone"
        )


class _Refused(Exception):
    """What a pickle wants and does not get."""


class Persistent(NamedTuple):
    """An object of a class whose source lies in the file."""

    class_name: str
    state: Mapping[str, Any]


class StoredTensor(NamedTuple):
    """A tensor as the file has it."""

    storage: bytes
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """It, on the CPU. Raises ValueError for one that is not what it says."""
        numel = math.prod(self.size)
        if len(self.size) != len(self.stride) or min((*self.size, *self.stride, self.offset), default=0) < 0:
            raise ValueError(f"a tensor of size {self.size} and strides {self.stride}")
        if numel > len(self.storage):  # no type has less than a byte: what is larger repeats its numbers
            raise ValueError(f"a tensor of {numel:,} numbers in a storage of {len(self.storage):,} bytes")
        storage = torch.load(io.BytesIO(self.storage), map_location="cpu", weights_only=True)
        flat = torch.empty(0, dtype=storage.dtype).set_(storage)
        return flat.as_strided(self.size, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


class _Nothing:
    """What is in a file and of no use here."""

    __slots__ = ()

    def __call__(self, *values: object) -> _Nothing:
        return self

    def __setstate__(self, state: object) -> None:
        """It stays nothing."""


class _Makes:
    """A stand-in for a function: it cannot be given attributes, so a file cannot change it."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused("to change a function")

    def __call__(self, *values: Any) -> Any:
        return self._make(*values)


def _persistent(meta: Mapping[str, Any]) -> Persistent:
    """Of what `torch_utils.persistence` hands its reader, all but the source."""
    if meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise _Refused(f"a persistent object of type {meta.get('type')!r}")
    state = meta.get("state")
    return Persistent(meta["class_name"], state if isinstance(state, Mapping) else {})


def _tensor(storage: bytes, offset: int, size: Any, stride: Any, *_: object) -> StoredTensor:
    if not isinstance(storage, bytes) or not all(type(value) is int for value in (offset, *size, *stride)):
        raise _Refused("a tensor without a storage of its own")
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _parameter(tensor: StoredTensor, *_: object) -> StoredTensor:
    return tensor


def _storage(content: bytes) -> bytes:
    return content


KNOWN: dict[str, Any] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _Makes(_persistent),
    "torch._utils._rebuild_tensor_v2": _Makes(_tensor),
    "torch._utils._rebuild_parameter": _Makes(_parameter),
    "torch.storage._load_from_bytes": _Makes(_storage),
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "numpy.dtype": _Nothing(),
    "numpy.core.multiarray.scalar": _Nothing(),
    "numpy._core.multiarray.scalar": _Nothing(),
    "torch.device": _Nothing(),
    "torch.float16": "float16",
    "torch.float32": "float32",
}
"""What a file may name, and what it gets."""
RECORDS = {"torch.nn.modules.container.ModuleDict", "torch.nn.modules.container.ModuleList", "dnnlib.util.EasyDict"}
"""Classes of which a file may hold instances: it gets a class without any code, made for that one reading."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path
        self._classes: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in RECORDS:
            base: type = dict if full == "dnnlib.util.EasyDict" else object
            return self._classes.setdefault(full, type(name, (base,), {}))
        if full not in KNOWN:
            raise UntrustedPickle(self._path, full)
        return KNOWN[full]

    def persistent_load(self, pid: object) -> Any:
        raise UntrustedPickle(self._path, REFUSED_OPERATIONS["PERSID"])


def read_pickle(path: Path) -> Any:
    """What the pickle at `path` holds: plain data, :class:`Persistent` objects and :class:`StoredTensor`.

    Raises :class:`UntrustedPickle` that names what else it wants, :class:`StoreError` for a damaged file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_operations(path, content)
            content.seek(0)
            return _Unpickler(content, path).load()
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    except StoreError:
        raise
    except _Refused as error:
        raise UntrustedPickle(path, str(error)) from None
    except Exception as error:  # whatever a damaged or made-up stream of operations leads to, it is no network
        raise StoreError(f"{path}: is cut short or damaged, or no pickle of a network ({error})") from None


def _check_operations(path: Path, content: mmap.mmap) -> None:
    """Raise unless each operation is one that such a file needs, and none of them asks for memory beyond the file."""
    depth = 0
    for number, (operation, value, _) in enumerate(pickletools.genops(cast("IO[bytes]", content))):
        if operation.name in REFUSED_OPERATIONS:
            raise UntrustedPickle(path, REFUSED_OPERATIONS[operation.name])
        if number >= MOST_OPERATIONS:
            raise UntrustedPickle(path, f"more than {MOST_OPERATIONS:,} operations")
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (value or 0) > number:
            raise UntrustedPickle(path, f"place {value:,} of the memo, of which {number:,} can be taken")
        depth += {"MARK": 1, "TUPLE": -1, "LIST": -1, "DICT": -1, "FROZENSET": -1, "POP_MARK": -1}.get(
            operation.name, 0
        )
        depth -= operation.name in ("APPENDS", "SETITEMS", "ADDITEMS")
        if depth > MOST_DEEP:
            raise UntrustedPickle(path, f"data nested more than {MOST_DEEP:,} deep")


@dataclass(frozen=True)
class PickledNetwork:
    """A network of the original EDM code: what it is, and its tensors by their dotted names."""

    outer: Persistent
    inner: Persistent
    tensors: Mapping[str, StoredTensor]


def read_network(path: Path) -> PickledNetwork:
    """The network in a snapshot of EDM's: its averaged weights, which the snapshot calls ``ema``.

    Raises as :func:`read_pickle`, and :class:`StoreError` where there is no such network in it.
    """
    content = read_pickle(path)
    outer = content.get("ema") if isinstance(content, Mapping) else content
    if not isinstance(outer, Persistent):
        raise StoreError(f"{path}: holds no network called ema, as EDM's snapshots do")
    inner = _children(outer.state).get("model")
    if not isinstance(inner, Persistent):
        raise StoreError(f"{path}: its {outer.class_name} holds no network called model")
    tensors: dict[str, StoredTensor] = {}
    for number, (name, tensor) in enumerate(_tensors(outer.state, "", 0)):
        if number >= MOST_TENSORS:  # modules that hold each other over and over make many of few
            raise UntrustedPickle(path, f"more than {MOST_TENSORS:,} modules and tensors")
        if tensor is not None:
            tensors[name] = tensor
    return PickledNetwork(outer, inner, tensors)


def _children(state: Mapping[str, Any]) -> Mapping[str, Any]:
    found = state.get("_modules")
    return found if isinstance(found, Mapping) else {}


def _tensors(state: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, StoredTensor | None]]:
    """(dotted name, tensor) of a module and of those in it; None for a module itself."""
    yield prefix, None
    for group in ("_parameters", "_buffers"):
        for name, value in (state.get(group) or {}).items():
            if isinstance(value, StoredTensor):
                yield f"{prefix}{name}", value
    for name, module in _children(state).items() if depth < MOST_NESTED_MODULES else ():
        inside = module.state if isinstance(module, Persistent) else getattr(module, "__dict__", {})
        yield from _tensors(inside, f"{prefix}{name}.", depth + 1)
