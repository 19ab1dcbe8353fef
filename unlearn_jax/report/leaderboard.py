"""A leaderboard of methods: printed, in Markdown and in LaTeX."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from unlearn_jax.report import Folder, tables

if TYPE_CHECKING:
    import rich.console

MARK = "●"
_TEXT_COLUMNS = 3  # the first three: mark, method, access


class Line(NamedTuple):
    """One method of the leaderboard.

    Attributes:
        method: its name.
        reference: whether it is one of `REFERENCES`.
        marked: whether it is equivalent to retraining, or not distinguished from it; None with too few models for a verdict.
        cells: one text per heading.
    """

    method: str
    reference: bool
    marked: bool | None
    cells: tuple[str, ...]


class Leaderboard(NamedTuple):
    """The table of methods as text.

    Attributes:
        headings: one per column.
        lines: one per method.
        guide: paragraphs: how to read the table, the same for every run.
        caption: paragraphs: the subject, and notes on this run.
        importance: of each column; 0 is the last to be dropped on a narrow terminal.
    """

    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    guide: tuple[str, ...]
    caption: tuple[str, ...]
    importance: tuple[int, ...]

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The subject, how to read the table, and notes."""
        return *self.caption[:1], *self.guide, *self.caption[1:]


def write(folder: Folder, board: Leaderboard, more: Sequence[str] = ()) -> None:
    """Writes summary.md, with `more` paragraphs after the leaderboard, and summary.tex."""
    folder.write_text("summary.md", tables.page(markdown(board).rstrip(), *more))
    folder.write_text("summary.tex", latex(board))


def markdown(board: Leaderboard) -> str:
    """Returns the leaderboard as a Markdown table with its caption; references are in italics, marked methods bold."""

    def emphasise(entry: Line) -> list[str]:
        stars = "*" * entry.reference + "**" * bool(entry.marked)
        return [f"{stars}{cell}{stars}" if cell and i < _TEXT_COLUMNS else cell for i, cell in enumerate(entry.cells)]

    table = tables.markdown(board.headings, [emphasise(entry) for entry in board.lines], left=range(_TEXT_COLUMNS))
    return tables.page(table, *board.paragraphs)


def latex(board: Leaderboard) -> str:
    """Returns the leaderboard as a LaTeX table; the document needs the packages booktabs and graphicx."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join(_tex(cell) for cell in cells) + r" \\"

    references = [line(entry.cells) for entry in board.lines if entry.reference]
    methods = [line(entry.cells) for entry in board.lines if not entry.reference]
    columns = "l" * _TEXT_COLUMNS + "r" * (len(board.headings) - _TEXT_COLUMNS)
    return "\n".join(
        [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(board.headings),
            r"\midrule",
            *references,
            *([r"\midrule"] if references and methods else []),
            *methods,
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\caption{{{_tex(' '.join(board.paragraphs))}}}",
            r"\end{table}",
            "",
        ]
    )


def show(board: Leaderboard, console: "rich.console.Console | None" = None) -> None:
    """Prints the leaderboard with as many columns as fit the width, its subject, the verdict and the notes on this run.

    Args:
        board: the table.
        console: by default standard output, without colour if it is no terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    encodable = str if console.encoding.lower().startswith("utf") else _ascii
    shown = _fitting(board, console.width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i in shown:
        table.add_column(encodable(board.headings[i]), justify="left" if i < _TEXT_COLUMNS else "right", no_wrap=True)
    for entry, following in zip(board.lines, [*board.lines[1:], None], strict=True):
        style = "dim italic" if entry.reference else "bold green" if entry.marked else ""
        last_reference = entry.reference and following is not None and not following.reference
        table.add_row(*(Text(encodable(entry.cells[i])) for i in shown), style=style, end_section=last_reference)
    console.print(table)
    hidden = [heading for i, heading in enumerate(board.headings) if i not in shown]
    rest = f"Not shown at this width: {', '.join(hidden)}. " if hidden else ""
    where = f"{rest}What the columns mean: summary.md."
    for note in (*board.caption[:1], f"{_verdict(board).capitalize()}.", *board.caption[1:], where):
        console.print(Text(encodable(note)))


def outline(board: Leaderboard, width: int = 80, most: int = 7) -> list[str]:
    """Returns the leaderboard in about ten lines: the subject, the first methods, the names of the others, what is marked.

    Args:
        board: the table.
        width: of a line at most.
        most: methods that have a line; the references are the first.
    """
    shown = _fitting(board, width)
    lines = board.lines if len(board.lines) <= most else board.lines[: most - 1]
    rows = [board.headings, *(line.cells for line in lines)]
    widths = {i: max(len(row[i]) for row in rows) for i in shown}
    padded = [[row[i].ljust(widths[i]) if i < _TEXT_COLUMNS else row[i].rjust(widths[i]) for i in shown] for row in rows]
    others = ", ".join(line.method for line in board.lines[len(lines) :])
    more = [f"{len(board.lines) - len(lines)} further away: {others}"] * bool(others)
    table = [(" " * _GAP).join(cells) for cells in padded]
    return [cut(line, width) for line in (*board.caption[:1], *table, *more, _verdict(board))]


def _verdict(board: Leaderboard) -> str:
    """How many methods are marked, and which."""
    judged = [line for line in board.lines if not line.reference and line.marked is not None]
    marked = [line.method for line in judged if line.marked]
    if not judged:
        return "no verdict on any method"
    counts = f"{len(marked)} of {len(judged)} methods equivalent to retraining, or not distinguished from it"
    return f"{counts}{': ' * bool(marked)}{', '.join(marked)}"


def cut(line: str, width: int) -> str:
    """Returns a line of at most `width` characters; an ellipsis stands for the rest."""
    line = line.rstrip()
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _fitting(board: Leaderboard, width: int) -> list[int]:
    """The columns that fit, chosen by importance, in the order of the table."""
    widths = [max(map(len, cells)) for cells in zip(board.headings, *(line.cells for line in board.lines), strict=True)]
    shown: list[int] = []
    for i in sorted(range(len(board.headings)), key=board.importance.__getitem__):
        if not shown or sum(widths[j] + _GAP for j in [*shown, i]) <= width:
            shown.append(i)
    return sorted(shown)


_GAP = 2  # characters between two columns


def _ascii(text: str) -> str:
    """Text for terminals that print ASCII only."""
    return text.replace("±", "+-").replace(MARK, "*").replace("·", "-").encode("ascii", "replace").decode()


_TEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{character: f"${character}$" for character in "|<>"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        MARK: r"$\bullet$",
        "·": r"$\cdot$",
    }
)


def _tex(text: str) -> str:
    return text.translate(_TEX)
