"""Weight selection: which weights of a larger network a smaller one begins with, and what it computes with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.uvit import UViT
from models.weight_selection import Selection, select_weights, selection
from tests.models.networks import CLASSES, uvit

CONV: dict[str, Any] = {"widths": (32, 32), "kinds": ("conv", "conv"), "blocks": (1, 2), "embedding": 32}
HALF: dict[str, Any] = CONV | {"widths": (16, 16), "blocks": (1, 1), "embedding": 16}
LABELS = torch.tensor([0, 2, CLASSES])


def evaluated(network: UViT) -> tuple[Tensor, ...]:
    """Its features, without a context."""
    z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(z, torch.tensor([-2.0, 0.5, 3.0]), network.condition(LABELS)).features


def cut_off(network: UViT, channels: int, blocks: int) -> None:
    """Let the first `channels` of every layer hear nothing of the others, nor of blocks beyond the first ones."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("first.weight", "last.weight", "film.weight")) or "levels.1.enter.weight" in name:
                weight[:, channels:] = 0
            if name.endswith("leave.weight"):  # a transposed convolution: (in, out, ·, ·)
                weight[channels:] = 0
            if f"blocks.{blocks}." in name and ".last." in name:
                weight.zero_()


@pytest.mark.parametrize("context", [None, (4, 4)])
def test_what_hears_nothing_of_the_other_channels_computes_the_same_alone(context: Any) -> None:
    """A network whose first channels do not depend on the rest: the half of it that is selected has their features."""
    large = uvit(**CONV)
    small = uvit(**HALF, context_channels=context, context_entry="block")
    cut_off(large, 16, 1)
    assert not torch.allclose(evaluated(large)[0][:, :16], evaluated(small)[0], atol=1e-2)
    if context is not None:
        with torch.no_grad():
            small.null_context.zero_()
    chosen = select_weights(large, small)
    for whole, part in zip(evaluated(large), evaluated(small), strict=True):
        assert torch.allclose(whole[:, :16], part, atol=1e-5)
    assert {name for name in dict(small.named_parameters()) if name not in chosen.selected} == chosen.left.keys()
    anew = ("head.", "null_context", "embed_context.")
    assert all(name.startswith(anew) or ".project." in name for name in chosen.left)


def test_one_of_the_same_shape_computes_the_same_in_full() -> None:
    """Transformer, positions and classes included: all but the head."""
    large = uvit()
    small = uvit(0.3, out_channels=None)
    select_weights(large, small)
    assert all(torch.equal(one, other) for one, other in zip(evaluated(large), evaluated(small), strict=True))


def test_a_transformer_gives_its_first_heads_whole_and_its_first_blocks() -> None:
    """Rows counted by hand: of 4 heads of 8 channels the first 2, for queries, keys and values each."""
    large, small = uvit(widths=(8, 32), blocks=(1, 3)), uvit(0.3, widths=(8, 16), blocks=(1, 2))
    select_weights(large, small)
    given, taken = large.state_dict(), small.state_dict()
    rows = [part * 32 + channel for part in range(3) for channel in range(16)]
    for block in range(2):
        name = f"levels.1.down.blocks.{block}."
        assert torch.equal(
            taken[name + "queries_keys_values.weight"], given[name + "queries_keys_values.weight"][rows, :16]
        )
        assert torch.equal(taken[name + "queries_keys_values.bias"], given[name + "queries_keys_values.bias"][rows])
        assert torch.equal(taken[name + "attended.weight"], given[name + "attended.weight"][:16, :16])
        assert torch.equal(taken[name + "expand.weight"], given[name + "expand.weight"][:64, :16])
        assert torch.equal(taken[name + "query_key_scale"], given[name + "query_key_scale"])
    film = [(block * 4 + kind) * 32 + channel for block in range(2) for kind in range(4) for channel in range(16)]
    assert torch.equal(taken["levels.1.film.weight"], given["levels.1.film.weight"][film])
    assert torch.equal(taken["levels.1.position"], given["levels.1.position"][:16])


def test_further_images_enter_as_they_were_initialised() -> None:
    """A denoiser that also sees an estimate: what enters of z_t is the larger network's."""
    large, small = uvit(), uvit(0.3, channels=3)
    before = small.levels[0].enter.weight.clone()  # type: ignore[union-attr, operator]
    select_weights(large, small)
    after, given = small.state_dict()["levels.0.enter.weight"], large.state_dict()["levels.0.enter.weight"]
    assert torch.equal(after[:, :1], given) and torch.equal(after[:, 1:], before[:, 1:])


def reasons(large: UViT, small: UViT) -> Selection:
    chosen, before = selection(large, small), small.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    select_weights(large, small)
    left = {name: value for name, value in small.state_dict().items() if name in chosen.left}
    assert all(torch.equal(value, before[name]) for name, value in left.items())
    return chosen


def test_what_is_smaller_there_or_of_another_kind_stays() -> None:
    """A transformer's FiLM has four parts, a convolution's two: they are not each other's beginning."""
    chosen = reasons(uvit(), uvit(0.3, kinds=("conv", "conv"), widths=(8, 8)))
    assert chosen.left["levels.1.down.blocks.0.first.weight"] == "is not there"
    assert chosen.left["levels.1.film.bias"] == "is 1×2×4×16 there and 1×2×2×8 here"
    assert "levels.1.enter.weight" in chosen.selected and "levels.0.down.blocks.0.first.weight" in chosen.selected
    wider = reasons(uvit(), uvit(0.3, widths=(16, 32), embedding=32, classes=5))
    assert all(name.endswith("query_key_scale") for name in wider.selected), "one number for each channel of a head"
    assert wider.left["embed.weight"] == "is 16×64 there and 32×64 here"
    heads = reasons(uvit(widths=(8, 32)), uvit(0.3, widths=(8, 16), head_width=16))
    assert heads.left["levels.1.down.blocks.0.query_key_scale"] == "is 8 there and 16 here"


def test_how_much_is_selected_is_counted() -> None:
    large, small = uvit(**CONV), uvit(**HALF, channels=2)
    chosen, before = selection(large, small), {k: v.clone() for k, v in small.named_parameters()}
    select_weights(large, small)
    changed = sum(int((value != before[name]).sum()) for name, value in small.named_parameters())
    assert chosen.weights == changed
    assert chosen.of == sum(value.numel() for value in before.values())
