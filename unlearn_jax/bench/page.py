"""The page of a run folder, report.html: what goes into it. How it looks is `unlearn_jax/report/page`."""

import csv
import io
import itertools
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.bench.hyperparameters import SOURCES
from unlearn_jax.bench.page_words import GLOSSARY, Standing, answers, headline
from unlearn_jax.bench.sample_size import SHOWN
from unlearn_jax.bench.statistics import EXAMPLE_COLUMNS, SIGNIFICANT
from unlearn_jax.files import open_regular, read_regular
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics import METRICS
from unlearn_jax.metrics.catalogue import accuracy, damage, klom, memory_left, rte, rte_examples, seconds
from unlearn_jax.metrics.effects import MARGIN
from unlearn_jax.metrics.registry import COST, ON
from unlearn_jax.progress import stage
from unlearn_jax.report import page
from unlearn_jax.report.figures import LOSS_RANGE, loss_shares
from unlearn_jax.report.leaderboard import Leaderboard
from unlearn_jax.report.rows import REFERENCES, Row, subject
from unlearn_jax.runs import LONG, Run, leaves

MOST_EXAMPLES = 500  # of all forget sets together
MOST_ROWS = 20_000  # of results.csv: beyond, only the means and the first forget sets
MOST_LINES, MOST_CELLS = 1000, 20_000  # of a study's table
MOST_BYTES = 6 << 20  # of a study's figures
MOST_TEXT = 1 << 20  # of a study's summary
BINS = 49  # edges of the bins of losses
ORACLE = "oracle"
EDGES = np.linspace(math.log10(LOSS_RANGE[0]), math.log10(LOSS_RANGE[1]), BINS)
FAMILIES = {"competition2023": "NeurIPS 2023 competition"}  # the other families are called as their modules
COLUMNS = {accuracy.on("forget"), accuracy.on("test"), klom.on("forget"), (rte.name, "")}  # that are shown at first
NUMBERS = ("value", "value_low", "value_high", "null_mean", "null_sd", "null_low", "null_high", "deviation", "evidence")


class Looks(NamedTuple):
    """What the page shows of one forget set that is in no table.

    Attributes:
        losses: by method, and of the oracles, the share of the losses in each bin, by split.
        pixels: of examples, in 0..1, by row of the published training set; none if they are no images.
    """

    losses: Mapping[str, Mapping[str, Sequence[float]]]
    pixels: Mapping[int, np.ndarray]


@stage("page")
def looks(
    losses: Mapping[str, Mapping[str, np.ndarray]],
    oracles: Mapping[str, np.ndarray],
    rows: Sequence[int] | np.ndarray = (),
    images: np.ndarray | None = None,
    scale: Sequence[float] = (),
) -> Looks:
    """Computes histograms and makes pictures.

    Args:
        losses: by method and split, of each member and example.
        oracles: likewise.
        rows: of the forget set, in the published training set.
        images: their inputs.
        scale: see `Dataset.pixel_scale`.
    """
    shares = {
        name: {split: loss_shares(values, EDGES).tolist() for split, values in of_split.items()}
        for name, of_split in {ORACLE: oracles, **losses}.items()
    }
    pixels = None if images is None else page.pixels(images, scale)
    return Looks(shares, {} if pixels is None else dict(zip(map(int, rows), pixels, strict=True)))


@stage("page")
def write(
    folder: Run,
    rows: Sequence[Row],
    means: Sequence[Row],
    board: Leaderboard,
    examples: Sequence[tuple] = (),
    shown: Mapping[str, Looks] | None = None,
    used: Mapping[str, Mapping[str, Any]] | None = None,
    origins: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
    tied: str = "",
) -> None:
    """Writes report.html for the results of the main job.

    Args:
        folder: the run folder; power.csv and config.json are read from it.
        rows: of results.csv.
        means: over several forget sets; `rows` if there is one.
        board: whose order is the page's.
        examples: the rows of examples.csv.
        shown: by forget set, what is in no table.
        used: the hyperparameters, by method.
        origins: where they came from, see `hyperparameters.origins_of`.
        notes: on the run, sentences.
        tied: which methods are not distinguished from the nearest to retraining, a sentence.
    """
    shown, facts = shown or {}, folder.read_json("config.json") or {}
    order = [line.method for line in board.lines]
    sets = [_set(means, order)]
    if means is not rows:
        by_set = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.forget_set)]
        fitting = itertools.accumulate(map(len, by_set))
        sets += [_set(group, order) for group, total in zip(by_set, fitting, strict=True) if total <= MOST_ROWS]
    of_examples, differing = _examples(examples, shown), _differing(examples)
    names = [name for name in order if name not in REFERENCES]
    standings = [_standing(sets[0]["methods"][name], name, differing) for name in names]
    command = str(facts.get("command") or "")
    data = {
        "sets": sets,
        "metrics": metrics_of((row.metric, row.split) for row in [*means, *rows]),
        "methods": {name: _method(name, (used or {}).get(name, {}), (origins or {}).get(name, {})) for name in order},
        "edges": EDGES,
        "losses": {name: looks.losses for name, looks in itertools.islice(shown.items(), len(of_examples) or 1)},
        "examples": of_examples,
        "power": _power(folder.folder / "power.csv"),
        "margin": MARGIN,
        "nearest": names[0] if names else order[0] if order else None,
        "references": REFERENCES,
        "oracle": ORACLE,
    }
    texts = {
        "title": subject(means),
        "headline": headline(standings),
        "answers": answers(standings, tied, command),
        "board": board,
        "test_like": any("test-like" in row.access for row in means),
        "sized": any(each.memory and each.damage for each in standings),
        "notes": [*board.paragraphs[1:], *notes],
        "glossary": GLOSSARY,
        "figures": sorted(path.stem for path in (folder.folder / "figures").glob("*.svg")),
        **repeat_of(folder, facts),
    }
    folder.write_text(page.NAME, page.render("run", data, **texts))


def _set(rows: Sequence[Row], order: Sequence[str]) -> dict[str, Any]:
    """What the page knows of one forget set, or of the means over several."""
    methods: dict[str, Any] = {}
    for row in rows:
        found = methods.setdefault(
            row.method,
            {
                "access": row.access,
                "outcome": row.outcome,
                "n": row.n_members,
                "oracles": row.n_oracles,
                "band": row.band,
                "scores": {},
            },
        )
        if row.value is not None:
            found["scores"][f"{row.metric}/{row.split}"] = [getattr(row, field) for field in NUMBERS]
    for found in methods.values():
        evidence = {key: numbers[-1] for key, numbers in found["scores"].items() if numbers[-1] is not None}
        found["worst"] = max(evidence, key=lambda key: _size(evidence[key]), default=None)
    return {
        "name": rows[0].forget_set if rows else "",
        "methods": {name: methods[name] for name in order if name in methods},
    }


def _size(value: float) -> float:
    return -1.0 if math.isnan(value) else abs(value)


def metrics_of(names: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Returns what each metric on each split is, by metric/split."""
    found = {}
    for name, split in dict.fromkeys(names):
        known = METRICS.get(name)
        found[f"{name}/{split}"] = {
            "name": name,
            "split": split,
            "title": title_of(name, split),
            "short": known.heading(split).replace("_", " ") if known else f"{name} {split}".strip(),
            "about": known.summary if known else "",
            "perfect": known.perfect if known else "",
            "unit": known.unit if known else "",
            "cost": bool(known and known.kind == COST),
            "effect": name in (memory_left.name, damage.name),
            "shown": (name, split) in COLUMNS,
        }
    return found


def _method(name: str, used: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    """What a method is, and with which hyperparameters it ran."""
    entry = METHODS.get(name)
    module = entry.make.__module__.rpartition(".")[2] if entry else ""
    family = "reference" if name in REFERENCES else FAMILIES.get(module, module.replace("_", " ")) if entry else "own"
    hyper = [
        [
            key,
            value if isinstance(value, str | int | float) else str(value),
            SOURCES.get(origins.get(key, ""), "given").partition(" (")[0],
        ]
        for key, value in used.items()
    ]
    return {
        "family": family,
        "settings": next((source for source in reversed(SOURCES) if source in origins.values()), "none"),
        "about": entry.summary if entry else "",
        "source": entry.reference if entry else "",
        "hyper": hyper,
    }


def _standing(found: Mapping[str, Any], name: str, differing: Mapping[str, Sequence[str]]) -> Standing:
    """What the page says of a method in words."""

    def of(metric: tuple[str, str]) -> list[float] | None:
        return found["scores"].get("/".join(metric))

    def size(metric: tuple[str, str]) -> tuple[float, float, float] | None:
        numbers = of(metric)
        if numbers is None:
            return None
        low, high = (numbers[0] if end is None else end for end in numbers[1:3])
        return numbers[0], low, high

    worst = found["worst"]
    cost = {metric.name: of((metric.name, "")) for metric in (seconds, rte, rte_examples)}
    return Standing(
        method=name,
        outcome=found["outcome"],
        members=found["n"] or 0,
        memory=size(memory_left.on("forget")),
        damage=size(damage.on("all")),
        largest=(abs(found["scores"][worst][-1]), title_of(*worst.split("/", 1))) if worst else None,
        band=found["band"],
        **{key: numbers[0] if (numbers := cost[name]) else None for key, name in _COSTS.items()},
        differing=differing.get(name),
        examples=len(differing.get(ORACLE, ())),
    )


_COSTS = {"seconds": seconds.name, "share": rte.name, "work": rte_examples.name}


def title_of(name: str, split: str) -> str:
    """The name of a metric and its split in words."""
    known = METRICS.get(name)
    if known is None:
        return f"{name} {split}".strip()
    where = f" on {ON[split]}" if split in ON and len(known.splits) > 1 else ""
    return f"{known.label.replace('_', ' ')}{where}{f' ({known.unit})' if known.unit else ''}"


def _differing(rows: Sequence[tuple]) -> dict[str, list[str]]:
    """By method, the examples on which it differs from the oracles, the largest difference first; of the oracles, all."""
    several = len({row[0] for row in rows}) > 1
    found: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        named = dict(zip(EXAMPLE_COLUMNS, row, strict=True))
        where = f"{named['row']} of {named['forget_set']}" if several else str(named["row"])
        if named["method"] == ORACLE:
            found.setdefault(ORACLE, []).append((0.0, where))
        elif named["q"] is not None:
            of_method = found.setdefault(named["method"], [])
            if named["q"] < SIGNIFICANT:
                of_method.append((-abs(named["t"]), where))
    return {method: [where for _, where in sorted(places)] for method, places in found.items()}


def _examples(rows: Sequence[tuple], shown: Mapping[str, Looks]) -> dict[str, dict[str, Any]]:
    """The examples of each forget set, the most memorised first; at most `MOST_EXAMPLES` of all sets."""
    place = {name: i for i, name in enumerate(EXAMPLE_COLUMNS)}
    by_set: dict[str, dict[str, list[tuple]]] = {}
    for row in rows:
        by_set.setdefault(row[place["forget_set"]], {}).setdefault(row[place["method"]], []).append(row)
    found = {}
    for name, by_method in itertools.islice(by_set.items(), MOST_EXAMPLES):
        oracle = by_method[ORACLE]
        right = {method: [row[place["right"]] for row in of_method] for method, of_method in by_method.items()}
        memorised = [a - b for a, b in zip(right.get("original", right[ORACLE]), right[ORACLE], strict=True)]
        order = sorted(range(len(oracle)), key=lambda i: -memorised[i])[: max(1, MOST_EXAMPLES // len(by_set))]
        pixels = shown[name].pixels if name in shown else {}
        numbers = [oracle[i][place["row"]] for i in order]
        found[name] = {
            "rows": numbers,
            "label": [oracle[i][place["label"]] for i in order],
            "clean": [oracle[i][place["clean_label"]] for i in order],
            "memorisation": [memorised[i] for i in order] if "original" in by_method else None,
            "pictures": [page.picture(pixels[number]) for number in numbers] if pixels else None,
            "sd": [oracle[i][place["margin_sd"]] for i in order],
            "methods": {
                method: {
                    field: [of_method[i][place[field]] for i in order]
                    for field in ("right", "margin", "q")
                    if field != "q" or method != ORACLE
                }
                for method, of_method in by_method.items()
            },
            "all": len(oracle),
        }
    return found


def _power(path: Path) -> list[dict[str, Any]]:
    """The rows of power.csv by metric; none if there is no such file."""
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError:
        return []
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        name = line["metric"], line["split"]
        of_metric = found.setdefault(name, {"key": "/".join(name), "main": name in SHOWN, "points": []})
        visible = float(line["visible"]) if line["visible"] else None
        mean, sd, low, high = (float(line[f"null_{field}"]) for field in ("mean", "sd", "low", "high"))
        of_metric["points"].append([int(line["oracles"]), int(line["models"]), mean, sd, high - low, visible])
    return list(found.values())


def repeat_of(folder: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how a run was made, and what repeats it: the texts that repeat.html takes."""
    config = facts.get("config") or {}
    commit = facts.get("git") or {}
    program = "unlearn-jax" if "unlearn-jax" in str(facts.get("command")) else "python benchmark.py"
    return {
        "command": str(facts.get("command") or ""),
        "again": "" if "data" in config else f"{program} --config {shlex.quote(f'{folder.folder}/config.json')} --out NEW",
        "commit": commit.get("commit") or "",
        "dirty": bool(commit.get("dirty")),
        "made": {
            "seed": config.get("seed"),
            "started": facts.get("started"),
            "device": facts.get("device"),
            "versions": ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items() if version),
        },
        "config": [(key, _shortened(value)) for key, value in leaves(config)],
    }


def _shortened(value: Any) -> str:
    """A value of a configuration as text; of a long one, as a list of rows, the beginning."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONG else f"{text[:LONG]}… (all of it is in config.json)"


def write_study(folder: Run, explorer: Mapping[str, Any] | None = None) -> None:
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
