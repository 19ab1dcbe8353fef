"""The variance of models over seeds: in the loss, on lines between models, and in their sharpness."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments.variance import report
from experiments.variance.landscape import MeasuredSet, Measurer, Probe, require_all, train_oracles
from experiments.variance.options import Config
from experiments.variance.report import Row
from unlearn_jax.bench.forget_set import ForgetSet, forget_mask, forget_set
from unlearn_jax.bench.hyperparameters import merge_sets, settings_of_sets
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.setting import prepare
from unlearn_jax.data.splits import generator
from unlearn_jax.metrics import cross_entropy_losses, klom, scaled_logits
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.metrics.decomposition import brier_decomposition, cross_entropy_decomposition
from unlearn_jax.metrics.distances import barriers
from unlearn_jax.metrics.statistics import crossed_mean, pseudo_values
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.tables import of_columns
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Interval

TINY = 1e-12


def run(config: Config, folder: Run) -> None:
    """Train, unlearn, measure every model and the lines between models; decompose, correlate and report.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting, members = prepare(config), config.members
    assert members != "auto"
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", members)
    require_all(config, "original", originals.variables)
    probe = Probe(config, setting)
    names, values = config.method_names(), settings_of_sets(config, setting, config.method_names())
    studies = [forget_set(config, folder, setting, mask, name) for mask, name in zip(masks, values, strict=True)]
    for study in studies[1:]:
        train_oracles(config, study)  # stops here, before a method is trained, if one diverged
    sets: list[MeasuredSet] = []
    for index, study in enumerate(studies):
        measurer = Measurer(config, study, probe, originals.variables)
        sets.append(MeasuredSet(study, measurer.measure_groups(values[study.name], with_plane=index == 0)))
    lost = {one_set.study.name: [name for name in names if name not in one_set.groups] for one_set in sets}
    groups = [name for name in ("original", "oracle", *names) if all(name in one_set.groups for one_set in sets)]
    with working("statistics") as update:
        rows = decompose(groups, sets)
        update(0.7, "bias and variance")
        rows += [*correlate_spread_and_loss(sets), *measure_barriers(sets), *compare_sharpness(groups, sets)]
        examples, lines, models = example_columns(sets), mean_lines(sets), model_columns(groups, sets)
        update(1.0, f"{len(rows)} values")
    title = f"{config.dataset}, {config.model} of width {config.width}, {members} originals, {2 * members} oracles"
    title += f", {len(sets)} forget set{'s' * (len(sets) > 1)}"
    folder.write_csv("variance.csv", *report.table(Row._fields, rows))
    folder.write_csv("lines.csv", *report.table(report.Line._fields, lines))
    folder.write_csv("models.csv", *report.table(*of_columns(models)))
    folder.write_csv("examples.csv", *report.table(*of_columns(examples)))
    folder.write_json("results.json", {"rows": rows, "lines": lines, "diverged": lost, "hyperparameters": merge_sets(values)})
    summary = report.summary(rows, title, lost)
    folder.write_text("summary.md", summary)
    save(report.decomposition(rows, groups, title), folder, "decomposition")
    save(report.spread(examples, sets[0].study.name, title), folder, "examples")
    save(report.along_lines(lines, title), folder, "lines")
    save(report.sharpness(models, title), folder, "sharpness")
    grid = {
        key.removeprefix("plane/"): value for key, value in sets[0].groups.get(config.slices.plane, {}).items() if "plane/" in key
    }
    if grid:
        plane = report.Plane(**grid)
        folder.write_csv("plane.csv", *report.grid(plane))
        save(report.contours(plane, ("original", "oracle", config.slices.plane), title), folder, "plane")
    print(summary)


def estimate(values: np.ndarray) -> Interval:
    """The mean of values `[members, sets]`, and its interval over members and forget sets."""
    return crossed_mean(values).interval


def data_parts(study: ForgetSet) -> dict[str, tuple[str, np.ndarray]]:
    """Part of the data (a split, or its wrong or right labels) -> its split, and a mask of the split's examples."""
    clean = study.setting.data.clean_labels
    chosen = {split: (split, np.ones(len(labels), bool)) for split, labels in study.labels._asdict().items()}
    for split, rows in study.rows.items():
        wrong = clean[rows] != getattr(study.labels, split)
        if 0 < wrong.sum() < len(wrong):
            chosen |= {f"{split}, wrong labels": (split, wrong), f"{split}, right labels": (split, ~wrong)}
    return chosen


MEASURES = (
    *(f"cross-entropy {part}" for part in ("loss", "bias", "variance")),
    *(f"Brier {part}" for part in ("loss", "bias", "variance")),
    "sd of the loss",
    "log sd of the margin",
    "accuracy",
)


def measure_spread(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The means of `MEASURES` over some examples, `[measures]`."""
    losses, margins = cross_entropy_losses(logits, labels), scaled_logits(logits, labels)
    decompositions = cross_entropy_decomposition(logits, labels), brier_decomposition(logits, labels)
    means = [part.mean() for decomposition in decompositions for part in decomposition]
    log_sd = np.log(np.maximum(margins.std(0, ddof=1), TINY)).mean()
    return np.array([*means, losses.std(0, ddof=1).mean(), log_sd, 100 * (logits.argmax(-1) == labels[None]).mean()])


def decompose(groups: list[str], sets: list[MeasuredSet]) -> list[Row]:
    """Bias, variance and spread of every group on every part of the data, and their differences from the oracles.

    There are two oracles for each original, and each original is compared with the mean of its pair. The null is the difference
    of one half of the oracles from the other.
    """
    rows: list[Row] = []
    common = [part for part in data_parts(sets[0].study) if all(part in data_parts(one_set.study) for one_set in sets)]
    for part in common:
        values: dict[str, np.ndarray] = {}  # [members, measures, sets]
        for name in groups:
            values[name] = np.stack([contributions(one_set, name, part) for one_set in sets], axis=-1)
        halves = np.stack(np.split(values["oracle"], 2))
        null = halves[1] - halves[0]
        values["oracle"] = halves.mean(0)
        for place, measure in enumerate(MEASURES):
            band = estimate(null[:, place])
            for name, contribution in values.items():
                difference = estimate(contribution[:, place] - values["oracle"][:, place]) if name != "oracle" else band
                rows.append(Row("spread", name, part, measure, *estimate(contribution[:, place]), *difference))
    return rows


def contributions(one: MeasuredSet, group: str, part: str) -> np.ndarray:
    """The contributions (pseudo-values) of every member to `MEASURES` on a part of the data, `[members, measures]`."""
    split, chosen = data_parts(one.study)[part]
    labels = getattr(one.study.labels, split)[chosen]
    return pseudo_values(lambda logits: measure_spread(logits, labels), one.groups[group][split][:, chosen])


def correlate_spread_and_loss(sets: list[MeasuredSet]) -> list[Row]:
    """Whether examples that vary over seeds have a high loss: spread in one half of the models, loss in the other.

    The halves differ because an unlucky model raises both spread and loss.
    """
    rows: list[Row] = []
    for group in ("original", "oracle"):
        for split in Cube._fields:
            pseudo = []
            for one_set in sets:
                logits, labels = one_set.groups[group][split], getattr(one_set.study.labels, split)
                pairs = len(logits) // 2
                values = np.stack([scaled_logits(logits, labels), cross_entropy_losses(logits, labels)], axis=1)
                halved = values[: 2 * pairs].reshape(pairs, 2, *values.shape[1:])
                if group == "oracle":  # as many as there are originals
                    halved = halved[: pairs // 2]
                pseudo.append(centred_pseudo_values(coincidence, halved))
            both = np.stack(pseudo, axis=-1)
            for place, measure in enumerate(
                ("rank correlation of spread and loss", "share of the loss in the most variable tenth")
            ):
                rows.append(Row("coincidence", group, split, measure, *estimate(both[:, place])))
    return rows


def centred_pseudo_values(statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Pseudo-values with the statistic as their mean: for ranks, which are not smooth, bias correction adds mostly noise."""
    pseudo = pseudo_values(statistic, values)
    return pseudo - pseudo.mean(0) + statistic(values)


def coincidence(pairs: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of spread and mean loss, and the share of the loss in the most variable tenth, in %.

    Args:
        pairs: margins and losses of pairs of models, `[pairs, 2 models, margin and loss, examples]`.
    """
    spread, loss = pairs[:, :, 0].std(0, ddof=1), pairs[:, :, 1].mean(0)
    both_ways = []
    for one, other in ((0, 1), (1, 0)):
        most = np.argsort(-spread[one], kind="stable")[: max(len(spread[one]) // 10, 1)]
        both_ways.append((rank_correlation(spread[one], loss[other]), 100 * loss[other][most].sum() / loss[other].sum()))
    return np.mean(both_ways, axis=0)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; 0 if all values of one side are equal."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def measure_barriers(sets: list[MeasuredSet]) -> list[Row]:
    """Barrier and rise of every kind of line on every split, and the distance between its ends."""
    rows: list[Row] = []
    for kind in line_kinds(sets):
        lines = [array_of(one_set, f"line/{kind}") for one_set in sets]
        shares = np.linspace(0, 1, lines[0].shape[1])
        for place, split in enumerate(Cube._fields):
            heights = np.stack([barriers(losses[..., place], shares) for losses in lines], axis=1)
            rows.append(Row("line", kind, split, "barrier", *estimate(heights)))
            ends = np.stack([losses[:, -1, place] - losses[:, 0, place] for losses in lines], axis=1)
            rows.append(Row("line", kind, split, "rise from end to end", *estimate(ends)))
        far = np.stack([array_of(one_set, f"distance/{kind}") for one_set in sets], axis=1)
        rows.append(Row("line", kind, "", "relative distance of the weights", *estimate(far)))
    return rows


def line_kinds(sets: list[MeasuredSet]) -> list[str]:
    """The kinds of lines that all forget sets have."""
    by_set = [
        [key.removeprefix("line/") for arrays in one_set.groups.values() for key in arrays if key.startswith("line/")]
        for one_set in sets
    ]
    return [kind for kind in by_set[0] if all(kind in others for others in by_set)]


def array_of(one: MeasuredSet, key: str) -> np.ndarray:
    """The array of a key: losses on lines `[lines, points, splits]`, or distances `[lines]`."""
    return next(arrays[key] for arrays in one.groups.values() if key in arrays)


def compare_sharpness(groups: list[str], sets: list[MeasuredSet]) -> list[Row]:
    """Sharpness and forgetting (KLOM) of every group, and their correlation over methods and over members."""
    rows: list[Row] = []
    logs = {
        split: {name: np.stack([sharpness_of(one_set, name, split) for one_set in sets], 1) for name in groups} for split in SHARP
    }
    for split, by_group in logs.items():
        halves = np.stack(np.split(by_group["oracle"], 2))
        for name, log_sharpness in by_group.items():
            difference = halves[1] - halves[0] if name == "oracle" else log_sharpness - halves.mean(0)
            shown = np.exp([*estimate(log_sharpness), *estimate(difference)])
            rows.append(Row("sharpness", name, split, "largest eigenvalue (mean and ratio are geometric)", *map(float, shown)))
    away = {name: [klom_of(one_set, name) for one_set in sets] for name in groups}
    for name, kloms in away.items():
        value, nulls = np.mean([one for one, _ in kloms]), np.mean([null for _, null in kloms], axis=0)
        low, high = np.quantile(nulls, (0.025, 0.975))
        from_null = float(value - nulls.mean()), float(value - high), float(value - low)
        rows.append(Row("forgetting", name, "forget", "KLOM (difference: from its null)", float(value), None, None, *from_null))
    judged = [name for name in groups if name != "oracle"]
    seen = {
        "KLOM": [np.mean([one for one, _ in away[name]]) for name in judged],
        **{
            f"loss on {split}": [np.mean([loss_of(one_set, name, split) for one_set in sets]) for name in judged]
            for split in Cube._fields
        },
    }
    for split in SHARP:
        ranked = rank_agreement(np.array([[logs[split][name].mean() for name in judged], *seen.values()]).T)
        for place, measure in enumerate(seen, 1):
            correlation = ranked.between(0, place)
            rows.append(Row("sharpness and forgetting", "over methods", split, f"rank correlation with {measure}", *correlation))
        for other in Cube._fields:
            pairs = [sharpness_and_loss(one_set, judged, split, other) for one_set in sets]
            values = np.stack([centred_pseudo_values(mean_rank_correlation, pair) for pair in pairs], axis=1)
            measure = f"rank correlation with loss on {other}"
            rows.append(Row("sharpness and forgetting", "over members of a method", split, measure, *estimate(values)))
    return rows


SHARP = ("retain", "forget")  # the splits on which sharpness is measured


def sharpness_of(one: MeasuredSet, group: str, split: str) -> np.ndarray:
    """The logarithm of every member's sharpness, `[members]`."""
    return np.log(np.maximum(one.groups[group][f"sharpness/{split}"].astype(float), TINY))


def loss_of(one: MeasuredSet, group: str, split: str) -> np.ndarray:
    """Every member's mean loss, `[members]`."""
    return cross_entropy_losses(one.groups[group][split], getattr(one.study.labels, split)).mean(1)


def sharpness_and_loss(one: MeasuredSet, groups: list[str], split: str, other: str) -> np.ndarray:
    """Sharpness on a split and loss on another, `[members, groups, 2]`."""
    pairs = [np.stack([sharpness_of(one, name, split), loss_of(one, name, other)], axis=-1) for name in groups]
    return np.stack(pairs, axis=1)


def mean_rank_correlation(values: np.ndarray) -> np.ndarray:
    """The rank correlation of sharpness and loss over members, averaged over groups; values `[members, groups, 2]`."""
    return np.array(np.mean([rank_correlation(*values[:, place].T) for place in range(values.shape[1])]))


def klom_of(one: MeasuredSet, group: str) -> tuple[float, np.ndarray]:
    """Mean KLOM on the forget set against random halves of the oracles, and by split the KLOM of one half against the other."""
    study = one.study
    oracles = scaled_logits(one.groups["oracle"]["forget"], study.labels.forget)
    margins = scaled_logits(one.groups[group]["forget"], study.labels.forget)
    rng = generator("oracles in halves", study.config.seed)
    halves = [np.split(rng.permutation(len(oracles)), 2) for _ in range(study.config.evaluation.splits)]
    null = np.array([klom(oracles[half], oracles[other]).mean() for half, other in halves])
    if group == "oracle":
        return float(null.mean()), null
    return float(np.mean([klom(margins, oracles[half]).mean() for half, _ in halves])), null


def mean_lines(sets: list[MeasuredSet]) -> list[report.Line]:
    """The mean loss at every point of every kind of line, with intervals."""
    lines = []
    for kind in line_kinds(sets):
        losses = np.stack([array_of(one_set, f"line/{kind}") for one_set in sets], axis=1)  # [lines, sets, points, splits]
        for place, split in enumerate(Cube._fields):
            for point, share in enumerate(np.linspace(0, 1, losses.shape[2])):
                lines.append(report.Line(kind, split, float(share), *estimate(losses[:, :, point, place])))
    return lines


def example_columns(sets: list[MeasuredSet]) -> report.Columns:
    """The columns of examples.csv: each example's mean loss, variance and margin spread over originals and over oracles."""
    columns: dict[str, list[np.ndarray]] = {}
    for one_set in sets:
        for split, labels in one_set.study.labels._asdict().items():
            rows, right = np.arange(len(labels)), labels
            if split in one_set.study.rows:
                rows, right = one_set.study.published[split], one_set.study.setting.data.clean_labels[one_set.study.rows[split]]
            of_split: dict[str, Any] = {
                "forget_set": np.full(len(rows), one_set.study.name),
                "split": np.full(len(rows), split),
                "row": rows,
                "wrong_label": (right != labels).astype(int),
            }
            for group in ("original", "oracle"):
                logits = one_set.groups[group][split]
                data_parts = cross_entropy_decomposition(logits, labels)
                of_split |= {f"{group}_loss": data_parts.loss, f"{group}_variance": data_parts.variance}
                of_split |= {f"{group}_margin_sd": scaled_logits(logits, labels).std(0, ddof=1)}
            for name, values in of_split.items():
                columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


def model_columns(groups: list[str], sets: list[MeasuredSet]) -> report.Columns:
    """The columns of models.csv: sharpness and loss of every model."""
    columns: dict[str, list[np.ndarray]] = {}
    for one_set in sets:
        for name in groups:
            arrays = one_set.groups[name]
            members = np.arange(len(arrays["forget"]))
            of_group: dict[str, Any] = {
                "forget_set": np.full(len(members), one_set.study.name),
                "group": np.full(len(members), name),
                "member": members,
                **{f"{what}_{split}": arrays[f"{what}/{split}"] for split in SHARP for what in ("sharpness", "residual")},
                **{f"loss_{split}": loss_of(one_set, name, split) for split in Cube._fields},
            }
            for column, values in of_group.items():
                columns.setdefault(column, []).append(values)
    return {column: np.concatenate(values) for column, values in columns.items()}
