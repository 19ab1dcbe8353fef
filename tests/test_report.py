"""Tables that other programs read, a leaderboard that people read, and figures that are the same each time."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from unlearn_jax.bench.board import arrange
from unlearn_jax.bench.evaluate import DAMAGE, MEMORY, QUALITY, UTILITY
from unlearn_jax.metrics import Null, verdict
from unlearn_jax.metrics.registry import is_attack
from unlearn_jax.report import figures, leaderboard
from unlearn_jax.report.drawing import DIGITS, blank, save, write_cells
from unlearn_jax.report.rows import Row, read_results, write_results
from unlearn_jax.runs import Run

HEADER = (
    "experiment,dataset,model,forget_set,method,access,metric,split,value,value_low,value_high,"
    "null_mean,null_sd,null_low,null_high,z,n_members,n_oracles,seconds,deviation,evidence,band,inside,outcome"
)
# access, z of KLOM, accuracy on forget, retain and test
METHODS = {
    "original": ("none", 24.2, 99.9, 99.9, 90.1),
    "retrain": ("none", 0.4, 81.6, 100.0, 92.2),
    "finetune": ("R", 15.0, 96.0, 100.0, 91.2),
    "gradient_ascent": ("F", 412.0, 9.8, 10.4, 10.1),
    "neggrad_plus": ("F+R", 8.2, 70.0, 99.2, 90.5),
    "random_label": ("F+R", 3.1, 79.0, 99.9, 91.9),
    "bad_teacher": ("F+R", 5.4, 77.0, 99.5, 91.5),
    "scrub": ("F+R", 1.2, 82.0, 99.98, 92.1),
    "salun": ("F+R", 2.8, 80.1, 99.9, 91.9),
    "l1_sparse": ("R", 9.7, 91.0, 99.7, 91.1),
    "l1_sparse_proximal": ("R", 9.1, 90.5, 99.7, 91.3),
    "fisher": ("R", 40.0, 60.0, 70.0, 61.0),
    "ssd": ("F+R+test-like", -22.0, 97.0, 97.5, 88.4),
    "cf_k": ("R", 23.6, 99.7, 100.0, 90.3),
    "eu_k": ("R", 20.1, 98.5, 100.0, 90.8),
}
ORACLES = {"forget": 81.6, "retain": 99.98, "test": 92.2}
SIZES = {"forget": 50, "retain": 200, "test": 100}


def scored(method, metric, split, value, mean=None, sd=None, forget_set="random", n=24):
    """A row as an experiment makes it."""
    null = (None,) * 5 if mean is None else (mean, sd, mean - 2 * sd, mean + 2 * sd, (value - mean) / sd if sd else None)
    about = ("unlearning", "digits", "resnet8", forget_set, method, METHODS[method][0], metric, split)
    return Row(*about, value, value - (sd or 0), value + (sd or 0), *null, n, 2 * n, None)


def judged(rows, band=3.0, lost=()):
    """The rows with the verdict of `metrics` in them."""
    rows = [row if row.null_sd is None else row._replace(**as_evidence(row)) for row in rows]
    verdicts = {}
    for method in {row.method for row in rows}:
        own = [row for row in rows if row.method == method]
        sizes = [row.evidence for row in own if row.evidence is not None]
        verdicts[method] = verdict.is_inside(sizes, band, max(row.n_members for row in own), method in lost)
    return [row._replace(band=band, inside=verdicts[row.method]) for row in rows]


def as_evidence(row):
    value, null = math.nan if row.value is None else row.value, Null(row.null_mean, row.null_sd, row.null_low, row.null_high)
    evidence = verdict.evidence(value, row.value_low, row.value_high, null, is_attack(row.metric))
    return {"deviation": verdict.deviation(value, null), "evidence": evidence}


def rows_of(methods=METHODS, forget_set="random"):
    """All rows of a forget set."""
    rows = []
    for method in methods:
        _, z, *accuracies = METHODS[method]
        rows.append(scored(method, "klom", "forget", 2.46 + 0.09 * z, 2.46, 0.09, forget_set))
        for (split, mean), value in zip(ORACLES.items(), accuracies, strict=True):
            rows.append(scored(method, "accuracy", split, value, mean, 0.3, forget_set))
        rows.append(scored(method, "forgetting_quality", "forget", 0.18, 0.19, 0.01, forget_set))
        rows.append(scored(method, "rte", "", 0.0912, forget_set=forget_set))
    return judged(rows)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def printed(board, width, **options):
    """The leaderboard as the terminal shows it."""
    stream = io.StringIO()
    leaderboard.show(board, Console(file=stream, width=width, highlight=False, **options))
    return stream.getvalue()


def test_results_have_exactly_the_columns_of_the_contract_and_come_back_equal(run):
    rows = [*rows_of(["original", "scrub"]), scored("scrub", "seconds", "", 1.5)._replace(seconds=0.25)]
    write_results(run, rows, {"note": math.nan})
    lines = (run.folder / "results.csv").read_text().splitlines()
    assert lines[0] == HEADER and len(lines) == 1 + len(rows)
    assert lines[-1] == "unlearning,digits,resnet8,random,scrub,F+R,seconds,,1.5,1.5,1.5,,,,,,24,48,0.25,,,,,"
    assert read_results(run.folder / "results.csv") == rows and {row.inside for row in rows} == {True, False, None}
    (run.folder / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        read_results(run.folder / "results.csv")


def test_results_json_is_valid_whatever_the_values(run):
    row = scored("scrub", "klom", "forget", math.nan, 2.4, 0.1)._replace(z=math.inf, value_low=np.float32(1.5))
    write_results(run, [row], {"curves": {"loss": np.array([1.0, np.nan])}})

    def never(constant):
        raise AssertionError(constant)

    results = json.loads((run.folder / "results.json").read_text(), parse_constant=never)
    assert list(results["rows"][0]) == HEADER.split(",")
    assert results["rows"][0]["value"] is None and results["rows"][0]["z"] is None and results["rows"][0]["value_low"] == 1.5
    assert results["curves"]["loss"] == [1.0, None]
    (written,) = csv.DictReader((run.folder / "results.csv").read_text().splitlines())
    assert written["value"] == "nan" and written["z"] == "inf"


def test_leaderboard_orders_by_the_size_of_klom_z_below_the_references():
    board = arrange(rows_of())
    expected = sorted(METHODS.keys() - {"original", "retrain"}, key=lambda method: abs(METHODS[method][1]))
    assert [line.method for line in board.lines] == ["original", "retrain", *expected]
    assert [line.method for line in board.lines if line.reference] == ["original", "retrain"]
    assert {line.method for line in board.lines if line.marked} == {"retrain", "scrub"}
    assert any("not distinguished from retraining at this sample size (n=24)" in note for note in board.paragraphs)
    cells = dict(zip(board.headings, board.lines[2].cells, strict=True))
    assert (
        cells["acc F"] == "82.0"
        and cells["null"] == "2.46 ± 0.09"
        and cells["KLOM z"] == "+1.2"
        and cells["max |z|"] == "1.3 acc F"
    )
    assert cells["FQ (null)"] == "0.180 (0.190)" and cells["RTE"] == "0.091" and cells["ToW"] == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row._replace(value=math.nan, z=math.nan),
        lambda row: row._replace(value=None, z=None),
        lambda row: row._replace(
            null_sd=0.0, z=None, value_low=0.18, value_high=0.18
        ),  # never anything but 0.19, and this is 0.18
        lambda row: row._replace(value=0.19 - 0.0301),
        lambda row: row._replace(value=math.inf),
    ],
)
def test_no_mark_for_a_score_that_is_missing_or_off_the_null(spoil):
    rows = judged([spoil(row) if row.metric == "forgetting_quality" else row for row in rows_of(["scrub"])])
    assert not arrange(rows).lines[0].marked
    assert arrange(rows_of(["scrub"])).lines[0].marked


def test_a_score_that_few_members_carry_is_no_evidence():
    """As wide an interval as the distance to the null: an attack that flipped on one model, say."""
    carried = scored("scrub", "svc_mia", "forget", 0.3, 0.2, 0.01)._replace(value_low=0.2, value_high=0.5)
    shared = carried._replace(value_low=0.29, value_high=0.31)
    (carried,), (shared,) = judged([carried]), judged([shared])
    assert carried.evidence == pytest.approx(0.1 / (0.3 / 3.92)) and shared.evidence == pytest.approx(shared.z) == pytest.approx(
        10
    )
    assert arrange([carried]).lines[0].marked and not arrange([shared]).lines[0].marked


def test_a_constant_null_that_is_met_is_inside():
    (row,) = judged([scored("scrub", "accuracy", "retain", 100.0, 100.0, 0.0)])
    assert row.z is None and row.deviation == 0.0
    assert arrange([row]).lines[0].marked


def test_diverged_members_are_named_and_take_the_mark_away():
    rows = [row._replace(n_members=23) for row in rows_of(["scrub"])] + rows_of(["retrain"])
    board = arrange(judged(rows, lost=["scrub"]), {"scrub": ["random #7"]})
    assert "scrub: 23 of 24 models (1 diverged: random #7)" in " ".join(board.paragraphs)
    assert not board.lines[1].marked and "23 of 24" in board.lines[1].cells
    assert any("(n=24)" in note for note in board.paragraphs)


def test_a_method_of_which_nothing_is_left_is_last_and_without_a_mark():
    lost = scored("finetune", "klom", "forget", math.nan, 2.46, 0.09, n=0)
    board = arrange(judged([lost, *rows_of(["scrub"])], lost=["finetune"]), {"finetune": [f"random #{i}" for i in range(24)]})
    assert [line.method for line in board.lines] == ["scrub", "finetune"] and not board.lines[1].marked
    assert "0 of 24" in board.lines[1].cells and "nan" in board.lines[1].cells


@pytest.mark.parametrize("width", [80, 100, 160])
def test_terminal_fits_its_width_and_cuts_nothing(width):
    board = arrange(rows_of())
    text = printed(board, width)
    assert "\x1b" not in text and "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for method, (access, *_) in METHODS.items():
        line = next(line for line in text.splitlines() if re.search(rf"(^|\s){method}\s", line))
        assert access in line
    assert all(heading in text for heading in ("max |z|", "acc F", "RTE"))
    assert ("Not shown at this width" in text) == (width < 160)


def test_terminal_has_colour_only_where_it_is_one_and_never_fails_on_an_old_one():
    board = arrange(rows_of())
    assert "\x1b" in printed(board, 100, force_terminal=True, color_system="standard")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    leaderboard.show(board, Console(file=stream, width=100, highlight=False))
    stream.flush()
    assert b"+-" in stream.buffer.getvalue()


def test_the_outline_is_ten_lines_with_the_references_first():
    board = arrange(rows_of())
    lines = leaderboard.outline(board)
    assert len(lines) == 10 and max(map(len, lines)) <= 80
    assert lines[0].startswith("digits · resnet8 · forget set random · n=24")
    assert "original" in lines[2] and "retrain" in lines[3]
    assert "further away: " in lines[-2]
    inside = [line.method for line in board.lines if line.marked and not line.reference]
    others = [line for line in board.lines if not line.reference and line.marked is not None]
    assert lines[-1].startswith(
        f"{len(inside)} of {len(others)} methods equivalent to retraining, or not distinguished from it: {inside[0]}"
    )
    few = leaderboard.outline(board, width=40, most=len(METHODS))
    assert len(few) == 3 + len(METHODS) and max(map(len, few)) <= 40


def test_markdown_is_one_table_with_its_caption(run):
    board = arrange(rows_of())
    leaderboard.write(run, board)
    table, *caption = (run.folder / "summary.md").read_text().strip().split("\n\n")
    lines = table.splitlines()
    assert len(lines) == 2 + len(METHODS)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(board.headings) + 1}
    assert "*original*" in table and "**scrub**" in table and "***retrain***" in table
    assert tuple(caption) == board.paragraphs and "digits · resnet8 · forget set random · n=24" in caption[0]


def test_latex_escapes_and_balances(run):
    rows = [row._replace(forget_set="a_b 10% & {c} ~ ^ $ # \\") for row in rows_of()]
    leaderboard.write(run, arrange(rows))
    text = (run.folder / "summary.tex").read_text()
    assert r"forget set a\_b 10\% \& \{c\} \textasciitilde{} \textasciicircum{} \$ \# \textbackslash{}" in text
    assert r"l1\_sparse\_proximal" in text and "l1_sparse" not in text
    assert text.isascii()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns and len(lines) == 1 + len(METHODS)
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns[1])}
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]


def drawn(methods):
    """The three figures, from synthetic members of some methods."""
    random = np.random.default_rng(0)

    def losses(accuracies, members):
        right = {split: random.random((members, SIZES[split])) < accuracy / 100 for split, accuracy in accuracies.items()}
        return {
            split: np.where(hit, 10 ** random.normal(-3, 1, hit.shape), 10 ** random.normal(0.4, 0.3, hit.shape))
            for split, hit in right.items()
        }

    def accuracies(means, members):
        return {split: np.clip(mean + random.normal(0, 0.4, members), 0, 100) for split, mean in means.items()}

    means = {method: dict(zip(ORACLES, METHODS[method][2:], strict=True)) for method in methods}
    loss = {method: losses(means[method], 24) for method in methods}
    accuracy = {method: accuracies(means[method], 24) for method in methods}
    loss[methods[0]]["test"][3] = np.nan
    accuracy[methods[0]]["test"][:] = np.nan
    rows = rows_of(methods)
    return {
        "quality": figures.quality_against_utility(rows, QUALITY, UTILITY, "title"),
        "losses": figures.loss_histograms(loss, losses(ORACLES, 48), "title"),
        "accuracy": figures.accuracy_bars(rows, "accuracy", accuracy, accuracies(ORACLES, 48), "title"),
    }


def test_figures_are_saved_and_the_same_each_time(tmp_path):
    methods = ["original", "retrain", "gradient_ascent", "scrub"]
    saved = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        for name, figure in drawn(methods).items():
            save(figure, Run(folder), name)
        saved.append({path.name: path.read_bytes() for path in sorted((folder / "figures").iterdir())})
    assert list(saved[0]) == sorted(f"{name}.{suffix}" for name in ("quality", "losses", "accuracy") for suffix in ("svg", "png"))
    assert saved[0] == saved[1]
    assert all(len(data) > 5_000 for data in saved[0].values())
    assert all(data.startswith(b"\x89PNG") for name, data in saved[0].items() if name.endswith("png"))
    assert not any(b"dc:date" in data for data in saved[0].values())


def test_a_saved_figure_is_laid_out(tmp_path):
    """Labels that do not fit at the default place are inside of the picture."""
    figure = blank(6.0, 2.0)
    axes = figure.subplots()
    axes.set_yticks([0, 1], ["a label that is a third of the figure wide", "b"])
    before = axes.get_tightbbox().x0
    save(figure, Run(tmp_path), "wide")
    assert before < 0 <= axes.get_tightbbox().x0


def test_texts_of_a_heat_map_stand_in_their_cells_at_their_size_and_in_their_colour():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    dots, size = 200, 20.0
    texts, colours = np.array([["80", "", "80"], ["", "−.08", "8"]]), np.array([["red", "red", "blue"]] * 2)
    figure = blank(6.0, 4.0)
    figure.set_layout_engine("none")
    figure.dpi = dots
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.5, 2.5), ylim=(1.5, -0.5))
    write_cells(axes, texts, colours, size)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = np.asarray(canvas.buffer_rgba()).astype(int)
    for (row, column), text in np.ndenumerate(texts):
        cell = whole[row * 2 * dots : (row + 1) * 2 * dots, column * 2 * dots : (column + 1) * 2 * dots]
        inked = cell[..., :3].sum(-1) < 3 * 255 - 250
        if not text:
            assert not inked.any()
            continue
        high, wide = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
        assert abs(high.mean() - dots) < 3 and abs((wide[0] + wide[-1]) / 2 - dots) < 3
        assert np.ptp(high) == pytest.approx(DIGITS * size * dots / 72, abs=4)
        red, _, blue = cell[inked][:, :3].mean(0)
        assert (red > blue) == (colours[row, column] == "red")


def test_labels_cover_neither_each_other_nor_a_point():
    figure = figures.quality_against_utility(rows_of(), QUALITY, UTILITY, "title")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = {text.get_text(): super(type(text), text).get_window_extent() for text in axes.texts}
    assert boxes.keys() == METHODS.keys()
    area = axes.get_window_extent()
    for name, box in boxes.items():
        assert area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
        assert not [other for other, there in boxes.items() if other != name and box.overlaps(there)]
        for text in axes.texts:
            assert not box.contains(*axes.transData.transform(getattr(text, "xy")))  # noqa: B009 (typed as plain text)


def test_of_many_methods_only_references_and_the_frontier_are_named():
    rows = [scored("original", "klom", "forget", 4.0, 2.4, 0.1), scored("original", "accuracy", "test", 95.0, 96.0, 0.2)]
    for number in range(30):  # each is further away than the one before, in both
        klom = scored("scrub", "klom", "forget", 2.5 + 0.1 * number, 2.4, 0.1)
        accuracy = scored("scrub", "accuracy", "test", 95.9 - 0.1 * number, 96.0, 0.2)
        rows += [row._replace(method=f"method {number}") for row in (klom, accuracy)]
    axes = figures.quality_against_utility(rows, QUALITY, UTILITY, "title").axes[0]
    assert {text.get_text() for text in axes.texts} == {"original", "method 0"} and "all 31 are in the table" in axes.get_title()
    few = figures.quality_against_utility(rows[:40], QUALITY, UTILITY, "title").axes[0]
    assert len(few.texts) == 20 and few.get_title() == "title"


def test_a_method_that_ruins_the_model_does_not_squeeze_the_others():
    rows = [*sized("scrub", 0.1, 0.2, "different"), *sized("fisher", -30.0, 40.0, "different")]
    axes = figures.memory_against_damage(rows, MEMORY, DAMAGE, 0.1, "title").axes[0]
    assert axes.get_xlim()[0] > -3 and axes.get_ylim()[1] < 4 and "further out: fisher" in axes.get_xlabel()


def test_a_method_without_finite_values_is_named_below_the_figure():
    rows = [row._replace(value=math.nan) if row.method == "fisher" else row for row in rows_of(["scrub", "fisher"])]
    figure = figures.quality_against_utility(rows, QUALITY, UTILITY, "title")
    assert [text.get_text() for text in figure.axes[0].texts] == ["scrub"]
    assert "no finite value: fisher" in figure.axes[0].get_xlabel()


def test_a_figure_with_nothing_to_draw_is_still_a_figure(tmp_path):
    save(figures.quality_against_utility([], QUALITY, UTILITY, "title"), Run(tmp_path), "empty")
    assert (tmp_path / "figures" / "empty.svg").exists()


def test_importing_the_report_does_not_import_what_draws():
    modules = "unlearn_jax.report.figures, unlearn_jax.report.leaderboard"
    check = f"import sys, {modules}; assert not {{'matplotlib', 'rich'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[1])


def sized(method, memory, harm, outcome):
    """The rows of a method with effect sizes."""
    row = scored(method, "klom", "forget", 2.5, 2.4, 0.1)._replace(outcome=outcome, inside=outcome != "different", band=3.0)
    sizes = (("memory_left", "forget", memory), ("damage", "all", harm))
    blank = row._replace(null_mean=None, null_sd=None, null_low=None, null_high=None, z=None)
    added = [
        blank._replace(metric=metric, split=split, value=value, value_low=value - 0.05, value_high=value + 0.05)
        for metric, split, value in sizes
    ]
    return [row, *added]


def test_the_board_is_in_the_order_of_the_memory_left_and_marks_three_outcomes(tmp_path):
    rows = [
        *sized("ssd", 1.0, 0.0, "different"),
        *sized("scrub", -0.12, 0.3, "not distinguished"),
        *sized("l1_sparse", 0.3, 0.4, "different"),
        *sized("retrain", 0.01, 0.0, "equivalent"),
        *sized("original", 1.0, 0.0, "different"),
    ]
    board = arrange(rows)
    assert [line.method for line in board.lines] == ["original", "retrain", "scrub", "l1_sparse", "ssd"]
    column = board.headings.index("memory left")
    assert [line.cells[0] for line in board.lines] == ["", "≈", "●", "", ""]
    assert [line.marked for line in board.lines] == [False, True, True, False, False]
    assert board.lines[2].cells[column : column + 2] == ("-0.12 (-0.17 to -0.07)", "0.30 (0.25 to 0.35)")
    assert "≈: equivalent to retraining: both intervals lie within 0.1 of 0" in board.guide[0]
    figure = figures.memory_against_damage(rows, MEMORY, DAMAGE, 0.1, "title")
    assert {text.get_text() for text in figure.axes[0].texts} == {line.method for line in board.lines}
    many = [*rows, *(row for number in range(20) for row in sized("fisher", 1.5, 0.9, "different"))]
    many = [row._replace(method=f"{row.method}{number}") if row.method == "fisher" else row for number, row in enumerate(many)]
    figure = figures.memory_against_damage(many, MEMORY, DAMAGE, 0.1, "title")
    assert {text.get_text() for text in figure.axes[0].texts} == {"original", "retrain", "scrub", "l1_sparse", "ssd"}
