"""What the competition's methods *are*: each published idea seen on a tiny network, or restated in plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods import ALL, CLASSES, EXAMPLES, KEY, close, kl, linear, normalised, problem, same, start

from unlearn_jax.methods import METHODS, hyperparameters, traceable
from unlearn_jax.methods.competition2023 import agreeing, class_weighted, entropy, lots, triangle
from unlearn_jax.methods.selection import convolutions, smallest, unnormalising
from unlearn_jax.models import as_model
from unlearn_jax.models.resnet import ResNet, block_names
from unlearn_jax.training.objectives import Batch, contrast
from unlearn_jax.training.sampling import subset
from unlearn_jax.training.transforms import alternate
from unlearn_jax.types import Examples, Variables

NO_TRAINING = {"learning_rate": 0.0, "weight_decay": 0.0}
ONE_STEP = {"epochs": 1, "batch_size": ALL, "weight_decay": 0.0, "learning_rate": 0.1}


@functools.cache
def resnet(blocks=0):
    """A stem and a head, and blocks in between."""
    stages = (blocks,) if blocks else ()
    return as_model(ResNet(CLASSES, stages, 3), block_names(stages))


@functools.cache
def program(name, fixed):
    return jax.jit(lambda key, on, variables, numbers: METHODS[name].make(**dict(fixed), **numbers)(key, on, variables))


def unlearn(name, on, variables, key=KEY, **given):
    """Other numbers do not compile anew."""
    static, numbers = traceable(name, hyperparameters(name, given))
    return program(name, tuple(static.items()))(key, on, variables, jax.tree.map(jnp.float32, numbers))


@functools.cache
def convolutional(blocks=0):
    """`test_methods.problem` with square images."""
    on = problem(resnet(blocks))
    images = np.random.default_rng(5).normal(size=(EXAMPLES, 4, 4, 1)).astype(np.float32)
    train = on.train._replace(images=jnp.asarray(images))
    return on.replace(train=train, held_out=Examples(train.images[:12][:, ::-1], train.labels[:12]))


@functools.cache
def initial(blocks=0):
    """Variables with no entry at zero."""
    variables = jax.jit(resnet(blocks).init)(jax.random.key(1), convolutional().train.images[:1])
    leaves, structure = jax.tree.flatten(variables.params)
    rng = np.random.default_rng(1)
    moved = [leaf + jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32) * 0.2) for leaf in leaves]
    return variables._replace(params=jax.tree.unflatten(structure, moved))


def named(tree):
    """Leaves by their path."""
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def kernels(tree):
    return {name: leaf for name, leaf in named(tree).items() if leaf.ndim == 4}


def descended(model, examples, variables, losses, rates, *, weight_decay, momentum=0.9, moving=None):
    """SGD as it stands in a textbook: all of the examples in each step, one step for each rate.

    `losses(logits, images, labels)` are those of the examples; `moving`, a tree of booleans for each step, says which arrays
    move, and by default all do.
    """

    @jax.jit
    def slope(variables):
        def mean_loss(params):
            logits, statistics = model.apply(variables._replace(params=params), examples.images, train=True)
            return jnp.mean(losses(logits, examples.images, examples.labels)), statistics

        return jax.grad(mean_loss, has_aux=True)(variables.params)

    velocity = jax.tree.map(jnp.zeros_like, variables.params)
    for number, rate in enumerate(rates):
        (gradient, statistics), params = slope(variables), variables.params
        velocity = jax.tree.map(lambda v, g, p: momentum * v + g + weight_decay * p, velocity, gradient, params)
        moves = jax.tree.map(lambda _: True, params) if moving is None else moving[number]
        params = jax.tree.map(lambda p, v, free, rate=rate: p - rate * v if free else p, params, velocity, moves)
        variables = Variables(params, statistics)
    return variables


def retained(on):
    return Examples(*(leaf[np.asarray(on.retain)] for leaf in on.train))


def negative_log(logits, images, labels):
    """Cross-entropy."""
    return -jnp.log(jax.nn.softmax(logits)[jnp.arange(len(labels)), labels])


def cosine(rate, steps):
    return [rate * (1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps)]


# Which weights


AMONG = {"a": True, "b": True, "left out": False}
SMALLEST = {each: jax.jit(functools.partial(smallest, among=AMONG, each=each)) for each in (False, True)}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0, width=32), st.booleans())
def test_the_smallest_entries_are_exactly_so_many_whatever_the_ties(seed, share, each):
    rng = np.random.default_rng(seed)
    tree = {"a": rng.integers(-3, 4, (3, 5)), "b": rng.integers(-3, 4, 8), "left out": np.zeros(4, int)}
    masks = SMALLEST[each](jax.tree.map(jnp.float32, tree), jnp.float32(share))
    assert not masks["left out"].any()
    for group in [["a"], ["b"]] if each else [["a", "b"]]:
        values, chosen = (np.concatenate([np.ravel(part[name]) for name in group]) for part in (tree, masks))
        assert chosen.sum() == np.round(np.float32(share) * np.float32(len(values)))
        if chosen.any() and not chosen.all():
            assert abs(values)[chosen].max() <= abs(values)[~chosen].min()


def test_convolutions_and_normalisations_are_those_that_the_model_names():
    model, params = resnet(1), initial(1).params
    inside = {name for name, leaf in named(convolutions(model, params)).items() if leaf}
    assert inside == {"stem/kernel", "stage1_block1/conv1/kernel", "stage1_block1/conv2/kernel"}
    first = convolutions(model, params, first=True)
    assert {name for name, leaf in named(first).items() if leaf} == {"stem/kernel"}
    outside = {name for name, leaf in named(unnormalising(model, params)).items() if leaf}
    assert outside == {*kernels(params), "head/kernel", "head/bias"}


# FCS


def test_contrast_is_cross_entropy_of_similarities_to_outputs_that_stand_still():
    rng = np.random.default_rng(0)
    own, others, weights = rng.normal(size=(5, 4)), rng.normal(size=(7, 4)), rng.normal(size=(4, 3))
    batches = {
        name: Batch(jnp.asarray(part, jnp.float32), jnp.zeros(len(part), int), jnp.arange(len(part)), KEY)
        for name, part in (("forget", own), ("retain", others))
    }

    def value(weights):
        forward = lambda variables, images: (images @ variables.params, {})  # noqa: E731
        return contrast("forget", "retain", 1.7).value(forward, Variables(weights, {}), batches, jnp.zeros([]))[0]

    def by_hand(weights, fixed):
        return -np.mean(scipy.special.log_softmax((own @ weights) @ (others @ fixed).T / 1.7, axis=1))

    found, slope = jax.value_and_grad(value)(jnp.asarray(weights, jnp.float32))
    assert found == pytest.approx(by_hand(weights, weights), rel=1e-4)
    for index in np.ndindex(weights.shape):
        step = np.zeros_like(weights)
        step[index] = 1e-5
        numeric = (by_hand(weights + step, weights) - by_hand(weights - step, weights)) / 2e-5
        assert slope[index] == pytest.approx(numeric, rel=1e-3, abs=1e-4)


def test_alternating_optimisers_each_see_their_own_turns_only():
    inner = optax.sgd(optax.linear_schedule(1.0, 0.0, 4), momentum=0.9), optax.adam(0.1), optax.sgd(0.2)
    turns, rng = [0, 1, 1, 0, 2, 0, 1], np.random.default_rng(0)
    gradients = [{"w": jnp.asarray(rng.normal(size=3), jnp.float32)} for _ in turns]
    params = {"w": jnp.zeros(3)}
    optimiser, states = alternate(*inner), [each.init(params) for each in inner]
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    alone_update = [jax.jit(each.update) for each in inner]
    for choice, gradient in zip(turns, gradients, strict=True):
        together, state = update(gradient, state, params, choice=jnp.int32(choice))
        alone, states[choice] = alone_update[choice](gradient, states[choice], params)
        close(together, alone)
    close(state, tuple(states))


def test_fcs_is_its_three_passes_in_turn():
    """One batch holds a whole set, so that the passes are steps; each optimiser keeps its momentum through the others' turns."""
    on, variables = problem(linear()), start(linear())
    rates = {"uniform_learning_rate": 0.2, "forget_learning_rate": 0.1, "learning_rate": 0.3, "weight_decay": 0.05}
    found = unlearn("fcs", on, variables, temperature=1.5, epochs=3, batch_size=ALL, least_learning_rate=0.04, **rates)
    x = np.asarray(on.train.images, np.float64).reshape(EXAMPLES, -1)
    x = np.concatenate([x, np.ones((EXAMPLES, 1))], axis=1)
    forget, retain, labels = (np.asarray(array) for array in (on.forget, on.retain, on.train.labels))
    head = variables.params["head"]
    weights = np.concatenate([head["kernel"], head["bias"][None]]).astype(np.float64)
    velocity = np.zeros((3, *weights.shape))

    def step(number, slope, rate):
        velocity[number] = 0.9 * velocity[number] + slope
        return weights - rate * velocity[number]

    def pull(p, target):
        return x[target].T @ p / target.sum()

    weights = step(0, pull(scipy.special.softmax(x[forget] @ weights, axis=1) - 1 / CLASSES, forget), 0.2)
    for epoch in range(3):
        others = x[retain] @ weights
        p = scipy.special.softmax((x[forget] @ weights) @ others.T / 1.5, axis=1)
        rate = 0.04 + (0.1 - 0.04) * (1 + np.cos(np.pi * epoch / 3)) / 2  # torch's CosineAnnealingLR with an eta_min
        weights = step(1, pull((p - 1 / len(others)) @ others / 1.5, forget), rate)
        errors = scipy.special.softmax(x[retain] @ weights, axis=1) - np.eye(CLASSES)[labels[retain]]
        weights = step(2, pull(errors, retain) + 0.05 * weights, 0.3)
    after = np.concatenate([found.params["head"]["kernel"], found.params["head"]["bias"][None]])
    np.testing.assert_allclose(after, weights, rtol=1e-3, atol=1e-4)
    assert METHODS["fcs"].defaults["least_learning_rate"] == 1e-6


# MSG

AGREEING = jax.jit(agreeing)


def test_msg_renews_exactly_a_share_of_every_kernel_those_on_which_the_gradients_agree():
    on, variables = convolutional(), initial()
    subset_key = jax.random.split(KEY, 3)[0]
    agreed = kernels(AGREEING(subset_key, on, variables, 0.3))
    assert {name: mask.sum() for name, mask in agreed.items()} == {n: round(0.3 * m.size) for n, m in agreed.items()}
    after = unlearn("msg", on, variables, **ONE_STEP | NO_TRAINING)
    before = named(variables.params)
    for name, leaf in named(after.params).items():
        changed = leaf != before[name]
        np.testing.assert_array_equal(changed, agreed.get(name, np.zeros(leaf.shape, bool)))


def test_msg_takes_the_share_of_each_kernel_by_itself():
    """Whatever the gradients of the others are."""
    agreed = kernels(AGREEING(KEY, convolutional(1), initial(1), 0.3))
    assert len(agreed) > 1
    assert {name: mask.sum() for name, mask in agreed.items()} == {n: round(0.3 * m.size) for n, m in agreed.items()}


def test_msg_compares_the_forget_set_with_a_sample_of_the_retain_set_as_large():
    on, variables = convolutional(), initial()
    sample, forget = (np.flatnonzero(mask) for mask in (subset(KEY, on.retain, on.forget_count), on.forget))
    assert len(sample) == len(forget) and np.asarray(on.retain)[sample].all()

    def apart(params):
        logits, _ = on.model.apply(variables._replace(params=params), on.train.images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, on.train.labels)
        return jnp.mean(losses[sample]) - jnp.mean(losses[forget])

    magnitudes = kernels(jax.tree.map(jnp.abs, jax.jit(jax.grad(apart))(variables.params)))
    for name, mask in kernels(AGREEING(KEY, on, variables, 0.3)).items():
        assert magnitudes[name][mask].max() <= magnitudes[name][~mask].min() * (1 + 1e-4)


def test_msg_slows_the_weights_that_it_kept_and_no_others():
    on, variables = convolutional(), initial()
    agreed = kernels(AGREEING(jax.random.split(KEY, 3)[0], on, variables, 0.3))
    begin, slow, even = (
        named(unlearn("msg", on, variables, **ONE_STEP | given).params)
        for given in ({"learning_rate": 0.0}, {"others": 0.1}, {"others": 1.0})
    )
    for name in begin:
        kept = ~agreed[name] if name in agreed else np.zeros(begin[name].shape, bool)
        np.testing.assert_allclose((slow[name] - begin[name])[kept], 0.1 * (even[name] - begin[name])[kept], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(slow[name][~kept], even[name][~kept])


def test_the_triangle_rises_and_falls():
    found = jax.vmap(lambda count: triangle(count, 5))(jnp.arange(5))
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3], rtol=1e-6)


# CFW


def shaken(draws=1, **given):
    """What was added to each array by each of several keys."""
    on, variables, found = convolutional(), initial(), []
    for key in jax.random.split(KEY, draws):
        after = named(unlearn("cfw", on, variables, key=key, epochs=3, batch_size=ALL, weight_decay=0.0, **given).params)
        found.append({name: after[name] - before for name, before in named(variables.params).items()})
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def test_cfw_adds_its_two_noises_to_the_convolutions():
    added = shaken(draws=40, noise=0.3, last_noise=0.4, learning_rate=0.0)
    noise = added.pop("stem/kernel")
    assert noise.std() == pytest.approx(0.5, rel=5 / (2 * noise.size) ** 0.5)  # 0.3² + 0.4² = 0.5²
    assert abs(noise.mean()) < 2.5 / noise.size**0.5
    assert all((rest == 0).all() for rest in added.values())


def test_cfws_last_noise_comes_when_two_epochs_are_over():
    """So that what the first two learn does not depend on it, and hardly anything is learned of it."""
    still, moved = (shaken(noise=0.0, last_noise=0.5, learning_rate=rate)["stem/kernel"] for rate in (0.0, 1e-3))
    assert 0 < np.linalg.norm(moved - still) < 0.1 * np.linalg.norm(still)


def test_cfw_with_a_single_epoch_adds_the_first_noise_only():
    on, variables = convolutional(), initial()
    given = {"epochs": 1, "batch_size": ALL, "weight_decay": 0.0, "learning_rate": 0.0, "noise": 0.3}
    with_last, without = (unlearn("cfw", on, variables, last_noise=last, **given) for last in (0.4, 0.0))
    assert same(with_last, without) and not same(without, variables)


@pytest.mark.parametrize("power", [1.0, 0.1])
def test_class_weights_are_powers_of_the_class_counts_with_mean_one(power):
    on, zero = problem(linear()), jnp.zeros((EXAMPLES, CLASSES))
    labels = np.asarray(on.train.labels)

    @jax.jit
    def losses(on):
        return class_weighted(on, power)(zero, Batch(zero, on.train.labels, jnp.arange(EXAMPLES), KEY))

    weights = np.asarray(losses(on)) / np.log(CLASSES)
    retain = np.asarray(on.retain)
    assert weights[retain].mean() == pytest.approx(1.0, rel=1e-5)
    counts = np.bincount(labels[retain], minlength=CLASSES)
    assert len(set(counts)) > 1
    np.testing.assert_allclose(weights * counts[labels] ** power, weights[0] * counts[labels[0]] ** power, rtol=1e-5)


def test_cfw_descends_on_class_weighted_cross_entropy_at_epochs_rates_each_from_rest():
    on, variables = convolutional(), initial()
    found = unlearn(
        "cfw", on, variables, noise=0.0, last_noise=0.0, learning_rate=0.3, weight_decay=0.05, epochs=3, batch_size=ALL
    )
    examples = retained(on)
    weights = len(examples.labels) / (CLASSES * np.bincount(examples.labels, minlength=CLASSES))

    def losses(logits, images, labels):
        return jnp.asarray(weights, jnp.float32)[labels] * negative_log(logits, images, labels)

    by_hand = descended(on.model, examples, variables, losses, cosine(0.3, 3), weight_decay=0.05, momentum=0.0)
    close(found, by_hand, rtol=1e-3, atol=1e-4)


# PRMQ


def test_prmq_renews_exactly_a_share_of_the_weights_the_smallest_in_half_precision():
    on, variables = problem(linear()), start(linear())
    after = unlearn("prmq", on, variables, share=0.9, epochs=2, batch_size=ALL, **NO_TRAINING).params
    old, new = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (variables.params, after))
    kept = new == old.astype(np.float16)
    assert kept.sum() == len(old) - round(0.9 * len(old)) == 2
    assert abs(old)[kept].min() >= abs(old)[~kept].max()
    assert METHODS["prmq"].defaults["share"] == 0.99


def test_prmq_descends_on_weighted_cross_entropy_and_the_originals_entropy():
    """Steps of the whole retain set from the original itself, whose certainty is then its own: those after the first count.

    The entrants' loop counts a step, and then asks whether more were done than 2.7 passes have.
    """
    on, variables = problem(linear()), start(linear())
    given = {"share": 0.0, "learning_rate": 0.3, "weight_decay": 0.0, "epochs": 2.7, "batch_size": ALL}
    found = unlearn("prmq", on, variables, **given).params
    retain = np.flatnonzero(on.retain)
    labels = on.train.labels[retain]
    weights = np.bincount(labels, minlength=CLASSES) ** -0.1
    weights = jnp.asarray((weights / weights[labels].mean())[labels])

    def certainty(params):
        p = jax.nn.softmax(on.model.apply(Variables(params, {}), on.train.images[retain])[0])
        return -jnp.sum(p * jnp.log(p), axis=1)

    def objective(params):
        logits, _ = on.model.apply(Variables(params, {}), on.train.images[retain])
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(weights * ce) + jnp.mean((certainty(params) - certainty(variables.params)) ** 2)

    slope = jax.jit(jax.grad(objective))
    params, optimiser = variables.params, optax.sgd(0.3, 0.9)
    state, done, most = optimiser.init(params), 0, int(1 * 2.7)
    while done <= most:
        updates, state = optimiser.update(slope(params), state)
        params, done = optax.apply_updates(params, updates), done + 1
    assert done == 3 and METHODS["prmq"].defaults["epochs"] == 3.2
    close(found, params, rtol=2e-3, atol=1e-3)
    assert same(found, jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), found))


def test_entropy_is_shannons():
    logits = np.random.default_rng(0).normal(size=(6, CLASSES)).astype(np.float32) * 4
    expected = scipy.stats.entropy(scipy.special.softmax(logits, axis=1), axis=1)
    np.testing.assert_allclose(entropy(jnp.asarray(logits)), expected, rtol=1e-4)


# CT


def test_cts_kernels_see_transposed_images_as_the_originals_saw_them():
    on, variables = convolutional(), initial()
    after = unlearn("ct", on, variables, epochs=0)
    images = on.train.images
    upright, lying = (on.model.apply(v, x, train=False)[0] for v, x in ((variables, images), (after, jnp.swapaxes(images, 1, 2))))
    np.testing.assert_allclose(lying, upright, rtol=1e-4, atol=1e-5)
    assert not np.allclose(on.model.apply(after, images, train=False)[0], upright, atol=0.1)
    assert same(after.params["head"], variables.params["head"]) and same(after.statistics, variables.statistics)


def test_ct_trains_what_it_has_transposed():
    on, variables = convolutional(), initial()
    found = unlearn("ct", on, variables, learning_rate=0.3, weight_decay=0.05, epochs=3, batch_size=ALL)
    turned = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1) if leaf.ndim == 4 else leaf, variables)
    by_hand = descended(on.model, retained(on), turned, negative_log, cosine(0.3, 3), weight_decay=0.05)
    close(found, by_hand, rtol=1e-3, atol=1e-4)


# KDE


def distilled(rate, on=None):
    """Without any training on the retain set."""
    given = {"epochs": 0, "distillation_epochs": 20, "batch_size": 6, "weight_decay": 0.0}
    return unlearn("kde", on or convolutional(), initial(), distillation_learning_rate=rate, **given)


def test_kde_renews_the_first_layer_and_the_head():
    before = named(initial().params)
    changed = {name for name, leaf in named(distilled(0.0).params).items() if not np.array_equal(leaf, before[name])}
    assert changed == {"stem/kernel", "head/kernel", "head/bias"}


def test_kde_distils_on_held_out_images_without_their_labels():
    on = convolutional()
    says = [on.model.apply(v, on.held_out.images, train=False)[0] / 5.0 for v in (initial(), distilled(0.0), distilled(0.3))]
    assert kl(says[0], says[2]) < 0.5 * kl(says[0], says[1])
    mislabelled = on.replace(held_out=on.held_out._replace(labels=(on.held_out.labels + 1) % CLASSES))
    assert same(distilled(0.3, mislabelled), distilled(0.3))


def test_kde_distils_and_then_trains_with_twice_the_teacher():
    """The student's first layer and head are fresh. Each phase has a momentum of its own, and only the second a cosine."""
    on, variables = problem(normalised()), start(normalised())
    on = on.replace(held_out=Examples(on.train.images[:12, ::-1], on.train.labels[:12]))
    rates = {"distillation_learning_rate": 0.4, "learning_rate": 0.3, "weight_decay": 0.05}
    found = unlearn("kde", on, variables, temperature=2.0, distillation_epochs=2, epochs=3, batch_size=ALL, **rates)

    def imitation(logits, images, labels):
        p = jax.nn.softmax(on.model.apply(variables, images)[0] / 2.0)
        return jnp.sum(p * (jnp.log(p) - jnp.log(jax.nn.softmax(logits / 2.0))), axis=1)

    def both(*batch):
        return negative_log(*batch) + 2.0 * imitation(*batch)

    fresh = on.model.init(jax.random.split(KEY, 3)[0], on.train.images[:1]).params
    student = variables._replace(params=variables.params | {name: fresh[name] for name in ("hidden", "head")})
    student = descended(on.model, on.held_out, student, imitation, [0.4, 0.4], weight_decay=0.05)
    by_hand = descended(on.model, retained(on), student, both, cosine(0.3, 3), weight_decay=0.05)
    close(found, by_hand, rtol=1e-3, atol=1e-4)


# RNI


def test_rni_draws_so_many_arrays_in_an_epoch_and_noise_falls_on_a_share_of_them():
    drawable = [True] * 11 + [False] * 3
    frozen, noisy = (np.asarray(mask) for mask in lots(KEY, drawable, (200, 9), 0.7))
    assert not frozen[:, 11:].any() and not noisy[:, 11:].any()
    assert (frozen.sum(axis=1) == 2).all()
    assert not (noisy & frozen).any()
    assert noisy[0].sum() == 0 and (noisy[1:].sum(axis=1) == 6).all()  # 70% of nine, rounded down
    assert scipy.stats.chisquare(frozen[:, :11].sum(axis=0)).pvalue > 1e-4
    assert not lots(KEY, drawable[:5], (4, 9), 0.7).frozen.any()  # there are fewer than nine
    assert METHODS["rni"].defaults["tensors"] == 9


def test_rni_trains_and_shakes_what_was_drawn_and_nothing_else():
    """The rest stays bit-identical, weight decay and all; the head is renewed before."""
    on, variables = problem(normalised()), start(normalised())
    given = {"epochs": 2, "full_share": 0.0, "tensors": 1, "noise_share": 1.0, "batch_size": ALL, "weight_decay": 0.1}

    def after(noise, rate):
        return named(unlearn("rni", on, variables, noise=noise, learning_rate=rate, last_learning_rate=rate, **given).params)

    def differ(a, b):
        return {name for name in a if not np.array_equal(a[name], b[name])}

    names = sorted(named(variables.params))
    drawn = lots(jax.random.split(KEY, 3)[1], ["norm" not in name for name in names], (2, 1), 1.0)
    renewed = after(0.0, 0.0)
    assert differ(renewed, named(variables.params)) == {"head/kernel"}
    assert differ(after(0.5, 0.0), renewed) == {name for name, mask in zip(names, drawn.noisy.any(axis=0), strict=True) if mask}
    assert differ(after(0.0, 0.1), renewed) == {name for name, mask in zip(names, ~drawn.frozen.all(axis=0), strict=True) if mask}


def test_rni_trains_everything_in_its_last_epochs():
    on, variables = problem(linear()), start(linear())
    given = {"epochs": 1, "full_share": 1.0, "tensors": 1, "batch_size": ALL}
    still, moved = (unlearn("rni", on, variables, last_learning_rate=rate, **given).params for rate in (0.0, 0.1))
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(still), jax.tree.leaves(moved), strict=True))


def test_rni_descends_at_the_last_epochs_own_rate_in_the_last_epoch_only():
    """Nine epochs, of which the first five train an array each and all normalisations; each begins from rest."""
    on, variables = problem(normalised()), start(normalised())
    given = {"tensors": 1, "noise": 0.0, "learning_rate": 0.1, "last_learning_rate": 0.3, "weight_decay": 0.05, "batch_size": ALL}
    found = unlearn("rni", on, variables, **given)
    fresh_key, draw_key, _ = jax.random.split(KEY, 3)
    fresh = on.model.init(fresh_key, on.train.images[:1]).params["head"]
    student = variables._replace(params=variables.params | {"head": fresh})
    names = sorted(named(student.params))
    frozen = lots(draw_key, ["norm" not in name for name in names], (9, 1), 0.0).frozen & (np.arange(9) < 5)[:, None]
    moving = [jax.tree.unflatten(jax.tree.structure(student.params), list(~each)) for each in np.asarray(frozen)]
    rates = [0.1] * 8 + [0.3]
    by_hand = descended(on.model, retained(on), student, negative_log, rates, weight_decay=0.05, momentum=0.0, moving=moving)
    close(found, by_hand, rtol=1e-3, atol=1e-4)


def test_rnis_noise_has_its_standard_deviation_in_each_epoch_but_the_first_and_the_full_ones():
    """Both arrays get it in the second to the fifth of nine epochs: four times, which add up to twice its deviation."""
    on, variables = problem(linear()), start(linear())
    fresh = on.model.init(KEY, on.train.images[:1]).params
    given = {"tensors": 2, "noise_share": 1.0, "noise": 0.3, "learning_rate": 0.0, "last_learning_rate": 0.0, "batch_size": ALL}
    students = [unlearn("rni", on, variables, key=key, **given).params for key in jax.random.split(KEY, 40)]
    added = [jax.tree.map(jnp.subtract, student, fresh) for student in students]
    noise = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(added)])
    assert noise.std() == pytest.approx(0.6, rel=4 / (2 * noise.size) ** 0.5)
    assert abs(noise.mean()) < 4 * 0.6 / noise.size**0.5
