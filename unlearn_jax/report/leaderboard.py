"""The leaderboard that the rows of a run make: on the terminal, in Markdown and in LaTeX."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unlearn_jax.report import Folder, tables
from unlearn_jax.report.rows import FEWEST_JUDGED, REFERENCES, Row, counted, subject

if TYPE_CHECKING:
    import rich.console

MARK = "●"


class Line(NamedTuple):
    """One method of the leaderboard.

    Attributes:
        method: its name.
        reference: whether it is one of `REFERENCES`.
        inside: whether it is indistinguishable from retraining; None with too few models for a verdict.
        cells: one text per heading.
    """

    method: str
    reference: bool
    inside: bool | None
    cells: tuple[str, ...]


class Leaderboard(NamedTuple):
    """The table of methods as text: references first, then methods by |z| of KLOM on the forget set.

    Attributes:
        headings: one per column.
        lines: one per method.
        caption: what it is of, how to read it, and what to beware of; one or two sentences each.
        importance: of each column on a narrow terminal, 0 the greatest.
    """

    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    caption: tuple[str, ...]
    importance: tuple[int, ...]


def arrange(rows: Sequence[Row], band: float, diverged: Mapping[str, Sequence[str]] | None = None) -> Leaderboard:
    """Arranges rows as one line per method.

    A method is marked only where its largest |z| is inside the band, every z is a number, and no member diverged; with fewer than
    8 models there is no verdict.

    Args:
        rows: of one forget set, or of the means over several.
        band: how large the largest |z| over all metrics may be in a method that is perfect.
        diverged: by method, the names of the members that diverged and are in no value.

    Returns:
        The table.
    """
    diverged = diverged or {}
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    entries = [_entry(method, own, band, len(diverged.get(method, ()))) for method, own in by_method.items()]
    entries.sort(key=_rank)
    lines = tuple(
        Line(each.method, each.method in REFERENCES, each.inside, tuple(column.cell(each) for column in _COLUMNS))
        for each in entries
    )
    headings, importance = (tuple(getattr(column, field) for column in _COLUMNS) for field in ("heading", "importance"))
    return Leaderboard(headings, lines, _caption(rows, entries, band, diverged), importance)


def write(folder: Folder, board: Leaderboard) -> None:
    """Writes summary.md and summary.tex."""
    folder.write_text("summary.md", markdown(board))
    folder.write_text("summary.tex", latex(board))


def markdown(board: Leaderboard) -> str:
    """Returns the leaderboard as a Markdown table with its caption; references are in italics, marked methods bold."""

    def emphasised(entry: Line) -> list[str]:
        stars = "*" * entry.reference + "**" * bool(entry.inside)
        return [f"{stars}{cell}{stars}" if cell and i < _TEXT_COLUMNS else cell for i, cell in enumerate(entry.cells)]

    table = tables.markdown(board.headings, [emphasised(entry) for entry in board.lines], left=range(_TEXT_COLUMNS))
    return tables.page(table, *board.caption)


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
            rf"\caption{{{_tex(' '.join(board.caption))}}}",
            r"\end{table}",
            "",
        ]
    )


def show(board: Leaderboard, console: "rich.console.Console | None" = None) -> None:
    """Prints the leaderboard, with as many columns as fit the width; what is left out is named, a method never cut.

    Args:
        board: the table.
        console: where to; by default standard output, without colour where that is no terminal.
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
        style = "dim italic" if entry.reference else "bold green" if entry.inside else ""
        last_reference = entry.reference and following is not None and not following.reference
        table.add_row(*(Text(encodable(entry.cells[i])) for i in shown), style=style, end_section=last_reference)
    console.print(table)
    hidden = [heading for i, heading in enumerate(board.headings) if i not in shown]
    notes = [*board.caption, *([f"Not shown at this width: {', '.join(hidden)} (see summary.md)."] if hidden else [])]
    for note in notes:
        console.print(Text(encodable(note)))


def _fitting(board: Leaderboard, width: int) -> list[int]:
    """The columns that fit, chosen in order of their importance and given in the table's order."""
    widths = [max(map(len, cells)) for cells in zip(board.headings, *(line.cells for line in board.lines), strict=True)]
    shown: list[int] = []
    for i in sorted(range(len(board.headings)), key=board.importance.__getitem__):
        if not shown or sum(widths[j] + _GAP for j in [*shown, i]) <= width:
            shown.append(i)
    return sorted(shown)


_GAP = 2  # columns of text between two columns of the table


# One column: its heading, its importance on a narrow terminal (0 first), and its cell.


class _Entry(NamedTuple):
    """A method as the columns take it: its rows, and the verdict on them."""

    method: str
    rows: list[Row]
    worst: Row | None
    inside: bool | None
    members: int
    lost: int

    def row(self, metric: str, split: str | None = None) -> Row | None:
        """The first row of a metric; any split will do if none is asked for."""
        return next((row for row in self.rows if row.metric == metric and split in (None, row.split)), None)


class _Column(NamedTuple):
    heading: str
    importance: int
    cell: Callable[[_Entry], str]


def _value(metric: str, split: str | None, digits: Callable[[float], str]) -> Callable[[_Entry], str]:
    def cell(entry: _Entry) -> str:
        row = entry.row(metric, split)
        return "" if row is None or row.value is None else digits(row.value)

    return cell


def _null(metric: str, split: str | None, digits: Callable[[float], str]) -> Callable[[_Entry], str]:
    def cell(entry: _Entry) -> str:
        row = entry.row(metric, split)
        if row is None or row.null_mean is None or row.null_sd is None:
            return ""
        return f"{digits(row.null_mean)} ± {digits(row.null_sd)}"

    return cell


def _klom_z(entry: _Entry) -> str:
    row = entry.row("klom", "forget")
    return "" if row is None or row.deviation is None else _signed(row.deviation)


def _models(entry: _Entry) -> str:
    return f"{entry.members} of {entry.members + entry.lost}" if entry.lost else str(entry.members)


def _forgetting_quality(entry: _Entry) -> str:
    row = entry.row("forgetting_quality")
    value = _value("forgetting_quality", None, _three)(entry)
    return f"{value} ({_three(row.null_mean)})" if row is not None and row.null_mean is not None else value


def _one(value: float) -> str:
    return f"{value:.1f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _short(value: float) -> str:
    """Three significant digits, never more than three decimals: costs span orders of magnitude."""
    if not math.isfinite(value) or abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.{max(0, min(3, 2 - math.floor(math.log10(abs(value)))))}f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) < 100 else f"{value:+.0f}" if abs(value) < 1e6 else f"{value:+.1e}"


_TEXT_COLUMNS = 3
_COLUMNS = (
    _Column(" ", 1, lambda entry: MARK * bool(entry.inside)),
    _Column("method", 0, lambda entry: entry.method),
    _Column("access", 4, lambda entry: entry.rows[0].access),
    _Column("acc F", 6, _value("accuracy", "forget", _one)),
    _Column("acc R", 8, _value("accuracy", "retain", _one)),
    _Column("acc T", 7, _value("accuracy", "test", _one)),
    _Column("KLOM F", 9, _value("klom", "forget", _two)),
    _Column("null", 10, _null("klom", "forget", _two)),
    _Column("KLOM z", 3, _klom_z),
    _Column("max |z|", 2, lambda entry: _worst(entry.worst)),
    _Column("FQ (null)", 11, _forgetting_quality),
    _Column("ToW", 12, _value("tow", None, _three)),
    _Column("gap", 13, _value("average_gap", None, _two)),
    _Column("SVC-MIA", 14, _value("svc_mia", None, _short)),
    _Column("models", 16, _models),
    _Column("s/model", 15, _value("seconds", None, _short)),
    _Column("RTE", 5, _value("rte", None, _short)),
)
_READ = (
    "acc: accuracy in % on forget (F), retain (R) and test (T); FQ: forgetting quality; ToW: tug of war; gap: mean gap to the "
    "oracles; RTE: share of retraining's time. Lines are ordered by |z| of KLOM on F; compare methods of the same access."
)
_NAMES = {"accuracy": "acc", "klom": "KLOM", "forgetting_quality": "FQ", "tow": "ToW", "average_gap": "gap", "svc_mia": "SVC-MIA"}
_SPLITS = {"forget": " F", "retain": " R", "test": " T"}
_SPLIT_METRICS = ("accuracy", "klom", "klom_p95")


def _worst(row: Row | None) -> str:
    """The largest evidence and the metric that it is of, named as the column headings name it."""
    if row is None or row.evidence is None:
        return ""
    size = _signed(row.evidence).removeprefix("+")
    split = _SPLITS.get(row.split, f" {row.split}".rstrip()) if row.metric in _SPLIT_METRICS else ""
    return f"{size} {_NAMES.get(row.metric, row.metric)}{split}"


def _entry(method: str, rows: list[Row], band: float, lost: int) -> _Entry:
    worst = _largest(rows)
    members = max((row.n_members for row in rows if row.n_members is not None), default=0)
    inside = not lost and _is_inside(worst, rows, band) if members >= FEWEST_JUDGED else None
    return _Entry(method, rows, worst, inside, members, lost)


def _largest(rows: Iterable[Row]) -> Row | None:
    """The row with the largest evidence; NaN counts as the largest of all."""
    scored = [row for row in rows if row.evidence is not None]
    return max(scored, key=lambda row: _size(row.evidence), default=None)


def _size(z: float | None) -> tuple[int, float]:
    """Sorts by |z|, then NaN, then None."""
    if z is None or math.isnan(z):
        return (2 if z is None else 1), 0.0
    return 0, abs(z)


def _is_inside(largest: Row | None, rows: Sequence[Row], band: float) -> bool:
    """Whether all scores are inside the band; a score that should be there and is not counts against it."""
    missing = any(row.value is None or math.isnan(row.value) for row in rows if row.null_sd is not None)
    return largest is not None and not missing and bool((largest.evidence or 0.0) <= band)


def _rank(entry: _Entry) -> tuple[Any, ...]:
    """References first and in their order, then by |z| of KLOM on the forget set."""
    if entry.method in REFERENCES:
        return 0, REFERENCES.index(entry.method)
    row = entry.row("klom", "forget")
    return 1, *_size(None if row is None else row.deviation), entry.method


def _caption(
    rows: Sequence[Row], entries: Sequence[_Entry], band: float, diverged: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    n = counted(entry.members for entry in entries if not entry.lost)
    reading = (
        f"z: standard deviations from the null, that is from what retraining itself scores with as many models. "
        f"{MARK}: indistinguishable from retraining at this sample size (n={n}), the largest |z| over all metrics being inside "
        f"its band of {_two(band)}. max |z| counts attacks, which flip on single models, in their own standard "
        f"errors where those are larger."
    )
    notes = []
    if any(entry.members < FEWEST_JUDGED for entry in entries):
        notes.append(f"Fewer than {FEWEST_JUDGED} models say too little for a verdict: no method with so few is marked.")
    for entry in entries:
        if entry.lost:
            names = ", ".join(diverged[entry.method])
            notes.append(f"{entry.method}: {_models(entry)} ({entry.lost} diverged: {names}); never marked.")
    return f"{subject(rows)}.", reading, _READ, *notes


def _ascii(text: str) -> str:
    """For terminals that cannot print more."""
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
