"""How a group of commands is listed in its help."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperGroup


class Commands(TyperGroup):
    """The commands of this program, each with the whole first sentence of its help, however long."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(command.help or "")) for name, command in self.commands.items()])


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s|\n\n", text.strip(), maxsplit=1)[0].replace("\n", " ")
