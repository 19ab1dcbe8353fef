"""The page of any study, report.html: its summary, figures and tables, and an explorer. The main job's is `bench/page.py`."""

import csv
import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn_jax.bench.repeat import repeat_of
from unlearn_jax.files import open_regular, read_regular
from unlearn_jax.report import page
from unlearn_jax.runs import Run

MOST_LINES, MOST_CELLS = 1000, 20_000  # of a table
MOST_BYTES = 6 << 20  # of all figures
MOST_TEXT = 1 << 20  # of the summary


def write(folder: Run, explorer: Mapping[str, Any] | None = None) -> None:
    """Writes report.html for a run folder of any experiment: its summary, its figures, and its tables as far as they fit.

    Args:
        folder: the run folder, with all else in it; its title is what config.json says the experiment is about.
        explorer: what `explorer.js` shows, by `report.explorer.explorer` or with a `kind` of its own.
    """
    facts = folder.read_json("config.json") or {}
    config = facts.get("config") or {}
    tables = {path.stem: table for path in sorted(folder.folder.glob("*.csv")) if (table := _table(path))}
    left, figures, outside = MOST_BYTES, dict[str, str](), list[str]()
    for path in sorted((folder.folder / "figures").glob("*.png")):
        if content := _read(path, left):
            figures[path.stem] = page.data_uri(content)
            left -= len(content)
        else:
            outside.append(path.name)
    text = _read(folder.folder / "summary.md", MOST_TEXT).decode("utf-8", "replace")
    body = page.from_markdown(text, {f"figures/{name}.png": uri for name, uri in figures.items()})
    name = str(config.get("exp", folder.folder.name))
    texts = {
        "title": str(facts.get("about") or name),
        "subject": " · ".join([name, *(str(config[key]) for key in ("dataset", "model") if config.get(key))]),
        "summary": body.html,
        "figures": {name: uri for name, uri in figures.items() if f"figures/{name}.png" not in body.shown},
        "outside": outside,
        "tables": {name: table["all"] for name, table in tables.items()},
        "explorer": explorer["kind"] if explorer else "",
        "varied": bool(explorer and explorer.get("axes")),
        **repeat_of(folder, facts),
    }
    data = {"tables": {name: {"columns": table["columns"], "rows": table["rows"]} for name, table in tables.items()}}
    scripts = ("explorer",) if explorer else ()
    folder.write_text(page.NAME, page.render("study", {**data, "explorer": explorer}, page.TABLES, scripts, **texts))


def _read(path: Path, most: int) -> bytes:
    """The content of a file; nothing if there is none, or it is larger than `most` bytes."""
    try:
        return read_regular(path, most)
    except OSError:
        return b""


def _table(path: Path) -> dict[str, Any] | None:
    """The first rows of a CSV file, numbers as such, and how many there are in all; None if it is empty."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", errors="replace", newline="") as file:
            lines = csv.reader(file)
            columns = next(lines, None)
            if not columns:
                return None
            most = min(MOST_LINES, MOST_CELLS // len(columns))
            rows = [[_cell(cell) for cell in line] for line in itertools.islice(lines, most)]
            return {"columns": columns, "rows": rows, "all": len(rows) + sum(1 for _ in lines)}
    except (OSError, csv.Error):
        return None


def _cell(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None
