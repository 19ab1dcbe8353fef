"""What the library's verbs were given, checked and in one form; every message begins with the argument's name."""

import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from unlearn_jax.bench.kinds import options
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.option_groups import Train
from unlearn_jax.bench.plugins import checked, entry_of, load_installed
from unlearn_jax.bench.setting import start_at
from unlearn_jax.bench.weights import Weights, folders_of, require_apart, require_enough
from unlearn_jax.checkpoints import Models, content, fitting, groups_in, read_folder, read_groups, stacked
from unlearn_jax.data import Dataset, numbered, places
from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics import checks
from unlearn_jax.models.paths import arrays
from unlearn_jax.training.pools import Fit
from unlearn_jax.types import Cube, Method, Model, Recipe, Start, Variables

Forget = Int[Any, " rows"] | Mapping[str, Int[Any, " rows"]]
MEMBERS = 24  # by default


def require_a(name: str, value: Any, kind: type) -> None:
    """Raises ValueError for a value of another type."""
    if not isinstance(value, kind):
        raise ValueError(f"{name}: {type(value).__name__} found, expected a {kind.__name__}")


def require_within(name: str, value: Any, least: int, most: int = 10**6) -> None:
    """Raises ValueError for anything but an integer in the range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: {value!r} found, expected an integer from {least} to {most:,}")


def require_option(name: str, value: Any) -> None:
    """Raises ValueError for a value that the main job's option of the same name does not accept."""
    (option,) = (each for each in options(Config) if each.path == (name,))
    try:
        option.check(value)
    except ArgumentError as error:
        raise ValueError(f"{name}: {value!r} found, {error.accepted}") from None


def require_place(name: str, value: Any) -> None:
    """Raises ValueError for anything but a path or None."""
    if value is not None and not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name}: {value!r} found, expected a path")


def recipe_of(recipe: Any) -> Recipe:
    """The recipe, by default `Recipe()`, with values that the options `--train` accept."""
    if recipe is None:
        return Recipe()
    require_a("recipe", recipe, Recipe)
    for option in options(Train):
        (name,) = option.path
        value = getattr(recipe, name)
        try:
            option.check(value.item() if isinstance(value, np.generic) else value)
        except ArgumentError as error:
            raise ValueError(f"recipe: {name} {value!r} found, {error.accepted}") from None
    return recipe


def hyper_of(hyper: Any) -> dict[str, dict[str, Any]]:
    """Given hyperparameters: method -> name -> value."""
    given = {} if hyper is None else hyper
    if not isinstance(given, Mapping) or not all(isinstance(values, Mapping) for values in given.values()):
        raise ValueError(f"hyper: {hyper!r} found, expected a mapping from methods to mappings from hyperparameters to values")
    return {method: dict(values) for method, values in given.items()}


def methods_of(methods: Sequence[str | Method] | str, argument: str = "methods") -> tuple[list[str], dict[str, Entry]]:
    """The registered methods by name, and the entries of one's own functions."""
    if not isinstance(methods, Iterable):
        raise ValueError(f"{argument}: {methods!r} found, expected a sequence of names or functions")
    load_installed()
    words = [word.strip() for word in methods.split(",")] if isinstance(methods, str) else list(methods)
    registered: list[str] = []
    own: dict[str, Entry] = {}
    for method in words:
        if isinstance(method, str):
            if method not in METHODS:
                raise ValueError(f"{argument}: there is no {method!r}; expected some of {', '.join(METHODS)}, or functions")
            registered.append(method)
        elif callable(method):
            name = getattr(method, "__name__", type(method).__name__)
            if name in METHODS or name in own:
                raise ValueError(f"{argument}: the name {name} is taken; give the function another __name__")
            own[name] = _entry(method)
        else:
            raise ValueError(f"{argument}: {method!r} is neither a name nor a function")
    if not words:
        raise ValueError(f"{argument}: empty, expected names or functions")
    return list(dict.fromkeys(registered)), own


def _entry(method: Method) -> Entry:
    """A function as an entry of the registry, other than all before: nobody knows whether it still computes the same."""
    token = np.frombuffer(uuid.uuid4().bytes, np.uint8)
    return entry_of(method, functools.partial(_given, token, method=checked(method)))


def _given(token: np.ndarray, *, method: Callable[..., Variables]) -> Method:
    return method


def unknown_training(originals: Any, oracles: Any, recipe: Recipe | None, fit: Fit | None) -> str:
    """What would have to be said for models to be trained as those that are given were; nothing where it is known."""
    if (originals is None and oracles is None) or recipe is not None or fit is not None:
        return ""
    if oracles is None:
        missing = "there is no null: give oracles, or recipe= or fit= by which models are trained again without the forget set"
        raise ValueError(f"originals: without more {missing}")
    if originals is None:
        raise ValueError("oracles: give originals too, or recipe= or fit= by which the originals are trained as the oracles were")
    return "recipe= or fit=, by which the given models were trained"


def fit_token(fit: Any, name: str | None, cache: Any) -> str:
    """What the models of a trainer are found by; another one at each call if it has no name."""
    if fit is None:
        if name is not None:
            raise ValueError(f"fit_name: {name!r} found, but no fit=")
        return ""
    if not callable(fit):
        raise ValueError(f"fit: {type(fit).__name__} found, expected a function (key, mask) -> variables")
    if name is None and cache is not None:
        reason = "nobody can tell whether a function still computes the same"
        raise ValueError(
            f"fit: its models are kept in cache= by a name, since {reason}; give fit_name=, and another when fit changes"
        )
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"fit_name: {name!r} found, expected a text")
    return name or uuid.uuid4().hex


def start_of(init: Any, freeze: Sequence[str], like: Variables, fit: Any) -> tuple[Start | None, dict[str, Any]]:
    """Where training starts, and what models that start there are found by; None and nothing at random weights."""
    if not isinstance(freeze, Collection) or not all(isinstance(name, str) for name in freeze):
        raise ValueError(f"freeze: {freeze!r} found, expected names of top-level groups")
    if init is None:
        if len(freeze):
            raise ValueError(f"freeze: {', '.join(freeze)} found, but no init=")
        return None, {}
    if fit is not None:
        raise ValueError("init: is of the recipe, and fit= is given, which trains from where it wants")
    if isinstance(init, str | Path):
        variables, digest = read_groups(Path(init), like, "init")
    else:
        try:
            variables = fitting(init, groups_in(arrays(dict(zip(Variables._fields, init, strict=True))), like))
        except (ValueError, TypeError) as error:
            raise ValueError(f"init: {error}") from error
        digest = hashlib.sha256(content(variables)).hexdigest()
    names = [freeze] if isinstance(freeze, str) else list(freeze)
    return start_at(variables, names, like, shown(init)), {"init": digest, "freeze": names}


def weights_of(originals: Any, oracles: Any, names: list[str], like: Variables, members: int | None) -> tuple[Weights, int]:
    """The models that were given, checked; and the number of originals."""
    own = None if originals is None else _models("originals", originals, like)
    theirs: dict[str, Models] = {}
    if isinstance(oracles, Mapping):
        if set(oracles) != set(names):
            raise ValueError(f"oracles: of {', '.join(map(str, oracles))}; expected the forget sets {', '.join(names)}")
        theirs = {name: _models("oracles", oracles[name], like) for name in names}
    elif isinstance(oracles, str | Path):
        theirs = {name: _models("oracles", folder, like) for name, folder in folders_of(Path(oracles), names).items()}
    elif oracles is not None:
        if len(names) > 1:
            raise ValueError(f"oracles: expected a mapping from the forget sets {', '.join(names)}, which have their own oracles")
        theirs = {names[0]: _models("oracles", oracles, like)}
    if members is None:
        counts = [len(own.digests)] if own else [len(models.digests) // 2 for models in theirs.values()]
        members = max(min(counts, default=MEMBERS), 2)
    own = own and require_enough(own, members, "originals", shown(originals))
    theirs = {name: require_enough(models, members, "oracles", shown(oracles)) for name, models in theirs.items()}
    return require_apart(Weights(own, theirs), shown(oracles)), members


def _models(argument: str, given: Any, like: Variables) -> Models:
    """Originals or oracles, from a folder or from memory."""
    if isinstance(given, str | Path):
        return read_folder(Path(given), like, argument)
    if hasattr(given, "_fields") and given._fields == Cube._fields:
        raise ValueError(f"{argument}: logits found, expected variables or a folder of them; uj.score takes logits")
    try:
        return stacked(given, like)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def shown(given: Any) -> str:
    """What was given, for messages."""
    return str(given) if isinstance(given, str | Path) else "(in memory)"


def sets_of(forget: Forget) -> dict[str, Any]:
    """The forget sets by name."""
    if not isinstance(forget, Mapping):
        return {"given-0": forget}
    if not forget or not all(isinstance(name, str) and name.isprintable() and "/" not in name and name for name in forget):
        raise ValueError("forget: expected rows, a mask, or a mapping from names (without a slash) to such")
    return dict(forget)


def mask_of(forget: Any, data: Dataset) -> np.ndarray:
    """The rows to forget as a mask of the rows that are trained on."""
    try:
        rows = np.asarray(forget)
    except Exception as error:  # ragged lists, tensors on a device, anything
        raise ValueError("forget: expected rows, a mask, or a mapping from names to such; no array can be made of it") from error
    if rows.dtype == bool and rows.shape != (data.published.total,):
        expected = f"expected one truth value for each of {data.published.total} training rows"
        raise ValueError(f"forget: a mask of shape {rows.shape}, {expected}")
    if rows.dtype.kind not in "iub" or rows.ndim != 1:
        raise ValueError(f"forget: expected row numbers or a mask, not {rows.dtype} of shape {rows.shape}")
    mask = np.zeros(len(data.train.labels), bool)
    try:
        mask[places(numbered(rows.tolist(), data.published.total), data.published)] = True
    except ValueError as error:
        raise ValueError(f"forget: {error}") from error
    return mask


def label_of(data: Dataset, mask: np.ndarray) -> int | None:
    """The class that a forget set consists of; None if it holds several."""
    there = np.unique(data.train.labels[mask])
    return int(there[0]) if len(there) == 1 else None


def is_stacked(model: Model, variables: Variables, shape: tuple[int, ...]) -> bool:
    """Whether variables are of several models, with a leading axis of models."""
    wanted = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
    if jax.tree.structure(variables) != jax.tree.structure(wanted):  # type: ignore[operator]
        raise ValueError("variables: not of this model, whose arrays have other names")
    one, given = ([np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (wanted, variables))
    if given == one:
        return False
    if not given[0][:1] or not given[0][0]:
        raise ValueError("variables: a stack of no models")
    if given != [(*given[0][:1], *leaf) for leaf in one]:
        raise ValueError("variables: their arrays have the shapes of neither one model nor a stack of models")
    return True


def cube_of(name: str, given: Any) -> Cube:
    """Logits by split `[members, examples, classes]`, of equally many models on each."""
    cube = arrays_of(name, given, Cube)
    for split, logits in zip(Cube._fields, cube, strict=True):
        try:
            checks.logits(name, logits)
        except ValueError as error:
            raise ValueError(f"{name}: on {split}: {str(error).removeprefix(f'{name}: ')}") from error
    members = [len(logits) if logits.ndim else 0 for logits in cube]
    if len(set(members)) > 1:
        raise ValueError(f"{name}: {members[0]}, {members[1]} and {members[2]} models on forget, retain and test")
    return cube


def require_alike(name: str, cube: Cube, unlearned: Cube) -> None:
    """Raises ValueError for logits of other examples or classes than the unlearned models'."""
    for split, own, theirs in zip(Cube._fields, cube, unlearned, strict=True):
        if own.shape[1:] != theirs.shape[1:]:
            counts = [f"{shape[1]} examples of {shape[2]} classes" for shape in (own.shape, theirs.shape)]
            raise ValueError(f"{name}: {counts[0]} on {split}; the unlearned models have {counts[1]}")


def repeated(unlearned: Cube, oracles: Cube) -> str:
    """Says which oracle stands twice, or is one of the unlearned models too; nothing if none does.

    Args:
        unlearned: logits.
        oracles: logits.
    """
    names: dict[bytes, str] = {}
    for role, cube in (("oracles", oracles), ("unlearned", unlearned)):
        digests = [
            b"".join(np.ascontiguousarray(logits[member]).tobytes() for logits in cube) for member in range(len(cube.forget))
        ]
        for member, digest in enumerate(digests):
            if digest in names and (role == "oracles" or names[digest].startswith("oracle ")):
                return f"{role}: model {member} gives the same logits as {names[digest]}"
            names.setdefault(digest, f"{'oracle' if role == 'oracles' else 'unlearned model'} {member}")
    return ""


def arrays_of(name: str, given: Any, kind: type) -> Any:
    """A value of `kind` from arrays by split."""
    there = given._asdict() if hasattr(given, "_asdict") else given
    if not isinstance(there, Mapping) or set(there) != set(kind._fields):  # type: ignore[attr-defined]
        keys = ", ".join(map(str, there)) if isinstance(there, Mapping) else type(given).__name__
        raise ValueError(f"{name}: expected arrays called forget, retain and test, not {keys}")
    try:
        return kind(**{split: np.asarray(array) for split, array in there.items()})
    except Exception as error:  # ragged lists, tensors on a device, anything
        raise ValueError(f"{name}: no array can be made of what was given") from error
