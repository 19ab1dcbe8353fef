"""Every estimator of influence against exact leave-one-out on a toy, in several settings, with cost, null and ceiling."""

import dataclasses
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.estimators import report, truth
from experiments.estimators.options import Config
from unlearn_jax import influence
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.resume import load_or_make
from unlearn_jax.bench.setting import deciding_options
from unlearn_jax.data import Toy
from unlearn_jax.data.splits import generator, random_halves
from unlearn_jax.influence import Training
from unlearn_jax.influence.curvature import Inverse
from unlearn_jax.influence.projected import Projection
from unlearn_jax.influence.response import losses
from unlearn_jax.metrics import attribution
from unlearn_jax.models import build
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.compiling import compile_all
from unlearn_jax.training.cost import flops
from unlearn_jax.types import Examples, Recipe, Variables

DENSE = 1_500  # parameters up to which the Hessian is decomposed whole
STRETCHES = 3  # of the training, for SOURCE
ORDERS = 64  # of all points, for Data Shapley
HELD_OUT = 0.25  # share of the subsets that no datamodel is fitted to


class Path(NamedTuple):
    """The path of a training run, for estimators that use more than the final model."""

    final: Variables
    checkpoints: Variables  # before each segment
    learning_rates: np.ndarray  # of each segment: the sum over its steps, with momentum


Estimator = Callable[[Training, Path, Examples], jax.Array]


def run(config: Config, folder: Run) -> None:
    """Studies all settings; those kept by an earlier run are read.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    studies = []
    for setting in config.setting_names():
        varied = config.with_setting(setting)
        arrays = load_or_make(folder, f"settings/{setting}.npz", deciding_options(varied), partial(run_setting, varied, setting))
        studies.append(measure(config, setting, arrays))
        if truth.is_complete(arrays):
            folder.write_npz(f"truth/{setting}.npz", truth.pack(varied, setting, arrays))
    folder.write_csv("estimators.csv", *report.table(studies))
    folder.write_json("results.json", {"settings": studies})
    folder.write_text("summary.md", report.summary(studies))
    save(report.agreement(studies), folder, "agreement")
    save(report.screening_curves(studies), folder, "screening")
    save(report.smoothness(studies), folder, "smoothness")
    print(report.conclusion(studies))


def run_setting(config: Config, setting: str) -> dict[str, np.ndarray]:
    """Runs all training and all estimators of a setting. Returns the arrays that `measure` reads."""
    with working(setting) as update:
        return train_and_estimate(config, update)


def train_and_estimate(config: Config, update: Callable[[float, str], None]) -> dict[str, np.ndarray]:
    """The same, with a function to report progress."""
    toy, unseen = truth.draw(config)
    runs = [prepare_training(config, toy, config.seed + number) for number in range(2)]
    with jax.enable_x64(config.precision == "float64"):
        original, other = (cast(training, config.precision) for training in runs)
        targets = cast(Examples(jnp.asarray(unseen.images), jnp.asarray(unseen.labels)), config.precision)
        exact = influence.leave_one_out(original, targets=targets, strategy=config.strategy, chunk=config.chunk)
        start = time.perf_counter()
        again = leave_one_out_reordered(config, original, targets)
        seconds = time.perf_counter() - start  # the program is compiled by now
        update(0.3, "another seed")
        arrays = {
            "exact": exact.change.margins,
            "reordered": again,
            "other_seed": influence.leave_one_out(other, targets=targets, strategy=config.strategy).change.margins,
            "exact_seconds": np.array(seconds),
        }
        update(0.5, "pool")
        masks = random_halves(config.train_size, config.subsets, generator("subsets of estimators", config.seed))
        pool = influence.retrained(original, masks.astype(np.float32), config.strategy, config.chunk)
        changed = influence.changes(original, exact.original, pool, targets)
        changes = changed.margins
        own_losses = changed.losses + np.asarray(losses(original.model, exact.original, original.examples))[None]
        fitted = round((1 - HELD_OUT) * len(masks))
        arrays |= {"removed": ~masks[fitted:], "subset_changes": changes[fitted:]}
        arrays |= truth.pack_weights(original.initial, exact.original)
        update(0.6, "estimators")
        # Work is counted for automatic differentiation.
        plain = dataclasses.replace(original, model=original.model._replace(gradient=None))
        unit = flops(influence.train, plain, jnp.ones(config.train_size))
        path = train_with_checkpoints(config, original)
        programs = {name: jax.jit(estimator) for name, estimator in estimators(config, path).items()}
        compiled = compile_all([program.lower(plain, path, targets) for program in programs.values()])
        for (name, program), ready in zip(programs.items(), compiled, strict=True):
            start = time.perf_counter()
            estimate = np.asarray(ready(plain, path, targets))
            took = time.perf_counter() - start
            arrays |= pack_estimate(name, estimate, *cost(program, plain, path, targets, unit), took)
        for name, function in FROM_SUBSETS.items():
            start = time.perf_counter()
            estimate = function(masks[:fitted], changes[:fitted], own_losses[:fitted])
            took = time.perf_counter() - start + seconds * fitted / config.train_size
            arrays |= pack_estimate(name, estimate, float(fitted), 0.0, took)
        start = time.perf_counter()
        estimate, products = data_shapley(config, original, path, targets)
        arrays |= pack_estimate("data_shapley", estimate, products / unit, 0.0, time.perf_counter() - start)
        update(0.9, "smoothness")
        rows = generator("directions", config.seed).permutation(config.train_size)[: config.directions]
        smoothness = influence.metasmoothness(original, -np.eye(config.train_size)[rows], 0.5, config.strategy)
        update(1.0, f"{config.train_size} points left out in {seconds:.1f} s")
        return arrays | {"smoothness": smoothness}


def measure(config: Config, setting: str, arrays: dict[str, np.ndarray]) -> report.Results:
    """The agreement of each estimate with exact leave-one-out in a setting, and its cost."""
    points, targets = arrays["exact"].shape
    estimates = {name: arrays[name] for name in ("exact", report.NULL, report.CEILING)}
    costs = dict.fromkeys(estimates, np.array([points, 0.0, arrays["exact_seconds"]]))
    for key in arrays:
        kind, _, name = key.partition("/")
        if kind == "estimate":
            estimates[name], costs[name] = arrays[key], arrays[f"cost/{name}"]
    ruined = [name for name, estimate in estimates.items() if not np.isfinite(estimate).all()]
    truth = [name for name in ("exact", report.NULL, report.CEILING) if name in ruined]
    accepted = f"{', '.join(truth)} of {setting} not finite; expected a smaller number"
    require(not truth, "--train.learning-rate", config.train.learning_rate, accepted)
    for name in ruined:
        print(f"{name}: not finite, left out of {setting}")
        del estimates[name]
    recall = partial(attribution.top_recall, k=config.top)
    over_points: dict[str, Callable[..., Any]] = {
        "pearson": attribution.pearson,
        "spearman": attribution.spearman,
        "recall": recall,
    }
    entries = {}
    for name, estimate in estimates.items():
        intervals = {kind: attribution.interval(measure, estimate, arrays["exact"]) for kind, measure in over_points.items()}
        lds = partial(attribution.linear_datamodelling_score, estimate)
        intervals["lds"] = attribution.interval(lds, arrays["removed"], arrays["subset_changes"])
        screened = attribution.screening(estimate, arrays["exact"], config.top)
        once, per_target, seconds = costs[name].tolist()
        entries[name] = report.Entry(intervals, once, per_target, seconds, screened)
    return report.Results(setting, points, targets, config.top, entries, arrays["smoothness"])


def prepare_training(config: Config, toy: Toy, seed: int) -> Training:
    """The training run of a seed, in float32."""
    recipe = Recipe(**dataclasses.asdict(config.train))
    model = build("mlp", classes=len(toy.centres), width=config.width)
    drawn = influence.training(jax.random.key(seed), model, Examples(*(jnp.asarray(part) for part in toy.train)), recipe)
    return dataclasses.replace(drawn, transform=differentiable_adam(recipe)) if recipe.optimiser == "adam" else drawn


@cache
def differentiable_adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam with a square root that is differentiable at 0."""
    return optax.adamw(recipe.learning_rate, eps_root=1e-16, weight_decay=recipe.weight_decay)


def cast(tree: Any, precision: str) -> Any:
    """A tree with its floating-point leaves in another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(precision) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def leave_one_out_reordered(config: Config, original: Training, targets: Examples) -> np.ndarray:
    """Exact leave-one-out with its sums in another order, `[points, targets]` in the order of the points."""
    count = len(original.examples.labels)
    order = generator("reorderings", config.seed).permutation(count if original.batches is None else original.batches.shape[1])
    run = influence.reordered(original, order)
    places = np.argsort(order) if original.batches is None else None  # full-batch training reorders the points
    return influence.leave_one_out(run, places, targets=targets, strategy=config.strategy, chunk=config.chunk).change.margins


def train_with_checkpoints(config: Config, original: Training) -> Path:
    """Trains the original again, keeping checkpoints."""
    length = original.steps // config.checkpoints
    final, checkpoints = jax.jit(influence.train_in_segments, static_argnums=2)(original, jnp.ones(config.train_size), length)
    rate = config.train.learning_rate * length
    if config.train.optimiser == "sgd":
        rate /= 1 - config.train.momentum
    return Path(final, checkpoints, np.full(config.checkpoints, rate))


def estimators(config: Config, path: Path) -> dict[str, Estimator]:
    """The estimators that need no further training, by name."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(path.final.params))
    keys = jax.random.split(jax.random.key(config.seed), 3)
    kronecker_key, sparse_key, trackstar_key = jax.random.split(jax.random.key(config.seed + 1), 3)

    def influence_function(inverse: Inverse, relative: bool = False) -> Estimator:
        return lambda run, path, targets: influence.influence_functions(run, path.final, targets, inverse, relative)

    def projected(projection: Projection) -> Estimator:
        return lambda run, path, targets: influence.projected_influence(run, path.final, targets, projection, config.damping)

    by_name: dict[str, Estimator] = {
        "grad_dot": lambda run, path, targets: influence.grad_dot(run, path.final, targets),
        "grad_cos": lambda run, path, targets: influence.grad_cos(run, path.final, targets),
        "tracin": lambda run, path, targets: influence.tracin(run, path.checkpoints, path.learning_rates, targets),
        "trak": lambda run, path, targets: influence.trak(
            run, jax.tree.map(lambda leaf: leaf[None], path.final), targets, keys[0]
        ),
        "data_inf": influence_function(influence.data_inf(config.damping)),
        "ek_fac": influence_function(influence.ek_fac(config.damping)),
        "lissa": influence_function(influence.lissa(config.damping, keys[1])),
        "conjugate_gradients": influence_function(influence.conjugate_gradients(config.damping)),
        "woodbury": influence_function(influence.woodbury(config.damping)),
        "relatif": influence_function(influence.woodbury(config.damping), relative=True),
        "arnoldi": influence_function(influence.arnoldi(config.damping, keys[2])),
        "logra": projected(influence.kronecker(kronecker_key)),
        "grass": projected(influence.sparse(sparse_key)),
        "trackstar": lambda run, path, targets: influence.trackstar(run, path.final, targets, influence.kronecker(trackstar_key)),
        "representer": lambda run, path, targets: influence.representer_points(run, path.final, targets, config.damping),
        "knn_shapley": knn_shapley,
        "source": lambda run, path, targets: influence.source(run, *path, targets, STRETCHES, config.train.weight_decay),
        "unrolled": lambda run, path, targets: influence.unrolled(run, targets),
    }
    if parameters <= DENSE:
        by_name["eigendecomposition"] = influence_function(influence.eigendecomposition(config.damping))
    return by_name


def cost(program: Estimator, plain: Training, path: Path, targets: Examples, unit: float) -> tuple[float, float]:
    """The cost of an estimator's matrix products in trainings: before the first target, and for each target."""
    count = len(targets.labels)
    first = jax.tree.map(lambda leaf: leaf[:1], targets)
    one, all_ = (flops(program, plain, path, part) / unit for part in (first, targets))
    per_target = (all_ - one) / (count - 1)
    return one - per_target, per_target


def pack_estimate(name: str, values: np.ndarray, once: float, per_target: float, seconds: float) -> dict[str, np.ndarray]:
    """An estimate and its cost, as named arrays for the run folder."""
    return {f"estimate/{name}": values, f"cost/{name}": np.array([once, per_target, seconds])}


def knn_shapley(run: Training, path: Path, targets: Examples) -> jax.Array:
    """Minus the Shapley values for a vote of the nearest neighbours, in the space of the last layer, `[points, targets]`."""
    own, wanted = (influence.head_inputs(run.model, path.final, examples) for examples in (run.examples, targets))
    return -influence.knn_shapley(own, run.examples.labels, wanted, targets.labels)


def data_shapley(config: Config, run: Training, path: Path, targets: Examples) -> tuple[np.ndarray, float]:
    """Minus the Shapley values for the margins of a ridge regression on the last layer's inputs, and what its products cost.

    The network itself would have to be trained once for each point of each order.
    """
    parts = (run.examples, targets)
    own, wanted = (Examples(influence.head_inputs(run.model, path.final, part), part.labels) for part in parts)
    utility = influence.ridge_margins(own, wanted, config.damping * config.train_size)
    rng = generator("orders of Data Shapley", config.seed)
    orders = rng.permuted(np.tile(np.arange(config.train_size), (ORDERS, 1)), axis=1)
    products = 2.0 * orders.size * config.train_size * own.images.shape[1] ** 2
    return -influence.data_shapley(utility, orders), products


def datamodels(masks: np.ndarray, changes: np.ndarray, own_losses: np.ndarray) -> np.ndarray:
    """Leave-one-out predicted by linear models fitted to the subsets, `[points, targets]`."""
    return -influence.datamodels(masks, changes).weights


def subset_influence(masks: np.ndarray, changes: np.ndarray, own_losses: np.ndarray) -> np.ndarray:
    """Leave-one-out predicted by the difference of means of models with and without each point, `[points, targets]`."""
    return -influence.subset_influence(masks, changes).score


def data_oob(masks: np.ndarray, changes: np.ndarray, own_losses: np.ndarray) -> np.ndarray:
    """Minus the share of models without a point that are right about it, the same for all targets, `[points, targets]`."""
    right = own_losses < np.log(2)  # the label has more than half of the probability
    return np.repeat(-influence.data_oob(masks, right)[:, None], changes.shape[1], axis=1)


FROM_SUBSETS = {"subset_influence": subset_influence, "datamodels": datamodels, "data_oob": data_oob}
"""Estimators that read a pool: which models trained on what, the targets' margins, the training examples' losses."""
