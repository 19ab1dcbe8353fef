"""The measurements of `--exp variance` on models: logits, the loss on lines and a plane between them, sharpness."""

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
from unlearn_jax.bench.lines import along_lines, calibration_batches, point_between, rotate_members
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.resume import load_or_make_all
from unlearn_jax.bench.setting import Setting
from unlearn_jax.methods.apply import Unlearner
from unlearn_jax.metrics import cross_entropy_losses
from unlearn_jax.progress import working
from unlearn_jax.training.ensembles import over_members, padded, predict, shared
from unlearn_jax.training.landscape import Eigenvalue, sharpness
from unlearn_jax.training.pools import diverged, member_keys
from unlearn_jax.types import Problem, Variables

COLUMNS = {"value": "sharpness", "residual": "residual"}
Arrays = dict[str, np.ndarray]  # the measurements of a group of models, as kept in the run folder


class MeasuredSet(NamedTuple):
    """One forget set, and the measurements of each group (original, oracle, methods). Methods that diverged are left out."""

    study: ForgetSet
    groups: dict[str, Arrays]


def require_all(config: Config, role: str, variables: Variables) -> Variables:
    """Returns the variables of a pool if no member diverged. Members are paired, so all are needed.

    Raises:
        ArgumentError: a member diverged.
    """
    lost_members(config, role, variables, len(jax.tree.leaves(variables)[0]))
    return variables


class Probe:
    """The compiled programs that measure models: points between them, their loss and their curvature."""

    def __init__(self, config: Config, setting: Setting):
        self.config, self.setting, self.model = config, setting, setting.problem.model
        self.move_on_plane = over_members(functools.partial(point_between, self.model), (False, True, False), config.strategy)

    def measure_losses(self, study: ForgetSet, variables: Variables, members: int) -> np.ndarray:
        """The mean loss of each model on forget, retain and `slices.test_size` test examples, `[members, 3]`."""
        chosen = np.linspace(0, len(study.labels.test) - 1, min(len(study.labels.test), self.config.slices.test_size)).astype(int)
        images, labels = (part._replace(test=np.asarray(part.test)[chosen]) for part in (study.images, study.labels))
        models = jax.tree.map(lambda leaf: leaf[:members], variables)
        logits = predict(self.model, models, np.concatenate([np.asarray(part) for part in images]), self.config.strategy)
        ends = np.cumsum([len(part) for part in labels])[:-1]
        by_split = np.split(cross_entropy_losses(logits, np.concatenate(labels)), ends, axis=1)
        return np.stack([part.mean(1) for part in by_split], axis=1)

    def measure_lines(self, study: ForgetSet, first: Variables, second: Variables, recalibrate: bool = True) -> np.ndarray:
        """The loss on forget, retain and test along the lines between models, `[lines, points, 3]`."""
        images, lines = calibration_batches(study.images.retain) if recalibrate else None, len(jax.tree.leaves(first)[0])
        points = along_lines(self.model, first, second, self.config.slices.points, images, self.config.strategy)
        return np.stack([self.measure_losses(study, point, lines) for point in points], axis=1)

    def measure_plane(self, study: ForgetSet, corners: list[Variables]) -> Arrays:
        """The loss on a grid in the plane through three models. Coordinates are distances of weights."""
        models = jax.tree.map(lambda *leaves: jnp.stack(leaves), *corners)
        flat = np.stack(
            [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(corner.params)]) for corner in corners]
        ).astype(float)
        one, two = flat[1] - flat[0], flat[2] - flat[0]
        across = np.linalg.norm(one)
        along = two @ one / across
        up = np.linalg.norm(two - along * one / across)
        places = np.array([[0.0, 0.0], [across, 0.0], [along, up]])
        low, high = places.min(0), places.max(0)
        x, y = np.linspace(low - 0.25 * (high - low), high + 0.25 * (high - low), self.config.slices.resolution).T
        images, grid = calibration_batches(study.images.retain), []
        for height in y:
            of_two = height / up
            of_one = (x - of_two * along) / across
            shares = np.stack([1 - of_one - of_two, of_one, np.full_like(x, of_two)], axis=1).astype(np.float32)
            grid.append(self.measure_losses(study, self.move_on_plane(models, padded(shares), images), len(x)))
        return {"plane/x": x, "plane/y": y, "plane/places": places, "plane/losses": np.stack(grid)}

    @functools.cached_property
    def curvature(self) -> Callable[[int], Any]:
        """Number of examples -> the program that computes every member's sharpness."""

        @functools.cache
        def program(count: int) -> Any:
            def one(variables: Variables, key: jax.Array, mask: jax.Array, problem: Problem) -> Any:
                return sharpness(key, problem, variables, (mask, count), self.config.sharpness.steps)

            return over_members(one, (True, False, False, False), self.config.strategy)

        return program

    def measure_sharpness(self, study: ForgetSet, variables: Variables) -> Arrays:
        """The sharpness of every member on some retained and some forgotten examples, and its residual."""
        arrays: Arrays = {}
        count = len(jax.tree.leaves(variables)[0])
        starts = range(0, count, study.members)  # originals and oracles (twice as many) share a program
        parts = [padded(jax.tree.map(lambda leaf, at=at: jnp.asarray(leaf[at : at + study.members]), variables)) for at in starts]
        for split, rows in study.rows.items():
            drawn = rows[np.linspace(0, len(rows) - 1, min(len(rows), self.config.sharpness.examples)).astype(int)]
            mask = np.zeros(len(self.setting.data.train.labels), bool)
            mask[drawn] = True
            key, mask = jax.random.key(self.config.seed), shared(mask)
            eigenvalues = [self.curvature(len(drawn))(part, key, mask, self.setting.problem) for part in parts]
            for name in Eigenvalue._fields:
                values = [np.asarray(getattr(one, name))[: study.members] for one in eigenvalues]
                arrays[f"{COLUMNS[name]}/{split}"] = np.concatenate(values)
        return arrays


def train_oracles(config: Config, study: ForgetSet) -> Variables:
    """The retrained models of a forget set.

    Raises:
        ArgumentError: a member diverged.
    """
    return require_all(config, "oracle", study.pool("oracle", 2 * study.members).variables)


class Measurer:
    """Measures all groups of one forget set. Measurements kept by an earlier run are read."""

    def __init__(self, config: Config, study: ForgetSet, probe: Probe, originals: Variables):
        self.config, self.study, self.probe = config, study, probe
        self.pools = {"original": originals, "oracle": train_oracles(config, study)}

    def measure_groups(self, values: dict[str, dict[str, Any]], with_plane: bool) -> dict[str, Arrays]:
        """The measurements by group, without methods of which a member diverged.

        Args:
            values: hyperparameters, by method.
            with_plane: whether to measure the plane on this set.
        """
        others = {"original": self.measure_originals, "oracle": self.measure_oracles, "twin": self.measure_twins}
        options: dict[str, Any] = {"strategy": self.config.strategy, "chunk": self.config.chunk}

        def begin(name: str) -> Unlearner | None:
            if name not in values:
                return None
            return Unlearner(name, values[name], self.study.problem, self.pools["original"], **options)

        def make(name: str, unlearner: Unlearner | None) -> Arrays:
            with working(f"{name} on {self.study.name}") as update:
                arrays = self.measure_method(name, unlearner, with_plane) if unlearner else others[name]()
                update(1.0, "measured" if arrays else "diverged")
            return arrays

        files = {
            name: (f"measured/{self.study.name}/{name}.npz", self.identity(values.get(name), with_plane))
            for name in (*others, *values)
        }
        kept = load_or_make_all(self.study.folder, files, begin, make)
        return {name: arrays for name, arrays in kept.items() if arrays.keys() > {"made_with"}}

    def identity(self, values: dict[str, Any] | None, with_plane: bool) -> dict[str, Any]:
        """All that a group's measurements depend on."""
        return {
            **self.study.identity,
            "values": values,
            "slices": dataclasses.asdict(self.config.slices),
            "sharpness": dataclasses.asdict(self.config.sharpness),
            "plane": with_plane,
        }

    def first_members(self, variables: Variables) -> Variables:
        """The members at which lines begin."""
        return jax.tree.map(lambda leaf: leaf[: self.config.slices.lines], variables)

    def measure_originals(self) -> Arrays:
        """Originals, and the lines from each to the next."""
        starts = self.first_members(self.pools["original"])
        lines = self.measure_lines("original to original", starts, rotate_members(starts))
        return self.measure_models(self.pools["original"]) | lines

    def measure_oracles(self) -> Arrays:
        """Oracles, and the lines from originals to oracles and from each oracle to the next."""
        originals, retrained = self.first_members(self.pools["original"]), self.first_members(self.pools["oracle"])
        lines = self.measure_lines("oracle to oracle", retrained, rotate_members(retrained))
        lines |= self.measure_lines("original to oracle", originals, retrained)
        lines |= self.measure_lines("original to oracle", originals, retrained, False)
        return self.measure_models(self.pools["oracle"]) | lines

    def measure_twins(self) -> Arrays:
        """Lines between an original and an oracle with the same keys, so the same initialisation and order of common rows."""
        config, study, count = self.config, self.study, self.config.slices.lines
        everything = np.ones_like(study.mask)
        originals, retrained = (
            require_all(config, "twin", trained.variables)
            for trained in (
                pool(config, study.setting, study.setting.problem, everything, "twin", count),
                study.pool("twin", count),
            )
        )
        name = "original to oracle, same seed"
        return self.measure_lines(name, originals, retrained) | self.measure_lines(name, originals, retrained, False)

    def measure_method(self, name: str, unlearner: Unlearner, with_plane: bool) -> Arrays:
        """Unlearned models, and the lines from their originals and to the oracles; empty if a model diverged."""
        keys = member_keys(self.config.seed, f"{name} on {self.study.name}", self.study.members)
        variables = unlearner.apply(keys).variables
        if diverged((variables, self.study.logits(variables))):
            return {}
        originals, after, retrained = map(self.first_members, (self.pools["original"], variables, self.pools["oracle"]))
        arrays = (
            self.measure_models(variables)
            | self.measure_lines(f"original to {name}", originals, after)
            | self.measure_lines(f"{name} to oracle", after, retrained)
        )
        if with_plane and name == self.config.slices.plane:
            corners = [jax.tree.map(lambda leaf: leaf[0], models) for models in (originals, retrained, after)]
            arrays |= self.probe.measure_plane(self.study, corners)
        return arrays

    def measure_models(self, variables: Variables) -> Arrays:
        """Logits and sharpness of models."""
        return {**self.study.logits(variables)._asdict(), **self.probe.measure_sharpness(self.study, variables)}

    def measure_lines(self, kind: str, first: Variables, second: Variables, recalibrate: bool = True) -> Arrays:
        """The loss along the lines between pairs of models, and the distance of each pair.

        Without `recalibrate` BatchNorm statistics are interpolated; empty if the model has none.
        """
        if not recalibrate and not first.statistics:
            return {}
        name = kind if recalibrate else f"{kind}{report.INTERPOLATED}"
        losses = self.probe.measure_lines(self.study, first, second, recalibrate)
        return {f"line/{name}": losses, f"distance/{name}": relative_distance(first, second)}


def relative_distance(first: Variables, second: Variables) -> np.ndarray:
    """|θ - θ'| of every pair, over the norm of θ."""
    leaves = [
        tuple(map(np.asarray, pair)) for pair in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
    ]
    rows = [(one.reshape(len(one), -1).astype(float), two.reshape(len(two), -1)) for one, two in leaves]
    return np.sqrt(sum(((one - two) ** 2).sum(1) for one, two in rows) / sum((one**2).sum(1) for one, _ in rows))
