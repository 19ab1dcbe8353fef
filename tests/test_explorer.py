"""The explorer of a study's page: outlines as short text, what the studies hand over, and how it answers in a browser."""

import csv
import json
import re

import jax
import numpy as np
import pytest
from test_memorisation import a_study
from test_page import NAME, block, browser, opened, remote  # noqa: F401 (a fixture)

from experiments.capacity_boundary import report as capacity_report
from experiments.influence import report as influence_report
from experiments.influence import study as influence_study
from experiments.memorisation import report as memorisation_report
from unlearn_jax.bench import study_page, toy
from unlearn_jax.bench.toy_options import Discs, Plane
from unlearn_jax.influence import Window
from unlearn_jax.report import explorer
from unlearn_jax.report.explorer import STEPS, Layer, furthest, outline
from unlearn_jax.runs import Run

COUNT, RESOLUTION = 8, 9
WINDOW = Window(-4.0, 4.0, 0.0, 8.0, RESOLUTION)
X, Y = np.meshgrid(*WINDOW.axes())
POINTS = np.column_stack([np.linspace(-3, 3, COUNT), np.linspace(2, 6, COUNT)]).astype(np.float32)
LABELS = np.arange(COUNT, dtype=np.int32) % 2
DISPLACEMENT = np.array([0.11, 0.02, 0.4, 0.05, 0.0023, 0.31, 0.0707, 1e-7])  # of each point: ranks 3, 6, 1, 5, 7, 2, 4, 8


def upright(x):
    """The outline of a boundary at this x, class 1 to its right."""
    return outline(np.stack([x - X, X - x]))


def batched(text):
    return zip(text[::3], text[1::3], text[2::3], strict=True)


def decoded(text):
    """The points of an outline, in cells."""
    digits, lines = {chr(code): place for place, code in enumerate(explorer.DIGITS)}, []
    for line in text.split(";"):
        start, steps = line.split(":")
        moves = [4096 * digits[a] + 64 * digits[b] + digits[c] - 2 * STEPS for a, b, c in batched(steps)]
        lines.append(np.cumsum([[*map(int, start.split(","))], *np.reshape(moves, (-1, 2))], axis=0) / STEPS)
    return lines


def test_an_outline_is_the_zero_line():
    (line,) = decoded(outline(np.stack([4 - X**2 - (Y - 4) ** 2, X**2 + (Y - 4) ** 2 - 4])))
    x, y = (line - [4, 4]).T
    assert np.allclose(np.hypot(x, y), 2, atol=0.15) and np.array_equal(line[0], line[-1])  # closed; linear in each cell
    (line,) = decoded(upright(1.3))
    np.testing.assert_allclose(line[:, 0], 5.3, atol=1 / STEPS)
    assert sorted(line[[0, -1], 1]) == [0, 8]
    assert upright(9) == "" and outline(np.full((2, 4, 4), np.nan)) == ""


def test_of_three_classes_every_boundary_is_drawn_once():
    logits = np.stack([X, -X, 3 - 0 * X])
    margins = [logits[c] - np.delete(logits, c, axis=0).max(0) for c in range(3)]
    places = sorted(x for line in decoded(outline(np.stack(margins))) for x in {*(line[:, 0] - 4)})
    np.testing.assert_allclose(places, [-3, 3], atol=1e-3)


def test_where_it_moves_most_has_its_sign():
    moved, line = np.array([[0.1, -0.5], [0.2, 0.1]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(furthest(moved, line, np.array([1, 2])), [[3, 4, -0.5, 2], [1, 2, 0.2, 1]])


def layer_at(x, scores=DISPLACEMENT, sign=1.0):
    """A boundary at x that moves to the right by as much as the displacement says."""
    moves = [upright(x + sign * step) for step in scores]
    most = np.column_stack([np.full(COUNT, x), np.full(COUNT, 4.0), sign * scores, np.ones(COUNT)])
    return Layer(upright(x), moves, most, 1e-6, {"displacement_mean": scores, "memorisation": np.arange(COUNT) / 10})


def test_what_is_too_long_for_a_page_is_left_out_by_rank(monkeypatch):
    layer = layer_at(0.0)
    monkeypatch.setattr(explorer, "MOST", len(layer.boundary) + 3 * max(map(len, layer.without)))
    found = explorer.explorer(WINDOW[:4], RESOLUTION, POINTS, LABELS, LABELS, capacity_report.COLOURED, {"a": layer}, {})
    assert [place for place, text in enumerate(found["layers"]["a"]["without"]) if text] == [0, 2, 5]


def test_estimates_come_from_one_model_and_chunks_change_no_outline(monkeypatch):
    options = {"train_size": COUNT, "width": 3, "layers": 1, "resolution": RESOLUTION, "discs": Discs(separation=3.0)}
    config = Plane(exp="influence", **options)
    drawn = toy.draw_toy(config, 0)
    training = toy.prepare_training(config, drawn, 0)
    targets = toy.label_grid(toy.window_around(drawn.train.images, RESOLUTION), drawn)
    found = influence_study.estimate(training, training.initial, targets)
    assert {*found} == {"influence_function", "grad_dot", "grad_cos"} <= {*influence_report.COLOURED}
    assert all(values.shape == (COUNT,) and (values > 0).all() for values in found.values())
    assert found["grad_cos"].max() <= 1
    monkeypatch.setattr(influence_study, "GRADIENTS", 1)
    assert influence_study.estimate(training, training.initial, targets) == {}
    three = jax.tree.map(lambda leaf: np.stack([leaf, -leaf, 2 * leaf]), training.initial)
    window = Window(-6.0, 6.0, -6.0, 6.0, RESOLUTION)  # without biases the boundary goes through the origin
    whole = toy.outlines(training, three, window)
    monkeypatch.setattr(toy, "AT_ONCE", 2 * RESOLUTION**2)
    assert toy.outlines(training, three, window) == whole and all(whole)


# In a browser


def page_of(folder, explored):
    (folder / "config.json").write_text(json.dumps({"config": {"exp": "mine", "seed": 0}, "command": "python benchmark.py"}))
    study_page.write(Run(folder), explored)
    return folder


@pytest.fixture(scope="module")
def influence_run(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("influence"), np.random.default_rng(0)
    exact = {name: rng.random(COUNT) for name in influence_report.MEASURES} | {"displacement_mean": DISPLACEMENT}
    study = influence_report.Results(
        title="t",
        points=POINTS,
        labels=LABELS,
        clean_labels=np.where(np.arange(COUNT) == 3, 1 - LABELS, LABELS),
        window=WINDOW[:4],
        exact=exact,
        reordered=exact,
        other_seed={**exact, "displacement_mean": DISPLACEMENT[::-1]},
        noise=np.array([1e-6, 2e-6]),
        surface=np.stack([-X, X]),
    )
    Run(folder).write_csv("influence.csv", *influence_report.table(study))
    layer = layer_at(0.0)
    shown = influence_report.Shown(layer.boundary, layer.without, layer.furthest, {"grad_dot": DISPLACEMENT**2})
    return page_of(folder, influence_report.explore(study, WINDOW, shown))


@pytest.fixture(scope="module")
def capacity_run(tmp_path_factory):
    study = capacity_report.Results("t", POINTS, LABELS, WINDOW[:4], [], np.ones((1, 1)))
    layers = {"base-0": layer_at(0.0), "base-1": layer_at(1.0, DISPLACEMENT[::-1]), "wide-0": layer_at(2.0)}
    base = {"0": "base-0", "1": "base-1"}
    places = [("base", "", base), ("width", "4", base), ("width", "8", {"0": "wide-0"}), ("depth", "2", base)]
    explored = capacity_report.explore(study, WINDOW, LABELS, layers, places)
    return page_of(tmp_path_factory.mktemp("capacity"), explored)


@pytest.fixture(scope="module")
def memorisation_run(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("memorisation"), memorisation_report.explore(a_study()[0]))


@pytest.fixture
def show(browser):  # noqa: F811
    """Opens the page of a folder, and asserts at the end of the test that nothing went wrong in it."""
    tabs = []

    def of(folder, **options):
        tabs.append(opened(browser, folder, **options))
        tabs[-1][0].wait_for_selector(".said:not(:empty)")
        assert not remote((folder / NAME).read_text())
        return tabs[-1][0]

    yield of
    for tab, wrong in tabs:
        assert not wrong
        tab.context.close()


def hover(tab, point):
    box = tab.locator(".plane .inside .dot").nth(point).bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def line(tab, which):
    return tab.locator(f".plane:not(.key) .inside .{which}").get_attribute("d")


def colours(tab):
    return tab.evaluate("[...document.querySelectorAll('.plane .inside .dot')].map(dot => getComputedStyle(dot).fill)")


def test_a_point_shows_its_number_of_the_table(show, influence_run):
    with (influence_run / "influence.csv").open() as file:
        rows = list(csv.DictReader(file))
    tab = show(influence_run)
    assert "Point 2, class 0, has rank 1 of 8" in tab.inner_text(".said")  # what is shown, and printed, at first
    first, solid = line(tab, "without"), line(tab, "with")
    for point in (5, 3):
        hover(tab, point)
        said, row = tab.inner_text(".said"), rows[point]
        assert f"Point {point}, class 1" in said and f"has rank {row['rank']} of 8" in said
        shown = re.search(r"moves by ([\d.]+) on average", said)
        assert float(shown[1]) == pytest.approx(float(row["displacement_mean"]), rel=5e-3)
        assert ("wrong label" in said) == (row["label"] != row["clean_label"])
    assert "class 1 loses ground" in said and "magnified" in tab.inner_text(".lens")
    assert line(tab, "with") == solid and line(tab, "without") != first
    hover(tab, 7)
    assert "no more than rounding does" in tab.inner_text(".said")


def test_the_keyboard_goes_by_rank_and_a_click_holds(show, influence_run):
    tab = show(influence_run)
    tab.focus(".plane:not(.key)")
    for key, point in (("ArrowRight", 5), ("ArrowDown", 0), ("ArrowLeft", 5), ("End", 7), ("Home", 2)):
        tab.keyboard.press(key)
        assert f"Point {point}," in tab.inner_text(".said")
    box = tab.locator(".plane .inside .dot").nth(6).bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hover(tab, 1)
    assert "Point 6," in tab.inner_text(".said")
    tab.keyboard.press("Escape")
    hover(tab, 1)
    assert "Point 1," in tab.inner_text(".said")
    tab.focus("[data-of=rank]")
    tab.keyboard.press("Home")
    assert "Point 2," in tab.inner_text(".said")


def test_the_select_changes_the_colours_and_says_how_the_ranks_agree(show, influence_run):
    tab = show(influence_run)
    before = colours(tab)
    assert len({*before}) == COUNT
    tab.select_option("[data-of=colour]", "grad_dot")
    assert colours(tab) == before and "rank correlation of 1.00" in tab.inner_text("#explore")
    tab.select_option("[data-of=colour]", "other_seed")
    assert colours(tab) == before[::-1]


def test_the_sliders_change_the_boundary(show, capacity_run):
    tab = show(capacity_run)
    base = line(tab, "with"), line(tab, "without")
    tab.focus("[data-of=seed]")
    tab.keyboard.press("ArrowRight")
    assert line(tab, "with") != base[0] and line(tab, "without") != base[1]
    assert "rank 2 of 8" in tab.inner_text(".said")  # the same point
    tab.focus("[data-of=value]")
    tab.keyboard.press("ArrowRight")
    assert "From this seed the network has no boundary" in tab.inner_text(".said") and not line(tab, "with")
    tab.focus("[data-of=seed]")
    tab.keyboard.press("ArrowLeft")
    assert line(tab, "with") not in (None, "", base[0]) and "rank 1 of 8" in tab.inner_text(".said")
    tab.select_option("[data-of=axis]", label="depth")
    assert line(tab, "with") == base[0] and tab.locator("[data-of=value]").is_disabled()


def test_a_training_picture_shows_its_test_pictures(show, memorisation_run):
    tab = show(memorisation_run)
    study, _ = a_study()
    order = np.argsort(-study.memorisation, kind="stable")
    assert f"Training picture {study.rows[order[0]]}," in tab.inner_text(".said")
    assert tab.locator(".thumb img").count() == len(order) and tab.locator(".partner img").count() == 4
    tab.focus(f".thumb[aria-label^='training picture {study.rows[2]},']")
    tab.keyboard.press("Enter")
    first = tab.inner_text(".partner >> nth=0")
    assert f"test {study.test_rows[5]}, {study.names[study.test_labels[5]]}" in first and "▲ +40.0 ± 5.0" in first
    assert "correlation +0.80" in first and "no more than chance" not in first
    assert "no more than chance" in tab.inner_text(".partner >> nth=1") and "1 of 8 test pictures" in tab.inner_text(".said")
    tab.select_option("[data-of=order]", "pairs")
    assert f"Training picture {study.rows[2]}," in tab.inner_text(".said") or "Training picture 114," in tab.inner_text(".said")


@pytest.mark.parametrize("run", ["capacity_run", "memorisation_run"])
def test_a_phone_in_the_dark_holds_it(show, run, request):
    tab = show(request.getfixturevalue(run), width=390, scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_the_page_holds_is_short(influence_run):
    found = block((influence_run / NAME).read_text())["explorer"]
    assert found["steps"] == STEPS * (RESOLUTION - 1) and all(len(text) < 70 for text in found["layers"]["all"]["without"])
