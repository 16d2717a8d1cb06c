"""Pickles from elsewhere: those of networks are read, and whatever else they want is refused and not run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import StoreError
from harness.store.pickled import Persistent, UntrustedPickle, read_network, read_pickle
from harness.store.pretrained import NETWORK, convert, open_pretrained
from harness.store.weights import load_header
from models.edm_weights import described
from tests.models.edm_original import CODE
from tools.made_edm import make

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
SNAPSHOT = Path(__file__).with_name("edm-made.pkl")
"""Of :data:`SMALL`, tracked: what `tools/made_edm.py` writes must stay readable."""
RAN = "HARNESS_TEST_A_PICKLE_RAN"


def ran() -> None:
    os.environ[RAN] = "1"


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(RAN, raising=False)
    modules = set(sys.modules)
    yield
    assert RAN not in os.environ
    assert not any(name.startswith("_imported_module") for name in set(sys.modules) - modules)


class Reduced:
    def __init__(self, *how: Any) -> None:
        self.how = how

    def __reduce__(self) -> tuple[Any, ...]:
        return self.how


def dumped(content: object) -> bytes:
    return pickle.dumps(content)


def with_persistent_id() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return "weights of elsewhere" if obj is ... else None

    out = io.BytesIO()
    Pickler(out, 4).dump({"ema": ...})
    return out.getvalue()


def on_a_known_function(state: bytes) -> bytes:
    """BUILD with `state` on what a known name gives."""
    name = b"ctorch._utils\n_rebuild_parameter\n"
    return b"\x80\x04" + name + state + b"b."


HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system": (dumped({"ema": Reduced(os.system, (f"export {RAN}=1; exit 1",))}), "posix.system"),
    "eval": (dumped(Reduced(eval, (f"__import__('os').environ.update({RAN}='1')",))), "builtins.eval"),
    "a function of its own": (dumped(Reduced(ran, ())), "tests.store.test_pickled.ran"),
    "a class": (dumped(Reduced), "tests.store.test_pickled.Reduced"),
    "getattr": (b"\x80\x04cbuiltins\ngetattr\n.", "builtins.getattr"),
    "inside a known module": (
        b"\x80\x04ctorch.storage\n_load_from_bytes.__globals__\n.",
        "_load_from_bytes.__globals__",
    ),
    "torch.load": (b"\x80\x04ctorch\nload\n.", "torch.load"),
    "a persistent id": (with_persistent_id(), "an object by a persistent id"),
    "the extension registry": (b"\x80\x02\x82\x01.", "an object of the extension registry"),
    "an old class": (b"(ios\nsystem\n.", "an instance of an old class"),
    "a huge memo": (b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".", "place 2,147,483,648 of the memo"),
    "nested marks": (b"\x80\x04" + b"(" * 5000 + b".", "data nested more than 1,000 deep"),
}
"""What is in the file, and what the message says it asks for. An old class begins as no file of EDM's does."""


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_by_what_it_wants(kind: str, tmp_path: Path) -> None:
    content, wanted = HOSTILE[kind]
    path = tmp_path / "hostile.pkl"
    path.write_bytes(content)
    with pytest.raises(UntrustedPickle) as refused:
        read_pickle(path)
    assert wanted in str(refused.value) and "nothing of it was run" in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",  # says that a terabyte follows
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",  # a frame of an exabyte
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x04" + b")" + b"\x85" * 50_000 + b"}\x94" + b"0" + b"h\x00" + b".",
        on_a_known_function(b"}(X\x08\x00\x00\x00__code__Nu"),
        on_a_known_function(b"N}(X\x08\x00\x00\x00__code__Nu\x86"),
        on_a_known_function(b"N}(X\x05\x00\x00\x00_makeNu\x86"),
        SNAPSHOT.read_bytes()[:-500],
    ],
    ids=range(11),
)
def test_a_damaged_or_made_up_pickle_is_refused_with_one_message(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pkl"
    path.write_bytes(content)
    with pytest.raises(StoreError) as refused:
        read_network(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)
    made = make(tmp_path / "sound.pkl", SMALL)  # what it tried has changed nothing for the next file
    assert open_pretrained(made).read()


def changed(tmp_path: Path, change: Callable[[bytes], bytes]) -> Path:
    path = tmp_path / "changed.pkl"
    path.write_bytes(change(SNAPSHOT.read_bytes()))
    return path


def test_a_snapshot_is_read_and_its_source_is_not_run(tmp_path: Path) -> None:
    """The tracked one, and the numbers of one that is made anew."""
    assert b"raise SystemExit" in SNAPSHOT.read_bytes()
    network, opened = read_network(SNAPSHOT), open_pretrained(SNAPSHOT)
    assert (network.outer.class_name, network.inner.class_name) == ("EDMPrecond", "SongUNet")
    assert opened.keys is not None
    assert {key: opened.keys[key] for key in ("model.backbone", "model.width", "data.classes", "data.size")} == {
        "model.backbone": "ddpmpp",
        "model.width": 8,
        "data.classes": 3,
        "data.size": 8,
    }
    tensors = opened.read()
    again = open_pretrained(make(tmp_path / "again.pkl", SMALL)).read()
    assert again.keys() == tensors.keys() and all(torch.allclose(again[key], tensors[key]) for key in again)
    assert all(tensor.dtype == torch.float32 and name.startswith("network.") for name, tensor in tensors.items())


def test_a_converted_file_is_the_same_network(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    opened, converted = open_pretrained(SNAPSHOT), convert(SNAPSHOT, out)
    assert converted.keys == opened.keys and NETWORK in load_header(out)
    there, here = opened.read(), converted.read()
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in there)


def test_tensors_that_are_not_what_they_say_are_refused() -> None:
    """A stride of 0 would make any number of a single one."""
    sound = read_network(SNAPSHOT).tensors["model.map_layer0.bias"]
    count = sound.tensor().numel()
    assert sound.size == (count,) and count > 1
    lies = [
        sound._replace(size=(10**12,), stride=(0,)),
        sound._replace(offset=-1),
        sound._replace(size=(count + 1,)),
        sound._replace(size=(count, 1)),
    ]
    for bad in lies:
        with pytest.raises((ValueError, RuntimeError)):
            bad.tensor()
    with pytest.raises(pickle.UnpicklingError):
        sound._replace(storage=dumped(Reduced(ran, ()))).tensor()


def test_modules_that_hold_each_other_many_times_are_refused(tmp_path: Path) -> None:
    module: Any = Persistent("Leaf", {})
    for _ in range(40):
        module = Persistent("Node", {"_modules": {"a": module, "b": module}})
    from harness.store import pickled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickled, "read_pickle", lambda path: {"ema": Persistent("P", {"_modules": {"model": module}})})
        with pytest.raises(UntrustedPickle, match="more than 100,000 modules and tensors"):
            read_network(tmp_path / "any.pkl")


def test_what_holds_no_network_is_told(tmp_path: Path) -> None:
    for content, said in (
        (dumped({"ema": 3}), "holds no network called ema"),
        (dumped([1, 2]), "holds no network called ema"),
        (b"PK\x03\x04", "is a zip, as torch.save writes"),
        (b"hello", "is of no known format"),
    ):
        path = tmp_path / "any"
        path.write_bytes(content)
        with pytest.raises(StoreError, match=said):
            open_pretrained(path)
    with pytest.raises(StoreError, match="no such file"):
        open_pretrained(tmp_path / "none")


@pytest.mark.skipif(CODE is None, reason="the original code is not here: set HARNESS_EDM_CODE")
def test_a_snapshot_of_the_original_code_is_read(tmp_path: Path) -> None:
    """Of its own pickling, with loss and augmentation beside the network, as its training writes it."""
    from tests.models.edm_original import NETWORKS, original, original_modules

    original_modules()
    from training import augment, loss  # type: ignore[import-not-found]

    path = tmp_path / "network-snapshot.pkl"
    for name, (outer, inner, _) in NETWORKS.items():
        network = original(name).requires_grad_(False)
        snapshot = {"ema": network, "loss_fn": loss.EDMLoss(), "augment_pipe": augment.AugmentPipe(p=0.12, xflip=1e8)}
        path.write_bytes(pickle.dumps({**snapshot, "dataset_kwargs": {"path": "x.zip"}}))
        opened = open_pretrained(path)
        told = described(outer, vars(network), inner, network.model.init_kwargs)
        assert opened.keys == told.keys
        tensors = opened.read()
        weight = network.model.map_layer0.weight
        assert torch.equal(tensors["network.first_layer.weight"], weight)
        told.network.build().load_state_dict({key.removeprefix("network."): value for key, value in tensors.items()})
