"""Texts of users: UTF-8 whatever the locale, never read as markup; what a terminal cannot print does not end a run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import app as cli
from harness.cli.console import main_of
from harness.files import as_unicode
from tests.harness.tiny import SWEEP, command, environment, write_sweep

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("harness", "models", "tools", ".ci") for path in (ROOT / folder).rglob("*.py"))
NOT_OF_PATHS = {"os", "Image", "tarfile", "zipfile", "webbrowser"}
"""Modules whose `open` opens no text."""
C_LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def is_unspecified(call: ast.Call) -> bool:
    """Whether `call` reads or writes text in the encoding of the locale."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named:
        return False
    if any(isinstance(named.get(key), ast.Constant) and named[key].value for key in ("text", "universal_newlines")):  # type: ignore[attr-defined]
        return True
    match call.func:
        case ast.Attribute(attr="read_text" | "write_text"):
            return True
        case ast.Attribute(attr="NamedTemporaryFile" | "TemporaryFile"):
            return is_text(call.args[0] if call.args else named.get("mode"), "w+b")
        case ast.Name(id="open"):
            return is_text(call.args[1] if len(call.args) > 1 else named.get("mode"), "r")
        case ast.Attribute(attr="open", value=ast.Name(id=module)) if module in NOT_OF_PATHS:
            return False
        case ast.Attribute(attr="open"):
            return is_text(call.args[0] if call.args else named.get("mode"), "r")
    return False


def is_text(mode: ast.expr | None, default: str) -> bool:
    value = default if mode is None else mode.value if isinstance(mode, ast.Constant) else ""
    return isinstance(value, str) and set(value) <= set("rwax+bt") and value != "" and "b" not in value


def calls(path: Path) -> Iterator[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_every_text_names_its_encoding() -> None:
    assert len(SOURCES) > 80
    places = ((path.relative_to(ROOT), call) for path in SOURCES for call in calls(path))
    assert [f"{path}:{call.lineno}" for path, call in places if is_unspecified(call)] == []


@pytest.mark.parametrize(
    "code",
    ["open(x)", "open(x, 'a')", "p.open()", "p.open('w')", "p.read_text()", "p.write_text(s)", "run(c, text=True)",
     "tempfile.NamedTemporaryFile('w')"],
)  # fmt: skip
def test_what_is_looked_for(code: str) -> None:
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert is_unspecified(call)
    call.keywords.append(ast.keyword("encoding", ast.Constant("utf-8")))
    assert not is_unspecified(call)


IN_C_LOCALE = """
import warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"(harness|models)(\\.|$)")
from harness.cli.app import main
main()
"""
TITLE = "Größe × 日本 [/b] [old] :smile:"
IN_MARKDOWN = TITLE.replace("[", r"\[").replace("]", r"\]")
ARM, LABEL = "bäse [/b]", r"ä× [/x] [red] :smile: $\foo$ | <b> & %_#"
STRANGE = SWEEP.replace("A tiny sweep", f"'{TITLE}'").replace("  base: {grid", f"  {ARM}: {{label: '{LABEL}', grid")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[bytes]]:
    """(sweep file, results, the run) of a sweep with texts that look like markup, in the C locale."""
    folder = tmp_path_factory.mktemp("strange") / "r [old] [red] :smile:"
    folder.mkdir()
    sweep = write_sweep(folder, STRANGE.replace("steps: 30", "steps: 6"))
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", IN_C_LOCALE, "sweep", sweep],
        env={**environment(folder), **C_LOCALE},
        capture_output=True,
        timeout=300,
        check=False,
    )
    return sweep, folder, done


def test_a_sweep_in_the_c_locale(strange: tuple[Path, Path, subprocess.CompletedProcess[bytes]]) -> None:
    """From the file to the report, and no file is read or written in the encoding of the locale on the way."""
    _, results, done = strange
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (results / "tiny" / "table.md").read_text(encoding="utf-8").startswith(f"# {IN_MARKDOWN}\n")
    printed = done.stdout.decode()
    replaced = {text: text.encode("ascii", "replace").decode() for text in (TITLE, ARM, LABEL)}
    assert f"{replaced[TITLE]}: 2 trainings and 3 cells to run" in printed
    assert f"done     training for {replaced[ARM]} seed=0" in printed
    assert replaced[LABEL] in printed and f"report: {results / 'tiny'}" in printed


def test_texts_are_printed_as_they_are(
    strange: tuple[Path, Path, subprocess.CompletedProcess[bytes]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    sweep, results, _ = strange
    at = ["--results", results]
    one = [sweep, "--arm", ARM, *at]
    for arguments, expected in (
        (["status", sweep, *at], ARM),
        (["report", sweep, *at], LABEL),
        (["report", results / "tiny"], LABEL),
        (["train", *one], f"{results}/runs/trainings/"),
        (["measure", *one], f"record: {results}/runs/cells/"),
        (["sample", *one, "--images", 3, "--out", results / "x.png"], f"3 images: {results / 'x.png'} and {results}"),
    ):
        run_here(*arguments)
        assert expected in capsys.readouterr().out, arguments
    with pytest.raises(SystemExit, match="2"):
        run_here("train", sweep, "--arm", "[/b]", *at)
    assert f"error: {sweep}: no arm '[/b]' (did you mean {ARM!r}?); choices: {ARM}, dual" in capsys.readouterr().err


def test_names_that_are_not_utf8(
    strange: tuple[Path, Path, subprocess.CompletedProcess[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep file may have one, and is named in the report; results may not: no weights can be read from there."""
    sweep, results, _ = strange
    odd = results / os.fsdecode(b"caf\xe9.yaml")
    odd.write_bytes(sweep.read_bytes())
    run_here("report", odd, "--results", results)
    page = (results / "tiny" / "index.html").read_text(encoding="utf-8")
    assert "caf\N{REPLACEMENT CHARACTER}.yaml" in page
    with pytest.raises(SystemExit, match="2"):
        run_here("sweep", sweep, "--results", results / os.fsdecode(b"caf\xe9"))
    assert "caf?' is not UTF-8; rename it, or link to it by another name" in capsys.readouterr().err
    assert as_unicode(os.fsdecode("é".encode())) == "é"


def run_here(*arguments: object) -> None:
    """The command line in this process."""
    main_of(lambda given: cli.app(given, standalone_mode=False), [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("variables", "extra", "status"),
    [(C_LOCALE, [], 0), ({"PYTHONIOENCODING": "latin-1"}, ["--json"], 0), (C_LOCALE, ["--set", "data.lable=日本"], 2)],
)
def test_a_plan_is_printed_whatever_the_terminal_can_show(
    variables: dict[str, str], extra: list[str], status: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*command("sweep", write_sweep(tmp_path, STRANGE), "--dry-run"), *extra],
        env={**environment(tmp_path / "results"), **variables},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status and b"Traceback" not in done.stderr, done.stderr
    if extra == ["--json"]:  # a script gets every character
        assert any(row["label"].startswith(f"{ARM} ") for row in json.loads(done.stdout)["cells"])
