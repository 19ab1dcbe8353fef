"""Results of a run beside its scores: power, single examples, pairs of methods, sources of variance, agreement of metrics."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.bench import sample_size, sources_of_variance
from unlearn_jax.bench.agreement import metric_agreement, write_agreement
from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.judging import Judgement
from unlearn_jax.bench.scoring import Scored, scored_row
from unlearn_jax.metrics import Reference, pooled, power_curve, scaled_logits
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.metrics.catalogue import accuracy, average_gap, js_divergence, klom, tow
from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.registry import Name
from unlearn_jax.metrics.statistics import Components, Estimate, comparisons, components
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES, Row, deviations, subject
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Labels

COMPARED = (
    klom.on("forget"),
    js_divergence.on("forget"),
    tow.on("all"),
    average_gap.on("all"),
    accuracy.on("test"),
)
SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # numbers of models that the power curve shows, where there are as many
SIGNIFICANT = 0.05
LARGE = 0.2  # difference in the share of models that are right, from which an example counts as carrying the gap
OF_EXAMPLES = ("forget_set", "row", "label", "clean_label", "method", "models", "right", "margin", "margin_sd")


class OnExamples(NamedTuple):
    """The predictions of one method's models on each example of a forget set."""

    models: int
    right: Float[np.ndarray, " examples"]  # share of the models that predict the label
    margin: Float[np.ndarray, " examples"]  # mean over the models, in nats
    margin_sd: Float[np.ndarray, " examples"]


def over_forget_sets(rows: list[Row], scored: dict[str, dict[str, Scored]]) -> tuple[list[Row], float]:
    """Rows of the mean over the forget sets, and the band of their joint verdict."""
    sets = list(dict.fromkeys(row.forget_set for row in rows))
    band, means = 0.0, []
    for method, by_set in scored.items():
        of_method = [row for row in rows if row.method == method]
        members, oracles = (min(getattr(row, field) or 0 for row in of_method) for field in ("n_members", "n_oracles"))
        common = Row(*of_method[0][:8])._replace(forget_set=f"mean of {len(sets)}", n_members=members, n_oracles=oracles)
        if len(by_set) == len(sets):
            evaluation = pooled([each.evaluation for each in by_set.values()], [each.reference for each in by_set.values()])
            band = max(band, evaluation.band)
            common = common._replace(band=evaluation.band, inside=evaluation.inside)
            means += [scored_row(common, score) for score in evaluation.scores]
        for metric in [row.metric for row in of_method if not row.split and row.forget_set == sets[0]]:
            mean = np.mean([row.value for row in of_method if row.metric == metric])
            means.append(common._replace(metric=metric, split="", value=float(mean)))
    return means, band


def power(folder: Run, reference: Reference, original: Scored | None, title: str) -> None:
    """Write, draw and print the null's width and the visible difference by the number of oracles; beside them no unlearning."""
    sizes = [size for size in SIZES if size < reference.n] + [reference.n]
    with working("power") as update:
        curve = power_curve(reference, sizes)
        update(1.0, f"nulls of {', '.join(str(2 * size) for size in sizes)} oracles")
    columns = ("metric", "split", "models", "oracles", *(f"null_{field}" for field in Null._fields), "band", "visible")
    folder.write_csv("power.csv", columns, [(*point[:4], *point.null, point.band, point.visible) for point in curve])
    scores = original.evaluation.scores if original else []
    distances = {score.name: abs(score.value - score.null.mean) for score in scores}
    save(sample_size.power_curves(curve, distances, title), folder, "power")
    sample_size.show(curve, distances)


def on_examples(cube: Cube, labels: Labels) -> OnExamples:
    """The predictions of some models on each example of a forget set."""
    margins = scaled_logits(cube.forget, labels.forget)
    right = (np.argmax(cube.forget, axis=-1) == labels.forget[None]).mean(axis=0)
    return OnExamples(len(margins), right, margins.mean(axis=0), margins.std(axis=0, ddof=1) if len(margins) > 1 else 0 * right)


def examples(forget: ForgetSet, judgement: Judgement) -> tuple[list[tuple], str]:
    """The rows of examples.csv of one forget set, and a sentence on which examples carry what the originals remember."""
    cubes = {name: first.cube for name, (first, *_) in judgement.methods.items() if len(first.cube.forget)}
    cubes = {"oracle": judgement.oracles.cube, **cubes}
    by_method = {name: on_examples(cube, forget.labels) for name, cube in cubes.items()}
    label, clean = forget.labels.forget, forget.setting.data.clean_labels[forget.rows["forget"]]
    rows = [
        (forget.name, int(row), int(label[i]), int(clean[i]), name, on.models, *(float(part[i]) for part in on[1:]))
        for name, on in by_method.items()
        for i, row in enumerate(forget.published["forget"])
    ]
    if "original" not in by_method:
        return rows, ""
    gap = by_method["original"].right - by_method["oracle"].right
    if gap.sum() <= 0:
        return rows, f"{forget.name}: the originals are right on F no more often than the oracles."
    large, wrong = gap >= LARGE, label != clean
    carried = f"{gap[large].sum() / gap.sum():.0%} of that lies on the {large.sum()} examples of {len(gap)}"
    shares = [f"{carried} where it is {LARGE:.0%} or more"]
    shares += [f"{gap[wrong].sum() / gap.sum():.0%} on the {wrong.sum()} wrongly labelled"] * bool(wrong.any())
    more = f"{forget.name}: originals are right on F {100 * gap.mean():.1f} points more often than oracles"
    return rows, f"{more}; {', '.join(shares)} (examples.csv)."


def pairs(folder: Run, scored: dict[str, dict[str, Scored]]) -> list[str]:
    """Write every pair of methods, paired by original and forget set; returns a sentence on ties with the nearest by KLOM."""
    rows: list[tuple] = []
    notes: list[str] = []
    sets = max(map(len, scored.values()))
    for name in COMPARED:
        parts, ideal = {}, {}
        for method, by_set in scored.items():
            scores = [score for scored_on in by_set.values() for score in scored_on.evaluation.scores if score.name == name]
            if len(scores) == sets > 0:
                parts[method] = np.array([score.parts for score in scores]).T
                ideal[method] = np.mean([score.null.mean for score in scores])
        compared = comparisons(parts)
        rows += [(*name, pair.first, pair.second, *pair.difference, pair.adjusted_p) for pair in compared]
        known = {method: part[np.isfinite(part)] for method, part in parts.items() if method not in REFERENCES}
        distances = {method: abs(float(part.mean()) - ideal[method]) for method, part in known.items() if len(part)}
        if name == klom.on("forget") and len(distances) > 1:
            nearest = min(distances, key=distances.__getitem__)
            open_ = [pair[:2] for pair in compared if nearest in pair[:2] and not pair.adjusted_p < SIGNIFICANT]
            ties = {method for both in open_ for method in both}
            tied = sorted(ties & distances.keys() - {nearest}, key=distances.__getitem__)
            others = f"not distinguished from it: {', '.join(tied)}" if tied else "all others are distinguished from it"
            notes = [f"Nearest by KLOM on F: {nearest}; {others} (paired by original and forget set, Holm's correction, 5%)."]
    folder.write_csv("comparisons.csv", ("metric", "split", "first", "second", *Estimate._fields, "adjusted_p"), rows)
    return notes


def variance(folder: Run, scored: dict[str, dict[str, Scored]], title: str) -> None:
    """Write and draw which part of each method's variance comes from the original, the forget set and the method's randomness.

    With one forget set and one seed nothing is written: the parts cannot be separated.
    """
    by_method: dict[str, dict[Name, Components]] = {}
    for method, by_set in scored.items():
        for name in next(iter(by_set.values())).members if by_set else ():
            values = np.stack([scored_on.members[name] for scored_on in by_set.values()], axis=1)
            whole = values[np.isfinite(values).all(axis=(1, 2))]
            if len(whole) > 1 and whole.shape[1:] != (1, 1):
                by_method.setdefault(method, {})[name] = components(whole)
    if not by_method:
        return
    rows = [
        (method, *name, part, value, error)
        for method, by_name in by_method.items()
        for name, parts in by_name.items()
        for part, value, error in zip(Components._fields, parts[:4], parts.errors, strict=False)
    ]
    folder.write_csv("variance.csv", ("method", "metric", "split", "component", "variance", "standard_error"), rows)
    save(sources_of_variance.bars(by_method, title), folder, "variance")


def agreement(folder: Run, rows: list[Row]) -> None:
    """Write and draw how far metrics agree on the order of the methods, without the references, on which all metrics agree.

    With fewer than two methods nothing is written.
    """
    _, metrics, sizes = deviations(row for row in rows if row.method not in REFERENCES)
    ranked = sizes[~np.isnan(sizes).any(1)]
    if len(ranked) < 2:
        return
    agreed = rank_agreement(ranked)
    write_agreement(folder, metrics, *agreed, len(ranked))
    title = f"{subject(rows)}\nhow far metrics agree on the order of {len(ranked)} methods"
    save(metric_agreement(metrics, *agreed, title), folder, "metric_agreement")
