"""The wheel, installed into an environment outside the repository: all that is read at run time is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["train.steps=2", "sample.steps=4", "sample.batch=40", "measure.images=40", "measure.latency.repeats=1"]
SET = [word for text in [*SMALL, "sample.sampler=ddim"] for word in ("--set", text)]


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, with the folder to work in."""

    environment: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        """What a program of the environment prints."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HARNESS_RESULTS")}
        done = subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.folder,
            env={**kept, "COLUMNS": "200", "HARNESS_CLUSTER": "inline"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The dependencies are those of this environment; the harness itself comes from the wheel alone."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not here")
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "init", "-q", place], check=True)  # it is not the harness that this checkout holds
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, place], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheel = place / done.stdout.split()[-1]
    environment = place / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    import torch

    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")  # their own .pth files are not read
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    made = subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (folder := place / "work").mkdir()
    return Installed(environment, folder)


def test_it_is_the_installed_one_that_runs(installed: Installed) -> None:
    code = "import harness, models; print(harness.__file__, models.__file__, harness.__version__, sep='\\n')"
    *files, version = installed.run("python", "-c", code).splitlines()
    assert all(Path(file).is_relative_to(installed.environment) for file in files)
    assert installed.run("harness", "--version").split() == ["harness", version]


def test_every_sweep_of_the_project_comes_with_it(installed: Installed) -> None:
    shipped = json.loads(
        installed.run("python", "-c", "import json, harness.shipped as s; print(json.dumps(s.names()))")
    )
    assert shipped == sorted(
        path.relative_to(ROOT / "sweeps").with_suffix("").as_posix() for path in (ROOT / "sweeps").rglob("*.yaml")
    )
    assert {"quickstart", "digits/frontier", "digits/seeds"} <= set(shipped)


def test_a_sweep_that_comes_with_it_is_planned_measured_and_reported(installed: Installed) -> None:
    plan = json.loads(installed.run("harness", "sweep", "quickstart", "--dry-run", "--json"))
    assert len(plan["cells"]) == 35 and list(installed.folder.iterdir()) == []
    record = json.loads(installed.run("harness", "measure", "quickstart", "--arm", "base", *SET, "--json"))
    assert record["quality"]["features"] == "digits"  # whose weights are in the wheel
    assert record["provenance"]["commit"] is None
    told = json.loads(installed.run("harness", "report", "quickstart", *SET, "--json"))
    report = installed.folder / told["report"]
    assert report.parent == installed.folder / "results"
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "harness report quickstart --set" in page and str(installed.environment) not in page
    assert installed.run("harness", "report", told["report"]).endswith("\n")


def test_all_that_lies_beside_the_code_is_in_it(installed: Installed) -> None:
    """Every file of the packages that is no module, and the literature's figures, byte for byte."""
    site = Path(installed.run("python", "-c", "import harness; print(harness.__path__[0])").strip()).parent
    listed = subprocess.run(
        ["git", "ls-files", "harness", "models"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("no git checkout")
    for file in listed:
        assert (site / file).read_bytes() == (ROOT / file).read_bytes(), file
    code = (
        "from harness.cli.report import reported_table; from pathlib import Path; print(reported_table(Path('none')))"
    )
    reported = Path(installed.run("python", "-c", code).strip())
    assert reported.is_relative_to(site)
    assert reported.read_bytes() == (ROOT / "results" / "reported.csv").read_bytes()
