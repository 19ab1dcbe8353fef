"""Tables and intervals as they are written: whatever a cell holds stays in it."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_jax.report.tables import finite, markdown, of_columns, page
from unlearn_jax.runs import Run
from unlearn_jax.types import Interval

CELLS = st.lists(st.text(), min_size=2, max_size=2)


def cells_of(line):
    """The cells of a row as Markdown splits it: at bars that are not escaped."""
    assert line.startswith("| ") and line.endswith(" |")
    return [cell.replace("\0", "|") for cell in line[2:-2].replace("\\|", "\0").split(" | ")]


def test_columns_are_aligned_as_they_are_asked_to_be():
    expected = "| method | z | at |\n| :-- | --: | :-- |\n| scrub | 1.0 | a |"
    assert markdown(("method", "z", "at"), [("scrub", "1.0", "a")], left=(0, 2)) == expected
    assert markdown(("z",), []) == "| z |\n| --: |"


@pytest.mark.parametrize("breaking", ["\n", "\r", "\x0b", "\x1b", "\x85", "\u2028", "\u2029", "\x00"])
def test_a_cell_cannot_break_its_table(breaking):
    lines = markdown(("class", "n"), [(f"a|b{breaking}c", "1")]).splitlines()
    assert len(lines) == 3 and cells_of(lines[2]) == ["a|b c", "1"]


@given(st.lists(CELLS, max_size=4))
def test_every_row_stays_one_line_of_as_many_cells(rows):
    lines = markdown(("a", "b"), rows).split("\n")
    assert len(lines) == 2 + len(rows) and len("\n".join(lines).splitlines()) == len(lines)
    for line in lines:
        assert line.replace("\\|", "").count("|") == 3


def test_columns_become_rows_and_come_back(tmp_path):
    table = of_columns({"name": np.array(["a", "b"]), "value": np.array([0.1, 1e-300]), "count": np.array([1, 2])})
    assert table.rows == [["a", 0.1, 1], ["b", 1e-300, 2]]
    Run(tmp_path).write_csv("table.csv", *table)
    rows = [*csv.reader((tmp_path / "table.csv").read_text().splitlines())]
    assert rows == [["name", "value", "count"], ["a", "0.1", "1"], ["b", "1e-300", "2"]]


def test_only_numbers_that_are_not_finite_leave_their_cell():
    assert [finite(cell) for cell in (1.5, math.nan, -math.inf, "nan", 3, None)] == [1.5, None, None, "nan", 3, None]


def test_a_page_has_an_empty_line_between_its_paragraphs():
    assert page("# title", "text") == "# title\n\ntext\n"


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.534, 0.4, 0.611), "0.53 (0.40 to 0.61)"),
        (Interval(0.534, -math.inf, math.inf), "0.53"),
        (Interval(0.534, math.nan, math.nan), "0.53"),
        (Interval(0.534, 0.4, math.inf), "0.53"),
    ],
)
def test_an_interval_shows_its_ends_where_they_are_known(interval, text):
    assert f"{interval:.2f}" == text and f"{interval:+.1f}" == f"+0.5{' (+0.4 to +0.6)' * ('(' in text)}"
