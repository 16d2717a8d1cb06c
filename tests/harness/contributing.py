"""What CONTRIBUTING.md tells a person to write, as files."""

from __future__ import annotations

import re
import shutil
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
    """Our packages, to be changed."""
    for package in ("harness", "models"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
