"""Trainings that start from trainings or from files: what starts where, what is refused, and how a chain runs here."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import as_plain, parse_experiment
from harness.data import open_data
from harness.dispatch.checks import check_starts
from harness.dispatch.labels import labels_of
from harness.dispatch.local import run_inline
from harness.dispatch.plan import Plan, plan
from harness.dispatch.sweep import Sweep, load_experiment, load_sweep
from harness.engine import jobs, spent
from harness.engine.build import build_model
from harness.engine.distributed import current_ranks
from harness.engine.estimate import network_costs_of
from harness.engine.inherited import cost_beside, inherited_cost
from harness.engine.start import load_start
from harness.engine.train import _batches, build_training, optimise
from harness.errors import Blocked, ConfigError, DataError, Stopped, StoreError
from harness.measure.quiet import Reading
from harness.store.identity import UNKNOWN_ID, identify
from harness.store.records import NOTHING_INHERITED, InheritedCost
from harness.store.store import Store, Target
from harness.store.weights import load_tensors, save_tensors
from harness.threads import processors
from tests.harness.tiny import harness, invoke

CHAIN = """
name: chain
base:
  model: {kind: single_rate, width: 8, blocks: [1, 1], head_width: 8}
  train: {steps: 4, batch: 8, checkpoint_every: 2, log_every: 2}
  sample: {steps: 2, batch: 16}
  measure: {images: 16, latency: {repeats: 1, warmup: 0, batch: 8}}
arms:
  last: {set: {train.start: middle, train.steps: 3}}
  middle: {cells: false, set: {train.start: first, train.learning_rate: 1.0e-3}}
  first: {cells: false}
"""
"""Three trainings, each the start of the one above it, of which only the last has a cell."""
ONE = "name: one\nbase: {model.width: 8}\narms:\n"


def write(folder: Path, text: str, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def by_arm(sweep: Sweep) -> dict[str, str]:
    return {arm: training.id for training in sweep.trainings.values() for arm in training.arms}


@pytest.fixture
def chain(tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path, CHAIN))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Store]:
    """The chain, run in this process."""
    folder = tmp_path_factory.mktemp("made")
    sweep, store = load_sweep(write(folder, CHAIN)), Store(folder / "results")
    planned = plan(sweep, store)
    outcome = run_inline(planned, store, console())
    assert outcome.is_complete and outcome.done == planned.targets()
    return sweep, store


def console() -> Console:
    return Console(quiet=True)


# What starts from what.


def test_an_arm_starts_from_the_training_of_the_same_seed(tmp_path: Path) -> None:
    text = CHAIN.replace("arms:", "seeds: [3, 4]\narms:").replace("cells: false, ", "")
    sweep = load_sweep(write(tmp_path, text))
    assert len(sweep.trainings) == 6 and len(sweep.cells) == 4
    for training in sweep.trainings.values():
        (need,) = training.needs or (None,)
        if training.arms == ["first"]:
            assert need is None
        else:
            before = sweep.trainings[need.id]  # type: ignore[union-attr]
            assert before.experiment.seed == training.experiment.seed
            assert before.arms == (["middle"] if training.arms == ["last"] else ["first"])
    order = list(sweep.nodes)
    assert all(order.index(need) < order.index(target) for target, needs in sweep.needs.items() for need in needs)


def test_what_it_starts_from_is_in_a_training_s_id_to_any_depth(tmp_path: Path, chain: Sweep) -> None:
    before = by_arm(chain)
    changed = by_arm(
        load_sweep(write(tmp_path, CHAIN.replace("first: {cells", "first: {set: {train.flip: true}, cells")))
    )
    assert not set(before.values()) & set(changed.values())
    same = by_arm(load_sweep(write(tmp_path, CHAIN.replace("first: {cells", "first: {set: {train.workers: 1}, cells"))))
    assert same == before


def test_a_resolved_experiment_reads_back_to_itself_with_its_id(chain: Sweep) -> None:
    (cell,) = chain.cells.values()
    again = parse_experiment(as_plain(cell.experiment), "a record")
    assert again == cell.experiment and identify(again) == (cell.training, cell.id)
    assert again.train.start == f"training:{by_arm(chain)['middle']}"


def test_a_plan_trains_what_is_needed_and_no_more(chain: Sweep, tmp_path: Path) -> None:
    ids, (cell,) = by_arm(chain), chain.cells
    trainings = [Target("training", ids[arm]) for arm in ("first", "middle", "last")]
    empty = plan(chain, Store(tmp_path / "empty"))
    assert empty.targets() == [*trainings, Target("cell", cell)]
    for count, left in ((1, [*trainings[1:]]), (2, trainings[2:]), (3, [])):
        partly = Plan(chain, frozenset(trainings[:count]))
        assert partly.targets() == [*left, Target("cell", cell)]
    assert Plan(chain, frozenset({Target("cell", cell)})).targets() == []  # its trainings are not made for nothing
    assert Plan(chain, frozenset({trainings[2]})).targets() == [Target("cell", cell)]
    assert empty.only([trainings[0]]).targets() == empty.targets()
    assert Plan(chain, frozenset()).only([]).targets() == []


def test_each_training_is_followed_by_its_cells(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, CHAIN.replace("cells: false", "grid: {sample.steps: [2, 3]}")))
    kinds = [target.kind for target in plan(sweep, Store(tmp_path / "results")).targets()]
    # the first arm of the file is the last of the chain, so that its figures need all three trainings
    assert kinds == ["training"] * 3 + ["cell"] * 5


def test_a_training_says_what_it_is_for_and_from(chain: Sweep) -> None:
    words = {labels_of(chain)[training.target] for training in chain.trainings.values()}
    assert words == {
        "training for first seed=0",
        "training for middle from first seed=0",
        "training for last from middle seed=0",
    }


@pytest.mark.parametrize("way", ["set", "grid", "command line"])
def test_a_start_can_be_said_wherever_a_key_can(tmp_path: Path, way: str) -> None:
    arm = {"set": "{set: {train.start: a}}", "grid": "{grid: {train.start: [null, a]}}", "command line": "{}"}[way]
    path = write(tmp_path, f"{ONE}  a: {{}}\n  b: {arm}\n")
    if way == "command line":
        with pytest.raises(ConfigError, match="an arm starts from itself: a → a"):
            load_sweep(path, ["train.start=a"])
        return
    sweep = load_sweep(path)
    starts = {training.experiment.train.start for training in sweep.trainings.values()}
    assert len(starts) == 2 == len(sweep.trainings)


# What is refused.


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            "a: {set: {train.start: a}}",
            r"train\.start: an arm starts from itself: a → a; leave train\.start out of it, or name another$",
        ),
        (
            "a: {set: {train.start: c}}\n  b: {set: {train.start: a}}\n  c: {set: {train.start: b}}",
            r"arms start from each other in a circle: a → c → b → a; leave train\.start out of one of them$",
        ),
        (
            "a: {grid: {train.flip: [true, false], model.width: [8, 16], sample.steps: [2, 3]}}\n"
            "  b: {set: {train.start: a}}",
            r"arm 'b': train\.start: arm 'a' has 4 trainings per seed, for its grid varies train\.flip and model\.width"
            "; start from an arm that has one$",
        ),
        (
            "first: {}\n  b: {set: {train.start: frist}}",
            r"arm 'b': train\.start: no arm 'frist' \(did you mean 'first'\?\); choices: first, b; nor is there a file "
            "frist$",
        ),
        (
            "b: {set: {train.start: 'training:x'}}",
            r"arm.*: train\.start: 'training:x' is no id of a training; write it as",
        ),
        ("a: {}\n  b: {cells: false}", r"arm 'b': cells: false, and no arm starts from it or is taught by it$"),
        ("a: {cells: false, set: {train.start: null}}", "arms: none of them has cells; leave out cells: false$"),
    ],
)
def test_a_start_that_cannot_be_is_refused(tmp_path: Path, arms: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, f"{ONE}  {arms}\n"))


def test_a_grid_that_varies_no_training_is_one_to_start_from(tmp_path: Path) -> None:
    grid = "{grid: {sample.steps: [2, 3], train.log_every: [5, 6]}}"
    sweep = load_sweep(write(tmp_path, f"{ONE}  a: {grid}\n  b: {{set: {{train.start: a}}}}\n"))
    assert len(sweep.trainings) == 2


def test_problems_of_an_arm_that_others_start_from_are_told_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, f"{ONE}  a: {{set: {{train.batch: 0}}}}\n  b: {{like: a, set: {{train.start: a, train.batch: 2}}}}\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_sweep(path)
    assert len(refused.value.problems) == 1 and "arm 'a': train.batch" in refused.value.problems[0]
    with pytest.raises(ConfigError, match=r"train\.batch"):
        load_experiment(path, arm="b")


def test_a_report_s_base_must_have_cells(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.base: arm 'first' has no cells \(cells: false\)"):
        load_sweep(write(tmp_path, CHAIN + "report: {base: first}\n"))


# Whether weights fit.


def fitting(tmp_path: Path, arm: str) -> None:
    sweep = load_sweep(write(tmp_path, CHAIN + f"  other: {arm}\n"))
    check_starts(plan(sweep, Store(tmp_path / "results")), Store(tmp_path / "results"))


def test_a_start_that_fits_not_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    fitting(tmp_path, "{set: {train.start: first, sample.steps: 5}}")
    with pytest.raises(ConfigError) as refused:
        fitting(tmp_path, "{set: {train.start: first, model.width: 16}}")
    (problem,) = refused.value.problems
    assert problem.startswith("arm 'other': train.start: first does not fit: network.")
    assert problem.count(" there and ") == 3 and " more tensors; " in problem
    assert not (tmp_path / "results").exists()


def test_the_part_that_would_fit_is_named(tmp_path: Path) -> None:
    """A single network is more than an encoder, which hands its features to the denoiser and has no head."""
    with pytest.raises(ConfigError) as refused:
        fitting(
            tmp_path,
            "{set: {train.start: dual}}\n  dual: {cells: false, set: {model.kind: dual_rate, sample.refreshes: 1}}",
        )
    (problem,) = refused.value.problems
    assert "network." in problem and "its encoder would fit as network: " in problem


def test_a_start_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither the weights nor the configuration of training 01234"):
        fitting(tmp_path, "{set: {train.start: 'training:0123456789abcdef'}}")


def test_a_file_that_fits_not_or_is_no_weights(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    weights = store.weights_path(by_arm(sweep)["first"])
    fitting(tmp_path, f"{{set: {{train.start: '{weights}'}}}}")
    with pytest.raises(ConfigError, match=rf"arm 'other': train\.start: {weights} does not fit: network\."):
        fitting(tmp_path, f"{{set: {{train.start: '{weights}', model.width: 16}}}}")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:99])
    for name, said in (("foreign", "was not written by this project"), ("cut", "is cut short or damaged")):
        with pytest.raises(ConfigError, match=rf"arm 'other': train\.start: .*{name}\.safetensors: {said}"):
            fitting(tmp_path, f"{{set: {{train.start: '{tmp_path / name}.safetensors'}}}}")
    with pytest.raises(DataError, match=r"train\.start: gone\.safetensors does not exist \(tried "):
        fitting(tmp_path, "{set: {train.start: gone.safetensors}}")


def test_a_dry_run_tells_of_a_misfit_and_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, CHAIN + "  other: {set: {train.start: first, model.width: 16}}\n")
    asked = ("sweep", path, "--dry-run", "--cluster", "inline", "--results", tmp_path / "results")
    done = CliRunner().invoke(app, [str(word) for word in asked])
    assert isinstance(done.exception, ConfigError) and "does not fit" in str(done.exception)
    path = write(tmp_path, CHAIN + "  other: {set: {train.start: gone.safetensors}}\n")
    told = json.loads(invoke(*asked, "--json"))
    assert "gone.safetensors does not exist" in told["missing"][0]
    assert sum(row["id"].startswith(UNKNOWN_ID) for row in told["trainings"]) == 1


# Running.


def test_a_training_begins_with_the_averaged_weights_of_its_start(made: tuple[Sweep, Store]) -> None:
    """The first step of `last` from the final weights of `middle`, computed here, is what its job has computed."""
    sweep, store = made
    ids = by_arm(sweep)
    experiment = sweep.trainings[ids["last"]].experiment
    device, dataset = torch.device("cpu"), open_data(experiment.data)
    state, objective = build_training(experiment, dataset.info, device)
    start = load_tensors(store.weights_path(ids["middle"]))[0]
    state.model.load_state_dict(start)
    for name, value in start.items():
        state.average[name].copy_(value)
    for batch in _batches(dataset, experiment, 0, current_ranks(), device):
        optimise(state, objective, experiment, batch, experiment.train.batch, device)
        state.step += 1
    made_here = load_file(store.weights_path(ids["last"]))
    assert all(torch.equal(value, made_here[name]) for name, value in state.average.items())


def test_a_chain_that_is_stopped_at_any_step_ends_bit_for_bit_the_same(
    made: tuple[Sweep, Store], tmp_path: Path
) -> None:
    sweep, store = made
    again = Store(tmp_path / "results")
    for target in plan(sweep, again).targets():
        again.save_experiment(target, sweep.nodes[target].experiment)
        while not again.is_done(target):
            steps = [0]

            def stop(steps: list[int] = steps) -> bool:
                steps[0] += 1
                return steps[0] > 1

            try:
                jobs.run(again, target, should_stop=stop)
            except Stopped:
                continue
    for id in sweep.trainings:
        assert again.weights_path(id).read_bytes() == store.weights_path(id).read_bytes()


def test_a_started_training_goes_on_without_its_start(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    """What it began with is in its checkpoints; without one it cannot begin."""
    sweep, store = made
    ids = by_arm(sweep)
    copied = Store(tmp_path / "results")
    last, middle = Target("training", ids["last"]), Target("training", ids["middle"])
    shutil.copytree(store.training_folder(middle.id), copied.training_folder(middle.id))
    copied.save_experiment(last, sweep.nodes[last].experiment)
    with pytest.raises(Stopped):
        jobs.run(copied, last, should_stop=lambda: True)
    shutil.rmtree(copied.training_folder(middle.id))
    assert jobs.run(copied, last)
    assert copied.read_training(last.id).inherited == store.read_training(last.id).inherited, "it is in them too"
    assert copied.weights_path(last.id).read_bytes() == store.weights_path(last.id).read_bytes()
    shutil.rmtree(copied.training_folder(last.id))
    copied.save_experiment(last, sweep.nodes[last].experiment)
    with pytest.raises(Blocked, match=f"training {middle.id} has not finished"):
        jobs.run(copied, last)


def test_damaged_weights_to_start_from_are_trained_again(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    ids = by_arm(sweep)
    copied = Store(tmp_path / "results")
    for arm in ("first", "middle"):
        shutil.copytree(store.training_folder(ids[arm]), copied.training_folder(ids[arm]))
    weights = copied.weights_path(ids["middle"])
    whole = weights.read_bytes()
    weights.write_bytes(b"\0" * len(whole))
    last = Target("training", ids["last"])
    copied.save_experiment(last, sweep.nodes[last].experiment)
    with pytest.raises(Blocked, match=r"is cut short or damaged .*; set aside as weights"):
        jobs.run(copied, last)
    run_inline(plan(sweep, copied), copied, console())
    assert weights.read_bytes() == whole and plan(sweep, copied).targets() == []


DIVERGES = "train.learning_rate: 1.0e+30, train.gradient_clip: null"


def assert_blocked(path: Path, results: Path, failures: dict[str, str], failed: str, *arms: str) -> None:
    """`arms` and the cell of the last of them wait for the training of the arm `failed`, and say why."""
    sweep, store = load_sweep(path), Store(results)
    ids = by_arm(sweep)
    root = f"training {ids[failed]}"
    reason = failures.pop(root)
    assert reason.startswith("Diverged: the loss is")
    blocked = [*(Target("training", ids[arm]) for arm in arms), _cell_of(sweep, arms[-1])]
    assert failures == {str(target): f"{root} failed: {reason}" for target in blocked}
    assert {store.state(target)["state"] for target in blocked} == {"blocked"}
    rows = {row["id"]: row for row in json.loads(invoke("status", path, "--results", results, "--json"))["rows"]}
    assert {(rows[t.id]["state"], rows[t.id]["reason"]) for t in blocked} == {("blocked", f"{root} failed: {reason}")}


def test_a_training_that_fails_blocks_all_that_follows_with_its_reason(tmp_path: Path) -> None:
    text = CHAIN.replace("first: {cells: false", f"first: {{cells: false, set: {{{DIVERGES}}}")
    text += "  apart: {set: {train.steps: 2}}\n"
    path, results = write(tmp_path, text), tmp_path / "results"
    asked = ("sweep", path, "--results", results, "--cluster", "inline", "--json")
    assert_blocked(path, results, json.loads(invoke(*asked, status=1))["failures"], "first", "middle", "last")
    assert Store(results).is_done(_cell_of(load_sweep(path), "apart"))
    path.write_text(text.replace("1.0e+30", "1.0e-3"))  # another training: nothing of the old stands in its way
    assert json.loads(invoke(*asked))["failures"] == {}


def test_so_does_one_in_a_process_of_this_machine(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    """The first is done, the second fails."""
    _, store = made
    path, results = write(tmp_path, CHAIN.replace("train.learning_rate: 1.0e-3", DIVERGES)), tmp_path / "results"
    shutil.copytree(store.root, results)
    done = harness(results, "sweep", path, "--json", "--cluster", "local", "--workers", 2)
    assert done.returncode == 1, done.stderr
    assert_blocked(path, results, json.loads(done.stdout)["failures"], "middle", "last")


def _cell_of(sweep: Sweep, arm: str) -> Target:
    return next(cell.target for cell in sweep.cells.values() if cell.rows[0][0] == arm)


def test_retry_of_the_first_revives_all_that_follows(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, _ = made
    results = tmp_path / "results"
    first = Target("training", by_arm(sweep)["first"])
    Store(results).save_experiment(first, sweep.nodes[first].experiment)
    Store(results).set_state(first, state="failed", error="killed")
    said = json.loads(invoke("retry", sweep.path, first.id, "--results", results, "--cluster", "inline", "--json"))
    assert said["retried"] == [str(target) for target in plan(sweep, Store(tmp_path / "empty")).targets()]
    assert Store(results).cell_path(_cell_of(sweep, "last").id).exists()


def test_one_experiment_of_an_arm_trains_what_it_starts_from(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    ids, results = by_arm(sweep), tmp_path / "results"
    told = json.loads(invoke("train", sweep.path, "--arm", "middle", "--results", results, "--json"))
    assert told["training"] == ids["middle"]
    assert Store(results).weights_path(ids["first"]).read_bytes() == store.weights_path(ids["first"]).read_bytes()
    record = json.loads(invoke("measure", sweep.path, "--arm", "last", "--results", results, "--json"))
    assert record["id"] == _cell_of(sweep, "last").id
    # the configuration in the record stands by itself: it is found, and trained again from the store where it is gone
    config = write(tmp_path, json.dumps(record["config"]), "record.yaml")
    shutil.rmtree(Store(results).training_folder(ids["last"]))
    Store(results).weights_path(ids["middle"]).unlink()
    again = json.loads(invoke("train", config, "--results", results, "--json"))
    assert again["training"] == ids["last"]
    assert Store(results).weights_path(ids["last"]).read_bytes() == store.weights_path(ids["last"]).read_bytes()


def test_a_sweep_starts_from_a_training_of_the_store(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    ids = by_arm(sweep)
    copied = Store(tmp_path / "results")
    shutil.copytree(store.root, copied.root)
    base = CHAIN[: CHAIN.index("arms:")]
    text = f"{base}arms:\n  only: {{set: {{train.start: 'training:{ids['middle']}', train.steps: 2}}}}\n"
    other = load_sweep(write(tmp_path, text))
    assert [target.kind for target in plan(other, copied).targets()] == ["training", "cell"]
    copied.weights_path(ids["middle"]).unlink()  # its configuration is there: it is trained again
    planned = plan(other, copied)
    assert planned.targets()[0] == Target("training", ids["middle"]) and len(planned.targets()) == 3
    assert run_inline(planned, copied, console()).is_complete
    assert copied.weights_path(ids["middle"]).read_bytes() == store.weights_path(ids["middle"]).read_bytes()


def test_a_file_counts_by_its_content(
    made: tuple[Sweep, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, store = made
    monkeypatch.chdir(tmp_path)
    config = write(tmp_path, CHAIN[CHAIN.index("  model") : CHAIN.index("arms:")].replace("\n  ", "\n")[2:], "one.yaml")
    shutil.copy(store.weights_path(by_arm(sweep)["first"]), "w.safetensors")
    shutil.copy("w.safetensors", "copy")
    told = [
        json.loads(invoke("train", config, "--start", name, "--results", "results", "--json"))
        for name in ("w.safetensors", "copy", tmp_path / "copy")
    ]
    assert len({one["training"] for one in told}) == 1
    trained = load_file(told[0]["weights"])
    started = load_file("w.safetensors")
    fresh = load_file(json.loads(invoke("train", config, "--results", "results", "--json"))["weights"])
    assert trained.keys() == started.keys() and any(not torch.equal(trained[n], fresh[n]) for n in trained)
    changed = {name: value + 1 for name, value in started.items()}
    save_tensors(tmp_path / "copy", changed, "0123456789abcdef")
    other = json.loads(invoke("train", config, "--start", "copy", "--results", "results", "--json"))
    assert other["training"] != told[0]["training"]
    with pytest.raises(ConfigError, match=r"train\.start: there is no file wrong; give the path of a weights file"):
        load_experiment(config, ["train.start=wrong"])


def test_a_file_that_changes_after_the_planning_is_refused(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    path = tmp_path / "w.safetensors"
    shutil.copy(store.weights_path(by_arm(sweep)["first"]), path)
    planned = load_sweep(write(tmp_path, CHAIN + f"  filed: {{set: {{train.start: '{path}'}}}}\n"))
    target = next(t.target for t in planned.trainings.values() if t.arms == ["filed"])
    again = Store(tmp_path / "results")
    again.save_experiment(target, planned.nodes[target].experiment)
    save_tensors(path, {name: value + 1 for name, value in load_file(path).items()}, "0123456789abcdef")
    with pytest.raises(DataError, match=r"is not what it was when training .* planned: .* the weights to start from"):
        jobs.run(again, target)


def test_weights_of_another_network_are_refused_by_the_job_too(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    experiment = parse_experiment({"model": {"width": 16}}, "test")
    path = store.weights_path(by_arm(sweep)["first"])
    with pytest.raises(ConfigError, match=rf"train\.start: {path} does not fit: network\."):
        load_start(build_model(experiment, open_data(experiment.data).info), path, None, experiment)
    with pytest.raises(StoreError, match="belongs to training"):
        load_start(build_model(experiment, open_data(experiment.data).info), path, "0123456789abcdef", experiment)


# What was paid.


def own_gmacs(sweep: Sweep, id: str) -> float:
    """Three forward passes of the network for each image, counted from its evaluation."""
    experiment = sweep.trainings[id].experiment
    (count,) = network_costs_of(experiment).values()
    return 3 * experiment.train.steps * experiment.train.batch * count.gmacs


def test_a_training_inherits_what_its_chain_has_cost(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    ids = by_arm(sweep)
    first, middle, last = (store.read_training(ids[arm]) for arm in ("first", "middle", "last"))
    assert first.inherited == NOTHING_INHERITED
    assert first.seconds and middle.seconds and last.seconds and middle.inherited and last.inherited
    assert middle.inherited.trainings == (ids["first"],) and middle.inherited.seconds == first.seconds
    assert middle.inherited.gmacs == pytest.approx(own_gmacs(sweep, ids["first"]))
    assert last.inherited.trainings == (ids["middle"], ids["first"])
    assert last.inherited.seconds == pytest.approx(first.seconds + middle.seconds)
    assert last.inherited.gmacs == pytest.approx(own_gmacs(sweep, ids["first"]) + own_gmacs(sweep, ids["middle"]))
    record = store.read_cell(_cell_of(sweep, "last").id)
    assert record.compute.training_gmacs_inherited == last.inherited.gmacs
    made_of = record.provenance
    assert (made_of.training_seconds, made_of.training_seconds_inherited) == (last.seconds, last.inherited.seconds)
    assert made_of.training_chain == last.inherited.trainings
    per_step, steps = record.compute.training_gmacs_per_step, record.compute.training_steps
    assert per_step and steps and per_step * steps == pytest.approx(own_gmacs(sweep, ids["last"]))


def test_what_two_stitched_networks_have_both_come_from_is_paid_once(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    ids = by_arm(sweep)
    own = {arm: own_gmacs(sweep, ids[arm]) for arm in ids}
    inherited = {arm: store.read_training(ids[arm]).inherited or NOTHING_INHERITED for arm in ids}

    def beside(training: str, before: InheritedCost, second: str) -> InheritedCost:
        sample = {"stitch": f"training:{ids[second]}", "stitch_share": 0.5}
        return cost_beside(store, parse_experiment({"sample": sample}, "test"), training, before)

    # the second is what the first has started from: nothing more
    assert beside(ids["last"], inherited["last"], "first") == inherited["last"]
    # the second has started from the first
    told = beside(ids["middle"], inherited["middle"], "last")
    assert told.gmacs == pytest.approx(own["first"] + own["last"]) and len(told.trainings) == 3
    # both have started from a third
    told = beside("0123456789abcdef", inherited["middle"], "last")
    assert told.gmacs == pytest.approx(own["first"] + own["middle"] + own["last"])
    seconds = {arm: store.read_training(ids[arm]).seconds or 0.0 for arm in ids}
    assert told.seconds == pytest.approx(seconds["first"] + seconds["middle"] + seconds["last"])
    # they share nothing
    told = beside("0123456789abcdef", NOTHING_INHERITED, "last")
    assert told.gmacs == pytest.approx(own["first"] + own["middle"] + own["last"])


def test_records_that_do_not_tell_what_they_inherit_are_added_up_from_the_configurations(
    made: tuple[Sweep, Store], tmp_path: Path
) -> None:
    """As an earlier version wrote them: the multiply-adds are known still, the seconds of all runs are not."""
    sweep, store = made
    ids = by_arm(sweep)
    older = Store(tmp_path / "results")
    for arm in ("first", "middle"):
        shutil.copytree(store.training_folder(ids[arm]), older.training_folder(ids[arm]))
        done = json.loads(older.done_path(ids[arm]).read_text())
        kept = {k: v for k, v in done.items() if k not in ("inherited", "seconds", "others_share")}
        older.done_path(ids[arm]).write_text(json.dumps({**kept, "schema": 1}))
    told = inherited_cost(older, sweep.trainings[ids["last"]].experiment)
    inherited = store.read_training(ids["last"]).inherited
    assert inherited and (told.gmacs, told.trainings) == (inherited.gmacs, inherited.trainings) and told.seconds is None
    shutil.rmtree(older.training_folder(ids["first"]))
    lost = inherited_cost(older, sweep.trainings[ids["last"]].experiment)
    assert lost.gmacs is None and lost.trainings == inherited.trainings


def test_a_file_is_known_by_the_record_of_the_training_that_wrote_it(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    middle = by_arm(sweep)["middle"]
    copy = tmp_path / "w.safetensors"
    shutil.copy(store.weights_path(middle), copy)
    from_file = parse_experiment({"train": {"start": str(copy)}}, "test")
    known = inherited_cost(store, from_file)
    assert known == store.read_training(by_arm(sweep)["last"]).inherited
    beside = parse_experiment({"train": {"start": str(store.weights_path(middle))}}, "test")
    assert inherited_cost(Store(tmp_path / "another"), beside) == known
    assert inherited_cost(Store(tmp_path / "another"), from_file) == InheritedCost(), "nobody knows"
    save_tensors(copy, {name: value + 1 for name, value in load_file(copy).items()}, middle)
    assert inherited_cost(store, from_file) == InheritedCost(), "it is not what that training wrote"


def test_the_seconds_of_a_training_are_those_of_all_its_runs(
    made: tuple[Sweep, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves by 10 s whenever it is read: each run reads it as it begins, and for what it writes."""
    sweep, _ = made
    store, first = Store(tmp_path / "results"), Target("training", by_arm(sweep)["first"])
    clock = itertools.count(0, 10)

    def read() -> Reading:
        wall = float(next(clock))  # of two processors, a fourth of the time of both is taken by others
        return Reading(wall, wall, 0.0, wall + 0.25 * wall * processors())

    monkeypatch.setattr(spent, "read_scheduler", read)
    store.save_experiment(first, sweep.nodes[first].experiment)
    for _ in range(2):
        with pytest.raises(Stopped):
            jobs.run(store, first, should_stop=lambda: True)
    assert jobs.run(store, first)
    done = store.read_training(first.id)
    assert (done.steps, done.seconds) == (4, 30)
    assert done.others_share == pytest.approx(0.25, abs=0.01)
