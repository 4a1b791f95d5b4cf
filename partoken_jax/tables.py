"""Markdown tables, as reports, documents and the terminal show them."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], align: str | None = None) -> str:
    """A Markdown table whose columns are as wide as their widest cell, so that plain text reads well too.

    Args:
      header: names of the columns.
      rows: cells of every row. A cell is written with `str`, and None is an empty cell. A row may be shorter
        than the header; the cells that it lacks are empty.
      align: a letter per column, "l" or "r". By default the first column is aligned left, the others right.

    Raises ValueError for a row longer than the header, or for an `align` of another length.
    """
    align = "l" + "r" * (len(header) - 1) if align is None else align
    if len(align) != len(header) or set(align) - {"l", "r"}:
        raise ValueError(f"align is {align!r}, but must be one of l and r for each of {len(header)} columns")
    lines = [[_cell(name) for name in header]]
    for row in rows:
        if len(row) > len(header):
            raise ValueError(f"a row has {len(row)} cells, but the table has {len(header)} columns: {row}")
        cells = [_cell(cell) for cell in row]
        lines.append(cells + [""] * (len(header) - len(cells)))
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = [
        "-" * (width + 2) if side == "l" else "-" * (width + 1) + ":"
        for side, width in zip(align, widths, strict=True)
    ]
    text = [
        "| " + " | ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, side, width in zip(cells, align, widths, strict=True)
        ) + " |"
        for cells in lines
    ]  # fmt: skip
    return "\n".join([text[0], f"|{'|'.join(rule)}|", *text[1:]])


def _cell(value: object) -> str:
    # A bar inside a cell would end it.
    return "" if value is None else str(value).replace("|", "\\|")
