"""The variance of models over seeds: in the loss, between the models, and in the sharpness of where they sit."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata

from configs.common import require
from configs.variance import Config
from experiments.setting import Setting, compile_all, forget_mask, forget_name, pool, prepare, settings
from experiments.study import Study
from unlearn_jax.data.splits import generator
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import cross_entropy_losses, klom, scaled_logits
from unlearn_jax.metrics.agreement import rank_agreement
from unlearn_jax.metrics.decomposition import brier_decomposition, cross_entropy_decomposition
from unlearn_jax.metrics.distances import barriers
from unlearn_jax.metrics.statistics import crossed_mean, pseudo_values
from unlearn_jax.report import variance as report
from unlearn_jax.report.drawing import save
from unlearn_jax.report.progress import working
from unlearn_jax.report.variance import Row
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import over_members, padded, predict, shared
from unlearn_jax.training.landscape import Eigenvalue, combined, recalibrated, sharpness
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Cube, Problem, Variables

CALIBRATION = 500  # images at a time from which BatchNorm statistics are taken
TINY = 1e-12
NAMES = {"value": "sharpness", "residual": "residual"}
Found = dict[str, np.ndarray]  # what was measured on a group of models, as the run folder keeps it


class Measured(NamedTuple):
    """One forget set: by group (original, oracle, each method) what was found, without methods of which a member diverged."""

    study: Study
    groups: dict[str, Found]


def run(config: Config, folder: Run) -> None:
    """Train, unlearn, measure every model and what lies between them; decompose, correlate and report.

    Raises:
        UsageError: something in the configuration cannot be done.
    """
    setting, members = prepare(config), config.members
    assert members != "auto"
    values = settings(config, config.method_names())
    masks = [forget_mask(config, setting, index) for index in range(config.forget_sets)]
    originals = pool(config, setting, setting.problem, masks[0] | True, "original", members)
    alive(config, "original", originals.variables)
    probe = Probe(config, setting)
    sets: list[Measured] = []
    for index, mask in enumerate(masks):
        study = Study(config, folder, setting, mask, forget_name(config, setting, index))
        sets.append(Measured(study, Look(config, study, probe, originals.variables).groups(values, with_plane=index == 0)))
    lost = {each.study.name: [name for name in values if name not in each.groups] for each in sets}
    groups = [name for name in ("original", "oracle", *values) if all(name in each.groups for each in sets)]
    with working("statistics") as update:
        rows = decomposed(groups, sets)
        update(0.7, "bias and variance")
        rows += [*coinciding(sets), *between(sets), *sharp(groups, sets)]
        examples, lines, models = by_example(sets), by_line(sets), by_model(groups, sets)
        update(1.0, f"{len(rows)} values")
    title = f"{config.dataset}, {config.model} of width {config.width}, {members} originals, {2 * members} oracles"
    title += f", {len(sets)} forget set{'s' * (len(sets) > 1)}"
    folder.write_csv("variance.csv", Row._fields, [report.cells(row) for row in rows])
    folder.write_csv("lines.csv", report.Line._fields, [report.cells(line) for line in lines])
    folder.write_csv("models.csv", *report.table(models))
    folder.write_csv("examples.csv", *report.table(examples))
    folder.write_json("results.json", {"rows": rows, "lines": lines, "diverged": lost, "hyperparameters": values})
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


def alive(config: Config, role: str, variables: Variables) -> None:
    """Refuses a pool of which a member diverged: there is no interval over members that are not there."""
    lost = diverged(variables)
    require(not lost, "--train.learning-rate", config.train.learning_rate, f"{len(lost)} {role} models diverged; expected less")


class Probe:
    """The compiled programs that look at models: points between them, what they say there, and their curvature."""

    def __init__(self, config: Config, setting: Setting):
        self.config, self.setting, self.model = config, setting, setting.problem.model
        model, strategy = self.model, config.strategy

        def moved(models: Variables, shares: jax.Array, images: jax.Array) -> Variables:
            return recalibrated(model, combined(models, shares), images)

        self.on_lines = over_members(moved, (True, False, False), strategy)
        self.on_plane = over_members(moved, (False, True, False), strategy)
        self.interpolated = over_members(combined, (True, False), strategy)

    def losses(self, study: Study, variables: Variables, members: int) -> np.ndarray:
        """The mean loss of each model on forget, retain and test, `[members, 3]`."""
        images = np.concatenate([np.asarray(part) for part in study.images])
        logits = predict(self.model, jax.tree.map(lambda leaf: leaf[:members], variables), images, self.config.strategy)
        each = np.split(cross_entropy_losses(logits, np.concatenate(study.labels)), sizes(study), axis=1)
        return np.stack([part.mean(1) for part in each], axis=1)

    def line(self, study: Study, first: Variables, second: Variables, recalibrate: bool = True) -> np.ndarray:
        """The loss on forget, retain and test along the lines between models, `[lines, points, 3]`."""
        ends = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), first, second)
        lines, images = len(jax.tree.leaves(ends)[0]), calibration(study)
        found = []
        for share in np.linspace(0, 1, self.config.slices.points, dtype=np.float32):
            shares = jnp.stack([1 - share, share])
            own = padded(ends)
            points = self.on_lines(own, shares, images) if recalibrate else self.interpolated(own, shares)
            found.append(self.losses(study, points, lines))
        return np.stack(found, axis=1)

    def plane(self, study: Study, corners: list[Variables]) -> Found:
        """The loss over the plane through three models, on a grid around them; distances are of weights."""
        models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *corners)
        flat = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(own.params)]) for own in corners]).astype(
            float
        )
        one, two = flat[1] - flat[0], flat[2] - flat[0]
        across = np.linalg.norm(one)
        along = two @ one / across
        up = np.linalg.norm(two - along * one / across)
        places = np.array([[0.0, 0.0], [across, 0.0], [along, up]])
        low, high = places.min(0), places.max(0)
        x, y = np.linspace(low - 0.25 * (high - low), high + 0.25 * (high - low), self.config.slices.resolution).T
        images, grid = calibration(study), []
        for height in y:
            of_two = height / up
            of_one = (x - of_two * along) / across
            shares = np.stack([1 - of_one - of_two, of_one, np.full_like(x, of_two)], axis=1).astype(np.float32)
            grid.append(self.losses(study, self.on_plane(models, padded(shares), images), len(x)))
        return {"plane/x": x, "plane/y": y, "plane/places": places, "plane/losses": np.stack(grid)}

    @functools.cached_property
    def curvature(self) -> Callable[[int], Any]:
        """By the number of examples, the program that finds the sharpness of every member."""

        @functools.cache
        def program(count: int) -> Any:
            def one(variables: Variables, key: jax.Array, mask: jax.Array, problem: Problem) -> Any:
                return sharpness(key, problem, variables, (mask, count), self.config.sharpness.steps)

            return over_members(one, (True, False, False, False), self.config.strategy)

        return program

    def sharpnesses(self, study: Study, variables: Variables) -> Found:
        """The sharpness of every member over some retained and some forgotten examples, and how far off it may be."""
        found: Found = {}
        whole = len(jax.tree.leaves(variables)[0])
        starts = range(0, whole, study.members)  # so that originals and oracles, twice as many, share a program
        parts = [padded(jax.tree.map(lambda leaf, at=at: jnp.asarray(leaf[at : at + study.members]), variables)) for at in starts]
        for split, rows in study.rows.items():
            drawn = rows[np.linspace(0, len(rows) - 1, min(len(rows), self.config.sharpness.examples)).astype(int)]
            mask = np.zeros(len(self.setting.data.train.labels), bool)
            mask[drawn] = True
            key, mask = jax.random.key(self.config.seed), shared(mask)
            each = [self.curvature(len(drawn))(part, key, mask, self.setting.problem) for part in parts]
            for name in Eigenvalue._fields:
                values = [np.asarray(getattr(one, name))[: study.members] for one in each]
                found[f"{NAMES[name]}/{split}"] = np.concatenate(values)
        return found


def sizes(study: Study) -> np.ndarray:
    """Where forget ends and retain ends, of all examples in a row."""
    return np.cumsum([len(part) for part in study.labels])[:2]


def calibration(study: Study) -> jax.Array:
    """The judged retained images in equal batches; of a few too many the last are left out."""
    images = np.asarray(study.images.retain)
    batches = -(-len(images) // CALIBRATION)
    size = len(images) // batches
    return shared(images[: batches * size].reshape(batches, size, *images.shape[1:]))


class Look:
    """One forget set: what an earlier run left of it in the run folder, the rest made now."""

    def __init__(self, config: Config, study: Study, probe: Probe, originals: Variables):
        self.config, self.study, self.probe = config, study, probe
        self.pools = {"original": originals, "oracle": study.pool("oracle", 2 * study.members).variables}
        alive(config, "oracle", self.pools["oracle"])

    def groups(self, values: dict[str, dict[str, Any]], with_plane: bool) -> dict[str, Found]:
        """What was found, by group; of a method of which a member diverged nothing.

        Args:
            values: hyperparameters, by method.
            with_plane: whether the one plane is on this set.
        """
        makers: dict[str, Callable[[], Found]] = {
            "original": self.of_originals,
            "oracle": self.of_oracles,
            "twin": self.of_twins,
            **{name: functools.partial(self.of_method, name, with_plane) for name in values},
        }
        made_by = {name: self.made_by(name, values.get(name), with_plane) for name in makers}
        saved = {name: self.study.folder.read_npz(self.file(name)) for name in makers}
        found = {name: each for name, each in saved.items() if each is not None and str(each["made_by"]) == made_by[name]}
        self.unlearners = {
            name: Unlearner(
                name, own, self.study.problem, self.pools["original"], strategy=self.config.strategy, chunk=self.config.chunk
            )
            for name, own in values.items()
            if name not in found
        }
        compile_all(self.unlearners.values())
        for name, make in makers.items():
            if name not in found:
                with working(f"{name} on {self.study.name}") as update:
                    found[name] = make()
                    update(1.0, "measured" if found[name] else "diverged")
                self.study.folder.write_npz(self.file(name), {**found[name], "made_by": made_by[name]})
        return {name: found[name] for name in makers if set(found[name]) - {"made_by"}}

    def file(self, name: str) -> str:
        """Where a group's measurements are kept."""
        return f"measured/{self.study.name}/{name}.npz"

    def made_by(self, name: str, values: dict[str, Any] | None, with_plane: bool) -> str:
        """What a group's measurements come from."""
        looked = dataclasses.asdict(self.config.slices), dataclasses.asdict(self.config.sharpness)
        asked = [self.study.made_from, name, values, self.study.members, looked, with_plane]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def first(self, variables: Variables) -> Variables:
        """The members from which lines go out."""
        return jax.tree.map(lambda leaf: leaf[: self.config.slices.lines], variables)

    def of_originals(self) -> Found:
        """The originals, and the lines to the next of them."""
        own = self.first(self.pools["original"])
        return self.of_models(self.pools["original"]) | self.lines("original to original", own, turned(own))

    def of_oracles(self) -> Found:
        """The oracles, and the lines from the originals to them, and to the next of them."""
        own, theirs = self.first(self.pools["original"]), self.first(self.pools["oracle"])
        found = self.of_models(self.pools["oracle"]) | self.lines("oracle to oracle", theirs, turned(theirs))
        return found | self.lines("original to oracle", own, theirs) | self.lines("original to oracle", own, theirs, False)

    def of_twins(self) -> Found:
        """Lines between models of one role, so of the same keys: initialisation, and order of the rows that both train on."""
        config, study, count = self.config, self.study, self.config.slices.lines
        whole = pool(config, study.setting, study.setting.problem, np.ones_like(study.forget), "twin", count).variables
        without = study.pool("twin", count).variables
        alive(config, "twin", whole)
        alive(config, "twin", without)
        name = "original to oracle, same seed"
        return self.lines(name, whole, without) | self.lines(name, whole, without, False)

    def of_method(self, name: str, with_plane: bool) -> Found:
        """The unlearned models, and the lines from their originals and to the oracles; nothing if one diverged."""
        keys = member_keys(self.config.seed, f"{name} on {self.study.name}", self.study.members)
        variables = self.unlearners[name].apply(keys).variables
        if diverged((variables, self.study.logits(variables))):
            return {}
        own, after, theirs = map(self.first, (self.pools["original"], variables, self.pools["oracle"]))
        found = (
            self.of_models(variables)
            | self.lines(f"original to {name}", own, after)
            | self.lines(f"{name} to oracle", after, theirs)
        )
        if with_plane and name == self.config.slices.plane:
            found |= self.probe.plane(self.study, [jax.tree.map(lambda leaf: leaf[0], each) for each in (own, theirs, after)])
        return found

    def of_models(self, variables: Variables) -> Found:
        """What models say, and how sharp they are."""
        return {**self.study.logits(variables)._asdict(), **self.probe.sharpnesses(self.study, variables)}

    def lines(self, kind: str, first: Variables, second: Variables, recalibrate: bool = True) -> Found:
        """The loss along the lines between pairs of models, and how far apart the two are.

        `recalibrate` is no choice for a model without BatchNorm statistics: there is no line with interpolated ones then.
        """
        if not recalibrate and not first.statistics:
            return {}
        name = kind if recalibrate else f"{kind}{report.INTERPOLATED}"
        return {f"line/{name}": self.probe.line(self.study, first, second, recalibrate), f"distance/{name}": apart(first, second)}


def turned(variables: Variables) -> Variables:
    """Each member in the place of the one before it."""
    return jax.tree.map(lambda leaf: np.roll(leaf, -1, axis=0), variables)


def apart(first: Variables, second: Variables) -> np.ndarray:
    """|θ - θ'| of every pair, over the norm of θ."""
    leaves = [
        tuple(map(np.asarray, pair)) for pair in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
    ]
    rows = [(one.reshape(len(one), -1).astype(float), two.reshape(len(two), -1)) for one, two in leaves]
    return np.sqrt(sum(((one - two) ** 2).sum(1) for one, two in rows) / sum((one**2).sum(1) for one, _ in rows))


def estimate(values: np.ndarray) -> tuple[float, float, float]:
    """The mean over members and forget sets, and its interval for others of both."""
    mean, low, high, _ = crossed_mean(values)
    return mean, low, high


def parts(study: Study) -> dict[str, tuple[str, np.ndarray]]:
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
    """The mean over some examples of everything that models have over their seeds, in the order of `MEASURES`."""
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
    """What every member adds to each of `MEASURES` on a part of the data, without the bias of few members."""
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
        most = np.argsort(-spread[one])[: max(len(spread[one]) // 10, 1)]
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
            found = (float(part[0, place]) for part in ranked)
            rows.append(Row("sharpness and forgetting", "over methods", split, f"rank correlation with {measure}", *found))
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
            rows = each.study.rows.get(split, np.arange(len(labels)))
            right = each.study.setting.data.clean_labels[rows] if split in each.study.rows else labels
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
