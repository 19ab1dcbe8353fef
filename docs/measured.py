"""What runs measured of a method and of a metric, read from the committed tables of the findings; no number is typed here."""

import csv
import functools
import math
from collections.abc import Mapping
from pathlib import Path

from docs.markup import as_number, capital, cells_of, page, table
from unlearn_jax.bench.statistics import SIGNIFICANT
from unlearn_jax.metrics.registry import COST, EFFECT, METRICS, ON, Metric
from unlearn_jax.report.rows import REFERENCES

DOCS = Path(__file__).parent
FINDINGS = DOCS / "findings"
BOARD = "methods-digits"  # all methods on one leaderboard
MAIN = "unlearning-digits"  # the main job, with every example
CHEATS = "gaming-digits"
HONEST = ("retrain", "retrain_again")  # rows of the cheats' table that are no cheats
Rows = Mapping[tuple[str, str, str], Mapping[str, str]]  # (method, metric, split) -> row


def measured(name: str) -> str:
    """How a method stands on the leaderboard of all methods: a chart, the outcome and its main scores."""
    rows = results(BOARD)
    if (name, "memory_left", "forget") not in rows:
        return f"Not measured in [{BOARD}](../../findings/{BOARD}.md)."
    first = rows[name, "memory_left", "forget"]
    parts = [_chart(name)]
    lines = []
    for metric, split in (
        *(("memory_left", split) for split in METRICS["memory_left"].splits),
        *(("damage", split) for split in METRICS["damage"].splits),
        *(("accuracy", split) for split in METRICS["accuracy"].splits),
        *(("klom", split) for split in METRICS["klom"].splits),
        ("forgetting_quality", "forget"),
        ("svc_mia", "forget"),
        ("rte_examples", ""),
    ):
        row = rows.get((name, metric, split))
        if row and row["value"]:
            interval, null, z = _score(row)
            if METRICS[metric].kind == EFFECT:
                null = f"{as_number(rows['retrain', metric, split]['value'])}, as a method"
            lines.append([f"[{METRICS[metric].label}](../metrics/{metric}.md)", ON.get(split, split), interval, null, z])
    said = {"equivalent": "*equivalent* to retraining", "not distinguished": "*not distinguished* from retraining"}
    text = f"Outcome: {said.get(first['outcome'], '*different* from retraining')}, n = {first['n_members']} models against "
    text += f"{first['n_oracles']} oracles."
    models = [row for row in _read(BOARD, "models.csv") if row["method"] == name]
    if models:
        outliers = sum(row["outlier"] == "True" for row in models)
        nearer = sum(row["nearer"] == "original" for row in models)
        text += f" Of its {len(models)} models {outliers} are outliers among retrained ones; {nearer} are nearer to an original."
    examples = [row for row in _read(MAIN, "examples.csv") if row["method"] == name and row["q"]]
    if examples:
        differing = sum(float(row["q"]) < SIGNIFICANT for row in examples)
        text += f" On {differing} of {len(examples)} examples of F its models differ from retrained ones (q < {SIGNIFICANT:.0%})."
    heads = ("metric", "on", "value (95% interval)", "retrained (null ± sd)", "z")
    source = f"`python benchmark.py --exp unlearning --methods all`: [the finding](../../findings/{BOARD}.md), "
    source += f"[all rows](../../findings/{BOARD}/results.csv), [each model](../../findings/{BOARD}/models.csv)"
    source += f"; single examples: [the main job](../../findings/{MAIN}.md). One data set, one network, one forget set."
    return page(*parts, text, table(heads, lines, right=(2, 3, 4)), source).rstrip()


def null_of(each: Metric) -> str:
    """A metric's null on that leaderboard, and the methods that are nearest to retraining."""
    rows = results(BOARD)
    scored = {split: [name for name, metric, on in rows if (metric, on) == (each.name, split)] for split in each.splits}
    scored = {split: names for split, names in scored.items() if names}
    if each.kind == COST:
        text = "Less is cheaper; a cost has no null."
    elif each.kind == EFFECT:
        text = f"{capital(each.perfect)}. It has no null: it is read by its interval, and 0 is retraining."
    else:
        text = f"A perfect method: {each.perfect}. Both sides count: a score beyond the null is as wrong as one short of it."
    if not scored:
        return f"{text} No committed leaderboard has a row of it."
    lines = []
    for split, names in scored.items():
        others = [name for name in names if name not in REFERENCES]
        others.sort(key=lambda name: _distance(each, rows[name, each.name, split]))
        shown = [_short(rows[name, each.name, split]) if name in names else "" for name in ("original", "retrain")]
        nearest = ", ".join(f"[`{name}`](../methods/{name}.md) {_short(rows[name, each.name, split])}" for name in others[:3])
        row = rows[names[0], each.name, split]
        null = f"{as_number(row['null_mean'])} ± {as_number(row['null_sd'])}" if row["null_mean"] else "none"
        ends = f"{as_number(row['null_low'])} to {as_number(row['null_high'])}" if row["null_low"] else ""
        lines.append([ON.get(split, split) or "run", null, ends, *shown, nearest])
    heads = ("on", "null ± sd", "95% of retrained", "doing nothing", "retraining, as a method")
    last = "cheapest" if each.kind == COST else "nearest to retraining"
    return page(
        text,
        f"As measured on [one leaderboard](../../findings/{BOARD}.md) (digits, ResNet-8, n = "
        f"{next(iter(rows.values()))['n_members']}); z in brackets:",
        table((*heads, last), lines),
    ).rstrip()


def cheated(each: Metric) -> str:
    """The cheats that a metric takes for retrained models."""
    rows = results(CHEATS)
    splits = [split for split in each.splits if any((cheat, each.name, split) in rows for cheat in cheats())]
    if not splits:
        return f"Nobody has tried: [the gaming study](../../findings/{CHEATS}.md) was run before this metric existed."
    inside = {cheat: [split for split in splits if _inside(rows[cheat, each.name, split])] for cheat in cheats()}
    lines = []
    for cheat in sorted(inside, key=lambda cheat: (splits[0] not in inside[cheat], -_wrong(rows, cheat, "memory_nudged"))):
        if not inside[cheat]:
            continue
        scores = [_z(rows[cheat, each.name, split], bold=split in inside[cheat]) for split in splits]
        wrong = [f"{_wrong(rows, cheat, measure):.2f}" for measure in ("untouched", "memory_nudged")]
        lines.append([f"`{cheat}`", cheats()[cheat], *wrong, *scores])
    if not lines:
        return f"None of the {len(inside)} cheats of [the gaming study](../../findings/{CHEATS}.md) is inside its null."
    heads = ("cheat", "what it does", "F untouched", "memory, F nudged", *(f"z on {ON.get(split, split)}" for split in splits))
    counts = ", ".join(f"{sum(split in found for found in inside.values())} on {ON.get(split, split)}" for split in splits)
    return page(
        f"Of {len(inside)} cheats in [the gaming study](../../findings/{CHEATS}.md), models or wrappers that are plainly wrong, "
        f"these lie inside the null's 95% interval (bold): {counts}. *F untouched* is the share of F that is answered bit by bit "
        "as before; *memory, F nudged* is what is still remembered of F when its images carry a little noise (0: as retraining, "
        f"1: all of it). Those inside on {ON.get(splits[0], 'all splits')} come first, of these the one that remembers most.",
        table(heads, lines, right=range(2, len(heads))),
    ).rstrip()


def fooled(each: Metric) -> str:
    """How many cheats a metric takes for retrained models, by split."""
    rows = results(CHEATS)
    counts = []
    for split in each.splits:
        scores = [rows[cheat, each.name, split] for cheat in cheats() if (cheat, each.name, split) in rows]
        if scores:
            where = f" {ON.get(split, split)}" if len(each.splits) > 1 else ""
            counts.append(f"{sum(map(_inside, scores))}{where}")
    return ", ".join(counts) or "–"


def _chart(name: str) -> str:
    """All methods by memory left and damage as inline SVG, one of them marked; its colours are those of the theme."""
    left, top, width, height = 52, 12, 380, 200
    low, high, most = -0.25, 1.1, 1.4

    def place(method: str) -> tuple[float, float, bool]:
        memory, damage = (float(results(BOARD)[method, *key]["value"]) for key in (("memory_left", "forget"), ("damage", "all")))
        x, y = min(max(memory, low), high), min(max(damage, 0.0), most)
        beyond = (memory, max(damage, 0.0)) != (x, y)
        return left + width * (x - low) / (high - low), top + height * (1 - y / most), beyond

    def dot(method: str, kind: str, radius: float) -> str:
        x, y, _ = place(method)
        values = ", ".join(standing(method)[:2])
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{method}: {values}</title></circle>'

    methods = [method for method, metric, split in results(BOARD) if (metric, split) == ("memory_left", "forget")]
    others = [method for method in methods if method not in (name, *REFERENCES)]
    ticks = [f'<line class="axis" x1="{left}" y1="{top + height}" x2="{left + width}" y2="{top + height}"/>']
    for tick in (0, 0.5, 1):
        x, y = left + width * (tick - low) / (high - low), top + height * (1 - tick / most)
        ticks.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}"/>')
        ticks.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
        ticks.append(f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">{tick}</text>')
        ticks.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    x, y, beyond = place(name)
    anchor = "start" if x < left + width / 2 else "end"
    shift = 10 if anchor == "start" else -10
    called = f"{name} (beyond)" if beyond else name
    body = [
        *ticks,
        *(dot(method, "other", 3.5) for method in others),
        *(dot(method, "reference", 5) for method in REFERENCES if method in methods and method != name),
        dot(name, "this", 6.5),
        f'<text class="this" x="{x + shift:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">{called}</text>',
        f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">memory left</text>',
        f'<text transform="translate(14 {top + height / 2}) rotate(-90)" text-anchor="middle">damage</text>',
    ]
    said = f"Memory left against damage, {len(methods)} methods: {name} is marked, the rings are retraining and doing nothing."
    box = f"0 0 {left + width + 8} {top + height + 42}"
    svg = f'<svg class="standing" viewBox="{box}" role="img" aria-label="{said}">{"".join(body)}</svg>'
    return f"```{{raw}} html\n<figure>{svg}<figcaption>{said}</figcaption></figure>\n```"


def standing(name: str) -> tuple[str, str, str]:
    """Memory left, damage and outcome; a dash each if they were not measured."""
    rows = results(BOARD)
    found = [rows.get((name, *key)) for key in (("memory_left", "forget"), ("damage", "all"))]
    if not all(found):
        return "–", "–", "–"
    memory, damage = (f"{float(row['value']):z.2f}" for row in found if row)
    return memory, damage, found[0]["outcome"] if found[0] else ""


@functools.cache
def results(finding: str) -> Rows:
    """The rows of a finding's results.csv, by method, metric and split."""
    return {(row["method"], row["metric"], row["split"]): row for row in _read(finding, "results.csv")}


@functools.cache
def _read(finding: str, name: str) -> tuple[dict[str, str], ...]:
    with (FINDINGS / finding / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


@functools.cache
def cheats() -> dict[str, str]:
    """Cheat -> what it does, from the table that the gaming study wrote."""
    lines = [cells_of(line) for line in (FINDINGS / CHEATS / "summary.md").read_text().splitlines() if line.startswith("|")]
    (start,) = [number for number, cells in enumerate(lines) if cells[1:3] == ["cheat", "what it does"]]
    described = {cells[1]: cells[2] for cells in lines[start + 2 :] if len(cells) == len(lines[start])}
    return {name: text for name, text in described.items() if name not in HONEST}


def _score(row: Mapping[str, str]) -> tuple[str, str, str]:
    interval = as_number(row["value"])
    if row["value_low"]:
        interval += f" ({as_number(row['value_low'])} to {as_number(row['value_high'])})"
    null = f"{as_number(row['null_mean'])} ± {as_number(row['null_sd'])}" if row["null_mean"] else ""
    return interval, null, _z(row)


def _short(row: Mapping[str, str]) -> str:
    if not row["value"]:
        return ""
    return f"{as_number(row['value'])} ({_z(row)})" if _z(row) else as_number(row["value"])


def _distance(each: Metric, row: Mapping[str, str]) -> float:
    key = row["value"] if each.kind in (COST, EFFECT) else row["deviation"]
    distance = abs(float(key)) if key else math.inf
    return math.inf if math.isnan(distance) else distance


def _z(row: Mapping[str, str], bold: bool = False) -> str:
    if not row["z"]:
        return ""
    text = f"{float(row['z']):+z.1f}"
    return f"**{text}**" if bold else text


def _inside(row: Mapping[str, str]) -> bool:
    """Whether a score lies in the 95% interval of its null."""
    return bool(row["null_low"]) and float(row["null_low"]) <= float(row["value"]) <= float(row["null_high"])


def _wrong(rows: Rows, cheat: str, measure: str) -> float:
    return float(rows[cheat, measure, "forget"]["value"])
