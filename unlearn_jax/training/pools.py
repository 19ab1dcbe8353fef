"""Pools: batches of trained members, trained in chunks, kept in a cache under their identity."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from unlearn_jax import sealed
from unlearn_jax.as_json import json_text
from unlearn_jax.checkpoints import fitting
from unlearn_jax.device import made_with, numerics
from unlearn_jax.errors import ArgumentError
from unlearn_jax.kept import Kept, is_large, stacked
from unlearn_jax.runs import FORMAT, Cache
from unlearn_jax.training.compiling import compile_all
from unlearn_jax.training.ensembles import chunk_size, over_members, per_call, shared, step_bytes
from unlearn_jax.training.fit import beginning, frozen_in, initialise, masked, training
from unlearn_jax.training.sampling import steps_in_pass
from unlearn_jax.types import Key, Problem, Variables
from unlearn_jax.workers import Here, Workers

TASKS = 4  # for each worker: few, since each has overhead; several, since the last ones leave workers idle
WATCHED = 64  # held-out examples whose accuracy is reported during training, which their prediction prolongs


Fit = Callable[[Key, Bool[np.ndarray, " examples"]], Any]


class Curves(NamedTuple):
    """How members learned, on the first `WATCHED` held-out examples after each epoch; NaN from where one has diverged."""

    loss: Float[np.ndarray, "members epochs"]  # mean cross-entropy, in nats
    accuracy: Float[np.ndarray, "members epochs"]  # in [0, 1]


class Pool(NamedTuple):
    """Trained members, and how they came about."""

    variables: Variables  # NumPy leaves with a leading axis of members; if they are large, `kept.Kept`, which reads the chunks
    diverged: tuple[int, ...]  # members with a weight or statistic that is not finite
    seconds: float  # steady-state training time of one member: the median over all members, cached ones included
    compile_seconds: float  # of this call; 0 when all members came from the cache
    made_with: tuple[str, ...] = ()  # see `device.made_with`; several if versions or backends differ between members
    curves: Curves | None = None  # of all members; None if some were cached by a version that kept none
    name: str = ""  # of its folder in the cache


class Progress(NamedTuple):
    """Progress of a pool in training, reported after every epoch."""

    role: str
    first: int  # number of the first member in training
    last: int  # one past the last
    members: int
    epoch: int
    epochs: int
    share: float  # of all the work, in [0, 1]
    accuracy: float  # held-out, of the members in training, in [0, 1]
    diverged: int  # of the members in training


def member_keys(seed: int, role: str, members: int) -> Key:
    """One key for each member; different roles (`original`, `oracle`, `retrain`, ...) share none."""
    base = jax.random.fold_in(jax.random.key(seed), zlib.crc32(role.encode()))
    return jax.vmap(lambda member: jax.random.fold_in(base, member))(jnp.arange(members))


def train_pool(
    problem: Problem,
    masks: Bool[np.ndarray, "*members examples"],
    *,
    members: int,
    role: str,
    seed: int,
    identity: dict[str, Any],
    cache: pathlib.Path,
    strategy: str = "auto",
    chunk: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    fit: Fit | None = None,
    workers: Workers | None = None,
) -> Pool:
    """Train models by `problem.recipe` on the examples that their masks keep, or load them from the cache.

    Finished chunks are saved at once: a killed run resumes after the last of them, and a larger pool begins with the smaller
    one's members. Of several runs that want the same pool at the same time one trains a chunk, and the others wait. Member i is
    the same model whatever the number of members and the chunk, and, up to float rounding (which long training amplifies), the
    strategy.

    Args:
        problem: the examples (on the devices: see `ensembles.shared`), model and recipe; its masks are not used.
        masks: the examples to train on: one mask for all members, or one for each, all keeping equally many.
        members: number of models.
        role: what the pool is for; its keys are drawn from it.
        seed: of the run.
        identity: everything else that the result depends on: the names and fingerprints of model and data.
        cache: the folder that all runs share.
        strategy: see `ensembles.over_members`.
        chunk: members trained at a time; by default as many as fit into memory.
        report: called after every epoch.
        fit: trains a member in place of `problem.recipe`, on the host, one after the other: any function of the member's key and
            its mask `[examples]` that returns variables of the model. Each member is saved at once. `identity` must name it.
        workers: train chunks side by side, `chunk` members each, by default as many as make `TASKS` for every worker.

    Raises:
        ArgumentError: `fit` returns something else than variables of the model.
        ValueError: masks that keep different numbers of examples, or that differ from those of a cached pool.
        StorageError: something is to be trained, and the cache cannot be written.
        WorkersError: the workers were lost; what they finished is in the cache.
    """
    job = _Job(problem, masks, members, role, seed, identity, strategy, chunk, fit)
    chunks = job.chunks(cache)
    compiling = _spread(job, chunks, workers, cache, report) if workers else 0.0
    parts, models = [], []
    for part in job.train(0, members, chunks, report, lock=lambda: chunks.folder.alone(f"{role} models")):
        models.append(chunks.places(part.name) if is_large(part.variables, members) else part.variables)
        parts.append(part._replace(variables=None))
    variables = stacked(models, members)
    seconds = float(np.median(np.concatenate([part.seconds for part in parts])[:members]))
    made = tuple(dict.fromkeys(part.made_with for part in parts))
    learned = [part.curves for part in parts if part.curves]
    whole = len(learned) == len(parts)
    curves = Curves(*(np.concatenate(each)[:members] for each in zip(*learned, strict=True))) if whole else None
    compiling += job.trainer.compile_seconds
    return Pool(variables, diverged(variables), seconds, compiling, made, curves, chunks.folder.folder.name)


def _spread(job: "_Job", chunks: "_Chunks", workers: Workers, cache: pathlib.Path, report: Callable[[Progress], None]) -> float:
    """Lets workers train what is not in the cache. Returns how long the slowest of them compiled, in seconds."""
    if not chunks.gaps(job.members):
        return 0.0
    with chunks.folder.alone(f"{job.role} models"):
        gaps = chunks.gaps(job.members)  # another run may have trained it meanwhile
        missing = sum(last - first for first, last in gaps)
        size = job.size or _multiple(-(-missing // (TASKS * workers.count)), workers.devices)
        pieces = [(start, min(start + size, last)) for first, last in gaps for start in range(first, last, size)]
        done, compiling = np.zeros(len(pieces)), 0.0

        def heard(number: int, news: Any) -> None:
            progress = Progress(job.role, *news)
            of_piece = progress.first - pieces[number][0] + (progress.last - progress.first) * progress.epoch / progress.epochs
            done[number] = max(done[number], of_piece)  # a piece may have begun anew
            report(progress._replace(share=1 - (missing - float(done.sum())) / job.members))

        for number, (arrays, seconds) in workers.run(job, pieces, cache, heard, f"{job.role}-models"):
            done[number] = pieces[number][1] - pieces[number][0]
            compiling = max(compiling, seconds)
            for name, values in arrays.items():
                chunks.write(name, values)
    return compiling


def _multiple(count: int, of: int) -> int:
    """The next multiple."""
    return -(-count // of) * of


class _Job:
    """The training of a pool, or of a part of it: here, or where a worker is (see `workers.Job`)."""

    def __init__(
        self,
        problem: Problem,
        masks: np.ndarray,
        members: int,
        role: str,
        seed: int,
        identity: dict[str, Any],
        strategy: str,
        size: int | None,
        fit: Fit | None,
    ):
        self.problem, self.masks, self.members, self.role, self.seed = problem, masks, members, role, seed
        self.identity, self.strategy, self.size, self.fit = identity, strategy, size if fit is None else 1, fit
        self.trainer = _Trainer(problem, masks, strategy) if fit is None else _Caller(fit, problem, role)
        self.keys = member_keys(seed, role, members)

    def __reduce__(self) -> tuple:
        rest = self.masks, self.members, self.role, self.seed, self.identity, self.strategy, self.size, self.fit
        return _arrived, (jax.tree.map(np.asarray, self.problem), *rest)

    def __call__(self, piece: tuple[int, int], here: Here) -> tuple[dict[str, dict[str, np.ndarray]], float]:
        """Trains some members. Returns the seconds of compilation, and the files of chunks if the cache is not the run's."""
        chunks, before = self.chunks(here.cache), self.trainer.compile_seconds
        for _ in self.train(*piece, chunks, lambda progress: here.report(progress[1:]), lock=contextlib.nullcontext):
            pass  # the run has the lock
        made = {} if here.shared else {name: chunks.read(name) for start, name in chunks.there() if piece[0] <= start < piece[1]}
        return made, self.trainer.compile_seconds - before

    def chunks(self, cache: pathlib.Path) -> "_Chunks":
        """The chunks of the pool in a cache."""
        return _Chunks(cache, self.problem, self.masks, self.role, self.seed, self.identity)

    def train(
        self,
        first: int,
        end: int,
        chunks: "_Chunks",
        report: Callable[[Progress], None],
        lock: Callable[[], contextlib.AbstractContextManager],
    ) -> Iterator["_Part"]:
        """Trains the members from `first` to `end`, chunk by chunk, or loads them.

        Args:
            first: the first member.
            end: one past the last.
            chunks: where they are kept.
            report: called after every epoch.
            lock: held while a chunk is trained.
        """
        while first < end:
            part = chunks.find(first)
            if part is None:
                with lock():
                    part = chunks.find(first, drop=True) or self._train(first, end, chunks, report)
            masks = self.masks
            if masks.ndim == 2 and not np.array_equal(
                part.masks[: self.members - first], np.packbits(masks[first:], axis=-1)[: len(part.masks)]
            ):
                raise ValueError(f"the cached pool {chunks.folder.folder} was trained on other masks from member {first} on")
            yield part
            first = part.last

    def _train(self, first: int, end: int, chunks: "_Chunks", report: Callable[[Progress], None]) -> "_Part":
        """Trains a chunk, and keeps it."""
        trainer, members = self.trainer, self.members
        size = self.size or chunk_size(trainer.member_bytes, end - first, self.strategy)
        last = min(first + size, end, *(start for start, _ in chunks.there() if start > first))
        chunk_masks = self.masks if self.masks.ndim == 1 else self.masks[first:last]

        def epoch_done(epoch: int, accuracy: np.ndarray) -> None:
            share = (first + (last - first) * epoch / trainer.epochs) / members
            lost = int((~np.isfinite(accuracy)).sum())
            known = float(np.nanmean(accuracy)) if lost < len(accuracy) else float("nan")
            report(Progress(self.role, first, last, members, epoch, trainer.epochs, share, known, lost))

        variables, seconds, curves = trainer.train(self.keys[first:last], chunk_masks, epoch_done)
        return chunks.keep(first, last, variables, np.packbits(chunk_masks, axis=-1), seconds, curves)


def _arrived(problem: Problem, *rest: Any) -> _Job:
    """A job that came from another process: its examples are put on the devices of this one."""
    job = _Job(shared(problem), *rest)
    if isinstance(job.trainer, _Trainer):
        job.trainer.divide = True
    return job


def diverged(models: Any) -> tuple[int, ...]:
    """The members of a tree (of weights, or of logits) that hold a value that is not finite."""

    def finite(leaf: Any) -> np.ndarray:
        parts = [np.asarray(leaf[some]) for some in leaf.slices()] if isinstance(leaf, Kept) else [np.asarray(leaf)]
        return np.concatenate([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts])

    return tuple(int(member) for member in np.flatnonzero(~np.logical_and.reduce([*map(finite, jax.tree.leaves(models))])))


class _Part(NamedTuple):
    """A chunk of a pool."""

    name: str  # of its file
    last: int  # one past the last member
    variables: Variables | None  # None: not read, or no longer needed
    masks: np.ndarray  # packed
    seconds: np.ndarray  # of each member
    made_with: str
    curves: Curves | None  # None if it was kept by a version that kept none


class _Chunks:
    """The chunks of a pool in the cache, each a file `FIRST-LAST.npz` in a folder named by the pool's identity.

    Where each member has its own mask, the identity holds the first one only, so that a pool can grow; all are compared later.
    """

    def __init__(self, cache: pathlib.Path, problem: Problem, masks: np.ndarray, role: str, seed: int, identity: dict[str, Any]):
        self.identity = {
            "role": role,
            "seed": seed,
            "masks": _digest(masks) if masks.ndim == 1 else f"one for each member, the first {_digest(masks[0])}",
            "recipe": dataclasses.asdict(problem.recipe),
            **identity,
        }
        whole = json_text({"format": FORMAT, "numerics": numerics(), **self.identity})
        self.folder = Cache(cache.absolute() / "pools" / hashlib.sha256(whole.encode()).hexdigest()[:20])
        fresh = jax.eval_shape(initialise, jax.random.key(0), problem)
        paths, self.structure = jax.tree_util.tree_flatten_with_path(fresh)
        self.names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]

    def there(self) -> list[tuple[int, str]]:
        """The first member and the name of every chunk, whole or not."""
        names = os.listdir(self.folder.folder) if self.folder.folder.is_dir() else []
        return sorted((int(name.split("-")[0]), name) for name in names if re.fullmatch(r"\d+-\d+\.npz", name))

    def find(self, first: int, *, drop: bool = False) -> _Part | None:
        """The chunk that begins with a member. A damaged one is reported, or removed with `drop`."""
        for start, name in self.there():
            if start == first:
                arrays = self.folder.find(name, self.identity, say=not drop)
                if arrays is not None:
                    leaves = [arrays[name] for name in self.names]
                    variables, seconds = jax.tree.unflatten(self.structure, leaves), arrays["seconds"]
                    last, made = first + len(seconds), str(arrays["made_with"])
                    known = all(f"curves/{field}" in arrays for field in Curves._fields)
                    curves = Curves(*(arrays[f"curves/{field}"] for field in Curves._fields)) if known else None
                    return _Part(name, last, variables, arrays["masks"], seconds, made, curves)
                if drop:
                    self.folder.drop(name)
        return None

    def places(self, name: str) -> Variables:
        """Where the arrays of a chunk's file lie: a `Place` for each."""
        where = sealed.places(self.folder.folder / name)
        return jax.tree.unflatten(self.structure, [where[name] for name in self.names])

    def gaps(self, members: int) -> list[tuple[int, int]]:
        """The members that are in no chunk: first and one past the last of each gap."""
        gaps, first = [], 0
        while first < members:
            part = self.find(first)
            last = part.last if part else min([members, *(start for start, _ in self.there() if start > first)])
            gaps += [] if part else [(first, last)]
            first = last
        return gaps

    def read(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a chunk's file, as `write` takes them."""
        arrays = self.folder.find(name, self.identity)
        assert arrays is not None  # it was just written
        return arrays

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Saves a chunk."""
        self.folder.write_json("identity.json", self.identity)  # for people to read
        self.folder.keep(name, self.identity, arrays)

    def keep(self, first: int, last: int, variables: Variables, masks: np.ndarray, seconds: float, curves: Curves) -> _Part:
        """Saves a chunk, which took `seconds` to train."""
        name = f"{first:05d}-{last:05d}.npz"
        part = _Part(name, last, variables, masks, np.full(last - first, seconds / (last - first)), made_with(), curves)
        leaves = dict(zip(self.names, jax.tree.leaves(variables), strict=True))
        facts = {field: getattr(part, field) for field in ("masks", "seconds", "made_with")}
        facts |= {f"curves/{field}": of_members for field, of_members in curves._asdict().items()}
        self.write(name, {**leaves, **facts})
        return part


def _digest(mask: np.ndarray) -> str:
    return hashlib.sha256(mask.tobytes()).hexdigest()


def _watch(variables: Variables, problem: Problem) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The loss and the accuracy of a member, see `Curves`. A program of its own: that of the training stays as it is."""
    labels = problem.held_out.labels[:WATCHED]
    logits, _ = problem.model.apply(variables, problem.held_out.images[:WATCHED], train=False)
    finite = jnp.isfinite(logits).all()
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.where(finite, loss, jnp.nan), jnp.where(finite, accuracy, jnp.nan)


class _Trainer:
    """The compiled programs that train a chunk: `begin`, then one pass over the data at a time."""

    divide = False  # whether other processes may compile the same programs now

    def __init__(self, problem: Problem, masks: np.ndarray, strategy: str):
        counts = np.unique(masks.sum(axis=-1))
        if len(counts) > 1:
            raise ValueError(f"members of one pool must keep equally many examples, not {counts}")
        self.count = int(counts[0])
        self.problem, self.strategy = problem, strategy
        self.epochs = problem.recipe.epochs
        self.steps = steps_in_pass(self.count, problem.recipe.batch_size)
        self.descent = training(problem.recipe, self.count, frozen_in(problem))
        self.compile_seconds = 0.0
        self._begin = over_members(self._begin_one, (True, masks.ndim == 2, False), strategy)
        self._epoch = over_members(self._epoch_one, (True, True, False, False), strategy, donate=(0,))
        self._watch = over_members(_watch, (True, False), strategy)
        self._compiled: dict[int, list] = {}

    def _begin_one(self, key: Key, mask: Array, problem: Problem):
        init_key, order_key = jax.random.split(key)  # as `fit.refit` splits it
        problem = masked(problem, mask, self.count)
        return self.descent.begin(beginning(init_key, problem)), self.descent.plan(order_key, problem)

    def _epoch_one(self, state, plan, epoch: Array, problem: Problem):
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, epoch * self.steps, self.steps), plan)
        return self.descent.advance(state, part, problem)[0]

    def member_bytes(self) -> int:
        """The memory of one member in training, see `step_bytes`."""
        mask = jax.ShapeDtypeStruct(self.problem.kept.shape, bool)
        state, plan = jax.eval_shape(self._begin_one, jax.random.key(0), mask, self.problem)
        return step_bytes(self._epoch_one, state, plan, jnp.int32(0), self.problem, batched=(True, True, False, False))

    def train(
        self, keys: Key, masks: np.ndarray, epoch_done: Callable[[int, np.ndarray], None]
    ) -> tuple[Variables, float, Curves]:
        """The members with these keys, the seconds of training without compilation, and how they learned."""
        members = len(keys)
        calls = per_call((keys, masks) if masks.ndim == 2 else (keys,), self.strategy)
        if masks.ndim == 1:
            same = shared(masks)
            calls = [(key, same) for (key,) in calls]
        start = time.perf_counter()
        size = len(calls[0][0])
        if size not in self._compiled:
            state, plan = jax.eval_shape(self._begin, *calls[0], self.problem)
            lowered = (
                self._begin.lower(*calls[0], self.problem),
                self._epoch.lower(state, plan, jnp.int32(0), self.problem),
                self._watch.lower(state.variables, self.problem),
            )
            self._compiled[size] = compile_all(lowered, divide=self.divide)
        begin, epoch, watch = self._compiled[size]
        ready = time.perf_counter()
        self.compile_seconds += ready - start
        states, plans = zip(*(begin(*call, self.problem) for call in calls), strict=True)
        curves = Curves(*(np.full((members, self.epochs), np.nan, np.float32) for _ in Curves._fields))
        for number in range(self.epochs):
            states = tuple(epoch(state, plan, jnp.int32(number), self.problem) for state, plan in zip(states, plans, strict=True))
            watched = [watch(state.variables, self.problem) for state in states]
            for curve, of_calls in zip(curves, zip(*watched, strict=True), strict=True):
                curve[:, number] = np.concatenate(of_calls)[:members]
            epoch_done(number + 1, curves.accuracy[:, number])
        variables = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:members], *(state.variables for state in states))
        return variables, time.perf_counter() - ready, curves


class _Caller:
    """Somebody's own trainer, in the place of `_Trainer`."""

    epochs = 1
    compile_seconds = 0.0

    def __init__(self, fit: Fit, problem: Problem, role: str):
        self.fit, self.problem, self.role = fit, problem, role
        self.like = jax.eval_shape(initialise, jax.random.key(0), problem)
        self.watch = jax.jit(_watch)
        self.seen: set[bytes] = set()  # the models so far

    def member_bytes(self) -> int:
        """Unknown: members are trained one by one."""
        return 1

    def train(
        self, keys: Key, masks: np.ndarray, epoch_done: Callable[[int, np.ndarray], None]
    ) -> tuple[Variables, float, Curves]:
        """As `_Trainer.train`; what was after each of its epochs is not known, so a curve has its end only."""
        start = time.perf_counter()
        own = np.broadcast_to(masks, (len(keys), masks.shape[-1]))
        members = [self._one(key, mask) for key, mask in zip(keys, own, strict=True)]
        for variables in members:
            digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(variables))).digest()
            if digest in self.seen:
                problem = (
                    "gave the same model for two keys; it has to follow its key, or nothing varies (then take another fit_name)"
                )
                raise ArgumentError("fit", f"({self.role} models)", problem)
            self.seen.add(digest)
        seconds = time.perf_counter() - start
        watched = [self.watch(variables, self.problem) for variables in members]
        curves = Curves(*(np.array(of_members, np.float32)[:, None] for of_members in zip(*watched, strict=True)))
        epoch_done(1, curves.accuracy[:, 0])
        return jax.tree.map(lambda *leaves: np.stack(leaves), *members), seconds, curves

    def _one(self, key: Key, mask: np.ndarray) -> Variables:
        returned = self.fit(key, mask.copy())
        try:
            return fitting(returned, self.like)
        except ValueError as error:
            raise ArgumentError("fit", f"({self.role} models)", str(error)) from error
