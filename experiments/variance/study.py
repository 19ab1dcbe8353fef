"""The variance of models over seeds: in the loss, between the models, and in their sharpness."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments.variance import report
from experiments.variance.landscape import Look, Measured, Probe, oracles, whole
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
    """Train, unlearn, measure every model and what lies between them; decompose, correlate and report.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    setting, members = prepare(config), config.members
    assert members != "auto"
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", members)
    whole(config, "original", originals.variables)
    probe = Probe(config, setting)
    names, values = config.method_names(), settings_of_sets(config, setting, config.method_names())
    studies = [forget_set(config, folder, setting, mask, name) for mask, name in zip(masks, values, strict=True)]
    for study in studies[1:]:
        oracles(config, study)  # if one diverged, then before a method is trained; read from the cache when it is their turn
    sets: list[Measured] = []
    for index, study in enumerate(studies):
        look = Look(config, study, probe, originals.variables)
        sets.append(Measured(study, look.groups(values[study.name], with_plane=index == 0)))
    lost = {each.study.name: [name for name in names if name not in each.groups] for each in sets}
    groups = [name for name in ("original", "oracle", *names) if all(name in each.groups for each in sets)]
    with working("statistics") as update:
        rows = decomposed(groups, sets)
        update(0.7, "bias and variance")
        rows += [*coinciding(sets), *between(sets), *sharp(groups, sets)]
        examples, lines, models = by_example(sets), by_line(sets), by_model(groups, sets)
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
    """The mean over members and forget sets, and its interval for others of both."""
    return crossed_mean(values).interval


def parts(study: ForgetSet) -> dict[str, tuple[str, np.ndarray]]:
    """The examples that are looked at together: of which split, and which of them."""
    clean = study.setting.data.clean_labels
    found = {split: (split, np.ones(len(labels), bool)) for split, labels in study.labels._asdict().items()}
    for split, rows in study.rows.items():
        wrong = clean[rows] != getattr(study.labels, split)
        if 0 < wrong.sum() < len(wrong):
            found |= {f"{split}, wrong labels": (split, wrong), f"{split}, right labels": (split, ~wrong)}
    return found


MEASURES = (
    *(f"cross-entropy {part}" for part in ("loss", "bias", "variance")),
    *(f"Brier {part}" for part in ("loss", "bias", "variance")),
    "sd of the loss",
    "log sd of the margin",
    "accuracy",
)


def spreads(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The means of `MEASURES` over some examples, `[measures]`."""
    losses, margins = cross_entropy_losses(logits, labels), scaled_logits(logits, labels)
    means = [part.mean() for each in (cross_entropy_decomposition, brier_decomposition) for part in each(logits, labels)]
    log_sd = np.log(np.maximum(margins.std(0, ddof=1), TINY)).mean()
    return np.array([*means, losses.std(0, ddof=1).mean(), log_sd, 100 * (logits.argmax(-1) == labels[None]).mean()])


def decomposed(groups: list[str], sets: list[Measured]) -> list[Row]:
    """Bias, variance and spread of every group on every part of the data, beside what it is of the oracles.

    The oracles are twice as many: a pair of them stands beside each original. The null: the difference of one half to the other.
    """
    rows: list[Row] = []
    common = [part for part in parts(sets[0].study) if all(part in parts(each.study) for each in sets)]
    for part in common:
        values: dict[str, np.ndarray] = {}  # [members, measures, sets]
        for name in groups:
            values[name] = np.stack([contributions(each, name, part) for each in sets], axis=-1)
        halves = np.stack(np.split(values["oracle"], 2))
        null = halves[1] - halves[0]
        values["oracle"] = halves.mean(0)
        for place, measure in enumerate(MEASURES):
            band = estimate(null[:, place])
            for name, own in values.items():
                difference = estimate(own[:, place] - values["oracle"][:, place]) if name != "oracle" else band
                rows.append(Row("spread", name, part, measure, *estimate(own[:, place]), *difference))
    return rows


def contributions(one: Measured, group: str, part: str) -> np.ndarray:
    """The contribution of every member to each of `MEASURES` on a part of the data (pseudo-values)."""
    split, chosen = parts(one.study)[part]
    labels = getattr(one.study.labels, split)[chosen]
    return pseudo_values(lambda own: spreads(own, labels), one.groups[group][split][:, chosen])


def coinciding(sets: list[Measured]) -> list[Row]:
    """Whether what varies over seeds is what has a high loss: spread by one half of the models, loss by the other.

    One half for both would find chance alone: an unlucky model raises both.
    """
    rows: list[Row] = []
    for group in ("original", "oracle"):
        for split in Cube._fields:
            found = []
            for each in sets:
                logits, labels = each.groups[group][split], getattr(each.study.labels, split)
                pairs = len(logits) // 2
                values = np.stack([scaled_logits(logits, labels), cross_entropy_losses(logits, labels)], axis=1)
                halved = values[: 2 * pairs].reshape(pairs, 2, *values.shape[1:])
                if group == "oracle":  # as many as there are originals
                    halved = halved[: pairs // 2]
                found.append(centred(coincidence, halved))
            both = np.stack(found, axis=-1)
            for place, measure in enumerate(
                ("rank correlation of spread and loss", "share of the loss in the most variable tenth")
            ):
                rows.append(Row("coincidence", group, split, measure, *estimate(both[:, place])))
    return rows


def centred(statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Pseudo-values about the statistic itself: for ranks, which are not smooth, correcting the bias adds mostly noise."""
    found = pseudo_values(statistic, values)
    return found - found.mean(0) + statistic(values)


def coincidence(pairs: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the margins' spread and the mean loss, and the loss that the most variable tenth carries.

    Args:
        pairs: margin and loss by pairs of models, `[pairs, 2 models, margin and loss, examples]`.
    """
    spread, loss = pairs[:, :, 0].std(0, ddof=1), pairs[:, :, 1].mean(0)
    found = []
    for one, other in ((0, 1), (1, 0)):
        most = np.argsort(-spread[one], kind="stable")[: max(len(spread[one]) // 10, 1)]
        found.append((correlated(spread[one], loss[other]), 100 * loss[other][most].sum() / loss[other].sum()))
    return np.mean(found, axis=0)


def correlated(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side is all alike, which orders nothing."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def between(sets: list[Measured]) -> list[Row]:
    """The barrier on every kind of line and every split, with the distance of its ends."""
    rows: list[Row] = []
    for kind in kinds(sets):
        lines = [losses_of(each, kind) for each in sets]
        shares = np.linspace(0, 1, lines[0].shape[1])
        for place, split in enumerate(Cube._fields):
            found = np.stack([barriers(own[..., place], shares) for own in lines], axis=1)
            rows.append(Row("line", kind, split, "barrier", *estimate(found)))
            ends = np.stack([own[:, -1, place] - own[:, 0, place] for own in lines], axis=1)
            rows.append(Row("line", kind, split, "rise from end to end", *estimate(ends)))
        far = np.stack(
            [next(own[f"distance/{kind}"] for own in each.groups.values() if f"distance/{kind}" in own) for each in sets], 1
        )
        rows.append(Row("line", kind, "", "relative distance of the weights", *estimate(far)))
    return rows


def kinds(sets: list[Measured]) -> list[str]:
    """The kinds of lines that there are on every forget set."""
    found = [
        [key.removeprefix("line/") for own in each.groups.values() for key in own if key.startswith("line/")] for each in sets
    ]
    return [kind for kind in found[0] if all(kind in others for others in found)]


def losses_of(one: Measured, kind: str) -> np.ndarray:
    """The losses on lines of a kind."""
    return next(own[f"line/{kind}"] for own in one.groups.values() if f"line/{kind}" in own)


def sharp(groups: list[str], sets: list[Measured]) -> list[Row]:
    """How sharp every group is, beside the oracles, and whether sharpness goes with forgetting, over methods and over members."""
    rows: list[Row] = []
    logs = {split: {name: np.stack([sharpness_of(each, name, split) for each in sets], 1) for name in groups} for split in SHARP}
    for split, by_group in logs.items():
        halves = np.stack(np.split(by_group["oracle"], 2))
        for name, own in by_group.items():
            difference = halves[1] - halves[0] if name == "oracle" else own - halves.mean(0)
            shown = np.exp([*estimate(own), *estimate(difference)])
            rows.append(Row("sharpness", name, split, "largest eigenvalue (mean and ratio are geometric)", *map(float, shown)))
    away = {name: [klom_of(each, name) for each in sets] for name in groups}
    for name, each in away.items():
        value, nulls = np.mean([one for one, _ in each]), np.mean([null for _, null in each], axis=0)
        low, high = np.quantile(nulls, (0.025, 0.975))
        from_null = float(value - nulls.mean()), float(value - high), float(value - low)
        rows.append(Row("forgetting", name, "forget", "KLOM (difference: from its null)", float(value), None, None, *from_null))
    judged = [name for name in groups if name != "oracle"]
    seen = {
        "KLOM": [np.mean([one for one, _ in away[name]]) for name in judged],
        **{
            f"loss on {split}": [np.mean([loss_of(each, name, split) for each in sets]) for name in judged]
            for split in Cube._fields
        },
    }
    for split in SHARP:
        ranked = rank_agreement(np.array([[logs[split][name].mean() for name in judged], *seen.values()]).T)
        for place, measure in enumerate(seen, 1):
            correlation = ranked.between(0, place)
            rows.append(Row("sharpness and forgetting", "over methods", split, f"rank correlation with {measure}", *correlation))
        for other in Cube._fields:
            values = np.stack([centred(within, among(each, judged, split, other)) for each in sets], axis=1)
            measure = f"rank correlation with loss on {other}"
            rows.append(Row("sharpness and forgetting", "over members of a method", split, measure, *estimate(values)))
    return rows


SHARP = ("retain", "forget")  # the splits on which sharpness is taken


def sharpness_of(one: Measured, group: str, split: str) -> np.ndarray:
    """The logarithm of every member's sharpness."""
    return np.log(np.maximum(one.groups[group][f"sharpness/{split}"].astype(float), TINY))


def loss_of(one: Measured, group: str, split: str) -> np.ndarray:
    """Every member's mean loss."""
    return cross_entropy_losses(one.groups[group][split], getattr(one.study.labels, split)).mean(1)


def among(one: Measured, groups: list[str], split: str, other: str) -> np.ndarray:
    """Sharpness on a split and loss on another, `[members, groups, 2]`."""
    pairs = [np.stack([sharpness_of(one, name, split), loss_of(one, name, other)], axis=-1) for name in groups]
    return np.stack(pairs, axis=1)


def within(values: np.ndarray) -> np.ndarray:
    """The rank correlation over members of sharpness and loss, on average over groups."""
    return np.array(np.mean([correlated(*values[:, place].T) for place in range(values.shape[1])]))


def klom_of(one: Measured, group: str) -> tuple[float, np.ndarray]:
    """KLOM on the forget set against random halves of the oracles, on average, and of one half against the other, of each."""
    study = one.study
    oracles = scaled_logits(one.groups["oracle"]["forget"], study.labels.forget)
    own = scaled_logits(one.groups[group]["forget"], study.labels.forget)
    rng = generator("oracles in halves", study.config.seed)
    halves = [np.split(rng.permutation(len(oracles)), 2) for _ in range(study.config.evaluation.splits)]
    null = np.array([klom(oracles[half], oracles[other]).mean() for half, other in halves])
    if group == "oracle":
        return float(null.mean()), null
    return float(np.mean([klom(own, oracles[half]).mean() for half, _ in halves])), null


def by_line(sets: list[Measured]) -> list[report.Line]:
    """The mean loss at every point of every kind of line, with intervals."""
    found = []
    for kind in kinds(sets):
        losses = np.stack([losses_of(each, kind) for each in sets], axis=1)  # [lines, sets, points, splits]
        for place, split in enumerate(Cube._fields):
            for point, share in enumerate(np.linspace(0, 1, losses.shape[2])):
                found.append(report.Line(kind, split, float(share), *estimate(losses[:, :, point, place])))
    return found


def by_example(sets: list[Measured]) -> report.Columns:
    """Mean loss, variance of the cross-entropy and spread of the margin of every example, by originals and oracles."""
    columns: dict[str, list[np.ndarray]] = {}
    for each in sets:
        for split, labels in each.study.labels._asdict().items():
            rows, right = np.arange(len(labels)), labels
            if split in each.study.rows:
                rows, right = each.study.published[split], each.study.setting.data.clean_labels[each.study.rows[split]]
            found: dict[str, Any] = {
                "forget_set": np.full(len(rows), each.study.name),
                "split": np.full(len(rows), split),
                "row": rows,
                "wrong_label": (right != labels).astype(int),
            }
            for group in ("original", "oracle"):
                logits = each.groups[group][split]
                parts = cross_entropy_decomposition(logits, labels)
                found |= {f"{group}_loss": parts.loss, f"{group}_variance": parts.variance}
                found |= {f"{group}_margin_sd": scaled_logits(logits, labels).std(0, ddof=1)}
            for name, values in found.items():
                columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


def by_model(groups: list[str], sets: list[Measured]) -> report.Columns:
    """Sharpness and loss of every model."""
    columns: dict[str, list[np.ndarray]] = {}
    for each in sets:
        for name in groups:
            own = each.groups[name]
            members = np.arange(len(own["forget"]))
            found: dict[str, Any] = {
                "forget_set": np.full(len(members), each.study.name),
                "group": np.full(len(members), name),
                "member": members,
                **{f"{what}_{split}": own[f"{what}/{split}"] for split in SHARP for what in ("sharpness", "residual")},
                **{f"loss_{split}": loss_of(each, name, split) for split in Cube._fields},
            }
            for column, values in found.items():
                columns.setdefault(column, []).append(values)
    return {column: np.concatenate(values) for column, values in columns.items()}
