"""Exact leave-one-out on a toy: which points move the boundary, and how much of it is float noise or the seed."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.influence import report
from experiments.influence.options import Config
from unlearn_jax import influence
from unlearn_jax.bench import study_page
from unlearn_jax.bench.toy import (
    draw_orders,
    draw_toy,
    float_noise,
    furthest_moves,
    label_grid,
    outlines,
    prepare_training,
    require_boundary,
    surfaces,
    window_around,
)
from unlearn_jax.data import Toy
from unlearn_jax.influence import LeaveOneOut, Training, Window
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.cost import flops
from unlearn_jax.types import Examples, Variables

PEAK = 4096  # rows and columns of the matrix product that measures the machine's speed
DAMPING = 0.01  # of influence functions
TARGETS, GRADIENTS = 1024, 1 << 26  # of the estimates: targets, and numbers in all their gradients, at most


def run(config: Config, folder: Run) -> None:
    """Leave every point out once, rank the points, and compare the ranking with float noise and another seed.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    toy = draw_toy(config, config.seed)
    window = window_around(toy.train.images, config.resolution)
    original, another = (prepare_training(config, toy, seed) for seed in (config.seed, config.seed + 1))
    with require_boundary(config), working("boundaries of the originals"):  # stops here if there is none, before 3 n trainings
        for training in (original, another):
            influence.contour(training.model, jax.jit(influence.train)(training, jnp.ones(config.train_size)), window)
    orders = draw_orders(config.seed, original, config.reorderings)
    repeats = 1 if config.smoke else 3
    before = measure_peak(repeats)
    exact, speed = leave_one_out(config, original, toy, window, "leave-one-out")
    speed["peak"] = max(before, measure_peak(repeats))
    with working("sums in other orders") as update:
        noise = float_noise(config, original, exact, window, orders)
        update(1.0, f"{len(orders)} times the original")
    again, _ = leave_one_out(
        config, influence.reordered(original, orders[0]), toy, window, "leave-one-out, sums in another order"
    )
    other, _ = leave_one_out(config, another, toy, window, "leave-one-out, another seed")
    # in full-batch training the points themselves were reordered
    places = np.argsort(orders[0]) if original.batches is None else np.arange(len(toy.clean_labels))

    of = f"{config.layers} {config.activation} layers of {config.width}"
    steps = f"{original.steps} steps of {config.train.optimiser}"
    study = report.Results(
        title=f"{config.train_size} points, {of}, {steps}",
        points=toy.train.images,
        labels=toy.train.labels,
        clean_labels=toy.clean_labels,
        window=window[:4],
        exact=measures(exact),
        reordered={name: values[places] for name, values in measures(again).items()},
        other_seed=measures(other),
        noise=noise,
        surface=surfaces(original, jax.tree.map(lambda leaf: leaf[None], exact.original), window)[0],
    )
    folder.write_csv("influence.csv", *report.table(study))
    agreement = {name: rank_agreement(np.stack(study.columns(name), axis=1)) for name in report.MEASURES}
    facts = report.Facts(**speed, agreement=agreement, censored=censored_share(exact, window))
    folder.write_json("results.json", facts)
    folder.write_text("summary.md", report.summary(study, facts))
    rows = study.extremes(config.shown)
    without = surfaces(original, jax.tree.map(lambda leaf: leaf[rows], exact.without), window)
    save(report.map_of_points(study), folder, "map")
    save(report.boundaries(study, rows, without), folder, "boundaries")
    save(report.agreement(study, facts), folder, "agreement")
    with working("page") as update:
        shown = report.Shown(
            boundary=outlines(original, jax.tree.map(lambda leaf: leaf[None], exact.original), window)[0],
            without=outlines(original, exact.without, window),
            furthest=furthest_moves(exact),
            estimates=estimate(original, exact.original, label_grid(window, toy)),
        )
        update(1.0, f"{len(shown.without)} boundaries")
    study_page.write(folder, report.explore(study, window, shown))
    print(report.speed(facts))


def leave_one_out(
    config: Config, original: Training, toy: Toy, window: Window, label: str
) -> tuple[LeaveOneOut, dict[str, float]]:
    """The leave-one-out of a training run, and its speed.

    Returns:
        The leave-one-out, and by name: seconds of training with compilation, its matrix products in GFLOP, and GF/s from the
        end of the first chunk to the end of the last.
    """
    targets = label_grid(window, toy)
    start = time.perf_counter()
    ends: list[tuple[float, float]] = []
    with require_boundary(config), working(label) as update:

        def report_chunk(share: float) -> None:
            ends.append((share, time.perf_counter() - start))
            update(share, f"{ends[-1][1]:.1f} s of training")

        result = influence.leave_one_out(
            original,
            targets=targets,
            window=window,
            strategy=config.strategy,
            chunk=config.chunk,
            report=report_chunk,
        )
    (first, began), (last, ended) = ends[0], ends[-1]
    # Work is counted for automatic differentiation.
    plain = dataclasses.replace(original, model=original.model._replace(gradient=None))
    work = (1 + len(result.points)) * flops(influence.train, plain, jnp.ones(len(toy.clean_labels))) / 1e9
    rate = (last - first) * work / (ended - began) if last > first else work / ended
    return result, {"seconds": ended, "gflop": work, "gflops": rate}


def estimate(original: Training, variables: Variables, targets: Examples) -> dict[str, np.ndarray]:
    """Estimates the change of the margins without each point, from one trained model.

    Args:
        original: the training run.
        variables: of the trained model.
        targets: whose margins may change; some of them, evenly spaced, are taken.

    Returns:
        Estimator -> the mean of |change| over targets, `[points]`. Empty if the gradients of so large a model take too much
        memory.
    """
    points, parameters = len(original.examples.labels), sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    classes = 1 + int(np.max(original.examples.labels))
    most = min(TARGETS, GRADIENTS // parameters - (1 + classes) * points)
    if most < 1:
        return {}
    some = jax.tree.map(lambda leaf: leaf[:: -(-len(leaf) // most)], targets)
    plain = dataclasses.replace(original, model=original.model._replace(gradient=None))
    woodbury = influence.woodbury(DAMPING)

    @jax.jit
    def estimates(run: Training, variables: Variables, targets: Examples) -> dict[str, jax.Array]:
        found = {
            "influence_function": influence.influence_functions(run, variables, targets, woodbury),
            "grad_dot": influence.grad_dot(run, variables, targets),
            "grad_cos": influence.grad_cos(run, variables, targets),
        }
        return {name: jnp.abs(values).mean(1) for name, values in found.items()}

    return {name: np.asarray(values) for name, values in estimates(plain, variables, some).items()}


def measure_peak(repeats: int) -> float:
    """GF/s of NumPy's float32 matrix product, the best of `repeats`."""
    a = np.random.default_rng(0).standard_normal((PEAK, PEAK), dtype=np.float32)
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * PEAK**3 / best / 1e9


def measures(result: LeaveOneOut) -> dict[str, np.ndarray]:
    """Measure -> what the removal of each point changes, `[points]`."""
    change = result.change
    return {
        "displacement_mean": change.mean_displacement,
        "displacement_largest": change.largest_displacement,
        "parameter_change": change.parameter,
        "margin_change": np.abs(change.margins).mean(1),
        "own_loss_change": np.diagonal(change.losses),
        **{f"parameter_change_{name}": values for name, values in change.parameters.items()},
    }


def censored_share(result: LeaveOneOut, window: Window) -> float:
    """Share of all displacements, `[points, places on the contour]`, that reach the limit of the search."""
    assert result.change.boundary is not None
    return float(np.mean(np.abs(result.change.boundary) >= np.float32(window.diagonal)))
