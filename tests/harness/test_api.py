"""`import harness`: a study that is loaded, run, reported, drawn from and measured, as the commands do it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

import harness
from harness.api.study import Study
from harness.dispatch.sweep import load_sweep
from harness.store.store import Store
from tests.harness.tiny import harness as command_line
from tests.harness.tiny import write_sweep

ROOT = Path(__file__).parents[2]
SWEEP = """
name: small
base:
  model: {kind: single_rate, width: 8, multipliers: [1], levels: [conv], blocks: [1], embedding: 16}
  train: {steps: 3, batch: 8}
  sample: {steps: 2, batch: 16, seeds: [0, 1]}
  measure: {images: 40, latency: {batch: 4, repeats: 1, warmup: 0}}
arms:
  base: {grid: {sample.sampler: [ddim, heun]}}
  dual-rate:
    set: {model.kind: dual_rate}
    grid: {"sample.steps, sample.refresh_interval": [[4, 2]]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("api")
    write_sweep(place, SWEEP, "small.yaml")
    return place


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    loaded: Study = harness.load_sweep(folder / "small.yaml", results=folder / "results")
    assert not (folder / "results").exists()  # loading writes nothing
    before = loaded.report()
    assert list(before["status"]) == ["missing"] * 3 and not loaded.cells()["done"].any()
    return loaded.run(quiet=True)


def test_the_report_is_the_table_that_the_command_writes(study: Study, folder: Path) -> None:
    frame = study.report()
    assert frame["arm"].tolist() == ["base", "base", "dual-rate"] and (frame["status"] == "measured").all()
    made = command_line(folder / "results", "sweep", folder / "small.yaml")
    assert made.returncode == 0 and "nothing runs" in made.stdout
    written = pd.read_csv(folder / "results" / "small" / "table.csv")
    written["time_reasons"] = written["time_reasons"].astype(object).fillna("")  # of times that are to be trusted
    pd.testing.assert_frame_equal(written, frame, check_dtype=False, rtol=1e-5)
    again = harness.load_report(folder / "results" / "small")
    pd.testing.assert_frame_equal(again, frame)


def test_cells_tell_what_is_done(study: Study) -> None:
    cells = study.cells()
    assert cells["done"].all() and len(cells) == 3 and cells["training"].nunique() == 2
    assert cells["sample.sampler"].tolist()[:2] == ["ddim", "heun"]
    assert "small" in repr(study) and "3 cells" in repr(study)


def test_measure_returns_the_record_that_lies_on_disk(study: Study) -> None:
    record = study.measure("base", settings={"sample.sampler": "heun"})
    cells = study.cells()
    (id,) = cells[cells["sample.sampler"] == "heun"]["cell"]
    assert record == study.store.read_cell(id).plain and record["compute"]["evaluations"] == {"network": 3}


def test_measure_makes_one_cell_and_what_it_needs_alone(folder: Path) -> None:
    other: Study = harness.load_sweep(folder / "small.yaml", results=folder / "one")
    record = other.measure("dual-rate", quiet=True)
    cells = other.cells()
    assert cells[cells["done"]]["cell"].tolist() == [record["id"]]
    assert os.listdir(folder / "one" / "runs" / "trainings") == [record["training"]]  # noqa: PTH208


def test_samples_are_the_cells_images_and_the_same_at_any_batch(study: Study, folder: Path) -> None:
    images = study.sample("dual-rate", images=20)
    assert images.dtype == np.uint8 and images.shape == (20, 8, 8, 1)
    (id,) = study.cells().query("arm == 'dual-rate'")["cell"]
    with np.load(study.store.samples_path(id)) as kept:  # the same network, sampling seed 0
        assert (kept["images"][:20].transpose(0, 2, 3, 1) == images).all()
    assert (study.sample("dual-rate", images=3) == images[:3]).all()
    assert (study.sample("dual-rate", images=3, seed=1) != images[:3]).any()


def test_set_changes_keys_as_the_command_line_does(folder: Path) -> None:
    values = {"train.learning_rate": 1e-5, "sample.seeds": [3, 4], "train.gradient_clip": None, "seeds": [0, 1]}
    own: Study = harness.load_sweep(folder / "small.yaml", set={**values, "sample.sampler": "ddim"})
    texts = [
        "train.learning_rate=1.0e-5",
        "sample.seeds=[3,4]",
        "train.gradient_clip=null",
        "seeds=[0,1]",
        "sample.sampler=ddim",
    ]
    assert own.sweep.cells.keys() == load_sweep(folder / "small.yaml", texts).cells.keys()
    config = own.config("base")
    assert config["train"]["learning_rate"] == 1e-5 and config["sample"]["seeds"] == [3, 4]


def test_a_sweep_that_comes_with_it_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_RESULTS", raising=False)
    found: Study = harness.load_sweep("quickstart")
    assert found.sweep.config.name == "quickstart" and len(found.sweep.cells) == 35
    assert found.store == Store(Path("results")) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda study: study.sample("bass"), "choices: base, dual-rate"),
        (lambda study: study.sample(), "choices: base, dual-rate"),
        (lambda study: study.sample("base", settings={"sample.sampler": "euler"}), '{"sample.sampler": "ddim"}'),
        (lambda study: study.sample("base", images=0), "at least 1"),
        (lambda study: study.run(cluster="slurm"), "harness sweep FILE --cluster slurm submits"),
        (lambda study: study.run(workers=2), "cluster='local'"),
        (lambda study: study.report("fid"), "measured"),
        (lambda study: harness.load_sweep("quickstat"), "did you mean 'quickstart'?"),
        (lambda study: harness.load_sweep("quickstart", set={"train.step": 1}), "did you mean 'train.steps'?"),
        (lambda study: harness.load_sweep("quickstart", set={"train.steps": object()}), "no plain value"),
        (lambda study: harness.load_report(study.store.root), "not the folder of a report"),
    ],
)
def test_what_a_person_can_put_right_is_said(study: Study, call, said: str) -> None:
    with pytest.raises(harness.HarnessError) as caught:
        call(study)
    assert said in str(caught.value)


def test_sampling_never_trains(folder: Path, tmp_path: Path) -> None:
    untrained: Study = harness.load_sweep(folder / "small.yaml", results=tmp_path / "results")
    with pytest.raises(harness.HarnessError, match="run\\(\\) trains it"):
        untrained.sample("base")
    assert not (tmp_path / "results").exists()


def test_failures_are_raised_once_all_else_is_done(folder: Path, tmp_path: Path, monkeypatch) -> None:
    from harness.engine import train

    def fails_for_dual_rate(*arguments, **keys):
        if arguments[0].model.kind == "dual_rate":
            raise RuntimeError("no luck")
        return trained(*arguments, **keys)

    trained = train.train_network
    monkeypatch.setattr(train, "train_network", fails_for_dual_rate)
    broken: Study = harness.load_sweep(folder / "small.yaml", results=tmp_path / "results")
    with pytest.raises(harness.RunFailed, match="no luck") as caught:
        broken.run(quiet=True)
    assert len(caught.value.failures) == 2 and broken.report()["status"].str.count("measured").sum() == 2


def python(code: str, folder: Path) -> str:
    """What a script prints that runs in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_harness_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "('torch', 'numpy', 'pandas', 'matplotlib', 'pydantic', 'typer', 'rich')"
    code = (
        f"import sys, harness; print([m for m in {heavy} if m in sys.modules]); "
        "print(sorted({'load_sweep', 'load_report', 'Study', '__version__'} - set(dir(harness)))); "
        "harness.load_sweep; print('torch' in sys.modules)"
    )
    assert python(code, tmp_path).splitlines() == ["[]", "[]", "False"]


def test_the_parts_of_the_package_keep_their_names(tmp_path: Path) -> None:
    """`harness.report` and `harness.measure` are packages, whatever was imported first."""
    code = "import harness; harness.load_sweep; import harness.report, harness.measure; print(harness.report.panels)"
    assert "function panels" in python(code, tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'sweeps'"):
        vars(harness)["__getattr__"]("sweeps")


def test_the_stub_tells_what_there_is() -> None:
    """Type checkers read the stub, Python the lazy attributes: they name the same."""
    stub = ast.parse((Path(harness.__file__).parent / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(harness.API)
    told = [node.target for node in stub.body if isinstance(node, ast.AnnAssign)]
    assert all(hasattr(harness, target.id) for target in told if isinstance(target, ast.Name))


def test_version_and_completion(tmp_path: Path) -> None:
    said = command_line(tmp_path, "--version")
    assert said.returncode == 0 and said.stdout == f"harness {harness.__version__}\n"
    variables = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": "harness sw", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['harness']; from harness.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["sweep"], done.stderr
    assert "--install-completion" in command_line(tmp_path, "--help").stdout


def test_the_page_names_every_call() -> None:
    """docs/python.md names exactly what there is."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`harness\.(\w+)\(", page)) == {"load_sweep", "load_report"}
    calls = {name for name, call in vars(Study).items() if callable(call) and not name.startswith("_")}
    assert set(re.findall(r"`study\.(\w+)\(", page)) == calls


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("HARNESS_RESULTS", raising=False)
    notebook = nbformat.read(ROOT / "notebooks" / "python.ipynb", as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "(16, 8, 8, 1) uint8" in printed and "table.csv" in printed
    assert outputs[-1]["data"]["text/plain"] == "True"
    assert (tmp_path / "results" / "small" / "index.html").exists()
