"""A dual-rate training around a trained network: what stays as it is, what is kept of it, and that nothing moves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config.schema import Experiment, parse_experiment
from harness.data import open_data
from harness.dispatch.checks import check_starts
from harness.dispatch.plan import plan
from harness.dispatch.sweep import load_sweep
from harness.engine import jobs
from harness.engine.start import load_start
from harness.engine.train import State, build_training, train_network
from harness.errors import Blocked, ConfigError, Stopped, StoreError
from harness.files import read_json
from harness.store.checkpoints import checkpoints
from harness.store.identity import identify
from harness.store.store import Store, Target
from harness.store.weights import load_tensors, save_tensors, tensors_digest
from tests.harness.tiny_experiments import MODEL, tiny
from tests.harness.two_ranks import Training, train_by_two

CPU = torch.device("cpu")
LABELLED = {"class_conditional": True, "dropout": 0.3}


def base(**model: Any) -> Experiment:
    return tiny(model=LABELLED | model)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a base that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("base")
    train_network(base(), "base", folder)
    return folder / "weights.safetensors"


def adapted(start: Path, *, freeze: bool = True, model: dict[str, Any] | None = None, **train: Any) -> Experiment:
    values = {"start": str(start), "freeze": ["encoder"] if freeze else None, "context_dropout": 0.0, **train}
    return tiny("dual_rate", model=LABELLED | (model or {}), train={k: v for k, v in values.items() if v is not None})


def trained(experiment: Experiment, folder: Path, start: Path) -> dict[str, Tensor]:
    train_network(experiment, "t", folder, start=start)
    return load_tensors(folder / "weights.safetensors", "t")[0]


def renamed(start: Path) -> dict[str, Tensor]:
    return {f"encoder.{name.removeprefix('network.')}": value for name, value in load_tensors(start)[0].items()}


@pytest.mark.parametrize("preconditioning", [None, "conditional"])
def test_a_frozen_encoder_is_the_base_and_the_rest_is_trained(
    start: Path, tmp_path: Path, preconditioning: str | None
) -> None:
    """Every weight of the base but the head, and the head too where its estimate is used."""
    model = {"preconditioning": preconditioning} if preconditioning else {}
    weights = trained(adapted(start, model=model), tmp_path, start)
    frozen = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    given = renamed(start)
    expected = given if preconditioning else {name: v for name, v in given.items() if ".head." not in name}
    assert frozen.keys() == expected.keys()
    assert all(torch.equal(frozen[name], value) for name, value in expected.items())
    fresh = build_training(adapted(start, model=model), open_data(base().data).info, CPU)[0].model.state_dict()
    moved = {name for name in weights if name not in frozen and not torch.equal(weights[name], fresh[name])}
    assert any(name.startswith("projections.") for name in moved)
    assert any(name.startswith("denoiser.levels.") for name in moved)


def state_of(experiment: Experiment) -> State:
    return build_training(experiment, open_data(experiment.data).info, CPU)[0]


def test_frozen_parts_have_no_gradient_no_optimiser_no_average_and_no_dropout(start: Path) -> None:
    state = state_of(adapted(start))
    owned = {id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]}
    for name, parameter in state.model.named_parameters():
        is_frozen = name.startswith("encoder.")
        assert parameter.requires_grad != is_frozen and (id(parameter) in owned) != is_frozen
        assert (name in state.average) != is_frozen
    model: Any = state.model
    assert not any(module.training for module in model.encoder.modules())
    assert all(module.training for module in model.denoiser.modules())


def test_checkpoints_refer_to_the_frozen_part_by_its_hash(start: Path, tmp_path: Path) -> None:
    experiment = adapted(start)
    with pytest.raises(Stopped):
        train_network(experiment, "t", tmp_path, should_stop=lambda: True, start=start)
    (path,) = checkpoints(tmp_path)
    tensors, metadata = load_tensors(path, "t")
    assert not any("encoder." in name for name in tensors)
    assert any(name.startswith("model.denoiser.") for name in tensors)
    frozen = {name: value for name, value in renamed(start).items() if ".head." not in name}
    assert metadata["frozen"] == tensors_digest(frozen)
    learned = [p for p in state_of(experiment).model.parameters() if p.requires_grad]
    moments = sum(4 * p.numel() + 1 for p in learned)  # weights, average and Adam's two, and its count of steps
    assert sum(value.numel() for value in tensors.values()) <= moments


@pytest.mark.parametrize("freeze", [True, False])
def test_stopped_after_every_step_it_ends_bit_for_bit_the_same(start: Path, tmp_path: Path, freeze: bool) -> None:
    experiment = adapted(start, freeze=freeze, model={"preconditioning": "conditional"}, start_denoiser="encoder")
    whole = trained(experiment, tmp_path / "whole", start)
    stops = 0
    while not (tmp_path / "cut" / "done.json").exists():
        steps = [0]

        def stop(steps: list[int] = steps) -> bool:
            steps[0] += 1
            return steps[0] > 0

        try:
            train_network(experiment, "t", tmp_path / "cut", should_stop=stop, start=start)
        except Stopped:
            stops += 1
    assert stops == experiment.train.steps - 1
    cut = load_tensors(tmp_path / "cut" / "weights.safetensors", "t")[0]
    assert cut.keys() == whole.keys() and all(torch.equal(cut[name], value) for name, value in whole.items())


def test_a_checkpoint_beside_other_frozen_weights_is_refused(start: Path, tmp_path: Path) -> None:
    experiment = adapted(start)
    with pytest.raises(Stopped):
        train_network(experiment, "t", tmp_path, should_stop=lambda: True, start=start)
    other = tmp_path / "other.safetensors"
    save_tensors(other, {name: value + 1 for name, value in load_tensors(start)[0].items()}, "base")
    with pytest.raises(StoreError, match="was made beside other frozen weights"):
        train_network(experiment, "t", tmp_path, start=other)


def test_two_processes_train_what_one_does(start: Path, tmp_path: Path) -> None:
    ways: dict[str, dict[str, Any]] = {
        "frozen": {"freeze": True},
        "slower": {"freeze": False, "encoder_learning_rate": 1e-3},
    }
    made = {name: adapted(start, model={"dropout": 0.0}, steps=3, accumulate=2, **way) for name, way in ways.items()}
    train_by_two(*(Training(experiment, tmp_path / name, start) for name, experiment in made.items()))
    for name, experiment in made.items():
        one = trained(experiment, tmp_path / "one" / name, start)
        two = load_tensors(tmp_path / name / "weights.safetensors", "t")[0]
        assert all(torch.allclose(one[key], two[key], rtol=1e-5, atol=1e-5) for key in one), name


def test_the_encoder_may_learn_more_slowly(start: Path, tmp_path: Path) -> None:
    """With Adam's β at 0 a step is the learning rate in the direction of each gradient's sign; the encoder has none in
    the first step, for the denoiser's head begins at zero."""
    options: dict[str, Any] = {
        "steps": 2,
        "adam_betas": [0.0, 0.0],
        "gradient_clip": None,
        "ema": 0.0,
        "learning_rate": 1e-2,
    }
    experiment = adapted(start, freeze=False, encoder_learning_rate=1e-4, **options)
    weights, given = trained(experiment, tmp_path, start), renamed(start)
    fresh = state_of(experiment).model.state_dict()

    def moved(name: str, since: Tensor) -> Tensor:
        return (weights[name] - since).abs().max()

    encoder = moved("encoder.levels.0.enter.weight", given["encoder.levels.0.enter.weight"])
    torch.testing.assert_close(encoder, torch.tensor(1e-4), rtol=0.02, atol=0)
    assert 1e-2 < moved("denoiser.head.2.bias", fresh["denoiser.head.2.bias"]) < 2.1e-2


CHAIN = f"""
name: adapting
base:
  model: {json.dumps({"kind": "single_rate", **MODEL})}
  train: {{steps: 4, batch: 8, checkpoint_every: 2, log_every: 2}}
  sample: {{steps: 2, batch: 16}}
  measure: {{images: 16, latency: {{repeats: 1, warmup: 0, batch: 8}}}}
arms:
  adapted: {{set: {{model.kind: dual_rate, train.start: base, train.freeze: [encoder], sample.refreshes: 1}}}}
  base: {{}}
"""


def test_killing_the_base_then_the_light_one_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(CHAIN)
    sweep = load_sweep(path)
    ids = {arm: training.id for training in sweep.trainings.values() for arm in training.arms}
    ends = []
    for folder, cut in (("whole", False), ("cut", True)):
        store = Store(tmp_path / folder)
        for target in [Target("training", ids["base"]), Target("training", ids["adapted"])]:
            store.save_experiment(target, sweep.nodes[target].experiment)
            if cut:
                with pytest.raises(Stopped):
                    jobs.run(store, target, should_stop=lambda: True)
            jobs.run(store, target)
        ends.append(store.weights_path(ids["adapted"]).read_bytes())
    assert ends[0] == ends[1]


def test_a_frozen_start_must_be_there_to_go_on(tmp_path: Path) -> None:
    """It is in no checkpoint: the base is trained again first."""
    path = tmp_path / "s.yaml"
    path.write_text(CHAIN)
    sweep, store = load_sweep(path), Store(tmp_path / "results")
    base_target, light = plan(sweep, store).targets()[0], Target("training", next(
        t.id for t in sweep.trainings.values() if t.arms == ["adapted"]
    ))  # fmt: skip
    for target in (base_target, light):
        store.save_experiment(target, sweep.nodes[target].experiment)
    jobs.run(store, base_target)
    with pytest.raises(Stopped):
        jobs.run(store, light, should_stop=lambda: True)
    (store.training_folder(base_target.id) / "done.json").unlink()
    with pytest.raises(Blocked, match=f"training {base_target.id} has not finished"):
        jobs.run(store, light)
    assert plan(sweep, store).targets()[:2] == [base_target, light]


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as failure:
        parse_experiment(values, "x.yaml")
    (problem,) = failure.value.problems
    return problem


DUAL = {"model": {"kind": "dual_rate"}, "sample": {"refreshes": 2}}
START_DENOISER = {"start": "a/b", "start_denoiser": "encoder"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"freeze": ["network"]}}, "train.freeze: a single_rate model has no network that can be frozen"),
        ({**DUAL, "train": {"freeze": ["encodr"], "start": "a/b"}}, "'encodr' is not one of 'encoder' (did you mean"),
        ({**DUAL, "train": {"freeze": ["encoder"]}}, "train.freeze: needs train.start"),
        ({**DUAL, "train": {"freeze": "encoder"}}, "train.freeze: a list of texts is needed, not 'encoder'"),
        ({**DUAL, "train": {"steps": 0}}, "train.steps: input should be greater than or equal to 1, not 0"),
        (
            {**DUAL, "train": {"freeze": ["encoder"], "start": "a/b", "encoder_learning_rate": 1e-4}},
            "train.encoder_learning_rate: the encoder is frozen",
        ),
        ({**DUAL, "train": {"start_denoiser": "encoder"}}, "train.start_denoiser: needs train.start"),
        (
            {**DUAL, "model": {"kind": "dual_rate", "light_backbone": "adm"}, "train": START_DENOISER},
            "train.start_denoiser: only a U-ViT begins with a part of another's weights",
        ),
        ({**DUAL, "train": {"pairs": "grid", "grid_steps": 4}}, "train.grid_steps: 4 steps have no 8 refreshes"),
        ({**DUAL, "train": {"grid_steps": 16}}, "train.grid_steps: only pairs: grid has them"),
        (
            {**DUAL, "train": {"pairs": "grid", "grid_steps": 16, "noise_schedule": "learned"}},
            "train.noise_schedule: finds a density of times, and with train.grid_steps these are on a grid",
        ),
        ({**DUAL, "train": {"encoder_loss": 1.0}}, "train.encoder_loss: the encoder has no estimate of its own"),
        ({**DUAL, "train": {"states": "rollout"}}, "states: a rollout belongs to no image; set train.target: encoder"),
        ({**DUAL, "train": {"pairs": "same", "denoiser_times": 2}}, "denoiser_times: pairs of the same time have one"),
        (
            {**DUAL, "sample": {"refreshes": 2, "denoise_at_refresh": False}},
            "sample.denoise_at_refresh: false needs an encoder with an estimate",
        ),
    ],
)
def test_refused_before_anything_is_trained(values: dict[str, Any], message: str) -> None:
    assert message in refused(values)


def test_a_base_that_does_not_fit_as_the_encoder_is_told_with_the_names_of_both(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(CHAIN.replace("train.start: base,", "train.start: base, model.width: 16,"))
    sweep, store = load_sweep(path), Store(tmp_path / "results")
    with pytest.raises(ConfigError) as failure:
        check_starts(plan(sweep, store), store)
    (problem,) = failure.value.problems
    assert "arm 'adapted': train.start: base does not fit: network.levels.0.down." in problem
    assert ", as encoder.levels.0.down." in problem and "head" not in problem


# A denoiser that begins with a part of the encoder's weights.


BEGINS: dict[str, Any] = {"start_denoiser": "encoder"}


def begun(start: Path, **train: Any) -> dict[str, Tensor]:
    """The weights that a training begins with."""
    experiment = adapted(start, model={"preconditioning": "conditional"}, **train)
    state = state_of(experiment)
    load_start(state.result, start, None, experiment)
    return {name: value.clone() for name, value in state.result.state_dict().items()}


def test_the_denoiser_begins_with_the_encoder_s_first_channels_and_blocks(start: Path) -> None:
    plain, chosen = begun(start), begun(start, start_denoiser="encoder")
    given = renamed(start)
    moved = {name for name, value in chosen.items() if not torch.equal(value, plain[name])}
    assert moved and all(name.startswith("denoiser.") for name in moved)
    assert not any(name.startswith("denoiser.head.") or ".project." in name for name in moved)
    assert "denoiser.levels.0.down.blocks.0.first.weight" in moved
    name = "levels.0.down.blocks.0.first.weight"
    own = chosen[f"denoiser.{name}"]
    assert torch.equal(own, given[f"encoder.{name}"][: len(own), : own.shape[1]])
    assert chosen.keys() == plain.keys() and not bool(chosen["denoiser.head.2.weight"].any()), "F = 0 at the start"


def test_what_was_selected_is_told_and_recorded(start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "harness"):
        train_network(adapted(start, start_denoiser="encoder"), "t", tmp_path, start=start)
    (line,) = [record.getMessage() for record in caplog.records if "begins with a part" in record.getMessage()]
    (recorded,) = read_json(tmp_path / "done.json")["selected"].items()
    assert recorded[0] == "denoiser" and recorded[1]["source"] == "encoder"
    told = f"the denoiser begins with a part of the encoder's weights, {recorded[1]['weights']:,} of its "
    assert line.startswith(told) and "embed, levels.0.down, levels.0.enter, levels.0.film, levels.0.up" in line
    assert 0 < recorded[1]["weights"] < recorded[1]["of"] and recorded[1]["tensors"] > 3
    train_network(adapted(start), "t", tmp_path / "plain", start=start)
    assert "selected" not in read_json(tmp_path / "plain" / "done.json")


def test_it_is_in_the_id_unless_it_is_random(start: Path) -> None:
    plain, random, chosen = (adapted(start, **more) for more in ({}, {"start_denoiser": "random"}, BEGINS))
    assert identify(plain) == identify(random) != identify(chosen)
    counts = adapted(start, pairs="grid", refreshes=2), adapted(start, pairs="grid", refreshes=2, grid_steps=4)
    assert identify(counts[0]) != identify(counts[1])


@pytest.mark.parametrize(
    ("start", "changes", "message"),
    [
        (
            "base",
            "model.light_width: 3",
            "arm 'adapted': train.start_denoiser: no tensor of the denoiser fits into one of the encoder: embed.weight "
            "is 16×64 there and 48×64 here, embed.bias is 16 there and 48 here, ",
        ),
        ("other", "", "arm 'adapted': train.start_denoiser: what train.start names has a denoiser of its own"),
    ],
)
def test_a_denoiser_that_nothing_fits_is_refused_before_anything_is_trained(
    tmp_path: Path, start: str, changes: str, message: str
) -> None:
    path = tmp_path / "s.yaml"
    keys = f"train.start: {start}, train.start_denoiser: encoder, {changes or 'model.light_width: 0.5'},"
    other = "  other: {set: {model.kind: dual_rate}, grid: {sample.refreshes: [2]}}\n"
    path.write_text(CHAIN.replace("train.start: base,", keys) + other)
    sweep, store = load_sweep(path), Store(tmp_path / "results")
    with pytest.raises(ConfigError) as failure:
        check_starts(plan(sweep, store), store)
    assert any(message in problem for problem in failure.value.problems), failure.value.problems


def test_weights_that_nothing_fits_are_refused_where_they_are_loaded(start: Path) -> None:
    wide = adapted(start, model={"light_width": 3.0, "preconditioning": "conditional"}, **BEGINS)
    with pytest.raises(ConfigError, match="no tensor of the denoiser fits into one of the encoder"):
        load_start(state_of(wide).result, start, None, wide)
