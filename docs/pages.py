"""The pages that the site makes when it is built: one for each method and each metric, from the registries and committed tables.

No number is typed here. Measured values are read from docs/findings, as they were written by the runs.
"""

import functools
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from docs.markup import Docstring, as_value, autodoc, capital, cells_of, cited, entries_of, escaped, page, prose, table, toctree
from docs.measured import BOARD, CHEATS, FINDINGS, cheated, cheats, fooled, measured, null_of, standing
from unlearn_jax.bench.page_words import GLOSSARY
from unlearn_jax.bench.tuned import TUNED, tuned
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics.registry import COST, DISTANCE, EFFECT, METRICS, ON, PER_MODEL, TWO_SAMPLE, Metric

DOCS = Path(__file__).parent
ROOT = DOCS.parent
_SHORT = "---\ntocdepth: 1\n---\n\n"  # every page would otherwise copy the headings of all of these
_WRITTEN = re.compile(r"findings/.*/summary[^/]*|performance/.*")  # by a run
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
        lines = [[f"[`{name}`]({name}.md)", METHODS[name].access, *standing(name), _name_of(METHODS[name])] for name in names]
        heads = ("method", "may see", "memory left", "damage", "outcome", "what it does")
        parts += [f"## {title}", table(heads, lines, right=(2, 3))]
    return page(*parts, toctree(METHODS))


def method_page(name: str) -> str:
    """The page of one method."""
    entry = METHODS[name]
    text = Docstring.of(entry.make)
    arguments = text.sections.pop("Args", "")
    parts = [f"# {name}", f"**{prose(text.summary, name)}**", _facts(name, entry)]
    if text.body:
        parts += ["## What it does", prose(text.body, name)]
    if departures := _departures().get(name):
        parts += ["## Where it departs from the authors' code", capital(departures)]
    parts += [f"## {title}\n\n{prose(body, name)}" for title, body in text.sections.items()]
    parts += ["## Hyperparameters", _hyperparameters(name, entry, entries_of(arguments))]
    return page(*parts, "## How near to retraining it came", measured(name))


def metric_index() -> str:
    """The page that lists all metrics."""
    heads = ("metric", "what it is", "on", "a perfect method", "cheats inside the null")
    lines = [
        [f"[`{name}`]({name}.md)", escaped(each.summary.removesuffix(".")), _splits(each), each.perfect, fooled(each)]
        for name, each in METRICS.items()
    ]
    return page(
        "# A page for every metric",
        "What each metric measures, what a perfect method scores, and which models that are plainly wrong score the same. "
        "[How to read them](../../metrics.md) has the rules that they share.",
        f"The last column counts, of {len(cheats())} cheats in [the gaming study](../../findings/{CHEATS}.md), those whose "
        "score lies inside the null's 95% interval on a split; a dash is a metric that no cheat was scored by.",
        table(heads, lines),
        toctree(METRICS),
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
        ("source", cited(each.source) or "this project"),
        ("in tables and axes", each.label if each.short in (name, each.label) else f"{each.label}; as a column: {each.short}"),
    ]
    if each.attack:
        facts.append(("membership attack", "yes, or contains one: the verdict counts it in its own standard error"))
    parts = [f"# {name}", f"**{escaped(each.summary)}**", table(("", ""), facts)]
    if name in DEFINED:
        parts += ["## Definition", autodoc(DEFINED[name])]
    parts += ["## Null and direction", null_of(each)]
    if each.kind not in (COST, EFFECT):
        parts += ["## What fools it", cheated(each)]
    return page(*parts, "Rules that all metrics share: [how to read the metrics](../../metrics.md).")


def words() -> str:
    """The words that the page of a run explains, as a glossary."""
    lines = "\n".join(f"{term}\n  {meaning}\n" for term, meaning in GLOSSARY.values())
    return f":::{{glossary}}\n{lines}:::\n"


def tables() -> str:
    """The page under which the tables stand that runs wrote."""
    return page(
        "# The tables of the runs",
        "What each run wrote of itself, unedited. The findings say what it means.",
        toctree(["/findings/*/summary*", "/findings/*/*/summary*", "/performance/*"], "glob"),
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
        text += "\n" + toctree(["*", "/generated/tables"], "glob") + "\n"
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


def _facts(name: str, entry: Entry) -> str:
    facts = [
        ("may see", f"{SEEN[entry.access]} (access `{entry.access}`)"),
        ("needs of a model", ", ".join(entry.needs) if entry.needs else "nothing"),
        ("reference", cited(entry.reference) or "none"),
        ("zero epochs", "leave the model as it was" if entry.identity_at_zero else ""),
        ("gives", "several networks, whose mean prediction counts" if entry.ensemble else ""),
        ("file", f"`{entry.make.__module__.replace('.', '/')}.py`"),
        ("use", f'`--methods original,retrain,{name}` or `uj.unlearn("{name}", ...)`'),
    ]
    return table(("", ""), [fact for fact in facts if fact[1]])


def _hyperparameters(name: str, entry: Entry, meanings: Mapping[str, str]) -> str:
    if not entry.defaults:
        return "None."
    found = {dataset: tuned(dataset).get(name, {}) for dataset in TUNED}
    heads = ("name", "default", *(f"used on {dataset}" for dataset in found), "searched", "what it is")
    lines = []
    for key, default in entry.defaults.items():
        given = [as_value(values[key]) if key in values else "" for values in found.values()]
        searched = ""
        if key in entry.search:
            low, high, scale = entry.search[key]
            searched = f"{low:g} to {high:g}, {scale}"
        lines.append([f"`{key}`", as_value(default), *given, searched, prose(meanings.get(key, ""), name)])
    notes = []
    if not any(found.values()):
        notes.append("No search has been made for this method: the data sets' runs use the defaults.")
    elif entry.search:
        notes.append(
            "Values used on a data set come from [the search](../../findings/tuning.md): it varied what has a range here, set "
            "epochs and batch size for all methods, and left the rest at the default."
        )
    notes.append(f"`--hyper {name}.{next(iter(entry.defaults))}=...` sets one.")
    return page(table(heads, lines), " ".join(notes)).rstrip()


@functools.cache
def _departures() -> dict[str, str]:
    """Method -> where it departs from its authors' code, from docs/methods.md."""
    rows = [cells_of(line) for line in (DOCS / "methods.md").read_text().splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[-1] for cells in rows if len(cells) == 5}


def _splits(each: Metric) -> str:
    names = [ON.get(split, {"all": "all at once"}.get(split, split)) for split in each.splits]
    return ", ".join(name for name in names if name)


def _name_of(entry: Entry) -> str:
    return escaped(entry.summary.rstrip("."))
