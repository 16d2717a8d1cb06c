"""The sweep grammar, ids, and what a person sees of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.schema import key_types, parse_experiment
from harness.config.values import takes
from harness.dispatch.sweep import load_experiment, load_sweep, parse_overrides
from harness.errors import ConfigError
from harness.store.identity import identify
from models.limits import LOG_SIGMA_MEAN
from tests.harness.tiny_experiments import model_of


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
    assert {(model_of(e).width, model_of(e).light_width, e.seed, e.train.steps) for e in wide} == {(32, 1.0, 3, 7)}


def test_an_arm_of_a_file_that_extends_another_changes_only_the_keys_that_it_sets(tmp_path: Path) -> None:
    """Nested or dotted, null for what is left unset; its grid is the child's own."""
    write(
        tmp_path,
        "name: p\nbase: {model: {width: 16}}\narms:\n  a:\n    label: A\n"
        "    set: {model: {kind: dual_rate, light_width: 0.25}, train.steps: 9, sample.refreshes: 2}\n"
        "    grid: {sample.steps: [4, 8], sample.sampler: [ddim]}\n",
        "parent.yaml",
    )
    child = write(
        tmp_path,
        "name: c\nextends: parent.yaml\narms:\n  a:\n"
        "    set: {model.light_width: 0.75, sample: {refreshes: null, refresh_interval: 4}}\n"
        "    grid: {sample.steps: [16]}\n",
    )
    sweep = load_sweep(child)
    (cell,) = sweep.cells.values()
    experiment, model = cell.experiment, model_of(cell.experiment)
    assert (model.kind, model.width, model.light_width) == ("dual_rate", 16, 0.75)
    sample = experiment.sample
    assert (experiment.train.steps, sample.refreshes, sample.refresh_interval) == (9, None, 4)
    assert experiment.sample.sampler == "ancestral" and cell.rows == [("a", {"sample.steps": 16})]
    assert sweep.config.arms["a"].label == "A"


def test_id_covers_what_changes_figures_and_nothing_else() -> None:
    def ids(**sections: dict[str, object]) -> tuple[str, str]:
        return identify(parse_experiment(sections, "test"))

    training, cell = ids()
    assert ids(train={"log_every": 7, "checkpoint_every": 3, "workers": 1, "loggers": ["wandb"]}) == (training, cell)
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
    assert model_of(load_experiment(alone)).width == 8
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
    "boolean for a number": ("base: {train.steps: true}", r"train\.steps: a whole number is needed, not true"),
    "number in quotes": ("base: {train.steps: '10'}", r"train\.steps: '10' is text, not a number; write it as 10$"),
    "digits in groups": ("base: {train.steps: 1_000}", r"'1_000' is text, not a number; write it as 1000$"),
    "time for a number": ("base: {train.steps: 1:30}", r"train\.steps: '1:30' is text, not a number"),
    "part of a step": ("base: {train.steps: 1.5}", r"train\.steps: a whole number is needed, not 1\.5"),
    "infinity": ("base: {train.learning_rate: .inf}", r"train\.learning_rate: inf is no finite number"),
    "beyond a float": ("base: {train.learning_rate: 1e400}", r"train\.learning_rate: inf is no finite number"),
    "not a number": ("base: {train.ema: .nan}", r"train\.ema: nan is no finite number"),
    "too large to be meant": ("base: {model.width: 100000000000000000000}", r"model\.width: .*less than or equal to"),
    "a network for no machine": (
        "base: {model.multipliers: [1, 1.0e+300]}",
        r"model\.multipliers: .*less than or equal",
    ),
    "too many channels": ("base: {model: {width: 1000000, multipliers: [1, 8]}}", r"model\.width: .* 8e\+06 channels"),
    "no level": (
        "base: {model: {levels: [], multipliers: [], blocks: []}}",
        r"model\.levels: a list of values .* \[\]",
    ),
    "steps without end": ("base: {sample.steps: 2147483647}", r"sample\.steps: .*less than or equal to 100000"),
    "yes": ("base: {sample.clip: yes}", r"sample\.clip: 'yes' is text; write true$"),
    "off": ("base: {sample.clip: off}", r"sample\.clip: 'off' is text; write false$"),
    "truth as text": ("title: true", r"title: text is needed; write true in quotes"),
    "nothing": ("base: {train.steps: }", r"train\.steps: nothing is given; a whole number is needed"),
    "no pair": ("base: {diffusion.log_snr_range: [1]}", r"log_snr_range: a list of 2 numbers is needed, not \[1\]"),
    "one of two types": (
        "base: {model.kind: dual_rate, sample.refreshes: 4, train.refreshes: [1, 2, 3]}",
        r"train\.refreshes: a list of 2 whole numbers or a whole number is needed, not \[1, 2, 3\]$",
    ),
    "one of a list": ("base: {model.levels: [conv, tansformer]}", r"model\.levels: 'tansformer' .*'transformer'\?\)$"),
    "one of the seeds": ("seeds: [1, x]", r"seeds: 'x' is text, not a number; a whole number is needed"),
    "seed twice": ("seeds: [1, 1]", r"seeds: has a seed twice"),
    "seed of the base": ("base: {seed: 1}", r"base: seed: the seeds of a sweep's trainings stand at its top"),
    "misspelt key of a row": ("report: {base_row: {sample.stesp: 4}}", r"report\.base_row: sample\.stesp: unknown key"),
    "misspelt kind": ("report: {kinds: {sample.stesp: x}}", r"report\.kinds: sample\.stesp: unknown key"),
    "name with blanks": ("name: My sweep", r"name: 'My sweep' is no name; .* as 'my-sweep'$"),
    "choice": ("base: {sample.sampler: ddmi}", r"'ddmi' is not one of .*'heun'.*did you mean 'ddim'"),
    "zero steps": ("base: {sample.steps: 0}", r"sample\.steps: .*greater than or equal to 1, not 0"),
    "interval on single-rate": ("base: {sample.refresh_interval: 2}", "a single_rate model refreshes nothing"),
    "sampler's option": ("base: {sample.eta: 0.5}", r"sample\.eta: only ddim has it, the sampler is ancestral"),
    "path of digits": ("base: {data.path: /x}", r"data\.path: digits \(scikit-learn's 8×8 digits\) takes no path"),
    "guidance without classes": ("base: {sample.guidance: 2.0}", r"needs model\.class_conditional"),
    "list for section": ("base: {train: [1]}", r"train: is a section of keys, not \[1\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_message(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    name = "" if text.startswith("name:") else "name: s\n"
    path = write(tmp_path, f"{name}{text}\narms: {{a: {{}}}}\n")
    with pytest.raises(ConfigError, match=expected) as raised:
        load_sweep(path)
    assert str(path) in str(raised.value)


BAD_ARMS = {
    "interval over steps": (
        "set: {model.kind: dual_rate, sample.steps: 8, sample.refresh_interval: 9}",
        r"arm 'a'.*sample\.refresh_interval: 9 is not between 1 and 8",
    ),
    "missing interval": ("set: {model.kind: dual_rate}", r"sample\.refresh_interval: missing"),
    "unknown grid key": ("grid: {sample.stps: [1]}", r"grid: sample\.stps: unknown key \(did you mean 'sample\.steps'"),
    "empty axis": ("grid: {sample.steps: []}", r"sample\.steps: has no values"),
    "ragged zip": ("grid: {'sample.steps, seed': [[1, 2], 3]}", "3 is not a list of 2 values"),
    "axis twice": ("grid: {sample.steps: [1], 'seed, sample.steps': [[1, 2]]}", r"sample\.steps: appears twice"),
    "seed in a grid": ("grid: {seed: [1, 2]}", r"grid: seed: the seeds of a sweep's trainings stand at its top"),
    "seed in an arm": ("set: {seed: 1}", r"arm 'a': seed: the seeds of a sweep's trainings stand at its top"),
    "value twice": ("grid: {sample.steps: [1000, 4, 1e3]}", r"arm 'a': grid: sample\.steps: 1000 appears twice"),
    "nothing in it": ("", r"arms\.a: nothing is given; write \{\} where it changes nothing"),
    "like itself": ("like: a", "like: a → a goes round in a circle"),
    "like each other": ("like: b\n  b: {like: a}", "like: a → b → a goes round in a circle"),
    "like nobody": ("like: bsae", r"no arm 'bsae' \(did you mean 'base'"),
    "unknown arm key": ("grids: {}", r"arms\.a\.grids: unknown key \(did you mean 'grid'"),
    "light width of a single network": ("set: {model.light_width: 0.5}", "only a dual_rate model has it"),
    "cached dual-rate": (
        "set: {model.kind: dual_rate, sample.cache_from_level: 1, sample.refreshes: 2}",
        "cache_from_level: only a single_rate model has it, this one is dual_rate",
    ),
    "forecast without a cache": (
        "set: {sample.cache_order: 1}",
        r"sample\.cache_order: 1 is of a feature cache; set sample\.cache_from_level",
    ),
    "order that there is not": (
        "set: {sample.cache_from_level: 1, sample.refreshes: 2, sample.cache_order: 2}",
        r"sample\.cache_order: .*2",
    ),
    "channels of features that are not handed on": (
        "set: {model.kind: dual_rate, sample.refreshes: 2, model.context_levels: output, model.context_channels: 8}",
        r"model\.context_channels: with model\.context_levels: output no features are projected; leave it out",
    ),
    "EDM's times without EDM": (
        "set: {model.kind: dual_rate, sample.refreshes: 2, model.preconditioning: input, diffusion.log_sigma_std: 1}",
        r"diffusion\.log_sigma_std: nothing reads it without diffusion\.preconditioning: edm; leave it out",
    ),
}
READ_ARMS = (
    "{diffusion.preconditioning: edm, diffusion.sigma_data: 0.75, diffusion.log_sigma_std: 1}",
    "{model.kind: dual_rate, sample.refreshes: 2, model.preconditioning: conditional, diffusion.sigma_data: 0.75}",
    "{model.kind: dual_rate, sample.refreshes: 2, model.context_levels: last, model.context_channels: 8}",
    f"{{diffusion.log_sigma_mean: {LOG_SIGMA_MEAN}}}",
)


@pytest.mark.parametrize("keys", READ_ARMS)
def test_a_key_is_taken_where_something_reads_it(keys: str, tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path, f"name: s\narms:\n  a: {{set: {keys}}}\n")).cells


@pytest.mark.parametrize("case", BAD_ARMS)
def test_bad_arms(case: str, tmp_path: Path) -> None:
    text, expected = BAD_ARMS[case]
    path = write(tmp_path, f"name: s\narms:\n  base: {{}}\n  a:\n    {text}\n")
    with pytest.raises(ConfigError, match=expected):
        load_sweep(path)


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_sweep(write(tmp_path, text), overrides)
    return raised.value.problems


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "name: s\nbase: {train.steps: x, sample.steps: 0}\narms: {a: {}}\n")
    with pytest.raises(ConfigError) as raised:
        load_sweep(path)
    assert len(raised.value.problems) == 2


def test_a_problem_is_told_once_with_the_cells_that_have_it(tmp_path: Path) -> None:
    """Of the base with every arm, of an arm with it, of a varied key with its value; over three seeds."""
    text = (
        "name: s\nseeds: [0, 1, 2]\nbase: {sample.steps: 0}\narms:\n"
        "  a: {grid: {sample.sampler: [ancestral, dim], sample.batch: [1, 2]}}\n"
        "  b: {set: {model.width: 0}, grid: {sample.batch: [1, 2]}}\n  c: {set: {model.width: 0}}\n"
    )
    told = problems(tmp_path, text)
    assert len(told) == 3
    assert told[0].startswith("arm 'a' at sample.sampler=dim: sample.sampler: 'dim' is not one of") or told[
        1
    ].startswith("arm 'a' at sample.sampler=dim: sample.sampler: 'dim' is not one of")
    assert any(line.startswith("every arm: sample.steps: ") for line in told)
    assert any(line.startswith("arms 'b', 'c': model.width: ") for line in told)
    text = "name: s\narms: {a: {}, b: {set: {sampel.steps: 3}}, c: {set: {sampel.steps: 3}}, d: {set: {seed: 1}}}"
    assert [line.partition(" (")[0] for line in problems(tmp_path, text)] == [
        "arms 'b', 'c': sampel.steps: unknown key",
        "arm 'd': seed: the seeds of a sweep's trainings stand at its top, as seeds: [0, 1]",
    ]
    points = "name: s\narms: {a: {grid: {sample.refresh_interval: [1, 2, 3]}}, b: {}}"
    assert [line.partition(": sample")[0] for line in problems(tmp_path, points)] == ["arm 'a'"]
    dual = "set: {model.kind: dual_rate, sample.steps: 4}"
    some = f"name: s\narms: {{a: {{{dual}, grid: {{sample.refresh_interval: [4, 5, 6]}}}}}}"
    assert [line.partition(": sample")[0] for line in problems(tmp_path, some)] == [
        "arm 'a' at sample.refresh_interval=5",
        "arm 'a' at sample.refresh_interval=6",
    ]


WRONG_FILES = {
    "arm for arms": ("name: s\narm: {a: {}}", ["arm: unknown key (did you mean 'arms'?)"]),
    "no arms": ("name: s", ["arms: is missing"]),
    "arms without one": ("name: s\narms: {}", ["arms: a mapping of names, as {base: {}}, is needed"]),
    "arms as a list": ("name: s\narms: [a, b]", ["arms: a mapping of names, as {base: {}}, is needed"]),
    "an experiment": (
        "seed: 1\nsample.steps: 3",
        ["is one experiment, not a sweep, for it has no arms; harness train"],
    ),
    "empty": ("", ["is empty; a file of keys is needed, each as key: value"]),
    "comments alone": ("# nothing\n", ["is empty"]),
    "a list": ("- a\n- b\n", ["holds a list, not keys"]),
    "a text": ("quickstart", ["holds only 'quickstart', not keys"]),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_that_is_no_sweep_says_what_it_is(case: str, tmp_path: Path) -> None:
    text, expected = WRONG_FILES[case]
    told = problems(tmp_path, text)
    assert len(told) == len(expected)
    assert all(line.startswith(start) for line, start in zip(told, expected, strict=True)), told


def test_a_folder_for_a_file_and_a_sweep_for_an_experiment(tmp_path: Path) -> None:
    path = write(tmp_path, BASIC)
    for load in (load_sweep, load_experiment):
        with pytest.raises(ConfigError, match=rf"{tmp_path}: is a folder; a YAML file is needed; there are .*s\.yaml"):
            load(tmp_path)
    with pytest.raises(ConfigError, match="is a sweep; choose one with --arm; choices: base, dual-rate"):
        load_experiment(path)
    with pytest.raises(ConfigError, match=r"arm: unknown key \(did you mean 'arms'"):
        load_experiment(write(tmp_path, "arm: {a: {}}", "arm.yaml"))
    alone = write(tmp_path, "sample: {steps: 3}", "one.yaml")
    with pytest.raises(ConfigError, match="is one experiment and has no arms; leave out --arm base"):
        load_experiment(alone, arm="base")
    with pytest.raises(ConfigError, match="one experiment has a seed, as --set seed=3"):
        load_experiment(alone, ["seeds=[3]"])
    assert load_experiment(path, ["seeds=[3, 4]"], "base").seed == 3


def test_names_labels_and_titles_are_the_text_that_stands_there(tmp_path: Path) -> None:
    text = (
        "name: 2026\ntitle: 2026-11-25\nbase: {data.label: 1.50}\nreport: {base: 010}\n"
        "arms: {on: {label: 007}, off: {like: on}, 010: {label: no}, 8: {label: 1e3}, 1:30: {label: 2026-11-25}}\n"
    )
    sweep = load_sweep(write(tmp_path, text))
    labels = {name: arm.label for name, arm in sweep.config.arms.items()}
    assert labels == {"on": "007", "off": None, "010": "no", "8": "1e3", "1:30": "2026-11-25"}
    assert (sweep.config.name, sweep.config.title, sweep.config.report.base) == ("2026", "2026-11-25", "010")
    (cell,) = sweep.cells.values()
    assert cell.experiment.data.label == "1.50"


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    """In a base, a set, a grid and zipped; a row's varied values are those of its experiment."""
    text = (
        "name: s\nseeds: [1e1, 007]\n"
        "base: {train: {steps: 1e3, learning_rate: 1e-5}, train.batch: 064, data.size: 8.0}\n"
        "arms:\n  a:\n    set: {measure: {images: 2.0e2}}\n"
        "    grid: {'sample.steps, sample.batch': [[1e1, 08], [0x10, 0o17]]}\n"
    )
    sweep = load_sweep(write(tmp_path, text))
    found = [cell.experiment for cell in sweep.cells.values()]
    assert {(e.train.steps, e.train.learning_rate, e.train.batch, e.data.size) for e in found} == {(1000, 1e-5, 64, 8)}
    assert {e.seed for e in found} == {10, 7} and {e.measure.images for e in found} == {200}
    assert {(e.sample.steps, e.sample.batch) for e in found} == {(10, 8), (16, 15)}
    for cell in sweep.cells.values():
        sample = cell.experiment.sample
        assert [row for _, row in cell.rows] == [{"sample.steps": sample.steps, "sample.batch": sample.batch}]
        assert all(type(value) is int for _, row in cell.rows for value in row.values())


TEXTS = [
    "run #3", "*-train.zip", "a: b", "@x", "!x", "&x", "%x", "`x`", "'x'", '"x', "[x", "{x: y}", "on", "007", "1e3",
    "2026-11-25", "x ", "# x", "- x", "ü ×", "true", "a=b", "~", "None",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_the_command_line_is_taken_as_it_stands(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, "sample: {steps: 3}\n")
    assert load_experiment(path, [f"data.label={text}"]).data.label == text
    assert load_experiment(path, [f"measure.weights={text}"]).measure.weights == text


def test_values_on_the_command_line_are_read_by_the_type_of_their_key(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {label: x}\nsample: {steps: 3}\ntrain: {gradient_clip: 2}\n")
    assert load_experiment(path, ["data.label=null"]).data.label is None
    assert load_experiment(path, ["train.gradient_clip=null"]).train.gradient_clip is None
    changed = load_experiment(
        path,
        ["train.steps=1e3", "train.learning_rate=1e-5", "sample.seeds=[0, 1e1]", "sample.clip=false", "data.label = y",
         "sample.sampler=ddim", "data.channels=1", "train.batch=064"],
    )  # fmt: skip
    assert (changed.train.steps, changed.train.learning_rate, changed.train.batch) == (1000, 1e-5, 64)
    assert (changed.sample.seeds, changed.sample.clip, changed.sample.sampler) == ((0, 10), False, "ddim")
    assert (changed.data.label, changed.data.channels) == ("y", 1)
    for wrong, expected in {
        "sample.clip=yes": r"sample\.clip: 'yes' is text; write true",
        "sample.sampler=": r"sample\.sampler: '' is not one of",
        "train.steps=": r"train\.steps: nothing is given; a whole number is needed",
        "train.steps=[1": r"--set train\.steps: line .: did not find expected",
        "train.steps=1:30": r"'1:30' is text, not a number",
    }.items():
        with pytest.raises(ConfigError, match=expected):
            load_experiment(path, [wrong])


def test_an_argument_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set: .* is not UTF-8"):
        load_sweep(write(tmp_path, BASIC), ["data.label=caf\udce9"])


def test_an_override_of_what_is_varied_leaves_one_row(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, "name: s\narms: {a: {grid: {sample.steps: [4, 8]}}}\n"), ["sample.steps=16"])
    assert [cell.rows for cell in sweep.cells.values()] == [[("a", {})]]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seeds=[1, 1]", "has a seed twice"),
        ("steps", "is not key=value"),
        ("sample.stesp=1", "did you mean 'sample.steps'"),
        ("seeds=3", "a list"),
    ],
)
def test_bad_overrides(override: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_sweep(write(tmp_path, BASIC), [override])


def test_an_override_without_a_value_is_refused(tmp_path: Path) -> None:
    """As of a shell's variable that is not set: no key takes it for unset, which `null` says aloud."""
    optional = [key for key, kind in key_types().items() if takes(kind, type(None))]
    assert {"data.latents", "data.path", "data.label", "train.start", "sample.budget"} <= set(optional)
    for key in optional:
        with pytest.raises(ConfigError, match=rf"--set {key}: nothing stands after the =; give a value, or null to "):
            parse_overrides([f"{key}= "])
        assert parse_overrides([f"{key}=null"]) == {key: None}
    with pytest.raises(ConfigError, match="nothing stands after"):
        load_sweep(write(tmp_path, BASIC), ["data.latents="])


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, BASIC, "quickstart.yaml")
    with pytest.raises(ConfigError, match=r"did you mean '.*quickstart\.yaml'"):
        load_sweep(tmp_path / "quikstart.yaml")


def test_extends_what_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nextends: none.yaml\narms: {a: {}}\n")
    with pytest.raises(ConfigError, match=rf"{path}: extends: {tmp_path}/none\.yaml: no such file"):
        load_sweep(path)


def test_extends_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "name: a\nextends: b.yaml\narms: {a: {}}\n", "a.yaml")
    write(tmp_path, "name: b\nextends: a.yaml\narms: {a: {}}\n", "b.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        load_sweep(tmp_path / "a.yaml")
