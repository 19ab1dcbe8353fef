"""Tables as people paste them."""

from collections.abc import Sequence


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of numbers."""
    rows = [headings, ["--:"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
