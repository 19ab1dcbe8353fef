"""The leaderboard that the rows of a run make: on the terminal, in Markdown and in LaTeX."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unlearn_jax.report import Folder
from unlearn_jax.report.rows import REFERENCES, Row, counted, subject

if TYPE_CHECKING:
    import rich.console

MARK = "●"
FEWEST = 8  # models that a verdict takes: with fewer, the band of the largest |z| is a guess


class Line(NamedTuple):
    """One method of the leaderboard.

    Attributes:
        method: its name.
        reference: whether it is one of `REFERENCES`.
        inside: whether it is indistinguishable from retraining.
        cells: one text per heading.
    """

    method: str
    reference: bool
    inside: bool
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


def arrange(
    rows: Sequence[Row],
    bands: Mapping[str, float],
    diverged: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> Leaderboard:
    """Arranges rows as one line per method.

    Over several forget sets a cell is the mean ± the standard deviation between the sets (a cost is the mean alone, and the
    null's column has the means of the sets' null means and sds), and the largest |z| is that of the worst set. A method is
    marked only where every one of its forget sets is inside its own band, where every z is a number, and where no member
    diverged.

    Args:
        rows: all rows of the run.
        bands: by forget set, how large the largest |z| over all metrics may be in a method that is perfect.
        diverged: by forget set and method, the numbers of the members that diverged and are in no value.

    Returns:
        The table.

    Raises:
        KeyError: if a forget set has no band.
    """
    diverged = diverged or {}
    by_method: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        by_method.setdefault(row.method, {}).setdefault(row.forget_set, []).append(row)
    lost = {
        method: [(name, member) for name in sets for member in diverged.get((name, method), ())]
        for method, sets in by_method.items()
    }
    order = sorted(by_method, key=lambda method: _rank(method, by_method[method]))
    lines = tuple(_line(method, by_method[method], bands, lost[method]) for method in order)
    headings, importance = (tuple(getattr(column, field) for column in _COLUMNS) for field in ("heading", "importance"))
    return Leaderboard(headings, lines, _caption(rows, by_method, bands, lost), importance)


def write(folder: Folder, board: Leaderboard) -> None:
    """Writes summary.md and summary.tex."""
    folder.write_text("summary.md", markdown(board))
    folder.write_text("summary.tex", latex(board))


def markdown(board: Leaderboard) -> str:
    """Returns the leaderboard as a Markdown table with its caption; references are in italics, marked methods bold."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def emphasised(entry: Line) -> list[str]:
        stars = "*" * entry.reference + "**" * entry.inside
        return [f"{stars}{cell}{stars}" if cell and i < _TEXT_COLUMNS else cell for i, cell in enumerate(entry.cells)]

    rule = [":--" if i < _TEXT_COLUMNS else "--:" for i in range(len(board.headings))]
    table = [line(board.headings), line(rule), *(line(emphasised(entry)) for entry in board.lines)]
    return "\n".join(table) + "\n\n" + "\n\n".join(board.caption) + "\n"


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
    """A method as the columns see it: its rows by forget set, and what was concluded from all of them."""

    method: str
    sets: dict[str, list[Row]]
    worst: Row | None
    inside: bool
    inside_sets: int
    lost: int

    def rows(self, metric: str, split: str | None = None) -> list[Row]:
        """Of each forget set the first row of a metric; any split will do if none is asked for."""
        found = (
            next((row for row in rows if row.metric == metric and split in (None, row.split)), None)
            for rows in self.sets.values()
        )
        return [row for row in found if row is not None]


class _Column(NamedTuple):
    heading: str
    importance: int
    cell: Callable[[_Entry], str]


def _values(metric: str, split: str | None, digits: Callable[[float], str]) -> Callable[[_Entry], str]:
    return lambda entry: _over_sets([row.value for row in entry.rows(metric, split)], digits)


def _null(metric: str, split: str | None, digits: Callable[[float], str]) -> Callable[[_Entry], str]:
    def cell(entry: _Entry) -> str:
        rows = [row for row in entry.rows(metric, split) if row.null_mean is not None and row.null_sd is not None]
        if not rows:
            return ""
        return f"{digits(_mean(row.null_mean for row in rows))} ± {digits(_mean(row.null_sd for row in rows))}"

    return cell


def _cost(metric: str) -> Callable[[_Entry], str]:
    """A cost hardly depends on the forget set: the mean says enough."""

    def cell(entry: _Entry) -> str:
        known = [row.value for row in entry.rows(metric) if row.value is not None]
        return _short(_mean(known)) if known else ""

    return cell


def _klom_z(entry: _Entry) -> str:
    return _over_sets([row.deviation for row in entry.rows("klom", "forget")], _signed)


def _models(entry: _Entry) -> str:
    used = sum(_members(rows) for rows in entry.sets.values())
    return f"{used} of {used + entry.lost}" if entry.lost else counted(_members(rows) for rows in entry.sets.values())


def _mark(entry: _Entry) -> str:
    if len(entry.sets) == 1:
        return MARK * entry.inside
    return f"{MARK * entry.inside}{entry.inside_sets}/{len(entry.sets)}"


def _forgetting_quality(entry: _Entry) -> str:
    null = _over_sets([row.null_mean for row in entry.rows("forgetting_quality")], _three)
    value = _values("forgetting_quality", None, _three)(entry)
    return f"{value} ({null})" if null else value


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
    _Column(" ", 1, _mark),
    _Column("method", 0, lambda entry: entry.method),
    _Column("access", 4, lambda entry: next(iter(entry.sets.values()))[0].access),
    _Column("acc F", 6, _values("accuracy", "forget", _one)),
    _Column("acc R", 8, _values("accuracy", "retain", _one)),
    _Column("acc T", 7, _values("accuracy", "test", _one)),
    _Column("KLOM F", 9, _values("klom", "forget", _two)),
    _Column("null", 10, _null("klom", "forget", _two)),
    _Column("KLOM z", 3, _klom_z),
    _Column("max |z|", 2, lambda entry: _worst(entry.worst)),
    _Column("FQ (null)", 11, _forgetting_quality),
    _Column("ToW", 12, _values("tow", None, _three)),
    _Column("gap", 13, _values("average_gap", None, _two)),
    _Column("SVC-MIA", 14, _values("svc_mia", None, _short)),
    _Column("models", 16, _models),
    _Column("s/model", 15, _cost("seconds")),
    _Column("RTE", 5, _cost("rte")),
)
_READ = (
    "acc: accuracy in % on forget (F), retain (R) and test (T); FQ: forgetting quality; ToW: tug of war; gap: mean gap to the "
    "oracles; RTE: share of retraining's time. Lines are ordered by |z| of KLOM on F; compare methods of the same access."
)
_NAMES = {"accuracy": "acc", "klom": "KLOM", "forgetting_quality": "FQ", "tow": "ToW", "average_gap": "gap", "svc_mia": "SVC-MIA"}
_SPLITS = {"forget": " F", "retain": " R", "test": " T"}
_SPLIT_METRICS = ("accuracy", "klom", "klom_p95")


def _worst(row: Row | None) -> str:
    """The largest |z| and the metric that it is of, named as the column headings name it."""
    if row is None or row.deviation is None:
        return ""
    size = _signed(abs(row.deviation)).removeprefix("+")
    split = _SPLITS.get(row.split, f" {row.split}".rstrip()) if row.metric in _SPLIT_METRICS else ""
    return f"{size} {_NAMES.get(row.metric, row.metric)}{split}"


def _line(method: str, sets: dict[str, list[Row]], bands: Mapping[str, float], lost: Sequence[tuple[str, int]]) -> Line:
    largest = {name: _largest(rows) for name, rows in sets.items()}
    inside_sets = sum(_is_inside(largest[name], rows, bands[name]) for name, rows in sets.items())
    worst = _largest([row for row in largest.values() if row is not None])
    inside = inside_sets == len(sets) and not lost and all(_members(rows) >= FEWEST for rows in sets.values())
    entry = _Entry(method, sets, worst, inside, inside_sets, len(lost))
    return Line(method, method in REFERENCES, inside, tuple(column.cell(entry) for column in _COLUMNS))


def _largest(rows: Iterable[Row]) -> Row | None:
    """The row with the largest |z|; NaN counts as the largest of all."""
    scored = [row for row in rows if row.deviation is not None]
    return max(scored, key=lambda row: _size(row.deviation), default=None)


def _size(z: float | None) -> tuple[int, float]:
    """Sorts by |z|, then NaN, then None."""
    if z is None or math.isnan(z):
        return (2 if z is None else 1), 0.0
    return 0, abs(z)


def _is_inside(largest: Row | None, rows: Sequence[Row], band: float) -> bool:
    """Whether a forget set is inside its band; a score that should be there and is not counts against it."""
    missing = any(row.value is None or math.isnan(row.value) for row in rows if row.null_sd is not None)
    return largest is not None and not missing and bool(abs(largest.deviation or 0.0) <= band)


def _rank(method: str, sets: Mapping[str, Sequence[Row]]) -> tuple[Any, ...]:
    """References first and in their order, then by |z| of KLOM on the forget set, the mean over sets."""
    if method in REFERENCES:
        return 0, REFERENCES.index(method)
    sizes = [row.deviation for rows in sets.values() for row in rows if (row.metric, row.split) == ("klom", "forget")]
    known = [abs(size) for size in sizes if size is not None]
    return 1, *_size(_mean(known) if known else None), method


def _caption(
    rows: Sequence[Row],
    by_method: Mapping[str, Mapping[str, Sequence[Row]]],
    bands: Mapping[str, float],
    lost: Mapping[str, Sequence[tuple[str, int]]],
) -> tuple[str, ...]:
    sets = list(dict.fromkeys(row.forget_set for row in rows))
    n = counted(_members(entry) for method, held in by_method.items() if not lost[method] for entry in held.values())
    limits = sorted(bands[name] for name in sets)
    band = _two(limits[0]) if len(sets) == 1 else f"{_two(limits[0])} to {_two(limits[-1])}"
    reading = (
        f"z: standard deviations from the null, that is from what retraining itself scores with as many models. "
        f"{MARK}: indistinguishable from retraining at this sample size (n={n}), the largest |z| over all metrics being inside "
        f"its band of {band}."
    )
    notes = []
    if any(_members(entry) < FEWEST for held in by_method.values() for entry in held.values()):
        notes.append(f"Fewer than {FEWEST} models say too little for a verdict: no method with so few is marked.")
    if len(sets) > 1:
        notes.append(
            f"Cells are means over {len(sets)} forget sets ± the standard deviation between them, the largest |z| is the worst "
            f"set's, k/{len(sets)} counts the sets inside their band, and {MARK} asks for all of them."
        )
    for method, members in lost.items():
        if members:
            used = sum(_members(entry) for entry in by_method[method].values())
            names = ", ".join(f"#{member}" if len(sets) == 1 else f"{name} #{member}" for name, member in members)
            notes.append(f"{method}: {used} of {used + len(members)} ({len(members)} diverged: {names}); never marked.")
    return f"{subject(rows)}.", reading, _READ, *notes


def _members(rows: Iterable[Row]) -> int:
    """How many models a method's values are from."""
    return max((row.n_members for row in rows if row.n_members is not None), default=0)


def _mean(values: Iterable[float | None]) -> float:
    """The mean of what is there, NaN if any of it is."""
    return statistics.fmean(value for value in values if value is not None)


def _over_sets(values: Iterable[float | None], digits: Callable[[float], str]) -> str:
    """One value as it is, several as mean ± standard deviation, none as nothing."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return "".join(map(digits, known))
    spread = statistics.stdev(known) if all(map(math.isfinite, known)) else math.nan
    return f"{digits(_mean(known))}±{digits(spread).removeprefix('+')}"


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
