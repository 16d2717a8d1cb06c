"""The sweep grammar, ids, and what a person sees of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import parse_experiment
from harness.errors import ConfigError
from harness.sweep import identify, load_experiment, load_sweep


def write(tmp_path: Path, text: str, name: str = "s.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


BASIC = """
name: s
base:
  model: {width: 16}
  sample.steps: 8
seeds: [0, 1]
arms:
  base:
    grid: {sample.sampler: [ancestral, ddim], sample.steps: [4, 8]}
  dual-rate:
    set: {model.kind: dual_rate}
    grid:
      model.light_width: [0.25, 0.5]
      sample.steps, sample.refresh_interval: [[8, 2], [8, 4]]
"""


def test_grid_zip_and_seeds_make_the_product(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, BASIC))
    assert len(sweep.cells) == 2 * (2 * 2) + 2 * (2 * 2)
    assert len(sweep.trainings) == 2 * (1 + 2)
    pairs = {
        (c.experiment.sample.steps, c.experiment.sample.refresh_interval)
        for c in sweep.cells.values()
        if c.experiment.model.kind == "dual_rate"
    }
    assert pairs == {(8, 2), (8, 4)}


def test_cells_of_one_configuration_are_one(tmp_path: Path) -> None:
    text = BASIC + "  again:\n    grid: {sample.steps: [4]}\n"
    sweep = load_sweep(write(tmp_path, text))
    assert len(sweep.cells) == 16
    shared = [c for c in sweep.cells.values() if len(c.rows) == 2]
    assert len(shared) == 2 and {arm for arm, _ in shared[0].rows} == {"base", "again"}


def test_like_inherits_an_arm_and_extends_a_file(tmp_path: Path) -> None:
    write(tmp_path, BASIC, "parent.yaml")
    child = write(
        tmp_path,
        "name: child\nextends: parent.yaml\nseeds: [3]\nbase: {train.steps: 7}\n"
        "arms:\n  base: null\n  wide: {like: dual-rate, set: {model: {width: 32}}, grid: {model.light_width: [1.0]}}\n",
    )
    sweep = load_sweep(child)
    arms = {arm for c in sweep.cells.values() for arm, _ in c.rows}
    assert arms == {"dual-rate", "wide"}
    wide = [c.experiment for c in sweep.cells.values() if c.rows[0][0] == "wide"]
    assert {(e.model.width, e.model.light_width, e.seed, e.train.steps) for e in wide} == {(32, 1.0, 3, 7)}


def test_id_covers_what_changes_figures_and_nothing_else() -> None:
    def ids(**sections: dict[str, object]) -> tuple[str, str]:
        return identify(parse_experiment(sections, "test"))

    training, cell = ids()
    assert ids(train={"log_every": 7, "checkpoint_every": 3, "workers": 1}) == (training, cell)
    assert ids(sample={"steps": 31})[0] == training and ids(sample={"steps": 31})[1] != cell
    assert ids(measure={"images": 99})[0] == training and ids(measure={"images": 99})[1] != cell
    assert ids(train={"learning_rate": 2e-4})[0] != training
    assert ids(train={"learning_rate": 2e-4})[1] != cell
    assert ids(train={"learning_rate": 1e-4}) == (training, cell)  # the default, said aloud


def test_set_overrides_every_cell_and_moves_the_report(tmp_path: Path) -> None:
    path = write(tmp_path, BASIC)
    sweep = load_sweep(path, ["train.steps=5", "seeds=[4]"])
    assert {(c.experiment.train.steps, c.experiment.seed) for c in sweep.cells.values()} == {(5, 4)}
    assert sweep.report_name != load_sweep(path).report_name == "s"


def test_one_experiment_from_a_file_or_an_arm(tmp_path: Path) -> None:
    alone = write(tmp_path, "sample: {steps: 3}\nmodel.width: 8\n", "one.yaml")
    assert load_experiment(alone).model.width == 8
    path = write(tmp_path, BASIC)
    assert load_experiment(path, arm="dual-rate").sample.refresh_interval == 2
    with pytest.raises(ConfigError, match="did you mean 'dual-rate'"):
        load_experiment(path, arm="dual-rat")
    with pytest.raises(ConfigError, match="--arm"):
        load_experiment(path)


BAD = {
    "unknown key": ("base: {model.widht: 3}", r"base: model\.widht: unknown key \(did you mean 'model\.width'\?\)"),
    "unknown section": ("base: {modle: {width: 3}}", r"modle: unknown key \(did you mean 'model'\?\)"),
    "duplicate key": ("base: {train.steps: 3}\nseeds: [0]\nseeds: [1]", "line 4: key 'seeds' appears twice"),
    "duplicate nested and dotted": ("base: {train: {steps: 3}, train.steps: 4}", r"train\.steps: appears twice"),
    "wrong type": ("base: {train.steps: many}", r"train\.steps: 'many' is text, not a number"),
    "whole number": ("base: {train.steps: 2.5}", r"train\.steps: .*2\.5"),
    "boolean for a number": ("base: {train.steps: true}", r"train\.steps: .*True"),
    "1e-4 is text": ("base: {train.learning_rate: 1e-4}", r"train\.learning_rate: '1e-4' is text in YAML.*0\.0001"),
    "1e4 steps": ("base: {train.steps: 1e4}", r"train\.steps: '1e4' is text"),
    "choice": ("base: {sample.sampler: ddmi}", r"'ddmi' is not one of .*'heun'.*did you mean 'ddim'"),
    "zero steps": ("base: {sample.steps: 0}", r"sample\.steps: .*greater than or equal to 1, not 0"),
    "interval on single-rate": ("base: {sample.refresh_interval: 2}", "a single_rate model refreshes nothing"),
    "sampler's option": ("base: {sample.eta: 0.5}", r"sample\.eta: only ddim has it, the sampler is ancestral"),
    "path of digits": ("base: {data.path: /x}", r"data\.path: the digits come with scikit-learn"),
    "guidance without classes": ("base: {sample.guidance: 2.0}", r"needs model\.class_conditional"),
    "list for section": ("base: {train: [1]}", r"train: is a section of keys, not \[1\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_message(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    path = write(tmp_path, f"name: s\n{text}\narms: {{a: {{}}}}\n")
    with pytest.raises(ConfigError, match=expected) as raised:
        load_sweep(path)
    assert str(path) in str(raised.value)


BAD_ARMS = {
    "interval over steps": (
        "set: {model.kind: dual_rate, sample.steps: 8, sample.refresh_interval: 9}",
        r"arm 'a'.*sample\.refresh_interval: 9 is more than the 8 steps",
    ),
    "missing interval": ("set: {model.kind: dual_rate}", r"sample\.refresh_interval: missing"),
    "unknown grid key": ("grid: {sample.stps: [1]}", r"grid: sample\.stps: unknown key \(did you mean 'sample\.steps'"),
    "empty axis": ("grid: {sample.steps: []}", r"sample\.steps: has no values"),
    "ragged zip": ("grid: {'sample.steps, seed': [[1, 2], 3]}", "3 is not a list of 2 values"),
    "axis twice": ("grid: {sample.steps: [1], 'seed, sample.steps': [[1, 2]]}", r"sample\.steps: appears twice"),
    "like nobody": ("like: bsae", r"no arm 'bsae' \(did you mean 'base'"),
    "unknown arm key": ("grids: {}", r"arms\.a\.grids: unknown key \(did you mean 'grid'"),
    "light width of a single network": ("set: {model.light_width: 0.5}", "only a dual_rate model has it"),
    "cached dual-rate": (
        "set: {model.kind: dual_rate, sample.cache_from_level: 1, sample.refreshes: 2}",
        "only a single_rate model can be cached",
    ),
}


@pytest.mark.parametrize("case", BAD_ARMS)
def test_bad_arms(case: str, tmp_path: Path) -> None:
    text, expected = BAD_ARMS[case]
    path = write(tmp_path, f"name: s\narms:\n  base: {{}}\n  a:\n    {text}\n")
    with pytest.raises(ConfigError, match=expected):
        load_sweep(path)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "name: s\nbase: {train.steps: x, sample.steps: 0}\narms: {a: {}}\n")
    with pytest.raises(ConfigError) as raised:
        load_sweep(path)
    assert len(raised.value.problems) == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [("steps", "is not key=value"), ("sample.stesp=1", "did you mean 'sample.steps'"), ("seeds=3", "a list")],
)
def test_bad_overrides(override: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_sweep(write(tmp_path, BASIC), [override])


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, BASIC, "quickstart.yaml")
    with pytest.raises(ConfigError, match=r"did you mean '.*quickstart\.yaml'"):
        load_sweep(tmp_path / "quikstart.yaml")


def test_extends_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "name: a\nextends: b.yaml\narms: {a: {}}\n", "a.yaml")
    write(tmp_path, "name: b\nextends: a.yaml\narms: {a: {}}\n", "b.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        load_sweep(tmp_path / "a.yaml")
