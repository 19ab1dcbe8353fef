"""The figure of docs/performance.md: which runs it shows, and that it is drawn from them."""

import json
from pathlib import Path

from benchmarks import speed_figure

RUNS = json.loads((Path(__file__).parents[1] / "docs" / "performance" / "speed.json").read_text(encoding="utf-8"))


def test_a_panel_holds_the_run_of_most_models_and_not_xlas_own_convolution():
    panels = speed_figure.panels(RUNS)
    assert [*panels] == [
        "exact leave-one-out, s for all (AMD EPYC, AVX2)",
        "a pool on digits, s a model of 12 (AMD EPYC, AVX-512)",
        "a pool on fashion_mnist, s a model of 4 (AMD EPYC, AVX-512)",
    ]
    loops, digits, _ = panels.values()
    assert round(loops["unlearn_jax"], 1) == 39.6
    assert round(digits["unlearn_jax, map, products"], 2) == 0.43
    assert round(digits["PyTorch, compiled, 2 processes"], 2) == 0.56
    assert not any("xla" in way for rows in panels.values() for way in rows)


def test_each_way_has_a_bar():
    figure = speed_figure.draw(RUNS)
    assert [len(axes.patches) for axes in figure.axes] == [len(rows) for rows in speed_figure.panels(RUNS).values()]
