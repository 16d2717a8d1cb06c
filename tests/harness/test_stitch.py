"""Cells of two trainings (T-Stitch): what they are resolved to, what is refused, and what their records say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.schema import as_plain, parse_experiment
from harness.config.stitching import stitched_experiment
from harness.dispatch.local import run_inline
from harness.dispatch.plan import plan
from harness.dispatch.sweep import Cell, Sweep, load_experiment, load_sweep
from harness.engine import jobs
from harness.engine.estimate import expected_runs, gmacs_per_image
from harness.errors import Blocked, ConfigError, StoreError
from harness.report.added import added_share
from harness.report.cells_file import load_rows
from harness.report.panel import panels
from harness.store.identity import UNKNOWN_ID, identify
from harness.store.records import CellRecord
from harness.store.store import Store
from harness.store.weights import load_tensors, save_tensors
from tests.harness.tiny import by_arm, invoke

SWEEP = """
name: stitch
base:
  model: {kind: single_rate, width: 8, blocks: [1, 1], head_width: 8}
  train: {steps: 4, batch: 8, learning_rate: 1.0e-2}
  sample: {steps: 5, batch: 16, sampler: ddim}
  measure: {images: 32, latency: {repeats: 1, warmup: 0, batch: 8}}
arms:
  base: {}
  shrunk: {set: {model.width: 4, model.head_width: 4}}
  light-first: {grid: {sample.stitch_share: [0, 0.4, 1]}, set: {sample.stitch: shrunk}}
  heavy-first: {like: shrunk, set: {sample.stitch: base, sample.stitch_share: 0.6}}
  light-last: {set: {sample.stitch: shrunk, sample.stitch_share: 0.4, sample.stitch_at: last}}
"""
"""The base after the shrunk network, and the other way round, said in two ways; the stitched arms train nothing of
their own."""


def write(folder: Path, text: str = SWEEP) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def cells_of(sweep: Sweep, arm: str) -> dict[float, Cell]:
    """By the share of the steps that the second network runs."""
    cells = [cell for cell in sweep.cells.values() if cell.rows[0][0] == arm]
    return {cell.experiment.sample.stitch_share or 0.0: cell for cell in cells}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load_sweep(write(tmp_path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Store]:
    place = tmp_path_factory.mktemp("made")
    sweep, store = load_sweep(write(place)), Store(place / "results")
    assert run_inline(plan(sweep, store), store, Console(quiet=True)).is_complete
    return sweep, store


# What it is resolved to.


def test_a_cell_needs_both_trainings_and_trains_nothing_of_its_own(sweep: Sweep) -> None:
    arms = by_arm(sweep)
    assert len(sweep.trainings) == 2
    assert arms["light-first"] == arms["base"] and arms["heavy-first"] == arms["shrunk"]
    for cell in cells_of(sweep, "light-first").values():
        assert cell.experiment.sample.stitch == f"training:{arms['shrunk'].id}"
        assert sweep.needs[cell.target] == cell.needs == (arms["base"], arms["shrunk"])
    (swapped,) = cells_of(sweep, "heavy-first").values()
    assert swapped.needs == (arms["shrunk"], arms["base"])


def test_each_seed_is_stitched_to_the_training_of_its_seed(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, SWEEP.replace("arms:", "seeds: [3, 4]\narms:")))
    for cell in sweep.cells.values():
        seeds = {sweep.trainings[need.id].experiment.seed for need in cell.needs}
        assert seeds == {cell.experiment.seed}


def test_the_second_network_and_its_share_are_in_a_cell_s_id(sweep: Sweep, tmp_path: Path) -> None:
    assert len({cell.id for cell in cells_of(sweep, "light-first").values()}) == 3
    flipped = SWEEP.replace("model.width: 4,", "model.width: 4, train.flip: true,")
    other = load_sweep(write(tmp_path, flipped))
    shares = cells_of(sweep, "light-first").keys()
    assert all(cells_of(sweep, "light-first")[s].id != cells_of(other, "light-first")[s].id for s in shares)
    assert {cell.id for cell in cells_of(other, "base").values()} == {c.id for c in cells_of(sweep, "base").values()}


def test_a_resolved_experiment_stands_by_itself(sweep: Sweep, tmp_path: Path) -> None:
    cell = cells_of(sweep, "light-first")[0.4]
    again = parse_experiment(as_plain(cell.experiment), "a record")
    assert again == cell.experiment and identify(again) == (cell.training, cell.id)
    second = stitched_experiment(again)
    assert second is not None and as_plain(second)["model"]["width"] == 4
    file = tmp_path / "record.yaml"
    file.write_text(json.dumps(as_plain(cell.experiment)))
    assert load_experiment(file) == cell.experiment
    assert load_experiment(sweep.path, arm="heavy-first") == cells_of(sweep, "heavy-first")[0.6].experiment


def test_arms_may_be_stitched_to_each_other_and_to_one_that_is_only_trained(tmp_path: Path) -> None:
    text = SWEEP[: SWEEP.index("  base: {}")] + (
        "  a: {set: {sample.stitch: b, sample.stitch_share: 0.5}}\n"
        "  b: {set: {model.width: 4, model.head_width: 4, sample.stitch: a, sample.stitch_share: 0.5}}\n"
        "  c: {set: {sample.stitch: d, sample.stitch_share: 0.5, sample.steps: 3}}\n"
        "  d: {cells: false, set: {model.width: 12}}\n"
    )
    sweep = load_sweep(write(tmp_path, text))
    assert len(sweep.trainings) == 3 and all(len(cell.needs) == 2 for cell in sweep.cells.values())


# What is refused.


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{set: {sample.stitch: shrank, sample.stitch_share: 0.5}}", r"sample\.stitch: no arm 'shrank' \(did you mean"),
        ("{set: {sample.stitch: shrunk}}", r"sample\.stitch: needs stitch_share beside it"),
        ("{set: {sample.stitch_share: 0.5}}", r"sample\.stitch_share: needs stitch beside it"),
        ("{set: {sample.stitch_at: last}}", r"sample\.stitch_at: needs stitch beside it"),
        (
            "{set: {sample.stitch: shrunk, sample.stitch_share: 0.5, sample.stitch_at: middle}}",
            r"sample\.stitch_at: 'middle' is not one of 'first' or 'last'$",
        ),
        (
            "{set: {sample.stitch: shrunk, sample.stitch_share: 1.5}}",
            r"sample\.stitch_share: .* not 1\.5$",
        ),
        ("{set: {sample.stitch: 'training:x', sample.stitch_share: 0.5}}", r"'training:x' is no id of a training"),
        (
            "{set: {sample.stitch: 'training:0123456789abcdef', sample.stitch_share: 0.5}}",
            r"sample\.stitch: training:0123456789abcdef is of no arm, .* name the arm that makes it, or the path",
        ),
        (
            "{set: {sample.stitch: dual, sample.stitch_share: 0.5}}",
            r"sample\.stitch: a dual_rate network, which refreshes, cannot be stitched to another",
        ),
        (
            "{set: {sample.stitch: base, sample.stitch_share: 0.5, model.kind: dual_rate, sample.refreshes: 2}}",
            r"sample\.stitch: a dual_rate model that refreshes cannot be stitched",
        ),
        (
            "{set: {sample.stitch: base, sample.stitch_share: 0.5, sample.cache_from_level: 1, sample.refreshes: 2}}",
            r"sample\.stitch: a single_rate model that refreshes cannot be stitched",
        ),
        (
            "{set: {sample.stitch: base, sample.stitch_share: 0.5, model.class_conditional: true}}",
            r"sample\.stitch: one of the two networks is class-conditional, the other is not",
        ),
        (
            "{set: {sample.stitch: several, sample.stitch_share: 0.5}}",
            r"sample\.stitch: arm 'several' has 2 trainings per seed, .* model\.width; name an arm that has one",
        ),
        (
            "{set: {sample.stitch: wrong, sample.stitch_share: 0.5}}",
            r"'wrong': sample\.stitch: it is this very network, so that nothing changes; name the training of another",
        ),
        ("{set: {sample.stitch: base, sample.stitch_share: 0.5}}", r"sample\.stitch: it is this very network"),
    ],
)
def test_a_stitch_that_cannot_be_is_refused(tmp_path: Path, arm: str, message: str) -> None:
    more = (
        "  dual: {set: {model.kind: dual_rate, sample.refreshes: 2}}\n"
        "  several: {grid: {model.width: [8, 16]}}\n"
        f"  wrong: {arm}\n"
    )
    with pytest.raises(ConfigError, match=message):
        load_sweep(write(tmp_path, SWEEP + more))


def test_guidance_needs_label_dropout_of_both(tmp_path: Path) -> None:
    text = SWEEP.replace("head_width: 8}\n  train: {", "head_width: 8, class_conditional: true}\n  train: {")
    keys = "sample.stitch: shrunk, sample.stitch_share: 0.5, sample.guidance: 2, train.label_dropout: 0.1"
    text += f"  guided: {{set: {{{keys}}}}}"
    with pytest.raises(ConfigError, match=r"sample\.stitch names was trained without train\.label_dropout"):
        load_sweep(write(tmp_path, text))
    both = load_sweep(write(tmp_path, text.replace("steps: 4,", "steps: 4, label_dropout: 0.1,")))
    (guided,) = cells_of(both, "guided").values()
    assert expected_runs(guided.experiment) == {"network": 4, "stitched": 6}  # 2 of 5 steps and 3, each twice


# What is drawn, and what is told of it.


def record_of(store: Store, cell: Cell) -> CellRecord:
    return store.read_cell(cell.id)


def images_of(store: Store, cell: Cell) -> np.ndarray:
    with np.load(store.samples_path(cell.id)) as samples:
        images: np.ndarray = samples["images"]
    return images


def test_the_ends_of_the_share_are_the_two_networks_alone(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    stitched, base, shrunk = (cells_of(sweep, arm) for arm in ("light-first", "base", "shrunk"))
    for share, alone in ((0.0, base[0.0]), (1.0, shrunk[0.0])):
        assert np.array_equal(images_of(store, stitched[share]), images_of(store, alone))
        one, two = (record_of(store, cell) for cell in (stitched[share], alone))
        assert [seed.values for seed in one.quality.per_seed] == [seed.values for seed in two.quality.per_seed]
        assert one.compute.macs_per_image == two.compute.macs_per_image
    between = images_of(store, stitched[0.4])
    assert not np.array_equal(between, images_of(store, base[0.0]))


def test_a_record_counts_each_network_by_its_name(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    stitched, base, shrunk = (cells_of(sweep, arm) for arm in ("light-first", "base", "shrunk"))
    compute = record_of(store, stitched[0.4]).compute
    heavy, light = (record_of(store, cells[0.0]).compute for cells in (base, shrunk))
    assert compute.evaluations == {"network": 3, "stitched": 2}
    costs = heavy.gmacs_per_evaluation["network"], light.gmacs_per_evaluation["network"]
    assert (compute.gmacs_per_evaluation["network"], compute.gmacs_per_evaluation["stitched"]) == costs
    assert compute.gmacs_per_image == pytest.approx(3 * costs[0] + 2 * costs[1])
    assert compute.gmacs_per_image == pytest.approx(gmacs_per_image(stitched[0.4].experiment))
    assert compute.parameters == {
        "network": heavy.parameters["network"],
        "stitched": light.parameters["network"],
    }
    time = record_of(store, stitched[0.4]).time
    assert time is not None and time.share["network"] > 0 and time.share["stitched"] > 0
    (swapped,) = cells_of(sweep, "heavy-first").values()
    told = record_of(store, swapped).compute
    assert told.evaluations == {"network": 2, "stitched": 3} and told.gmacs_per_evaluation["stitched"] == costs[0]


def test_the_second_network_at_the_end_is_the_own_one_at_the_start(made: tuple[Sweep, Store]) -> None:
    """Three steps of the base, then two of the shrunk network: the same images, whichever of the two is the own one."""
    sweep, store = made
    ((last,), (swapped,)) = (cells_of(sweep, arm).values() for arm in ("light-last", "heavy-first"))
    assert last.training == cells_of(sweep, "base")[0.0].training and last.id != swapped.id
    assert np.array_equal(images_of(store, last), images_of(store, swapped))
    assert not np.array_equal(images_of(store, last), images_of(store, cells_of(sweep, "light-first")[0.4]))
    one, two, first = (record_of(store, cell).compute for cell in (last, swapped, cells_of(sweep, "light-first")[0.4]))
    assert one.macs_per_image == two.macs_per_image and one.evaluations == {"network": 3, "stitched": 2}
    assert one.macs_per_image == first.macs_per_image  # as much of each as where it is at the start
    assert one.gmacs_per_image == pytest.approx(gmacs_per_image(last.experiment))
    assert expected_runs(last.experiment) == one.evaluations


def test_where_it_runs_is_in_the_id_unless_it_is_the_start(sweep: Sweep, tmp_path: Path) -> None:
    first = cells_of(sweep, "light-first")[0.4]
    (last,) = cells_of(sweep, "light-last").values()
    said = load_sweep(write(tmp_path, SWEEP.replace("stitch_at: last", "stitch_at: first")))
    assert cells_of(said, "light-first")[0.4].id == first.id != last.id  # one cell of two arms
    assert len(said.cells) == len(sweep.cells) - 1


def test_a_dry_run_and_the_costs_of_one_arm_tell_of_both(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    cell = cells_of(sweep, "light-first")[0.4]
    asked = ("sweep", sweep.path, "--dry-run", "--cluster", "inline", "--results", tmp_path / "none", "--json")
    rows = {row["id"]: row for row in json.loads(invoke(*asked))["cells"]}
    counted = record_of(store, cell).compute.gmacs_per_image
    assert rows[cell.id]["gmacs_per_image"] == pytest.approx(counted)
    told = json.loads(invoke("flops", sweep.path, "--arm", "heavy-first", "--json"))
    assert told["evaluations"] == {"network": 2, "stitched": 3} and told["networks"].keys() == {"network", "stitched"}
    out = tmp_path / "grid.png"
    invoke("sample", sweep.path, "--arm", "heavy-first", "--results", store.root, "--images", 4, "--out", out)
    with np.load(out.with_suffix(".npz")) as drawn:
        (swapped,) = cells_of(sweep, "heavy-first").values()
        assert np.array_equal(drawn["images"], images_of(store, swapped)[:4])


def test_the_training_of_the_second_network_is_paid_for_too(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    arms = by_arm(sweep)
    invoke("report", sweep.path, "--results", store.root)
    (panel,) = panels(load_rows(store.report_folder("stitch") / "cells.json"))
    base, light, heavy = (
        next(row for row in panel.measured if row.arm == arm) for arm in ("base", "light-first", "heavy-first")
    )
    shrunk = store.read_training(arms["shrunk"].id).seconds
    assert light.inherited_gmacs == pytest.approx(heavy.training_gmacs) and heavy.training_gmacs > 0
    assert light.inherited_seconds == shrunk and light.training_chain == (arms["shrunk"].id,)
    assert heavy.inherited_gmacs == pytest.approx(base.training_gmacs)
    assert added_share(panel, "base", base) == 0
    assert added_share(panel, "base", light) == pytest.approx(heavy.training_gmacs / base.training_gmacs)


def test_a_report_has_the_stitched_rows(made: tuple[Sweep, Store]) -> None:
    sweep, store = made
    invoke("report", sweep.path, "--results", store.root)
    table = (store.report_folder("stitch") / "table.md").read_text()
    assert all(arm in table for arm in ("light-first", "heavy-first", "light-last"))


def test_it_is_timed_again_with_both_networks(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    from harness.engine.cell import time_again

    sweep, store = made
    copied = Store(tmp_path / "results")
    shutil.copytree(store.root, copied.root)
    record = time_again(copied, cells_of(sweep, "light-first")[0.4].id)
    assert record.time is not None and record.time.share["stitched"] > 0


def test_it_waits_for_the_second_training_too(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    arms, cell = by_arm(sweep), cells_of(sweep, "light-first")[0.4]
    copied = Store(tmp_path / "results")
    shutil.copytree(store.training_folder(arms["base"].id), copied.training_folder(arms["base"].id))
    copied.save_experiment(cell.target, cell.experiment)
    with pytest.raises(Blocked, match=f"training {arms['shrunk'].id} has not finished"):
        jobs.run(copied, cell.target)
    planned = plan(sweep, copied)
    order = planned.targets()
    assert order.index(arms["shrunk"]) < order.index(cell.target) and planned.waits_for(cell.target) == (
        arms["shrunk"],
    )


def test_one_cell_trains_both_networks(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    results = tmp_path / "results"
    out = tmp_path / "grid.png"
    invoke("train", sweep.path, "--arm", "heavy-first", "--results", results)
    asked = ["sample", sweep.path, "--arm", "heavy-first", "--results", results, "--images", 4, "--out", out]
    done = CliRunner().invoke(app, [str(word) for word in asked])
    assert isinstance(done.exception, StoreError)
    assert f"sample.stitch: training {by_arm(sweep)['base'].id} has not finished; train the arm" in str(done.exception)
    record = json.loads(invoke("measure", sweep.path, "--arm", "heavy-first", "--results", results, "--json"))
    (cell,) = cells_of(sweep, "heavy-first").values()
    assert record["id"] == cell.id and record["quality"] == record_of(store, cell).plain["quality"]


def test_it_can_be_a_file(made: tuple[Sweep, Store], tmp_path: Path) -> None:
    sweep, store = made
    weights = tmp_path / "light.safetensors"
    shutil.copy(store.weights_path(by_arm(sweep)["shrunk"].id), weights)
    text = SWEEP[: SWEEP.index("  shrunk:")] + (
        f"  filed: {{set: {{sample.stitch: '{weights}', sample.stitch_share: 0.4}}}}\n"
    )
    filed, results = load_sweep(write(tmp_path, text)), Store(tmp_path / "results")
    shutil.copytree(store.training_folder(by_arm(sweep)["base"].id), results.training_folder(by_arm(filed)["base"].id))
    (cell,) = cells_of(filed, "filed").values()
    assert cell.needs == (by_arm(filed)["base"],)
    assert run_inline(plan(filed, results), results, Console(quiet=True)).is_complete
    assert np.array_equal(images_of(results, cell), images_of(store, cells_of(sweep, "light-first")[0.4]))
    moved = tmp_path / "moved.safetensors"
    weights.rename(moved)
    again = load_sweep(write(tmp_path, text.replace("light.safetensors", "moved.safetensors")))
    assert cells_of(again, "filed")[0.4].id == cell.id  # the content counts, not where it lies
    own = tmp_path / "own.yaml"
    narrow = "{set: {model.width: 4, model.head_width: 4, "
    own.write_text(text.replace("light.safetensors", "moved.safetensors").replace("{set: {", narrow))
    with pytest.raises(ConfigError, match=r"arm 'filed': sample\.stitch: it is this very network"):
        load_sweep(own)
    with pytest.raises(ConfigError, match=r"sample\.stitch: it is this very network"):
        load_experiment(own, arm="filed")
    save_tensors(moved, load_tensors(moved)[0], "0123456789abcdef")
    with pytest.raises(ConfigError, match=r"has no configuration in it, .* name the arm that trains it"):
        load_sweep(write(tmp_path, text.replace("light.safetensors", "moved.safetensors")))
    gone = load_sweep(write(tmp_path, text), without_data=True)
    assert cells_of(gone, "filed")[0.4].id.startswith(UNKNOWN_ID) and "does not exist" in gone.missing[0]
