"""How much each method depends on its hyperparameters: forgetting against utility over its two main ones."""

import itertools
from functools import partial
from typing import Any

import numpy as np

from experiments.sensitivity.judge import Judge
from experiments.sensitivity.options import Config
from experiments.sensitivity.report import Surface, Trial, meshes, summary
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import prepare
from unlearn_jax.methods import METHODS, searchable
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run

COLUMNS = ("method", "kind", "first", "first_value", "second", "second_value", *Trial._fields[2:])


def run(config: Config, folder: Run) -> None:
    """Judge a grid of settings of every method with hyperparameters, and draw the surfaces.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    names = [name for name in config.method_names() if METHODS[name].search]
    accepted = f"hyperparameters that can be varied have {', '.join(searchable())}"
    require(bool(names), "--methods", ",".join(config.methods), accepted)
    setting = prepare(config)
    judge = Judge(config, setting)
    chosen, fine = settings(config, names, judge.label), config.fine_names()
    surfaces: list[Surface] = []
    for name in names:
        budget = {key: value for key, value in (("epochs", config.epochs), ("batch_size", config.batch_size))}
        base = chosen[name] | {key: value for key, value in budget.items() if key in chosen[name]}
        axes = list(METHODS[name].search)[:2]
        points = grid(name, axes, config.fine_grid if name in fine else config.grid)
        marked = [{key: float(values[key]) for key in axes} for values in (base, METHODS[name].defaults)]
        asked: dict[str, Any] = {"base": base, "points": points + marked}
        make = partial(judge_settings, judge, name, **asked)
        arrays = load_or_make(folder, f"surfaces/{name}.npz", {**judge.identity, **asked}, make)
        tried = [Trial(*map(float, one)) for one in arrays["tried"]]
        surfaces.append(Surface(name, METHODS[name].access, tuple(axes), tried[:-2], tried[-2], tried[-1]))
    rows = [
        (surface.method, kind, surface.axes[0], one[0], surface.axes[1] if len(surface.axes) > 1 else "", *one[1:])
        for surface in surfaces
        for kind, some in (("grid", surface.grid), ("used", [surface.used]), ("authors", [surface.authors]))
        for one in some
    ]
    folder.write_csv("sensitivity.csv", COLUMNS, rows)
    ends = {"nothing": judge.nothing.tolist(), "retrain": judge.floor.tolist()}
    folder.write_json("results.json", ends)
    title = f"{config.dataset} · {config.model} · n={config.members} models a setting, {config.members} oracles"
    save(meshes(surfaces, judge.nothing, judge.floor, title), folder, "sensitivity")
    table = summary(surfaces, judge.nothing, judge.floor)
    folder.write_text("summary.md", table)
    print(table)


def judge_settings(judge: Judge, name: str, base: dict[str, Any], points: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Judges a method at every point, all in one batch of members: one row of `Trial` for each point."""
    with working(name) as update:
        distances, shares, _ = judge.judge(name, base, points)
        tried = [
            Trial(*[*point.values(), float("nan")][:2], *map(float, far), *map(float, share))
            for point, far, share in zip(points, distances, shares, strict=True)
        ]
        update(1.0, f"{len(points) - 2} settings, the best {min(one.total for one in tried):.2f}")
    return {"tried": np.array(tried)}


def grid(name: str, axes: list[str], count: int) -> list[dict[str, float]]:
    """The settings, evenly spaced on the scale of each hyperparameter; the first one varies slowest."""
    sides = [METHODS[name].search[key].spaced(count if len(axes) > 1 else count**2) for key in axes]
    return [dict(zip(axes, map(float, point), strict=True)) for point in itertools.product(*sides)]
