"""The library's three verbs: `evaluate` (the whole job), `unlearn` (one model) and `score` (logits of any framework)."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.bench.answers import Leaderboard, Verdict, verdict_of, verdicts_of
from unlearn_jax.bench.arguments import (
    Forget,
    arrays_of,
    cube_of,
    fit_token,
    hyper_of,
    is_stacked,
    label_of,
    mask_of,
    methods_of,
    recipe_of,
    repeated,
    require_a,
    require_alike,
    require_option,
    require_place,
    require_within,
    sets_of,
    start_of,
    unknown_training,
    weights_of,
)
from unlearn_jax.bench.curves import recording
from unlearn_jax.bench.evaluate import evaluate_sets
from unlearn_jax.bench.forget_set import same_rows
from unlearn_jax.bench.hyperparameters import hyperparameters_of, origins_of, require_used
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.option_groups import Evaluation, Train
from unlearn_jax.bench.options import MAIN
from unlearn_jax.bench.population import comparable
from unlearn_jax.bench.scoring import margins, memory_of, of_models, of_oracles
from unlearn_jax.bench.setting import forgetting, setting_of
from unlearn_jax.bench.time_left import stages
from unlearn_jax.checkpoints import shapes_of
from unlearn_jax.data import Dataset
from unlearn_jax.methods import METHODS, hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import reference
from unlearn_jax.metrics import score as score_cube
from unlearn_jax.metrics.effects import MARGIN, effects, exchanged
from unlearn_jax.metrics.views import views_of
from unlearn_jax.models.fingerprint import fingerprint
from unlearn_jax.progress import planned
from unlearn_jax.runs import open_run
from unlearn_jax.training.pools import Fit, member_keys
from unlearn_jax.types import Cube, Labels, Method, Model, Recipe, Variables
from unlearn_jax.workers import using

SPLITS = 10**5  # the most splits of the oracles


def evaluate(
    model: Model,
    data: Dataset,
    *,
    forget: Forget,
    methods: Sequence[str | Method] | str = MAIN,
    hyper: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: Recipe | None = None,
    members: int | None = None,
    originals: Variables | Path | str | None = None,
    oracles: Variables | Path | str | Mapping[str, Variables | Path | str] | None = None,
    fit: Fit | None = None,
    fit_name: str | None = None,
    init: Variables | Path | str | None = None,
    freeze: Sequence[str] = (),
    unlearning_seeds: int = 1,
    splits: int = 100,
    retain_size: int = 2000,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    save_models: bool = False,
    seed: int = 0,
    strategy: str = "auto",
    chunk: int | None = None,
    client: Any = None,
) -> Leaderboard:
    """Measures unlearning methods against the distribution of models retrained without the forget set.

    Trains `members` originals and, for each forget set, twice as many oracles; unlearns every original by every method; and
    scores each method by every metric beside its null. What was trained, and what methods made of it, is kept in the cache and
    found again.

    Models that exist already are given as `originals` and `oracles`. Where only one of the two is, the other is trained, and how
    has to be said: by `recipe` or by `fit`. So it has for the method `retrain`, which is left out otherwise. A single checkpoint
    is no distribution, and has no null.

    Args:
        model: a network as pure functions, such as `build` gives. Its trained models are found again by what it computes.
        data: such as `load` gives.
        forget: the rows to forget: numbers in the published training set, or a mask of its length. A mapping from names to such
            gives several forget sets.
        methods: names of the registry (a sequence, or in one string separated by commas), and functions
            `(key, problem, variables) -> variables` of one's own, which are called by their `__name__`. Logits of one's own
            functions are made anew at every call; those of registered ones are found in `out` or `cache`.
        hyper: of the registered methods among `methods`: method, or `*` for every method that has it -> hyperparameter -> value.
            By default the tuned ones of the data set, or the authors'.
        recipe: how models are trained, which some methods follow too; by default `Recipe()`.
        members: originals, each unlearned by each method. Below 8 there is no verdict. By default as many as are given, else 24.
        originals: models that were trained on all rows, in place of those that would be trained here: variables with a leading
            axis of models, or a folder with a .safetensors file for each (`save_variables`). The first `members` are taken.
        oracles: likewise models that were trained without the forget set, at least twice as many as members, each with a key
            of its own. For several forget sets a mapping from their names, or a folder that holds a folder for each.
        fit: your own trainer, of any framework, in place of `recipe`: `(key, mask) -> variables` trains one model from scratch
            on the rows of `data.train` that the mask keeps. It is called on the host, for one model after the other; all of its
            chance should follow from the key (`int(jax.random.bits(key))` is a seed). Variables may be a pair of nested dicts
            of arrays, params and statistics.
        fit_name: what its models are found by in the cache: change it when `fit` changes. Without a name they are kept nowhere.
        init: the weights from which the recipe starts, in place of random ones: variables of one model, or a .safetensors file.
            Top-level groups that they lack, such as the head, are drawn at random.
        freeze: top-level groups of these weights that training leaves as they are: names or patterns.
        unlearning_seeds: times that each method unlearns each original, with other keys.
        splits: random splits of the oracles in two halves, from which each null comes.
        retain_size: retained examples that are judged.
        out: the run folder; one that an earlier call left is taken up again. By default a temporary one.
        cache: where models and the logits of methods are kept for other calls; by default `~/.cache/unlearn_jax`.
        save_models: whether originals, oracles and unlearned models are written into the run folder, under `models`.
        seed: everything random follows from it.
        strategy: "vmap" (all members of a chunk at once), "map" (one by one) or "auto".
        chunk: members at a time; by default as many as fit into memory.
        client: a `distributed.Client`, whose workers then do what is heavy (docs/scale.md).

    Raises:
        ValueError: an argument cannot be used; the message begins with its name. Nothing has been trained then.
        WorkersError: the workers of `client` were lost.
        ArgumentError: too few models are left, the others having diverged, or `out` holds another run.
        StorageError: `out` or `cache` cannot be written.
    """
    require_a("model", model, Model)
    require_a("data", data, Dataset)
    registered, own = methods_of(methods)
    if members is not None:
        require_within("members", members, 2)
    require_within("seed", seed, 0, 2**32 - 1)
    require_within("unlearning_seeds", unlearning_seeds, 1)
    require_within("splits", splits, 2, SPLITS)
    require_within("retain_size", retain_size, 1)
    require_option("chunk", chunk)
    require_option("save_models", save_models)
    require_place("out", out)
    require_place("cache", cache)
    given, followed = hyper_of(hyper), recipe_of(recipe)
    masks = {name: mask_of(rows, data) for name, rows in sets_of(forget).items()}
    if twice := same_rows(masks):
        raise ValueError(f"forget: {twice}")
    unknown = unknown_training(originals, oracles, recipe, fit)
    token = fit_token(fit, fit_name, cache)
    digest = fingerprint(model, data.train.images.shape[1:])
    like = shapes_of(model, data.train.images.shape[1:])
    start, started = start_of(init, freeze, like, fit)
    identity = {"model": digest, **({"fit": token, "recipe": None} if fit else {}), **started}
    setting = setting_of(data, model, identity, followed, start)
    weights, members = weights_of(originals, oracles, list(masks), like, members)
    setting = setting._replace(weights=weights._replace(save=save_models), fit=fit)
    left_out = {name: f"needs {lacking}" for name in registered if (lacking := METHODS[name].unmet(setting.problem))}
    if "retrain" in registered and unknown:
        left_out["retrain"] = f"needs {unknown}"
    asked = [name for name in registered if name not in left_out]
    if not asked and not own:
        raise ValueError(f"methods: none can be used with this model ({'; '.join(f'{k} {v}' for k, v in left_out.items())})")
    labels = {name: label_of(data, mask) for name, mask in masks.items()}
    values = {
        name: hyperparameters_of(data.name, asked, given, label) | {method: {} for method in own}
        for name, label in labels.items()
    }
    require_used(given, registered)
    origins = origins_of(data.name, asked, given, next((label for label in labels.values() if label is not None), None))
    place = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="unlearn_jax-"))
    config = Config(
        dataset=data.name,
        model=f"given-{digest[:8]}",
        seed=seed,
        members=members,
        unlearning_seeds=unlearning_seeds,
        forget_sets=len(masks),
        evaluation=Evaluation(splits=splits, retain_size=retain_size),
        train=Train(**dataclasses.asdict(followed)),
        strategy=strategy,  # type: ignore[arg-type]
        chunk=chunk,
        out=place,
        cache=Path(cache) if cache is not None else _user_cache(),
    )
    record = {
        **config.values(),
        "methods": [*asked, *own],
        "data": data.fingerprint,
        "model": digest,
        "forget": {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()},
    }
    taken = weights.described() + ([f"init {started['init'][:16]}"] if started else [])
    record |= {"given": taken} if taken else {}
    record |= {"freeze": started["freeze"]} if started else {}
    record |= {"fit": fit_name} if fit else {}
    folder = open_run(place, record, extendable=config.immaterial | config.extendable, cache=config.cache)
    with tempfile.TemporaryDirectory(prefix="unlearn_jax-") as passing, recording(folder), _workers_of(client):
        if fit and not fit_name:
            config = dataclasses.replace(config, cache=Path(passing))
        try:
            with planned(stages(config, setting, masks, list(next(iter(values.values()))))):
                outcome = evaluate_sets(config, folder, setting, masks, values, {**METHODS, **own}, origins)
        except ValueError:
            folder.withdraw()
            raise
    return Leaderboard(outcome.rows, verdicts_of(outcome), left_out, place, outcome.board)


@contextlib.contextmanager
def _workers_of(client: Any) -> Iterator[None]:
    """Lets the workers of a client do what is heavy; Dask is imported only where there is one."""
    if client is None:
        yield
        return
    from unlearn_jax.cluster import of_client

    with of_client(client) as workers, using(workers):
        yield


def unlearn(
    method: str | Method,
    model: Model,
    variables: Variables,
    data: Dataset,
    *,
    forget: Int[Any, " rows"],
    recipe: Recipe | None = None,
    seed: int = 0,
    strategy: str = "auto",
    **values: Any,
) -> Variables:
    """Unlearns one trained model, or a stack of them.

    Args:
        method: a name of the registry, or a function `(key, problem, variables) -> variables`.
        model: what the variables belong to.
        variables: of one model; or of several, with a leading axis of models on every array.
        data: that it was trained on.
        forget: the rows to forget: numbers in the published training set, or a mask of its length.
        recipe: how it was trained, which some methods follow; by default `Recipe()`.
        seed: the method's own chance follows from it.
        strategy: as in `evaluate`.
        values: hyperparameters of a registered method; by default the tuned ones of the data set, or the authors'.

    Returns:
        New variables, in the form of the given ones.

    Raises:
        ValueError: an argument cannot be used, or the method needs something that the model lacks.
    """
    require_a("model", model, Model)
    require_a("data", data, Dataset)
    require_within("seed", seed, 0, 2**32 - 1)
    followed = recipe_of(recipe)
    registered, own = methods_of([method], "method")
    for key in values:
        if registered and key not in METHODS[registered[0]].defaults:
            raise ValueError(f"{key}: {registered[0]} takes {', '.join(METHODS[registered[0]].defaults) or 'no hyperparameters'}")
    mask = mask_of(forget, data)
    setting = setting_of(data, model, {}, followed)
    stacked = is_stacked(model, variables, data.train.images.shape[1:])
    several = variables if stacked else jax.tree.map(lambda leaf: np.asarray(leaf)[None], variables)
    if registered:
        (name,) = registered
        hyperparameters(name, values)  # whose message names the value
        chosen = hyperparameters_of(data.name, registered, {name: values}, label_of(data, mask))[name]
        unlearner = Unlearner(name, chosen, forgetting(setting, mask), several, strategy=strategy)
    else:
        ((name, entry),) = own.items()
        if values:
            raise ValueError(f"{next(iter(values))}: hyperparameters are of registered methods; {name} is a function")
        unlearner = Unlearner(entry, {}, forgetting(setting, mask), several, strategy=strategy)
    count = len(jax.tree.leaves(several)[0])
    after = unlearner.apply(member_keys(seed, name, count)).variables
    return after if stacked else jax.tree.map(lambda leaf: leaf[0], after)


def score(
    *,
    unlearned: Cube | Mapping[str, Float[Any, "members examples classes"]],
    oracles: Cube | Mapping[str, Float[Any, "members examples classes"]],
    labels: Labels | Mapping[str, Int[Any, " examples"]],
    originals: Cube | Mapping[str, Float[Any, "members examples classes"]] | None = None,
    margin: float = MARGIN,
    splits: int = 100,
    seed: int = 0,
) -> Verdict:
    """Compares the logits of unlearned models with those of retrained ones. Nothing is trained, and any framework will do.

    Of N oracles N/2 are compared with as many unlearned models; of more unlearned ones the first are taken.

    Args:
        unlearned: logits on the splits `forget`, `retain` and `test`.
        oracles: likewise, of models retrained without the forget set with keys of their own; twice as many as the unlearned.
        labels: of the examples of each split; on forget and retain, those trained on.
        originals: logits of the models before unlearning, the i-th that of the i-th unlearned one: gives the effect sizes, and
            the memory of single models.
        margin: within which models are equivalent to retrained ones, as a share of what there is to forget.
        splits: random splits of the oracles in two halves, from which each null comes.
        seed: draws them.

    Raises:
        ValueError: an argument cannot be used; the message begins with its name.
    """
    require_within("splits", splits, 2, SPLITS)
    require_within("seed", seed, 0, 2**32 - 1)
    own, theirs = cube_of("unlearned", unlearned), cube_of("oracles", oracles)
    require_alike("oracles", theirs, own)
    if twice := repeated(own, theirs):
        raise ValueError(twice)
    of = arrays_of("labels", labels, Labels)
    n = comparable(len(own.forget), len(theirs.forget))
    if n < 2:
        counts = f"{len(own.forget)} unlearned models and {len(theirs.forget)} oracles"
        raise ValueError(f"unlearned, oracles: {counts}; expected 2 or more, and twice as many oracles")
    found, known = None, None
    if not isinstance(margin, int | float) or not 0 < margin < 1:
        raise ValueError(f"margin: {margin!r} found, expected a number between 0 and 1")
    if originals is not None:
        before = cube_of("originals", originals)
        require_alike("originals", before, own)
        if len(before.forget) != len(own.forget):
            expected = f"expected {len(own.forget)}, one for each of the unlearned ones"
            raise ValueError(f"originals: {len(before.forget)} models, {expected}")
        if wrong := exchanged(margins(before, of)["forget"], margins(theirs, of)["forget"]):
            raise ValueError(f"oracles: {wrong}")
        found = effects(margins(own, of), margins(before, of), margins(theirs, of))
        known = before, ()
    memory = memory_of(known, theirs, of)
    first = Cube(*(logits[:n] for logits in own))
    with views_of(of, seed).attacks_begun([first]) as views:
        null = reference(theirs, of, n, splits=splits, seed=seed, extra=of_oracles(memory), views=views)
        scored = score_cube(first, null, extra=of_models(memory, (first, ()), known, of))
    return verdict_of(scored, found, margin=margin)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "unlearn_jax"
