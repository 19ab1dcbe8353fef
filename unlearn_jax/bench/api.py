"""The library's three verbs: `evaluate` (the whole job), `unlearn` (one model) and `score` (logits of any framework)."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int

from unlearn_jax.bench.curves import recording
from unlearn_jax.bench.evaluate import Outcome, evaluate_sets
from unlearn_jax.bench.forget_set import same_rows
from unlearn_jax.bench.hyperparameters import hyperparameters_of, origins_of, require_used
from unlearn_jax.bench.main_options import Config
from unlearn_jax.bench.options import MAIN, Evaluation, Train
from unlearn_jax.bench.plugins import checked, entry_of, load_installed
from unlearn_jax.bench.population import comparable
from unlearn_jax.bench.scoring import margins, memory_of, of_models, of_oracles
from unlearn_jax.bench.setting import forgetting, setting_of, start_at
from unlearn_jax.bench.time_left import stages
from unlearn_jax.bench.weights import Weights, folders_of, require_apart, require_enough
from unlearn_jax.checkpoints import Models, content, fitting, groups_in, read_folder, read_groups, shapes_of, stacked
from unlearn_jax.data import Dataset, numbered, places
from unlearn_jax.methods import METHODS, Entry, hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import Evaluation as Scores
from unlearn_jax.metrics import Score, pooled, reference
from unlearn_jax.metrics import score as score_cube
from unlearn_jax.metrics.effects import MARGIN, Effects, effects, exchanged, mean_effects, outcome_of
from unlearn_jax.metrics.statistics import NEGLIGIBLE
from unlearn_jax.metrics.verdict import FEWEST_JUDGED
from unlearn_jax.models.fingerprint import fingerprint
from unlearn_jax.models.paths import arrays
from unlearn_jax.progress import planned
from unlearn_jax.report import leaderboard
from unlearn_jax.report.rows import Row
from unlearn_jax.runs import open_run
from unlearn_jax.training.pools import Fit, member_keys
from unlearn_jax.types import Cube, Interval, Labels, Method, Model, Recipe, Start, Variables
from unlearn_jax.workers import using

if TYPE_CHECKING:
    import pandas

Forget = Int[Any, " rows"] | Mapping[str, Int[Any, " rows"]]
SPLITS = 10**5  # the most splits of the oracles
LINES, WIDTH = 10, 80  # of a printed verdict
NAMED = 2  # methods left out that a printed board has a line for
MEMBERS = 24  # by default


@dataclasses.dataclass(frozen=True, repr=False)
class Verdict:
    """How unlearned models compare with retrained ones.

    Attributes:
        outcome: "equivalent" to retraining (memory left and damage lie within the margin), "not distinguished" from it at this
            number of models, or "different"; None below 8 models a side.
        scores: each metric, with its null.
        largest: the largest evidence of a difference over all metrics, in standard deviations of the null.
        band: what the largest evidence of retrained models stays below, in 95 of 100 cases.
        members: the unlearned models that were compared.
        lost: members that diverged and are in no score; with one of them the outcome is "different".
        memory_left: the share of what the originals remember of the forget set that is still there; None without originals.
        damage: what changed besides, as a share of what there is to forget, over all splits; None without originals.
    """

    outcome: str | None
    scores: list[Score]
    largest: float
    band: float
    members: int
    lost: tuple[str, ...] = ()
    memory_left: Interval | None = None
    damage: Interval | None = None

    def __str__(self) -> str:
        """Ten lines of 80 characters at most: the outcome, and the metrics with the largest evidence."""
        outcome = self.outcome or f"no verdict below {FEWEST_JUDGED}"
        of_band = f"largest |z| {self.largest:.2f}, of retrained models up to {self.band:.2f}"
        lines = [f"{outcome} (n={self.members}; {of_band})"]
        if self.memory_left and self.damage and not math.isnan(self.memory_left.value):
            sizes = f"memory left {self.memory_left:z.2f}, damage {self.damage:z.2f}"
            lines += [sizes]
        lines += [f"{len(self.lost)} members diverged: {', '.join(self.lost)}"] * bool(self.lost)
        for score in sorted(self.scores, key=lambda score: -score.evidence)[: LINES - len(lines)]:
            mean = score.null.mean if abs(score.null.mean) > NEGLIGIBLE * score.null.sd else 0.0  # no 8.674e-18
            name, null = f"{score.metric} {score.split}".strip(), f"{mean:.4g} ± {score.null.sd:.2g}"
            lines.append(f"  {name:<26}{score.value:>10.4g}  retrained {null:<18}|z| {score.evidence:.1f}".rstrip())
        return "\n".join(leaderboard.cut(line, WIDTH) for line in lines)

    __repr__ = __str__  # what a notebook shows


@dataclasses.dataclass(frozen=True, repr=False)
class Leaderboard:
    """What `evaluate` found.

    Attributes:
        rows: as in results.csv.
        verdict: of every method, over all forget sets.
        left_out: methods that this model cannot serve, with the reason.
        folder: the run folder with all tables, figures and logits; in the temporary folder if `out` was not given.
        board: the table as text.
    """

    rows: list[Row]
    verdict: dict[str, Verdict]
    left_out: dict[str, str]
    folder: Path
    board: leaderboard.Leaderboard

    def __str__(self) -> str:
        """About ten lines of 80 characters: the first methods of the table, and where all of it is."""
        left_out = [f"{name}: left out, it {reason}" for name, reason in self.left_out.items()]
        if len(left_out) > NAMED:
            left_out[NAMED - 1 :] = [f"{len(left_out) - NAMED + 1} more left out: {', '.join([*self.left_out][NAMED - 1 :])}"]
        where = f"all: {self.folder}/summary.md"
        lines = [*leaderboard.outline(self.board, WIDTH), *(leaderboard.cut(line, WIDTH) for line in left_out), where]
        return "\n".join(lines)

    __repr__ = __str__  # what a notebook shows

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns the rows as a table, with the columns of results.csv; an empty cell is a missing value.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'unlearn_jax[pandas]', or pip install pandas") from error
        return pandas.DataFrame(self.rows, columns=list(Row._fields))

    def write(self, folder: Path | str) -> None:
        """Copies the run folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


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
    scores each method by every metric beside its null. What was trained is kept in the cache and found again.

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
            functions are made anew at every call; those of registered ones are found in `out`.
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
        cache: where models are kept for other calls; by default `~/.cache/unlearn_jax`.
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
    _given_as("model", model, Model)
    _given_as("data", data, Dataset)
    registered, own = _named(methods)
    if members is not None:
        _within("members", members, 2)
    _within("seed", seed, 0, 2**32 - 1)
    _within("unlearning_seeds", unlearning_seeds, 1)
    _within("splits", splits, 2, SPLITS)
    _within("retain_size", retain_size, 1)
    masks = {name: _mask(rows, data) for name, rows in _sets(forget).items()}
    if twice := same_rows(masks):
        raise ValueError(f"forget: {twice}")
    unknown = _unknown_training(originals, oracles, recipe, fit)
    token = _fit_token(fit, fit_name, cache)
    recipe = recipe or Recipe()
    digest = fingerprint(model, data.train.images.shape[1:])
    like = shapes_of(model, data.train.images.shape[1:])
    start, started = _start(init, freeze, like, fit)
    identity = {"model": digest, **({"fit": token, "recipe": None} if fit else {}), **started}
    setting = setting_of(data, model, identity, recipe, start)
    weights, members = _weights(originals, oracles, list(masks), like, members)
    setting = setting._replace(weights=weights._replace(save=save_models), fit=fit)
    left_out = {name: f"needs {lacking}" for name in registered if (lacking := METHODS[name].unmet(setting.problem))}
    if "retrain" in registered and unknown:
        left_out["retrain"] = f"needs {unknown}"
    asked = [name for name in registered if name not in left_out]
    if not asked and not own:
        raise ValueError(f"methods: none can be used with this model ({'; '.join(f'{k} {v}' for k, v in left_out.items())})")
    given = {key: dict(each) for key, each in (hyper or {}).items()}
    labels = {name: _label(data, mask) for name, mask in masks.items()}
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
        train=Train(**dataclasses.asdict(recipe)),
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
    return Leaderboard(outcome.rows, _verdicts(outcome), left_out, place, outcome.board)


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
    _given_as("model", model, Model)
    _given_as("data", data, Dataset)
    _within("seed", seed, 0, 2**32 - 1)
    registered, own = _named([method], "method")
    for key in values:
        if registered and key not in METHODS[registered[0]].defaults:
            raise ValueError(f"{key}: {registered[0]} takes {', '.join(METHODS[registered[0]].defaults) or 'no hyperparameters'}")
    mask = _mask(forget, data)
    setting = setting_of(data, model, {}, recipe or Recipe())
    stacked = _stacked(model, variables, data.train.images.shape[1:])
    several = variables if stacked else jax.tree.map(lambda leaf: np.asarray(leaf)[None], variables)
    if registered:
        (name,) = registered
        hyperparameters(name, values)  # whose message names the value
        chosen = hyperparameters_of(data.name, registered, {name: values}, _label(data, mask))[name]
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
    _within("splits", splits, 2, SPLITS)
    _within("seed", seed, 0, 2**32 - 1)
    own, theirs = _cube("unlearned", unlearned), _cube("oracles", oracles)
    if twice := repeated(own, theirs):
        raise ValueError(twice)
    of = _split("labels", labels, Labels)
    n = comparable(len(own.forget), len(theirs.forget))
    if n < 2:
        counts = f"{len(own.forget)} unlearned models and {len(theirs.forget)} oracles"
        raise ValueError(f"unlearned, oracles: {counts}; expected 2 or more, and twice as many oracles")
    found, known = None, None
    if not 0 < margin < 1:
        raise ValueError(f"margin: {margin!r} found, expected a number between 0 and 1")
    if originals is not None:
        before = _cube("originals", originals)
        if len(before.forget) != len(own.forget):
            expected = f"expected {len(own.forget)}, one for each of the unlearned ones"
            raise ValueError(f"originals: {len(before.forget)} models, {expected}")
        if wrong := exchanged(margins(before, of)["forget"], margins(theirs, of)["forget"]):
            raise ValueError(f"oracles: {wrong}")
        found = effects(margins(own, of), margins(before, of), margins(theirs, of))
        known = before, ()
    memory = memory_of(known, theirs, of)
    null = reference(theirs, of, n, splits=splits, seed=seed, extra=of_oracles(memory))
    first = Cube(*(logits[:n] for logits in own))
    return _verdict(score_cube(first, null, extra=of_models(memory, (first, ()), known, of)), found, margin=margin)


def _named(methods: Sequence[str | Method] | str, argument: str = "methods") -> tuple[list[str], dict[str, Entry]]:
    """The registered methods by name, and the entries of one's own functions."""
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


def _unknown_training(originals: Any, oracles: Any, recipe: Recipe | None, fit: Fit | None) -> str:
    """What would have to be said for models to be trained as those that are given were; nothing where it is known."""
    if (originals is None and oracles is None) or recipe is not None or fit is not None:
        return ""
    if oracles is None:
        missing = "there is no null: give oracles, or recipe= or fit= by which models are trained again without the forget set"
        raise ValueError(f"originals: without more {missing}")
    if originals is None:
        raise ValueError("oracles: give originals too, or recipe= or fit= by which the originals are trained as the oracles were")
    return "recipe= or fit=, by which the given models were trained"


def _fit_token(fit: Any, name: str | None, cache: Any) -> str:
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


def _start(init: Any, freeze: Sequence[str], like: Variables, fit: Any) -> tuple[Start | None, dict[str, Any]]:
    """Where training starts, and what models that start there are found by; None and nothing at random weights."""
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
    return start_at(variables, names, like, _shown(init)), {"init": digest, "freeze": names}


def _weights(originals: Any, oracles: Any, names: list[str], like: Variables, members: int | None) -> tuple[Weights, int]:
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
    own = own and require_enough(own, members, "originals", _shown(originals))
    theirs = {name: require_enough(models, members, "oracles", _shown(oracles)) for name, models in theirs.items()}
    return require_apart(Weights(own, theirs), _shown(oracles)), members


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


def _shown(given: Any) -> str:
    """What was given, for messages."""
    return str(given) if isinstance(given, str | Path) else "(in memory)"


def _sets(forget: Forget) -> dict[str, Any]:
    """The forget sets by name."""
    if not isinstance(forget, Mapping):
        return {"given-0": forget}
    if not forget or not all(isinstance(name, str) and name.isprintable() and "/" not in name and name for name in forget):
        raise ValueError("forget: expected rows, a mask, or a mapping from names (without a slash) to such")
    return dict(forget)


def _mask(forget: Any, data: Dataset) -> np.ndarray:
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


def _label(data: Dataset, mask: np.ndarray) -> int | None:
    """The class that a forget set consists of; None if it holds several."""
    there = np.unique(data.train.labels[mask])
    return int(there[0]) if len(there) == 1 else None


def _stacked(model: Model, variables: Variables, shape: tuple[int, ...]) -> bool:
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


def _cube(name: str, given: Any) -> Cube:
    cube = _split(name, given, Cube)
    members = [len(logits) if logits.ndim else 0 for logits in cube]
    if len(set(members)) > 1:
        raise ValueError(f"{name}: {members[0]}, {members[1]} and {members[2]} models on forget, retain and test")
    return cube


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


def _given_as(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name}: {type(value).__name__} found, expected a {kind.__name__}")


def _split(name: str, given: Any, kind: type) -> Any:
    """A value of `kind` from arrays by split."""
    there = given._asdict() if hasattr(given, "_asdict") else given
    if not isinstance(there, Mapping) or set(there) != set(kind._fields):  # type: ignore[attr-defined]
        keys = ", ".join(map(str, there)) if isinstance(there, Mapping) else type(given).__name__
        raise ValueError(f"{name}: expected arrays called forget, retain and test, not {keys}")
    return kind(**{split: np.asarray(array) for split, array in there.items()})


def _verdict(scores: Scores, found: Effects | None, lost: Iterable[str] = (), margin: float = MARGIN) -> Verdict:
    outcome = outcome_of(scores.inside, found, scores.lost, margin)
    sizes = (found.memory_left, found.damage) if found else (None, None)
    return Verdict(outcome, scores.scores, scores.largest_z, scores.band, scores.members, tuple(lost), *sizes)


def _verdicts(outcome: Outcome) -> dict[str, Verdict]:
    """Of every method that has a score on all forget sets."""
    verdicts = {}
    for name in outcome.results[0].scored:
        scored = [result.scored[name] for result in outcome.results if name in result.scored]
        if len(scored) == len(outcome.results):
            whole = scored[0].evaluation
            if len(scored) > 1:
                whole = pooled([each.evaluation for each in scored], [each.reference for each in scored])
            lost = [f"{result.name} #{member}" for result in outcome.results for member in result.lost[name]]
            known = [each.effects for each in scored if each.effects]
            verdicts[name] = _verdict(whole, mean_effects(known) if len(known) == len(scored) else None, lost)
    return verdicts


def _within(name: str, value: Any, least: int, most: int = 10**6) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: {value!r} found, expected an integer from {least} to {most:,}")


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "unlearn_jax"
