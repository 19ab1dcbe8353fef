"""Statistics of a run beyond its scores: power, single examples, pairs of methods, sources of variance, agreement of metrics."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from unlearn_jax import sealed
from unlearn_jax.bench import sample_size, sources_of_variance
from unlearn_jax.bench.agreement import metric_agreement, write_agreement
from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.judging import Judgement
from unlearn_jax.bench.scoring import LARGE, Alive, Scored, effect_rows, memory_of, numbers_of, of_models, scored_row
from unlearn_jax.metrics import Reference, pooled, power_curve, scaled_logits
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.metrics.by_example import ExampleTests, example_tests
from unlearn_jax.metrics.by_model import HALF, distances, is_outlier, outlier_t
from unlearn_jax.metrics.catalogue import accuracy, average_gap, js_divergence, klom, memory_left, tow
from unlearn_jax.metrics.effects import distance_p, distances_left_out, mean_effects, outcome_of
from unlearn_jax.metrics.null import Null
from unlearn_jax.metrics.registry import Name
from unlearn_jax.metrics.statistics import Components, Estimate, comparisons, components, holm
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES, Row, deviations, subject
from unlearn_jax.report.tables import markdown
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Labels

COMPARED = (
    memory_left.on("forget"),
    klom.on("forget"),
    js_divergence.on("forget"),
    tow.on("all"),
    average_gap.on("all"),
    accuracy.on("test"),
)
SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # numbers of models in the power curve, up to those at hand
SIGNIFICANT = 0.05
PARTS, PART_FIELDS = "parts.npz", ("forget_set", "method", "metric", "split", "parts")
EXAMPLE_COLUMNS = ("forget_set", "row", "label", "clean_label", "method", "models", "right", "margin", "margin_sd", "t", "q")
MODEL_COLUMNS = ("forget_set", "method", "model", "memory", "memory_t", "distance", "distance_t", "outlier", "nearer")


class ExampleSummary(NamedTuple):
    """How one method's models predict each example of a forget set."""

    models: int
    right: Float[np.ndarray, " examples"]  # share of the models that predict the label
    margin: Float[np.ndarray, " examples"]  # mean over the models, in nats
    margin_sd: Float[np.ndarray, " examples"]


def over_forget_sets(rows: list[Row], scored: dict[str, dict[str, Scored]]) -> tuple[list[Row], float]:
    """Returns rows of the means over the forget sets, and the band of the joint verdict."""
    sets = list(dict.fromkeys(row.forget_set for row in rows))
    band, means = 0.0, []
    for method, by_set in scored.items():
        of_method = [row for row in rows if row.method == method]
        members, oracles = (min(getattr(row, field) or 0 for row in of_method) for field in ("n_members", "n_oracles"))
        common = Row(*of_method[0][:8])._replace(forget_set=f"mean of {len(sets)}", n_members=members, n_oracles=oracles)
        if len(by_set) == len(sets):
            evaluation = pooled(
                [on_set.evaluation for on_set in by_set.values()], [on_set.reference for on_set in by_set.values()]
            )
            band = max(band, evaluation.band)
            known = [on_set.effects for on_set in by_set.values() if on_set.effects]
            effects = mean_effects(known) if len(known) == len(sets) else None
            outcome = outcome_of(evaluation.inside, effects, evaluation.lost)
            common = common._replace(band=evaluation.band, inside=evaluation.inside, outcome=outcome)
            means += [scored_row(common, score) for score in evaluation.scores] + effect_rows(common, effects)
        for metric in [row.metric for row in of_method if not row.split and row.forget_set == sets[0]]:
            mean = np.mean([row.value for row in of_method if row.metric == metric])
            means.append(common._replace(metric=metric, split="", value=float(mean)))
    return means, band


def power(folder: Run, reference: Reference, original: Scored | None, title: str) -> None:
    """Writes, draws and prints the width of the null and the smallest visible difference, by the number of oracles."""
    sizes = [size for size in SIZES if size < reference.n] + [reference.n]
    with working("power") as update:
        curve = power_curve(reference, sizes)
        update(1.0, f"nulls with {', '.join(str(2 * size) for size in sizes)} oracles")
    columns = ("metric", "split", "models", "oracles", *(f"null_{field}" for field in Null._fields), "band", "visible")
    folder.write_csv("power.csv", columns, [(*point[:4], *point.null, point.band, point.visible) for point in curve])
    scores = original.evaluation.scores if original else []
    distances = {score.name: abs(score.value - score.null.mean) for score in scores}
    save(sample_size.power_curves(curve, distances, title), folder, "power")
    sample_size.show(curve, distances)


def summarise_examples(cube: Cube, labels: Labels) -> ExampleSummary:
    """Summarises how models predict each example of a forget set."""
    margins = scaled_logits(cube.forget, labels.forget)
    right = (np.argmax(cube.forget, axis=-1) == labels.forget[None]).mean(axis=0)
    return ExampleSummary(
        len(margins), right, margins.mean(axis=0), margins.std(axis=0, ddof=1) if len(margins) > 1 else 0 * right
    )


def examples(forget: ForgetSet, judgement: Judgement) -> tuple[list[tuple], str]:
    """Returns the rows of examples.csv for one forget set, and a sentence on which examples carry the gap in accuracy."""
    cubes = {name: first.cube for name, (first, *_) in judgement.methods.items() if len(first.cube.forget)}
    cubes = {"oracle": judgement.oracles.cube, **cubes}
    by_method = {name: summarise_examples(cube, forget.labels) for name, cube in cubes.items()}
    tests = {name: _tests(cube, judgement.oracles.cube, forget.labels) for name, cube in cubes.items() if name != "oracle"}

    def at(name: str, i: int) -> tuple[float | None, float | None]:
        found = tests.get(name)
        return (float(found.t[i]), float(found.q[i])) if found else (None, None)

    label, clean = forget.labels.forget, forget.setting.data.clean_labels[forget.rows["forget"]]
    rows = [
        (
            forget.name,
            int(row),
            int(label[i]),
            int(clean[i]),
            name,
            summary.models,
            *(float(part[i]) for part in summary[1:]),
            *at(name, i),
        )
        for name, summary in by_method.items()
        for i, row in enumerate(forget.published["forget"])
    ]
    if "original" not in by_method:
        return rows, ""
    gap = by_method["original"].right - by_method["oracle"].right
    if gap.sum() <= 0:
        return rows, f"{forget.name}: the originals' accuracy on F is not above the oracles'."
    large, wrong = gap >= LARGE, label != clean
    share = f"{gap[large].sum() / gap.sum():.0%} of this gap comes from the {large.sum()} of {len(gap)} examples"
    shares = [f"{share} where it is {100 * LARGE:.0f} points or more"]
    shares += [f"{gap[wrong].sum() / gap.sum():.0%} from the {wrong.sum()} mislabelled ones"] * bool(wrong.any())
    total = f"{forget.name}: the originals' accuracy on F is {100 * gap.mean():.1f} points above the oracles'"
    return rows, f"{total}; {', '.join(shares)} (examples.csv)."


def _tests(cube: Cube, oracles: Cube, labels: Labels) -> ExampleTests | None:
    """Tests each example of the forget set; None with a single model."""
    if len(cube.forget) < 2:
        return None
    return example_tests(*(scaled_logits(each.forget, labels.forget) for each in (cube, oracles)))


def models(forget: ForgetSet, judgement: Judgement) -> list[tuple]:
    """Returns the rows of models.csv for one forget set, see `model_rows`."""
    alive = {name: (first.cube, first.lost) for name, (first, *_) in judgement.methods.items()}
    return model_rows(forget.name, alive, alive.get("original"), judgement.oracles.cube, forget.labels)


def model_rows(
    forget_set: str, methods: Mapping[str, Alive], originals: Alive | None, oracles: Cube, labels: Labels
) -> list[tuple]:
    """Places every model among the oracles, by its memory of the forget set and by its distance.

    Args:
        forget_set: its name.
        methods: by method, the models that did not diverge.
        originals: the models before unlearning, if they are known.
        oracles: the retrained models.
        labels: of the examples.
    """
    memory, phi = memory_of(originals, oracles, labels), scaled_logits(oracles.forget, labels.forget)
    rows: list[tuple] = []
    for method, alive in methods.items():
        if not len(alive[0].forget):
            continue
        distance, of_others = distances(scaled_logits(alive[0].forget, labels.forget), phi)
        distance_t = outlier_t(distance, of_others)
        found = [*of_models(memory, alive, originals, labels).values()]
        t = [outlier_t(values, memory.of_oracles) for values in found if memory]
        outliers = is_outlier(*t, distance_t, others=len(phi))
        for i, number in enumerate(numbers_of(alive)):
            left, at = (float(found[0][i]), float(t[0][i])) if found else (None, None)
            nearer = None if left is None else "retrained" if left < HALF else "original"
            rows.append(
                (forget_set, method, int(number), left, at, float(distance[i]), float(distance_t[i]), bool(outliers[i]), nearer)
            )
    return rows


def singles(examples: Iterable[tuple], models: Iterable[tuple]) -> list[str]:
    """A table for summary.md: of each method, the examples of F on which it differs, and the models that are outliers."""
    differing: dict[tuple[str, str], list[bool]] = {}
    for row in examples:
        if (q := row[EXAMPLE_COLUMNS.index("q")]) is not None:
            differing.setdefault((row[0], row[EXAMPLE_COLUMNS.index("method")]), []).append(q < SIGNIFICANT)
    outliers: dict[tuple[str, str], list[bool]] = {}
    nearer: dict[tuple[str, str], int] = {}
    for row in models:
        named = dict(zip(MODEL_COLUMNS, row, strict=True))
        key = named["forget_set"], named["method"]
        outliers.setdefault(key, []).append(named["outlier"])
        nearer[key] = nearer.get(key, 0) + (named["nearer"] == "original")
    lines = []
    for key in dict.fromkeys([*differing, *outliers]):
        there, out = differing.get(key), outliers.get(key)
        counts = [f"{sum(each)} of {len(each)}" if each else "" for each in (there, out)]
        lines.append([*key, *counts, str(nearer.get(key, ""))])
    headings = (
        "forget set",
        "method",
        "examples of F that differ (q < 5%)",
        "outliers among the models",
        "nearer to an original",
    )
    said = "Every example and every model: examples.csv and models.csv."
    return ["## Single examples and models", markdown(headings, lines, left=range(2)), said] if lines else []


def pairs(folder: Run, scored: dict[str, dict[str, Scored]]) -> list[str]:
    """Writes comparisons of all pairs of methods; returns a sentence on which methods tie with the nearest to retraining."""
    rows: list[tuple] = []
    sets = max(map(len, scored.values()))
    for name in COMPARED:
        parts = {
            method: np.array(known).T
            for method, by_set in scored.items()
            if len(known := [part for on_set in by_set.values() if (part := _parts(on_set, name)) is not None]) == sets > 0
        }
        most = max(map(np.shape, parts.values()), default=())
        whole = {method: part for method, part in parts.items() if part.shape == most}
        rows += [(*name, pair.first, pair.second, *pair.difference, pair.adjusted_p) for pair in comparisons(whole)]
    folder.write_csv("comparisons.csv", ("metric", "split", "first", "second", *Estimate._fields, "adjusted_p"), rows)
    return _nearest({method: list(by_set.values()) for method, by_set in scored.items() if len(by_set) == sets})


def _parts(scored: Scored, name: Name) -> Sequence[float] | np.ndarray | None:
    """What each original, or each group of originals, contributed to a score; None if there is no such score."""
    if name == memory_left.on("forget"):
        return scored.effects.parts["memory"] if scored.effects and scored.effects.parts else None
    return next((score.parts for score in scored.evaluation.scores if score.name == name), None)


def _nearest(scored: Mapping[str, Sequence[Scored]]) -> list[str]:
    """Says which method is nearest to retraining, and which are not distinguished from it."""
    known = {method: [each.effects for each in of_sets if each.effects] for method, of_sets in scored.items()}
    left = {
        method: distances_left_out(found)
        for method, found in known.items()
        if method not in REFERENCES and len(found) == len(scored[method]) and any(each.parts for each in found)
    }
    most = max(map(len, left.values()), default=0)
    left = {method: values for method, values in left.items() if len(values) == most}
    if len(left) < 2 or most < 4:
        return []
    order = sorted(left, key=lambda method: left[method][0])
    p = holm(np.array([distance_p(left[method] - left[order[0]]) for method in order[1:]]))
    tied = [method for method, adjusted in zip(order[1:], p, strict=True) if not adjusted < SIGNIFICANT]
    others = f"not distinguished from it: {', '.join(tied)}" if tied else "all others are farther"
    how = "paired by original, 5% with Holm's correction"
    return [f"Nearest to retraining, by the larger of memory left and damage: {order[0]}; {others} ({how})."]


def parts(folder: Run, scored: dict[str, dict[str, Scored]]) -> None:
    """Writes what each group of originals contributed to each score: by these a comparison of two runs is paired."""
    rows = [
        (name, method, *score.name, score.parts)
        for method, by_set in scored.items()
        for name, on_set in by_set.items()
        for score in on_set.evaluation.scores
    ]
    if rows:
        folder.write_npz(
            PARTS, {field: np.array(column) for field, column in zip(PART_FIELDS, zip(*rows, strict=True), strict=True)}
        )


def read_parts(path: Path) -> dict[tuple[str, ...], Float[np.ndarray, " groups"]]:
    """Reads what `parts` wrote, by forget set, method, metric and split; nothing if the file is absent or damaged."""
    try:
        arrays = sealed.read(path)
        names = (arrays[field].tolist() for field in PART_FIELDS[:-1])
        return dict(zip(zip(*names, strict=True), arrays[PART_FIELDS[-1]], strict=True))
    except Exception:  # a damaged file can raise anything
        return {}


def variance(folder: Run, scored: dict[str, dict[str, Scored]], title: str) -> None:
    """Writes and draws how much of each method's variance comes from the original, the forget set and the unlearning seed.

    Writes nothing for one forget set and one seed: the components cannot be separated.
    """
    by_method: dict[str, dict[Name, Components]] = {}
    for method, by_set in scored.items():
        for name in next(iter(by_set.values())).members if by_set else ():
            values = np.stack([on_set.members[name] for on_set in by_set.values()], axis=1)
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
    save(sources_of_variance.variance_bars(by_method, title), folder, "variance")


def agreement(folder: Run, rows: list[Row]) -> None:
    """Writes and draws how far metrics agree on the order of the methods. References are left out: all metrics agree on them.

    Writes nothing for fewer than two methods.
    """
    _, metrics, sizes = deviations(row for row in rows if row.method not in REFERENCES)
    ranked = sizes[~np.isnan(sizes).any(1)]
    if len(ranked) < 2:
        return
    correlations = rank_agreement(ranked)
    write_agreement(folder, metrics, *correlations, len(ranked))
    title = f"{subject(rows)}\nagreement of metrics on the order of {len(ranked)} methods"
    save(metric_agreement(metrics, *correlations, title), folder, "metric_agreement")
