"""Memorisation at image scale: which training examples are right only if trained on, and which test examples they affect."""

import numpy as np

from experiments.memorisation import report
from experiments.memorisation.options import Config
from unlearn_jax.bench import study_page
from unlearn_jax.bench.pools import train_on_halves
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.influence import correlation, datamodels, mask_correlation, subset_influence
from unlearn_jax.metrics import exposure, memorisation, reliability, scaled_logits
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict

HELD_OUT = 0.25  # share of the models on which datamodels are tested


def run(config: Config, folder: Run) -> None:
    """Train a pool on random halves, score every example and every pair with a test example, and fit datamodels.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    data, model = setting.data, setting.problem.model
    masks, variables = train_on_halves(config, setting, config.members)
    tested = sample(len(data.test.labels), config.test_size, generator("influence on test examples", config.seed))
    test_images, test_labels = data.test.images[tested], data.test.labels[tested]
    with working("answers") as update:
        train_logits = predict(model, variables, data.train.images, config.strategy)
        update(0.5, "on the training set")
        test_logits = predict(model, variables, test_images, config.strategy)
        update(1.0, f"{len(masks)} models, {len(data.train.labels)} + {len(tested)} examples")

    right, test_right = train_logits.argmax(-1) == data.train.labels, test_logits.argmax(-1) == test_labels
    margins, test_margins = scaled_logits(train_logits, data.train.labels), scaled_logits(test_logits, test_labels)
    halves = np.array_split(np.arange(len(masks)), 2)
    scores = memorisation(right, masks)
    by_half = np.stack([memorisation(right[half], masks[half]).score for half in halves])
    answers_by_half = [subset_influence(masks[half], test_right[half]).score.sum(1) for half in halves]
    with working("influence") as update:
        influence = subset_influence(masks, test_right)
        association = mask_correlation(masks, test_right)
        chance = np.array([largest_by_chance(masks, test_right, config.seed, index) for index in range(config.shuffles)])
        update(1.0, f"largest correlation {abs(association).max():.2f}, by chance {chance.max():.2f}")

    study = report.Results(
        title=f"{config.dataset}, {len(data.train.labels)} examples, {len(masks)} models of {config.model} on random halves",
        names=data.class_names,
        rows=data.published.train,
        images=data.train.images,
        labels=data.train.labels,
        clean_labels=data.clean_labels,
        test_rows=tested,
        test_images=test_images,
        test_labels=test_labels,
        memorisation=scores.score,
        error=scores.error,
        halves=by_half,
        exposure=exposure(margins, masks),
        own_margin=subset_gain(masks, margins),
        right_in=(right & masks).sum(0) / masks.sum(0),
        right_out=(right & ~masks).sum(0) / (~masks).sum(0),
        test_right=test_right.mean(0),
        influence=influence.score,
        influence_error=influence.error,
        association=association,
        chance=chance,
        reliability={"memorisation": reliability(*by_half), "test answers": reliability(*answers_by_half)},
    )
    fitted = fit_datamodels(config, study, masks, margins, test_margins)
    folder.write_csv("memorisation.csv", *report.table(study, fitted))
    folder.write_csv("pairs.csv", *report.pairs(study))
    folder.write_csv("datamodels.csv", *report.targets(study, fitted))
    folder.write_json("results.json", report.facts(study, fitted))
    folder.write_text("summary.md", report.summary(study, fitted))
    save(report.pictures(study, config.shown), folder, "examples")
    save(report.side_by_side(study, config.shown), folder, "pairs")
    save(report.distributions(study), folder, "memorisation")
    save(report.agreement(study, fitted), folder, "datamodels")
    study_page.write(folder, report.explore(study, data.pixel_scale))
    print(report.headline(study, fitted))


def subset_gain(masks: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """What training on each example adds to its own margin, in nats, `[examples]`: the diagonal of subset influence."""
    return (margins * masks).sum(0) / masks.sum(0) - (margins * ~masks).sum(0) / (~masks).sum(0)


def largest_by_chance(masks: np.ndarray, outputs: np.ndarray, seed: int, index: int) -> float:
    """The largest |correlation| of any example with any output after the outputs are permuted among models."""
    order = generator("shuffled models", seed, index).permutation(len(masks))
    return float(abs(mask_correlation(masks, outputs[order])).max())


def fit_datamodels(
    config: Config, study: report.Results, masks: np.ndarray, margins: np.ndarray, test_margins: np.ndarray
) -> report.Fitted:
    """Fits datamodels of some margins to three quarters of the models, and tests them on the rest.

    The training examples are spaced evenly by rank of memorisation, the test examples by row.
    """
    ranks = np.argsort(-study.memorisation, kind="stable")
    rows = ranks[spread_evenly(len(ranks), config.targets)]
    columns = spread_evenly(len(study.test_rows), config.targets)
    outputs = np.concatenate([margins[:, rows], test_margins[:, columns]], axis=1)
    used = generator("models that datamodels are fitted to", config.seed).permutation(len(masks))
    seen, unseen = np.split(used, [len(masks) - round(HELD_OUT * len(masks))])
    with working("datamodels") as update:
        fitted = datamodels(masks[seen], outputs[seen])
        update(1.0, f"{outputs.shape[1]} targets, {len(seen)} models")
    mean_differences = subset_influence(masks[seen], outputs[seen]).score
    own_weights = fitted.weights[rows, np.arange(len(rows))]
    known = {"its memorisation": study.memorisation, "what training on it adds to its own margin": study.own_margin}
    ranked = rank_agreement(np.stack([own_weights, *(scores[rows] for scores in known.values())], axis=1))
    held_out = {
        "datamodel": correlation(fitted.predict(masks[unseen]), outputs[unseen]),
        "difference of means": correlation(masks[unseen].astype(float) @ mean_differences, outputs[unseen]),
    }
    return report.Fitted(
        rows=rows,
        test_rows=study.test_rows[columns],
        weights=fitted.weights,
        mean_differences=mean_differences,
        own_weights=own_weights,
        agreement={name: ranked.between(0, place) for place, name in enumerate(known, 1)},
        held_out=held_out,
        seen=len(seen),
        unseen=len(unseen),
    )


def spread_evenly(count: int, wanted: int) -> np.ndarray:
    """`wanted` evenly spaced places from 0 to `count - 1`, or all of them."""
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int)
