"""What is asked of anybody's network before it is trained, and what can be found out about it by calling it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.interpreters import partial_eval
from jaxtyping import Array

from unlearn_jax.models.paths import arrays, at, replaced
from unlearn_jax.types import Dense, Model, Variables

Apply = Callable[..., tuple[Array, Any]]
TOLERANCE = 1e-3  # of the largest logit: rounding is below it


def abstract(example: Any) -> jax.ShapeDtypeStruct:
    """The shape of one example of a batch `[1, ...]`; data sets hold float32."""
    return jax.ShapeDtypeStruct((1, *np.shape(example)[1:]), np.float32)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shapes_of(name: str, function: Callable[..., Any], *arguments: Any, parts: int) -> Any:
    """The shapes that somebody's function gives: a tuple of so many parts.

    Raises:
        ValueError: it cannot be called, or gives something else; names the function.
    """
    try:
        given = jax.eval_shape(function, *arguments)
    except Exception as error:  # it is somebody's, and can fail in any way
        raise ValueError(f"{name}: cannot be called ({first_line(error)})") from error
    if not isinstance(given, tuple) or len(given) != parts:
        raise ValueError(f"{name}: gives {type(given).__name__}, expected a tuple of {parts}")
    return given


def require_logits(name: str, logits: Any) -> None:
    """Raises ValueError unless these are the shapes of logits `[batch, classes]`."""
    if getattr(logits, "ndim", None) != 2:
        raise ValueError(f"{name}: gives {getattr(logits, 'shape', type(logits).__name__)}, expected logits [batch, classes]")
    if logits.shape[1] < 2:
        raise ValueError(f"{name}: gives 1 logit an example, expected one for each of two or more classes")


def uses(function: Callable[..., Any], argument: int, *arguments: Any) -> bool:
    """Whether what a function gives depends on one of its arguments."""
    closed = jax.make_jaxpr(function)(*arguments)
    leaves = [len(jax.tree.leaves(each)) for each in arguments]
    _, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return any(used[sum(leaves[:argument]) : sum(leaves[: argument + 1])])


def draws_in_training(apply: Apply, variables: Variables, example: Any, key: Any) -> bool:
    """Whether a module draws random numbers in training.

    Args:
        apply: as `Model.apply`.
        variables: their shapes.
        example: the shape of a batch of one.
        key: the shape of a key.

    Raises:
        ValueError: the module cannot be called so, gives no logits, or draws random numbers in evaluation.
    """

    def called(train: bool) -> Callable[..., Any]:
        return lambda variables, inputs, key: apply(variables, inputs, train=train, key=key)

    for train in (True, False):
        try:
            logits, _ = jax.eval_shape(called(train), variables, example, key)
        except Exception as error:  # a module can fail in any way
            raise ValueError(f"module: cannot be called on inputs {example.shape} ({first_line(error)})") from error
        require_logits("module", logits)
    if uses(called(False), 2, variables, example, key):
        raise ValueError("module: draws random numbers in evaluation")
    return uses(called(True), 2, variables, example, key)


def require_sound(name: str, model: Model, shape: Sequence[int]) -> None:
    """Computes the logits of a few random inputs with fresh weights.

    Args:
        name: of the network in messages.
        model: its functions.
        shape: of one example.

    Raises:
        ValueError: in evaluation an example's logits depend on the rest of its batch, or its state changes; or what it gives
            are probabilities.
    """

    @jax.jit
    def given(key, inputs):
        variables = model.init(key, inputs[:1])
        logits, after = model.apply(variables, inputs, train=False)
        return logits, model.apply(variables, inputs[:1], train=False)[0], variables.statistics, after

    inputs = jax.random.normal(jax.random.key(1), (4, *shape))
    logits, alone, before, after = jax.tree.map(np.asarray, given(jax.random.key(0), inputs))
    if not np.isfinite(logits).all():
        raise ValueError(f"{name}: gives logits that are not finite, with fresh weights and standard normal inputs")
    if np.abs(logits[:1] - alone).max() > TOLERANCE * (1 + np.abs(logits).max()):
        raise ValueError(f"{name}: in evaluation the logits of an example depend on the rest of its batch")
    if not jax.tree.all(jax.tree.map(np.array_equal, before, after)):
        raise ValueError(f"{name}: changes its state in evaluation")
    if logits.shape[1] > 1 and (logits >= 0).all() and np.abs(logits.sum(axis=1) - 1).max() < TOLERANCE:
        raise ValueError(f"{name}: gives probabilities, expected logits; leave the softmax out")


def through_identity(apply: Apply, head: Dense) -> Callable[[Variables, Array], Array]:
    """What a linear head reads: what the network gives if the head is the identity."""

    def features(variables: Variables, inputs: Array) -> Array:
        kernel = at(variables.params, head.kernel)
        changed = {head.kernel: jnp.eye(len(kernel), dtype=kernel.dtype)}
        if head.bias:
            changed[head.bias] = jnp.zeros(len(kernel), kernel.dtype)
        return apply(variables._replace(params=replaced(variables.params, changed)), inputs, train=False)[0]

    return features


def is_head(model: Model, head: Dense, shape: Sequence[int]) -> bool:
    """Whether the logits are `features @ kernel + bias`, for random arrays of the head and random inputs.

    Args:
        model: declares its features, or else a head that takes kernels of any size.
        head: the paths of the arrays.
        shape: of one example.
    """
    features = model.features or through_identity(model.apply, head)

    @jax.jit
    def compared(key, inputs):
        variables = model.init(key, inputs[:1])
        drawn = {path: jax.random.normal(key, at(variables.params, path).shape) for path in head if path}
        variables = variables._replace(params=replaced(variables.params, drawn))
        logits, _ = model.apply(variables, inputs, train=False)
        product = features(variables, inputs) @ drawn[head.kernel]
        return logits, product + drawn[head.bias][None] if head.bias else product

    try:
        logits, product = compared(jax.random.key(0), jax.random.normal(jax.random.key(1), (3, *shape)))
    except (TypeError, ValueError, KeyError):  # the shapes do not fit
        return False
    fits = logits.shape == product.shape and np.isfinite(logits).all()
    return bool(fits) and float(np.abs(logits - product).max()) < TOLERANCE * (1 + float(np.abs(logits).max()))


def with_facts(model: Model, shape: Sequence[int]) -> Model:
    """The model with the head and the blocks that follow from calling it, and its kernels in the order of the calls.

    Args:
        model: declares its dense layers and convolutions, in any order.
        shape: of one example.
    """
    inputs = jax.ShapeDtypeStruct((1, *shape), np.float32)
    variables = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0), inputs)
    classes = jax.eval_shape(lambda v, x: model.apply(v, x, train=False)[0], variables, inputs).shape[1]
    met = list(calls_of(model, shape))
    place = {path: number for number, together in reversed([*enumerate(met)]) for path in together}
    kernels = [path for path in model.convolutions or () if path in place]
    if len({place[path] for path in kernels}) < len(model.convolutions or ()):
        model = model._replace(convolutions=None)
    else:
        model = model._replace(convolutions=tuple(sorted(kernels, key=place.__getitem__)))
    dense = sorted(model.dense or (), key=lambda layer: place.get(layer.kernel, -1))
    could = [layer for layer in reversed(dense) if arrays(variables.params)[layer.kernel].shape[1:] == (classes,)]
    head = next((layer for layer in could if is_head(model, layer, shape)), None)
    features = None if head is None else jax.jit(through_identity(model.apply, head))
    model = model._replace(dense=tuple(dense), head=head, features=features)
    return model._replace(blocks=blocks_of(model, shape))


def blocks_of(model: Model, shape: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """The top-level groups of params in the order in which the inputs meet them.

    () if the model declares no head, if the head is not the last group by itself, or if the order cannot be told.
    """
    if model.head is None:
        return ()
    paths = arrays(jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0), jnp.zeros((1, *shape))).params)
    met = [{_group(path) for path in together} for together in calls_of(model, shape)]
    order = list(dict.fromkeys(group for together in met for group in together))
    last = _group(model.head.kernel)
    alone = {path for path in paths if _group(path) == last} == {path for path in model.head if path}
    told = all(len(together) == 1 for together in met) and set(order) == set(map(_group, paths))
    return tuple((group,) for group in order) if told and alone and order[-1] == last else ()


def calls_of(model: Model, shape: Sequence[int]) -> Iterator[frozenset[str]]:
    """The arrays of params, by their paths, that the inputs meet: one set for each operation, in the order of the program.

    An array that has nothing to do with the inputs is in no set. Loops are one operation.
    """
    inputs = jax.ShapeDtypeStruct((2, *shape), np.float32)
    params, statistics = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0), inputs)
    closed = jax.make_jaxpr(lambda p, x, s: model.apply(Variables(p, s), x, train=False)[0])(params, inputs, statistics)
    own = [frozenset({path}) for path in arrays(params)]
    return _met(closed.jaxpr, [*own, None, *[frozenset()] * len(jax.tree.leaves(statistics))])


def _met(jaxpr: Any, labels: Sequence[frozenset[str] | None]) -> Iterator[frozenset[str]]:
    """As `calls_of`; a label holds the arrays that an argument is made of, and is None for what is made of the inputs."""
    label: dict[Any, frozenset[str] | None] = dict(zip(jaxpr.invars, labels, strict=True))
    for equation in jaxpr.eqns:
        own = [frozenset() if isinstance(var, Literal) else label.get(var, frozenset()) for var in equation.invars]
        brought = frozenset().union(*(part for part in own if part is not None))
        touched = None in own
        inner = next((equation.params[name] for name in ("jaxpr", "call_jaxpr") if name in equation.params), None)
        inner = getattr(inner, "jaxpr", inner)
        if touched and brought and inner is not None and equation.primitive.name != "scan" and len(inner.invars) == len(own):
            yield from _met(inner, own)
        elif touched and brought:
            yield brought
        label.update(dict.fromkeys(equation.outvars, None if touched else brought))


def _group(path: str) -> str:
    return path.partition("/")[0]
