"""The study `effectiveness`: its text is made from tables, and the committed one from the committed tables."""

import csv
from pathlib import Path

import pytest
from in_process import run_in_process

from experiments.effectiveness import choices, families, study, tables, text, words
from unlearn_jax.bench.tuning import COLUMNS as SEARCHED
from unlearn_jax.methods import METHODS
from unlearn_jax.metrics.catalogue import accuracy, damage, memory_left, rte
from unlearn_jax.report.rows import Row, write_rows
from unlearn_jax.runs import open_run
from unlearn_jax.types import Interval

DOCS = Path(__file__).parents[1] / "docs"
AGAIN = f"make it anew: {text.COMMAND}"


def made_up(folder, finding, sizes, dataset="digits"):
    """Writes a leaderboard: by method its memory left, damage, cost and outcome."""
    rows = []
    for method, (memory, damaged, cost, outcome) in sizes.items():
        access = METHODS[method].access
        common = Row("unlearning", dataset, "mlp", "random-0", method, access, "", "", n_members=8, n_oracles=16, outcome=outcome)
        for (metric, split), value in {
            memory_left.on("forget"): memory,
            **{damage.on(split): damaged for split in ("all", "forget", "retain", "test")},
            **{accuracy.on(split): 90.0 for split in ("forget", "retain", "test")},
            rte.on(""): cost,
        }.items():
            ends = {} if value is None else {"value_low": value - 0.05, "value_high": value + 0.05}
            rows.append(common._replace(metric=metric, split=split, value=value, null_mean=88.0, **ends))
    write_rows(open_run(folder / finding, {}), "results.csv", rows)


BASE = {
    "original": (1.0, 0.0, 0.0, "different"),
    "retrain": (0.0, 0.0, 1.0, "equivalent"),
    "scrub": (0.1, 0.3, 0.5, "different"),
    "finetune": (0.38, 0.1, 0.2, "different"),
    "gradient_ascent": (0.97, 0.1, 0.05, "different"),
    "ct": (0.2, 7e5, 1.5, "different"),
}


def board(tmp_path, **changed):
    made_up(tmp_path, "methods-digits", BASE | changed)
    (found, *_), _ = tables.read_boards(tmp_path)
    return found


def test_the_committed_page_is_made_from_the_committed_tables():
    evidence = text.gather(DOCS / "findings")
    assert (DOCS / f"{study.NAME}.md").read_text() == text.document(evidence, study.DOCS), AGAIN
    with (DOCS / study.NAME / study.TABLE).open(newline="") as file:
        found = [*csv.reader(file)]
    expected = [["" if cell is None else str(cell) for cell in row] for row in tables.lines(evidence.boards)]
    assert found == [[*tables.COLUMNS], *expected], AGAIN
    assert (DOCS / study.NAME / "effectiveness.png").is_file()


def test_every_method_has_one_family():
    named = [method for family in families.FAMILIES for method in family.methods]
    own = [name for name, entry in METHODS.items() if entry.make.__module__.startswith("unlearn_jax.methods")]
    assert len(named) == len(set(named)) and {*named, families.NOTHING} == set(own)


def test_its_lines_are_short_and_its_links_lead_somewhere():
    page = (DOCS / f"{study.NAME}.md").read_text()
    assert max(map(len, page.splitlines())) <= words.WIDE
    for link in page.split("](")[1:]:
        assert (DOCS / link.partition(")")[0]).exists(), link


def test_what_to_take_follows_access_price_and_the_intervals(tmp_path):
    found = choices.choices(board(tmp_path))
    taken = {(each.regime, each.budgets[-1]): (each.best.method, each.helps) for each in found if each.best}
    assert taken["R", 1.0] == ("finetune", True) and taken["F and R", 1.0] == ("scrub", True)
    assert taken["F and R", 0.1] == ("gradient_ascent", False)  # 0.97 ± 0.05 holds 1
    assert ("the model alone", 1.0) not in taken
    scrub = next(each for each in found if each.best and each.best.method == "scrub")
    assert scrub.level == ("finetune",)  # 0.30 ± 0.05 and 0.38 ± 0.05 overlap


def test_sentences_follow_the_numbers(tmp_path):
    def page(**changed):
        board(tmp_path, **changed)
        return " ".join(text.document(text.gather(tmp_path), study.DOCS).split())

    said = page()
    assert "None of the 4 approximate methods" in said and "the nearest, `scrub` (distillation), leaves 0.10" in said
    assert "that it removes more" not in said and "damage over 10,000" in said and "`ct` needs R and costs as much" in said
    said = page(scrub=(-0.02, 0.01, 0.5, "equivalent"))
    assert "**1 of the 4 approximate methods measured on digits (mlp) makes models" in said and "(`scrub`)" in said
    said = page(scrub=(-0.6, 0.01, 0.5, "different"), finetune=(None, None, 0.2, None))
    assert (
        "that it removes more than retraining does" in said
        and "Without finite numbers: `finetune`." in said
        and "| finetune | R | ? | ? | ? |" in said
    )


def test_every_method_of_the_registry_fits_into_the_lines(tmp_path):
    sizes = {name: (-1.234, 12.5, 0.25, "not distinguished") for name in METHODS} | {"retrain": BASE["retrain"]}
    made_up(tmp_path, "methods-digits", sizes)
    made_up(tmp_path, "unlearning-fashion", sizes, "fashion_mnist")
    page = text.document(text.gather(tmp_path), study.DOCS)
    assert max(map(len, page.splitlines())) <= words.WIDE
    assert "rank correlation" in page and "of each family" in page


def test_the_search_says_where_hyperparameters_come_from(tmp_path):
    lines = [dict.fromkeys(SEARCHED, "0.1") | {"method": "scrub", "used": "default", "worse_than_nothing": "True"}]
    lines += [dict.fromkeys(SEARCHED, "-0.1") | {"method": "finetune", "used": "tuned", "worse_than_nothing": "False"}]
    open_run(tmp_path / "tuning-digits", {}).write_csv("tuning.csv", SEARCHED, [[*line.values()] for line in lines])
    found = board(tmp_path)
    assert [found.get(name).hyperparameters for name in ("scrub", "finetune", "ct", "retrain")] == [
        "default",
        "tuned",
        "default",
        "none",
    ]
    page = " ".join(text.document(text.gather(tmp_path), study.DOCS).split())
    assert "The authors' values are used for 1 of the 2" in page and "values that are used: `scrub`" in page


def test_the_command_writes_page_table_and_figure_and_says_what_is_absent(tmp_path):
    board(tmp_path / "findings")
    (tmp_path / "docs").mkdir()
    places = (
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        "--findings",
        tmp_path / "findings",
        "--docs",
        tmp_path / "docs",
    )
    done = run_in_process("--exp", "effectiveness", "--smoke", "--device", "cpu", *places)
    assert done.returncode == 0, done.stderr
    assert (
        "Not used: vit-digits/results.csv: absent." in done.stdout and "the nearest of 4 methods is scrub, at 0.30" in done.stdout
    )
    assert {path.name for path in (tmp_path / "docs").rglob("*")} == {
        study.NAME,
        f"{study.NAME}.md",
        study.TABLE,
        "effectiveness.png",
    }
    assert "(figures/effectiveness.png)" in (tmp_path / "out" / f"{study.NAME}.md").read_text()


@pytest.mark.parametrize(
    ("option", "said"), [("--findings", "no leaderboard with memory left and damage"), ("--docs", "a folder")]
)
def test_what_cannot_be_read_or_written_is_refused_in_one_line(tmp_path, option, said):
    places = {"--findings": tmp_path / "findings", "--docs": None, option: tmp_path / "none"}
    board(tmp_path / "findings")
    given = [word for name, value in places.items() if value for word in (name, value)]
    refused = run_in_process(
        "--exp", "effectiveness", "--device", "cpu", "--out", tmp_path / "out", "--cache", tmp_path / "c", *given
    )
    assert (
        refused.returncode == 2
        and refused.stderr.splitlines()[-1].startswith(f"benchmark.py: {option}")
        and said in refused.stderr
    )
    assert not (tmp_path / "out").exists()


def test_an_unknown_interval_proves_nothing():
    result = tables.Result(
        "scrub", "F+R", Interval(0.1, -float("inf"), float("inf")), Interval(0.1, 0.0, 0.2), *([{}] * 3), 0.5, 0.5, *([None] * 4)
    )
    assert result.distance == 0.1 and result.farthest == float("inf") and result.nearest == 0.0
