"""Training: what a step sees, that forgotten rows reach nothing, and that members do not depend on how they are batched."""

import math
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.models import as_model, build
from unlearn_jax.models.convolution import FORMS
from unlearn_jax.models.resnet import ResNet, block_names
from unlearn_jax.training import ensembles
from unlearn_jax.training.cost import example_flops, flops
from unlearn_jax.training.descend import descend
from unlearn_jax.training.ensembles import chunk_size, mesh, over_members, padded, per_call, predict, recorded, step_bytes
from unlearn_jax.training.fit import fit, initialise, masked, optimiser, refit, training
from unlearn_jax.training.objectives import Objective, Term, cross_entropy, weighted
from unlearn_jax.training.sampling import Source, draw, steps_in_pass, subset
from unlearn_jax.types import Examples, Problem, Recipe, Variables

ROWS, IMAGE, CLASSES = 30, (4, 4, 1), 3
few = settings(max_examples=30, deadline=None)
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
same = partial(jax.tree.map, np.testing.assert_array_equal)
DEVICES = 2  # see conftest.py
MLP = build("mlp", classes=CLASSES, width=5)
RESNET = as_model(ResNet(CLASSES, (1,), 2), block_names((1,)))  # one block of the large ones


def problem_of(model=MLP, forget=6, recipe=None, **other):
    """A problem on noise, the first `forget` rows of which are to be forgotten."""
    draw = np.random.default_rng(0)
    images = draw.normal(size=(ROWS, *IMAGE)).astype(np.float32)
    examples = Examples(jnp.asarray(images), jnp.asarray(draw.integers(0, CLASSES, ROWS), jnp.int32))
    return Problem(
        train=examples,
        held_out=examples,
        kept=jnp.ones(ROWS, bool),
        forget=jnp.arange(ROWS) < forget,
        model=model,
        classes=CLASSES,
        kept_count=ROWS,
        forget_count=forget,
        recipe=recipe or Recipe(epochs=2, batch_size=8, learning_rate=0.1),
        **other,
    )


def drawn_mask(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).permutation(ROWS) < count)


# What a step sees.


def drawn(seed, masks, counts, steps, batch_size):
    """The rows that a key draws, of each source, by one program that is traced at every call."""

    def rows(key, masks):
        return draw(key, [Source(mask, count, steps) for mask, count in zip(masks, counts, strict=True)], batch_size)

    return jax.device_get(jax.jit(rows)(jax.random.key(seed), masks))


@few
@given(data=st.data(), batch_size=st.sampled_from([1, 4, 7, 30, 100]), passes=st.floats(0, 3), seed=st.integers(0, 9))
def test_every_pass_is_a_permutation_of_exactly_the_kept_rows(data, batch_size, passes, seed):
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).filter(any)))
    count = int(kept.sum())
    a_pass = steps_in_pass(count, batch_size)
    steps = int(passes * a_pass)
    (rows,) = drawn(seed, [kept], [count], steps, batch_size)
    size = min(batch_size, count)
    assert rows.shape == (steps, size)
    assert a_pass * size <= count < a_pass * size + size  # whole batches only, and as many as there are
    for start in range(0, steps, a_pass):
        seen = rows[start : start + a_pass].ravel()
        assert len(set(seen.tolist())) == len(seen)
        assert kept[seen].all()
        if size == count or batch_size == 1:
            assert start + a_pass > steps or set(seen.tolist()) == set(np.flatnonzero(kept).tolist())


@few
@given(seed=st.integers(0, 99), counts=st.lists(st.integers(1, ROWS), min_size=1, max_size=3), steps=st.integers(0, 5))
def test_several_sources_keep_apart_and_the_same_key_draws_the_same(seed, counts, steps):
    masks = [drawn_mask(count, seed + number) for number, count in enumerate(counts)]
    found = drawn(seed, masks, counts, steps, 4)
    same(found, drawn(seed, masks, counts, steps, 4))
    for mask, count, rows in zip(masks, counts, found, strict=True):
        assert rows.shape == (steps, min(4, count))
        assert np.asarray(mask)[rows].all()


def test_passes_keys_and_sources_differ_in_their_order():
    mask = jnp.ones(ROWS, bool)
    one, two = draw(jax.random.key(0), [Source(mask, ROWS, 2), Source(mask, ROWS, 2)], ROWS)
    (other,) = draw(jax.random.key(1), [Source(mask, ROWS, 2)], ROWS)
    orders = [tuple(order.tolist()) for order in (*one, *two, *other)]
    assert len(set(orders)) == len(orders)


def test_every_row_comes_first_equally_often():
    kept = drawn_mask(5)
    (rows,) = draw(jax.random.key(0), [Source(kept, 5, 2000)], 5)
    share = np.bincount(rows[:, 0], minlength=ROWS)[np.asarray(kept)] / 2000
    assert np.abs(share - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / 2000)


@few
@given(data=st.data(), count=st.integers(1, ROWS), seed=st.integers(0, 99))
def test_a_subset_has_exactly_as_many_rows_all_of_the_mask(data, count, seed):
    size = data.draw(st.integers(0, count))
    mask = drawn_mask(count, seed)
    chosen = jax.device_get(jax.jit(subset, static_argnums=2)(jax.random.key(seed), mask, size))
    assert (chosen.dtype, chosen.shape) == (bool, mask.shape)
    assert chosen.sum() == size
    assert not (chosen & ~np.asarray(mask)).any()


def test_subsets_are_uniform():
    mask = drawn_mask(6)
    chosen = jax.jit(jax.vmap(lambda key: subset(key, mask, 2)))(jax.random.split(jax.random.key(0), 3000))
    share = np.asarray(chosen).mean(0)[np.asarray(mask)]
    assert np.abs(share - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 3000)


# The one loop.


def linear(slope):
    """An objective of which SGD with rate 1 subtracts exactly `slope(progress)` from every weight in every step."""
    return Objective(
        (), lambda forward, variables, batches, progress: (slope(progress) * total(variables.params), variables.statistics)
    )


def total(params):
    return sum(leaf.sum() for leaf in jax.tree.leaves(params))


def bare(weights=4):
    """Variables of no model, for objectives that look at the weights only."""
    return Variables({"w": jnp.zeros(weights)}, {})


def test_a_program_picks_the_stated_objective():
    problem = problem_of()
    objectives = [linear(lambda progress, slope=slope: slope) for slope in (1.0, 10.0, 100.0)]
    for program in ([0, 1, 2], [2, 2, 0, 2], [1]):
        descent = descend(objectives, optax.sgd(1.0), program=program)
        after = jax.jit(descent)(jax.random.key(0), problem, bare())
        np.testing.assert_array_equal(after.params["w"], np.full(4, -sum(10.0**choice for choice in program)))


def test_a_program_stays_a_branch_when_members_are_batched():
    """jax#8409: a batched index would run every objective in every step."""
    descent = descend([linear(lambda p: 1.0), linear(lambda p: 2.0)], optax.sgd(1.0), program=[0, 1])
    members = Variables({"w": jnp.zeros((3, 4))}, {})
    batched = jax.vmap(descent, in_axes=(0, None, 0))
    keys = jax.random.split(jax.random.key(0), 3)
    assert " cond[" in str(jax.make_jaxpr(batched)(keys, problem_of(), members))
    np.testing.assert_array_equal(batched(keys, problem_of(), members).params["w"], np.full((3, 4), -3.0))


def test_progress_is_the_share_of_the_steps_done():
    after = descend(linear(lambda progress: progress), optax.sgd(1.0), steps=4)(jax.random.key(0), problem_of(), bare())
    close(after.params["w"], np.full(4, -(0 + 0.25 + 0.5 + 0.75)))


def test_each_source_goes_through_its_own_passes_on_the_steps_that_read_it():
    problem = problem_of(forget=6)
    objectives = [weighted(Term("forget", cross_entropy)), weighted(Term("retain", cross_entropy))]
    program = [0, 1, 1, 0, 1, 0]
    plan = descend(objectives, optax.sgd(1.0), program=program, batch_size=2).plan(jax.random.key(0), problem)
    on = np.array(program)
    assert sorted(np.ravel(plan.rows["forget"][on == 0])) == list(range(6))
    retained = np.ravel(plan.rows["retain"][on == 1])
    assert len(set(retained)) == len(retained)
    assert retained.min() >= 6
    np.testing.assert_array_equal(plan.choice, program)


@pytest.mark.parametrize("statistics", ["update", "freeze"])
@pytest.mark.parametrize("model", [MLP, RESNET], ids=["mlp", "resnet"])
def test_no_steps_are_the_identity(model, statistics):
    problem = problem_of(model)
    variables = jax.jit(initialise)(jax.random.key(0), problem)
    descent = descend(weighted(Term("retain", cross_entropy)), optax.sgd(0.1, 0.9), steps=0, statistics=statistics)
    same(jax.jit(descent)(jax.random.key(1), problem, variables), variables)


@pytest.mark.parametrize("statistics", ["update", "freeze"])
def test_statistics_move_unless_they_are_frozen(statistics):
    problem = problem_of(RESNET)
    variables = jax.jit(initialise)(jax.random.key(0), problem)
    descent = descend(weighted(Term("retain", cross_entropy)), optax.sgd(0.1), steps=1, statistics=statistics)
    after = jax.jit(descent)(jax.random.key(1), problem, variables)
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (after.statistics, variables.statistics)), strict=True)]
    assert moved == [statistics == "update"] * 6
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (after.params, variables.params)), strict=True))


def test_the_reference_s_gradient_is_handed_to_the_transform():
    def update(updates, state, params=None, *, reference, **extra):
        return reference, state

    follow = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    descent = descend(linear(lambda p: 1.0), follow, steps=3, reference=linear(lambda p: 5.0))
    np.testing.assert_array_equal(descent(jax.random.key(0), problem_of(), bare()).params["w"], np.full(4, 15.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either steps or program"),
        ({"steps": 1, "program": [0]}, "either steps or program"),
        ({"steps": 1, "statistics": "thaw"}, "statistics 'thaw': must be 'update' or 'freeze'"),
    ],
)
def test_contradictory_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        descend(linear(lambda p: 1.0), optax.sgd(1.0), **arguments)


def test_an_objective_reads_each_source_once_with_its_weight():
    problem = problem_of()
    variables = jax.jit(initialise)(jax.random.key(0), problem)
    objective = weighted(
        Term("forget", cross_entropy, -2.0), Term("retain", cross_entropy, lambda p: 3.0 * p), penalty=lambda w, p: p * total(w)
    )
    descent = descend(objective, optax.sgd(0.0), steps=2, batch_size=6)
    plan = descent.plan(jax.random.key(1), problem)
    _, values = jax.jit(lambda plan, problem: descent.advance(descent.begin(variables), plan, problem))(plan, problem)
    logits, _ = problem.model.apply(variables, problem.train.images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, problem.train.labels)
    for step, progress in enumerate([0.0, 0.5]):
        forget, retain = (losses[plan.rows[source][step]].mean() for source in ("forget", "retain"))
        close(values[step], -2.0 * forget + 3.0 * progress * retain + progress * total(variables.params))


# Recipes.


def rates(recipe, steps):
    """The learning rate of each step, read off the updates of a gradient of one."""
    transform = optimiser(recipe, steps)
    params = {"w": jnp.zeros([])}
    state, found = transform.init(params), []
    for _ in range(steps):
        updates, state = transform.update({"w": jnp.ones([])}, state, params)
        found.append(-float(updates["w"]))
    return found


def test_cosine_warms_up_over_a_tenth_and_falls_to_zero():
    recipe = Recipe(learning_rate=0.5, momentum=0.0, weight_decay=0.0)
    warm_up = [0.5 * step / 2 for step in range(2)]
    decay = [0.5 * (1 + math.cos(math.pi * step / 18)) / 2 for step in range(18)]
    close(rates(recipe, 20), warm_up + decay)
    assert rates(recipe, 20)[-1] < 0.01 * 0.5


def test_constant_stays():
    close(rates(Recipe(learning_rate=0.5, momentum=0.0, weight_decay=0.0, schedule="constant"), 5), [0.5] * 5)


def test_sgd_couples_weight_decay_and_adam_does_not():
    w, gradient, decay = 2.0, 3.0, 0.1

    def updates(kind, steps):
        recipe = Recipe(learning_rate=0.5, weight_decay=decay, schedule="constant", optimiser=kind)
        transform = optimiser(recipe, 10)
        params, found = {"w": jnp.asarray(w)}, []
        state = transform.init(params)
        for _ in range(steps):
            update, state = transform.update({"w": jnp.asarray(gradient)}, state, params)
            found.append(float(update["w"]))
        return found

    coupled = gradient + decay * w
    close(updates("sgd", 3), [-0.5 * coupled, -0.5 * 1.9 * coupled, -0.5 * (1 + 0.9 * 1.9) * coupled])
    close(updates("adam", 2), [-0.5 * (1 + decay * w)] * 2)  # Adam's normalised step on a constant gradient is 1


def test_a_recipe_trains_for_its_epochs_on_whole_batches():
    assert len(training(Recipe(epochs=3, batch_size=8), 30).program) == 3 * 3
    assert len(training(Recipe(epochs=3, batch_size=64), 30).program) == 3
    assert steps_in_pass(30, 8) == 3


def test_short_training_learns_what_can_be_learned():
    images = jax.random.normal(jax.random.key(0), (ROWS, *IMAGE))
    labels = (images.reshape(ROWS, -1)[:, 0] > 0).astype(jnp.int32)
    recipe = Recipe(epochs=30, batch_size=10, learning_rate=0.05)
    problem = problem_of(build("mlp", classes=CLASSES, width=16), recipe=recipe).replace(train=Examples(images, labels))
    variables = jax.jit(partial(fit, count=ROWS))(jax.random.key(0), jnp.ones(ROWS, bool), problem=problem)
    assert float((problem.model.apply(variables, images)[0].argmax(-1) == labels).mean()) > 0.95


# Fitting.


fit_jitted = jax.jit(fit, static_argnames="count")


@pytest.mark.parametrize("model", [MLP, RESNET], ids=["mlp", "resnet"])
def test_rows_that_the_mask_leaves_out_reach_nothing(model):
    problem, mask = problem_of(model), drawn_mask(20)
    poisoned = Examples(
        jnp.where(mask[:, None, None, None], problem.train.images, jnp.nan), jnp.where(mask, problem.train.labels, -(10**6))
    )
    clean = fit_jitted(jax.random.key(0), mask, count=20, problem=problem)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    same(fit_jitted(jax.random.key(0), mask, count=20, problem=problem.replace(train=poisoned)), clean)
    everything = fit_jitted(jax.random.key(0), jnp.ones(ROWS, bool), count=ROWS, problem=problem.replace(train=poisoned))
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(everything))  # the poison works


def test_fit_depends_on_key_and_mask_and_on_nothing_else_of_the_problem():
    problem, mask = problem_of(), drawn_mask(20)
    first = fit_jitted(jax.random.key(0), mask, count=20, problem=problem)
    same(fit_jitted(jax.random.key(0), mask, count=20, problem=problem.replace(forget=jnp.ones(ROWS, bool))), first)
    for key, other in ((jax.random.key(1), mask), (jax.random.key(0), drawn_mask(20, seed=1))):
        changed = fit_jitted(key, other, count=20, problem=problem).params["head"]["kernel"]
        assert not np.allclose(changed, first.params["head"]["kernel"])


def test_retraining_is_fitting_on_the_retain_set():
    problem = problem_of(forget=6)
    retained = jnp.arange(ROWS) >= 6
    same(jax.jit(refit)(jax.random.key(0), problem), fit_jitted(jax.random.key(0), retained, count=ROWS - 6, problem=problem))
    inner = masked(problem, retained, ROWS - 6)
    assert (inner.retain_count, int(inner.retain.sum())) == (ROWS - 6, ROWS - 6)


def test_augmentation_happens_in_training_with_another_key_each_step():
    def augment(key, images):
        return images + 100.0 * jax.random.normal(key, ())

    plain, changed = (
        fit_jitted(jax.random.key(0), drawn_mask(20), count=20, problem=problem_of(augment=each)) for each in (None, augment)
    )
    assert not np.allclose(plain.params["head"]["kernel"], changed.params["head"]["kernel"])
    plan = descend(linear(lambda p: 1.0), optax.sgd(1.0), steps=5).plan(jax.random.key(0), problem_of())
    assert len(np.unique(jax.random.key_data(plan.keys), axis=0)) == 5


# Members.


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("model", [MLP, RESNET], ids=["mlp", "resnet"])
def test_members_do_not_depend_on_the_strategy(model):
    """Three members on two devices, each with a mask of its own: a plain loop, vmap and map agree."""
    problem = problem_of(model)
    keys = jax.random.split(jax.random.key(0), 3)
    masks = jnp.stack([drawn_mask(20, seed) for seed in range(3)])
    train = partial(fit, count=20)
    loop = stacked([fit_jitted(key, mask, count=20, problem=problem) for key, mask in zip(keys, masks, strict=True)])
    for strategy in ("vmap", "map"):
        together = over_members(lambda key, mask, problem: train(key, mask, problem=problem), (True, True, False), strategy)
        members = jax.tree.map(lambda leaf: leaf[:3], together(*padded((keys, masks)), problem))
        jax.tree.map(close, members, loop)


def test_members_are_spread_over_all_devices():
    assert mesh().size == 2  # see conftest.py
    doubled = over_members(lambda x, shared: x + shared, (True, False))(jnp.arange(4.0), jnp.float32(1))
    np.testing.assert_array_equal(doubled, [1, 2, 3, 4])
    assert len(doubled.sharding.device_set) == 2


def test_padding_repeats_the_last_member():
    tree = {"a": jnp.arange(3), "b": np.arange(6).reshape(3, 2)}
    filled = padded(tree)
    np.testing.assert_array_equal(filled["a"], [0, 1, 2, 2])
    np.testing.assert_array_equal(filled["b"], [[0, 1], [2, 3], [4, 5], [4, 5]])
    same(padded(filled), filled)


@pytest.mark.parametrize(("strategy", "sizes"), [("map", [2, 2, 2]), ("vmap", [6])])
def test_calls_hold_all_members_in_order_and_padding(strategy, sizes):
    calls = per_call({"a": np.arange(5), "keys": jax.random.split(jax.random.key(0), 5)}, strategy)
    assert [len(call["a"]) for call in calls] == sizes
    np.testing.assert_array_equal(np.concatenate([call["a"] for call in calls]), [0, 1, 2, 3, 4, 4])
    assert all(call["keys"].sharding.is_equivalent_to(call["a"].sharding, 1) for call in calls)
    assert len(calls[0]["a"].sharding.device_set) == mesh().size


def test_what_is_recorded_is_not_traced_again_and_does_the_same():
    traced = []

    def function(x, tree):
        traced.append(x)
        return {"sum": jax.lax.scan(lambda total, y: (total + y, None), x, tree["y"])[0]}

    again = recorded(function, jnp.float32(0), {"y": jax.ShapeDtypeStruct((3,), jnp.float32)})
    members, y = jnp.arange(4.0), jnp.arange(12.0).reshape(4, 3)
    mapped = over_members(again, (True, True), "map")(members, {"y": y})["sum"]
    np.testing.assert_array_equal(jax.vmap(again)(members, {"y": y})["sum"], mapped)
    assert len(traced) == 1
    np.testing.assert_array_equal(mapped, over_members(function, (True, True), "map")(members, {"y": y})["sum"])
    with pytest.raises(TypeError):
        again(members, {"y": y})  # other shapes


def test_the_devices_of_a_cpu_share_the_machines_memory():
    assert ensembles.device_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.device_count()


@pytest.mark.parametrize("call", [lambda: over_members(jnp.sin, (True,), "loop"), lambda: chunk_size(int, 1, "loop")])
def test_an_unknown_strategy_is_refused(call):
    with pytest.raises(ValueError, match="strategy 'loop': expected one of auto, vmap, map"):
        call()


@few
@given(members=st.integers(1, 500), share=st.floats(1e-4, 3), strategy=st.sampled_from(["auto", "vmap", "map"]))
def test_chunks_are_equal_and_fit(members, share, strategy):
    member_bytes = int(share * ensembles.device_memory()) + 1
    chunk = chunk_size(lambda: member_bytes, members, strategy)
    assert chunk % mesh().size == 0
    assert chunk < members + mesh().size
    per_device = chunk // mesh().size
    if strategy == "vmap":
        assert per_device == 1 or per_device * member_bytes <= ensembles.MEMORY_SHARE * ensembles.device_memory()
    else:
        assert per_device <= ensembles.CHUNK
    chunks = -(-members // chunk)
    assert chunks * chunk - members < chunks * mesh().size  # no more padding than a rounding to devices for each chunk


def test_a_gpu_asks_its_compiler_how_much_memory_a_member_takes(monkeypatch):
    """Many intermediate results in turn, of which few are there at a time; the data are everybody's."""

    def deep(weights, images):
        for _ in range(20):
            images = jnp.sin(images @ weights)
        return images

    arguments = jnp.ones((64, 64)), jnp.ones((256, 64))
    bound = step_bytes(deep, *arguments, batched=(True, False))
    assert bound >= 40 * 256 * 64 * 4
    monkeypatch.setattr(ensembles.jax, "default_backend", lambda: "gpu")
    planned = step_bytes(deep, *arguments, batched=(True, False))
    assert (64 * 64 + 256 * 64) * 4 <= planned < bound / 2  # its own weights and result


@pytest.mark.parametrize(("examples", "batch"), [(17, 7), (14, 7), (3, 7), (17, 500)])
def test_predictions_are_those_of_a_loop(examples, batch):
    problem = problem_of()
    members = [jax.jit(initialise)(jax.random.key(seed), problem) for seed in range(3)]
    images = problem.train.images[:examples]
    logits = predict(MLP, stacked(members), images, batch=batch)
    assert (type(logits), logits.shape) == (np.ndarray, (3, examples, CLASSES))
    close(logits, np.stack([MLP.apply(variables, images, train=False)[0] for variables in members]))


def test_predictions_are_in_eval_mode():
    problem = problem_of(RESNET)
    variables = jax.jit(initialise)(jax.random.key(0), problem)
    variables = Variables(variables.params, jax.tree.map(lambda leaf: leaf + 0.5, variables.statistics))
    logits = predict(RESNET, stacked([variables]), problem.train.images[:5], batch=2)
    close(logits[0], RESNET.apply(variables, problem.train.images[:5], train=False)[0])


# Cost.


def test_a_matrix_product_costs_two_for_each_multiplication():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert flops(jnp.matmul, a, b) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.sin(a @ b) + 1, a, b) == 2 * 3 * 5 * 7
    assert flops(jax.vmap(jnp.matmul, in_axes=(0, None)), jnp.ones((4, 3, 5)), b) == 4 * 2 * 3 * 5 * 7
    assert flops(jax.jit(jnp.matmul), a, jax.ShapeDtypeStruct((5, 7), jnp.float32)) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_costs_two_for_each_multiplication(groups):
    convolution = partial(
        jax.lax.conv_general_dilated,
        window_strides=(2, 2),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))
    assert flops(convolution, x, kernel) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4 // groups)


@pytest.mark.parametrize("batch", [2, 16])
def test_every_form_of_a_network_costs_the_same_forward(batch):
    forms = [as_model(ResNet(CLASSES, (1, 1), 2, form=form), block_names((1, 1))) for form in FORMS]
    variables = jax.eval_shape(forms[0].init, jax.random.key(0), jnp.zeros((1, *IMAGE)))
    stem, first, second = 9 * 1 * 2 * 16, 2 * 9 * 2 * 2 * 16, (9 * 2 * 4 + 9 * 4 * 4 + 2 * 4) * 4
    for model in forms:
        assert flops(model.apply, variables, jnp.zeros((batch, *IMAGE))) == 2 * batch * (stem + first + second + 4 * CLASSES)


@pytest.mark.parametrize("stages", [(1, 1), (3, 1)])
def test_products_cost_what_patches_do_in_every_derivative(stages):
    """Of batches and of single examples, once and twice, in loops over equal blocks and over members."""
    x = jnp.zeros((16, 4, 4, 1))

    def costs(form):
        model = as_model(ResNet(3, stages, 16, form=form), block_names(stages))
        variables = jax.eval_shape(model.init, jax.random.key(0), x)

        def loss(variables, x):
            return jnp.sum(model.apply(variables, x, train=True)[0])

        slope = jax.grad(loss)
        return [
            flops(slope, variables, x),
            flops(lambda v, x: jax.vmap(slope, (None, 0))(v, x[:, None]), variables, x),
            flops(lambda v, x: jax.jvp(lambda v: slope(v, x), (v,), (v,))[1], variables, x),
            flops(lambda v, x: jax.lax.map(lambda scale: slope(v, x * scale), jnp.ones(3)), variables, x),
            flops(recorded(lambda v, x: jax.vmap(lambda scale: slope(v, x * scale))(jnp.ones(3)), variables, x), variables, x),
        ]

    np.testing.assert_allclose(costs("products"), costs("patches"), rtol=1e-12)


def test_a_loop_counts_once_for_each_turn_and_a_switch_as_its_dearest_branch():
    a = jnp.ones((3, 3))
    product = 2 * 3 * 3 * 3

    def scan(a, length):
        return jax.lax.scan(lambda carry, _: (carry @ a, None), a, length=length)[0]

    branches = [lambda a: a, lambda a: a @ a, lambda a: a @ a @ a]
    assert flops(lambda a: scan(a, 5), a) == 5 * product
    assert flops(lambda a: jax.lax.scan(lambda c, _: (scan(c, 3), None), a, length=4)[0], a) == 12 * product
    assert flops(lambda a: jax.lax.map(lambda x: x @ a, jnp.ones((6, 3, 3))), a) == 6 * product
    assert flops(lambda i, a: jax.lax.switch(i, branches, a), jnp.int32(0), a) == 2 * product
    assert flops(lambda a: jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ a, a), a) == product


def test_a_gradient_costs_three_forward_passes_less_the_first_layer_s():
    """Backwards each layer costs its product twice, for its weights and for its inputs; the images need no gradient."""
    problem = problem_of()
    inputs, width = math.prod(IMAGE), 5
    first, rest = 2 * inputs * width, 2 * (width * width + width * CLASSES)
    assert example_flops(problem) == 3 * (first + rest) - first


def test_a_training_costs_its_examples():
    """Three passes of three batches of eight, of 24 retained rows; and one more example forward, which Flax initialises on."""
    problem = problem_of(recipe=Recipe(epochs=3, batch_size=8))
    forward = flops(MLP.apply, initialise(jax.random.key(0), problem), problem.train.images[:1])
    assert flops(refit, jax.random.key(0), problem) == 3 * 24 * example_flops(problem) + forward
