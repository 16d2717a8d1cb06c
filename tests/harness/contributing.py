"""What CONTRIBUTING.md tells a person to write, as files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
BLOCK = re.compile(r"<!-- (?P<what>.+?): (?P<path>\S+) -->\n```\w+\n(?P<text>.*?)```\n", re.DOTALL)


def blocks(section: str) -> list[tuple[str, str, str]]:
    """(what it is, path, text) of each block of code under the heading `section` that says where it belongs."""
    text = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = [(match["what"], match["path"], match["text"]) for match in BLOCK.finditer(text)]
    assert found, section
    return found


def follow(section: str, folder: Path) -> list[Path]:
    """Do in `folder` what the section says; returns the files that were written or changed."""
    for what, name, text in blocks(section):
        path = folder / name
        if what == "file":
            assert not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        before = what.removeprefix("line after ")
        assert what != before and len(text.strip().splitlines()) == 1, "a section takes a file and a line"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        place = next(number for number, line in enumerate(lines) if line.lstrip().startswith(before))
        path.write_text("".join([*lines[: place + 1], text, *lines[place + 1 :]]), encoding="utf-8")
    return [folder / name for _, name, _ in blocks(section)]


def copy_of_the_source(folder: Path) -> Path:
    """Our packages, to be changed; with what Python has compiled of them, since the copies keep their times."""
    for package in ("harness", "models"):
        shutil.copytree(ROOT / package, folder / package)
    return folder


COMMANDS = """
import contextlib, io, json, sys
from harness.cli import app
for words in json.loads(sys.argv[1]):
    sys.argv = ["harness", *words]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as complained:
        try:
            status = app.main() or 0
        except SystemExit as end:
            status = int(end.code or 0)
    print(json.dumps([status, said.getvalue(), complained.getvalue()]))
"""


def run_each(
    folder: Path, *commands: Sequence[str], source: Path = ROOT, **further: str
) -> list[subprocess.CompletedProcess[str]]:
    """The command lines in `folder`, of the packages in `source`, one after another in one process."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **further}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", COMMANDS, json.dumps(commands)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    ended = [json.loads(line) for line in ran.stdout.splitlines()]
    return [subprocess.CompletedProcess(words, *end) for words, end in zip(commands, ended, strict=True)]
