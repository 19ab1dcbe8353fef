"""Networks: the fast convolution is flax.linen.Conv, the layers are as many as the papers say, statistics move when asked."""

import math
import re
from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unlearn_jax.errors import ArgumentError
from unlearn_jax.models import MODELS, as_model, build, convolution, draw_kernels, find, model, through_waves
from unlearn_jax.models.convolution import FORMS, Convolution, convolve, fastest
from unlearn_jax.models.paths import arrays
from unlearn_jax.models.resnet import NORMALISATIONS, Normalisation, ResNet, block_names
from unlearn_jax.models.vit import patch_of
from unlearn_jax.training import cost
from unlearn_jax.training.cost import flops
from unlearn_jax.types import Model, Variables

close = partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)


def batch_last(images):
    """`[batch, height, width, channels] -> [channels, height, width, batch]`, and an output back again."""
    return jnp.transpose(images, (3, 1, 2, 0))


def convolved(x, kernel, *options):
    """Ours, as one program: each of its operations alone would be compiled too."""
    return jax.jit(lambda x, kernel: batch_last(convolve(batch_last(x), kernel, *options)))(x, kernel)


def images_of(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def flax_conv(features, size, stride):
    return nn.Conv(features, (size, size), strides=stride, use_bias=False, kernel_init=nn.initializers.he_normal())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_convolution_is_flax_conv_with_the_same_parameters_outputs_and_gradients(form, stride, size, height, width):
    x = images_of((3, height, width, 2))
    theirs, ours = flax_conv(4, size, stride), Convolution(4, size, stride, form)
    params = theirs.init(jax.random.key(1), x)
    same = ours.init(jax.random.key(1), batch_last(x))
    assert jax.tree.structure(params) == jax.tree.structure(same)
    np.testing.assert_array_equal(params["params"]["kernel"], same["params"]["kernel"])

    def squares(network, arrange, params, x):
        return jnp.sum(jnp.sin(arrange(network.apply(params, arrange(x)))))

    close(jax.jit(lambda x: batch_last(ours.apply(params, batch_last(x))))(x), theirs.apply(params, x))
    expected = jax.jit(jax.grad(partial(squares, theirs, lambda x: x), argnums=(0, 1)))(params, x)
    jax.tree.map(close, jax.jit(jax.grad(partial(squares, ours, batch_last), argnums=(0, 1)))(params, x), expected)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    features=st.integers(1, 3),
    size=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    form=st.sampled_from(FORMS),
)
def test_convolve_is_flax_conv_for_every_shape(shape, features, size, stride, form):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(size, size, shape[-1], features)).astype(np.float32)
    expected = flax_conv(features, size, stride).apply({"params": {"kernel": kernel}}, x)
    close(convolved(x, kernel, stride, form), expected)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([1, 17]), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    form=st.sampled_from(FORMS),
)
def test_torchs_padding_is_half_the_size_on_both_sides(shape, size, stride, form):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(size, size, shape[-1], 2)).astype(np.float32)
    sides, orders = [(size // 2, size // 2)] * 2, ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=orders)
    close(convolved(x, kernel, stride, form, "torch"), expected)


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    features=st.integers(1, 3),
    stride=st.integers(1, 3),
)
@example(shape=(2, 5, 3, 2), features=3, stride=1)
@example(shape=(2, 9, 1, 2), features=3, stride=1)
def test_products_of_every_shape_are_flax_conv(shape, features, stride):
    """Where they are worth it and where not."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 3, shape[-1], features)).astype(np.float32)
    expected = flax_conv(features, 3, stride).apply({"params": {"kernel": kernel}}, x)
    with mock.patch.multiple(convolution, CHANNELS=1, BATCH=1, SIZE=1):
        close(convolved(x, kernel, stride), expected)


def done(function, *arguments):
    """The floating-point operations that are done, where `flops` counts those of the definition."""
    with mock.patch.object(cost, "COUNTED_AS", re.compile("(?!)")):
        return flops(function, *arguments)


@pytest.mark.parametrize(
    ("shape", "features", "stride", "multiplications"),
    [
        ((16, 8, 8), 16, 1, 6 * 64 * 16 * 16),  # nine a pixel by the definition
        ((32, 3, 7), 32, 1, 6 * 28 * 32 * 32),  # as of four rows
        ((32, 4, 4), 32, 1, 6 * 3 * 4 * 32 * 32),
        ((32, 5, 5), 32, 1, 6 * 30 * 32 * 32),  # as of six rows
        ((32, 4, 6), 32, 1, 6 * 3 * 6 * 32 * 32),
        ((5, 3, 3), 7, 1, 9 * 9 * 5 * 7),  # more than 2x2 outputs: patches
        ((64, 1, 8), 64, 1, 9 * 8 * 64 * 64),
        ((16, 4, 4), 16, 1, 9 * 16 * 16 * 16),  # too small to be worth it
        ((16, 8, 8), 16, 2, 9 * 16 * 16 * 16),
        ((4, 16, 16), 64, 1, 9 * 256 * 4 * 64),  # too few channels
        ((5, 2, 2), 7, 1, 4 * 4 * 5 * 7),
        ((5, 2, 2), 7, 2, 4 * 5 * 7),
        ((5, 4, 4), 7, 2, 25 * 5 * 7),  # nine, six, six and four pixels
        ((5, 3, 4), 7, 2, 20 * 5 * 7),
        ((5, 1, 1), 7, 1, 5 * 7),
        ((5, 1, 2), 7, 2, 2 * 5 * 7),
    ],
)
def test_products_are_fewer_multiplications_and_the_same_convolution(shape, features, stride, multiplications):
    x, kernel = images_of((*shape, 16)), images_of((3, 3, shape[0], features), 1) / (3 * shape[0] ** 0.5)
    assert done(partial(convolve, stride=stride), x, kernel) == 2 * 16 * multiplications
    few = partial(convolve, x[..., :15], kernel, stride)
    assert done(lambda: few(form="products")) == done(lambda: few(form="patches"))

    @partial(jax.jit, static_argnums=0)
    def both(form, x, kernel):
        y, pull = jax.vjp(partial(convolve, stride=stride, form=form), x, kernel)
        return y, pull(jnp.sin(y))

    jax.tree.map(partial(close, rtol=1e-4, atol=1e-4), both("products", x, kernel), both("xla", x, kernel))


def test_products_are_differentiable_forwards_and_twice():
    x, kernel = images_of((16, 8, 8, 16)), images_of((3, 3, 16, 16), 1) / 12

    def curved(form):
        def loss(kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, form=form)))

        return jax.jit(partial(jax.jvp, jax.grad(loss)))((kernel,), (images_of(kernel.shape, 2),))

    jax.tree.map(partial(close, rtol=1e-3, atol=1e-3), curved("products"), curved("patches"))


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "torch")])
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=["both", "kernels", "images"])
def test_a_grouped_convolution_has_the_derivatives_of_the_plain_one(stride, padding, axes):
    """Of members at once, and of examples within members: forwards, backwards, and twice."""
    x, kernels = images_of((2, 3, 5, 4, 2)), images_of((2, 3, 3, 3, 4), 1) / 5

    def derivatives(form):
        one = partial(convolve, stride=stride, form=form, padding=padding)

        def loss(x, kernel):
            return jnp.sum(jnp.sin(one(x, kernel)))

        def of_member(x, kernel):
            both, slopes = (x, kernel), jax.grad(loss, (0, 1))
            turned = jnp.cos(x), jnp.cos(kernel)
            of_examples = jax.vmap(lambda image: jax.grad(loss, 1)(image[..., None], kernel), 3)(x)
            return jax.jvp(one, both, turned), jax.jvp(slopes, both, turned), of_examples

        members = tuple(operand if axis == 0 else operand[0] for operand, axis in zip((x, kernels), axes, strict=True))
        of_all = jax.grad(lambda *both: jnp.sum(jnp.sin(jax.vmap(one, axes)(*both))), (0, 1))
        return jax.jit(lambda *both: (jax.vmap(of_member, axes)(*both), of_all(*both)))(*members)

    jax.tree.map(partial(close, rtol=1e-4, atol=1e-4), derivatives("grouped"), derivatives("xla"))


def test_the_weight_gradient_of_grouped_members_has_no_window_of_the_size_of_the_image():
    def windows(form):
        def slope(x, kernel):
            return jax.grad(lambda kernel: jnp.sum(convolve(x, kernel, form=form) ** 2))(kernel)

        text = jax.jit(jax.vmap(slope)).lower(jnp.ones((2, 3, 8, 8, 5)), jnp.ones((2, 3, 3, 3, 4))).as_text()
        return [line.count("batch_group_count = 2") for line in text.splitlines() if "stablehlo.convolution" in line]

    assert windows("grouped") == [0, 1]  # what XLA's GPU compiler takes for cuDNN's backward filter
    assert windows("xla") == [0, 0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_batched_over_kernels_is_one_after_the_other(form, stride):
    x, kernels = batch_last(images_of((3, 7, 7, 2))), images_of((4, 3, 3, 2, 5), 1)
    one = jax.jit(partial(convolve, stride=stride, form=form))
    close(jax.jit(jax.vmap(one, in_axes=(None, 0)))(x, kernels), np.stack([one(x, kernel) for kernel in kernels]))
    slope = jax.jit(jax.grad(lambda kernel: jnp.sum(jnp.sin(one(x, kernel)))))
    close(jax.jit(jax.vmap(slope))(kernels), np.stack([slope(kernel) for kernel in kernels]))


def test_the_cpu_takes_the_form_that_stays_a_matrix_product():
    assert fastest() == "products"
    jaxpr = str(jax.make_jaxpr(jax.vmap(convolve, in_axes=(None, 0)))(jnp.ones((2, 5, 5, 1)), jnp.ones((3, 3, 3, 2, 4))))
    assert "dot_general" in jaxpr
    assert "conv_general_dilated" not in jaxpr


def kernels(params, ndim):
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel" and leaf.ndim == ndim]


def shapes(model, image):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), jnp.float32))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_resnet_of_depth_6n_plus_2_has_that_many_layers(n):
    width, channels, classes = 4, 3, 7
    params = shapes(build(f"resnet{6 * n + 2}", classes=classes, width=width), (8, 8, channels)).params
    convolutions = kernels(params, 4)
    assert len([kernel for kernel in convolutions if kernel.shape[0] == 3]) + len(kernels(params, 2)) == 6 * n + 2
    assert len([kernel for kernel in convolutions if kernel.shape[0] == 1]) == 2  # a shortcut where the width doubles

    widths = [(channels, width)]  # of the 3x3 convolutions, in and out
    for stage in range(3):
        for layer in range(2 * n):
            widths.append((width * 2 ** max(stage - (layer == 0), 0), width * 2**stage))
    shortcuts = [(width, 2 * width), (2 * width, 4 * width)]
    weights = sum(9 * i * o + 2 * o for i, o in widths) + sum(i * o + 2 * o for i, o in shortcuts)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == weights + (4 * width + 1) * classes


def test_resnet18_has_the_published_number_of_parameters():
    variables = shapes(build("resnet18", classes=10, width=64), (32, 32, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables.params)) == 11_173_962
    assert len([kernel for kernel in kernels(variables.params, 4) if kernel.shape[0] == 3]) == 17


@pytest.mark.parametrize("name", ["mlp", "vit", "resnet8", "resnet14", "resnet18"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_blocks_cover_all_parameters_once_from_the_input_to_the_output(name, normalisation):
    options = {"normalisation": normalisation} if "normalisation" in find(name).defaults else {}
    model = build(name, classes=3, width=2, **options)
    names = [group for block in model.blocks for group in block]
    assert sorted(names) == sorted(shapes(model, (8, 8, 1)).params)
    assert model.blocks[-1] == ("head",)
    if name == "resnet14":
        body = [f"stage{stage}_block{block}" for stage in (1, 2, 3) for block in (1, 2)]
        assert names == ["stem", "stem_norm", *body, "head"]
    if name == "mlp":
        assert names == ["hidden1", "hidden2", "head"]
    if name == "vit":
        assert names == ["positions", "patches", "block1", "block2", "block3", "block4", "norm", "head"]


def test_a_vision_transformer_computes_what_its_equations_say():
    """One block and one head, restated in NumPy, with random arrays in place of zeros and ones."""
    model, image = build("vit", classes=3, width=6, depth=1, patch=2), (4, 6, 2)
    assert model.convolutions == () and model.norms == ("block1/norm1", "block1/norm2", "norm")
    variables = filled(model, image)
    images = np.random.default_rng(1).normal(size=(3, *image)).astype(np.float32)
    logits, _, activations = model.activations(variables, jnp.asarray(images))
    assert [part.shape for part in activations] == [(3, 6, 6)] * 3

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.params)

    def norm(x, own):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * own["scale"] + own["bias"]

    def dense(x, own):
        return x @ own["kernel"] + own["bias"]

    tokens = [images[:, i : i + 2, j : j + 2].reshape(3, -1) for i in (0, 2) for j in (0, 2, 4)]
    x = dense(np.stack(tokens, axis=1), p["patches"]) + p["positions"]["embedding"]
    own = p["block1"]
    normed = norm(x, own["norm1"])
    query, key, value = (
        normed @ own["attention"][name]["kernel"][:, 0] + own["attention"][name]["bias"][0] for name in ("query", "key", "value")
    )
    scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(6))
    attended = scores / scores.sum(-1, keepdims=True) @ value
    x = x + attended @ own["attention"]["out"]["kernel"][0] + own["attention"]["out"]["bias"]
    hidden = dense(norm(x, own["norm2"]), own["hidden"])
    gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    x = x + dense(gelu, own["out"])
    expected = dense(norm(x, p["norm"]).mean(axis=1), p["head"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "patch"), [(4, 1), (7, 1), (8, 2), (12, 3), (28, 4), (32, 4), (64, 8), (96, 12)])
def test_patches_fill_the_image(side, patch):
    assert patch_of(side) == patch
    with pytest.raises(ValueError, match=r"^patches of 5x5 pixels do not fill images of \d+x\d+"):
        shapes(build("vit", classes=3, width=8, patch=5), (side, side, 1))


def small(normalisation="batch", form="products", width=2):
    """A ResNet of two stages of one block: all that larger ones are made of, and quick to compile."""
    return as_model(ResNet(3, (1, 1), width, normalisation, form), block_names((1, 1)))


def filled(model, image, seed=0):
    """Variables that no initialiser would give: every scale, bias and statistic another."""
    draw = np.random.default_rng(seed)

    def fill(leaf):
        return jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape) * np.sqrt(2 / max(math.prod(leaf.shape[:-1]), 1)), leaf.dtype)

    variables = shapes(model, image)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: fill(leaf) * (draw.choice([-1, 1], leaf.shape) if path[-1].key == "kernel" else 1), variables.params
    )
    return Variables(params, jax.tree.map(fill, variables.statistics))


def test_blocks_are_in_the_order_in_which_the_data_pass():
    """The first equation of the program that reads a block comes after that of the block before."""
    model = build("resnet14", classes=3, width=2)
    variables = shapes(model, (8, 8, 1))
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    jaxpr = jax.make_jaxpr(partial(model.apply.__wrapped__, train=True))(variables, images).jaxpr
    groups = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(variables.params)]
    use = [next(n for n, each in enumerate(jaxpr.eqns) if leaf in each.invars) for leaf in jaxpr.invars[: len(groups)]]
    first = {group: min(n for n, own in zip(use, groups, strict=True) if own == group) for group in groups}
    assert sorted(first, key=first.__getitem__) == [group for block in model.blocks for group in block]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_statistics_move_in_training_and_only_there(normalisation):
    model = small(normalisation)
    x = images_of((5, 6, 6, 2))
    variables = filled(model, x.shape[1:])
    logits, same = model.apply(variables, x, train=False)
    assert logits.shape == (5, 3)
    jax.tree.map(np.testing.assert_array_equal, same, variables.statistics)
    _, moved = model.apply(variables, x, train=True)
    assert jax.tree.structure(moved) == jax.tree.structure(variables.statistics)
    changed = [bool((a != b).all()) for a, b in zip(*map(jax.tree.leaves, (moved, variables.statistics)), strict=True)]
    assert changed == [True] * (12 if normalisation == "batch" else 0)  # mean and variance: stem, two blocks, a shortcut


def test_running_statistics_move_by_a_tenth_towards_the_batch_s():
    model = small()
    x = images_of((6, 6, 6, 2))
    variables = filled(model, x.shape[1:])
    _, moved = model.apply(variables, x, train=True)
    stem = convolve(batch_last(x), variables.params["stem"]["kernel"])
    before, after = variables.statistics["stem_norm"]["batch"], moved["stem_norm"]["batch"]
    close(after["mean"], 0.9 * before["mean"] + 0.1 * stem.mean((1, 2, 3)))
    close(after["var"], 0.9 * before["var"] + 0.1 * stem.var((1, 2, 3)))


def test_statistics_are_each_members_own():
    model = small()
    x = images_of((5, 6, 6, 1))
    own = [filled(model, x.shape[1:], seed) for seed in range(3)]
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    logits, moved = jax.vmap(partial(model.apply, train=True), in_axes=(0, None))(members, x)
    for number, variables in enumerate(own):
        alone = jax.tree.map(lambda leaf, number=number: leaf[number], (logits, moved))
        jax.tree.map(partial(close, rtol=1e-3, atol=1e-3), alone, model.apply(variables, x, train=True))


@pytest.mark.parametrize(("normalisation", "form"), [("batch", "products"), ("batch", "xla"), ("group", "products")])
def test_in_eval_mode_an_example_does_not_see_the_others(normalisation, form):
    model = small(normalisation, form)
    x = images_of((4, 6, 6, 2))
    variables = filled(model, x.shape[1:])
    together, _ = model.apply(variables, x, train=False)
    beside_nan, _ = model.apply(variables, x.at[2:].set(jnp.nan), train=False)
    np.testing.assert_array_equal(beside_nan[:2], together[:2])
    assert np.isfinite(together).all()
    assert np.isnan(beside_nan[2:]).all()
    close(model.apply(variables, x[:1], train=False)[0], together[:1])


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_all_forms_of_convolution_make_the_same_network(normalisation):
    x = images_of((16, 8, 8, 1))  # Winograd's form for two rows, and for four
    products, *others = (small(normalisation, form, width=16) for form in FORMS)
    variables = filled(products, x.shape[1:])
    expected = products.apply(variables, x, train=True)
    for other in others:
        assert shapes(other, x.shape[1:]) == shapes(products, x.shape[1:])
        jax.tree.map(partial(close, rtol=1e-3, atol=1e-3), other.apply(variables, x, train=True), expected)


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (10, 5)])
def test_group_normalisation_standardises_each_group_of_each_example(width, groups):
    """Eight groups, or the largest number below that divides the channels."""
    x = 3.0 + 5.0 * images_of((width, 4, 4, 2))
    y, _ = jax.jit(lambda x: Normalisation("group").init_with_output(jax.random.key(0), x, False))(x)
    grouped = np.asarray(y).reshape(groups, -1, 2)
    close(grouped.mean(1), np.zeros((groups, 2)), atol=1e-4)
    close(grouped.std(1), np.ones((groups, 2)), rtol=1e-3)


def test_an_unknown_form_of_convolution_is_refused():
    with pytest.raises(ArgumentError, match="products, patches, grouped, xla") as refused:
        build("resnet8", classes=3, convolution="nonsense")
    assert "nonsense" in str(refused.value)
    with pytest.raises(ValueError, match="products, patches, grouped, xla"):
        convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), form="nonsense")
    with pytest.raises(ArgumentError, match="padding nonsense: expected one of same, torch"):
        build("resnet8", classes=3, padding="nonsense")
    with pytest.raises(ValueError, match="expected one of same, torch"):
        convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), padding="nonsense")


def test_equal_arguments_build_the_same_model():
    first = build("resnet8", classes=10, width=4)
    assert build("resnet8", classes=10, width=4) is first
    assert build("resnet8", classes=10, width=5) is not first
    assert hash(first) == hash(build("resnet8", classes=10, width=4))


@pytest.mark.parametrize(
    "name", ["resnet9", "resnet2", "resnet", "resnet08", "resnet1208", "resnet8x", "resnet-8", "foo", "MLP", ""]
)
def test_an_unknown_model_is_refused(name):
    with pytest.raises(ArgumentError, match=r"mlp, resnet\{6n\+2\} up to resnet1202, resnet18") as refused:
        build(name, classes=10)
    assert (refused.value.argument, refused.value.value) == ("model", name)


def test_a_family_is_one_maker_whose_limit_is_in_the_registry():
    family = find("resnet1202")
    assert family is find("resnet8") is MODELS["resnet{6n+2}"] is not find("resnet18")
    assert len(family.names) == 200 and set(family.defaults) == {"width", "normalisation", "convolution", "padding"}


def test_an_option_that_a_model_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"mlp: unknown option normalisation, expected some of width, layers, activation"):
        build("mlp", classes=3, normalisation="batch")


def test_a_model_is_added_by_one_decorated_function():
    @model("tiny", "one layer", points=True)
    def tiny(*, classes, scale=1.0):
        return as_model(nn.Dense(classes, name="head"), (("head",),))

    try:
        assert find("tiny").defaults == {"scale": 1.0} and find("tiny").points
        with pytest.raises(ValueError, match="tiny: already registered"):
            model("tiny", "again")(tiny)
        with pytest.raises(ArgumentError, match="resnet18, vit, tiny"):
            find("other")
    finally:
        del MODELS["tiny"]


def test_kernels_are_drawn_with_variance_two_over_the_fan_in_and_one_in_the_head():
    model = build("resnet8", classes=500, width=64)
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes(model, (8, 8, 16)).params)
    gains = {path: 1.0 if path == model.head.kernel else 2.0 for path in (*model.convolutions, model.head.kernel)}
    drawn = arrays(jax.jit(lambda key: draw_kernels(key, empty, gains))(jax.random.key(0)))
    assert {path for path, leaf in drawn.items() if np.any(leaf)} == set(gains)
    for path, gain in gains.items():
        kernel = drawn[path]
        expected = math.sqrt(gain / math.prod(kernel.shape[:-1]))
        error = 5 / math.sqrt(2 * kernel.size)  # five standard errors of a standard deviation
        assert np.std(kernel) == pytest.approx(expected, rel=error), path
        assert abs(np.mean(kernel)) < 5 * expected / math.sqrt(kernel.size), path


def test_init_draws_the_kernels_and_leaves_the_rest_to_flax():
    model = build("mlp", classes=3, width=4)
    one, again, other = (model.init(jax.random.key(seed), jnp.zeros((1, 2, 2, 1))) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.isclose(one.params["hidden2"]["kernel"], other.params["hidden2"]["kernel"]).any()
    gains = {"hidden1/kernel": 2.0, "hidden2/kernel": 2.0, "head/kernel": 1.0}
    jax.tree.map(np.testing.assert_array_equal, one.params, draw_kernels(jax.random.key(0), other.params, gains))
    assert not one.params["hidden2"]["bias"].any()


def test_draws_differ_by_key_and_by_leaf_and_touch_kernels_only():
    params = {
        "hidden": {"kernel": jnp.zeros((8, 4)), "bias": jnp.full(4, 7.0)},
        "other": {"kernel": jnp.zeros((8, 4)), "scale": jnp.full(4, 3.0)},
        "head": {"kernel": jnp.zeros((8, 4))},
    }
    gains = {f"{name}/kernel": 2.0 for name in params}
    one, again, other = (draw_kernels(jax.random.key(seed), params, gains) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    np.testing.assert_array_equal(one["hidden"]["bias"], params["hidden"]["bias"])
    np.testing.assert_array_equal(one["other"]["scale"], params["other"]["scale"])
    drawn = [np.ravel(each[name]["kernel"]) for each in (one, other) for name in params]
    assert len(np.unique(np.concatenate(drawn))) == 6 * 32


def test_the_mlp_is_two_relu_layers_and_a_head():
    model = build("mlp", classes=3, width=5)
    x = images_of((4, 3, 2, 1))
    params = model.init(jax.random.key(0), x[:1]).params
    h = x.reshape(4, -1)
    for name in ("hidden1", "hidden2"):
        h = jnp.maximum(h @ params[name]["kernel"] + params[name]["bias"][None], 0)
    close(model.apply(Variables(params, {}), x)[0], h @ params["head"]["kernel"] + params["head"]["bias"][None])


def test_waves_make_pixels_whose_likeness_falls_with_the_distance():
    inner = Model(lambda key, images: None, lambda variables, images, train: (images, {}), ())
    seen = through_waves(inner, 20_000).apply
    points = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, -2.0], [3.0, 3.0]])
    pixels, _ = seen(Variables({}, {}), points, train=False)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(pixels @ pixels.T / 20_000, np.exp(-(distances**2) / 2), atol=0.03)
    stark, _ = through_waves(inner, 20_000, 2.5).apply(Variables({}, {}), points, train=False)
    np.testing.assert_allclose(stark, 2.5 * pixels, rtol=1e-5)


def test_a_model_behind_waves_is_the_model_on_pixels():
    model, points, labels = build("mlp", classes=3, width=5), jax.random.normal(jax.random.key(0), (7, 2)), jnp.arange(7) % 3
    whole = through_waves(model, 6)
    assert whole is through_waves(model, 6)
    variables = jax.jit(whole.init)(jax.random.key(1), points[:1])
    assert variables.params["hidden1"]["kernel"].shape == (6, 5)

    def loss(params):
        logits = whole.apply(Variables(params, {}), points, train=True)[0]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    by_hand = jax.jit(whole.gradient)(variables.params, points, labels, jnp.full(7, 1 / 7))
    expected = jax.jit(jax.grad(loss))(variables.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), by_hand, expected)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_loop_over_equal_blocks_is_the_blocks_one_after_the_other(normalisation):
    stages, x = (3, 1), images_of((4, 4, 4, 1))
    network = ResNet(3, stages, 2, normalisation)
    unrolled = network.clone(scanned=False)
    looped, plain = as_model(network, block_names(stages), unrolled=unrolled), as_model(unrolled, block_names(stages))
    variables, others = (jax.jit(model.init)(jax.random.key(0), x[:1]) for model in (looped, plain))
    jax.tree.map(np.testing.assert_array_equal, variables, others)

    def program(model):
        return str(jax.make_jaxpr(lambda own: model.apply(own, x, train=True))(variables))

    @partial(jax.jit, static_argnums=(1, 2))
    @partial(jax.value_and_grad, has_aux=True)
    def squares(params, model, train):
        logits, statistics = model.apply(Variables(params, variables.statistics), x, train=train)
        return jnp.sum(logits**2), (logits, statistics)

    assert "scan[" in program(looped) and "scan[" not in program(plain)
    for train in (False, True):
        found, expected = (squares(variables.params, model, train) for model in (looped, plain))
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(close, found, expected)
    outputs, expected = (jax.jit(model.activations)(variables, x)[2] for model in (looped, plain))
    assert len(outputs) == 5
    jax.tree.map(close, outputs, expected)
