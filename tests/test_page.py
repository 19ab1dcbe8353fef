"""The page of a run: what it says, that nothing in it escapes or is fetched, and how it answers in a browser."""

import json
import math
import re
import shutil

import numpy as np
import pytest

from unlearn_jax.bench import compare_page, page, study_page
from unlearn_jax.bench.board import arrange
from unlearn_jax.bench.compare import Difference, Value
from unlearn_jax.bench.page_words import Standing, Whole, answers, chance, duration, headline
from unlearn_jax.bench.repeat import portable, repeat_of
from unlearn_jax.metrics import METRICS
from unlearn_jax.report.page import NAME, embed, from_markdown, picture
from unlearn_jax.report.rows import Row
from unlearn_jax.runs import Run

HOSTILE = "</script><script>alert(1)</script>\"'é€"
POINTS = {  # access, outcome, memory left, damage
    "original": ("none", "different", 1.0, 0.0),
    "retrain": ("R", "equivalent", -0.02, 0.03),
    "scrub": ("F+R", "different", 0.14, 0.17),
    "finetune": ("R", "different", 0.62, 0.35),
    "gradient_ascent": ("F", "not distinguished", 0.4, 0.9),
    HOSTILE: ("F+R", "different", 0.8, 0.5),
}
EXAMPLES, ORACLE = 30, "oracle"
OUTLIER = 200.0  # nats by which the margins of one method are below all others
MANY = [f"method_{i}" for i in range(20)]  # beyond those of `POINTS`, each further out by both sizes than the one before


def rows_of(forget_set="random-0", points=POINTS):
    rows = []
    for place, (method, (access, outcome, memory, damage)) in enumerate(points.items()):
        row = Row("unlearning", "digits", "resnet8", forget_set, method, access, "", "", n_members=24, n_oracles=48, band=3.4)
        row = row._replace(outcome=outcome, inside=outcome != "different")
        null = {"null_mean": 88.0, "null_sd": 0.5, "null_low": 87.0, "null_high": 89.0}
        z = [20.0, 0.5, -4.0, 9.0, math.inf, math.nan][min(place, 5)]
        rows += [
            row._replace(metric="accuracy", split="forget", value=88 + z / 2, deviation=z, evidence=z, **null),
            row._replace(metric="klom", split="forget", value=2.4 + place, null_mean=2.4, null_sd=0.1, deviation=10.0 * place),
            row._replace(metric="memory_left", split="forget", value=memory, value_low=memory - 0.05, value_high=memory + 0.05),
            row._replace(metric="damage", split="all", value=damage, value_low=damage - 0.05, value_high=damage + 0.05),
            row._replace(metric="seconds", value=0.25 + place),
            row._replace(metric="rte", value=0.5),
        ]
        if method == "finetune":
            rows.append(
                row._replace(metric="svc_mia_correctness", split="forget", value=0.9, deviation=12.0, evidence=12.0, **null)
            )
    return rows


def examples_of(forget_set="random-0", points=POINTS):
    lines = []
    for place, method in enumerate([ORACLE, *points]):
        for i in range(EXAMPLES):
            right = 1.0 if method == "original" else i / EXAMPLES
            test = (None, None) if method == ORACLE else (float(i), 0.01 if i < 3 * place else 0.5)
            away = place * (1 + i / 100) * (1 if i % 3 else -1)  # every third is overshot
            margin = i / 5 + (-OUTLIER if method == HOSTILE else away)
            lines.append((forget_set, 100 + i, i % 10, (i + (i == 4)) % 10, method, 24, right, margin, 1.0, *test))
    return lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run that never was, with its page."""
    folder = tmp_path_factory.mktemp("run")
    facts = {
        "config": {"exp": "unlearning", "seed": 0, "methods": [*POINTS]},
        "command": f"python x --out '{HOSTILE}'",
    }
    (folder / "config.json").write_text(json.dumps(facts))
    head = "metric,split,models,oracles,null_mean,null_sd,null_low,null_high,band,visible\n"
    points = [f"accuracy,forget,{n},{2 * n},88,{4 / n},86,90,3.4,{'' if n < 8 else 20 / n}\n" for n in (4, 8, 16, 24)]
    others = [
        (name, split) for name, metric in METRICS.items() for split in metric.splits if (name, split) != ("accuracy", "forget")
    ]
    points += [f"{name},{split},24,48,0,1,-2,2,3.4,1.5\n" for name, split in others]
    (folder / "power.csv").write_text(head + "".join(points))
    rng = np.random.default_rng(0)
    losses = {name: {split: rng.exponential(size=(4, 20)) for split in ("forget", "retain", "test")} for name in POINTS}
    images = rng.normal(size=(EXAMPLES, 8, 8, 1)).astype(np.float32)
    looks = page.looks(losses, losses["retrain"], range(100, 100 + EXAMPLES), images)
    rows = rows_of()
    used = {"scrub": {"learning_rate": 0.008, "note": HOSTILE}}
    origins = {"scrub": {"learning_rate": "tuned"}}
    shown = {"random-0": looks}
    page.write(Run(folder), rows, rows, arrange(rows), examples_of(), shown, used, origins, [HOSTILE])
    return folder


def block(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def remote(text):
    """Addresses that are elsewhere; names of XML are none."""
    found = re.findall(r"(?:\b[a-z]+:)?//[a-z0-9-]+\.[a-z][^\s\"'`<>)]*", text, re.I)
    return [address for address in found if not address.startswith("http://www.w3.org/")]


def test_it_is_one_file_that_names_no_other_place(made):
    text = (made / NAME).read_text()
    assert not remote(text) and "sourceMappingURL" not in text
    assert not re.findall(r"<(?:link|iframe|object|embed)\b|<script[^>]*\ssrc=", text)
    assert "default-src 'none'" in text and len(text) < 2.5e6
    for licence in ("Oli Folkerd", "University of Washington Interactive Data Lab"):
        assert licence in text


def test_what_comes_from_a_run_stays_text(made):
    text = (made / NAME).read_text()
    assert HOSTILE not in text and "</script><script>" not in text
    data = block(text)
    assert HOSTILE in data["methods"] and ["note", HOSTILE, "given"] in data["methods"]["scrub"]["hyper"]
    scores = data["sets"][0]["methods"]
    assert scores["gradient_ascent"]["scores"]["accuracy/forget"][7] == "Infinity"
    assert scores[HOSTILE]["scores"]["accuracy/forget"][0] == "NaN"


def test_numbers_are_valid_json_and_short():
    values = {"a": [math.nan, -math.inf, 1 / 3, 2.0, None, True, "<&>\u2028"], "b": np.arange(2.0), "c": np.float64(1e-9)}
    text = embed(values)
    assert not set("<&>\u2028") & set(text)
    assert json.loads(text) == {"a": ["NaN", "-Infinity", 0.33333, 2, None, True, "<&>\u2028"], "b": [0, 1], "c": 1e-9}
    with pytest.raises(TypeError, match="a set"):
        embed({"a": {1}})


def test_the_block_holds_what_the_page_shows(made):
    data = block((made / NAME).read_text())
    assert data["nearest"] == "scrub" and data["margin"] == 0.1
    found = data["examples"]["random-0"]
    assert found["rows"] == list(range(100, 100 + EXAMPLES)) and found["memorisation"][0] == 1  # the most memorised first
    assert len(found["pictures"]) == EXAMPLES and found["pictures"][0].startswith("data:image/png;base64,")
    assert sum(data["losses"]["random-0"]["scrub"]["forget"]) == pytest.approx(1, abs=1e-3)
    assert [data["methods"][name]["family"] for name in ("original", "scrub", HOSTILE)] == ["reference", "distillation", "own"]
    assert [data["methods"][name]["settings"] for name in ("original", "scrub")] == ["none", "tuned"]
    assert [point[0] for point in data["power"][0]["points"]] == [8, 16, 32, 48]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The folder of a run of two forget sets; scrub is left out of the second."""
    folder = tmp_path_factory.mktemp("several")
    first, second = rows_of("random-0"), [row for row in rows_of("random-1") if row.method != "scrub"]
    means = [row._replace(forget_set="mean of 2") for row in first]
    page.write(Run(folder), [*first, *second], means, arrange(means), examples_of("random-0") + examples_of("random-1"))
    return folder


def test_several_forget_sets_have_a_page_with_all_of_them(several):
    text = (several / NAME).read_text()
    data = block(text)
    assert [each["name"] for each in data["sets"]] == ["mean of 2", "random-0", "random-1"]
    assert [*data["examples"]] == ["random-0", "random-1"] and data["power"] == []
    assert "12 of 60" in text and " of random-1" in text and "See the still surer of random-0" in text  # the gallery has one set
    counts = [each["methods"].get("scrub", {}).get("examples") for each in data["sets"]]
    assert counts == [[12, 6, 60], [6, 3, 30], None]  # of all sets together, and of the one that has it


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The folder of a run of so many methods that not all are named."""
    folder = tmp_path_factory.mktemp("many")
    points = POINTS | {name: ("R+test-like", "different", 0.9 + i / 100, 0.9 + i / 100) for i, name in enumerate(MANY)}
    rows = rows_of(points=points)
    page.write(Run(folder), rows, rows, arrange(rows), examples_of(points=points))
    return folder


def test_many_examples_are_cut_to_the_most_memorised(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_EXAMPLES", 10)
    rows = rows_of()
    page.write(Run(tmp_path), rows, rows, arrange(rows), examples_of())
    found = block((tmp_path / NAME).read_text())["examples"]["random-0"]
    assert len(found["rows"]) == 10 and found["all"] == EXAMPLES and found["pictures"] is None


def standing(outcome, method="a", n=24, memory=0.1, damage=0.2):
    return Standing(method, outcome, n, (memory, 0.05, 0.15), (damage, 0.1, 0.3), (7.0, "KLOM on F"), 3.4)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([], "Only the references were run: there is no method to judge."),
        ([standing(None, n=4)], "No verdict below 8 models of each method; nearest to retraining is a."),
        ([standing("different")], "a differs from retraining: it leaves 10% of the memory at 20% damage."),
        ([standing("equivalent")], "a is equivalent to retraining."),
        (
            [standing("different"), standing("different", "b")],
            "None of the 2 methods is equivalent to retraining; the nearest, a, leaves 10% of the memory at 20% damage.",
        ),
        (
            [standing("equivalent"), standing("different", "b")],
            "1 of 2 methods is equivalent to retraining: a.",
        ),
        (
            [standing("not distinguished", name) for name in "abcdef"],
            "No method is shown to be equivalent to retraining; 6 of 6 methods are not distinguished from retraining: "
            "a, b, c, d and 2 more.",
        ),
    ],
)
def test_the_heading_is_the_verdict(methods, said):
    assert headline(methods) == said


def test_five_questions_are_answered():
    costs = {"seconds": 0.658, "share": 3.02, "work": 0.48}
    method = standing("different")._replace(left=["7", "9"], overshot=["3"], examples=129, **costs)
    whole = Whole(methods=14, models=360, seconds=540.0, compiling=61.0, pools=72, retraining=0.22)
    tied = "Nearest to retraining: a; not distinguished from it: b (by a test)."
    found = answers([method], tied, "python benchmark.py", whole.words())
    assert [each.answer for each in found] == ["a", "No", "2 of 129", "0.658 s a model", "With one command"]
    assert "Memory left 10% (5% to 15%)" in found[0].more and "Not distinguished from it: b" in found[0].more
    assert found[0].more.count("earest") == 0  # the question has it
    assert "7.0 null sd by KLOM on F, is outside the band of 3.40" in found[1].more
    assert "surer of the label than retrained ones (q < 5%): rows 7, 9 of the training set. On 1 they are less" in found[2].more
    assert found[2].shows == {"left": 2, "overshot": 1} and "3 times one retraining's by the clock" in found[3].more
    said = "10 min added up, less by the clock where parts ran side by side: 72 originals and oracles 16 s, 360 models of"
    assert said in found[3].more
    unknown = answers([Standing("a", None, 4)], "", "")
    assert [each.answer for each in unknown[1:4]] == ["No verdict", "Unknown", "Unknown"]
    none = answers([method._replace(left=[], overshot=["3"])], "", "")[2]
    assert none.answer == "0 of 129" and "On none" in none.more and none.shows == {"overshot": 1}


def test_retraining_is_said_to_be_a_check():
    assert "excludes 0; here it is that of damage, 10% to 30%. The verdict" in chance(
        standing("equivalent", memory=0.0)._replace(memory=(0, -1, 1))
    )
    assert "excludes 0. The verdict" in chance(Standing("retrain", "equivalent", 24))


@pytest.mark.parametrize(("seconds", "said"), [(0.21, "0.2 s"), (16.4, "16 s"), (540, "9 min"), (9000, "2.5 h")])
def test_times_are_short(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/a/bin/python3.11 benchmark.py --exp unlearning --out /b/c --seed 1", "python benchmark.py --exp unlearning --seed 1"),
        ("/a/bin/python /a/bin/unlearn-jax --out=x --seed 1", "unlearn-jax --seed 1"),
        ("python /a/benchmark.py -out x --methods 'a b'", "python benchmark.py --methods 'a b'"),
        ("python -m unlearn_jax --out x", "python -m unlearn_jax"),
        ("benchmark.py 'open", "benchmark.py 'open"),
        ("", ""),
    ],
)
def test_a_command_is_repeated_without_what_is_of_one_machine(command, said):
    assert portable(command) == said


def test_no_two_metrics_have_the_same_name():
    found = page.metrics_of((name, split) for name, metric in METRICS.items() for split in metric.splits)
    for field in ("title", "label", "short"):
        names = [each[field] for each in found.values()]
        assert len(set(names)) == len(names)
    assert found["svc_mia_correctness/forget"]["label"] == "SVC-MIA (correctness)"
    assert found["klom/forget"]["label"] == "KLOM on F" and found["rte/"]["group"] == "cost"


@pytest.mark.parametrize("shape", [(8, 8, 1), (100, 60, 3)])
def test_pictures_are_small(shape):
    address = picture(np.linspace(-1, 2, math.prod(shape)).reshape(shape))
    assert address.startswith("data:image/png;base64,") and len(address) < 10_000


def test_vectors_have_no_pictures():
    losses = {"forget": np.ones((2, 3))}
    assert page.looks({}, losses, range(3), np.ones((3, 5))).pixels == {}
    assert page.looks({}, losses, range(3), np.ones((3, 2, 2, 1))).pixels == {}


@pytest.mark.parametrize("dirty", [False, True])
def test_changes_that_are_in_no_commit_are_said_where_the_command_is(tmp_path, dirty):
    facts = {"command": "python benchmark.py", "git": {"commit": "abc", "dirty": dirty}}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    rows = rows_of()
    page.write(Run(tmp_path), rows, rows, arrange(rows), examples_of())
    assert ("The code had changes that are in no commit." in (tmp_path / NAME).read_text()) == dirty


def test_markdown_stays_harmless():
    text = "# A\n\n<b>x</b> [away](http://a.example) ![f](figures/f.png) ![g](g.png)\n\n| a |\n|--|\n| 1 |"
    body = from_markdown(text, {"figures/f.png": "data:,"})
    assert "<b>" not in body.html and "a.example" not in body.html and "<td>1</td>" in body.html
    assert body.shown == {"figures/f.png"} and body.html.count("<img") == 1


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    facts = {"config": {"exp": "mine", "seed": 1}, "command": "python benchmark.py", "about": f"What mine finds {HOSTILE}"}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "summary.md").write_text("# Mine\n\n<script>alert(1)</script>\n\n![f](figures/f.png)\n")
    (folder / "a.csv").write_text(f'"{HOSTILE.replace(chr(34), "")}",value\n' + "".join(f"row {i},{-i}\n" for i in range(1200)))
    (folder / "empty.csv").write_text("")
    (folder / "figures").mkdir()
    for name in ("f", "g"):
        (folder / "figures" / f"{name}.png").write_bytes(b"png")
    (folder / "figures" / "large.png").write_bytes(b"x" * (study_page.MOST_BYTES + 1))
    study_page.write(Run(folder))
    return folder


def test_a_study_has_a_page_too(study):
    text = (study / NAME).read_text()
    data = block(text)
    assert [*data["tables"]] == ["a"] and len(data["tables"]["a"]["rows"]) == study_page.MOST_LINES
    assert "a (1200 rows)" in text and "large.png" in text and text.count("<img") == 2
    assert not remote(text) and "<script>alert" not in text and len(text) < 1e6
    assert "<h1>What mine finds &lt;/script&gt;" in text and '<p class="subject">mine</p>' in text


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The page of two runs beside a first: in B the damage of scrub is clearly less, in C nothing has an interval."""
    folder = tmp_path_factory.mktemp("comparison")

    def difference(method, metric, a, b, half):
        low, high = (None, None) if half is None else (b - a - half, b - a + half)
        return Difference(
            (method, *metric), Value(a, None, None, 1.0, False), Value(b, None, None, None, True), b - a, low, high, True
        )

    memory, damage = ("memory_left", "forget"), ("damage", "all")
    found = [difference("scrub", memory, 0.2, 0.14, 0.1), difference("scrub", damage, 0.5, 0.17, 0.1)]
    found += [difference("original", damage, 0.0, 0.0, 0.05), difference(HOSTILE, damage, math.inf, 0.1, None)]
    compared = {"B": found, "C": [difference("scrub", damage, 0.5, 0.4, None)]}
    described = {letter: f"{letter}: runs/{letter}{HOSTILE}" for letter in "ABC"}
    changed = {"--seed": ["0", "1", HOSTILE]}
    compare_page.write(Run(folder), described, [HOSTILE], changed, compared, {"B": "One is clear.", "C": "None is."})
    return folder


def test_a_comparison_has_a_page(comparison):
    text = (comparison / NAME).read_text()
    assert "B differs clearly from A in 1 of 4 scores; C differs clearly from A in 0 of 1 scores." in text
    assert HOSTILE not in text and not remote(text) and "--seed" in text and "One is clear." in text
    found = block(text)["compare"]
    assert [*found["metrics"]][:2] == ["memory_left/forget", "damage/all"]
    assert found["differences"]["B"][1]["difference"] == pytest.approx(-0.33) and found["differences"]["B"][1]["clear"]
    assert found["differences"]["B"][3]["difference"] == "-Infinity" and found["differences"]["C"][0]["low"] is None


# In a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser, folder, width=1300, scheme="light"):
    """A page, and the list of what went wrong in it."""
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    tab.goto((folder / NAME).as_uri())
    return tab, wrong


@pytest.fixture(scope="module")
def tab(browser, made):
    tab, wrong = opened(browser, made)
    tab.wait_for_selector("#chart .points_marks path, #chart .points path")
    yield tab
    assert not wrong


def names(tab):
    return tab.locator("#table .tabulator-row .tabulator-cell:first-child").all_text_contents()


def point(tab, method):
    """The point of a method in the main chart."""
    paths = tab.query_selector_all("#chart .points_marks path, #chart .points path")
    return next(path for path in paths if path.evaluate("p => p.__data__.datum.method") == method)


def test_a_click_on_a_heading_changes_the_order(tab):
    before = names(tab)
    assert sorted(before) == sorted(POINTS)
    tab.click("#table .tabulator-col[tabulator-field='damage/all']")
    assert names(tab) == sorted(POINTS, key=lambda method: POINTS[method][3])
    tab.focus("#table .tabulator-col[tabulator-field='damage/all']")
    tab.keyboard.press("Enter")
    assert names(tab) == sorted(POINTS, key=lambda method: -POINTS[method][3])
    tab.click("#clear")
    assert names(tab) == before


def test_a_filter_changes_the_count_and_fades_the_points(tab):
    assert tab.inner_text("#count") == "4 of 4 methods, and 2 references"
    tab.select_option("#filter-access", "F+R")
    assert tab.inner_text("#count") == "2 of 4 methods" and set(names(tab)) == {"scrub", HOSTILE}
    tab.wait_for_function("report.chart().signal('visible').length === 2")
    tab.wait_for_function("[...document.querySelectorAll('#chart path')].some(p => p.getAttribute('opacity') === '0.15')")
    assert point(tab, "finetune").get_attribute("opacity") == "0.15"
    tab.click("#clear")
    assert tab.inner_text("#count") == "4 of 4 methods, and 2 references"


def test_a_row_chooses_its_point_and_opens_its_method(tab):
    tab.focus("#table .tabulator-row:has-text('finetune')")
    tab.keyboard.press("Enter")
    tab.wait_for_function("report.chart().signal('chosen') === 'finetune'")
    assert tab.inner_text("#panel h3").startswith("finetune") and "Memory left 62%" in tab.inner_text("#panel")
    assert tab.locator("#table .tabulator-row.chosen").inner_text().startswith("finetune")
    assert tab.locator("#panel .losses svg").count() == 3
    tab.select_option("#pick", "scrub")
    assert "0.008" in tab.inner_text("#panel") and "tuned for the data set" in tab.inner_text("#panel")


def test_a_point_shows_its_number_and_chooses_its_row(tab):
    tab.wait_for_function("document.querySelector('#chart .points_marks path[tabindex], #chart .points path[tabindex]')")
    point(tab, "scrub").hover()
    assert "memory left 14% (9% to 19%)" in tab.inner_text("#tip") and "damage 17%" in tab.inner_text("#tip")
    point(tab, "gradient_ascent").click()
    tab.wait_for_function("document.querySelector('#table .tabulator-row.chosen').textContent.includes('gradient_ascent')")
    point(tab, "original").focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#table .tabulator-row.chosen").inner_text().startswith("original")


@pytest.mark.parametrize("end", ["button", "Escape"])
def test_points_that_are_brushed_leave_their_rows(tab, end):
    box = point(tab, "finetune").bounding_box()
    tab.mouse.move(box["x"] - 30, box["y"] - 30)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 20, box["y"] + 20)
    tab.mouse.move(box["x"] + 30, box["y"] + 30)
    tab.mouse.up()
    tab.wait_for_function("document.querySelector('#count').textContent === '1 of 4 methods'")
    assert names(tab) == ["finetune"]
    if end == "button":
        tab.click("#clear")
    else:
        tab.keyboard.press("Escape")
    tab.wait_for_function("document.querySelector('#count').textContent === '4 of 4 methods, and 2 references'")


def test_columns_are_chosen(tab):
    tab.click("#columns summary")
    assert not tab.locator("#table .tabulator-col[tabulator-field=family]").is_visible()
    tab.get_by_label("family", exact=True).and_(tab.locator("input")).check()
    assert tab.locator("#table .tabulator-col[tabulator-field=family]").is_visible()


def test_examples_are_pictures_with_every_methods_margin(tab):
    tab.select_option("#pick", "scrub")
    assert tab.locator(".card").count() == 24 and tab.locator(".card img").count() == 24
    tab.select_option("#show", "left")
    assert "6 of 30 examples" in tab.inner_text("#gallery")
    tab.select_option("#show", "")
    tab.click(".card >> nth=0")
    shown = tab.inner_text(".detail")
    assert "Row 100 of the training set" in shown and all(method in shown for method in POINTS) and "oracles (null)" in shown
    tab.keyboard.press("Escape")
    assert tab.locator(".detail").count() == 0 and tab.evaluate("document.activeElement.matches('.card')")


def test_the_examples_that_are_left_are_shown_for_the_method_that_is_named(tab):
    """Of i < 9 scrub differs: it is less sure of every third, and surer of the others, by three nats."""
    tab.select_option("#pick", "finetune")
    tab.click("a.see[data-show=left]")
    assert tab.input_value("#pick") == "scrub" and tab.inner_text("#panel h3").startswith("scrub")
    rows = "[...document.querySelectorAll('.card b')].map(each => each.textContent)"
    assert tab.evaluate(rows) == [f"row {100 + i}" for i in reversed(range(9)) if i % 3]  # the largest first
    assert "On 6 of 30 examples scrub is surer" in tab.inner_text("#gallery") and "on 3 it is less sure" in tab.inner_text(
        "#gallery"
    )
    assert "+3.2 nats, left by 3 of 4 methods" in tab.inner_text(".card >> nth=0")
    assert f"not by {HOSTILE}" in tab.inner_text(".card >> nth=0")  # which is 200 nats below
    tab.click(".card >> nth=-1")
    assert f"Left by 3 of 4 methods, not by {HOSTILE}." in tab.inner_text(".detail")
    tab.keyboard.press("Escape")
    tab.click("a.see[data-show=overshot]")
    assert tab.evaluate(rows) == ["row 106", "row 103", "row 100"]
    tab.check("#mislabelled")
    assert "None of the examples is of this kind." in tab.inner_text("#gallery")
    tab.uncheck("#mislabelled")
    tab.select_option("#show", "")


def test_a_button_says_how_many_columns_are_out_of_sight_and_goes_there(browser, made):
    tab, wrong = opened(browser, made, width=1160)
    tab.wait_for_selector("#table .tabulator-row")
    body = "document.querySelector('#table .tabulator-tableholder')"
    heads = f"""[...document.querySelectorAll('#table .tabulator-col')].filter(head => head.offsetParent)
        .map(head => head.getBoundingClientRect()).map(box => [box.left, box.right, {body}.getBoundingClientRect().right])"""
    hidden = sum(right > end + 4 for _, right, end in tab.evaluate(heads))
    assert hidden > 2 and tab.inner_text("button.across >> nth=0") == f"{hidden} more columns →"
    edge = tab.evaluate("document.querySelector('#table .tabulator-col.tabulator-frozen').getBoundingClientRect().right")
    for _ in range(hidden):  # fewer will do
        before = tab.inner_text("button.across >> nth=0")
        tab.click("button.across >> nth=0")
        tab.wait_for_function(f"document.querySelector('button.across').textContent !== '{before}'")
        boxes = tab.evaluate(heads)[1:]
        if tab.inner_text("button.across >> nth=0") == "← First columns":
            break
        assert any(abs(left - edge) < 2 for left, *_ in boxes)  # no heading is cut
    assert all(right <= end + 4 for _, right, end in boxes)
    tab.click("button.across >> nth=0")
    tab.wait_for_function(f"{body}.scrollLeft === 0")
    assert not wrong
    tab.close()


def test_a_button_shows_all_rows(tab):
    height = "document.querySelector('#power-table .tabulator-tableholder').offsetHeight"
    before = tab.evaluate(height)
    tab.click("#power button.all")
    tab.wait_for_function(f"{height} > {before}")
    assert tab.evaluate(f"{height} >= document.querySelector('#power-table .tabulator-table').offsetHeight")
    tab.click("#power button.all")
    assert tab.evaluate(height) == before


def test_the_table_has_the_number_of_examples_that_are_left(tab):
    column = "#table .tabulator-col[tabulator-field=examples]"
    assert "left, of 30" in tab.inner_text(column)
    tab.click(column)
    cells = [text.split("\n") for text in tab.locator("#table .tabulator-cell[tabulator-field=examples]").all_inner_texts()]
    left = [[0, *(sum(i % 3 > 0 for i in range(3 * (k + 1))) for k in range(5))], [18, *(k + 1 for k in range(5))]]
    assert cells == [[str(a), f"{b} overshot"] for a, b in zip(*left, strict=True)]
    tab.click("#clear")


def test_one_outlier_does_not_squeeze_the_strips(tab):
    """It stands at the edge with a mark, in every strip; the oracles' mean ± 2 sd is 4 nats wide of about 14."""
    assert tab.locator(".card svg").count() == tab.locator(".card path.beyond").count() > 0
    assert min(tab.evaluate("[...document.querySelectorAll('.card rect')].map(each => +each.getAttribute('width'))")) > 30


def test_words_are_explained_where_they_stand(tab, made):
    meaning = tab.locator("#word-band dd").text_content()
    heading = tab.locator("#table .tabulator-col[tabulator-field=worst] span[title]")
    assert heading.get_attribute("title") == meaning and "band 3.40" in heading.text_content()
    text = (made / NAME).read_text()
    assert "how small a difference this run could still have seen" in text and "tug of war with MIA (tow_mia)" in text
    assert 'href="#word-test_like"' not in text  # no method sees such examples
    tab.locator("#panel svg .points_marks path, #panel svg .points path").first.hover()
    assert METRICS["accuracy"].summary in tab.inner_text("#tip")


def test_of_many_methods_the_opened_example_shows_the_chosen_and_the_frontier_first(browser, many):
    tab, wrong = opened(browser, many)
    tab.wait_for_function("document.querySelector('#count').textContent === '24 of 24 methods, and 2 references'")
    tab.select_option("#pick", "method_7")
    tab.click(".card >> nth=0")
    shown = tab.inner_text(".detail")
    first = ["original", "retrain", "scrub", "method_7"]
    assert all(method in shown for method in first) and "method_8" not in shown and "finetune" not in shown
    tab.click(".detail button:has-text('Show')")
    assert all(f"method_{i}" in tab.inner_text(".detail") for i in range(20)) and "finetune" in tab.inner_text(".detail")
    tab.click(".detail button:has-text('Hide')")
    assert "method_8" not in tab.inner_text(".detail")
    access = tab.locator("#table .tabulator-row:has-text('method_0') .tabulator-cell[tabulator-field=access] span")
    assert access.get_attribute("title") == tab.locator("#word-test_like dd").text_content() and not wrong
    assert tab.locator("#methods a[href='#word-test_like']").count() == 1


def test_power_follows_the_metric(tab):
    assert "With 48 oracles a difference of 0.83 is visible" in tab.inner_text("#power-caption")
    cells = tab.locator("#power-table .tabulator-row >> nth=0").locator(".tabulator-cell").all_inner_texts()
    assert cells[1:] == ["0.83", "10.00", "88.00 ± 0.17"]  # all to the digits of the null sd, 4 / 24


def test_the_metric_of_the_largest_deviation_keeps_its_whole_name(tab):
    cell = tab.locator("#table .tabulator-row:has-text('finetune') .tabulator-cell[tabulator-field=worst]")
    assert cell.inner_text().split("\n") == ["12", "SVC-MIA (correctness)"]


def test_rows_follow_the_heading_that_the_keyboard_reaches(browser, made):
    tab, wrong = opened(browser, made, width=620)
    tab.wait_for_selector("#table .tabulator-col[tabindex='0']")
    places = """() => {
        const heading = document.activeElement, field = heading.getAttribute("tabulator-field");
        const cell = document.querySelector(`#table .tabulator-cell[tabulator-field="${field}"]`);
        const [own, below] = [heading, cell].map((each) => each.getBoundingClientRect());
        return [field, own.left, own.right, below.left, innerWidth, cell.closest(".tabulator-tableholder").scrollLeft];
    }"""
    tab.focus("#table .tabulator-col[tabindex='0']")
    tab.keyboard.press("End")
    for key in ("ArrowLeft", "Enter"):  # the last but one; sorted by it
        tab.keyboard.press(key)
        tab.wait_for_timeout(100)
        field, left, right, of_cell, width, scrolled = tab.evaluate(places)
        assert field == "rte/" and scrolled > 0
        assert left == pytest.approx(of_cell, abs=1) and 0 <= left < right <= width
    tab.keyboard.press("Home")
    tab.wait_for_timeout(100)
    assert tab.evaluate(places)[0] == "method" and not wrong


LABELS = """() => {
    const find = (item, name) => item.name === name ? item : (item.items || []).map((each) => find(each, name)).find(Boolean);
    const root = report.chart().scenegraph().root;
    const leaders = find(root, "leaders").items, points = find(root, "points_marks").items;
    const labels = find(root, "labels").items.map((item, i) => ({ item, leader: leaders[i].opacity > 0 }));
    return labels.filter(({ item }) => item.text && item.opacity > 0).map(({ item, leader }) => {
        const away = (point) => Math.hypot(point.x - item.x, point.y - item.y);
        return { method: item.datum.datum.method, leader, own: away(item.datum), nearest: Math.min(...points.map(away)) };
    });
}"""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """The folder of a run of many methods on a stair, so close that not every name has room: no other beats any in both."""
    folder = tmp_path_factory.mktemp("crowded")
    stair = {name: ("R", "different", 0.1 + i / 50, 0.5 - i / 50) for i, name in enumerate(MANY)}
    rows = rows_of(points={name: POINTS[name] for name in ("original", "retrain")} | stair)
    page.write(Run(folder), rows, rows, arrange(rows))
    return folder


@pytest.mark.parametrize("width", [390, 1400])
def test_each_name_in_the_chart_is_beside_its_point_or_has_a_line_to_it(browser, crowded, width):
    tab, wrong = opened(browser, crowded, width)
    tab.wait_for_function("document.querySelector('#chart-note').textContent")
    found = tab.evaluate(LABELS)
    beside = [each for each in found if each["own"] < 12 and each["own"] == pytest.approx(each["nearest"])]  # pixels
    assert all(each["leader"] for each in found if each not in beside)
    assert len(beside) < len(found) > 5  # it has names that need a line
    lacking = {"original", "retrain", *MANY} - {each["method"] for each in found}
    said = re.search(r"No room for the name of (.*?)\.", tab.inner_text("#chart-note"))
    assert lacking == set(said[1].split(", ") if said else ()) and not wrong


def test_the_keyboard_needs_few_stops(browser, many):
    """Chart, headings, rows, metrics and examples are one stop each; arrows go on inside them."""
    tab, wrong = opened(browser, many)
    tab.wait_for_selector("#chart path[tabindex='0']")
    tab.wait_for_selector("#table .tabulator-row[tabindex='0']")
    stops = []
    for _ in range(70):
        tab.keyboard.press("Tab")
        stops.append(tab.evaluate("(document.activeElement.closest('[id]') || {}).id + ' ' + document.activeElement.className"))
        if stops[-1].startswith("again") or tab.evaluate("!!document.activeElement.closest('#repeat')"):
            break
    else:
        raise AssertionError(f"no end after {stops}")
    assert sum("tabulator-row" in stop for stop in stops) == 1 and sum("tabulator-col" in stop for stop in stops) == 1
    assert sum(stop.split(" ")[1:2] == ["card"] for stop in stops) == 1
    tab.focus("#table .tabulator-row[tabindex='0']")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert (
        tab.locator("#table .tabulator-row.chosen").inner_text() != ""
        and tab.locator("#table [tabindex='0'].chosen").count() == 1
    )
    assert tab.is_visible("#follow") and tab.inner_text("#follow a").startswith(tab.input_value("#pick"))
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#follow")
    tab.focus("#columns summary")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Escape")
    assert tab.evaluate("!document.querySelector('#columns').open && document.activeElement.matches('summary')") and not wrong


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1300, "dark")])
def test_other_widths_and_themes_hold(browser, made, width, scheme):
    tab, wrong = opened(browser, made, width, scheme)
    tab.wait_for_selector("#chart .points_marks path, #chart .points path")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth") and not wrong
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_forget_set_is_chosen(browser, several):
    tab, wrong = opened(browser, several)
    tab.wait_for_function("document.querySelector('#count').textContent === '4 of 4 methods, and 2 references'")
    tab.select_option("#set", label="random-1")
    tab.wait_for_function("document.querySelector('#count').textContent === '3 of 3 methods, and 2 references'")
    assert "scrub" not in names(tab) and tab.inner_text("#panel h3").startswith("original")
    assert "Forget set random-1." in tab.inner_text("#gallery") and not wrong


def test_the_table_of_a_study_sorts(browser, study):
    tab, wrong = opened(browser, study)
    first = "[data-table=a] .tabulator-row .tabulator-cell"
    assert tab.inner_text(f"{first} >> nth=0") == "row 0"
    frame = tab.evaluate(
        "(({ padding, borderRadius }) => [padding, borderRadius])(getComputedStyle(document.querySelector('#figures img')))"
    )
    assert all(float(size.removesuffix("px")) >= 6 for size in frame)  # a figure on white, also in the dark
    tab.click("[data-table=a] .tabulator-col[tabulator-field=c1] .tabulator-col-title")
    assert tab.inner_text(f"{first} >> nth=0") == "row 999" and not wrong


def test_a_comparison_is_read_by_run_metric_and_method(browser, comparison):
    tab, wrong = opened(browser, comparison)
    tab.wait_for_function("document.querySelector('#count').textContent === '1 of 4 scores'")
    tab.select_option("#metric", "damage/all")
    assert tab.inner_text("#count") == "3 of 4 scores" and "damage" in tab.inner_text("#caption")
    tab.wait_for_function("document.querySelectorAll('#chart .points_marks path').length === 2")  # what is finite
    tab.locator("#chart .points_marks path >> nth=0").hover()
    assert tab.inner_text("#tip").startswith("scrub: −0.330 (−0.430 to −0.230)")
    tab.get_by_label("only clear differences").check()
    assert tab.inner_text("#count") == "1 of 4 scores"
    assert "−0.330" in tab.inner_text("#table .tabulator-row") and "−0.430 to −0.230" in tab.inner_text("#table .tabulator-row")
    tab.select_option("#run", "C")
    tab.get_by_label("only clear differences").uncheck()
    tab.wait_for_function("document.querySelector('#count').textContent === '1 of 1 scores'")
    assert "no interval" in tab.inner_text("#table .tabulator-row") and not wrong


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1300, "light")])
def test_a_comparison_holds_on_other_widths_and_themes(browser, comparison, width, scheme):
    tab, wrong = opened(browser, comparison, width, scheme)
    tab.wait_for_selector("#chart .points_marks path")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth") and not wrong


def test_the_command_with_the_file_says_where_the_file_is(tmp_path):
    facts = {"config": {"exp": "unlearning"}, "command": "/somewhere/python benchmark.py --exp unlearning --out /elsewhere/run"}
    said = repeat_of(Run(tmp_path), facts)
    assert said["again"] == "python benchmark.py --config FOLDER/config.json --out NEW" and said["beside"]
    assert "/somewhere" not in said["command"] and "/elsewhere" not in said["command"]
