"""Networks of diffusers against the library's own calls of them, and what each of their parts promises."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.measure.flops import count_macs, flop_counter_macs, network_calls
from harness.store.pretrained import open_pretrained
from models.cache import CachedSingleRate
from models.diffusers_folder import CLASS_OF, SCHEDULERS, Folder, read_folder
from models.diffusers_networks import DiffusersConfig, StepNumber, log_snrs, renamed
from models.dual_rate import DualRate
from models.noise import ImageNoise
from models.parameterization import Prediction
from models.process import CosineSchedule, alpha_sigma, per_image, to_x
from models.samplers import SAMPLERS
from models.single_rate import SingleRate
from models.spacing import time_steps
from models.uvit import UViT
from tests.models.networks import config as uvit_config
from tests.models.networks import randomised
from tools.made_diffusers import make

diffusers = pytest.importorskip("diffusers")
TOLERANCE = 2e-5
"""Of the largest value: float32 sums in another order."""
KINDS = ("unet", "resnet", "conditional", "numbered", "dit", "runs")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("diffusers")
    resnet = {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "block_out_channels": (8, 8, 16),
        "out_channels": 2,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "downsample_padding": 0,
        "num_class_embeds": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "attention_head_dim": None,
    }
    numbered = {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "layers_per_block": (2, 1),
        "class_embed_type": "timestep",
        "class_embeddings_concat": True,
        "time_embedding_act_fn": "silu",
        "out_channels": 2,
    }
    dit = make(place / "dit", kind="dit")
    return {
        "unet": make(place / "unet"),
        "resnet": make(place / "resnet", resnet, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        "conditional": make(place / "conditional", kind="conditional"),
        "numbered": make(place / "numbered", numbered, kind="conditional", rows=0),
        "dit": dit,
        "runs": dit,
    }


def network(folder: Path, *, features_only: bool = False, blocks: tuple[int, ...] | None = None, **more: Any) -> Any:
    told = read_folder(folder)
    classes = 10 if told.keys["model.class_conditional"] else None
    config = DiffusersConfig(told, None if features_only else 1, classes, blocks or told.blocks, **more)
    made = config.build()
    tensors = {name.removeprefix("network."): tensor for name, tensor in open_pretrained(folder).read().items()}
    made.load_state_dict({name: tensors[name] for name in made.state_dict()})
    return made.eval()


def of_kind(kind: str, folders: dict[str, Path], **more: Any) -> Any:
    return network(folders[kind], blocks=(1, 2) if kind == "runs" else None, **more)


def original(folder: Path) -> Any:
    told = read_folder(folder)
    return getattr(diffusers, CLASS_OF[told.kind]).from_pretrained(told.place).eval()


def predicted_by(theirs: Any, folder: Path, z: Tensor, steps: Tensor, labels: Tensor | None) -> Tensor:
    """The library's own call, of the image's one channel."""
    told = read_folder(folder)
    further: dict[str, Any] = {"encoder_hidden_states": None} if told.kind == "conditional unet" else {}
    if told.states is not None and labels is not None:
        further = {"encoder_hidden_states": load_file(told.states.path)["encoder_hidden_states"][labels]}
    image: Tensor = theirs(z, steps, class_labels=labels, **further).sample[:, :1]
    return image


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def labels_of(made: Any, values: list[int]) -> Tensor | None:
    return None if made.config.classes is None else torch.tensor(values)


@contextmanager
def seen_by_hooks(modules: list[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """What the library's modules give, by their place in the list."""
    seen: dict[int, Tensor] = {}

    def keep(place: int, output: Any) -> None:
        seen[place] = output[0] if isinstance(output, tuple) else output

    handles = [
        module.register_forward_hook(lambda *called, place=place: keep(place, called[-1]))
        for place, module in enumerate(modules)
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_features_are_the_library_s(kind: str, folders: dict[str, Path]) -> None:
    """At three steps, of three labels, the null label among them where the network knows one. Features by hooks on the
    library's blocks: a U-Net's last block of a level on the way up, a DiT's last of a run."""
    made, theirs = of_kind(kind, folders), original(folders[kind])
    levels = log_snrs(made.config.folder)
    steps, labels = torch.tensor([0, 417, 999]), labels_of(made, [0, 9, 4 if kind == "numbered" else 10])
    z, log_snr = noise(3, 1, 8, 8), torch.tensor([levels[step] for step in steps.tolist()])
    if made.config.folder.kind != "dit":
        ups: list[Any] = list(theirs.up_blocks)[::-1]
        ends = [(block.attentions if hasattr(block, "attentions") else block.resnets)[-1] for block in ups]
    else:
        blocks: Any = theirs.transformer_blocks
        ends = [blocks[end - 1] for end in made.ends]
    with torch.no_grad(), seen_by_hooks(ends) as seen:
        wanted = predicted_by(theirs, folders[kind], z, steps, labels)
        got = made(z, log_snr, made.condition(labels))
    assert (got.image - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    assert len(got.features) == len(ends) == len(made.config.sides)
    for level, feature in enumerate(got.features):
        side = made.config.sides[level]
        assert feature.shape[1:] == (made.config.widths[level], side, side)
        theirs_here = seen[level] if seen[level].ndim == 4 else seen[level].transpose(1, 2).unflatten(2, (side, side))
        assert (feature - theirs_here).abs().max() <= TOLERANCE * theirs_here.abs().max()


@pytest.mark.parametrize("kind", ["unet", "resnet", "conditional", "numbered", "dit"])
def test_ddim_here_is_the_library_s_pipeline(kind: str, folders: dict[str, Path]) -> None:
    """Ten of its steps by its DDIM scheduler, and by this project's DDIM at the same noise levels: the same images."""
    made, theirs, told = of_kind(kind, folders), original(folders[kind]), read_folder(folders[kind])
    scheduler = diffusers.DDIMScheduler.from_config(dict(told.scheduler), clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    labels, z = labels_of(made, [3, 5]), noise(2, 1, 8, 8)
    levels, model = log_snrs(told), SingleRate(made, Prediction(told.prediction))  # type: ignore[arg-type]
    ours, them = z.clone(), z.clone()
    with torch.no_grad():
        for i, step in enumerate(scheduler.timesteps.tolist()):
            predicted = predicted_by(theirs, folders[kind], them, torch.full((2,), step), labels)
            them = scheduler.step(predicted, step, them).prev_sample
            now = torch.tensor(levels[step])
            x, _ = model.step(ours, now, labels)
            if i == 9:
                ours = x
                break
            (alpha, sigma), later = alpha_sigma(now), torch.tensor(levels[scheduler.timesteps[i + 1]])
            alpha_s, sigma_s = alpha_sigma(later)
            ours = alpha_s * x + sigma_s / sigma * (ours - alpha * x)
    assert (ours - them).abs().max() <= 5e-3 * them.abs().max()  # ᾱ is float32 there


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_runs_on_it(kind: str, name: str, folders: dict[str, Path]) -> None:
    made = of_kind(kind, folders)
    model = SingleRate(made, Prediction("epsilon"))
    schedule = CosineSchedule(0.0, (-8.0, 8.0))
    labels = labels_of(made, [3, 5])

    def denoise(z: Tensor, t: Tensor, step: int) -> Tensor:
        return model.step(z, schedule.log_snr(t).float(), labels)[0].clamp(-1, 1)

    with torch.no_grad():
        drawn = SAMPLERS[name](denoise, ImageNoise(0, [0, 1], (1, 8, 8)), time_steps(4), schedule)
    assert drawn.shape == (2, 1, 8, 8) and bool(drawn.isfinite().all())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels_are_those_of_its_betas(scheduler: str, schedule: str, tmp_path: Path) -> None:
    told = read_folder(make(tmp_path / "made", num_train_timesteps=100, beta_schedule=schedule, beta_end=0.05))
    other = Folder(told.path, told.place, told.kind, told.model, {**told.scheduler, "_class_name": scheduler})
    betas = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule=schedule, beta_end=0.05).betas.double()
    kept = torch.cumprod(1 - betas, 0)
    got = torch.tensor(log_snrs(other), dtype=torch.float64)
    assert torch.allclose(got, (kept / (1 - kept)).log(), atol=1e-6)


def test_a_step_without_signal_has_a_noise_level(tmp_path: Path) -> None:
    told = read_folder(make(tmp_path / "made", rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    levels = log_snrs(told)
    assert all(one - 10 < later < one for one, later in itertools.pairwise(levels))


def test_a_noise_level_between_two_steps_is_told_as_their_fraction() -> None:
    number, levels = StepNumber([4.0, 2.0, 1.0, -3.0]), torch.tensor([9.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.0, -3.0, -9.0])
    assert torch.allclose(number(levels), torch.tensor([0, 0, 0.5, 1, 1.5, 2, 2.25, 3, 3]))
    assert number(torch.tensor(1.5)).shape == (1,)


@pytest.mark.parametrize("kind", ["unet", "conditional", "dit"])
def test_no_label_is_the_null_label(kind: str, folders: dict[str, Path]) -> None:
    made, z, log_snr = of_kind(kind, folders), noise(2, 1, 8, 8), torch.tensor(0.4)
    with torch.no_grad():
        null = made(z, log_snr, made.condition(torch.tensor([10, 10]))).image
        assert torch.allclose(made(z, log_snr, made.condition(None)).image, null, atol=1e-5)
        assert not torch.allclose(made(z, log_snr, made.condition(torch.tensor([0, 9]))).image, null, atol=1e-3)
        made.train()  # the library drops labels in training by itself
        z, label = z.repeat(20, 1, 1, 1), torch.zeros(40, dtype=torch.int64)
        images = made(z, log_snr, made.condition(label)).image
    assert torch.allclose(images[::2], images[0].expand(20, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("kind", ["unet", "resnet", "conditional", "numbered", "runs"])
def test_a_cache_of_its_deep_levels(kind: str, folders: dict[str, Path]) -> None:
    made = of_kind(kind, folders)
    z, log_snr, labels = noise(2, 1, 8, 8), torch.tensor(0.4), labels_of(made, [0, 2])
    model = SingleRate(made, Prediction("epsilon"))
    with torch.no_grad():
        whole = model.step(z, log_snr, labels)[0]
        for from_level in range(1, len(made.config.sides)):
            cached = CachedSingleRate(model, from_level)
            x, state = cached.step(z, log_snr, labels)
            assert torch.equal(x, whole)
            assert torch.allclose(cached.step(z, log_snr, labels, state)[0], whole, atol=1e-5)
            other = noise(2, 1, 8, 8, seed=1)
            assert not torch.allclose(
                cached.step(other, log_snr, labels, state)[0], model.step(other, log_snr, labels)[0]
            )


def light(kind: str, made: Any) -> UViT:
    one = {"widths": (8,), "blocks": (1,), "kinds": ("conv",), "patch": 2, "context_channels": (5,)}
    two = {"widths": (8, 8), "blocks": (1, 1), "kinds": ("conv", "conv"), "context_channels": (6, 5)}
    return randomised(lambda: UViT(uvit_config(**(one if kind == "dit" else two), classes=made.config.classes)))


@pytest.mark.parametrize("kind", ["unet", "conditional", "dit"])
def test_it_is_the_encoder_of_a_light_denoiser(kind: str, folders: dict[str, Path]) -> None:
    made = of_kind(kind, folders, features_only=True)
    model = DualRate(made, light(kind, made)).eval()
    z, labels = noise(2, 1, 8, 8), torch.tensor([0, 2])
    context = model.encode(noise(2, 1, 8, 8, seed=1), torch.tensor(-1.0), labels)
    x = model.denoise(z, torch.tensor(0.4), context)
    for level, places in enumerate(context.projection):
        changed = list(context.projection)
        changed[level] = tuple(2 * place for place in places)
        assert not torch.allclose(model.denoise(z, torch.tensor(0.4), context._replace(projection=tuple(changed))), x)
    assert not any(name.startswith("encoder.head.") for name in model.state_dict())


@pytest.mark.parametrize("kind", ["unet", "resnet", "conditional", "numbered", "dit"])
def test_an_evaluation_costs_what_the_library_s_own_call_does(kind: str, folders: dict[str, Path]) -> None:
    """To the unit, and by both counters."""
    model, theirs = SingleRate(of_kind(kind, folders)), original(folders[kind])
    ((function, inputs),) = network_calls(model, (1, 8, 8), model.classes or 0).values()
    label = None if model.classes is None else torch.tensor([0])
    call = (noise(1, 1, 8, 8), torch.tensor([5]), label)
    whole = flop_counter_macs(lambda *given: predicted_by(theirs, folders[kind], *given), call)
    assert count_macs(function, inputs).macs == flop_counter_macs(function, inputs) == whole > 0


def test_both_counts_of_an_encoder_agree_to_the_unit(folders: dict[str, Path]) -> None:
    made = of_kind("dit", folders, features_only=True)
    for function, inputs in network_calls(DualRate(made, light("dit", made)).eval(), (1, 8, 8), 10).values():
        assert count_macs(function, inputs).macs == flop_counter_macs(function, inputs) > 0


@pytest.mark.parametrize("kind", ["conditional", "dit"])
def test_compiles_without_a_graph_break(kind: str, folders: dict[str, Path]) -> None:
    made, compiled = of_kind(kind, folders), of_kind(kind, folders)
    compiled.compile(fullgraph=True, backend="eager")
    z, conditioning = noise(2, 1, 8, 8), made.condition(labels_of(made, [0, 2]))
    with torch.no_grad():
        wanted = made(z, torch.tensor(0.4), conditioning).image
        assert torch.allclose(compiled(z, torch.tensor(0.4), conditioning).image, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["unet", "conditional", "dit"])
def test_recomputed_activations_give_the_same_gradients(kind: str, folders: dict[str, Path]) -> None:
    grads = []
    for recompute in (False, True):
        made = of_kind(kind, folders, checkpoint_activations=recompute).train()
        made(noise(2, 1, 8, 8), torch.tensor(0.4), made.condition(torch.tensor([0, 2]))).image.square().sum().backward()
        grads.append([parameter.grad for parameter in made.parameters()])
    for one, other in zip(*grads, strict=True):
        assert one is not None and other is not None and torch.allclose(one, other, atol=1e-4)


def test_a_prediction_becomes_the_estimate_that_the_library_makes_of_it(folders: dict[str, Path]) -> None:
    """ε, v and x at one step, against the x̂ of its DDPM scheduler."""
    levels = log_snrs(read_folder(folders["unet"]))
    z, predicted = noise(1, 1, 4, 4), noise(1, 1, 4, 4, seed=1)
    for theirs, ours in (("epsilon", "epsilon"), ("v_prediction", "v"), ("sample", "x")):
        scheduler = diffusers.DDPMScheduler(prediction_type=theirs, clip_sample=False)
        wanted = scheduler.step(predicted, 400, z).pred_original_sample
        got = to_x(predicted, z, torch.tensor(levels[400]), ours)  # type: ignore[arg-type]
        assert torch.allclose(got, wanted, atol=1e-4)
    alpha, _ = alpha_sigma(torch.tensor(levels[400]))
    assert per_image(alpha, z).item() == pytest.approx(float(scheduler.alphas_cumprod[400]) ** 0.5, rel=1e-5)


def test_weights_of_earlier_versions_are_taken(folders: dict[str, Path], tmp_path: Path) -> None:
    """A .bin, other names for layers of attention, everything in one folder, a DiT that was a Transformer2DModel."""
    told = read_folder(folders["unet"])
    state = original(folders["unet"]).state_dict()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    older = {}
    for name, tensor in state.items():
        for new, before in names.items():
            name = name.replace(f".{new}.", f".{before}.") if ".attentions." in name else name
        older[name] = tensor
    assert set(older) != set(state)
    (tmp_path / "config.json").write_text(json.dumps(told.model))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(told.scheduler))
    torch.save(older, tmp_path / "diffusion_pytorch_model.bin")
    assert read_folder(tmp_path).identity == told.identity
    got, wanted = open_pretrained(tmp_path).read(), open_pretrained(folders["unet"]).read()
    assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in got)
    dit = read_folder(folders["dit"])
    unused = {"num_vector_embeds": None, "only_cross_attention": False}
    was = {**dit.model, "_class_name": "Transformer2DModel", **unused}
    state = original(folders["dit"]).state_dict()
    assert renamed(Folder(dit.path, dit.place, "dit", was, dit.scheduler), state).keys() == renamed(dit, state).keys()


CONFIG, SCHEDULER = Path("unet/config.json"), Path("scheduler/scheduler_config.json")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            CONFIG,
            {"_class_name": "UNet3DConditionModel"},
            "its network is UNet3DConditionModel; read are UNet2DModel, UNet2DConditionModel and",
        ),
        (CONFIG, {"center_input_sample": True}, "its center_input_sample is True; read is False"),
        (CONFIG, {"time_embedding_type": "fourier"}, "its time_embedding_type is fourier"),
        (CONFIG, {"class_embed_type": "identity"}, "its class_embed_type is identity, which takes vectors"),
        (CONFIG, {"in_channels": 2}, "it takes 2 channels and gives 1"),
        (CONFIG, {"down_block_types": ["SkipDownBlock2D"]}, "its down_block_types have a SkipDownBlock2D"),
        (CONFIG, {"sample_size": None}, "its sample_size is None; read is a whole number"),
        (CONFIG, {"sample_size": 9}, "its images of 9×9 do not halve 1 times"),
        (CONFIG, {"newer": 3}, "its network has newer, which this version of diffusers does not know"),
        (CONFIG, {"norm_num_groups": 3}, "diffusers makes no UNet2DModel of it"),
        (CONFIG, {"block_out_channels": [8, 32]}, "the network that its configuration describes has"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "its scheduler is FlowMatchEulerDiscrete"),
        (SCHEDULER, {"prediction_type": "flow"}, "it predicts flow; read are epsilon, v_prediction, sample"),
        (SCHEDULER, {"beta_schedule": "steep"}, "its scheduler cannot be made"),
        (SCHEDULER, {"trained_betas": [0.0, 0.0]}, "the noise of its scheduler's steps does not rise"),
        (SCHEDULER, None, "has no scheduler/scheduler_config.json"),
        (CONFIG, None, "holds no config.json"),
        (Path("unet/diffusion_pytorch_model.safetensors"), None, "has no diffusion_pytorch_model.safetensors nor"),
    ],
)
def test_what_is_not_read_is_refused(file: Path, change: dict[str, Any] | None, said: str, tmp_path: Path) -> None:
    from harness.errors import StoreError

    folder = make(tmp_path / "made")
    if change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    with pytest.raises(StoreError, match=said):
        open_pretrained(folder).read()


STATES = Path("unet/encoder_hidden_states.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            None,
            r"its CrossAttnDownBlock2D attends to encoder_hidden_states.*make them once.*of \(classes, tokens, 12\)",
        ),
        ({"addition_embed_type": "text"}, "its addition_embed_type is text: it is told more than the class"),
        ({"encoder_hid_dim": 8}, "its encoder_hid_dim is 8: it is told more than the class"),
        ({"time_cond_proj_dim": 8}, "its time_cond_proj_dim is 8: it is told more"),
        ({"class_embed_type": "projection"}, "its class_embed_type is projection, which takes vectors"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "its mid_block_type is UNetMidBlock2DSimpleCrossAttn"),
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "its down_block_types have a KDownBlock2D"),
        ({"cross_attention_dim": 16}, "encoder_hidden_states.safetensors: has 12 channels; the network attends to 16"),
        ({"cross_attention_dim": [12, 12]}, r"its cross_attention_dim is \[12, 12\]; read is a whole number"),
        ({"num_class_embeds": 7}, "has 11 classes; the network embeds 7"),
    ],
)
def test_what_takes_more_than_a_class_is_refused(change: dict[str, Any] | None, said: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "made", kind="conditional", rows=11 if change else 0)
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **(change or {})}))
    with pytest.raises(ValueError, match=said):
        read_folder(folder)


def test_what_no_block_attends_to_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "made")
    (folder / STATES).write_bytes((folders["conditional"] / STATES).read_bytes())
    with pytest.raises(ValueError, match="none of its blocks attends to what lies in"):
        read_folder(folder)
    for content in (b"", b"\xff" * 20, (folders["unet"] / STATES.with_name("config.json")).read_bytes()):
        (folder / STATES).write_bytes(content)
        with pytest.raises(ValueError, match=r"encoder_hidden_states.safetensors: (holds no tensor|cannot be read)"):
            read_folder(folder)


def test_one_row_serves_all_images(tmp_path: Path) -> None:
    """As that of the empty text, of a network without classes: known by its content."""
    made = network(make(tmp_path / "one", kind="conditional", rows=1))
    told, z = made.config.folder, noise(3, 1, 8, 8)
    assert told.embedded_classes is None and told.keys["model.class_conditional"] is False
    with torch.no_grad():
        wanted = predicted_by(
            original(told.path), told.path, z, torch.tensor([5, 5, 5]), torch.zeros(3, dtype=torch.int64)
        )
        got = made(z, torch.tensor(log_snrs(told)[5]), made.condition())
    assert (got.image - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    other = make(tmp_path / "other", kind="conditional", rows=2)
    assert read_folder(other).identity["model"] == told.identity["model"]
    assert read_folder(other).identity != told.identity


def test_nothing_of_a_folder_is_run(folders: dict[str, Path], tmp_path: Path) -> None:
    """Not a module that lies in it and is named by its configuration, not a pickle."""
    import os
    import pickle
    import shutil

    from harness.errors import StoreError

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    folder = Path(shutil.copytree(folders["unet"], tmp_path / "hostile"))
    config = json.loads((folder / CONFIG).read_text())
    (folder / "unet" / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    told = {**config, "auto_map": {"AutoModel": "modeling.UNet2DModel"}}
    (folder / CONFIG).write_text(json.dumps(told))
    with pytest.raises(StoreError, match="its network has auto_map"):
        open_pretrained(folder).read()
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(StoreError, match="holds more than weights, or is damaged"):
        open_pretrained(folder).read()
    assert not (tmp_path / "ran").exists()
