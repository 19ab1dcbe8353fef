"""Methods of 2024 and 2025, each against a closed form or a restatement in a few lines."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from in_process import run_in_process
from jax.flatten_util import ravel_pytree
from scipy.stats import norm
from test_laws import CLASSES, FORGET, keys, member, members, model, problem

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.certified import deviation_for
from unlearn_jax.methods.matching import outputs_of
from unlearn_jax.methods.registry import Entry
from unlearn_jax.training.fit import fit, refit
from unlearn_jax.training.sampling import subset
from unlearn_jax.training.transforms import gaussian_noise, nash_bargain


@pytest.fixture(scope="module")
def setting():
    """A problem, a model trained on it, and a key."""
    own = problem(model("scrub"))
    return own, refit(jax.random.key(5), own.replace(forget=jnp.zeros_like(own.forget), forget_count=0)), keys()[0]


def flat(variables):
    return ravel_pytree(variables.params)[0]


def run(name, setting, **values):
    own, before, key = setting
    return jax.jit(METHODS[name].make(**values))(key, own, before)


# LoTUS


def surprised(own, variables):
    """The problem with labels that the model gets wrong on all held-out examples."""
    answers = jnp.argmax(own.model.apply(variables, own.held_out.images, train=False)[0], axis=-1)
    return own.replace(held_out=own.held_out._replace(labels=(answers + 1) % CLASSES))


def test_lotus_with_one_step_is_adamw_towards_the_originals_own_answers(setting):
    """Logits so large that chance decides nothing, temperature 1, all of R, one batch."""
    own, before, key = setting
    sharp = before._replace(params={**before.params, "head": jax.tree.map(lambda leaf: 1e4 * leaf, before.params["head"])})
    rate, decay = 0.01, 0.3
    values = {"learning_rate": rate, "weight_decay": decay, "alpha": 0.0, "retain_share": 1.0, "epochs": 1, "batch_size": 64}
    after = jax.jit(METHODS["lotus"].make(**values))(key, surprised(own, sharp), sharp)
    images = own.train.images[own.kept]

    def loss(params):
        taught, _ = own.model.apply(sharp, images, train=False)
        logits, _ = own.model.apply(sharp._replace(params=params), images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.argmax(taught, axis=-1)).mean()

    transform = optax.adamw(rate, weight_decay=decay)
    updates, _ = transform.update(jax.grad(loss)(sharp.params), transform.init(sharp.params), sharp.params)
    np.testing.assert_allclose(flat(after), ravel_pytree(optax.apply_updates(sharp.params, updates))[0], rtol=1e-3, atol=1e-4)


def test_lotus_stops_where_the_forget_set_is_no_better_than_unseen_data(setting):
    own, before, key = setting
    answers = jnp.argmax(own.model.apply(before, own.train.images, train=False)[0], axis=-1)
    wrong = own.replace(train=own.train._replace(labels=jnp.where(own.forget, (answers + 1) % CLASSES, answers)))
    after = jax.jit(METHODS["lotus"].make(learning_rate=0.1, epochs=2, batch_size=8))(key, wrong, before)
    assert (flat(after) == flat(before)).all()
    goes_on = run("lotus", (surprised(own, before), before, key), learning_rate=0.1, epochs=2, batch_size=8)
    assert not (flat(goes_on) == flat(before)).any()


# MUNBa


def test_the_bargain_solves_its_equation():
    rng = np.random.default_rng(0)
    for _ in range(5):
        r, u = rng.normal(size=(2, 6)).astype(np.float32)
        found, _ = nash_bargain().update({"a": jnp.asarray(u)}, optax.EmptyState(), reference={"a": jnp.asarray(r)})
        shares = np.linalg.lstsq(np.stack([r, u], axis=1), np.asarray(found["a"]), rcond=None)[0]
        gram = np.array([[r @ r, r @ u], [u @ r, u @ u]])
        np.testing.assert_allclose(gram @ shares, 1 / shares, rtol=1e-3)


@pytest.mark.parametrize(
    ("u", "expected"),
    [([1.0, 0.0], [2**0.5, 0.0]), ([0.0, 3.0], [1.0, 1.0]), ([-2.0, 0.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0])],
)
def test_the_bargain_of_equal_orthogonal_opposed_and_no_gradients(u, expected):
    found, _ = nash_bargain().update(jnp.array(u), optax.EmptyState(), reference=jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(found, expected, atol=1e-3)


# Certified noisy fine-tuning


@pytest.mark.parametrize(("epsilon", "delta", "steps"), [(0.5, 1e-5, 1), (1.0, 1e-5, 10), (8.0, 1e-3, 100)])
def test_the_noise_gives_the_guarantee_in_the_worst_case(epsilon, delta, steps):
    """One weight, starts at both ends of the ball, gradients that pull apart at every step: two Gaussians, known exactly."""
    radius, longest = 1.5, 0.02
    deviation = float(deviation_for(epsilon, delta, radius, longest, steps))
    mu = 2 * (radius + steps * longest) / (deviation * steps**0.5)
    exact = norm.cdf(-epsilon / mu + mu / 2) - np.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
    assert 0.001 * delta < exact <= delta  # holds, and not by far
    assert float(deviation_for(2 * epsilon, delta, radius, longest, steps)) < deviation


def test_noise_has_its_deviation_and_is_new_at_every_step():
    transform = gaussian_noise(jax.random.key(0), 0.5)
    updates = {"a": jnp.zeros((200, 50)), "b": jnp.zeros(100)}
    first, state = transform.update(updates, transform.init(updates))
    second, _ = transform.update(updates, state)
    vector, other = ravel_pytree(first)[0], ravel_pytree(second)[0]
    assert float(vector.std()) == pytest.approx(0.5, rel=0.03) and abs(float(jnp.corrcoef(vector, other)[0, 1])) < 0.05


def test_noisy_steps_begin_inside_the_ball_and_add_the_noise_that_is_promised(setting):
    """Without any descent what is left is the clipped start and the noise of all steps."""
    own, before, _ = setting
    epsilon, radius, still = 1e6, 0.5, {"noisy_rate": 1e-9, "learning_rate": 0.0, "epochs": 0, "batch_size": 8}
    make = jax.jit(METHODS["noisy_finetune"].make(epsilon=epsilon, radius=radius, noisy_epochs=3, **still))
    start = flat(before) * min(1.0, radius / float(jnp.linalg.norm(flat(before))))
    added = np.concatenate([np.asarray(flat(make(jax.random.key(seed), own, before)) - start) for seed in range(20)])
    steps = 3 * (own.retain_count // 8)
    expected = float(deviation_for(epsilon, 1e-5, radius, 1e-9, steps)) * steps**0.5
    assert added.std() == pytest.approx(expected, rel=0.05) and abs(added.mean()) < 0.1 * expected
    with pytest.raises(ArgumentError, match="noisy_epochs"):
        METHODS["noisy_finetune"].make(noisy_epochs=0)
    for name, value in (("epsilon", 0.0), ("delta", 0.0), ("delta", 1.0), ("radius", 0.0)):
        with pytest.raises(ArgumentError, match=rf"noisy_finetune\.{name}"):
            METHODS["noisy_finetune"].make(**{name: value})


@pytest.mark.parametrize("value", ["rum.high=none", "noisy_finetune.noisy_epochs=0", "datamodel_matching.share=0"])
def test_values_that_mean_nothing_are_refused_before_anything_is_trained(tmp_path, value):
    method, _, _ = value.partition(".")
    words = (
        "--smoke",
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        "--methods",
        method,
        "--hyper",
        value,
    )
    done = run_in_process(*words)
    assert done.returncode == 2 and value.partition("=")[0] in done.stderr and "original models" not in done.stderr


# Matching


def apart(own, variables, targets):
    rows = np.asarray(own.kept)
    return float(jnp.mean((outputs_of(own, variables)[rows] - targets[rows]) ** 2))


def test_oracle_matching_comes_to_the_outputs_of_a_retrained_model(setting):
    own, before, key = setting
    oracle = refit(jax.random.split(jax.random.split(key)[0], 1)[0], own)
    target = outputs_of(own, oracle)
    after = run("oracle_matching", setting, learning_rate=0.02, epochs=60, batch_size=8)
    assert apart(own, after, target) < 0.25 * apart(own, before, target)


def test_datamodel_matching_aims_at_the_original_minus_what_the_forget_set_adds(setting):
    """With all of R and the original's own key the prediction is exact: the model retrained with that key."""
    own, _, key = setting
    own_key = jax.random.split(jax.random.split(key)[0], 1)[0]
    subset_key, fit_key = jax.random.split(own_key)
    assert (subset(subset_key, own.retain, own.retain_count) == own.retain).all()
    before = fit(fit_key, own.kept, count=own.kept_count, problem=own)
    target = outputs_of(own, fit(fit_key, own.retain, count=own.retain_count, problem=own))
    after = run("datamodel_matching", (own, before, key), pairs=1, share=1.0, learning_rate=0.02, epochs=60, batch_size=8)
    assert apart(own, after, target) < 0.25 * apart(own, before, target)


# RUM


def test_rum_hands_each_third_to_its_method_with_the_whole_retain_set(setting, monkeypatch):
    own, before, key = setting
    seen = []

    def make(**values):
        def method(key, problem, variables):
            seen.append((np.asarray(problem.forget), np.asarray(problem.retain), problem.forget_count, problem.retain_count))
            return variables

        return method

    for name in ("one", "two", "three"):
        monkeypatch.setitem(METHODS, name, Entry(make, "F+R", "-", "", {}, frozenset()))
    after = METHODS["rum"].make(low="one", middle="two", high="three", proxy_epochs=1, batch_size=8)(key, own, before)
    assert (flat(after) == flat(before)).all()
    parts = np.array([forget for forget, *_ in seen])
    assert (parts.sum(axis=0) == np.asarray(own.forget)).all() and [part.sum() for part in parts] == [
        count for *_, count, _ in seen
    ]
    assert sum(count for *_, count, _ in seen) == FORGET and all(
        (retain == np.asarray(own.retain)).all() for _, retain, *_ in seen
    )


@pytest.mark.parametrize("name", ["rum", "sisa", "none"])
def test_rum_refuses_what_cannot_be_a_part(name):
    with pytest.raises(ArgumentError, match=r"rum\.high"):
        METHODS["rum"].make(high=name)


# In weight space


def test_distortion_and_dropout_change_the_weights_by_what_they_say(setting):
    before = flat(setting[1])
    noisy = flat(run("weight_distortion", setting, deviation=0.3, epochs=0)) - before
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.15)
    dropped = flat(run("weight_dropout", setting, share=0.4, epochs=0))
    assert float((dropped == 0).mean() - (before == 0).mean() * 0.6) == pytest.approx(0.4, abs=0.1)
    assert ((dropped == before) | (dropped == 0)).all()


def test_the_distance_from_the_original_grows_with_its_weight(setting):
    def far(weight):
        return float(
            jnp.linalg.norm(
                flat(run("distance_regularisation", setting, weight=weight, learning_rate=0.01, epochs=4, batch_size=8))
                - flat(setting[1])
            )
        )

    assert far(100.0) > 1.5 * far(0.0)


def test_the_barrier_on_the_line_to_the_original_grows_with_its_weight(setting):
    own, before, _ = setting
    rows = np.asarray(own.kept)

    def at_the_middle(weight):
        after = run("connectivity_barrier", setting, weight=weight, learning_rate=0.02, epochs=10, batch_size=8)
        middle = jax.tree.map(lambda one, other: (one + other) / 2, before, after)
        logits, _ = own.model.apply(middle, own.train.images[rows], train=False)
        return float(optax.softmax_cross_entropy_with_integer_labels(logits, own.train.labels[rows]).mean())

    assert at_the_middle(0.5) > at_the_middle(0.0) + 0.1


def test_members_of_a_batch_have_noise_of_their_own():
    own, several = problem(model("scrub")), members(model("scrub"))
    method = METHODS["weight_distortion"].make(deviation=0.1, epochs=0)
    after = jax.jit(jax.vmap(method, (0, None, 0)))(keys(), own, several)
    added = [np.asarray(flat(member(after, i)) - flat(member(several, i))) for i in range(2)]
    assert abs(np.corrcoef(added)[0, 1]) < 0.5
