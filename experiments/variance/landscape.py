"""What `--exp variance` measures of models and keeps: logits, the loss on lines and a plane between them, sharpness."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.variance import report
from experiments.variance.options import Config
from unlearn_jax.bench.forget_set import ForgetSet
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.resume import load_or_make_all
from unlearn_jax.bench.setting import Setting
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import cross_entropy_losses
from unlearn_jax.progress import working
from unlearn_jax.training.ensembles import over_members, padded, predict, shared
from unlearn_jax.training.landscape import Eigenvalue, combined, recalibrated, sharpness
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables

CALIBRATION = 500  # images at a time from which BatchNorm statistics are taken
NAMES = {"value": "sharpness", "residual": "residual"}
Found = dict[str, np.ndarray]  # what was measured on a group of models, as the run folder keeps it


class Measured(NamedTuple):
    """One forget set: by group (original, oracle, each method) what was measured, without methods of which a member diverged."""

    study: ForgetSet
    groups: dict[str, Found]


def whole(config: Config, role: str, variables: Variables) -> Variables:
    """A pool none of whose members diverged: originals, oracles and lines are paired, and each is needed.

    Raises:
        UsageError: one diverged.
    """
    lost_members(config, role, variables, len(jax.tree.leaves(variables)[0]))
    return variables


class Probe:
    """The compiled programs that measure models: points between them, the loss there, and the curvature."""

    def __init__(self, config: Config, setting: Setting):
        self.config, self.setting, self.model = config, setting, setting.problem.model
        model, strategy = self.model, config.strategy

        def moved(models: Variables, shares: jax.Array, images: jax.Array) -> Variables:
            return recalibrated(model, combined(models, shares), images)

        self.on_lines = over_members(moved, (True, False, False), strategy)
        self.on_plane = over_members(moved, (False, True, False), strategy)
        self.interpolated = over_members(combined, (True, False), strategy)

    def losses(self, study: ForgetSet, variables: Variables, members: int) -> np.ndarray:
        """The mean loss of each model on forget, retain and some of test, `[members, 3]`."""
        chosen = np.linspace(0, len(study.labels.test) - 1, min(len(study.labels.test), self.config.slices.test_size)).astype(int)
        images, labels = (part._replace(test=np.asarray(part.test)[chosen]) for part in (study.images, study.labels))
        own = jax.tree.map(lambda leaf: leaf[:members], variables)
        logits = predict(self.model, own, np.concatenate([np.asarray(part) for part in images]), self.config.strategy)
        ends = np.cumsum([len(part) for part in labels])[:-1]
        each = np.split(cross_entropy_losses(logits, np.concatenate(labels)), ends, axis=1)
        return np.stack([part.mean(1) for part in each], axis=1)

    def line(self, study: ForgetSet, first: Variables, second: Variables, recalibrate: bool = True) -> np.ndarray:
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

    def plane(self, study: ForgetSet, corners: list[Variables]) -> Found:
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

    def sharpnesses(self, study: ForgetSet, variables: Variables) -> Found:
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


def calibration(study: ForgetSet) -> jax.Array:
    """The judged retained images in equal batches; of a few too many the last are left out."""
    images = np.asarray(study.images.retain)
    batches = -(-len(images) // CALIBRATION)
    size = len(images) // batches
    return shared(images[: batches * size].reshape(batches, size, *images.shape[1:]))


def oracles(config: Config, study: ForgetSet) -> Variables:
    """The retrained models of a forget set, all of them.

    Raises:
        UsageError: one diverged.
    """
    return whole(config, "oracle", study.pool("oracle", 2 * study.members).variables)


class Look:
    """One forget set, read where an earlier run kept it, the rest measured now."""

    def __init__(self, config: Config, study: ForgetSet, probe: Probe, originals: Variables):
        self.config, self.study, self.probe = config, study, probe
        self.pools = {"original": originals, "oracle": oracles(config, study)}

    def groups(self, values: dict[str, dict[str, Any]], with_plane: bool) -> dict[str, Found]:
        """What was measured, by group; nothing for a method of which a member diverged.

        Args:
            values: hyperparameters, by method.
            with_plane: whether the one plane is on this set.
        """
        others = {"original": self.of_originals, "oracle": self.of_oracles, "twin": self.of_twins}
        options: dict[str, Any] = {"strategy": self.config.strategy, "chunk": self.config.chunk}

        def begin(name: str) -> Unlearner | None:
            own = values.get(name)
            return None if own is None else Unlearner(name, own, self.study.problem, self.pools["original"], **options)

        def make(name: str, unlearner: Unlearner | None) -> Found:
            with working(f"{name} on {self.study.name}") as update:
                found = self.of_method(name, unlearner, with_plane) if unlearner else others[name]()
                update(1.0, "measured" if found else "diverged")
            return found

        files = {
            name: (f"measured/{self.study.name}/{name}.npz", self.identity(values.get(name), with_plane))
            for name in (*others, *values)
        }
        found = load_or_make_all(self.study.folder, files, begin, make)
        return {name: arrays for name, arrays in found.items() if arrays.keys() > {"made_with"}}

    def identity(self, values: dict[str, Any] | None, with_plane: bool) -> dict[str, Any]:
        """All that the measurements of a group depend on."""
        return {
            **self.study.identity,
            "values": values,
            "slices": dataclasses.asdict(self.config.slices),
            "sharpness": dataclasses.asdict(self.config.sharpness),
            "plane": with_plane,
        }

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
        everything = np.ones_like(study.mask)
        own, theirs = (
            whole(config, "twin", trained.variables)
            for trained in (
                pool(config, study.setting, study.setting.problem, everything, "twin", count),
                study.pool("twin", count),
            )
        )
        name = "original to oracle, same seed"
        return self.lines(name, own, theirs) | self.lines(name, own, theirs, False)

    def of_method(self, name: str, unlearner: Unlearner, with_plane: bool) -> Found:
        """The unlearned models, and the lines from their originals and to the oracles; nothing if one diverged."""
        keys = member_keys(self.config.seed, f"{name} on {self.study.name}", self.study.members)
        variables = unlearner.apply(keys).variables
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
        """Logits and sharpness of models."""
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
