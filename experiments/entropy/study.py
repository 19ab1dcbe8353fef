"""When minimising the entropy and the loss on the forget set is useful: signs and weights of both under many circumstances."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.entropy import report
from experiments.entropy.options import CIRCUMSTANCES, Circumstance, Config, Under
from experiments.entropy.report import SPLITS, Tried
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, unlearn
from unlearn_jax.bench.setting import Setting, forgetting, prepare
from unlearn_jax.bench.tuning import distance, tile
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods import hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import cross_entropy_losses, entropies, js_divergence, margins, probabilities
from unlearn_jax.metrics.statistics import chosen_elsewhere, jackknife
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables

METHOD = "entropy_with_retain"
ORIGINALS = -2  # where they stand behind the settings
RUINED = 2.0  # times as far as doing nothing: what lies beyond, or diverged, counts as this far
PerSet = Callable[[np.ndarray], np.ndarray]  # members -> a value of each forget set, with these members


class Judged(NamedTuple):
    """One forget set: every setting's models, then the originals, then other retrained models, against the oracles.

    Attributes:
        margins: by split `[settings + 2, members, examples]`; NaN where a member diverged.
        oracles: margins of the oracles by split `[members, 2, examples]`: two go with each original.
        divergence: mean Jensen-Shannon divergence from the oracles' mean prediction, `[splits, settings + 2, members]`, bits.
        entropy: on F, `[settings + 2, members]`, nats.
        loss: on F, of the labels that the unlearning sees, likewise.
        oracle_entropy: `[members, 2]`.
        oracle_loss: likewise.
        same_answer: share of F on which an original answers as most oracles do, `[members]`.
    """

    margins: list[np.ndarray]
    oracles: list[np.ndarray]
    divergence: np.ndarray
    entropy: np.ndarray
    loss: np.ndarray
    oracle_entropy: np.ndarray
    oracle_loss: np.ndarray
    same_answer: np.ndarray

    def arrays(self) -> Arrays:
        """Named arrays, which `of` reads back."""
        margins = {f"margins_{split}": each for split, each in zip(SPLITS, self.margins, strict=True)}
        oracles = {f"oracles_{split}": each for split, each in zip(SPLITS, self.oracles, strict=True)}
        return margins | oracles | {field: getattr(self, field) for field in self._fields[2:]}

    @classmethod
    def of(cls, arrays: Arrays) -> "Judged":
        """Reads what `arrays` gave."""
        margins, oracles = ([arrays[f"{field}_{split}"] for split in SPLITS] for field in cls._fields[:2])
        return cls(margins, oracles, *(arrays[field] for field in cls._fields[2:]))


def run(config: Config, folder: Run) -> None:
    """Try every pair of weights under every circumstance, and hold the best signs against what retrained models are surer of.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    entropy_weights, loss_weights = config.weights()
    settings = np.array(list(itertools.product(entropy_weights, loss_weights)))
    found: list[report.Circumstance] = []
    made_with: set[str] = set()
    for name in config.names():
        circumstance = CIRCUMSTANCES[name]
        own = config.under(circumstance)
        setting = prepare(own)
        with working(name) as update:
            sets: list[Judged] = []
            for index in range(config.forget_sets):
                arrays = kept_or_judged(own, circumstance, folder, setting, f"{name}-{index}", index, settings)
                made_with.add(str(arrays["made_with"]))
                sets.append(Judged.of(arrays))
                update((index + 1) / config.forget_sets, f"{index + 1} forget sets")
            found.append(summed_up(name, circumstance.title, sets, settings))
            update(1.0, report.in_short(found[-1]))
    title = f"{config.dataset} · {config.model} · {config.members} models a setting, {config.forget_sets} forget sets each"
    study = report.Results(title, entropy_weights, loss_weights, found)
    folder.write_csv("settings.csv", *report.settings_table(study))
    folder.write_csv("entropy.csv", *report.table(study))
    measures = {each.name: {name: tuple(interval) for name, interval in each.measures.items()} for each in found}
    folder.write_json("results.json", {**measures, "made_with": sorted(made_with)})
    summary = "\n".join([report.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    save(report.maps(study), folder, "maps")
    save(report.signs(study), folder, "signs")
    print(summary)


def kept_or_judged(
    config: Under, circumstance: Circumstance, folder: Run, setting: Setting, name: str, index: int, settings: np.ndarray
) -> Arrays:
    """What `Judged.of` takes for one forget set, read where an earlier run kept it."""
    mask = forget_mask(config, setting, index)
    values = hyperparameters(
        METHOD,
        {
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "weight_decay": config.train.weight_decay,
            "retain_weight": circumstance.retain_weight,
        },
    )
    asked = {"values": values, "settings": settings, "corrected": circumstance.corrected}
    identity = {**identity_of(config, setting, mask), **asked}
    make = partial(judged, config, circumstance, setting, mask, name, values, settings)
    return load_or_make(folder, f"sets/{name}.npz", identity, lambda: make().arrays())


def judged(
    config: Under,
    circumstance: Circumstance,
    setting: Setting,
    mask: np.ndarray,
    name: str,
    values: dict[str, Any],
    settings: np.ndarray,
) -> Judged:
    """Unlearn one forget set with every setting, all in one batch of members, and judge them."""
    assert config.members != "auto"
    members, data, problem = config.members, setting.data, forgetting(setting, mask)
    pools = {
        role: pool(config, setting, problem, where, role, count)
        for role, where, count in (
            ("original", mask | True, members),
            ("oracle", ~mask, 2 * members),
            ("retrain", ~mask, members),
        )
    }
    for role, each in pools.items():  # an original stands beside two oracles and one retrained model: all are needed
        lost_members(config, role, each.variables, len(jax.tree.leaves(each.variables)[0]))
    originals = pools["original"].variables
    labels = np.where(mask, data.clean_labels, data.train.labels) if circumstance.corrected else data.train.labels
    problem = dataclasses.replace(problem, train=problem.train._replace(labels=jnp.asarray(labels, problem.train.labels.dtype)))
    unlearned = after_all(config, problem, originals, name, values, settings)
    rng = generator("retained examples that are judged", config.seed)
    rows = np.flatnonzero(mask), sample(np.flatnonzero(~mask), config.evaluation.retain_size, rng)
    images = *(data.train.images[own] for own in rows), data.test.images
    trained_on = *(data.train.labels[own] for own in rows), data.test.labels
    references = originals, pools["retrain"].variables, pools["oracle"].variables
    everybody = jax.tree.map(lambda *parts: np.concatenate(parts), unlearned, *references)
    logits_of = [predict(problem.model, everybody, seen, config.strategy) for seen in images]
    gone = np.array(diverged((everybody, logits_of)), int)
    all_margins, of_oracles, divergence = [], [], []
    for split, (all_logits, answers) in enumerate(zip(logits_of, trained_on, strict=True)):
        logits, by_oracles = np.nan_to_num(all_logits[: -2 * members]), all_logits[-2 * members :]
        own, theirs = probabilities(logits), probabilities(by_oracles)
        all_margins.append(by_setting(margins(logits, answers), gone, members).astype(np.float32))
        of_oracles.append(margins(by_oracles, answers).reshape(members, 2, -1).astype(np.float32))
        divergence.append(by_setting(js_divergence(own, theirs).mean(axis=1), gone, members))
        if split == 0:
            answered = labels[rows[0]]
            entropy, loss = entropies(own).mean(axis=1), cross_entropy_losses(logits, answered).mean(axis=1)
            oracle_entropy, oracle_loss = entropies(theirs).mean(axis=1), cross_entropy_losses(by_oracles, answered).mean(axis=1)
            votes = np.eye(data.classes)[theirs.argmax(-1)].sum(axis=0)
            same = by_setting((own.argmax(-1) == votes.argmax(-1)).mean(axis=1), gone, members)[ORIGINALS]
    return Judged(
        all_margins,
        of_oracles,
        np.stack(divergence),
        by_setting(entropy, gone, members),
        by_setting(loss, gone, members),
        oracle_entropy.reshape(members, 2),
        oracle_loss.reshape(members, 2),
        same,
    )


def after_all(
    config: Under, problem: Problem, originals: Variables, name: str, values: dict[str, Any], settings: np.ndarray
) -> Variables:
    """The members after every setting; the same batches in all settings, so that these are paired."""
    assert config.members != "auto"
    members, rows = config.members, np.arange(config.members)
    entropy_weight, loss_weight = np.repeat(settings, members, axis=0).T
    weights = {"entropy_weight": entropy_weight, "forget_weight": -loss_weight}
    keys = member_keys(config.seed, f"entropy on {name}", members)[np.tile(rows, len(settings))]
    batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
    unlearner = Unlearner(METHOD, values | weights, problem, tile(originals, len(settings)), **batching)
    return unlearn(f"{name}: {len(settings)} settings", unlearner, keys).variables


def by_setting(values: np.ndarray, gone: np.ndarray, members: int) -> np.ndarray:
    """`[members of all settings, ...]` as `[settings, members, ...]`, NaN where a member diverged."""
    values = values.astype(float)
    values[gone] = np.nan
    return values.reshape(-1, members, *values.shape[1:])


def distances(one: Judged, members: np.ndarray) -> np.ndarray:
    """How far from the oracles, `[splits, settings + 2]`, with some of the members; infinite where one diverged."""
    found = [
        [distance(own[members], oracle[members].reshape(-1, oracle.shape[-1])) for own in each.astype(float)]
        for each, oracle in zip(one.margins, one.oracles, strict=True)
    ]
    return np.nan_to_num(np.array(found), nan=np.inf)


def divergences(one: Judged, members: np.ndarray) -> np.ndarray:
    """The same of the predictions; the oracles are all of them."""
    return np.nan_to_num(one.divergence[..., members].mean(axis=-1), nan=np.inf)


def families(settings: np.ndarray) -> dict[str, np.ndarray]:
    """Which settings have a sign in common: of one term without the other, of both, and of one whatever the other."""
    signs = {"lowered": settings > 0, "none": settings == 0, "raised": settings < 0}
    pairs = {(one, two): signs[one][:, 0] & signs[two][:, 1] for one in signs for two in signs}
    return (
        {f"entropy {one}, loss {two}": mask for (one, two), mask in pairs.items()}
        | {f"entropy {one}": signs[one][:, 0] for one in signs}
        | {f"loss {one}": signs[one][:, 1] for one in signs}
    )


def summed_up(name: str, title: str, sets: list[Judged], settings: np.ndarray) -> report.Circumstance:
    """The predictors, and how near each family of settings comes, its strengths chosen on the other forget sets.

    Intervals are over models (an original and its two oracles are left out at a time) on these forget sets.
    """
    everyone = np.arange(len(sets[0].same_answer))
    statistics: dict[str, PerSet] = {
        "entropy gap": lambda who: np.array([s.oracle_entropy[who].mean() - s.entropy[ORIGINALS, who].mean() for s in sets]),
        "loss gap": lambda who: np.array([s.oracle_loss[who].mean() - s.loss[ORIGINALS, who].mean() for s in sets]),
        "entropy, originals": lambda who: np.array([s.entropy[ORIGINALS, who].mean() for s in sets]),
        "loss, originals": lambda who: np.array([s.loss[ORIGINALS, who].mean() for s in sets]),
        "same answer": lambda who: np.array([s.same_answer[who].mean() for s in sets]),
    }
    for kind, far in DISTANCES.items():
        reached = reached_by(sets, settings, far, everyone)
        statistics |= {f"{kind}: {family}": statistic for family, statistic in reached.items()}
        statistics |= {
            f"{kind}: {gain}": less(reached[without], reached[having]) for gain, (without, having) in report.GAINS.items()
        }
    by_set = {label: [float(value) for value in statistic(everyone)] for label, statistic in statistics.items()}
    measures = {label: jackknife(over_sets(statistic), everyone) for label, statistic in statistics.items()}
    tried = [one for index, each in enumerate(sets) for one in every_setting(index, each, settings)]
    return report.Circumstance(name, title, tried, measures, by_set)


def reached_by(
    sets: list[Judged], settings: np.ndarray, far: Callable[[Judged, np.ndarray], np.ndarray], everyone: np.ndarray
) -> dict[str, PerSet]:
    """The distance of each family of settings, and of both ends, on each set, with some of the members; at most `RUINED`."""
    totals = {}
    for who in (everyone, *(np.delete(everyone, one) for one in everyone)):
        each = np.array([far(one, who).sum(axis=0) for one in sets])
        totals[tuple(who)] = np.minimum(each, RUINED * each[:, [ORIGINALS]])
    whole = totals[tuple(everyone)][:, : len(settings)]
    chosen = {"nothing": np.full(len(sets), len(settings)), "null": np.full(len(sets), len(settings) + 1)}
    for family, mask in families(settings).items():
        chosen[family] = chosen_elsewhere(whole, mask)
    return {family: partial(at_settings, totals, rows) for family, rows in chosen.items()}


def at_settings(totals: dict[tuple[int, ...], np.ndarray], rows: np.ndarray, who: np.ndarray) -> np.ndarray:
    """The distance on each set at the setting that was chosen for it."""
    return totals[tuple(who)][np.arange(len(rows)), rows]


def less(one: PerSet, other: PerSet) -> PerSet:
    """The difference of two statistics."""
    return lambda who: one(who) - other(who)


def over_sets(statistic: PerSet) -> Callable[[np.ndarray], float]:
    """Its mean over the forget sets."""
    return lambda who: float(np.mean(statistic(who)))


def every_setting(index: int, one: Judged, settings: np.ndarray) -> list[Tried]:
    """The rows of a forget set: its settings, then doing nothing and retraining."""
    everyone = np.arange(len(one.same_answer))
    kinds = ["setting"] * len(settings) + ["nothing", "retrain"]
    weights = [*settings.tolist(), [None, None], [None, None]]
    far, js = distances(one, everyone), divergences(one, everyone).sum(axis=0)
    accuracies = [100 * np.mean(each > 0, axis=(1, 2)) for each in one.margins]
    measured = np.stack([*far, far.sum(axis=0), js, *accuracies, one.entropy.mean(axis=1), one.loss.mean(axis=1)], axis=1)
    return [Tried(index, kind, *own, *rest) for kind, own, rest in zip(kinds, weights, measured.tolist(), strict=True)]


DISTANCES = {"distance": distances, "divergence": divergences}
