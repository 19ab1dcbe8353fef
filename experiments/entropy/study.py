"""When minimising the entropy and the loss on the forget set helps: signs and weights of both in many circumstances."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.entropy import prediction, report
from experiments.entropy.options import CIRCUMSTANCES, Circumstance, Config, Variant
from experiments.entropy.report import SPLITS, Trial
from unlearn_jax.bench.forget_set import forget_mask
from unlearn_jax.bench.pools import pool, version_note
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.resume import Arrays, identity_of, load_or_make, unlearn
from unlearn_jax.bench.setting import Setting, forgetting, prepare
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods import hyperparameters
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import cross_entropy_losses, entropies, js_divergence, margins, probabilities
from unlearn_jax.metrics.distances import gaussian_distance
from unlearn_jax.metrics.statistics import chosen_elsewhere, jackknife
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict, tile
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Examples, Problem, Variables

METHOD = "entropy_with_retain"
KNOWN = "digits", "mlp"  # the data and network on which the rule for the sign was found
ORIGINALS = -2  # their place, behind the settings and before the retrained models
LARGEST = 2.0  # times as far as doing nothing: larger distances, and models that diverged, count as this
PerSet = Callable[[np.ndarray], np.ndarray]  # indices of members -> a value of each forget set, with these members alone


class JudgedSet(NamedTuple):
    """The results on one forget set: models of all settings, then originals, then other retrained models, and the oracles.

    Attributes:
        margins: by split `[settings + 2, members, examples]`; NaN where a member diverged.
        oracles: margins of the oracles by split `[members, 2, examples]`: two for each original.
        divergence: mean Jensen-Shannon divergence from the oracles' mean prediction, `[splits, settings + 2, members]`, bits.
        entropy: on F, `[settings + 2, members]`, nats.
        loss: on F, with the labels that unlearning uses, likewise.
        oracle_entropy: `[members, 2]`.
        oracle_loss: likewise.
        same_answer: share of F on which an original predicts the oracles' majority class, `[members]`.
    """

    margins: list[np.ndarray]
    oracles: list[np.ndarray]
    divergence: np.ndarray
    entropy: np.ndarray
    loss: np.ndarray
    oracle_entropy: np.ndarray
    oracle_loss: np.ndarray
    same_answer: np.ndarray

    def to_arrays(self) -> Arrays:
        """The fields as named arrays, for a file."""
        margins = {f"margins_{split}": values for split, values in zip(SPLITS, self.margins, strict=True)}
        oracles = {f"oracles_{split}": values for split, values in zip(SPLITS, self.oracles, strict=True)}
        return margins | oracles | {field: getattr(self, field) for field in self._fields[2:]}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "JudgedSet":
        """The results that `to_arrays` wrote."""
        margins, oracles = ([arrays[f"{field}_{split}"] for split in SPLITS] for field in cls._fields[:2])
        return cls(margins, oracles, *(arrays[field] for field in cls._fields[2:]))


def run(config: Config, folder: Run) -> None:
    """Try every pair of weights in every circumstance, and compare the best signs with the gaps in entropy and loss.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    entropy_weights, loss_weights = config.weights()
    settings = np.array(list(itertools.product(entropy_weights, loss_weights)))
    results: list[report.Circumstance] = []
    made_with: set[str] = set()
    for name in config.names():
        circumstance = CIRCUMSTANCES[name]
        variant = config.with_circumstance(circumstance)
        setting = prepare(variant)
        with working(name) as update:
            sets: list[JudgedSet] = []
            for index in range(config.forget_sets):
                arrays = load_or_judge(variant, circumstance, folder, setting, f"{name}-{index}", index, settings)
                made_with.add(str(arrays["made_with"]))
                sets.append(JudgedSet.from_arrays(arrays))
                update((index + 1) / config.forget_sets, f"{index + 1} forget sets")
            found = summarise(name, circumstance.title, sets, settings)
            results.append(found._replace(control=circumstance.shown != "forget"))
            update(1.0, report.headline(results[-1]))
    title = f"{config.dataset} · {config.model} · {config.members} models a setting, {config.forget_sets} forget sets each"
    known = (config.dataset, config.model) == KNOWN
    study = report.Results(title, entropy_weights, loss_weights, results, known)
    folder.write_csv("settings.csv", *report.settings_table(study))
    folder.write_csv("entropy.csv", *report.table(study))
    folder.write_csv("predictions.csv", *prediction.table(study))
    measures = {result.name: {name: tuple(interval) for name, interval in result.measures.items()} for result in results}
    folder.write_json("results.json", {**measures, "made_with": sorted(made_with)})
    summary = "\n".join([report.summary(study), prediction.summary(study), *version_note(made_with)])
    folder.write_text("summary.md", summary)
    save(report.maps(study), folder, "maps")
    save(report.signs(study), folder, "signs")
    save(prediction.figure(study), folder, "predictions")
    print(summary)


def load_or_judge(
    config: Variant, circumstance: Circumstance, folder: Run, setting: Setting, name: str, index: int, settings: np.ndarray
) -> Arrays:
    """What `JudgedSet.from_arrays` takes for one forget set, read if an earlier run kept it."""
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
    if circumstance.shown != "forget":  # earlier runs kept the others without it
        asked["shown"] = circumstance.shown
    identity = {**identity_of(config, setting, mask), **asked}
    make = partial(judge, config, circumstance, setting, mask, name, values, settings)
    return load_or_make(folder, f"sets/{name}.npz", identity, lambda: make().to_arrays())


def judge(
    config: Variant,
    circumstance: Circumstance,
    setting: Setting,
    mask: np.ndarray,
    name: str,
    values: dict[str, Any],
    settings: np.ndarray,
) -> JudgedSet:
    """Unlearns one forget set with every setting, all in one batch of members, and judges the models."""
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
    for role, trained in pools.items():  # each original is paired with two oracles and one retrained model: all are needed
        lost_members(config, role, trained.variables, len(jax.tree.leaves(trained.variables)[0]))
    originals = pools["original"].variables
    labels = np.where(mask, data.clean_labels, data.train.labels) if circumstance.corrected else data.train.labels
    problem = dataclasses.replace(problem, train=problem.train._replace(labels=jnp.asarray(labels, problem.train.labels.dtype)))
    problem = showing(problem, mask, circumstance.shown, generator("examples in place of the forget set", config.seed))
    unlearned = unlearn_all(config, problem, originals, name, values, settings)
    rng = generator("retained examples that are judged", config.seed)
    rows = np.flatnonzero(mask), sample(np.flatnonzero(~mask), config.evaluation.retain_size, rng)
    images = *(data.train.images[split_rows] for split_rows in rows), data.test.images
    trained_on = *(data.train.labels[split_rows] for split_rows in rows), data.test.labels
    references = originals, pools["retrain"].variables, pools["oracle"].variables
    everybody = jax.tree.map(lambda *parts: np.concatenate(parts), unlearned, *references)
    logits_of = [predict(problem.model, everybody, seen, config.strategy) for seen in images]
    gone = np.array(diverged((everybody, logits_of)), int)
    all_margins, of_oracles, divergence = [], [], []
    for split, (all_logits, answers) in enumerate(zip(logits_of, trained_on, strict=True)):
        logits, by_oracles = np.nan_to_num(all_logits[: -2 * members]), all_logits[-2 * members :]
        p, q = probabilities(logits), probabilities(by_oracles)
        all_margins.append(group_by_setting(margins(logits, answers), gone, members).astype(np.float32))
        of_oracles.append(margins(by_oracles, answers).reshape(members, 2, -1).astype(np.float32))
        divergence.append(group_by_setting(js_divergence(p, q).mean(axis=1), gone, members))
        if split == 0:
            answered = labels[rows[0]]
            entropy, loss = entropies(p).mean(axis=1), cross_entropy_losses(logits, answered).mean(axis=1)
            oracle_entropy, oracle_loss = entropies(q).mean(axis=1), cross_entropy_losses(by_oracles, answered).mean(axis=1)
            votes = np.eye(data.classes)[q.argmax(-1)].sum(axis=0)
            same = group_by_setting((p.argmax(-1) == votes.argmax(-1)).mean(axis=1), gone, members)[ORIGINALS]
    return JudgedSet(
        all_margins,
        of_oracles,
        np.stack(divergence),
        group_by_setting(entropy, gone, members),
        group_by_setting(loss, gone, members),
        oracle_entropy.reshape(members, 2),
        oracle_loss.reshape(members, 2),
        same,
    )


def showing(problem: Problem, mask: np.ndarray, shown: str, rng: np.random.Generator) -> Problem:
    """The problem with other examples in the rows of the forget set, so that its terms are about those.

    Args:
        problem: to unlearn.
        mask: the forget set, `[examples]`.
        shown: forget: its own examples stay; retain, held_out: as many of those, each more than once if they are fewer.
        rng: draws them.
    """
    if shown == "forget":
        return problem
    source = problem.held_out if shown == "held_out" else problem.train
    choices = np.arange(len(source.labels)) if shown == "held_out" else np.flatnonzero(~mask)
    rows = np.resize(rng.permutation(choices), mask.sum())
    images, labels = (
        getattr(problem.train, field).at[np.flatnonzero(mask)].set(getattr(source, field)[rows]) for field in source._fields
    )
    return problem.replace(train=Examples(images, labels))


def unlearn_all(
    config: Variant, problem: Problem, originals: Variables, name: str, values: dict[str, Any], settings: np.ndarray
) -> Variables:
    """The members unlearned with every setting. All settings use the same batches, so they are paired."""
    assert config.members != "auto"
    members, rows = config.members, np.arange(config.members)
    entropy_weight, loss_weight = np.repeat(settings, members, axis=0).T
    weights = {"entropy_weight": entropy_weight, "forget_weight": -loss_weight}
    keys = member_keys(config.seed, f"entropy on {name}", members)[np.tile(rows, len(settings))]
    batching: dict[str, Any] = {"strategy": config.strategy, "chunk": config.chunk}
    unlearner = Unlearner(METHOD, values | weights, problem, tile(originals, len(settings)), **batching)
    return unlearn(f"{name}: {len(settings)} settings", unlearner, keys).variables


def group_by_setting(values: np.ndarray, gone: np.ndarray, members: int) -> np.ndarray:
    """`[members of all settings, ...]` as `[settings, members, ...]`, NaN where a member diverged."""
    values = values.astype(float)
    values[gone] = np.nan
    return values.reshape(-1, members, *values.shape[1:])


def distances(one: JudgedSet, members: np.ndarray) -> np.ndarray:
    """Distances from the oracles, `[splits, settings + 2]`, with some of the members; infinite where one diverged."""
    by_split = [
        [gaussian_distance(setting[members], oracle[members].reshape(-1, oracle.shape[-1])) for setting in models.astype(float)]
        for models, oracle in zip(one.margins, one.oracles, strict=True)
    ]
    return np.nan_to_num(np.array(by_split), nan=np.inf)


def divergences(one: JudgedSet, members: np.ndarray) -> np.ndarray:
    """Divergences of predictions, likewise, from all oracles."""
    return np.nan_to_num(one.divergence[..., members].mean(axis=-1), nan=np.inf)


def families(settings: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of the settings in each family: a sign of both terms (or none), or of one term with any sign of the other."""
    signs = {"lowered": settings > 0, "none": settings == 0, "raised": settings < 0}
    pairs = {(one, two): signs[one][:, 0] & signs[two][:, 1] for one in signs for two in signs}
    return (
        {f"entropy {one}, loss {two}": mask for (one, two), mask in pairs.items()}
        | {f"entropy {one}": signs[one][:, 0] for one in signs}
        | {f"loss {one}": signs[one][:, 1] for one in signs}
    )


def summarise(name: str, title: str, sets: list[JudgedSet], settings: np.ndarray) -> report.Circumstance:
    """The predictors, and the distance of each family of settings with its strengths chosen on the other forget sets.

    Intervals are over models (jackknife: one original and its two oracles at a time) and conditional on the forget sets.
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
        reached = family_distances(sets, settings, far, everyone)
        statistics |= {f"{kind}: {family}": statistic for family, statistic in reached.items()}
        statistics |= {
            f"{kind}: {gain}": subtract(reached[without], reached[having]) for gain, (without, having) in report.GAINS.items()
        }
    by_set = {label: [float(value) for value in statistic(everyone)] for label, statistic in statistics.items()}
    measures = {label: jackknife(mean_over_sets(statistic), everyone) for label, statistic in statistics.items()}
    tried = [one for index, forget_set in enumerate(sets) for one in setting_rows(index, forget_set, settings)]
    return report.Circumstance(name, title, tried, measures, by_set)


def family_distances(
    sets: list[JudgedSet], settings: np.ndarray, far: Callable[[JudgedSet, np.ndarray], np.ndarray], everyone: np.ndarray
) -> dict[str, PerSet]:
    """For each family, doing nothing and the null: the distance on each set with some of the members, clipped at `LARGEST`."""
    totals = {}
    for who in (everyone, *(np.delete(everyone, one) for one in everyone)):
        by_set = np.array([far(one, who).sum(axis=0) for one in sets])
        totals[tuple(who)] = np.minimum(by_set, LARGEST * by_set[:, [ORIGINALS]])
    whole = totals[tuple(everyone)][:, : len(settings)]
    chosen = {"nothing": np.full(len(sets), len(settings)), "null": np.full(len(sets), len(settings) + 1)}
    for family, mask in families(settings).items():
        chosen[family] = chosen_elsewhere(whole, mask)
    return {family: partial(take_chosen, totals, rows) for family, rows in chosen.items()}


def take_chosen(totals: dict[tuple[int, ...], np.ndarray], rows: np.ndarray, who: np.ndarray) -> np.ndarray:
    """The distance on each set of the setting chosen for it."""
    return totals[tuple(who)][np.arange(len(rows)), rows]


def subtract(one: PerSet, other: PerSet) -> PerSet:
    """The difference of two statistics."""
    return lambda who: one(who) - other(who)


def mean_over_sets(statistic: PerSet) -> Callable[[np.ndarray], float]:
    """The mean of a statistic over the forget sets."""
    return lambda who: float(np.mean(statistic(who)))


def setting_rows(index: int, one: JudgedSet, settings: np.ndarray) -> list[Trial]:
    """The rows of settings.csv for a forget set: its settings, then doing nothing and retraining."""
    everyone = np.arange(len(one.same_answer))
    kinds = ["setting"] * len(settings) + ["nothing", "retrain"]
    weights = [*settings.tolist(), [None, None], [None, None]]
    far, js = distances(one, everyone), divergences(one, everyone).sum(axis=0)
    accuracies = [100 * np.mean(split_margins > 0, axis=(1, 2)) for split_margins in one.margins]
    measured = np.stack([*far, far.sum(axis=0), js, *accuracies, one.entropy.mean(axis=1), one.loss.mean(axis=1)], axis=1)
    return [Trial(index, kind, *pair, *rest) for kind, pair, rest in zip(kinds, weights, measured.tolist(), strict=True)]


DISTANCES = {"distance": distances, "divergence": divergences}
