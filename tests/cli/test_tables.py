"""Tables fit the terminal and lose nothing elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelplane.cli.tables import format_table

cells = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
tables = st.integers(1, 5).flatmap(
    lambda columns: st.lists(st.lists(cells, min_size=columns, max_size=columns), max_size=6)
)


@given(tables, st.integers(60, 200))
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    headers = [f"H{i}" for i in range(len(rows[0]) if rows else 1)]
    for line in format_table(headers, rows, width).splitlines():
        assert len(line) <= width


@given(tables)
def test_without_a_terminal_nothing_is_cut(rows: list[list[str]]) -> None:
    headers = [f"H{i}" for i in range(len(rows[0]) if rows else 1)]
    lines = format_table(headers, rows, None).split("\n")
    assert len(lines) == len(rows) + 1
    for row, line in zip(rows, lines[1:], strict=True):
        for cell in row:
            assert " ".join(cell.split()) in line


def test_a_table_as_it_looks() -> None:
    rows = [["fraud-1", "Ramping", "a message that is much too long to fit"]]
    assert format_table(["NAME", "PHASE", "MESSAGE"], rows, 40) == (
        "NAME     PHASE    MESSAGE\nfraud-1  Ramping  a message that is muc…"
    )
