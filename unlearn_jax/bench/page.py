"""The page of the main job, report.html: what goes into it. How it looks is `unlearn_jax/report/page`."""

import csv
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax.bench.hyperparameters import SOURCES
from unlearn_jax.bench.page_words import GLOSSARY, NAMES, Standing, Whole, answers, chance, headline, reading
from unlearn_jax.bench.repeat import repeat_of
from unlearn_jax.bench.sample_size import SHOWN
from unlearn_jax.bench.statistics import EXAMPLE_COLUMNS, SIGNIFICANT
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics import METRICS
from unlearn_jax.metrics.catalogue import (
    accuracy,
    compile_seconds,
    damage,
    klom,
    memory_left,
    memory_of_models,
    outlier_distance,
    outlier_memory,
    rte,
    rte_examples,
    seconds,
)
from unlearn_jax.metrics.effects import MARGIN
from unlearn_jax.metrics.registry import COST, EFFECT, ON, SPLITS
from unlearn_jax.progress import SECONDS, stage
from unlearn_jax.report import page
from unlearn_jax.report.figures import LOSS_RANGE, loss_shares
from unlearn_jax.report.leaderboard import Leaderboard
from unlearn_jax.report.rows import REFERENCES, Row, subject
from unlearn_jax.runs import Run

MOST_EXAMPLES = 500  # of all forget sets together
MOST_ROWS = 20_000  # of results.csv: beyond, only the means and the first forget sets
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
    for each in sets:
        _count(each, differing, overall=each is sets[0])
    names = [name for name in order if name not in REFERENCES]
    standings = [_standing(sets[0]["methods"][name], name, differing) for name in names]
    repeated, cost = repeat_of(folder, facts), _whole(rows)
    whole = cost.words(SECONDS) if cost else ""
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
        "answers": answers(standings, tied, repeated["command"], whole),
        "several": next(iter(of_examples)) if len(of_examples) > 1 else "",
        "board": board,
        "chance": chance(_standing(sets[0]["methods"]["retrain"], "retrain", {})) if "retrain" in order else "",
        "reading": reading(standings),
        "test_like": any("test-like" in row.access for row in means),
        "sized": any(each.memory and each.damage for each in standings),
        "notes": [*board.caption[1:], *notes],
        "glossary": GLOSSARY,
        "figures": sorted(path.stem for path in (folder.folder / "figures").glob("*.svg")),
        **repeated,
        "made": repeated["made"] | {"Time, when each part was made": whole} if whole else repeated["made"],
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
            "label": title_of(name, split, unit=False),
            "short": _short(name, split),
            "about": known.summary if known else "",
            "perfect": known.perfect if known else "",
            "unit": known.unit if known else "",
            "cost": bool(known and known.kind == COST),
            "effect": name in (memory_left.name, damage.name),
            "group": _group(name),
            "shown": (name, split) in COLUMNS,
        }
    return found


def _short(name: str, split: str) -> str:
    """The heading of a column: the metric's short name, or its whole name, so that no two are alike."""
    known = METRICS.get(name)
    one = known is not None and known.short != name and name not in NAMES and (known.splits == SPLITS or len(known.splits) == 1)
    return known.heading(split) if known and one else title_of(name, split, unit=False)


def _group(name: str) -> str:
    """Where a metric stands among the columns to choose from."""
    known = METRICS.get(name)
    if known is None:
        return "own metrics"
    if known.kind in (EFFECT, COST):
        return {EFFECT: "memory left and damage", COST: "cost"}[known.kind]
    if known.attack and "mia" in name:
        return "attacks"
    if name in (outlier_distance.name, outlier_memory.name, memory_of_models.name):
        return "single models"
    return "accuracy and margin" if known.unit in ("%", "points") or "margin" in name else "distance from retrained models"


def _method(name: str, used: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    """What a method is, and with which hyperparameters it ran."""
    entry = METHODS.get(name)
    module = entry.make.__module__.rpartition(".")[2] if entry else ""
    family = "reference" if name in REFERENCES else FAMILIES.get(module, module.replace("_", " ")) if entry else "own"
    hyper = [
        [
            key,
            value if isinstance(value, str | int | float) else str(value),
            "fixed in the search"
            if origins.get(key) == "budget"
            else SOURCES.get(origins.get(key, ""), "given").partition(" (")[0],
        ]
        for key, value in used.items()
    ]
    return {
        "family": family,
        "settings": next((source for source in reversed(SOURCES) if source in origins.values()), "none"),
        "about": entry.summary.replace("`", "") if entry else "",
        "source": entry.reference.strip("-") if entry else "",
        "hyper": hyper,
    }


def _standing(found: Mapping[str, Any], name: str, differing: Mapping[str, "_Differing"]) -> Standing:
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
        left=[where for _, where, _ in sorted(differing[name].left)] if name in differing else None,
        overshot=[where for _, where, _ in sorted(differing[name].overshot)] if name in differing else (),
        examples=sum(differing[name].tested.values()) if name in differing else 0,
    )


_COSTS = {"seconds": seconds.name, "share": rte.name, "work": rte_examples.name}


def title_of(name: str, split: str, unit: bool = True) -> str:
    """The name of a metric and its split in words, with its unit."""
    known = METRICS.get(name)
    if known is None:
        return f"{name} {split}".strip()
    where = f" on {ON[split]}" if split in ON and len(known.splits) > 1 else ""
    return f"{NAMES.get(name, known.label.replace('_', ' '))}{where}{f' ({known.unit})' if unit and known.unit else ''}"


class _Differing(NamedTuple):
    """The examples on which a method's models differ from the oracles, the largest difference first.

    Attributes:
        left: minus the difference of the mean margins in nats, where it is and the forget set, where they are surer of the label.
        overshot: likewise, where they are less sure.
        tested: the number of examples by forget set.
    """

    left: list[tuple[float, str, str]]
    overshot: list[tuple[float, str, str]]
    tested: dict[str, int]


def _differing(rows: Sequence[tuple]) -> dict[str, _Differing]:
    """By method, what `_Differing` says; methods without tests are left out."""
    named = [dict(zip(EXAMPLE_COLUMNS, row, strict=True)) for row in rows]
    several = len({row["forget_set"] for row in named}) > 1
    oracle = {(row["forget_set"], row["row"]): row["margin"] for row in named if row["method"] == ORACLE}
    found: dict[str, _Differing] = {}
    for row in named:
        if row["q"] is None:
            continue
        of_method, name = found.setdefault(row["method"], _Differing([], [], {})), row["forget_set"]
        of_method.tested[name] = of_method.tested.get(name, 0) + 1
        if row["q"] < SIGNIFICANT:
            difference = row["margin"] - oracle[name, row["row"]]
            where = f"{row['row']} of {name}" if several else str(row["row"])
            (of_method.left if difference > 0 else of_method.overshot).append((-abs(difference), where, name))
    return found


def _count(of_set: dict[str, Any], differing: Mapping[str, _Differing], overall: bool) -> None:
    """Adds to each method of a set the numbers of examples that are left, overshot and tested; `overall`, of all sets."""
    for name, found in of_set["methods"].items():
        each = differing.get(name)
        tested = [count for where, count in each.tested.items() if overall or where == of_set["name"]] if each else []
        if each and tested:
            counts = [sum(overall or where == of_set["name"] for *_, where in part) for part in (each.left, each.overshot)]
            found["examples"] = [*counts, sum(tested)]


def _whole(rows: Sequence[Row]) -> Whole | None:
    """What the whole run cost, from the seconds of each method's models; None if they were not measured."""
    by_metric = {
        name: {(row.forget_set, row.method): row for row in rows if row.metric == name and row.value is not None}
        for name in (seconds.name, compile_seconds.name, rte.name)
    }
    timed = by_metric[seconds.name]
    each = [
        (row.value or 0) / share.value for key, row in timed.items() if (share := by_metric[rte.name].get(key)) and share.value
    ]
    if not each:
        return None
    oracles = {row.forget_set: row.n_oracles or 0 for row in timed.values()}
    return Whole(
        methods=len({row.method for row in timed.values() if row.method not in REFERENCES}),
        models=sum(row.n_members or 0 for row in timed.values() if row.method != "original"),
        seconds=sum((row.value or 0) * (row.n_members or 0) for row in timed.values()),
        compiling=sum(row.value or 0 for row in by_metric[compile_seconds.name].values()),
        pools=max(row.n_members or 0 for row in timed.values()) + sum(oracles.values()),
        retraining=float(np.median(each)),
    )


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
