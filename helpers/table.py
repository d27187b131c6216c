"""Rows of text as people read them: in columns, and no wider than where they are shown."""

import os
import sys
import textwrap
from collections.abc import Sequence

from torpor.talk import plain

_WIDTH = 80
_NARROWEST = 40
_GAP = "  "
_CUT = "..."


def width() -> int:
    """How wide a line may be: as the terminal, and unbounded (0) where output goes elsewhere."""
    if not sys.stdout.isatty():
        return 0
    try:
        found = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        found = 0
    return max(found or _WIDTH, _NARROWEST)


def lines(
    header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, right: str = "", width: int = 0
) -> list[str]:
    """The rows below a header, nothing where there are none.

    right names the columns of numbers. Where width bounds it the last column is cut.
    """
    if not rows:
        return []
    shown = [header, *(tuple(plain(cell) for cell in row) for row in rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(header))]
    numbers = [name in right.split() for name in header]
    found = []
    for row in shown:
        cells = [
            cell.rjust(size) if number else cell.ljust(size)
            for cell, size, number in zip(row, widths, numbers, strict=True)
        ]
        found.append(cut(_GAP.join(cells).rstrip(), width))
    return found


def section(title: str, rows: list[str], width: int) -> list[str]:
    """Rows below a title, nothing where there are none."""
    return ["", f"{title}:", *(cut(f"  {row}", width) for row in rows)] if rows else []


def cut(line: str, width: int) -> str:
    """A line that is no longer than width; 0 does not bound it."""
    return line if not width or len(line) <= width else line[: width - len(_CUT)] + _CUT


def labelled(label: str, value: object, width: int = 0) -> list[str]:
    """A value after what it is, over as many lines as it takes."""
    indent = 14
    words = plain(value)
    first = f"{label + ':':<{indent}}"
    if not width:
        return [first + words]
    return textwrap.wrap(words, width, initial_indent=first, subsequent_indent=" " * indent)
