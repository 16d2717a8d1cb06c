"""Methods as plugins: how they are named and checked, which keys they have, what their source is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import plugins
from harness.config import methods
from harness.config.dotted import load_kinds
from harness.config.methods import method_of, source_of
from harness.config.schema import Experiment, ModelConfig, SampleConfig, TrainConfig, as_plain, parse_experiment
from harness.dispatch.slurm.snapshot import take_snapshot
from harness.dispatch.sweep import load_sweep
from harness.engine.build import build_model
from harness.engine.estimate import expected_runs, image_info, network_costs_of, planned_costs, training_gmacs_per_step
from harness.engine.train import build_training, optimise, training_data
from harness.errors import ConfigError, HarnessError
from harness.measure.flops import UnknownOperatorError
from harness.store.identity import identify
from harness.store.store import Store
from models.method import run_network
from models.methods import METHODS
from models.objective import Randomness
from tests.harness.tiny_experiments import model_of, tiny

ROOT = Path(__file__).parents[2]
PLAIN = """
import torch
from pydantic import Field
from torch import nn

from models.methods import Method, Settings


class Keys(Settings):
    depth: int = Field(1, ge=1, description="layers")


class Net(nn.Module):
    def __init__(self, channels, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))

    def forward(self, z, log_snr, labels=None):
        for layer in self.layers:
            z = layer(z)
        return z


class Plain(Method):
    model_settings = Keys

    def build_network(self, config, images):
        return Net(images.channels, config.model.depth)
"""
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into a folder on Python's path; answers with the kind `MODULE:Plain`. All is forgotten after."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(methods, "_loaded", dict(methods._loaded))
    monkeypatch.setattr(plugins, "_loaded", {})
    before = set(sys.modules)
    names = iter(range(100))

    def make(text: str = PLAIN, name: str | None = None) -> str:
        module = name or f"made_up_{abs(hash(tmp_path))}_{next(names)}"
        path = folder / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return f"{module}:Plain"

    yield make
    for added in set(sys.modules) - before:
        if added.startswith(("made_up", "pack", "helper")):
            del sys.modules[added]


def reloaded(kind: str) -> plugins.Source:
    """The source as another process would see it now."""
    del methods._loaded[kind], plugins._loaded[kind]
    module = kind.partition(":")[0].partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        del sys.modules[name]
    source = source_of(kind)
    assert source is not None
    return source


# --- names and faces --------------------------------------------------------------------------------------

REFUSED = {
    "no such module": ("no_such_module:Plain", "cannot be imported: ModuleNotFoundError: No module named"),
    "no such class": ("{kind}er", "cannot be found: .* has no 'Plainer'; it has Keys, Net, Plain"),
    "no name at all": ("a b:c", "is no package.module:NAME"),
    "no method": ("harness.errors:HarnessError", "is no method: a subclass of models.methods.Method is needed"),
    "misspelt": ("single_rat", "is not one of 'single_rate', 'dual_rate' .did you mean 'single_rate'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_method_is_one_message(case: str, write: Write) -> None:
    kind, message = REFUSED[case]
    with pytest.raises(ConfigError, match=rf"^test: model\.kind: .*{message}"):
        parse_experiment({"model": {"kind": kind.format(kind=write())}}, "test")


FACES = {
    "an error in the module": ("raise RuntimeError('no licence')", "cannot be imported: RuntimeError: no licence"),
    "a module that ends the process": ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
    "a missing import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "no network": (
        "from models.methods import Method\nclass Plain(Method): pass",
        "has neither build nor build_network",
    ),
    "settings of another kind": (
        PLAIN.replace("model_settings = Keys", "model_settings = dict"),
        "has model_settings that are no subclass of models.methods.Settings",
    ),
    "a key without a default": (PLAIN.replace("Field(1, ge", "Field(ge"), r"has model\.depth without a default"),
    "a key that all have": (
        PLAIN.replace("model_settings", "train_settings").replace("depth", "steps"),
        r"has train\.steps, which every method has already",
    ),
}


@pytest.mark.parametrize("case", FACES)
def test_a_class_without_the_face_of_a_method_is_one_message(case: str, write: Write) -> None:
    text, message = FACES[case]
    with pytest.raises(ConfigError, match=message) as raised:
        parse_experiment({"model": {"kind": write(text)}}, "test")
    assert len(raised.value.problems) == 1


NETWORKS = {
    "no module": ("return 3", "builds int, which is no torch.nn.Module"),
    "no step": ("return nn.Linear(1, 1)", "builds Linear, which has no networks"),
    "bad sizes": ("raise ValueError('depth: too deep')", "^model: depth: too deep"),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_without_the_face_of_a_model_are_one_message(case: str, write: Write) -> None:
    body, message = NETWORKS[case]
    kind = write(f"{PLAIN}\n    def build(self, config, images):\n        {body}\n")
    experiment = parse_experiment({"model": {"kind": kind}}, "test")
    with pytest.raises(ConfigError, match=message):
        build_model(experiment, image_info(experiment))


RAISING = {
    "a check of keys": (
        "    @pydantic.field_validator('depth')\n    def check(cls, depth):\n        return {1: 1}[depth]\n",
        "",
        r"fails to check its keys: KeyError: 4 \(.*\.py, line \d+\)",
    ),
    "a check of sections": (
        "",
        "def check(self, config):\n        config.nothing",
        r"fails to check its keys: AttributeError: .* \(.*made_up.*\.py, line \d+\)",
    ),
    "a default of another type": (
        "    size: int = 'two'\n",
        "",
        "model.size with the default 'two', which it does not",
    ),
    "a default that JSON lacks": (
        "    model_config = {'arbitrary_types_allowed': True}\n    kind_of: torch.dtype = torch.float32\n",
        "",
        "has a default in model_settings that JSON cannot hold",
    ),
}


@pytest.mark.parametrize("case", RAISING)
def test_settings_that_fail_are_one_message(case: str, write: Write) -> None:
    keys, of_method, message = RAISING[case]
    text = PLAIN.replace("class Keys(Settings):\n", f"import pydantic, torch\nclass Keys(Settings):\n{keys}")
    kind = write(f"{text}\n    {of_method}\n")
    with pytest.raises(ConfigError, match=message) as raised:
        parse_experiment({"model": {"kind": kind, **({"depth": 4} if case == "a check of keys" else {})}}, "test")
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('boom')", r"cannot be built and run: RuntimeError: boom \(.*\.py, line \d+\)"),
        ("return nn.Conv2d(1, 1, 3)", "cannot be built and run: TypeError"),
    ],
)
def test_a_network_that_cannot_be_built_or_run_is_one_message_before_anything_is_trained(
    body: str, message: str, write: Write
) -> None:
    kind = write(f"{PLAIN}\n    def build_network(self, config, images):\n        {body}\n")
    experiment = parse_experiment({"model": {"kind": kind}}, "test")
    with pytest.raises(ConfigError, match=message):
        training_gmacs_per_step(experiment)


def test_a_package_that_hides_another_of_its_name_is_named(write: Write, tmp_path: Path) -> None:
    write("", "pack.__init__")
    with pytest.raises(ConfigError, match=rf"the package 'pack' that Python finds first lies in {tmp_path}/path/pack"):
        parse_experiment({"model": {"kind": "pack.elsewhere:Plain"}}, "test")


def test_what_is_imported_relatively_counts_without_an_init_too(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "path"
    write("WIDTH = 1\n", "pack_bare.deep.widths")
    kind = write(f"from .deep.widths import WIDTH\n{PLAIN}", "pack_bare.nets")
    source = source_of(kind)
    assert source is not None and Path("pack_bare/deep/widths.py") in source.files
    (folder / "pack_bare" / "deep" / "widths.py").write_text("WIDTH = 2\n")
    assert reloaded(kind).digest != source.digest


def test_what_cannot_be_parsed_beside_it_is_part_of_the_source(write: Write) -> None:
    write("def (", "helper_broken")
    kind = write(f"{PLAIN}\n    def late(self):\n        import helper_broken\n")
    source = source_of(kind)
    assert source is not None and Path("helper_broken.py") in source.files


def test_the_command_line_ends_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: s\narms: {a: {set: {model.kind: 'no_such:Net', model.depth: 3}}}\n")
    command = [sys.executable, "-P", "-m", "harness.cli", "sweep", "s.yaml", "--cluster", "inline"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("model.kind") == 1, done.stderr
    assert not (tmp_path / "results").exists()


def test_an_entry_point_gives_a_short_name(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = write()
    info = tmp_path / "path" / "made_up-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[harness.methods]\nshort = {kind}\n")
    assert model_of(parse_experiment({"model": {"kind": "short", "depth": 2}}, "test")).depth == 2
    with pytest.raises(ConfigError, match="did you mean 'short'"):
        parse_experiment({"model": {"kind": "shrot"}}, "test")


def test_a_name_that_two_packages_announce_is_refused_with_both(write: Write, tmp_path: Path) -> None:
    kind = write()
    for name, value in (("one", kind), ("two", f"{kind}2")):
        info = tmp_path / "path" / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[harness.methods]\nshort = {value}\n")
    with pytest.raises(ConfigError, match="announced by several installed packages; name one of ") as refused:
        parse_experiment({"model": {"kind": "short"}}, "test")
    assert kind in str(refused.value) and f"{kind}2" in str(refused.value)


# --- keys -------------------------------------------------------------------------------------------------


def test_keys_of_a_method_are_known_wherever_a_sweep_has_them(write: Write, tmp_path: Path) -> None:
    kind = write()
    parent, child = tmp_path / "parent.yaml", tmp_path / "child.yaml"
    parent.write_text(f"name: p\nbase: {{model: {{kind: '{kind}'}}}}\narms: {{a: {{grid: {{model.depth: [1, 2]}}}}}}\n")
    child.write_text("extends: parent.yaml\nname: c\narms: {b: {like: a, set: {model.depth: 5}}}\n")
    sweep = load_sweep(child)
    assert sorted(model_of(cell.experiment).depth for cell in sweep.cells.values()) == [1, 2]
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "name: g\narms: {a: {grid: {'model.kind, model.depth, model.width': "
        f"[['{kind}', 3, null], [single_rate, null, 8]]}}}}}}\n"
    )
    models = [cell.experiment.model for cell in load_sweep(grid).cells.values()]
    assert [getattr(model, "depth", None) for model in models] == [3, None]
    assert [getattr(model, "width", None) for model in models] == [None, 8]
    with pytest.raises(ConfigError, match=r"model\.dpeth: unknown key \(did you mean 'model\.depth'"):
        load_sweep(child, ["model.dpeth=3"])
    overridden = load_sweep(child, [f"model.kind={kind}", "model.depth=7"])
    assert {model_of(cell.experiment).depth for cell in overridden.cells.values()} == {7}


def test_a_kind_named_by_an_override_alone_has_its_keys(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nbase: {model.depth: 2}\narms: {a: {}}\n")
    (cell,) = load_sweep(path, [f"model.kind={write()}"]).cells.values()
    assert model_of(cell.experiment).depth == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"light_width": 0.5}}, "model.light_width: only a dual_rate model has it, this one is single_rate"),
        ({"train": {"pairs": "grid"}}, "train.pairs: only a dual_rate model has it, this one is single_rate"),
        (
            {"model": {"kind": "KIND", "width": 8}},
            "model.width: only single_rate, dual_rate models have it, this one is KIND",
        ),
        ({"model": {"kind": "KIND", "depht": 8}}, "model.depht: unknown key (did you mean 'depth'?)"),
        ({"model": {"kind": "KIND"}, "sample": {"refreshes": 2}}, "sample.refreshes: a KIND model refreshes nothing"),
        ({"model": {"kind": "KIND", "depth": 0}}, "model.depth: input should be greater than or equal to 1, not 0"),
    ],
)
def test_a_key_that_the_kind_does_not_have_is_refused(values: dict[str, Any], message: str, write: Write) -> None:
    kind = write()
    load_kinds({"model.kind": kind}, "test")
    model = {**values.get("model", {})}
    if "kind" in model:
        model["kind"] = kind
    with pytest.raises(ConfigError) as raised:
        parse_experiment({**values, "model": model}, "test")
    assert raised.value.problems[0].startswith(message.replace("KIND", kind))


def test_an_arm_leaves_out_an_inherited_key_by_null(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    arm = f"set: {{model.kind: '{write()}'"
    head = "name: s\nbase: {model: {width: 8}}\narms:\n  base: {}\n  a: "
    path.write_text(f"{head}{{{arm}}}}}\n")
    with pytest.raises(ConfigError, match=r"arm 'a': model\.width: only .* null leaves out a key that an arm inherits"):
        load_sweep(path)
    path.write_text(
        f"name: s\nbase: {{model: {{width: 8}}}}\narms: {{base: {{}}, a: {{{arm}, model.width: null}}}}}}\n"
    )
    assert len(load_sweep(path).cells) == 2


def test_null_is_a_key_left_out() -> None:
    assert parse_experiment({"model": {"light_width": None}}, "test") == parse_experiment({}, "test")
    given = {"model": {"kind": "dual_rate", "context_levels": None}, "sample": {"refreshes": 2}}
    assert model_of(parse_experiment(given, "test")).context_levels == "all"


# --- Python -----------------------------------------------------------------------------------------------


def test_an_experiment_made_in_python_is_one_read_from_a_file() -> None:
    plain = {
        "model": {"kind": "dual_rate", "width": 8, "blocks": [1, 1]},
        "train": {"pairs": "grid"},
        "sample": {"refreshes": 2},
    }
    read = parse_experiment(plain, "a file")
    # Sections take the keys of every method, which no type checker knows.
    model_class: Any = ModelConfig
    train_class: Any = TrainConfig
    sample_class: Any = SampleConfig
    made = Experiment(
        model=model_class(kind="dual_rate", width=8, blocks=(1, 1)),
        train=train_class(pairs="grid"),
        sample=sample_class(refreshes=2),
    )
    assert made == read == Experiment(**plain) and identify(made) == identify(read)
    train: Any = made.train
    assert train.refreshes == 8 and model_of(made).light_width == 0.5
    assert parse_experiment(as_plain(made), "again") == made
    sample: Any = Experiment(sample=sample_class(cache_from_level=1, refreshes=2)).sample
    assert sample.cache_from_level == 1


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"light_width": 0.5}},
        {"model": {"kind": "dual_rate"}},
        {"train": {"steps": "many"}, "sample": {"stpes": 3}},
        {"model": {"kind": "dual"}},
    ],
)
def test_an_experiment_made_in_python_complains_as_one_read_from_a_file(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as made:
        Experiment(**values)
    with pytest.raises(ConfigError) as read:
        parse_experiment(values, "a file")
    assert made.value.problems == read.value.problems


# --- the source -------------------------------------------------------------------------------------------


def training_id(kind: str) -> str:
    return identify(parse_experiment({"model": {"kind": kind}}, "test"))[0]


def test_the_ids_of_a_methods_trainings_are_of_its_source(write: Write, tmp_path: Path) -> None:
    kind = write()
    before = training_id(kind)
    module = tmp_path / "path" / f"{kind.partition(':')[0]}.py"
    module.write_text(PLAIN + "# edited\n")
    reloaded(kind)
    assert training_id(kind) != before
    module.write_text(PLAIN)
    reloaded(kind)
    assert training_id(kind) == before


def test_a_package_is_its_source_whole_and_what_lies_beside_it_where_it_is_imported(
    write: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "path"
    write("", "pack.__init__")
    write("def late():\n    import helper_b\n", "helper_a")
    write("", "helper_b")
    write("", "helper_unused")
    write("import os, types, torch, models.methods\nimport helper_a\n", "pack.deep.inner")
    (folder / "pack" / "widths.json").write_text("[1]")
    (folder / "types.py").write_text("raise SystemExit('the standard library is not what lies here')")
    (folder / "pack" / "__pycache__").mkdir(exist_ok=True)
    kind = write(PLAIN, "pack.nets")
    source = source_of(kind)
    assert source is not None and source.folder == folder
    assert [file.as_posix() for file in source.files] == [
        "helper_a.py",
        "helper_b.py",
        "pack/__init__.py",
        "pack/deep/inner.py",
        "pack/nets.py",
        "pack/widths.json",
    ]
    (folder / "pack" / "widths.json").write_text("[2]")
    assert reloaded(kind).digest != source.digest


def test_a_copy_for_jobs_has_the_source_and_tells_the_same_ids(write: Write, tmp_path: Path) -> None:
    kind = write()
    expected = training_id(kind)
    copied = take_snapshot(Store(tmp_path / "results"))
    module = kind.partition(":")[0]
    (tmp_path / "path" / f"{module}.py").unlink()
    script = (
        "import sys\n"
        "from harness.config.schema import parse_experiment\n"
        "from harness.store.identity import identify\n"
        f"print(identify(parse_experiment({{'model': {{'kind': '{kind}'}}}}, 'test'))[0])\n"
        f"print(sys.modules['{module}'].__file__)\n"
    )
    environment = {"PYTHONPATH": str(copied), "PYTHONSAFEPATH": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, str(copied / f"{module}.py")]


def test_the_working_directory_is_looked_into_last(tmp_path: Path) -> None:
    (tmp_path / "my_nets.py").write_text(PLAIN)
    (tmp_path / "yaml.py").write_text("raise SystemExit('hides a package')")
    script = (
        "from harness.config.methods import source_of\n"
        "import yaml\n"
        "print(source_of('my_nets:Plain').files[0], yaml.__version__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("my_nets.py ")


# --- what compiles, counts and times asks the method ------------------------------------------------------


def test_a_plain_module_is_counted_with_classes_too(write: Write) -> None:
    values = {
        "model": {"kind": write(), "class_conditional": True, "depth": 2},
        "sample": {"sampler": "ddim", "steps": 5},
    }
    experiment = parse_experiment(values, "test")
    assert network_costs_of(experiment)["network"].macs == 2 * 9 * 64
    assert planned_costs(experiment, image_info(experiment))["network"].macs == 2 * 9 * 64
    assert expected_runs(experiment) == {"network": 5}


PAST_RUN = PLAIN + (
    "\n    def build(self, config, images):\n"
    "        model = super().build(config, images)\n"
    "        model.step = lambda z, log_snr, labels=None, state=None, run=None: (model.network(z, log_snr), ())\n"
    "        return model\n"
)


def test_what_runs_past_run_cannot_be_counted_and_is_said(write: Write) -> None:
    experiment = parse_experiment({"model": {"kind": write(PAST_RUN)}}, "test")
    with pytest.raises(UnknownOperatorError, match="runs no network through `run`, so there is nothing to count"):
        expected_runs(experiment)


def one_step(experiment: Experiment) -> torch.Tensor:
    device = torch.device("cpu")
    dataset = training_data(experiment)
    state, objective = build_training(experiment, dataset.info, device)
    images, labels = dataset.load(range(experiment.train.batch))
    from harness.data.loader import Batch

    batch = Batch(images, labels, torch.arange(experiment.train.batch))
    return optimise(state, objective, experiment, batch, experiment.train.batch, device)


def test_what_runs_past_run_cannot_be_compiled_and_is_said(write: Write) -> None:
    experiment = parse_experiment({"model": {"kind": write(PAST_RUN)}, "train": {"compile": True, "batch": 4}}, "test")
    with pytest.raises(HarnessError, match=r"train\.compile: .*nothing to compile"):
        one_step(experiment)


@pytest.mark.parametrize("kind", METHODS)
def test_a_training_step_runs_each_network_as_often_as_the_method_says(kind: str) -> None:
    experiment = tiny(kind, train={"denoiser_times": 3} if kind == "dual_rate" else {})
    method, info = method_of(kind), image_info(experiment)
    model, runs = build_model(experiment, info), []

    def counting(name: str, function: Any, *inputs: Any) -> Any:
        runs.append(name)
        return run_network(name, function, *inputs)

    from harness.engine.build import build_schedule

    loss = method.loss(experiment, build_schedule(experiment.diffusion, info.size))
    loss(model, torch.zeros(2, 1, 8, 8), None, Randomness(0, 0, torch.arange(2)), run=counting)
    said = method.runs_per_iteration(experiment)
    assert {name: runs.count(name) for name in runs} == {name: said.get(name, 1) for name in model.networks}  # type: ignore[union-attr]


def test_a_check_that_says_nothing_is_told_by_its_line(write: Write) -> None:
    """A bare assert, over several keys and over one."""
    checks = """
    @model_validator(mode="after")
    def _odd(self):
        assert self.depth % 2
        return self

    @field_validator("depth")
    @classmethod
    def _shallow(cls, depth):
        assert depth < 9
        return depth
"""
    text = PLAIN.replace("from pydantic import Field", "from pydantic import Field, field_validator, model_validator")
    kind = write(text.replace('description="layers")\n', f'description="layers")\n{checks}'))
    with pytest.raises(
        ConfigError, match=r"test: model: its keys together do not pass a check \(assert self\.depth % 2; "
    ):
        parse_experiment({"model": {"kind": kind, "depth": 2}}, "test")
    with pytest.raises(
        ConfigError, match=r"test: model\.depth: 11 does not pass a check \(assert depth < 9; .*line \d+"
    ):
        parse_experiment({"model": {"kind": kind, "depth": 11}}, "test")
