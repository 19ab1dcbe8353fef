"""Tables as CSV and Markdown."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

BREAKING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # control characters and line ends, which would break a row


class Table(NamedTuple):
    """Columns and rows, as `Folder.write_csv` takes them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def of_columns(columns: Mapping[str, Any]) -> Table:
    """Makes a table from equally long arrays by name."""
    return Table(list(columns), [list(row) for row in zip(*(values.tolist() for values in columns.values()), strict=True)])


def finite(cell: Any) -> Any:
    """Replaces a number that is not finite by an empty cell (None)."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def finite_row(row: Iterable[Any]) -> list[Any]:
    """A row of a table, with empty cells for numbers that are not finite."""
    return [finite(cell) for cell in row]


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]], left: Collection[int] = ()) -> str:
    """Formats a Markdown table.

    Args:
        headings: one for each column.
        lines: of cells with any characters: bars are escaped, control characters become spaces.
        left: the columns that are aligned to the left; the others are aligned to the right.
    """
    rule = [":--" if column in left else "--:" for column in range(len(headings))]
    rows = [headings, rule, *lines]
    return "\n".join("| " + " | ".join(BREAKING.sub(" ", cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def page(*paragraphs: str) -> str:
    """Joins paragraphs and tables to one Markdown text."""
    return "\n\n".join(paragraphs) + "\n"
