"""How often the verdict calls known small deviations from retraining different, and by which metric it sees them."""

from collections import Counter
from typing import Any

import numpy as np
from scipy.stats import binomtest

from experiments.power import report
from experiments.power.deviations import DEVIATIONS, Drawn
from experiments.power.options import Config
from unlearn_jax.bench.forget_set import ForgetSet, forget_mask, forget_name, forget_set
from unlearn_jax.bench.judging import train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import Population, population
from unlearn_jax.bench.scoring import memory_of, of_models, of_oracles
from unlearn_jax.bench.setting import prepare
from unlearn_jax.metrics import Evaluation, reference, score
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube

Found = dict[tuple[str, int], list[Evaluation]]  # by deviation and number of models: one verdict for each replicate


def run(config: Config, folder: Run) -> None:
    """Writes power_of_verdict.csv, seen_by.csv, spread_of_z.csv and a figure, and prints the shares called outside."""
    setting = prepare(config)
    mask = forget_mask(config, setting, 0)
    forget = forget_set(config, folder, setting, mask, forget_name(config, setting, 0))
    trained = pool(config, setting, setting.problem, np.ones_like(mask), "original", config.members)
    originals = population(trained.variables, forget.logits(trained.variables)).cube
    retrained = _retrained(forget)
    sizes = [n for n in config.sizes if 3 * n <= len(retrained.forget) and n <= len(originals.forget)]
    counts = f"only {len(originals.forget)} originals and {len(retrained.forget)} retrained models did not diverge"
    require(bool(sizes), "--train.learning-rate", config.train.learning_rate, f"{counts}; expected a smaller number")
    found = _judge(config, forget, originals, retrained, sizes)
    rows = [(*key, 2 * key[1], *_called(verdicts)) for key, verdicts in found.items()]
    folder.write_csv("power_of_verdict.csv", report.COLUMNS, rows)
    seen = [(*key, *name, share) for key, verdicts in found.items() for name, share in _seen_by(verdicts).items()]
    folder.write_csv("seen_by.csv", ("deviation", "models", "metric", "split", "share"), seen)
    spread = [(n, *name, *numbers) for n in sizes for name, numbers in _spread(found["none", n]).items()]
    folder.write_csv("spread_of_z.csv", ("models", "metric", "split", "mean", "sd"), spread)
    save(
        report.figure(rows, f"{config.dataset} · {config.model} · {forget.name} · {config.replicates} draws"),
        folder,
        "power_of_verdict",
    )
    table = report.table(rows)
    folder.write_text("summary.md", table + "\n")
    print(table)


def _retrained(forget: ForgetSet) -> Cube:
    """The logits of all retrained models: those that the main job takes as oracles, and those of its method `retrain`."""
    oracles = train_oracles(forget)
    more = forget.pool("retrain", forget.members)
    others: Population = population(more.variables, forget.logits(more.variables))
    return Cube(*(np.concatenate(parts) for parts in zip(oracles.cube, others.cube, strict=True)))


def _judge(config: Config, forget: ForgetSet, originals: Cube, retrained: Cube, sizes: list[int]) -> Found:
    """Draws models and oracles from the pool, lets the models deviate, and judges them."""
    found: Found = {(name, n): [] for name in DEVIATIONS for n in sizes}
    with working("verdicts") as update:
        everyone = reference(retrained, forget.labels, 2, splits=config.evaluation.splits, seed=config.seed)
        for place, n in enumerate(sizes):
            for replicate in range(config.replicates):
                rng = np.random.default_rng([config.seed, n, replicate])
                order, own = rng.permutation(len(retrained.forget))[: 3 * n], rng.permutation(len(originals.forget))[:n]
                unlearned, oracles = _some(retrained, order[:n]), _some(retrained, order[n:])
                before = _some(originals, own)
                memory = memory_of((before, ()), oracles, forget.labels)
                against = everyone.among(order[n:], n, of_oracles(memory))
                for name, deviate in DEVIATIONS.items():
                    cube = deviate(Drawn(unlearned, before, oracles, forget.labels, rng))
                    extra = of_models(memory, (cube, ()), (before, ()), forget.labels)
                    found[name, n].append(score(cube, against, extra=extra))
                done = (place + (replicate + 1) / config.replicates) / len(sizes)
                update(done, f"{n} models, draw {replicate + 1} of {config.replicates}")
    return found


def _some(cube: Cube, members: np.ndarray) -> Cube:
    return Cube(*(logits[members] for logits in cube))


def _called(verdicts: list[Evaluation]) -> tuple[Any, ...]:
    """Replicates, those called outside, their share with its Clopper-Pearson interval, and what was largest most often."""
    outside = [verdict for verdict in verdicts if verdict.inside is False]
    interval = binomtest(len(outside), len(verdicts)).proportion_ci()
    firsts = Counter(max(verdict.scores, key=lambda score: score.evidence).name for verdict in outside).most_common(1)
    first = " ".join(firsts[0][0]) if firsts else ""
    return len(verdicts), len(outside), len(outside) / len(verdicts), float(interval.low), float(interval.high), first


def _seen_by(verdicts: list[Evaluation]) -> dict[tuple[str, str], float]:
    """By metric, the share of draws in which it alone would have been enough."""
    counts: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts:
        counts.update(score.name for score in verdict.scores if score.evidence > verdict.band)
    return {name: count / len(verdicts) for name, count in counts.most_common()}


def _spread(verdicts: list[Evaluation]) -> dict[tuple[str, str], tuple[float, float]]:
    """By metric, the mean and the standard deviation of z."""
    z: dict[tuple[str, str], list[float]] = {}
    for verdict in verdicts:
        for each in verdict.scores:
            if each.z is not None:
                z.setdefault(each.name, []).append(each.z)
    return {name: (float(np.mean(values)), float(np.std(values))) for name, values in z.items()}
