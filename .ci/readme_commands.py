"""Print the commands of a README's shell blocks that are marked to be run: those after a line `<!-- ci -->`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path


def commands(text: str) -> Iterator[str]:
    """Each line of the ```sh blocks that follow a mark."""
    marked = inside = False
    for line in text.splitlines():
        if line.strip() == "<!-- ci -->":
            marked = True
        elif marked and line.startswith("```sh"):
            marked, inside = False, True
        elif inside and line.startswith("```"):
            inside = False
        elif inside and line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


if __name__ == "__main__":
    found = list(commands(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if not found:
        sys.exit(f"{sys.argv[1]}: no marked commands")
    print("\n".join(found))
