"""Plain tables that fit the terminal. Pure: rows in, text out.

Called by the commands that list. No colour, no frames: what is printed can be read by `awk`.
"""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "
_NARROWEST = 8


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return rows in columns under their headers.

    Parameters
    ----------
    headers
        In capitals by convention.
    rows
        Each as long as `headers`. Line breaks become spaces.
    width
        Columns of the terminal; the widest cells are cut with ``…`` until a line fits. None
        cuts nothing, for output that goes into a file or a pipe.

    Examples
    --------
    >>> print(format_table(["NAME", "PHASE"], [["fraud-1", "Ramping"]], None))
    NAME     PHASE
    fraud-1  Ramping
    """
    cells = [list(headers), *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    if width is not None:
        widths = _shrink(widths, width)
    lines = []
    for row in cells:
        fitted = [_cut(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)]
        lines.append(_GAP.join(fitted).rstrip())
    return "\n".join(lines)


def _shrink(widths: list[int], width: int) -> list[int]:
    """Take from the widest columns until all fit, or none is wider than the narrowest."""
    widths = list(widths)
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0 and max(widths, default=0) > _NARROWEST:
        widest = max(range(len(widths)), key=lambda i: (widths[i], i))
        widths[widest] -= 1
        excess -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
