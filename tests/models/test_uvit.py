"""The Residual U-ViT against a plain rewriting of its definition, and what each of its parts promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.uvit import ContextEntry, Level, LevelKind, UViT, UViTConfig, largest_divisor
from tests.models.networks import CLASSES, config, uvit


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def concatenated(level: Level, h: Tensor, c: Tensor, entry: int) -> Tensor:
    """One linear layer over [h; c], the identity on h: what a projection made once and added must equal."""
    width, project = level.width, level.project
    assert isinstance(project, nn.Conv2d)
    of_context = project.weight[entry * width : (entry + 1) * width]
    weight = torch.cat([torch.eye(width)[:, :, None, None], of_context], dim=1)
    return F.conv2d(torch.cat([h, c], dim=1), weight)


def naive(
    network: UViT,
    z: Tensor,
    log_snr: Tensor,
    labels: Tensor,
    contexts: Sequence[Tensor],
    context_log_snr: Tensor,
) -> Tensor:
    """The network as its docstring defines it, recursively, with nothing kept from one step to the next."""
    hidden = network.embed(network.log_snr_features(log_snr))
    if network.config.context_channels is not None:
        hidden = hidden + network.embed_context(network.log_snr_features(context_log_snr))
    assert network.class_embedding is not None
    embedding = F.silu(hidden) + network.class_embedding(labels)
    levels = [level for level in network.levels if isinstance(level, Level)]

    def blocks(level: Level, h: Tensor, films: list[Tensor], stage: nn.Module, first: int) -> Tensor:
        for i, block in enumerate(stage.blocks):  # type: ignore[arg-type]
            if network.config.context_entry == "block" and level.project is not None:
                h = concatenated(level, h, contexts[levels.index(level)], first + i)
            film = films[first + i]
            if network.config.kinds[levels.index(level)] == "conv":
                h = block(h, film)
            else:
                tokens = block(h.flatten(2).transpose(1, 2), film)
                h = tokens.transpose(1, 2).reshape(h.shape)
        return h

    def inner(i: int, h: Tensor) -> Tensor:
        level = levels[i]
        films = list(level.film(embedding).chunk(network.config.blocks_run(i), dim=1))
        if network.config.context_entry == "level" and level.project is not None:
            h = concatenated(level, h, contexts[i], 0)
        h = blocks(level, h, films, level.down, 0)
        if i == len(levels) - 1:
            return h
        below = levels[i + 1]
        entering = below.enter(h) + (0 if below.position is None else below.position)
        assert below.leave is not None
        assert level.up is not None
        h = h + below.leave(inner(i + 1, entering) - entering)
        return blocks(level, h, films, level.up, network.config.blocks[i])

    entering = levels[0].enter(z) + (0 if levels[0].position is None else levels[0].position)
    image: Tensor = network.head(inner(0, entering))
    return image


SHAPES: list[dict[str, object]] = [
    {"kinds": ("conv", "transformer")},
    {"kinds": ("transformer", "conv")},
    {"kinds": ("transformer", "transformer"), "patch": 2},
    {
        "kinds": ("conv", "conv", "transformer"),
        "widths": (8, 12, 16),
        "blocks": (2, 1, 3),
        "context_channels": (3, 2, 4),
    },
    {"kinds": ("transformer",), "widths": (24,), "blocks": (2,), "patch": 4, "context_channels": (5,)},
]


@pytest.mark.parametrize("entry", ["level", "block"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_definition_with_the_context_concatenated_at_every_step(
    shape: dict[str, Any], entry: ContextEntry
) -> None:
    network = uvit(**({"context_channels": (3, 2)} | shape), context_entry=entry)
    z, log_snr, labels = (
        noise(4, 1, 8, 8),
        torch.tensor([-3.0, 0.0, 1.0, 7.0]),
        torch.tensor([0, 2, 1, CLASSES]),
    )
    channels = network.config.context_channels
    assert channels is not None
    contexts = [
        noise(4, c, side, side, seed=i) for i, (c, side) in enumerate(zip(channels, network.config.sides, strict=True))
    ]
    then = torch.tensor([-4.0, -1.0, 1.0, 2.0])
    output = network(z, log_snr, network.condition(labels, then), network.project_context(contexts))
    expected = naive(network, z, log_snr, labels, contexts, then)
    assert torch.allclose(output.image, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_features_of_every_level(shape: dict[str, Any]) -> None:
    network = uvit(**(shape | {"out_channels": None, "context_channels": None}))
    output = network(noise(2, 1, 8, 8), torch.tensor(0.0), network.condition())
    sides = network.config.sides
    expected = [(2, width, side, side) for width, side in zip(network.config.widths, sides, strict=True)]
    assert [tuple(feature.shape) for feature in output.features] == expected
    assert output.image is output.features[0]


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 2])])
def test_a_shared_log_snr_is_the_same_as_one_per_image(labels: Tensor | None) -> None:
    network = uvit()
    z, conditioning = noise(3, 1, 8, 8), network.condition(labels)
    for shared in (torch.tensor(1.3), torch.tensor([1.3])):
        together = network(z, shared, conditioning).image
        apart = network(z, torch.full((3,), 1.3), conditioning).image
        assert torch.allclose(together, apart, atol=1e-5)


def test_no_label_is_the_null_label() -> None:
    network = uvit()
    z, log_snr = noise(3, 1, 8, 8), torch.tensor(0.0)
    null = network(z, log_snr, network.condition(torch.full((3,), CLASSES))).image
    assert torch.allclose(network(z, log_snr, network.condition()).image, null, atol=1e-6)
    other = network(z, log_snr, network.condition(torch.tensor([0, 1, 2]))).image
    assert (other - null).abs().max() > 1e-3


def test_starts_at_zero_and_as_the_identity_inside() -> None:
    """The head and each block's last layer start at zero: every block is the identity, and so is each lower part."""
    network = UViT(config(kinds=("conv", "conv"), out_channels=1)).eval()
    z = noise(2, 1, 8, 8)
    output = network(z, torch.tensor(0.0), network.condition())
    assert torch.equal(output.image, torch.zeros(2, 1, 8, 8))
    level = network.levels[0]
    assert isinstance(level, Level)
    assert torch.allclose(output.features[0], level.enter(z), atol=1e-6)


@pytest.mark.parametrize("entry", ["level", "block"])
def test_every_parameter_learns(entry: ContextEntry) -> None:
    network = uvit(context_channels=(3, 2), context_entry=entry, dropout=0.1).train()
    keep = torch.tensor([True, False])
    conditioning = network.condition(torch.tensor([0, 1]), torch.tensor([-1.0, 0.0]), keep)
    context = network.project_context([noise(2, 3, 8, 8), noise(2, 2, 4, 4)])
    network(noise(2, 1, 8, 8), torch.tensor([0.0, 1.0]), conditioning, context).image.square().sum().backward()
    still = [
        name for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]  # fmt: skip
    assert still == []


def test_recomputing_activations_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        network = uvit(checkpoint_activations=recompute).train()
        network(noise(2, 1, 8, 8), torch.tensor([0.0, 1.0]), network.condition()).image.square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_dropout_is_for_training_alone() -> None:
    network = uvit(dropout=0.5)
    z, log_snr, conditioning = noise(2, 1, 8, 8), torch.tensor(0.0), network.condition()
    assert torch.equal(network(z, log_snr, conditioning).image, network(z, log_snr, conditioning).image)
    network.train()
    assert not torch.equal(network(z, log_snr, conditioning).image, network(z, log_snr, conditioning).image)


def test_memory_layout_does_not_change_the_result() -> None:
    network = uvit(channels=3, out_channels=3)
    z, log_snr = noise(2, 3, 8, 8), torch.tensor(0.0)
    expected = network(z, log_snr, network.condition()).image
    network = network.to(memory_format=torch.channels_last)
    given = z.to(memory_format=torch.channels_last)
    assert torch.allclose(network(given, log_snr, network.condition()).image, expected, atol=1e-5)


def test_positions_tell_tokens_apart() -> None:
    """With no position a transformer would treat a shifted image as the same tokens in another order."""
    network = uvit(kinds=("transformer",), widths=(16,), blocks=(1,), scale=0.3)
    z, log_snr, conditioning = noise(1, 1, 8, 8), torch.tensor(0.0), network.condition()
    shifted = network(z.roll(1, 3), log_snr, conditioning).image
    assert (shifted - network(z, log_snr, conditioning).image.roll(1, 3)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("width", "head_width", "heads"), [(64, 32, 2), (48, 32, 1), (96, 32, 3), (40, 16, 2), (24, 32, 1)]
)
def test_heads(width: int, head_width: int, heads: int) -> None:
    network = UViT(config(kinds=("transformer",), widths=(width,), blocks=(1,), head_width=head_width))
    assert network.levels[0].down.blocks[0].heads == heads  # type: ignore[union-attr,index]


def test_largest_divisor() -> None:
    assert [largest_divisor(12, n) for n in (1, 4, 5, 6, 11, 12, 99)] == [1, 4, 4, 6, 6, 12, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": (1,)}, "blocks: has 1 entries, but widths has 2"),
        ({"kinds": ("conv", "mlp")}, "kinds: 'mlp' is not one of conv, transformer"),
        ({"context_channels": (1,)}, "context_channels: has 1 entries"),
        ({"context_entry": "head"}, "context_entry: 'head' is not one of level, block"),
        ({"size": 9}, "size: 9 is not divisible by 2"),
        ({"patch": 3}, "size: 8 is not divisible by 6"),
        ({"widths": (8, 0)}, "must be at least 1"),
    ],
)
def test_refuses_a_shape_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize("kind", ["conv", "transformer"])
def test_bfloat16_autocast(kind: LevelKind) -> None:
    network = uvit(kinds=(kind, kind), context_channels=(3, 2))
    z, log_snr = noise(2, 1, 8, 8), torch.tensor(0.0)
    features = [noise(2, 3, 8, 8), noise(2, 2, 4, 4)]
    exact = network(z, log_snr, network.condition(None, log_snr), network.project_context(features)).image
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(z, log_snr, network.condition(None, log_snr), network.project_context(features)).image
    assert torch.allclose(rough.float(), exact, atol=0.06 * exact.abs().max().item())


def test_a_config_is_hashable_and_immutable() -> None:
    assert len({config(), config()}) == 1
    with pytest.raises(AttributeError):
        config().size = 4  # type: ignore[misc]
    assert isinstance(config(), UViTConfig)
