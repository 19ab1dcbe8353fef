"""The pages that the site makes when it is built: one for each method and each metric, from the registries and committed tables.

No number is typed here. Measured values are read from docs/findings, as they were written by the runs.
"""

import csv
import functools
import importlib
import inspect
import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearn_jax.bench.page_words import GLOSSARY
from unlearn_jax.bench.statistics import SIGNIFICANT
from unlearn_jax.bench.tuned import TUNED, tuned
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics.registry import COST, DISTANCE, EFFECT, METRICS, ON, PER_MODEL, TWO_SAMPLE, Metric
from unlearn_jax.report.rows import REFERENCES

DOCS = Path(__file__).parent
ROOT = DOCS.parent
FINDINGS = DOCS / "findings"
_SHORT = "---\ntocdepth: 1\n---\n\n"  # every page would otherwise copy the headings of all of these
_WRITTEN = re.compile(r"findings/.*/summary[^/]*|performance/.*")  # by a run
BOARD = "methods-digits"  # all methods on one leaderboard
MAIN = "unlearning-digits"  # the main job, with every example
CHEATS = "gaming-digits"
HONEST = ("retrain", "retrain_again")  # rows of the cheats' table that are no cheats
SEEN = {
    "none": "nothing",
    "F": "the forget set F",
    "R": "the retain set R",
    "F+R": "the forget set F and the retain set R",
    "R+test-like": "the retain set R, and held-out examples like the test set",
    "F+R+test-like": "the forget set F, the retain set R, and held-out examples like the test set",
    "data-free": "no data, the model alone",
}
COMPARED = {
    TWO_SAMPLE: "One number from all unlearned models and as many oracles together.",
    DISTANCE: "One number for each unlearned model, its distance from the oracles; the value is their mean.",
    PER_MODEL: "One number for each model; the value is their mean.",
    EFFECT: "A size with its interval, without a null: 0 is retraining.",
    COST: "A cost, without a null.",
}
SVC = "unlearn_jax.metrics.attacks.svc_mia"
BY_MODEL = "unlearn_jax.metrics.by_model"
DEFINED = {
    "klom": ["unlearn_jax.metrics.klom.klom"],
    "klom_p95": ["unlearn_jax.metrics.klom.klom"],
    "forgetting_quality": ["unlearn_jax.metrics.forgetting_quality.forgetting_quality"],
    "example_t": ["unlearn_jax.metrics.by_example.largest_t"],
    "outlier_distance": [f"{BY_MODEL}.largest_outlier", f"{BY_MODEL}.distances"],
    "outlier_memory": [f"{BY_MODEL}.largest_outlier", f"{BY_MODEL}.memory_axis"],
    "kl_to_oracle": ["unlearn_jax.metrics.distances.kl_to_oracle"],
    "activation_distance": ["unlearn_jax.metrics.distances.activation_distance"],
    "js_divergence": ["unlearn_jax.metrics.distances.js_divergence"],
    "tow": ["unlearn_jax.metrics.accuracy.tow"],
    "tow_mia": ["unlearn_jax.metrics.accuracy.tow_mia"],
    "competition_score": ["unlearn_jax.metrics.accuracy.competition_score"],
    "average_gap": ["unlearn_jax.metrics.accuracy.average_gap"],
    "accuracy": ["unlearn_jax.metrics.accuracy.accuracy"],
    "mean_margin": ["unlearn_jax.metrics.scores.margins"],
    "svc_mia_correctness": [SVC],
    "svc_mia": [SVC],
    "svc_mia_entropy": [SVC],
    "svc_mia_m_entropy": [SVC],
    "svc_mia_prob": [SVC],
    "logistic_mia": ["unlearn_jax.metrics.attacks.logistic_mia"],
    "accuracy_repaired": ["unlearn_jax.metrics.accuracy.accuracy"],
    "weight_distance": ["unlearn_jax.metrics.distances.weight_distance"],
    "relearn_steps": ["unlearn_jax.metrics.relearning.relearn_steps"],
    "zrf": ["unlearn_jax.metrics.distances.zrf"],
    "memory_of_models": [f"{BY_MODEL}.memory_axis"],
    "memory_left": ["unlearn_jax.metrics.effects", "unlearn_jax.metrics.effects.effects"],
    "damage": ["unlearn_jax.metrics.effects", "unlearn_jax.metrics.effects.effects"],
}
"""Metric -> the functions (or module) whose docstrings define it; costs are defined by their summary."""

Rows = Mapping[tuple[str, str, str], Mapping[str, str]]  # (method, metric, split) -> row


def write(folder: Path) -> None:
    """Writes all generated pages into a folder that holds nothing else; files that stay the same keep their time.

    Args:
        folder: `docs/generated`, since links lead from there to the other pages.
    """
    texts = {
        "methods/index.md": method_index(),
        "metrics/index.md": metric_index(),
        "words.txt": words(),
        "tables.md": tables(),
        **{f"methods/{name}.md": _SHORT + method_page(name) for name in METHODS},
        **{f"metrics/{name}.md": _SHORT + metric_page(name) for name in METRICS},
    }
    for path in folder.rglob("*.*"):
        if path.relative_to(folder).as_posix() not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:  # Sphinx reads again only what is newer
            path.write_text(text)


def method_index() -> str:
    """The page that lists all methods by family, with their measured standing."""
    families: dict[str, list[str]] = {}
    for name, entry in METHODS.items():
        families.setdefault(entry.make.__module__, []).append(name)
    parts = [
        "# A page for every method",
        f"What each of the {len(METHODS)} methods does, may see and needs, its hyperparameters, and how far from retraining it "
        f"came on [one leaderboard](../../findings/{BOARD}.md): digits, ResNet-8, one forget set. *Memory left* is 0 for "
        "retraining and 1 for doing nothing, *damage* 0 for both.",
    ]
    for module, names in families.items():
        title = (importlib.import_module(module).__doc__ or module).splitlines()[0].partition(":")[0].rstrip(".")
        lines = [[f"[`{name}`]({name}.md)", METHODS[name].access, *_standing(name), _name_of(METHODS[name])] for name in names]
        heads = ("method", "may see", "memory left", "damage", "outcome", "what it does")
        parts += [f"## {title}", _table(heads, lines, right=(2, 3))]
    return _page(*parts, _toctree(METHODS))


def method_page(name: str) -> str:
    """The page of one method."""
    entry = METHODS[name]
    text = Docstring.of(entry.make)
    arguments = text.sections.pop("Args", "")
    parts = [f"# {name}", f"**{_prose(text.summary, name)}**", _facts(name, entry)]
    if text.body:
        parts += ["## What it does", _prose(text.body, name)]
    if departures := _departures().get(name):
        parts += ["## Where it departs from the authors' code", _capital(departures)]
    parts += [f"## {title}\n\n{_prose(body, name)}" for title, body in text.sections.items()]
    parts += ["## Hyperparameters", _hyperparameters(name, entry, _entries(arguments))]
    return _page(*parts, "## How near to retraining it came", _measured(name))


def metric_index() -> str:
    """The page that lists all metrics."""
    heads = ("metric", "what it is", "on", "a perfect method", "cheats inside the null")
    lines = [
        [f"[`{name}`]({name}.md)", _escaped(each.summary.removesuffix(".")), _splits(each), each.perfect, _fooled(each)]
        for name, each in METRICS.items()
    ]
    return _page(
        "# A page for every metric",
        "What each metric measures, what a perfect method scores, and which models that are plainly wrong score the same. "
        "[How to read them](../../metrics.md) has the rules that they share.",
        f"The last column counts, of {len(_cheats())} cheats in [the gaming study](../../findings/{CHEATS}.md), those whose "
        "score lies inside the null's 95% interval on a split; a dash is a metric that no cheat was scored by.",
        _table(heads, lines),
        _toctree(METRICS),
    )


def metric_page(name: str) -> str:
    """The page of one metric."""
    each = METRICS[name]
    facts = [
        ("on", _splits(each) or "the whole run"),
        ("unit", each.unit or "none"),
        ("how it is computed", COMPARED[each.kind]),
        ("a perfect method", each.perfect),
        ("needs", ", ".join(each.needs)),
        ("source", _cited(each.source) or "this project"),
        ("in tables and axes", each.label if each.short in (name, each.label) else f"{each.label}; as a column: {each.short}"),
    ]
    if each.attack:
        facts.append(("membership attack", "yes, or contains one: the verdict counts it in its own standard error"))
    parts = [f"# {name}", f"**{_escaped(each.summary)}**", _table(("", ""), facts)]
    if name in DEFINED:
        parts += ["## Definition", _autodoc(DEFINED[name])]
    parts += ["## Null and direction", _null(each)]
    if each.kind not in (COST, EFFECT):
        parts += ["## What fools it", _cheated(each)]
    return _page(*parts, "Rules that all metrics share: [how to read the metrics](../../metrics.md).")


def words() -> str:
    """The words that the page of a run explains, as a glossary."""
    lines = "\n".join(f"{term}\n  {meaning}\n" for term, meaning in GLOSSARY.values())
    return f":::{{glossary}}\n{lines}:::\n"


def tables() -> str:
    """The page under which the tables stand that runs wrote."""
    return _page(
        "# The tables of the runs",
        "What each run wrote of itself, unedited. The findings say what it means.",
        _toctree(["/findings/*/summary*", "/findings/*/*/summary*", "/performance/*"], "glob"),
    )


def adapted(text: str, document: str) -> str:
    """A page as the site shows it.

    Its links out of docs lead somewhere; the tables of methods.md and metrics.md lead to the generated pages; the index of the
    findings has them below it; and what a run wrote has a title, and no links to files that were not kept.

    Args:
        text: Markdown.
        document: its name, such as `findings/tuning`.
    """
    folder = (DOCS / document).parent
    written = _WRITTEN.fullmatch(document)

    def inward(link: re.Match[str]) -> str:
        image, said, target = link.groups()
        path = Path(os.path.normpath(folder / target))
        if path == ROOT / "README.md":
            return f"[{said}]({os.path.relpath(DOCS / 'index.md', folder)})"
        if path.is_dir() and not path.is_relative_to(DOCS):
            return f"{said} (`{path.relative_to(ROOT)}`)"
        if written and not path.exists():
            return "" if image else said
        return link[0]

    text = re.sub(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)\)", inward, text)
    if document in ("methods", "metrics"):
        names = METHODS if document == "methods" else METRICS
        for name in names:
            text = re.sub(rf"^\| `{name}`", f"| [`{name}`](generated/{document}/{name}.md)", text, flags=re.MULTILINE)
    if document == "findings/README":
        text += "\n" + _toctree(["*", "/generated/tables"], "glob") + "\n"
    if written:
        text = f"{_SHORT}# {_title_of(document)}\n\n" + re.sub(r"^(?=# )", "#", text, flags=re.MULTILINE)
    return text


def _title_of(document: str) -> str:
    """The title of a page that a run wrote: the heading of the page that it belongs to, and which part of it this is."""
    place = FINDINGS if document.startswith("findings/") else DOCS
    folder, *names = (DOCS / document).relative_to(place).parts
    owner = max((page for page in place.glob("*.md") if folder.startswith(page.stem)), key=lambda page: len(page.stem))
    heading = owner.read_text().splitlines()[0].removeprefix("# ")
    part = re.sub(r"[-_ ]+", " ", " ".join(names).replace("summary", "")).strip()
    return f"Tables{f' ({part})' if part else ''}: {heading}"


class Docstring(NamedTuple):
    """A docstring in Google's style, in parts."""

    summary: str
    body: str
    sections: dict[str, str]  # heading -> text

    @classmethod
    def of(cls, thing: Any) -> "Docstring":
        """The docstring of a function."""
        text = inspect.cleandoc(thing.__doc__ or "")
        head, *rest = re.split(r"^(Args|Returns|Raises|Yields|Attributes):\n", text, flags=re.MULTILINE)
        summary, _, body = head.partition("\n\n")
        sections = {title: textwrap.dedent(part).strip() for title, part in zip(rest[::2], rest[1::2], strict=True)}
        return cls(" ".join(summary.split()), body.strip(), sections)


def _facts(name: str, entry: Entry) -> str:
    facts = [
        ("may see", f"{SEEN[entry.access]} (access `{entry.access}`)"),
        ("needs of a model", ", ".join(entry.needs) if entry.needs else "nothing"),
        ("reference", _cited(entry.reference) or "none"),
        ("zero epochs", "leave the model as it was" if entry.identity_at_zero else ""),
        ("gives", "several networks, whose mean prediction counts" if entry.ensemble else ""),
        ("file", f"`{entry.make.__module__.replace('.', '/')}.py`"),
        ("use", f'`--methods original,retrain,{name}` or `uj.unlearn("{name}", ...)`'),
    ]
    return _table(("", ""), [fact for fact in facts if fact[1]])


def _hyperparameters(name: str, entry: Entry, meanings: Mapping[str, str]) -> str:
    if not entry.defaults:
        return "None."
    found = {dataset: tuned(dataset).get(name, {}) for dataset in TUNED}
    heads = ("name", "default", *(f"used on {dataset}" for dataset in found), "searched", "what it is")
    lines = []
    for key, default in entry.defaults.items():
        given = [_value(values[key]) if key in values else "" for values in found.values()]
        searched = ""
        if key in entry.search:
            low, high, scale = entry.search[key]
            searched = f"{low:g} to {high:g}, {scale}"
        lines.append([f"`{key}`", _value(default), *given, searched, _prose(meanings.get(key, ""), name)])
    notes = []
    if not any(found.values()):
        notes.append("No search has been made for this method: the data sets' runs use the defaults.")
    elif entry.search:
        notes.append(
            "Values used on a data set come from [the search](../../findings/tuning.md): it varied what has a range here, set "
            "epochs and batch size for all methods, and left the rest at the default."
        )
    notes.append(f"`--hyper {name}.{next(iter(entry.defaults))}=...` sets one.")
    return _page(_table(heads, lines), " ".join(notes)).rstrip()


def _measured(name: str) -> str:
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
                null = f"{_number(rows['retrain', metric, split]['value'])}, as a method"
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
    return _page(*parts, text, _table(heads, lines, right=(2, 3, 4)), source).rstrip()


def _null(each: Metric) -> str:
    rows = results(BOARD)
    scored = {split: [name for name, metric, on in rows if (metric, on) == (each.name, split)] for split in each.splits}
    scored = {split: names for split, names in scored.items() if names}
    if each.kind == COST:
        text = "Less is cheaper; a cost has no null."
    elif each.kind == EFFECT:
        text = f"{_capital(each.perfect)}. It has no null: it is read by its interval, and 0 is retraining."
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
        null = f"{_number(row['null_mean'])} ± {_number(row['null_sd'])}" if row["null_mean"] else "none"
        ends = f"{_number(row['null_low'])} to {_number(row['null_high'])}" if row["null_low"] else ""
        lines.append([ON.get(split, split) or "run", null, ends, *shown, nearest])
    heads = ("on", "null ± sd", "95% of retrained", "doing nothing", "retraining, as a method")
    last = "cheapest" if each.kind == COST else "nearest to retraining"
    return _page(
        text,
        f"As measured on [one leaderboard](../../findings/{BOARD}.md) (digits, ResNet-8, n = "
        f"{next(iter(rows.values()))['n_members']}); z in brackets:",
        _table((*heads, last), lines),
    ).rstrip()


def _cheated(each: Metric) -> str:
    rows = results(CHEATS)
    splits = [split for split in each.splits if any((cheat, each.name, split) in rows for cheat in _cheats())]
    if not splits:
        return f"Nobody has tried: [the gaming study](../../findings/{CHEATS}.md) was run before this metric existed."
    inside = {cheat: [split for split in splits if _inside(rows[cheat, each.name, split])] for cheat in _cheats()}
    lines = []
    for cheat in sorted(inside, key=lambda cheat: (splits[0] not in inside[cheat], -_wrong(rows, cheat, "memory_nudged"))):
        if not inside[cheat]:
            continue
        scores = [_z(rows[cheat, each.name, split], bold=split in inside[cheat]) for split in splits]
        wrong = [f"{_wrong(rows, cheat, measure):.2f}" for measure in ("untouched", "memory_nudged")]
        lines.append([f"`{cheat}`", _cheats()[cheat], *wrong, *scores])
    if not lines:
        return f"None of the {len(inside)} cheats of [the gaming study](../../findings/{CHEATS}.md) is inside its null."
    heads = ("cheat", "what it does", "F untouched", "memory, F nudged", *(f"z on {ON.get(split, split)}" for split in splits))
    counts = ", ".join(f"{sum(split in found for found in inside.values())} on {ON.get(split, split)}" for split in splits)
    return _page(
        f"Of {len(inside)} cheats in [the gaming study](../../findings/{CHEATS}.md), models or wrappers that are plainly wrong, "
        f"these lie inside the null's 95% interval (bold): {counts}. *F untouched* is the share of F that is answered bit by bit "
        "as before; *memory, F nudged* is what is still remembered of F when its images carry a little noise (0: as retraining, "
        f"1: all of it). Those inside on {ON.get(splits[0], 'all splits')} come first, of these the one that remembers most.",
        _table(heads, lines, right=range(2, len(heads))),
    ).rstrip()


def _fooled(each: Metric) -> str:
    rows = results(CHEATS)
    counts = []
    for split in each.splits:
        scores = [rows[cheat, each.name, split] for cheat in _cheats() if (cheat, each.name, split) in rows]
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
        values = ", ".join(_standing(method)[:2])
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


@functools.cache
def results(finding: str) -> Rows:
    """The rows of a finding's results.csv, by method, metric and split."""
    return {(row["method"], row["metric"], row["split"]): row for row in _read(finding, "results.csv")}


@functools.cache
def _read(finding: str, name: str) -> tuple[dict[str, str], ...]:
    with (FINDINGS / finding / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


@functools.cache
def _cheats() -> dict[str, str]:
    """Cheat -> what it does, from the table that the gaming study wrote."""
    lines = [_split(line) for line in (FINDINGS / CHEATS / "summary.md").read_text().splitlines() if line.startswith("|")]
    (start,) = [number for number, cells in enumerate(lines) if cells[1:3] == ["cheat", "what it does"]]
    described = {cells[1]: cells[2] for cells in lines[start + 2 :] if len(cells) == len(lines[start])}
    return {name: text for name, text in described.items() if name not in HONEST}


@functools.cache
def _departures() -> dict[str, str]:
    """Method -> where it departs from its authors' code, from docs/methods.md."""
    rows = [_split(line) for line in (DOCS / "methods.md").read_text().splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[-1] for cells in rows if len(cells) == 5}


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _standing(name: str) -> tuple[str, str, str]:
    """Memory left, damage and outcome; a dash each if they were not measured."""
    rows = results(BOARD)
    found = [rows.get((name, *key)) for key in (("memory_left", "forget"), ("damage", "all"))]
    if not all(found):
        return "–", "–", "–"
    memory, damage = (f"{float(row['value']):z.2f}" for row in found if row)
    return memory, damage, found[0]["outcome"] if found[0] else ""


def _score(row: Mapping[str, str]) -> tuple[str, str, str]:
    interval = _number(row["value"])
    if row["value_low"]:
        interval += f" ({_number(row['value_low'])} to {_number(row['value_high'])})"
    null = f"{_number(row['null_mean'])} ± {_number(row['null_sd'])}" if row["null_mean"] else ""
    return interval, null, _z(row)


def _short(row: Mapping[str, str]) -> str:
    if not row["value"]:
        return ""
    return f"{_number(row['value'])} ({_z(row)})" if _z(row) else _number(row["value"])


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


def _number(text: str) -> str:
    value = float(text)
    size = abs(value)
    return f"{value:z.2f}" if 0.0095 <= size < 10 or value == 0 else f"{value:.1f}" if 10 <= size < 1000 else f"{value:.2g}"


def _value(value: Any) -> str:
    return f"`{value:.3g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


def _splits(each: Metric) -> str:
    names = [ON.get(split, {"all": "all at once"}.get(split, split)) for split in each.splits]
    return ", ".join(name for name in names if name)


def _name_of(entry: Entry) -> str:
    return _escaped(entry.summary.rstrip("."))


def _entries(section: str) -> dict[str, str]:
    """Argument -> meaning, of a docstring's section."""
    found = re.findall(r"^(\w+): (.*(?:\n[ \t]+.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _prose(text: str, name: str) -> str:
    """A docstring's text as Markdown: names of other methods as links, all else as it is written."""

    def code(part: str) -> str:
        inner = part.strip("`")
        return f"[`{inner}`]({inner}.md)" if inner in METHODS and inner != name else part

    return "".join(code(part) if part.startswith("`") else _escaped(part) for part in re.split(r"(`[^`]+`)", text))


def _escaped(text: str) -> str:
    """Text in which no character means anything to Markdown."""
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]\\])", r"\\\1", part) for part in re.split(r"(`[^`]+`)", text)
    )


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def _cited(reference: str) -> str:
    return re.sub(r"(?:arXiv )?(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] + "." * (not text.endswith("."))


def _autodoc(names: Iterable[str]) -> str:
    parts = []
    for name in names:
        module, _, last = name.rpartition(".")
        if last in ("effects",) and module.endswith("metrics"):
            parts.append(f".. automodule:: {name}\n   :no-index:")
        else:
            parts.append(f".. autofunction:: {name}\n   :no-index:")
    return "```{eval-rst}\n" + "\n\n".join(parts) + "\n```"


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    aligned = ["---:" if column in set(right) else "---" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in (heads, aligned, *lines))


def _toctree(names: Iterable[str], *options: str) -> str:
    return "\n".join((":::{toctree}", *(f":{option}:" for option in ("hidden", *options)), "", *names, ":::"))


def _page(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"
