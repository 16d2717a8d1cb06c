"""The house's floors: an import goes down, or stays in its own room; never up, never aside, never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = "harness"
"""The room of the modules that lie right under harness/: errors, files, words. They know no package beside them."""
FLOORS = (
    ("harness.api", "harness.benchmarks"),
    ("harness.cli",),
    ("harness.dispatch",),
    ("harness.engine", "harness.report"),
    ("harness.store",),
    ("harness.measure",),
    ("harness.data",),
    ("harness.config",),
    ("harness.metrics",),
    (BASE,),
    ("models",),
)
"""From the top down. Rooms of one floor do not import each other."""
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The room that a module of the project lies in: ``harness.engine`` of ``harness.engine.cell``."""
    package, _, rest = module.partition(".")
    room = f"{package}.{rest.partition('.')[0]}"
    return room if room in FLOOR_OF else package


def imports(path: Path, modules: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(module of the project, line) of each import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in submodules]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] in ("harness", "models"))


def project() -> dict[str, Path]:
    """Every module of the project with its file."""
    found = {}
    for package in ("harness", "models"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def broken(modules: dict[str, Path]) -> list[str]:
    """Every import that goes up, or aside to another room."""
    known = project()
    return [
        f"{path}:{line}: {here} imports {there}"
        for module, path in modules.items()
        for imported, line in imports(path, known)
        if (here := room_of(module)) != (there := room_of(imported)) and FLOOR_OF[there] <= FLOOR_OF[here]
    ]


def circle(modules: dict[str, Path]) -> list[str]:
    """The modules of a circle of imports, if there is one. A package is what its ``__init__`` imports."""
    arrows = {name: {imported for imported, _ in imports(path, modules)} - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_down() -> None:
    assert broken(project()) == []


def test_no_circle_of_imports() -> None:
    assert circle(project()) == []


def test_every_package_has_a_floor() -> None:
    packages = {f"harness.{path.parent.name}" for path in (ROOT / "harness").glob("*/__init__.py")}
    assert packages | {"harness", "models"} == set(FLOOR_OF)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("models.uvit", "from harness.config.schema import Experiment"),
        ("models.uvit", "from harness import errors"),
        ("harness.store.store", "from harness.engine import jobs"),
        ("harness.data.images", "def late():\n    import harness.cli.app"),
        ("harness.errors", "from harness.config.dotted import flatten"),
        ("harness.report.page", "from harness.engine.build import build_model"),
    ],
)
def test_a_broken_floor_is_found(module: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(line, encoding="utf-8")
    assert len(broken({module: file})) == 1


def test_a_circle_is_found(tmp_path: Path) -> None:
    for name, text in {
        "a": "from models import b",
        "b": "def late():\n    from models.c import d",
        "c": "import models.a",
    }.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    assert set(circle({f"models.{name}": tmp_path / f"{name}.py" for name in "abc"})) == {
        "models.a",
        "models.b",
        "models.c",
    }
