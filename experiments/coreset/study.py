"""Unlearns with parts of F, and measures what is left of all of F."""

import jax
import numpy as np
from jaxtyping import Bool

from experiments.coreset import report
from experiments.coreset.options import Config
from unlearn_jax.bench.forget_set import ForgetSet, forget_class, forget_mask, forget_name, forget_set, ranking
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.judging import Oracles, train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import compile_all, pool
from unlearn_jax.bench.population import Population, population
from unlearn_jax.bench.scoring import effects_of
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import shared, tile
from unlearn_jax.training.pools import Pool, member_keys

Masks = Bool[np.ndarray, "members examples"]


def run(config: Config, folder: Run) -> None:
    """Writes coreset.csv, summary.md and a figure.

    Raises:
        ArgumentError: the configuration cannot be run, or the originals remember too little of F to measure what is left.
    """
    setting = prepare(config)
    model, label = setting.problem.model, forget_class(config, setting, 0)
    asked = [name for name in config.method_names() if name not in REFERENCES]
    for name in asked:
        lacking = METHODS[name].unmet(setting.problem)
        require(name not in config.methods or not lacking, "--methods", name, f"needs {lacking}")
    names = [name for name in asked if not METHODS[name].unmet(setting.problem) and METHODS[name].outcome(model) is model]
    require(bool(names), "--methods", ",".join(config.methods), "none is of single models that --model supports")
    values = settings(config, names, label)
    forget = forget_set(config, folder, setting, forget_mask(config, setting, 0), forget_name(config, setting, 0))
    trained = pool(config, setting, setting.problem, np.ones_like(forget.mask), "original", forget.members)
    oracles = train_oracles(forget)
    originals = population(trained.variables, forget.logits(trained.variables), trained.diverged)
    before = originals.cube, originals.lost
    known = effects_of(before, before, oracles.cube, forget.labels) if originals.members else None
    accepted = "the originals remember too little of F to measure what is left of it"
    require(known is not None and bool(known.parts), "--train.epochs", config.train.epochs, accepted)
    chosen = {share: parts(config, forget, ranking(config, setting, "exposed"), share) for share in sorted(config.shares)}
    work = {
        (name, share): _unlearner(config, forget, trained, name, values[name], of_share)
        for name in names
        for share, of_share in chosen.items()
    }
    compile_all(list(work.values()))
    lines = [
        line
        for (name, share), unlearner in work.items()
        for line in _judge(forget, name, share, chosen[share], unlearner, trained, originals, oracles)
    ]
    report.write(folder, lines)
    title = f"{config.dataset} · {config.model} · {forget.name} · {forget.members} models each"
    save(report.figure(lines, title), folder, "coreset")


def parts(config: Config, forget: ForgetSet, exposed: np.ndarray, share: float) -> dict[str, Masks]:
    """The parts of F of one size, by how they are chosen, as masks of the training rows for each member; of all of F one.

    Args:
        config: of the run.
        forget: the forget set.
        exposed: how exposed each training example is.
        share: of F.
    """
    rows, members = np.flatnonzero(forget.mask), forget.members
    count = max(round(share * len(rows)), 1)
    rng = generator("parts of the forget set", config.seed)
    orders = {
        "random": rng.permuted(np.tile(rows, (members, 1)), axis=1),
        "exposed": np.tile(rows[np.argsort(-exposed[rows], kind="stable")], (members, 1)),
    }
    if count == len(rows):
        orders = {"all": orders["random"]}
    masks = {}
    for name, order in orders.items():
        masks[name] = np.zeros((members, len(forget.mask)), bool)
        np.put_along_axis(masks[name], order[:, :count], True, axis=1)
    return masks


def _unlearner(config: Config, forget: ForgetSet, trained: Pool, name: str, values: dict, chosen: dict[str, Masks]) -> Unlearner:
    """A method on every original with every part; what it retains is R, whatever it is shown of F."""
    masks = np.concatenate([*chosen.values()])
    kept, count = ~forget.mask | masks, int(masks[0].sum())
    problem = forget.problem.replace(
        kept=shared(kept[0]), forget=shared(masks[0]), kept_count=int(kept[0].sum()), forget_count=count
    )
    models = tile(trained.variables, len(chosen))
    given = {"kept": kept, "forget": masks}
    return Unlearner(name, values, problem, models, masks=given, strategy=config.strategy, chunk=config.chunk)


def _judge(
    forget: ForgetSet,
    name: str,
    share: float,
    chosen: dict[str, Masks],
    unlearner: Unlearner,
    trained: Pool,
    originals: Population,
    oracles: Oracles,
) -> list[report.Line]:
    """Memory left of all of F, and damage, after one method with each part of one size."""
    members = forget.members
    keys = member_keys(forget.config.seed, f"{name} with parts of {forget.name}", members)  # the same for parts of any size
    with working(f"{name} with {share:g} of F"):
        done = unlearner.apply(jax.numpy.concatenate([keys] * len(chosen)))
    lines = []
    for number, (choice, masks) in enumerate(chosen.items()):
        part = slice(number * members, (number + 1) * members)
        variables = jax.tree.map(lambda leaf, part=part: leaf[part], done.variables)
        alive = population(variables, forget.logits(variables), trained.diverged)
        before = originals.cube, originals.lost
        found = effects_of((alive.cube, alive.lost), before, oracles.cube, forget.labels) if alive.members else None
        lines.append(report.line(name, choice, share, int(masks[0].sum()), found, alive.members))
    return lines
