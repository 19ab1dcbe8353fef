"""Every metric is entered once: rows, tables, axes, the guide and the studies read the registry.

`PYTHONPATH=. python tests/test_metric_registry.py` writes the table of docs/metrics.md anew.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unlearn_jax import metrics
from unlearn_jax.bench import board, sample_size, sources_of_variance, statistics
from unlearn_jax.metrics import METRICS, registry
from unlearn_jax.metrics.registry import COST, DISTANCE, KINDS, NEEDS, PER_MODEL, SPLITS, TWO_SAMPLE, in_order, is_attack, metric
from unlearn_jax.types import Cube, Labels

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/metrics.md"
SECTION = re.compile(r"(?<=<!-- registry -->\n).*?(?=<!-- end of the registry -->)", re.DOTALL)
ATTACKS = {"tow_mia", "average_gap", "logistic_mia", "svc_mia"} | {
    f"svc_mia_{feature}" for feature in ("correctness", "entropy", "m_entropy", "prob")
}


def table():
    """The registry as the guide shows it."""
    rows = [["metric", "what it is", "split", "a perfect method", "source"], ["---"] * 5]
    for each in METRICS.values():
        name = f"`{each.name}`" + (f" ({each.unit})" if each.unit else "")
        rows.append([name, each.summary.removesuffix(".").replace("|", r"\|"), ", ".join(each.splits), each.perfect, each.source])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_guide_lists_what_is_registered():
    (section,) = SECTION.findall(PAGE.read_text())
    assert section == table(), "write it anew: see the first lines of this file"


def test_entries_are_complete():
    for name, each in METRICS.items():
        assert each.name == name and each.kind in KINDS and set(each.needs) <= set(NEEDS)
        assert each.summary.endswith(".") and each.label and each.short and each.perfect
        assert (each.kind == COST) == (each.splits == ("",)) == ("null" in each.perfect), name
        assert set(each.splits) <= {*SPLITS, "all", *registry.PARTS} or each.kind == COST
    assert {name for name in METRICS if is_attack(name)} == ATTACKS


def test_rows_come_in_the_order_of_the_registry_neighbours_on_the_same_splits_in_turns():
    names = [each.on(split) for each, split in in_order(TWO_SAMPLE, DISTANCE, PER_MODEL)]
    assert len(names) == len(set(names)) == 41
    assert names[:3] == [("klom", "forget"), ("klom_p95", "forget"), ("klom", "retain")]
    assert [each.name for each, _ in in_order(COST)] == ["seconds", "compile_seconds", "rte", "examples", "rte_examples"]


def test_axes_and_columns_are_named_by_the_registry():
    assert sample_size.SHOWN == {
        ("accuracy", "forget"): "accuracy on F (points)",
        ("accuracy", "test"): "accuracy on test (points)",
        ("klom", "forget"): "KLOM on F (nats)",
        ("forgetting_quality", "forget"): "forgetting quality",
        ("js_divergence", "forget"): "Jensen-Shannon on F (bits)",
        ("kl_to_oracle", "forget"): "KL to oracles on F (nats)",
        ("tow", "all"): "tug of war",
        ("average_gap", "all"): "average gap (points)",
        ("svc_mia", "forget"): "SVC-MIA",
    }
    with_null = set(statistics.COMPARED) - {METRICS["memory_left"].on("forget")}
    assert sources_of_variance.PANELS.keys() <= sample_size.SHOWN.keys() and with_null < sample_size.SHOWN.keys()
    headings = board.arrange([]).headings
    assert headings == (
        *(" ", "method", "access", "acc F", "acc R", "acc T", "KLOM F", "null", "KLOM z", "max |z|", "FQ (null)"),
        *("ToW", "gap", "SVC-MIA", "models", "s/model", "RTE"),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "triple"}, "mine: unknown kind triple, expected one of two-sample"),
        ({"kind": PER_MODEL, "needs": ("luck",)}, "mine: unknown need luck, expected one of logits"),
    ],
)
def test_what_cannot_be_registered_is_refused(given, message):
    def mine(models, split):
        """Mine."""

    with pytest.raises(ValueError, match=f"^{message}"):
        metric(**given)(mine)
    mine.__name__ = "klom"
    with pytest.raises(ValueError, match=r"^klom: a metric of this name is already registered"):
        metric(PER_MODEL)(mine)
    with pytest.raises(ValueError, match=r"^split: 'all' found, expected forget or test for kl_to_oracle"):
        METRICS["kl_to_oracle"].on("all")


def test_a_new_metric_is_scored_with_its_null_by_being_registered(monkeypatch):
    monkeypatch.setattr(registry, "METRICS", dict(METRICS))

    @metric(PER_MODEL, ("forget", "test"), unit="nats", label="margin")
    def middle_margin(models, split):
        """Mean margin."""
        return models.margins[split].mean(-1)

    @metric(TWO_SAMPLE, ("retain",), needs=("logits", "oracles"))
    def shift(pair, split):
        """Difference of mean margins."""
        return float(pair.unlearned.margins[split].mean() - pair.oracles.margins[split].mean())

    rng = np.random.default_rng(0)
    labels = Labels(*(rng.integers(0, 3, size) for size in (12, 14, 13)))
    oracles, models = (Cube(*(rng.normal(size=(n, len(each), 3)) for each in labels)) for n in (16, 8))
    reference = metrics.reference(oracles, labels, 8, splits=4)
    scores = {(each.metric, each.split): each for each in metrics.score(models, reference).scores}
    expected = metrics.margins(models.test, labels.test).mean()
    assert scores["middle_margin", "test"].value == pytest.approx(expected)
    assert scores["middle_margin", "test"].null.mean == pytest.approx(metrics.margins(oracles.test, labels.test).mean())
    assert {("middle_margin", "forget"), ("shift", "retain")} <= scores.keys() and scores["shift", "retain"].null.sd > 0


def assigned(name):
    """The files that define a constant."""
    for folder in ("unlearn_jax", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Assign) and name in {getattr(target, "id", None) for target in node.targets}:
                    yield path.relative_to(ROOT).as_posix()


def test_what_a_verdict_takes_is_defined_once():
    assert [*assigned("FEWEST_JUDGED")] == ["unlearn_jax/metrics/verdict.py"] and metrics.FEWEST_JUDGED == 8


def test_no_metric_is_typed_as_a_name_where_metrics_are_chosen():
    """Names of metrics that mean nothing else, but for the public list and for the name of an argument."""
    exempt = {"unlearn_jax/metrics/__init__.py", "unlearn_jax/metrics/accuracy.py"}
    special = [name for name in METRICS if METRICS[name].kind != COST and name not in ("accuracy", "klom")]
    for folder in ("unlearn_jax", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.relative_to(ROOT).as_posix() not in exempt:
                assert not [name for name in special if f'"{name}"' in path.read_text()], path


def test_metrics_alone_bring_neither_networks_nor_what_draws():
    unwanted = {"flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "tyro", "matplotlib", "rich", "torch"}
    code = f"import sys, unlearn_jax.metrics; print(*{unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


if __name__ == "__main__":
    PAGE.write_text(SECTION.sub(lambda _: table(), PAGE.read_text()))
