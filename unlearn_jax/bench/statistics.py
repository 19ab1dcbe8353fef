"""What a run says beside its scores: how much could be seen at all, on which examples, who differs from whom, where the variance
comes from, and how far the metrics agree.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax.bench import sample_size, sources_of_variance
from unlearn_jax.bench.agreement import metric_agreement, write_agreement
from unlearn_jax.bench.forget_set import Judged, Scored, Study, scored_row
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
LARGE = 0.2  # difference in the share of models that are right, from which on an example counts among those that carry the gap
OF_EXAMPLES = ("forget_set", "row", "label", "clean_label", "method", "models", "right", "margin", "margin_sd")


class OnExamples(NamedTuple):
    """What the models of one method make of each example of a forget set."""

    models: int
    right: Float[np.ndarray, " examples"]  # share of the models that give the label
    margin: Float[np.ndarray, " examples"]  # mean over the models, in nats
    margin_sd: Float[np.ndarray, " examples"]


def over_forget_sets(rows: list[Row], scored: dict[str, dict[str, Scored]]) -> tuple[list[Row], float]:
    """Rows of the mean over the forget sets, and the band of their joint verdict."""
    sets = list(dict.fromkeys(row.forget_set for row in rows))
    band, found = 0.0, []
    for method, by_set in scored.items():
        own = [row for row in rows if row.method == method]
        members, oracles = (min(getattr(row, field) or 0 for row in own) for field in ("n_members", "n_oracles"))
        common = Row(*own[0][:8])._replace(forget_set=f"mean of {len(sets)}", n_members=members, n_oracles=oracles)
        if len(by_set) == len(sets):
            evaluation = pooled([each.evaluation for each in by_set.values()], [each.reference for each in by_set.values()])
            band = max(band, evaluation.band)
            common = common._replace(band=evaluation.band, inside=evaluation.inside)
            found += [scored_row(common, each) for each in evaluation.scores]
        for metric in [row.metric for row in own if not row.split and row.forget_set == sets[0]]:
            mean = np.mean([row.value for row in own if row.metric == metric])
            found.append(common._replace(metric=metric, split="", value=float(mean)))
    return found, band


def power(folder: Run, yardstick: Reference, nothing: Scored | None, title: str) -> None:
    """Write, draw and print the null's width, and the difference that is visible, against the number of oracles."""
    sizes = [size for size in SIZES if size < yardstick.n] + [yardstick.n]
    with working("power") as update:
        curve = power_curve(yardstick, sizes)
        update(1.0, f"nulls of {', '.join(str(2 * size) for size in sizes)} oracles")
    columns = ("metric", "split", "models", "oracles", *(f"null_{field}" for field in Null._fields), "band", "visible")
    folder.write_csv("power.csv", columns, [(*each[:4], *each.null, each.band, each.visible) for each in curve])
    scores = nothing.evaluation.scores if nothing else []
    apart = {(each.metric, each.split): abs(each.value - each.null.mean) for each in scores}
    save(sample_size.power_curves(curve, apart, title), folder, "power")
    sample_size.show(curve, apart)


def on_examples(cube: Cube, labels: Labels) -> OnExamples:
    """What some models make of each example of a forget set."""
    margins = scaled_logits(cube.forget, labels.forget)
    right = (np.argmax(cube.forget, axis=-1) == labels.forget[None]).mean(axis=0)
    return OnExamples(len(margins), right, margins.mean(axis=0), margins.std(axis=0, ddof=1) if len(margins) > 1 else 0 * right)


def examples(study: Study, judged: dict[str, list[Judged]], oracles: Cube) -> tuple[list[tuple], str]:
    """The rows of examples.csv of one forget set, and in a sentence which examples carry what the originals remember."""
    cubes = {"oracle": oracles} | {name: first.cube for name, (first, *_) in judged.items() if len(first.cube.forget)}
    found = {name: on_examples(cube, study.labels) for name, cube in cubes.items()}
    label, clean = study.labels.forget, study.setting.data.clean_labels[study.rows["forget"]]
    rows = [
        (study.name, int(row), int(label[i]), int(clean[i]), name, each.models, *(float(part[i]) for part in each[1:]))
        for name, each in found.items()
        for i, row in enumerate(study.published["forget"])
    ]
    if "original" not in found:
        return rows, ""
    gap = found["original"].right - found["oracle"].right
    if gap.sum() <= 0:
        return rows, f"{study.name}: the originals are right on F no more often than the oracles."
    large, wrong = gap >= LARGE, label != clean
    carried = f"{gap[large].sum() / gap.sum():.0%} of that lies on the {large.sum()} examples of {len(gap)}"
    shares = [f"{carried} where it is {LARGE:.0%} or more"]
    shares += [f"{gap[wrong].sum() / gap.sum():.0%} on the {wrong.sum()} wrongly labelled"] * bool(wrong.any())
    said = f"{study.name}: originals are right on F {100 * gap.mean():.1f} points more often than oracles"
    return rows, f"{said}; {', '.join(shares)} (examples.csv)."


def pairs(folder: Run, scored: dict[str, dict[str, Scored]]) -> list[str]:
    """Write every pair of methods, paired by original and forget set; says in a sentence who ties with the best by KLOM on F."""
    rows: list[tuple] = []
    notes: list[str] = []
    sets = max(map(len, scored.values()))
    for metric, split in COMPARED:
        parts, ideal = {}, {}
        for method, by_set in scored.items():
            scores = [
                each for s in by_set.values() for each in s.evaluation.scores if (each.metric, each.split) == (metric, split)
            ]
            if len(scores) == sets > 0:
                parts[method] = np.array([each.parts for each in scores]).T
                ideal[method] = np.mean([each.null.mean for each in scores])
        found = comparisons(parts)
        rows += [(metric, split, each.first, each.second, *each.difference, each.adjusted_p) for each in found]
        known = {method: part[np.isfinite(part)] for method, part in parts.items() if method not in REFERENCES}
        apart = {method: abs(float(part.mean()) - ideal[method]) for method, part in known.items() if len(part)}  # two have none
        if (metric, split) == klom.on("forget") and len(apart) > 1:
            nearest = min(apart, key=apart.__getitem__)
            ties = {name for each in found if not each.adjusted_p < SIGNIFICANT for name in each[:2] if nearest in each[:2]}
            tied = sorted(ties & apart.keys() - {nearest}, key=apart.__getitem__)
            said = f"not told apart from it: {', '.join(tied)}" if tied else "all others are told apart from it"
            notes = [f"Nearest by KLOM on F: {nearest}; {said} (paired by original and forget set, Holm's correction, 5%)."]
    folder.write_csv("comparisons.csv", ("metric", "split", "first", "second", *Estimate._fields, "adjusted_p"), rows)
    return notes


def variance(folder: Run, scored: dict[str, dict[str, Scored]], title: str) -> None:
    """Write which part of each method's variance comes from the original, the forget set and its own chance, and draw it.

    With one forget set and one seed there is nothing to tell apart, and nothing is written.
    """
    found: dict[str, dict[Name, Components]] = {}
    for method, by_set in scored.items():
        for name in next(iter(by_set.values())).members if by_set else ():
            values = np.stack([each.members[name] for each in by_set.values()], axis=1)
            whole = values[np.isfinite(values).all(axis=(1, 2))]
            if len(whole) > 1 and whole.shape[1:] != (1, 1):
                found.setdefault(method, {})[name] = components(whole)
    if not found:
        return
    rows = [
        (method, *name, part, value, error)
        for method, by_name in found.items()
        for name, each in by_name.items()
        for part, value, error in zip(Components._fields, each[:4], each.errors, strict=False)
    ]
    folder.write_csv("variance.csv", ("method", "metric", "split", "component", "variance", "standard_error"), rows)
    save(sources_of_variance.bars(found, title), folder, "variance")


def agreement(folder: Run, rows: list[Row]) -> None:
    """Write and draw how far metrics agree on the order of the methods; the references, easily told by all, are left out.

    With fewer than two methods there is nothing to order, and nothing is written.
    """
    _, metrics, sizes = deviations(row for row in rows if row.method not in REFERENCES)
    ranked = sizes[~np.isnan(sizes).any(1)]
    if len(ranked) < 2:
        return
    found = rank_agreement(ranked)
    write_agreement(folder, metrics, *found, len(ranked))
    title = f"{subject(rows)}\nhow far metrics agree on the order of {len(ranked)} methods"
    save(metric_agreement(metrics, *found, title), folder, "metric_agreement")
