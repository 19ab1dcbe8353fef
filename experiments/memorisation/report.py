"""Memorisation of every training example by a pool on random halves: tables, the pictures, and related pairs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from unlearn_jax.report import page as html
from unlearn_jax.report.drawing import BAND, COLOURS, WIDTH, blank, open_frame
from unlearn_jax.report.tables import Table, finite, markdown, of_columns, page
from unlearn_jax.types import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MEMORISED = 0.25  # an example counts as memorised from this score on (Feldman & Zhang, arXiv 2008.03703)
ACROSS = 3  # pairs in a row
PICTURED, JOINED = 48, 24  # pictures in the explorer: the most memorised, and those in most pairs beyond chance
PARTNERS, LEAST = 12, 4  # test pictures of each: beyond chance at most, and in all at least
GAP = 0.15  # between pairs, in widths of a picture
TITLE: dict[str, Any] = {"fontsize": 7, "pad": 2, "parse_math": False}  # of a picture; names of classes are anybody's


class Results(NamedTuple):
    """The results for every training example, and for every pair of a training and a test example.

    Attributes:
        title: what the report is about.
        names: of the classes.
        rows: the training examples' rows in the published training set.
        images: of the training examples.
        labels: as trained on.
        clean_labels: without label noise.
        test_rows: rows of the test examples studied.
        test_images: their images.
        test_labels: their labels.
        memorisation: see `metrics.memorisation`.
        error: its standard error over the models.
        halves: memorisation by each half of the models.
        exposure: see `metrics.exposure`, in standard deviations.
        own_margin: what training on an example adds to its own margin, in nats.
        right_in: share of correct models among those trained on an example.
        right_out: share among the others.
        test_right: share of all models that are correct on a test example.
        influence: what each training example adds to the probability that a test example is classified correctly.
        influence_error: its standard error.
        association: correlation of training on one with being correct on the other, see `influence.mask_correlation`.
        chance: by shuffle, the largest |association| of all pairs after answers are permuted among models.
        reliability: of memorisation and of its sum over test examples, see `metrics.reliability`: the correlation between
            halves of the models, and the one expected for all of them.
    """

    title: str
    names: tuple[str, ...]
    rows: Int[np.ndarray, " examples"]
    images: Float[np.ndarray, "examples *image"]
    labels: Int[np.ndarray, " examples"]
    clean_labels: Int[np.ndarray, " examples"]
    test_rows: Int[np.ndarray, " test"]
    test_images: Float[np.ndarray, "test *image"]
    test_labels: Int[np.ndarray, " test"]
    memorisation: Float[np.ndarray, " examples"]
    error: Float[np.ndarray, " examples"]
    halves: Float[np.ndarray, "2 examples"]
    exposure: Float[np.ndarray, " examples"]
    own_margin: Float[np.ndarray, " examples"]
    right_in: Float[np.ndarray, " examples"]
    right_out: Float[np.ndarray, " examples"]
    test_right: Float[np.ndarray, " test"]
    influence: Float[np.ndarray, "examples test"]
    influence_error: Float[np.ndarray, "examples test"]
    association: Float[np.ndarray, "examples test"]
    chance: Float[np.ndarray, " shuffles"]
    reliability: dict[str, tuple[float, float]]

    @property
    def wrong(self) -> Bool[np.ndarray, " examples"]:
        """Whether an example's label is wrong."""
        return self.labels != self.clean_labels

    @property
    def beyond(self) -> Bool[np.ndarray, "examples test"]:
        """Whether a pair's |association| exceeds that of any pair in any shuffle."""
        return abs(self.association) > self.chance.max()

    @property
    def strongest(self) -> Int[np.ndarray, " examples"]:
        """The test example with which each training example has the largest |association|."""
        return abs(self.association).argmax(1)


class Fitted(NamedTuple):
    """Datamodels (linear models of margins), and the differences of means for comparison.

    Attributes:
        rows: indices of the training examples whose margins were fitted.
        test_rows: the test examples whose margins were fitted.
        weights: of the datamodels; targets are the training examples, then the test examples.
        mean_differences: the differences of means, in the same unit.
        own_weights: the weight of each fitted training example in the datamodel of its own margin.
        agreement: rank correlation of `own_weights` with other scores of the examples, with a 95% interval over examples.
        held_out: for both kinds of model, the correlation of predicted and actual margins of unseen models.
        seen: number of models fitted to.
        unseen: number of models tested on.
    """

    rows: Int[np.ndarray, " train_targets"]
    test_rows: Int[np.ndarray, " test_targets"]
    weights: Float[np.ndarray, "examples targets"]
    mean_differences: Float[np.ndarray, "examples targets"]
    own_weights: Float[np.ndarray, " train_targets"]
    agreement: dict[str, Interval]
    held_out: dict[str, Float[np.ndarray, " targets"]]
    seen: int
    unseen: int


def table(study: Results, fitted: Fitted) -> Table:
    """The columns and rows of memorisation.csv, a row for each training example; rank 1 is the most memorised."""
    count = len(study.labels)
    order = np.argsort(-study.memorisation, kind="stable")
    rank, own_weights = np.empty(count, int), np.full(count, np.nan)
    rank[order], own_weights[fitted.rows] = 1 + np.arange(count), fitted.own_weights
    columns: dict[str, Any] = {
        "row": study.rows,
        "label": study.labels,
        "clean_label": study.clean_labels,
        "memorisation": study.memorisation,
        "standard_error": study.error,
        "by_first_half": study.halves[0],
        "by_second_half": study.halves[1],
        "right_when_seen": study.right_in,
        "right_when_unseen": study.right_out,
        "own_margin": study.own_margin,
        "exposure": study.exposure,
        "test_answers": study.influence.sum(1),
        "strongest_test_row": study.test_rows[study.strongest],
        "strongest_influence": study.influence[np.arange(count), study.strongest],
        "pairs_beyond_chance": study.beyond.sum(1),
        "datamodel_own_weight": np.array([*map(finite, own_weights.tolist())], object),
        "rank": rank,
    }
    return of_columns(columns)


def pairs(study: Results) -> Table:
    """The columns and rows of pairs.csv: the pairs beyond chance, by falling |association|."""
    names = ["train_row", "train_label", "test_row", "test_label", "influence", "standard_error", "correlation"]
    places = np.argwhere(study.beyond)
    order = np.argsort(-abs(study.association[tuple(places.T)]), kind="stable")
    rows = [
        [
            int(study.rows[i]),
            int(study.labels[i]),
            int(study.test_rows[j]),
            int(study.test_labels[j]),
            float(study.influence[i, j]),
            float(study.influence_error[i, j]),
            float(study.association[i, j]),
        ]
        for i, j in places[order]
    ]
    return Table(names, rows)


def targets(study: Results, fitted: Fitted) -> Table:
    """The columns and rows of datamodels.csv, a row for each fitted margin."""
    names = ["split", "row", "weights", "own_weight", "held_out_correlation", "held_out_correlation_of_differences"]
    first, second = (fitted.held_out[name] for name in ("datamodel", "difference of means"))
    own_weights = [*map(float, fitted.own_weights), *([None] * len(fitted.test_rows))]
    rows = [*(("train", int(row)) for row in study.rows[fitted.rows]), *(("test", int(row)) for row in fitted.test_rows)]
    used = (fitted.weights != 0).sum(0)
    cells = zip(rows, used, own_weights, first, second, strict=True)
    return Table(names, [[*row, int(count), weight, float(a), float(b)] for row, count, weight, a, b in cells])


def facts(study: Results, fitted: Fitted) -> dict[str, Any]:
    """The results over all examples, as in results.json."""
    memorised, count = study.memorisation >= MEMORISED, len(fitted.rows)
    trained, tested = np.nonzero(study.beyond)
    same = study.labels[trained] == study.test_labels[tested]
    held_out = {
        f"{name}, {split}": [float(quantile) for quantile in np.quantile(values[part], (0.5, 0.25, 0.75))]
        for name, values in fitted.held_out.items()
        for split, part in (("train", slice(count)), ("test", slice(count, None)))
    }
    kinds: dict[str, Any] = {"all": slice(None)}
    if study.wrong.any():
        kinds |= {"right": ~study.wrong, "wrong": study.wrong}
    return {
        "examples": len(study.labels),
        "test_examples": len(study.test_rows),
        "accuracy": {
            "seen": float(study.right_in.mean()),
            "unseen": float(study.right_out.mean()),
            "test": float(study.test_right.mean()),
        },
        "memorisation": {
            name: {"mean": float(study.memorisation[kind].mean()), "memorised": float(memorised[kind].mean())}
            for name, kind in kinds.items()
        },
        "standard_error": float(np.sqrt(np.mean(study.error**2))),
        "reliability": study.reliability,
        "pairs": len(trained),
        "pairs_same_class": int(same.sum()),
        "pairs_helping": int((study.influence[trained, tested] > 0).sum()),
        "pairs_by_chance": float(np.max(study.chance)),
        "train_examples_in_pairs": len(np.unique(trained)),
        "train_examples_in_pairs_memorised": int(memorised[np.unique(trained)].sum()),
        "test_examples_in_pairs": len(np.unique(tested)),
        "held_out_correlation": held_out,
        "datamodels_without_weights": float((fitted.weights == 0).all(0).mean()),
        "own_weight_agrees_with": fitted.agreement,
        "models": [fitted.seen, fitted.unseen],
    }


def headline(study: Results, fitted: Fitted) -> str:
    """The result in two lines."""
    results = facts(study, fitted)
    held_out = results["held_out_correlation"]
    return (
        f"memorised (from {MEMORISED}): {100 * results['memorisation']['all']['memorised']:.1f}% of {results['examples']}; "
        f"halves of the models correlate {study.reliability['memorisation'][0]:.2f}; {results['pairs']} pairs beyond chance\n"
        f"datamodels, correlation on {fitted.unseen} unseen models: {held_out['datamodel, train'][0]:.2f} (training examples), "
        f"{held_out['datamodel, test'][0]:.2f} (test examples)"
    )


def summary(study: Results, fitted: Fitted) -> str:
    """The text of summary.md."""
    results = facts(study, fitted)
    accuracy, held_out = results["accuracy"], results["held_out_correlation"]
    halves, answers = (study.reliability[name] for name in ("memorisation", "test answers"))
    scores = results["memorisation"].items()
    kinds = [[name, f"{score['mean']:.3f}", f"{100 * score['memorised']:.1f}%"] for name, score in scores]
    predicted = [[name, *(f"{value:.2f}" for value in values)] for name, values in held_out.items()]
    return page(
        f"# Memorisation: {study.title}",
        f"Accuracy on training examples that a model saw: {100 * accuracy['seen']:.1f}%, on those that it did not see: "
        f"{100 * accuracy['unseen']:.1f}%, on the test set: {100 * accuracy['test']:.1f}%.",
        markdown(("labels", "mean memorisation", f"memorised ({MEMORISED} or more)"), kinds),
        f"Standard error of a score {results['standard_error']:.3f} (root mean square); the scores of one half of the models "
        f"correlate {halves[0]:.2f} with those of the other; expected for all models: {halves[1]:.2f}. "
        f"For the influence on all test examples together: {answers[0]:.2f} and {answers[1]:.2f}.",
        f"Of {results['examples']} x {results['test_examples']} pairs, {results['pairs']} correlate beyond "
        f"±{results['pairs_by_chance']:.2f}, the largest of all pairs in {len(study.chance)} shuffles: "
        f"{results['pairs_same_class']} are of the same class, "
        f"{results['pairs_helping']} help. They join {results['train_examples_in_pairs']} training examples, of which "
        f"{results['train_examples_in_pairs_memorised']} are memorised, with {results['test_examples_in_pairs']} test examples.",
        f"Datamodels were fitted to {fitted.seen} models and tested on {fitted.unseen} others; "
        f"{100 * results['datamodels_without_weights']:.0f}% have no weight. Rank correlation of an example's own weight with "
        + ", with ".join(f"{name} {interval:.2f}" for name, interval in fitted.agreement.items())
        + ".",
        markdown(("correlation on unseen models", "median", "lower quartile", "upper quartile"), predicted),
    )


def explore(study: Results, scale: Sequence[float] = ()) -> dict[str, Any]:
    """What the explorer of the page shows: training pictures, and the test pictures whose answers hang on each.

    Args:
        study: all pairs.
        scale: see `Dataset.pixel_scale`.
    """
    order, joined = np.argsort(-study.memorisation, kind="stable"), study.beyond.sum(1)
    most = [row for row in np.argsort(-joined, kind="stable")[:JOINED] if joined[row]]
    chosen = np.array([*dict.fromkeys([*order[:PICTURED], *most])])
    nearest = np.argsort(-abs(study.association[chosen]), axis=1, kind="stable")
    partners = [near[: max(LEAST, min(PARTNERS, joined[i]))] for i, near in zip(chosen, nearest, strict=True)]
    tests = np.unique(np.concatenate(partners))
    shown = html.pixels(np.concatenate([study.images[chosen], study.test_images[tests]]), scale)
    addresses = [None] * (len(chosen) + len(tests)) if shown is None else [*map(html.picture, shown)]
    scores = {
        "row": study.rows,
        "label": study.labels,
        "clean": study.clean_labels,
        "memorisation": study.memorisation,
        "error": study.error,
        "seen": study.right_in,
        "unseen": study.right_out,
        "margin": study.own_margin,
        "answers": study.influence.sum(1),
        "pairs": joined,
    }
    pairs = [
        [
            [
                int(np.searchsorted(tests, j)),
                study.influence[i, j],
                study.influence_error[i, j],
                study.association[i, j],
                study.beyond[i, j],
            ]
            for j in near
        ]
        for i, near in zip(chosen, partners, strict=True)
    ]
    return {
        "kind": "pictures",
        "names": study.names,
        "count": len(study.labels),
        "most": min(PICTURED, len(order)),
        "tested": len(study.test_rows),
        "chance": study.chance.max(),
        "train": {
            **{name: values[chosen] for name, values in scores.items()},
            "pictures": addresses[: len(chosen)],
            "tests": pairs,
        },
        "test": {
            "row": study.test_rows[tests],
            "label": study.test_labels[tests],
            "right": study.test_right[tests],
            "pictures": addresses[len(chosen) :],
        },
    }


def pictures(study: Results, shown: int) -> "matplotlib.figure.Figure":
    """Draws the most memorised examples (wrong labels in a separate row) above the least memorised."""
    order = np.argsort(-study.memorisation, kind="stable")
    right, wrong = order[~study.wrong[order]], order[study.wrong[order]]
    rows = [("most memorised", right[:shown]), ("the next", right[shown : 2 * shown])]
    rows += [("most memorised,\nwrong label", wrong[:shown])] if len(wrong) else []
    rows += [("least memorised", right[::-1][:shown])]
    figure = blank(WIDTH, 0.6 + len(rows) * (0.42 + 0.92 * WIDTH / (shown + 0.5)))
    grid = figure.subplots(len(rows), shown, squeeze=False)
    for line, (name, chosen) in zip(grid, rows, strict=True):
        for place, axes in enumerate(line):
            axes.axis("off")
            if place < len(chosen):
                row = chosen[place]
                _picture(axes, study.images[row])
                was = f"\n({study.names[study.clean_labels[row]]})" if study.wrong[row] else ""
                axes.set_title(f"{study.names[study.labels[row]]}{was}\n{study.memorisation[row]:+.2f}", **TITLE)
        line[0].text(-0.12, 0.5, name, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=8)
    figure.suptitle(
        f"{study.title}\nlabel trained on{' (true label)' if len(wrong) else ''} and memorisation, each ± "
        f"{np.sqrt(np.mean(study.error**2)):.2f}",
        fontsize=9,
    )
    return figure


def side_by_side(study: Results, shown: int) -> "matplotlib.figure.Figure":
    """Draws the pairs of largest association, each example once: training examples left, test examples right."""
    helping, harming = (_closest(sign * study.association, shown) for sign in (1, -1))
    chosen = [*helping[: ACROSS * 3], *harming[:ACROSS]]
    down = -(-len(chosen) // ACROSS)
    figure = blank(WIDTH, 0.8 + down * (0.5 + 0.8 * WIDTH / (2 * ACROSS)))
    widths = ([1.0, 1.0, GAP] * ACROSS)[:-1]
    grid = figure.subplots(down, len(widths), squeeze=False, width_ratios=widths)
    for axes in grid.ravel():
        axes.axis("off")
    for place, (i, j) in enumerate(chosen):
        left, right = grid[place // ACROSS, 3 * (place % ACROSS) :][:2]
        _picture(left, study.images[i])
        _picture(right, study.test_images[j])
        was = f" ({study.names[study.clean_labels[i]]})" if study.wrong[i] else ""
        left.set_title(f"train: {study.names[study.labels[i]]}{was}\nmemorised {study.memorisation[i]:.2f}", **TITLE)
        change = f"{study.influence[i, j]:+.2f} ± {study.influence_error[i, j]:.2f}"
        right.set_title(f"test: {study.names[study.test_labels[j]]}\nright {change}", **TITLE)
        colour = COLOURS[2] if study.influence[i, j] > 0 else COLOURS[4]
        for axes in (left, right):
            axes.axis("on")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=colour if study.beyond[i, j] else BAND, linewidth=2)
    figure.suptitle(
        f"{study.title}\nwhat training on the left image adds to the share of models that are right about the right one\n"
        "green: helps, red: harms, grey: no more than chance",
        fontsize=9,
    )
    return figure


def distributions(study: Results) -> "matplotlib.figure.Figure":
    """Draws all scores, their reliability, and the largest association of every test example."""
    figure = blank(WIDTH, 3.6)
    histogram, repeated, closest = figure.subplots(1, 3)
    bins = np.linspace(-0.3, 1.0, 27)
    kinds = [(~study.wrong, "right label", COLOURS[0]), (study.wrong, "wrong label", COLOURS[4])]
    kinds = [kind for kind in kinds if kind[0].any()]
    scores, names, colours = zip(*((study.memorisation[kind], name, colour) for kind, name, colour in kinds), strict=True)
    histogram.hist(scores, bins, stacked=True, color=colours, label=names)
    histogram.set_yscale("log")
    histogram.set_ylim(bottom=0.7)
    histogram.set_xlabel("memorisation")
    histogram.set_ylabel("training examples")
    histogram.axvline(MEMORISED, color="#888888", linewidth=0.8)
    if len(kinds) > 1:
        histogram.legend(frameon=False, fontsize=8)
    for kind, _, colour in kinds:
        repeated.plot(*study.halves[:, kind], "o", color=colour, markersize=2.5, alpha=0.4)
    repeated.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, zorder=0)
    repeated.set_xlabel("by one half of the models")
    repeated.set_ylabel("by the other half")
    repeated.set_title(f"memorisation: correlation {study.reliability['memorisation'][0]:.2f}", fontsize=9)
    nearest = abs(study.association).max(0)
    beyond = nearest > study.chance.max()
    closest.axhspan(study.chance.min(), study.chance.max(), color=BAND, alpha=0.6, linewidth=0, label="largest by chance")
    for kind, colour in ((~beyond, COLOURS[0]), (beyond, COLOURS[4])):
        closest.plot(study.test_right[kind], nearest[kind], "o", color=colour, markersize=2.5, alpha=0.5)
    closest.set_xlabel("share of models right about it")
    closest.set_ylabel("largest |correlation| with a training example")
    closest.set_ylim(bottom=0)
    closest.legend(frameon=False, fontsize=8)
    closest.set_title(f"test examples: {beyond.sum()} of {len(beyond)} beyond chance", fontsize=8)
    open_frame(histogram, repeated, closest)
    figure.suptitle(study.title, fontsize=9)
    return figure


def agreement(study: Results, fitted: Fitted) -> "matplotlib.figure.Figure":
    """Draws how well datamodels predict unseen models, and own weights against memorisation."""
    figure = blank(WIDTH, 3.4)
    predicted, weights, used = figure.subplots(1, 3)
    count = len(fitted.rows)
    for part, name, colour in ((slice(count), "training example", COLOURS[0]), (slice(count, None), "test example", COLOURS[1])):
        x, y = (fitted.held_out[kind][part] for kind in ("difference of means", "datamodel"))
        predicted.plot(x, y, "o", color=colour, markersize=3, alpha=0.6, label=name)
        counts = np.sort((fitted.weights[:, part] != 0).sum(0))[::-1]
        used.plot(np.linspace(0, 1, len(counts)), counts, color=colour, label=name)
    ends = [min(predicted.get_xlim()[0], predicted.get_ylim()[0]), 1.0]
    predicted.plot(ends, ends, color="#888888", linewidth=0.8, zorder=0)
    predicted.set_xlabel("differences of means")
    predicted.set_ylabel("datamodel (lasso)")
    predicted.set_title(f"correlation on {fitted.unseen} unseen models", fontsize=9)
    predicted.legend(frameon=False, fontsize=8)
    wrong = study.wrong[fitted.rows]
    for kind, colour in ((~wrong, COLOURS[0]), (wrong, COLOURS[4])):
        weights.plot(study.memorisation[fitted.rows][kind], fitted.own_weights[kind], "o", color=colour, markersize=3, alpha=0.7)
    weights.set_xlabel("memorisation")
    weights.set_ylabel("weight in its own datamodel, nats")
    rank = fitted.agreement["its memorisation"].value
    weights.set_title(f"rank correlation {rank:.2f}{' (red: wrong label)' * bool(wrong.any())}", fontsize=9)
    used.set_xlabel("share of targets")
    used.set_ylabel("weights that are not zero")
    used.set_yscale("symlog", linthresh=1)
    used.legend(frameon=False, fontsize=8)
    open_frame(predicted, weights, used)
    figure.suptitle(study.title, fontsize=9)
    return figure


def _closest(association: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The `count` pairs of largest values, without repeating a row or a column."""
    left, pairs = association.copy(), []
    for _ in range(min(count, *left.shape)):
        i, j = (int(place) for place in np.unravel_index(np.argmax(left), left.shape))
        pairs.append((i, j))
        left[i], left[:, j] = -np.inf, -np.inf
    return pairs


def _picture(axes: "matplotlib.axes.Axes", image: np.ndarray) -> None:
    """Draws a standardised image scaled to its range; one channel is drawn dark on white."""
    scaled = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    if image.shape[-1] == 1:
        axes.imshow(scaled[..., 0], cmap="gray_r", vmin=0, vmax=1)
    else:
        axes.imshow(scaled)
