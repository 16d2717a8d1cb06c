"""What commands share: the console, JSON, and errors as one message."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from harness.errors import FULL, FULL_CURE, HarnessError

COMPUTING = frozenset(
    {"sweep", "adapt", "train", "sample", "schedule", "measure", "reference", "time", "latency", "retry"}
)
"""Commands that run networks."""


def console(json_output: bool = False) -> Console:
    """The console for people; on stderr where a script reads stdout.

    Text is printed as it is: a title or the name of a folder may look like rich's markup. So no call needs to switch
    markup or highlighting off.
    """
    return Console(stderr=json_output, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say(text: str, out: Console, style: str | None = None) -> None:
    """Print text, broken between words on a terminal and on one line where a program reads it."""
    out.print(text, style=style, soft_wrap=not out.is_terminal)


def print_json(value: Any) -> None:
    """One JSON document on stdout; escaped where stdout cannot carry every character."""
    ascii_only = not str(getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=ascii_only)
    sys.stdout.write(text + "\n")


def main_of(program: Callable[[list[str]], Any], arguments: list[str]) -> None:
    """Run `program`: an error that a person can put right is one message and status 2, without a traceback."""
    _replace_unprintable()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        program(arguments)
    except (KeyboardInterrupt, SystemExit) as ending:  # typer ends the process itself after a Ctrl-C
        stop = _interrupt_of(ending)
        if stop is None:
            raise
        console(json_output=True).print(str(stop) or "stopped")
        sys.exit(INTERRUPTED)
    except HarnessError as error:
        _print_error(str(error))
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        _print_error(_describe_system_error(error))
        sys.exit(2)
    except UnicodeEncodeError as error:
        if not error.encoding.startswith(("ascii", "latin", "iso")):
            raise
        _print_error(f"{error.object!r} cannot be named in this locale ({error.encoding}); set PYTHONUTF8=1")
        sys.exit(2)


INTERRUPTED = 130
"""Exit status after a Ctrl-C."""


MENDABLE = {
    *FULL,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EMFILE,
}
"""Errors of the system that a person can put right."""


def _interrupt_of(ending: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C behind the end of a program, if one is."""
    while ending is not None and not isinstance(ending, KeyboardInterrupt):
        if isinstance(ending, SystemExit) and ending.code != INTERRUPTED:
            return None
        ending = ending.__cause__ or ending.__context__
    return ending


def _replace_unprintable() -> None:
    """Keep a character that the terminal cannot show from ending a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _print_error(text: str) -> None:
    console(json_output=True).print(f"error: {text}", style="red")


def _describe_system_error(error: OSError) -> str:
    """The system's message, with the file and what to do about it."""
    place = f"{error.filename}: " if error.filename else ""
    cure = f"; {FULL_CURE}" if error.errno in FULL else ""
    return f"{place}{error.strerror}{cure}"
