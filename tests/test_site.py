"""The documentation site: generated pages, toctrees and links. Sphinx itself runs in .ci/run."""

import csv
import functools
import importlib
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import unlearn_jax as uj
from docs import pages
from unlearn_jax.bench.tuned import FOLDER
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics import METRICS
from unlearn_jax.metrics.registry import COST, EFFECT

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!`)\[[^\]`]*(?:`[^`]*`[^\]`]*)*\]\(<?([^)>\s]+)>?\)")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Name of each generated file -> its text."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "methods").mkdir()
    (folder / "methods/removed.md").write_text("of a method that is no more")
    pages.write(folder)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def site(generated):
    """Name of each page of the site, without its ending -> its text, as Sphinx reads it."""
    own = {
        path.relative_to(DOCS) for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in ("_build", "generated")
    }
    texts = {path.with_suffix("").as_posix(): (DOCS / path).read_text() for path in own}
    texts |= {f"generated/{name.removesuffix('.md')}": text for name, text in generated.items() if name.endswith(".md")}
    return {name: pages.adapted(text, name) for name, text in texts.items()}


@functools.cache
def table(finding):
    with (DOCS / "findings" / finding / "results.csv").open(newline="") as file:
        return {(row["method"], row["metric"], row["split"]): row for row in csv.DictReader(file)}


def test_every_method_and_metric_has_a_page_and_no_other_has_one(generated):
    names = {f"methods/{name}.md" for name in METHODS} | {f"metrics/{name}.md" for name in METRICS}
    assert generated.keys() == names | {"methods/index.md", "metrics/index.md", "words.txt", "tables.md"}
    for kind, registry in (("methods", METHODS), ("metrics", METRICS)):
        index = generated[f"{kind}/index.md"]
        assert all(f"[`{name}`]({name}.md)" in index and f"\n{name}\n" in index for name in registry)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_holds_what_is_known_of_it(generated, name):
    page, entry = generated[f"methods/{name}.md"], METHODS[name]
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[`\\]", "", " ".join(page.split())))
    assert f"(access `{entry.access}`)" in page and all(need in page for need in entry.needs)
    assert entry.reference.replace("arXiv ", "") in plain.replace("arXiv ", "")
    for paragraph in entry.make.__doc__.replace("`", "").partition("Args:")[0].split("\n\n"):
        assert " ".join(paragraph.split())[:60] in plain
    tuned = json.loads((FOLDER / "digits.json").read_text())["hyperparameters"].get(name, {})
    for key, default in entry.defaults.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        cells = [cell.strip(" `") for cell in row.split(" | ")[1:3]]
        for cell, value in zip(cells, (default, tuned.get(key)), strict=True):
            if isinstance(value, float):
                assert float(cell) == pytest.approx(value, rel=0.005), key
            else:
                assert cell == ("" if value is None else json.dumps(value)), key
        assert len(row.rsplit(" | ", 1)[1]) > 5, f"what {key} is"


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_holds_its_measured_standing(generated, name):
    page, rows = generated[f"methods/{name}.md"], table("methods-digits")
    memory, damage = rows[name, "memory_left", "forget"], rows[name, "damage", "all"]
    for row, label in ((memory, r"\[memory left\]\(../metrics/memory_left.md\) \| F"), (damage, r"\[damage\].* \| all")):
        value, low, high = map(float, re.search(label + r" \| (\S+) \((\S+) to (\S+)\)", page).groups())
        expected = [float(row[key]) for key in ("value", "value_low", "value_high")]
        assert [value, low, high] == pytest.approx(expected, abs=0.005, rel=0.005)  # of three digits
    assert f"*{memory['outcome']}*" in page and "24 models against 48 oracles" in page
    null, spread = map(float, re.search(r"\[KLOM\]\(\S+\) \| F \| .* \| (\S+) ± (\S+) \|", page).groups())
    klom = rows[name, "klom", "forget"]
    assert (null, spread) == pytest.approx((float(klom["null_mean"]), float(klom["null_sd"])), abs=0.005)


def test_single_models_and_examples_are_counted(generated):
    """As unlearning-digits.md says of SCRUB: 8 of 24 models are outliers, 21 of 129 examples differ."""
    page = generated["methods/scrub.md"]
    assert "Of its 24 models 8 are outliers" in page and "On 21 of 129 examples of F" in page


@pytest.mark.parametrize("name", METRICS)
def test_the_page_of_a_metric_holds_definition_null_and_what_fools_it(generated, name):
    page, each = generated[f"metrics/{name}.md"], METRICS[name]
    assert each.summary.split("_")[0] in page.replace("\\", "") and f"| a perfect method | {each.perfect} |" in page
    assert (name in pages.DEFINED) == (each.kind != COST)
    for path in pages.DEFINED.get(name, ()):
        assert path in page
        module, _, function = path.rpartition(".")
        assert path == "unlearn_jax.metrics.effects" or getattr(importlib.import_module(module), function).__doc__
    assert ("## What fools it" in page) == (each.kind not in (COST, EFFECT))
    if (row := table("unlearning-digits").get(("original", name, "forget"))) and row["null_mean"]:
        null = float(re.search(r"^\| F \| (\S+) ±", page, flags=re.MULTILINE)[1])
        assert null == pytest.approx(float(row["null_mean"]), rel=0.06)


def test_cheats_are_counted_as_the_study_counts_them(generated):
    text = (DOCS / "findings/gaming-digits/summary.md").read_text()
    for name, split in (("klom", "F"), ("klom", "R"), ("klom", "T"), ("weight_distance", ""), ("zrf", "F")):
        label = re.escape(f"{name} {split}".rstrip())
        (count,) = re.findall(rf"^\| {label} \| (\d+) \|", text, flags=re.MULTILINE)
        where = {"F": "F", "R": "R", "T": "test", "": "all"}[split]
        assert f"{count} on {where}" in generated[f"metrics/{name}.md"].partition("## What fools it")[2]


def test_the_toctree_names_every_page(site):
    listed = {"index"}
    for name, text in site.items():
        for block in re.findall(r"^:::\{toctree\}\n((?:.*\n)*?):::", text + "\n", flags=re.MULTILINE):
            for line in filter(None, block.splitlines()):
                if line.startswith(":"):
                    continue
                entry = re.sub(r".*<(.*)>", r"\1", line)
                pattern = entry.removeprefix("/") if entry.startswith("/") else (Path(name).parent / entry).as_posix()
                found = {each for each in site if fnmatchcase(each, pattern) and each.count("/") == pattern.count("/")}
                assert found, f"{name}: {line}"
                listed |= found
    assert site.keys() == listed


def test_a_page_of_tables_is_titled_by_its_finding(site):
    written = {name: text.splitlines()[4] for name, text in site.items() if pages._WRITTEN.fullmatch(name)}
    headings = {
        path.read_text().splitlines()[0].removeprefix("# ") for path in [*DOCS.glob("findings/*.md"), DOCS / "performance.md"]
    }
    assert len(written) > 30 and all(title.partition(": ")[2] in headings for title in written.values())
    assert len(set(written.values())) == len(written)
    generalise = "Does the search for hyperparameters generalise?"
    assert written["findings/tuning-digits/summary-rest"] == f"# Tables (rest): {generalise}"


def slugs(text):
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(text, place, names):
    """The links of a page that lead nowhere."""
    for target in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (place.parent / path).resolve() if path else place
        made = file.is_relative_to(DOCS) and file.relative_to(DOCS).with_suffix("").as_posix() in names
        if (not made and not file.exists()) or (anchor and anchor not in slugs(text if not path else file.read_text())):
            yield target


def test_links_between_pages_lead_somewhere(site):
    texts = {DOCS / f"{name}.md": text for name, text in site.items()}
    texts |= {ROOT / name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
    texts |= {path: path.read_text() for path in (DOCS / "findings").glob("*.md")}  # as a checkout shows them
    found = {str(path.relative_to(ROOT)): [*broken(text, path, site.keys())] for path, text in texts.items()}
    assert {name: links for name, links in found.items() if links} == {}
    assert [*broken("[a](faq.md) [b](no.md) [c](faq.md#no) [`d`](no.csv)", DOCS / "index.md", site)] == [
        "no.md",
        "faq.md#no",
        "no.csv",
    ]


def test_the_api_pages_name_everything_public():
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    modules = {"convert": "unlearn_jax.convert"}
    for name in uj.__all__:
        assert re.search(rf"^\.\. (auto)?\w+:: {modules.get(name, name)}$", text, flags=re.MULTILINE), name
