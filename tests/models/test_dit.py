"""The Diffusion Transformer against diffusers' implementation of the original, and what each of its parts promises."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.measure.flops import count_macs, flop_counter_macs, network_calls
from models.cache import CachedSingleRate
from models.dit import DiT, DiTConfig
from models.dual_rate import DualRate
from models.method import Model
from models.single_rate import SingleRate
from models.uvit import ContextEntry, UViT
from tests.models.networks import config as uvit_config
from tests.models.networks import randomised


def shape(**changes: Any) -> DiTConfig:
    """Three runs of blocks, of 16 tokens of an 8×8 image."""
    values: dict[str, Any] = {
        "size": 8,
        "channels": 1,
        "out_channels": 1,
        "patch": 2,
        "width": 16,
        "blocks": (1, 2, 1),
        "head_width": 8,
        "mlp_ratio": 2.0,
        "embedding": 16,
        "classes": 3,
    }
    return DiTConfig(**(values | changes))


def dit(**changes: Any) -> DiT:
    return randomised(lambda: DiT(shape(**changes)))


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def dual_rate(entry: ContextEntry = "level") -> DualRate:
    light = shape(width=8, blocks=(1, 1, 2), context_channels=(6, 5, 4), context_entry=entry)
    return randomised(lambda: DualRate(DiT(shape(out_channels=None)), DiT(light)))


class Times(nn.Module):
    """What the original is told: sines and cosines of a step's number, here in place of those of a log-SNR."""

    count = 256

    def forward(self, time: Tensor) -> Tensor:
        from diffusers.models.embeddings import get_timestep_embedding

        return get_timestep_embedding(time.reshape(-1), self.count, flip_sin_to_cos=True, downscale_freq_shift=1)


def from_diffusers(original: Any, blocks: tuple[int, ...], patch: int) -> DiT:
    """Our network with the weights of a DiTTransformer2DModel, whose blocks share what embeds time and class."""
    given, told = original.state_dict(), original.config
    width = told.num_attention_heads * told.attention_head_dim
    embedder = "transformer_blocks.0.norm1.emb"
    network = DiT(
        DiTConfig(
            told.sample_size, told.in_channels, told.out_channels, patch, width, blocks, told.attention_head_dim,
            embedding=width, classes=told.num_embeds_ada_norm,
        )
    )  # fmt: skip
    network.log_snr_features, network.first_layer = Times(), nn.Linear(Times.count, width)  # type: ignore[assignment]
    names = {
        "enter": "pos_embed.proj",
        "first_layer": f"{embedder}.timestep_embedder.linear_1",
        "second_layer": f"{embedder}.timestep_embedder.linear_2",
        "class_embedding": f"{embedder}.class_embedder.embedding_table",
        "head.modulation": "proj_out_1",
        "head.last": "proj_out_2",
    }
    places = [(level, i) for level, count in enumerate(blocks) for i in range(count)]
    for number, (level, i) in enumerate(places):
        here, there = f"levels.{level}.blocks.{i}", f"transformer_blocks.{number}"
        names |= {
            f"{here}.modulation": f"{there}.norm1.linear",
            f"{here}.attended": f"{there}.attn1.to_out.0",
            f"{here}.expand": f"{there}.ff.net.0.proj",
            f"{here}.contract": f"{there}.ff.net.2",
        }
        for kind in ("weight", "bias"):
            parts = [given[f"{there}.attn1.to_{letter}.{kind}"] for letter in "qkv"]
            given[f"{there}.qkv.{kind}"] = torch.cat(parts)
        names[f"{here}.queries_keys_values"] = f"{there}.qkv"
    state = {}
    for name in network.state_dict():
        stem, _, kind = name.rpartition(".")
        state[name] = given[f"{names[stem]}.{kind}"]
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("blocks", [(3,), (1, 2)])
def test_the_network_is_the_original_one(blocks: tuple[int, ...]) -> None:
    """Image and features, of three labels (the null label among them) and three times."""
    diffusers = pytest.importorskip("diffusers")
    original = randomised(
        lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=3, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=3, sample_size=8,
            patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-6,
        )
    )  # fmt: skip
    shared = original.transformer_blocks[0].norm1.emb.state_dict()
    seen: list[Tensor] = []
    for block in original.transformer_blocks:
        block.norm1.emb.load_state_dict(shared)
        block.register_forward_hook(lambda *called: seen.append(called[-1]))
    network = from_diffusers(original, blocks, patch=2)
    z, time, labels = noise(3, 3, 8, 8), torch.tensor([0.0, 417.0, 999.0]), torch.tensor([0, 4, 5])
    with torch.no_grad():
        wanted = original(z, time, class_labels=labels).sample
        got = network(z, time, network.condition(labels))
    assert torch.allclose(got.image, wanted, atol=2e-5 * float(wanted.abs().max()))
    ends = [sum(blocks[: level + 1]) - 1 for level in range(len(blocks))]
    for feature, end in zip(got.features, ends, strict=True):
        tokens = feature.flatten(2).transpose(1, 2)
        assert torch.allclose(tokens, seen[end], atol=2e-5 * float(tokens.abs().max()))


def test_begins_as_nothing() -> None:
    """adaLN-Zero: every block is the identity, and the image zero."""
    network = DiT(shape())
    output = network(noise(2, 1, 8, 8), torch.tensor(0.4), network.condition(torch.tensor([0, 2])))
    assert not output.image.any()
    assert all(torch.equal(feature, output.features[0]) for feature in output.features)


def test_one_noise_level_for_all_images_is_that_of_each() -> None:
    network, z = dit(), noise(2, 1, 8, 8)
    conditioning = network.condition(torch.tensor([0, 2]))
    one = network(z, torch.tensor(0.4), conditioning).image
    assert torch.allclose(one, network(z, torch.tensor([0.4, 0.4]), conditioning).image, atol=1e-5)
    assert not torch.allclose(one, network(z, torch.tensor([0.4, 2.0]), conditioning).image, atol=1e-3)


def test_the_null_label_is_no_label() -> None:
    network, z, log_snr = dit(), noise(2, 1, 8, 8), torch.tensor(0.4)
    null = network(z, log_snr, network.condition(torch.tensor([3, 3]))).image
    assert torch.allclose(null, network(z, log_snr, network.condition(None)).image, atol=1e-6)
    assert not torch.allclose(null, network(z, log_snr, network.condition(torch.tensor([0, 1]))).image, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("from_level", [1, 2])
def test_a_cache_of_its_last_runs(from_level: int, order: Any) -> None:
    model = SingleRate(dit())
    cached = CachedSingleRate(model, from_level, order)
    z, log_snr, labels = noise(2, 1, 8, 8), torch.tensor(0.4), torch.tensor([0, 2])
    whole = model.step(z, log_snr, labels)[0]
    x, state = cached.step(z, log_snr, labels)
    assert torch.equal(x, whole)
    assert torch.allclose(cached.step(z, log_snr, labels, state)[0], whole, atol=1e-5)
    other = noise(2, 1, 8, 8, seed=1)
    assert not torch.allclose(cached.step(other, log_snr, labels, state)[0], model.step(other, log_snr, labels)[0])


@pytest.mark.parametrize("entry", ["level", "block"])
def test_context_enters_at_every_run(entry: ContextEntry) -> None:
    """As encoder and as denoiser: the context of every place changes x̂, and every projection has a gradient."""
    model = dual_rate(entry)
    z, labels = noise(2, 1, 8, 8), torch.tensor([0, 2])
    context = model.encode(noise(2, 1, 8, 8, seed=1), torch.tensor(-1.0), labels)
    x = model.denoise(z, torch.tensor(0.4), context)
    assert [len(places) for places in context.projection] == ([1, 1, 2] if entry == "block" else [1, 1, 1])
    for level, places in enumerate(context.projection):
        for place in range(len(places)):
            changed = [list(one) for one in context.projection]
            changed[level][place] = 2 * changed[level][place]  # a constant would be normed away
            other = context._replace(projection=tuple(map(tuple, changed)))
            assert not torch.allclose(model.denoise(z, torch.tensor(0.4), other), x)
    x.square().mean().backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {"denoiser.null_context"}
    dropped = model.encode(z, torch.tensor(-1.0), labels, keep=torch.tensor([True, False]))
    assert all(not place[1].any() for places in dropped.projection for place in places)


def methods() -> dict[str, Model]:
    one = {"widths": (8,), "blocks": (1,), "kinds": ("conv",), "patch": 2}
    heavy, light = shape(out_channels=None, blocks=(3,)), shape(width=8, blocks=(2,), context_channels=(5,))
    return {
        "single": SingleRate(dit()),
        "cached": CachedSingleRate(SingleRate(dit()), 1),
        "dual level": dual_rate("level"),
        "dual block": dual_rate("block"),
        "DiT and U-ViT": randomised(lambda: DualRate(DiT(heavy), UViT(uvit_config(**one, context_channels=(5,))))),
        "U-ViT and DiT": randomised(lambda: DualRate(UViT(uvit_config(**one, out_channels=None)), DiT(light))),
    }


@pytest.mark.parametrize("name", methods())
def test_both_counts_agree_to_the_unit(name: str) -> None:
    for function, inputs in network_calls(methods()[name], (1, 8, 8), 3).values():
        assert count_macs(function, inputs).macs == flop_counter_macs(function, inputs) > 0


@pytest.mark.parametrize("blocks", [(4,), (1, 3)])
def test_an_evaluation_costs_what_its_shape_says(blocks: tuple[int, ...]) -> None:
    """Patches, the embedding of λ, and per block modulation, attention and MLP: a closed form."""
    n, d, e, hidden, pixels = 16, 16, 24, 32, 4
    model = SingleRate(DiT(shape(blocks=blocks, embedding=e)))
    block = 6 * d * e + n * 4 * d * d + 2 * n * n * d + n * 2 * d * hidden
    wanted = n * pixels * d + 64 * e + e * e + 4 * block + 2 * d * e + n * pixels * d
    ((function, inputs),) = network_calls(model, (1, 8, 8), 3).values()
    assert count_macs(function, inputs).macs == wanted


def test_the_largest_one_costs_what_is_published() -> None:
    """DiT-XL/2 on latents of 32×32: 118.64 Gflops there, which count a multiply-add once [DiT, table 1]."""
    with torch.device("meta"):
        network = DiTConfig(32, 4, 4, 2, 1152, (28,), head_width=72, embedding=1152, classes=1000).build()
        ((function, inputs),) = network_calls(SingleRate(network), (4, 32, 32), 1000).values()
        assert flop_counter_macs(function, inputs) / 1e9 == pytest.approx(118.64, rel=0.001)


def test_recomputed_activations_give_the_same_gradients() -> None:
    grads = []
    for recompute in (False, True):
        network = dit(checkpoint_activations=recompute).train()
        network(noise(2, 1, 8, 8), torch.tensor(0.4), network.condition(None)).image.square().sum().backward()
        grads.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one is not None and other is not None and torch.allclose(one, other, atol=1e-4)


def test_compiles_without_a_graph_break() -> None:
    model, compiled = dual_rate("block"), dual_rate("block")
    compiled.encoder.compile(fullgraph=True, backend="eager")
    compiled.denoiser.compile(fullgraph=True, backend="eager")
    z, labels = noise(2, 1, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        for log_snr in (torch.tensor(0.4), torch.tensor([0.4, 1.0])):
            assert torch.allclose(compiled.step(z, log_snr, labels)[0], model.step(z, log_snr, labels)[0], atol=1e-6)


def test_under_autocast_the_stream_keeps_full_precision() -> None:
    network, z, log_snr = dit(), noise(2, 1, 8, 8), torch.tensor(0.4)
    conditioning = network.condition(torch.tensor([0, 2]))
    whole = network(z, log_snr, conditioning)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error")
        half = network(z, log_snr, conditioning)
    assert half.features[-1].dtype == torch.float32
    assert torch.allclose(half.image.float(), whole.image, atol=0.05 * float(whole.image.abs().max()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 9}, "size: 9 is not divisible by 2"),
        ({"width": 10}, "width: 10 is not divisible by 4"),
        ({"blocks": ()}, "in at least one run"),
        ({"context_channels": (1,)}, "context_channels: has 1 entries"),
        ({"context_entry": "run"}, "context_entry: 'run' is not one of level, block"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shape(**changes)
