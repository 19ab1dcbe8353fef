"""Variance over seeds: the decompositions, the points between models, the curvature, and the study from end to end."""

import csv
import dataclasses
import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.variance import landscape
from experiments.variance import study as variance
from experiments.variance.options import Config, Slices, smoke
from tests.in_process import run_in_process
from unlearn_jax.errors import ArgumentError
from unlearn_jax.metrics.decomposition import brier_decomposition, cross_entropy_decomposition
from unlearn_jax.metrics.distances import barriers
from unlearn_jax.metrics.statistics import pseudo_values
from unlearn_jax.models import as_model, build
from unlearn_jax.training.landscape import combined, hessian_product, krylov, largest_eigenvalue, recalibrated, sharpness
from unlearn_jax.types import Cube, Examples, Model, Problem, Variables

RNG = np.random.default_rng(0)
LOGITS, LABELS = 2 * RNG.standard_normal((5, 7, 4)), RNG.integers(0, 4, 7)
DECOMPOSITIONS = (cross_entropy_decomposition, brier_decomposition)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def test_cross_entropy_is_bias_and_variance_about_the_geometric_mean():
    p = softmax(LOGITS)
    centre = np.prod(p, axis=0) ** (1 / len(p))
    centre /= centre.sum(-1, keepdims=True)
    own = np.arange(len(LABELS)), LABELS
    found = cross_entropy_decomposition(LOGITS, LABELS)
    np.testing.assert_allclose(found.loss, np.mean([-np.log(one[own]) for one in p], axis=0))
    np.testing.assert_allclose(found.bias, -np.log(centre[own]))
    np.testing.assert_allclose(found.variance, np.mean([kl(centre, one) for one in p], axis=0))
    np.testing.assert_allclose(found.loss, found.bias + found.variance, rtol=1e-12)


def test_brier_is_bias_and_variance_about_the_mean():
    p = softmax(LOGITS)
    found = brier_decomposition(LOGITS, LABELS)
    label = np.eye(4)[LABELS]
    np.testing.assert_allclose(found.loss, ((p - label) ** 2).sum(-1).mean(0))
    np.testing.assert_allclose(found.bias, ((p.mean(0) - label) ** 2).sum(-1))
    np.testing.assert_allclose(found.variance, p.var(axis=0).sum(-1))


@pytest.mark.parametrize("decompose", DECOMPOSITIONS)
def test_models_that_say_the_same_have_no_variance_and_the_label_does_not_change_it(decompose):
    same = decompose(np.repeat(LOGITS[:1], 3, axis=0), LABELS)
    np.testing.assert_allclose(same.variance, 0, atol=1e-15)
    np.testing.assert_allclose(same.loss, same.bias)
    assert (decompose(LOGITS, LABELS).variance > 0.01).all()
    np.testing.assert_array_equal(decompose(LOGITS, LABELS).variance, decompose(LOGITS, (LABELS + 1) % 4).variance)


def test_two_opposite_models_have_a_variance_that_is_known():
    """Probabilities (a, 1-a) and (1-a, a): the geometric mean is even, and the KL from it -log 2√(a(1-a))."""
    a = 0.9
    logit = np.log(a / (1 - a))
    found = cross_entropy_decomposition(np.array([[[logit, 0.0]], [[0.0, logit]]]), np.array([0]))
    assert found.variance == pytest.approx(-np.log(2 * np.sqrt(a * (1 - a)))) and found.bias == pytest.approx(np.log(2))


@pytest.mark.parametrize("decompose", DECOMPOSITIONS)
def test_pseudo_values_take_the_bias_of_few_members_away(decompose):
    """Over many pools of four: the plug-in variance is a quarter too small, the mean pseudo-value is right."""
    rng = np.random.default_rng(1)
    label = np.array([0])
    population = rng.standard_normal((6_000, 1, 3))
    truth = decompose(population, label).variance[0]
    pools = population.reshape(-1, 4, 1, 3)[:300]
    plain = np.array([decompose(pool, label).variance[0] for pool in pools])
    corrected = np.array([pseudo_values(lambda own: decompose(own, label).variance[0], pool).mean() for pool in pools])
    assert plain.mean() == pytest.approx(0.75 * truth, rel=0.1)
    assert corrected.mean() == pytest.approx(truth, rel=0.1)


def test_pseudo_values_of_a_mean_are_the_values():
    values = RNG.standard_normal((6, 3))
    np.testing.assert_allclose(pseudo_values(lambda own: own.mean(0), values), values)
    variance_of = pseudo_values(lambda own: own.var(axis=0), values).mean(0)
    np.testing.assert_allclose(variance_of, values.var(axis=0, ddof=1))


def test_a_barrier_is_the_rise_above_the_straight_line_between_the_ends():
    shares = np.array([0, 0.25, 0.5, 1])
    lines = np.array([[1.0, 2.0, 5.0, 3.0], [4.0, 3.0, 2.0, 0.0], [1.0, 0.2, 0.1, 1.0]])
    np.testing.assert_allclose(barriers(lines, shares), [3.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"0 to 0\.5 found, expected points that rise from 0 to 1"):
        barriers(lines[:, :3], shares[:3])
    with pytest.raises(ValueError, match="lines 0 have values that are not finite"):
        barriers(np.where(lines == 3.0, np.nan, lines)[1:], shares)


class Normalised(nn.Module):
    """Two dense layers with BatchNorm in between, which moves by a share of its own."""

    @nn.compact
    def __call__(self, images, train):
        """Logits."""
        x = nn.BatchNorm(use_running_average=not train, momentum=0.7)(nn.Dense(4)(images))
        return nn.Dense(3)(nn.relu(x))


@pytest.fixture(scope="module")
def network():
    """A network whose BatchNorm statistics are far from what its images have, and the images."""
    model = as_model(Normalised(), (("Dense_0",), ("Dense_1",)))
    images = jnp.asarray(3 + RNG.standard_normal((24, 5)), jnp.float32)
    return model, model.init(jax.random.key(0), images[:1]), images


def test_points_between_models_are_on_the_straight_line():
    one, two = (Variables({"w": np.array(w)}, {"s": np.array(s)}) for w, s in (([0.0, 2.0], 1.0), ([4.0, 0.0], 3.0)))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, two)
    point = combined(both, jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(point.params["w"], [3.0, 0.5])
    np.testing.assert_allclose(point.statistics["s"], 2.5)


def test_recalibrated_statistics_are_those_of_the_images_whatever_they_were(network):
    model, variables, images = network
    found = recalibrated(model, variables, images[None])
    by_batch, _ = model.apply(variables, images, train=True)
    before, _ = model.apply(variables, images, train=False)
    after, _ = model.apply(found, images, train=False)
    np.testing.assert_allclose(after, by_batch, atol=1e-4)
    assert np.abs(before - by_batch).max() > 0.1
    elsewhere = recalibrated(
        model, variables._replace(statistics=jax.tree.map(lambda s: 3 * s + 7, variables.statistics)), images[None]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), elsewhere, found)
    halves = [recalibrated(model, variables, half[None]).statistics for half in (images[:12], images[12:])]
    both = recalibrated(model, variables, images.reshape(2, 12, 5)).statistics
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose((a + b) / 2, c, atol=1e-5), *halves, both)
    jax.tree.map(np.testing.assert_array_equal, found.params, variables.params)


def test_between_models_statistics_are_those_of_the_retained_images(network):
    """With one batch of retained images, a point's loss on them is that in train mode, of the weights in between."""
    model, variables, images = network
    others = [model.init(jax.random.key(seed), images[:1])._replace(statistics=variables.statistics) for seed in (1, 2)]
    labels = np.arange(24) % 3
    cube = lambda values: Cube(values[:5], values, values[:7])  # noqa: E731
    study = SimpleNamespace(images=cube(images), labels=cube(labels))
    probe = landscape.Probe(Config(slices=Slices(points=3, resolution=3)), SimpleNamespace(problem=SimpleNamespace(model=model)))
    flat = [ravel_pytree(own.params)[0] for own in (variables, *others)]
    back = ravel_pytree(variables.params)[1]

    def loss(params):
        logits, _ = model.apply(variables._replace(params=back(params)), images, train=True)
        return -np.log(softmax(np.asarray(logits, float)))[np.arange(24), labels].mean()

    first, second = (jax.tree.map(lambda leaf: leaf[None], own) for own in (variables, others[0]))
    expected = [loss((1 - share) * flat[0] + share * flat[1]) for share in (0, 0.5, 1)]
    found = probe.measure_lines(study, first, second)
    np.testing.assert_allclose(found[0, :, 1], expected, atol=1e-4)
    few = landscape.Probe(Config(slices=Slices(points=3, test_size=3)), probe.setting)
    rows = np.array([0, 3, 6])
    spaced = SimpleNamespace(images=study.images._replace(test=images[rows]), labels=study.labels._replace(test=labels[rows]))
    np.testing.assert_allclose(few.measure_lines(study, first, second), probe.measure_lines(spaced, first, second), atol=1e-6)
    assert np.abs(few.measure_lines(study, first, second) - found)[..., 2].min() > 1e-3
    assert np.abs(probe.measure_lines(study, first, second, recalibrate=False)[0, :, 1] - expected).max() > 0.05
    found = probe.measure_plane(study, [variables, *others])
    one, two = flat[1] - flat[0], flat[2] - flat[0]
    across = one / jnp.linalg.norm(one)
    up = two - (two @ across) * across
    up = up / jnp.linalg.norm(up)
    expected = [[loss(flat[0] + x * across + y * up) for x in found["plane/x"]] for y in found["plane/y"]]
    np.testing.assert_allclose(found["plane/losses"][..., 1], expected, atol=1e-4)


def logistic(images, labels, classes):
    """A linear classifier of vectors, as a problem."""
    apply = lambda variables, images, train: (images @ variables.params["w"], {})  # noqa: E731
    model = Model(lambda key, images: None, apply, (("w",),))
    examples, everything = Examples(jnp.asarray(images), jnp.asarray(labels)), np.ones(len(labels), bool)
    return Problem(examples, examples, everything, ~everything, model, classes, len(labels), 0)


def test_the_hessian_of_logistic_regression_is_known():
    """(1/n) Σ x x' ⊗ (diag p - p p'), over the rows of the mask alone; its largest eigenvalue is the sharpness."""
    images, labels = RNG.standard_normal((20, 3)).astype(np.float32), RNG.integers(0, 4, 20)
    weights = RNG.standard_normal((3, 4)).astype(np.float32)
    mask = np.arange(20) % 3 != 1
    p = softmax((images @ weights).astype(float))[mask]
    exact = np.mean([np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) for x, q in zip(images[mask], p, strict=True)], axis=0)
    problem, variables = logistic(images, labels, 4), Variables({"w": weights}, {})
    rows = jnp.asarray(mask), int(mask.sum())
    product = hessian_product(problem, variables, rows, chunk=4)
    np.testing.assert_allclose(jax.jit(jax.vmap(product))(jnp.eye(12)), exact, atol=1e-5)
    steps = 15  # more than there are dimensions
    found = jax.jit(lambda own: sharpness(jax.random.key(0), problem, own, rows, steps))(variables)
    assert found.value == pytest.approx(np.linalg.eigvalsh(exact)[-1], rel=1e-4) and found.residual < 1e-3


def test_the_sharpness_of_a_small_network_is_the_largest_eigenvalue_of_its_hessian():
    model = build("mlp", classes=3, width=4)
    images, labels = jnp.asarray(RNG.standard_normal((10, 2)), jnp.float32), RNG.integers(0, 3, 10)
    problem = dataclasses.replace(logistic(images, labels, 3), model=model)
    variables = model.init(jax.random.key(1), images[:1])
    flat, restore = ravel_pytree(variables.params)

    def loss(flat):
        logits, _ = model.apply(variables._replace(params=restore(flat)), images, train=False)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(10), labels])

    exact = np.linalg.eigvalsh(np.asarray(jax.jit(jax.hessian(loss))(flat), float))
    found = jax.jit(lambda own: sharpness(jax.random.key(2), problem, own, (jnp.ones(10, bool), 10), steps=25))(variables)
    assert found.value == pytest.approx(exact[-1], rel=1e-3) and found.residual < 0.02 * exact[-1]


def test_lanczos_finds_the_largest_not_the_one_of_largest_size():
    values = np.array([-9.0, -1.0, 0.5, 2.0, 4.0], np.float32)
    turned, _ = np.linalg.qr(RNG.standard_normal((5, 5)))
    matrix = jnp.asarray(turned * values @ turned.T, jnp.float32)
    basis, images = krylov(lambda v: matrix @ v, jnp.ones(5), 5)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(images, basis @ matrix, atol=1e-4)
    assert largest_eigenvalue(lambda v: matrix @ v, jnp.ones(5), 5).value == pytest.approx(4.0, rel=1e-4)
    early = largest_eigenvalue(lambda v: matrix @ v, jnp.ones(5), 2)
    assert early.value < 3.9 and np.abs(values - early.value).min() <= early.residual


def test_spread_and_loss_coincide_where_they_do():
    rng = np.random.default_rng(3)
    size = np.linspace(0.1, 3, 200)
    margin = size * rng.standard_normal((8, 2, 200))
    alike = np.stack([margin, np.broadcast_to(size, margin.shape)], axis=2)
    unlike = np.stack([margin, np.broadcast_to(rng.random(200), margin.shape)], axis=2)
    rank, share = variance.coincidence(alike)
    none, tenth = variance.coincidence(unlike)
    assert rank > 0.8 and 15 < share < 20 and abs(none) < 0.15 and tenth == pytest.approx(10, abs=4)


def test_rank_correlation_within_methods_is_not_fooled_by_their_means():
    """Within each group sharpness falls with the loss, while the groups' means rise together."""
    inside = np.linspace(0, 1, 6)
    values = np.stack([np.stack([10 * group - inside, 10 * group + inside], axis=-1) for group in range(3)], axis=1)
    assert variance.mean_rank_correlation(values) == pytest.approx(-1)
    assert variance.rank_correlation(np.ones(4), np.arange(4.0)) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run."""
    place = tmp_path_factory.mktemp("variance")
    done = run_in_process("--exp", "variance", "--smoke", "--cache", place / "cache", "--out", place / "out")
    assert done.returncode == 0, done.stderr
    return place / "out"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_study_leaves_tables_that_add_up(folder):
    rows = {(row["part"], row["subject"], row["split"], row["measure"]): row for row in table(folder / "variance.csv")}
    groups = ("original", "oracle", "gradient_ascent", "scrub")
    for group in groups:
        for split in ("forget", "retain", "test", "retain, wrong labels"):
            for loss in ("cross-entropy", "Brier"):
                whole, bias, own = (
                    float(rows["spread", group, split, f"{loss} {part}"]["value"]) for part in ("loss", "bias", "variance")
                )
                assert whole == pytest.approx(bias + own, abs=2e-5) and own > 0
    models = table(folder / "models.csv")
    assert {row["group"] for row in models} == set(groups) and len(models) == 3 * 6 + 12
    assert all(float(row["residual_retain"]) >= 0 for row in models)
    mean = np.mean([float(row["loss_test"]) for row in models if row["group"] == "scrub"])
    assert float(rows["spread", "scrub", "test", "cross-entropy loss"]["value"]) == pytest.approx(mean, rel=1e-5)
    lines = [row for row in table(folder / "lines.csv") if row["kind"] == "original to scrub" and row["split"] == "retain"]
    assert [float(row["share"]) for row in lines] == [0, 0.5, 1]
    assert len(table(folder / "plane.csv")) == 9
    assert not any("interpolated" in kind for _, kind, _, _ in rows)  # an MLP has no statistics
    same, other = (
        float(rows["line", kind, "", "relative distance of the weights"]["value"])
        for kind in ("original to oracle, same seed", "original to oracle")
    )
    assert 0 < same < 0.5 * other
    assert json.loads((folder / "results.json").read_text())["diverged"] == {"random-0": []}
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {"decomposition", "examples", "lines", "sharpness", "plane"}


def test_the_plane_goes_through_its_three_models(folder):
    """At the places of the models themselves the grid's neighbours enclose what the models have."""
    found = np.load(folder / "measured/random-0/scrub.npz")
    x, y, places = found["plane/x"], found["plane/y"], found["plane/places"]
    assert (
        (places[:, 0] >= x[0]).all()
        and (places[:, 0] <= x[-1]).all()
        and (places[:, 1] >= y[0]).all()
        and (places[:, 1] <= y[-1]).all()
    )
    np.testing.assert_array_equal(places[0], 0)
    assert places[1, 1] == 0 and places[1, 0] > 0 and places[2, 1] > 0


def test_a_run_that_is_taken_up_measures_nothing_again(folder, monkeypatch):
    monkeypatch.setattr(variance.Probe, "measure_losses", lambda *_: pytest.fail("measured before"))
    before = (folder / "variance.csv").read_bytes()
    done = run_in_process("--exp", "variance", "--smoke", "--cache", folder.parent / "cache", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "variance.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"members": 5}, "--members"),
        ({"members": "auto"}, "--members"),
        ({"slices": Slices(lines=2)}, "--slices.lines"),
        ({"slices": Slices(lines=17)}, "--slices.lines"),
        ({"slices": Slices(plane="fisher")}, "--slices.plane"),
        ({"slices": Slices(points=2)}, "--slices.points"),
        ({"slices": Slices(test_size=0)}, "--slices.test-size"),
        ({"methods": ("scrub", "retrain")}, "--methods"),
        ({"methods": ("scrub", "sisa")}, "--methods"),
    ],
)
def test_a_mistake_names_its_option(changed, option):
    with pytest.raises(ArgumentError) as raised:
        dataclasses.replace(Config(), **changed).check()
    assert raised.value.argument == option


def test_groups_of_methods_leave_out_what_has_no_place_in_between():
    names = dataclasses.replace(Config(), methods=("all",)).method_names()
    assert {"scrub", "ssd"} <= set(names) and not {"original", "retrain", "sisa"} & set(names)
    assert smoke(Config()).method_names() == ["gradient_ascent", "scrub"]
