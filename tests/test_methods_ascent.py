"""What the methods of ascent and those of output statistics are: restated in NumPy, or in plain loops over the same batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from test_methods import (
    ALL,
    CLASSES,
    EXAMPLES,
    FORGET,
    KEY,
    average,
    backward,
    close,
    gradient,
    importance,
    linear,
    logits,
    mlp,
    normalised,
    problem,
    same,
    start,
    unlearn,
)

from unlearn_jax.methods import METHODS, descend
from unlearn_jax.methods.pieces import other_labels
from unlearn_jax.training.objectives import Batch, Term, cross_entropy, predictive_entropy, weighted
from unlearn_jax.types import Variables

zeros = functools.partial(jax.tree.map, np.zeros_like)
double = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float64))


def losses(on, variables, source, train=False):
    rows = np.asarray(on.rows(source)[0])
    scores, _ = on.model.apply(variables, on.train.images[rows], train=train)
    return optax.softmax_cross_entropy_with_integer_labels(scores, on.train.labels[rows])


def planned(on, *sources, **given):
    """The batches that a method draws which reads these sources."""
    objective = weighted(*(Term(source, cross_entropy) for source in sources))
    return jax.jit(descend(objective, optax.sgd(0.0), **given).plan)(KEY, on)


# One batch for several sources


def joint(on, params, statistics, sources):
    """The cross-entropy of each source's examples, all sources in one batch, in training mode."""
    forget = np.asarray(on.forget)
    masks = {"forget": forget, "retain": np.asarray(on.kept) & ~forget}
    rows = [np.flatnonzero(masks[source]) for source in sources]
    both = np.concatenate(rows)
    scores, moved = on.model.apply(Variables(params, statistics), on.train.images[both], train=True)
    each = optax.softmax_cross_entropy_with_integer_labels(scores, on.train.labels[both])
    return jnp.split(each, np.cumsum([len(own) for own in rows])[:-1]), scores, moved


def test_together_means_that_batch_norm_sees_one_batch():
    on, variables = problem(normalised()), start(normalised())
    terms = Term("retain", cross_entropy, 0.7), Term("forget", cross_entropy, -0.4)
    rows = {source: np.flatnonzero(on.rows(source)[0]) for source in ("retain", "forget")}
    batches = {source: Batch(on.train.images[own], on.train.labels[own], own, KEY) for source, own in rows.items()}
    forward = functools.partial(on.model.apply, train=True)

    @jax.jit
    def both(variables):
        objectives = (weighted(*terms, together=together) for together in (True, False))
        return [objective.value(forward, variables, batches, jnp.zeros([])) for objective in objectives]

    one, two = both(variables)
    (retain, forget), _, moved = jax.jit(lambda variables: joint(on, *variables, ("retain", "forget")))(variables)
    np.testing.assert_allclose(one[0], 0.7 * retain.mean() - 0.4 * forget.mean(), rtol=1e-4)
    close(one[1], moved)
    assert abs(one[0] - two[0]) > 1e-3 and not same(one[1], two[1])


# Ascent


def test_adv_neggrad_takes_one_step_on_the_joint_batch():
    on, variables = problem(normalised()), start(normalised())
    given = {"learning_rate": 0.1, "weight_decay": 0.02, "epochs": 1, "batch_size": ALL}

    def objective(params):
        (retain, forget), _, moved = joint(on, params, variables.statistics, ("retain", "forget"))
        return retain.mean() - forget.mean(), moved

    slope, moved = jax.jit(jax.grad(objective, has_aux=True))(variables.params)
    step = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.02 * p), variables.params, slope)
    close(unlearn("adv_neggrad", on, variables, **given), Variables(step, moved))


@pytest.mark.parametrize("mask_retain", [True, False])
def test_sfron_is_its_papers_loop_under_a_fixed_mask(mask_retain):
    """Three steps on R, with one on F before the first and the third; batches are whole sources."""
    on, variables = problem(mlp()), start(mlp())
    given = {"strength": 9.0, "adaptivity": 0.7, "threshold": 1.1, "max_norm": 0.8, "learning_rate": 0.2, "weight_decay": 0.05}
    params = double(variables.params)
    of_forget, of_retain = (importance(on, params, source) for source in ("forget", "retain"))
    mask = jax.tree.map(lambda f, r: f + 1e-15 >= 1.1 * (r + 1e-15), of_forget, of_retain)
    velocity, program = zeros(params), [0, 1, 1, 0, 1]
    moving = mask if mask_retain else jax.tree.map(np.ones_like, mask)
    for done, choice in zip([0, 0, 1, 2, 2], program, strict=True):  # the clock is that of the steps on R
        cosine = (1 + np.cos(np.pi * done / 3)) / 2
        if choice == 0:
            rows = np.flatnonzero(on.forget)
            pairs = [backward(params, on.train.images[row], int(on.train.labels[row])) for row in rows]
            own = np.array([-np.log(p[int(on.train.labels[row])]) for (_, p), row in zip(pairs, rows, strict=True)])
            share = own**-0.7 / np.sum(own**-0.7)
            g = jax.tree.map(lambda leaf, scale=-9.0 * cosine: scale * leaf, average([grads for grads, _ in pairs], share))
        else:
            g = gradient(on, params, "retain")
        g = jax.tree.map(np.multiply, g, mask if choice == 0 else moving)
        if choice == 0:
            too_long = max(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(g))) / 0.8, 1.0)
            g = jax.tree.map(lambda leaf, by=too_long: leaf / by, g)
        velocity = jax.tree.map(lambda v, g, p, m: m * (0.9 * v + g + 0.05 * p), velocity, g, params, moving)
        params = jax.tree.map(lambda p, v, rate=0.2 * cosine: p - rate * v, params, velocity)
    given |= {"forget_every": 2, "mask_retain": mask_retain, "epochs": 3, "batch_size": ALL}
    found = unlearn("sfron", on, variables, **given).params
    close(found, params, rtol=1e-3, atol=1e-5)
    unchanged = jax.tree.map(lambda old, new: np.asarray(old == new), variables.params, found)
    assert same(unchanged, jax.tree.map(np.logical_not, moving))  # bit for bit, and no weight besides
    assert 5 < sum(leaf.sum() for leaf in jax.tree.leaves(mask)) < 40


def test_mu_mis_descends_on_the_gap_between_two_sensitivities():
    """By the whole Jacobian of each image here; BatchNorm normalises by its running statistics, which stay."""
    on, variables = problem(normalised()), start(normalised())
    found = unlearn("mu_mis", on, variables, learning_rate=0.1, epochs=1, batch_size=ALL)
    plan = planned(on, "forget", steps=1, batch_size=ALL)
    rows, own = plan.rows["forget"][0], on.train.labels[plan.rows["forget"][0]]
    other = other_labels(jax.random.fold_in(plan.keys[0], 1), own, CLASSES)

    def gap(params):
        jacobian = jax.vmap(jax.jacrev(lambda image: on.model.apply(variables._replace(params=params), image[None])[0][0]))
        norms = jnp.sum(jacobian(on.train.images[rows]).reshape(FORGET, CLASSES, -1) ** 2, axis=-1)
        return jnp.mean(norms[jnp.arange(FORGET), own] - norms[jnp.arange(FORGET), other])

    slope = jax.jit(jax.grad(gap))(variables.params)
    close(found.params, jax.tree.map(lambda p, g: p - 0.1 * g, variables.params, slope), rtol=5e-4, atol=1e-5)
    assert same(found.statistics, variables.statistics) and not same(found.params["hidden"], variables.params["hidden"])


@functools.cache
def tuned():
    """Fine-tuned on F alone for four steps, in eval mode, as a function of the key and the learning rate."""
    on, variables = problem(normalised()), start(normalised())

    def tune(key, rate):
        objective, transform = weighted(Term("forget", cross_entropy)), optax.sgd(rate, 0.9)
        return descend(objective, transform, steps=4, statistics="freeze")(key, on, variables).params

    return jax.jit(tune)


def test_neg_merge_of_one_copy_is_the_negated_task_vector():
    on, variables = problem(normalised()), start(normalised())
    found = unlearn("neg_merge", on, variables, copies=1, scale=1.7, learning_rate=0.1, epochs=4)
    params = tuned()(jax.random.split(KEY, 1)[0], 0.1)
    close(found.params, jax.tree.map(lambda old, new: old - 1.7 * (new - old), variables.params, params), atol=1e-5)
    assert same(found.statistics, variables.statistics)


def test_neg_merge_steps_back_where_all_copies_agree_in_sign_and_nowhere_else():
    on, variables = problem(normalised()), start(normalised())
    given = {"scale": 0.8, "learning_rate": 0.3, "spread": 8.0, "epochs": 4}
    found = double(unlearn("neg_merge", on, variables, copies=3, **given).params)
    copies = [double(tuned()(key, rate)) for key, rate in zip(jax.random.split(KEY, 3), (0.3 / 8, 0.3, 0.3 * 8), strict=True)]
    agreed = 0
    for layer, leaves in double(variables.params).items():
        for name, old in leaves.items():
            for index in np.ndindex(old.shape):
                moves = np.array([copy[layer][name][index] - old[index] for copy in copies])
                new = found[layer][name][index]
                if (moves > 0).all() or (moves < 0).all():
                    np.testing.assert_allclose(new, old[index] - 0.8 * moves.mean(), rtol=2e-3, atol=1e-4)
                    agreed += 1
                else:
                    assert new == old[index]
    assert 10 < agreed < sum(leaf.size for leaf in jax.tree.leaves(found)) - 3


# Output statistics


def shannon_entropy(scores):
    return predictive_entropy(scores, Batch(scores, jnp.zeros(len(scores), int), jnp.zeros(len(scores), int), KEY))


def test_the_entropy_is_shannons():
    scores = np.random.default_rng(0).normal(size=(7, CLASSES)).astype(np.float32) * 4
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(shannon_entropy(jnp.asarray(scores)), scipy.stats.entropy(p, axis=-1), rtol=1e-4, atol=1e-6)


def entropy_slopes(p, labels):
    """The gradients of -log p_y and of the entropy in the logits."""
    shannon = -(p * np.log(p)).sum(-1, keepdims=True)
    return p - np.eye(CLASSES)[labels], -p * (np.log(p) + shannon)


@pytest.mark.parametrize("maximise", [False, True])
def test_entropy_climbs_the_forget_loss_and_moves_the_entropy(maximise):
    on, variables = problem(linear()), start(linear())
    found = unlearn("entropy", on, variables, entropy_weight=0.6, learning_rate=0.3, maximise=maximise, epochs=1).params["head"]
    rows = np.flatnonzero(on.forget)
    x = np.asarray(on.train.images, np.float64)[rows].reshape(FORGET, -1)
    p = np.asarray(jax.nn.softmax(logits(on, variables, "forget")), np.float64)
    ce, shannon = entropy_slopes(p, np.asarray(on.train.labels)[rows])
    error = (-ce + (-0.6 if maximise else 0.6) * shannon) / FORGET
    np.testing.assert_allclose(found["kernel"], variables.params["head"]["kernel"] - 0.3 * (x.T @ error), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["bias"], variables.params["head"]["bias"] - 0.3 * error.sum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_entropy_with_the_retain_set_weighs_three_terms_on_a_joint_batch(sign):
    """Of either sign: a negative weight turns its term around."""
    on, variables = problem(normalised()), start(normalised())
    weights = {"forget_weight": sign * 0.3, "entropy_weight": sign * 0.7, "retain_weight": 0.6}

    def objective(params):
        (retain, forget), scores, _ = joint(on, params, variables.statistics, ("retain", "forget"))
        p = jax.nn.softmax(scores[len(retain) :])
        return 0.6 * retain.mean() - sign * 0.3 * forget.mean() - sign * 0.7 * jnp.mean(jnp.sum(p * jnp.log(p), axis=-1))

    step = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.02 * p), variables.params, jax.jit(jax.grad(objective))(variables.params))
    method = METHODS["entropy_with_retain"].make(**weights, learning_rate=0.1, weight_decay=0.02, batch_size=ALL, epochs=1)
    close(jax.jit(method)(KEY, on, variables).params, step)


def test_variance_matching_pulls_the_forget_losses_alone_to_mean_and_spread():
    """The held-out draw is that of the step's key; whole batches of F and R."""
    on, variables = problem(linear()), start(linear())
    given = {"mean_weight": 0.8, "spread_weight": 1.7, "learning_rate": 0.05, "weight_decay": 0.02}
    found = unlearn("variance_matching", on, variables, epochs=1, batch_size=28, **given).params
    plan = planned(on, "retain", "forget", steps=1, batch_size=28)
    rows = np.asarray(jax.random.randint(jax.random.fold_in(plan.keys[0], 1), (28,), 0, EXAMPLES))
    scores = on.model.apply(variables, on.held_out.images[rows])[0]
    unseen = np.asarray(optax.softmax_cross_entropy_with_integer_labels(scores, on.held_out.labels[rows]), np.float64)

    own = np.asarray(losses(on, variables, "forget"), np.float64)
    forget = np.flatnonzero(on.forget)
    # d mean / d loss_i = 1 / n, d sd / d loss_i = (loss_i - mean) / (n sd)
    pull = 2 * 0.8 * (own.mean() - unseen.mean()) + 2 * 1.7 * (own.std() - unseen.std()) * (own - own.mean()) / own.std()
    each = [backward(variables.params, on.train.images[row], int(on.train.labels[row]))[0] for row in forget]
    slope = jax.tree.map(np.add, gradient(on, variables.params, "retain"), average(each, pull / FORGET))
    close(found, jax.tree.map(lambda p, g: p - 0.05 * (g + 0.02 * p), variables.params, slope))


def test_other_labels_are_others():
    labels = jnp.asarray(np.tile(np.arange(CLASSES), 200))
    drawn = other_labels(KEY, labels, CLASSES)
    assert (drawn != labels).all() and set(np.unique(drawn)) == set(range(CLASSES))
