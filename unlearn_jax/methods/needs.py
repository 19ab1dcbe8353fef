"""What methods need of a model: named in the registry, checked against what the model declares, never guessed."""

import functools
from collections.abc import Callable, Sequence

import jax

from unlearn_jax.models.parts import widens
from unlearn_jax.models.paths import arrays
from unlearn_jax.types import Model, Problem


def unmet(needs: Sequence[str], problem: Problem) -> str | None:
    """The first need that the problem's model does not meet, phrased to follow "needs"; None if it meets all.

    Args:
        needs: keys of `NEEDS`.
        problem: gives the model and the shape of its examples.
    """
    return next((reason for need in needs if (reason := NEEDS[need](problem))), None)


def require(name: str, needs: Sequence[str], problem: Problem) -> None:
    """Raises a one-line ValueError if the problem's model does not meet the needs of `name`."""
    if reason := unmet(needs, problem):
        raise ValueError(f"{name} needs {reason}")


def _declared(fact: str) -> Callable[[Problem], str | None]:
    """A check that the model declares `fact`, whatever its value."""
    return lambda problem: None if getattr(problem.model, fact) not in (None, ()) else _undeclared(fact)


def _undeclared(fact: str) -> str:
    return f"Model.{fact}, which this model does not declare"


def _normalisation(problem: Problem) -> str | None:
    norms = problem.model.norms
    if norms is None:
        return _undeclared("norms")
    paths = [f"{path}/" for path in _shapes(problem)]
    wrong = [norm for norm in norms if not any(path.startswith(f"{norm}/") for path in paths)]
    return f"the parameter groups that Model.norms names; this model has no group {wrong[0]}" if wrong else None


def _convolutions(problem: Problem) -> str | None:
    kernels, shapes = problem.model.convolutions, _shapes(problem)
    if kernels is None:
        return _undeclared("convolutions")
    if not kernels:
        return "convolutions; this model has none"
    wrong = [path for path in kernels if len(shapes.get(path, ())) != 4]
    return f"kernels [height, width, in, out]; {wrong[0]}, which Model.convolutions names, is not one" if wrong else None


def _square(problem: Problem) -> str | None:
    shapes = _shapes(problem)
    oblong = [path for path in problem.model.convolutions or () if shapes[path][0] != shapes[path][1]]
    return "square kernels; {} is {} x {}".format(oblong[0], *shapes[oblong[0]]) if oblong else None


def _linear_head(problem: Problem) -> str | None:
    head, classes = problem.model.head, problem.classes
    if head is None:
        return _undeclared("head")
    shapes = _shapes(problem)
    expected = {head.kernel: 2, head.bias: 1} if head.bias else {head.kernel: 2}
    for path, axes in expected.items():
        shape = shapes.get(path, ())
        if len(shape) != axes or shape[-1] != classes:
            wanted = f"[in, {classes}]" if axes == 2 else f"[{classes}]"
            return f"a linear head; Model.head names {path}, of shape {list(shape)}; {classes} classes need {wanted}"
    shape = problem.train.images.shape[1:]
    if not widens(problem.model, head, (1, *shape), problem.train.images.dtype):
        return f"a linear head; Model.head names {head.kernel}, but one more column in it does not give one more output"
    return None


def _image(problem: Problem) -> str | None:
    shape = problem.train.images.shape[1:]
    return None if len(shape) == 3 else f"images [height, width, channels]; an example has the shape {shape}"


NEEDS: dict[str, Callable[[Problem], str | None]] = {
    "features": _declared("features"),
    "activations": _declared("activations"),
    "blocks": _declared("blocks"),
    "normalisation": _normalisation,
    "convolutions": _convolutions,
    "square kernels": _square,
    "linear head": _linear_head,
    "images": _image,
}


def _shapes(problem: Problem) -> dict[str, tuple[int, ...]]:
    return _shapes_of(problem.model, problem.train.images.shape[1:], problem.train.images.dtype)


@functools.lru_cache(maxsize=64)
def _shapes_of(model: Model, shape: tuple[int, ...], dtype) -> dict[str, tuple[int, ...]]:
    """The shapes of the params, by path; no weights are computed."""
    key, images = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((1, *shape), dtype)
    return {path: leaf.shape for path, leaf in arrays(jax.eval_shape(model.init, key, images).params).items()}
