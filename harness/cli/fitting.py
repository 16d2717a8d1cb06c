"""A report's table within the width of a terminal: no row is ever broken into two lines, nor made like another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from harness.wording import count_of

SHOWN_ROWS = 100
"""Rows that a terminal shows; all are in the report."""
NAMES = ("method", "sampler", "steps", "refreshes")
COSTS = ("GMACs/image", "s/image")
LEFT = ("method", "sampler")
"""Columns that are set flush left."""
FIRST_TO_GO = ("timed on", "interval", "seeds", "time speed-up", "compute speed-up", "s/image")
"""Columns that are left out where there is no room, after other measures of quality and before what varies."""
LEAST_NAME = 6
"""Fewest letters that a name is cut to."""
SHORT_STATUS = 12
"""Fewest letters that the reason why a row has no result is cut to."""


def fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], distance: str, width: int | None
) -> tuple[Table, str]:
    """The table in `width` letters (whole where that is None), and what was left out of it, in words.

    First the columns move closer together, then the least useful ones go: other measures of quality, times, what else
    varies, unless two rows would look alike without it. What stands in place of a `distance` is cut short, and names
    last of all.
    """
    shown = rows[:SHOWN_ROWS]
    texts = {column: [row[place] for row in shown] for place, column in enumerate(columns)}
    if width is not None:
        measured = [cell_len(text) for text in texts[distance] if text[:1].isdigit()]
        texts[distance] = [_shortened(text, max([SHORT_STATUS, *measured])) for text in texts[distance]]
    kept = list(columns)
    told_apart = _telling(columns, distance)
    going = _going(columns, distance)
    while (gap := _gap(kept, texts, width)) is None and going:
        spare = next((column for column in going if not _makes_alike(column, kept, texts, told_apart)), None)
        if spare is None:
            break
        going.remove(spare)
        kept.remove(spare)
    if gap is None:
        _shrink(kept, texts, width or 0)
        while (gap := _gap(kept, texts, width)) is None and going:  # no terminal that anybody reads is so narrow
            kept.remove(going.pop(0))
    gap = gap or 1
    gone = [column for column in columns if column not in kept]
    parts = [f"without {count_of(len(gone), 'column')} ({', '.join(gone)})"] if gone else []
    if len(rows) > len(shown):
        parts.append(f"without {count_of(len(rows) - len(shown), 'more row')}")
    return _table(kept, texts, gap), " and ".join(parts)


def _going(columns: Sequence[str], distance: str) -> list[str]:
    """The columns that may go, in the order in which they go."""
    known = [*NAMES, distance, *COSTS, *FIRST_TO_GO]
    place = list(columns).index(distance)
    measures = [column for column in columns[place + 1 :] if column not in known]
    varied = [column for column in columns[:place] if column not in known]
    order = ["timed on", *reversed(measures), *FIRST_TO_GO[1:], *reversed(varied), "refreshes", "GMACs/image"]
    return [column for column in order if column in columns]


def _telling(columns: Sequence[str], distance: str) -> list[str]:
    """The columns that say which row is which: names, and all that varies."""
    before = columns[: list(columns).index(distance)]
    return [column for column in columns if column in NAMES or column in before]


def _makes_alike(
    column: str, kept: Sequence[str], texts: Mapping[str, Sequence[str]], told_apart: Sequence[str]
) -> bool:
    """Whether two rows would look alike without a column that do not with it."""
    if column not in told_apart:
        return False
    rest = [texts[one] for one in kept if one in told_apart and one != column]
    without = list(zip(*rest, strict=True)) if rest else [()] * len(texts[column])
    return len(set(without)) < len(set(zip(without, texts[column], strict=True)))


def _gap(kept: Sequence[str], texts: Mapping[str, Sequence[str]], width: int | None) -> int | None:
    """Letters between columns; None where they do not fit."""
    return next((gap for gap in (2, 1) if width is None or _width(kept, texts, gap) <= width), None)


def _width(kept: Sequence[str], texts: Mapping[str, Sequence[str]], gap: int) -> int:
    return sum(_column_width(column, texts[column]) for column in kept) + gap * (len(kept) - 1)


def _column_width(column: str, texts: Sequence[str]) -> int:
    return max(map(cell_len, [*_head(column).split("\n"), *texts]))


def _head(column: str) -> str:
    """A column's name, its words above each other."""
    return column.replace("/", "/\n").replace(" ", "\n")


def _shrink(kept: Sequence[str], texts: dict[str, list[str]], width: int) -> None:
    """Cut names until the columns fit: the method's is the last. Different names stay different."""
    for column in ("sampler", "method"):
        over = _width(kept, texts, 1) - width
        if over > 0 and column in kept:
            texts[column] = _cut(texts[column], max(_column_width(column, texts[column]) - over, LEAST_NAME))


def _cut(names: Sequence[str], room: int) -> list[str]:
    """Names in `room` letters: without their ends, or without their middles where ends tell them apart.

    They get more room where they would look alike otherwise.
    """
    for length in range(room, max(map(cell_len, names), default=room)):
        for shorten in (_shortened, _without_middle):
            cut = {name: shorten(name, length) for name in names}
            if len(set(cut.values())) == len(cut):
                return [cut[name] for name in names]
    return list(names)


def _shortened(text: str, length: int) -> str:
    return text if cell_len(text) <= length else f"{set_cell_size(text, length - 1).rstrip()}…"


def _without_middle(text: str, length: int) -> str:
    if cell_len(text) <= length:
        return text
    tail = (length - 1) // 2
    end = next(text[start:] for start in range(len(text)) if cell_len(text[start:]) <= tail)
    return f"{set_cell_size(text, length - 1 - tail).rstrip()}…{end}"


def _table(kept: Sequence[str], texts: dict[str, list[str]], gap: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for column in kept:
        table.add_column(Text(_head(column)), justify="left" if column in LEFT else "right", no_wrap=True)
    for line in zip(*(texts[column] for column in kept), strict=True):
        table.add_row(*map(Text, line))
    return table
