"""What methods need of a model: named in the registry, looked up in what the model says of itself, and never guessed."""

import functools
from collections.abc import Callable, Sequence

import jax

from unlearn_jax.models.parts import widens
from unlearn_jax.models.paths import arrays
from unlearn_jax.types import Model, Problem


def unmet(needs: Sequence[str], problem: Problem) -> str | None:
    """The first need that the problem's model does not meet, as the end of a sentence about what needs it; None: all are met.

    Args:
        needs: of `NEEDS`.
        problem: its model, and the shape of its examples.
    """
    return next((reason for need in needs if (reason := NEEDS[need](problem))), None)


def require(name: str, needs: Sequence[str], problem: Problem) -> None:
    """Raises ValueError, in one line, if the problem's model does not meet what `name` needs."""
    if reason := unmet(needs, problem):
        raise ValueError(f"{name} needs {reason}")


def _said(fact: str, what: str) -> Callable[[Problem], str | None]:
    """A need that is met where the model says a fact, whatever it says."""
    said = f"{what}, which the model does not say (Model.{fact})"
    return lambda problem: None if getattr(problem.model, fact) not in (None, ()) else said


def _normalisation(problem: Problem) -> str | None:
    norms = problem.model.norms
    if norms is None:
        return "to know which parameters belong to a normalisation, which the model does not say (Model.norms)"
    paths = [f"{path}/" for path in _shapes(problem)]
    wrong = [norm for norm in norms if not any(path.startswith(f"{norm}/") for path in paths)]
    return f"the groups that Model.norms names; {wrong[0]} is none of the model's" if wrong else None


def _convolutions(problem: Problem) -> str | None:
    kernels, shapes = problem.model.convolutions, _shapes(problem)
    if kernels is None:
        return "to know which parameters are kernels of convolutions, which the model does not say (Model.convolutions)"
    if not kernels:
        return "convolutions, which the model has not"
    wrong = [path for path in kernels if len(shapes.get(path, ())) != 4]
    return f"kernels [height, width, in, out]; Model.convolutions names {wrong[0]}, which is none" if wrong else None


def _square(problem: Problem) -> str | None:
    shapes = _shapes(problem)
    oblong = [path for path in problem.model.convolutions or () if shapes[path][0] != shapes[path][1]]
    return f"kernels as high as wide; {oblong[0]} is {shapes[oblong[0]][:2]}" if oblong else None


def _linear_head(problem: Problem) -> str | None:
    head, classes = problem.model.head, problem.classes
    if head is None:
        return "a linear head, and the model does not say where its kernel [in, out] is (Model.head)"
    shapes = _shapes(problem)
    expected = {head.kernel: 2, head.bias: 1} if head.bias else {head.kernel: 2}
    for path, axes in expected.items():
        shape = shapes.get(path, ())
        if len(shape) != axes or shape[-1] != classes:
            wanted = f"[in, {classes}]" if axes == 2 else f"[{classes}]"
            return f"a linear head; Model.head names {path}, of shape {list(shape)}, where {classes} classes want {wanted}"
    shape = problem.train.images.shape[1:]
    if not widens(problem.model, head, (1, *shape), problem.train.images.dtype):
        return f"a linear head; Model.head names {head.kernel}, but one more column of it is not one more output"
    return None


def _image(problem: Problem) -> str | None:
    shape = problem.train.images.shape[1:]
    return None if len(shape) == 3 else f"images [height, width, channels]; an example has the shape {shape}"


NEEDS: dict[str, Callable[[Problem], str | None]] = {
    "features": _said("features", "what the head reads"),
    "activations": _said("activations", "what each block gives"),
    "blocks": _said("blocks", "the parameter groups in order"),
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
    """The shapes of the params, by path; nothing is computed."""
    key, images = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((1, *shape), dtype)
    return {path: leaf.shape for path, leaf in arrays(jax.eval_shape(model.init, key, images).params).items()}
