"""Tables keep every cell, and what does not fit their columns is refused."""

import pytest

from partoken_jax.tables import markdown_table


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_table_is_written_as_expected():
    table = markdown_table(("model", "ms"), [("GVP", 12.5), ("ParToken", None)])
    assert table.splitlines() == [
        "| model    |   ms |",
        "|----------|-----:|",
        "| GVP      | 12.5 |",
        "| ParToken |      |",
    ]


def test_every_line_is_equally_wide_and_short_rows_are_filled():
    table = markdown_table(("a", "b", "c"), [("a long cell", 1), ("x", 2, "3")], "lrl")
    assert len({len(line) for line in table.splitlines()}) == 1
    assert cells(table) == [["a", "b", "c"], ["a long cell", "1", ""], ["x", "2", "3"]]


def test_a_bar_does_not_end_a_cell():
    assert r"a \| b" in markdown_table(("x",), [("a | b",)])


@pytest.mark.parametrize("rows, align", [([(1, 2, 3)], None), ([(1, 2)], "l"), ([(1, 2)], "lc")])
def test_what_does_not_fit_is_refused(rows, align):
    with pytest.raises(ValueError, match="columns"):
        markdown_table(("a", "b"), rows, align)
