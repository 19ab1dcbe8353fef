"""What critics see and learn, and that a model fools them by what it says of the forget set, not by anything else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, logsumexp
from scipy.stats import kstest
from test_methods import KEY, close, linear, loss, problem, start, unlearn

from unlearn_jax.methods import METHODS, descend
from unlearn_jax.methods.adversarial import fooled_and_kept
from unlearn_jax.models import build
from unlearn_jax.training.critics import LEAST_SPREAD, characteristics, contest, disjoint_rows, fresh_critics, suspicion
from unlearn_jax.training.objectives import Batch, Term, cross_entropy, weighted
from unlearn_jax.types import Examples, Problem

CLASSES, FORGET, RETAIN, UNSEEN = 4, 40, 60, 80


def softplus(x):
    return np.logaddexp(0.0, np.asarray(x, np.float64))


# What a critic sees


def test_a_critic_sees_ranked_log_probabilities_loss_and_margin():
    rng = np.random.default_rng(0)
    logits, labels = (3 * rng.normal(size=(5, 3))).astype(np.float32), rng.integers(0, 3, 5).astype(np.int32)
    logits[0] = (60.0, 0.0, -60.0)  # as sure as float32 gets
    seen = characteristics(jnp.asarray(logits), Batch(jnp.zeros((5, 1)), jnp.asarray(labels), jnp.arange(5), KEY))
    for row, z, y in zip(np.asarray(seen), logits.astype(np.float64), labels, strict=True):
        log_p = log_softmax(z)
        margin = z[y] - logsumexp(np.delete(z, y))
        np.testing.assert_allclose(row, [*sorted(log_p, reverse=True), -log_p[y], margin], rtol=1e-5, atol=1e-5)


def test_critics_are_dealt_disjoint_rows():
    rows = np.asarray(disjoint_rows(KEY, 11, 2))
    assert rows.shape == (2, 5) and len(set(rows.ravel())) == 10 and set(rows.ravel()) <= set(range(11))
    assert not np.array_equal(rows, disjoint_rows(jax.random.key(1), 11, 2))
    assert sorted(np.asarray(disjoint_rows(KEY, 11, 1))[0]) == list(range(11))


# The game


def test_the_two_losses_are_those_of_the_docstring_and_each_moves_its_own_side():
    rng = np.random.default_rng(1)
    suspects = jnp.asarray(rng.normal(size=(6, 3)).astype(np.float32))
    innocents = jnp.asarray(rng.normal(1.0, 2.0, size=(2, 5, 3)).astype(np.float32))
    critics = fresh_critics(KEY, 2, 3)
    told, fooled = contest(critics, suspects, innocents)
    a, b = np.asarray(suspects, np.float64), np.asarray(innocents, np.float64)
    centre, spread = b.mean((0, 1)), b.std((0, 1)) + LEAST_SPREAD

    def odds(critic, x):
        hidden = np.maximum((x - centre) / spread @ critic["hidden"]["kernel"] + critic["hidden"]["bias"], 0)
        return hidden @ critic["out"]["kernel"] + critic["out"]["bias"]

    each = [jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k], np.float64), critics) for k in range(2)]
    of_suspects = np.array([odds(critic, a) for critic in each])
    of_innocents = np.array([odds(critic, x) for critic, x in zip(each, b, strict=True)])
    np.testing.assert_allclose(told, softplus(-of_suspects).mean() + softplus(of_innocents).mean(), rtol=1e-5)
    np.testing.assert_allclose(fooled, softplus(of_suspects).mean(), rtol=1e-5)

    slopes = jax.jacobian(lambda *inputs: contest(*inputs), argnums=(0, 1, 2))(critics, suspects, innocents)
    moves = [[any(jnp.any(leaf) for leaf in jax.tree.leaves(part)) for part in one] for one in slopes]
    assert moves == [[True, False, False], [False, True, False]]


def test_a_critic_learns_the_log_likelihood_ratio():
    """Suspects of N(1, 1) and innocents of N(-1, 1): log-odds 2x, so equal chances at 0 and nothing else to be known."""
    critics = fresh_critics(KEY, 1, 1)
    draws = jax.random.normal(jax.random.key(1), (2, 4000, 1)) + jnp.array([1.0, -1.0])[:, None, None]
    chain = optax.adam(0.01)

    def step(carry, _):
        critics, state = carry
        slopes = jax.grad(lambda own: contest(own, draws[0], draws[1:])[0])(critics)
        updates, state = chain.update(slopes, state)
        return (optax.apply_updates(critics, updates), state), None

    (learned, _), _ = jax.jit(lambda: jax.lax.scan(step, (critics, chain.init(critics)), None, 300))()
    spread = draws[1].std() + LEAST_SPREAD
    x = np.linspace(-1.5, 1.5, 7, dtype=np.float32)
    seen = (x - draws[1].mean()) / spread
    found = suspicion(jax.tree.map(lambda leaf: leaf[0], learned), seen[:, None])
    np.testing.assert_allclose(found, 2 * x, atol=0.4)


def test_the_objective_is_restated_by_hand():
    """Two critics with one held-out row each, so that nothing is left to the draw; full batches of a linear model."""
    on, variables = problem(linear()), start(linear())
    rng = np.random.default_rng(2)
    images = jnp.asarray(rng.normal(size=(4, 2, 3, 1)).astype(np.float32))
    on = on.replace(held_out=Examples(images, jnp.array([0, 2, 1, 1], jnp.int32)))
    objective, critics = fooled_and_kept(on, jnp.array([[3], [1]]), 0.7, 8), fresh_critics(KEY, 2, 5)
    parts = {source: np.flatnonzero(on.rows(source)[0]) for source in ("retain", "forget")}
    batches = {name: Batch(*(leaf[rows] for leaf in on.train), jnp.asarray(rows), KEY) for name, rows in parts.items()}
    forward = functools.partial(on.model.apply, train=True)
    joint = variables._replace(params={"model": variables.params, "critics": critics})
    value, _ = jax.jit(lambda joint, batches: objective.value(forward, joint, batches, 0.0))(joint, batches)

    def seen(examples):
        logits, _ = on.model.apply(variables, examples.images)
        return characteristics(logits, Batch(examples.images, examples.labels, examples.labels, KEY))

    innocents = jnp.stack([seen(Examples(images[row][None], on.held_out.labels[row][None])) for row in (3, 1)])
    told, fooled = contest(critics, seen(batches["forget"]), innocents)
    np.testing.assert_allclose(value, loss(on, variables, "retain") + 0.7 * fooled + told, rtol=1e-5)


# What becomes of the model


@functools.cache
def memorised():
    """Labels without reason, so that only what was trained on is known, and a model that knows it."""
    rng = np.random.default_rng(3)
    size = FORGET + RETAIN
    images = rng.normal(size=(size + UNSEEN, 4, 4, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, size + UNSEEN).astype(np.int32)
    forget = np.arange(size) < FORGET
    on = Problem(
        train=Examples(jnp.asarray(images[:size]), jnp.asarray(labels[:size])),
        held_out=Examples(jnp.asarray(images[size:]), jnp.asarray(labels[size:])),
        kept=jnp.ones(size, bool),
        forget=jnp.asarray(forget),
        model=build("mlp", classes=CLASSES, width=48),
        classes=CLASSES,
        kept_count=size,
        forget_count=FORGET,
    )
    learn = descend(weighted(Term("kept", cross_entropy)), optax.adam(0.01), steps=120)
    fresh = on.model.init(KEY, on.train.images[:1])
    return on, jax.jit(lambda on, fresh: learn(KEY, on, fresh))(on, fresh)


def losses(on, variables, examples):
    logits = np.asarray(on.model.apply(variables, examples.images)[0], np.float64)
    return -log_softmax(logits, axis=-1)[np.arange(len(logits)), np.asarray(examples.labels)]


@functools.cache
def playing(name):
    """A method on that problem, as a compiled function of the numbers that the tests change."""
    on, variables = memorised()

    @jax.jit
    def play(fooling, critic_rate):
        given = {"learning_rate": 0.05, "weight_decay": 0.01, "epochs": 60, "batch_size": 20}
        return METHODS[name].make(fooling=fooling, critic_rate=critic_rate, **given)(KEY, on, variables)

    return play


@pytest.mark.parametrize("name", ["adversarial", "gan"])
def test_fooled_critics_leave_the_forget_set_like_unseen_data_and_the_retain_set_known(name):
    on, variables = memorised()
    forget = Examples(on.train.images[:FORGET], on.train.labels[:FORGET])

    def exposed(variables):
        """The chance that a forget example has a smaller loss than an unseen one."""
        return float(np.mean(losses(on, variables, forget)[:, None] < losses(on, variables, on.held_out)[None]))

    idle, fooling = (playing(name)(weight, 0.02) for weight in (0.0, 1.0))
    assert exposed(variables) > 0.95 and exposed(idle) > 0.7 and abs(exposed(fooling) - 0.5) < 0.1
    assert loss(on, fooling, "retain") < 0.2


def test_the_critics_loss_does_not_move_the_model():
    """Fooling at weight 0 is fine-tuning, whatever the critics learn."""
    one, other = (playing("adversarial")(0.0, rate) for rate in (0.01, 0.5))
    close(one, other)
    with pytest.raises(AssertionError):
        close(one, playing("adversarial")(0.5, 0.5))


def test_without_retain_set_the_losses_become_uniform():
    on, variables = memorised()
    forget, top = Examples(on.train.images[:FORGET], on.train.labels[:FORGET]), np.log(CLASSES)
    after = unlearn("gan_without_retain", on, variables, learning_rate=0.02, critic_rate=0.02, epochs=300, batch_size=FORGET)
    before, found = (losses(on, each, forget) for each in (variables, after))
    assert before.max() < 0.1 and abs(found.mean() - top / 2) < 0.2
    assert kstest(found / top, "uniform").statistic < 0.3 < 0.9 < kstest(before / top, "uniform").statistic
