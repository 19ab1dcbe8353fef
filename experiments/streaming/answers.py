"""The programs that answer streams of requests: one for each method, whatever the stream, the summary and the learning rate."""

import inspect
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.streaming.options import Config
from unlearn_jax.bench.setting import Setting
from unlearn_jax.methods import METHODS, traceable
from unlearn_jax.methods.registry import Range
from unlearn_jax.methods.streaming import anchored, fisher, replayed
from unlearn_jax.methods.summaries import ANCHORS, OWN, STAND_INS, SUMMARIES, gaussians, keep, pseudo_examples
from unlearn_jax.progress import working
from unlearn_jax.training.cost import flops
from unlearn_jax.training.ensembles import over_members, padded, per_call, recorded, shared
from unlearn_jax.training.fit import refit
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Examples, Problem, Variables

CHOSEN = "learning_rate"
"""The hyperparameter that a run chooses."""
Asked = tuple[str, np.ndarray, float | None]
"""A stream to answer: the summary, the requests, and the learning rate (None: that of the hyperparameters)."""


def held_back(summary: str) -> str:
    """The access of a method that sees the requests and a summary."""
    return SUMMARIES[summary].access if summary else "F"


class Programs:
    """The methods of a run in streams, each compiled once.

    Args:
        config: which methods and summaries.
        values: the hyperparameters of the registered methods.
    """

    def __init__(self, config: Config, values: dict[str, dict[str, Any]]):
        self.config, self.values = config, values
        self.names = [*config.method_names(), *config.replayed]
        self.compiled: dict[str, Any] = {}
        self.costs: dict[str, float] = {}
        self.places = np.array(config.checkpoints) - 1

    def summaries(self, name: str) -> list[str]:
        """The summaries that a method is run with; empty for none."""
        if name in self.config.replayed:
            return list(self.config.stand_ins)
        return ["", *(ANCHORS if self.config.anchor else ())]

    def grid(self, name: str, count: int) -> np.ndarray:
        """The learning rates to choose from, over the range of the registry's search; none for a method without one."""
        found: Range | None = OWN[name][1] if name in OWN else METHODS[name].search.get(CHOSEN)
        return found.spaced(count) if found else np.zeros(0)

    def cost(self, name: str) -> float:
        """The work of one request as a share of that of a retraining; known once the method has run."""
        return self.costs[name]

    def answer(
        self, name: str, config: Config, setting: Setting, originals: Variables, asked: Sequence[Asked]
    ) -> tuple[list[Variables], float]:
        """The models after each point of comparison, `[members, points, ...]`, for each stream; and seconds for a request."""
        members = len(jax.tree.leaves(originals)[0])
        static, numbers = self._numbers(name)
        batch = [self._inputs(name, config, setting, originals, stream, numbers) for stream in asked]
        keys = jnp.concatenate([of_stream[0] for of_stream in batch])
        rest = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(of_stream[1:] for of_stream in batch))
        calls = per_call((keys, *rest), config.strategy)
        if name not in self.compiled:
            with working(f"{name}, compiling"):
                self.compiled[name] = self._compile(name, static, setting.problem, (keys, *rest), calls[0])
        with working(f"{name}: {len(asked)} streams of {members} models") as update:
            start = time.perf_counter()
            done = jax.block_until_ready([self.compiled[name](*call, setting.problem) for call in calls])
            seconds = (time.perf_counter() - start) / (members * len(asked) * config.requests)
            update(1.0, f"{seconds:.4f} s a request and model")
        count = members * len(asked)
        after = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *done)
        parts = [slice(first, first + members) for first in range(0, count, members)]
        return [jax.tree.map(lambda leaf, part=part: leaf[part], after) for part in parts], seconds

    def _numbers(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Static hyperparameters, and those that may be traced."""
        if name not in OWN:
            return traceable(name, self.values[name])
        defaults = {key: given.default for key, given in inspect.signature(OWN[name][0]).parameters.items()}
        return {}, {key: value for key, value in defaults.items() if isinstance(value, float)}

    def _inputs(
        self, name: str, config: Config, setting: Setting, originals: Variables, stream: Asked, numbers: dict[str, Any]
    ) -> tuple:
        """The arguments of a stream, with a leading axis of members."""
        summary, requests, rate = stream
        members = len(jax.tree.leaves(originals)[0])
        numbers = numbers if rate is None else {**numbers, CHOSEN: rate}

        def everyone(value: Any) -> np.ndarray:
            return np.broadcast_to(value, (members, *np.shape(value)))

        if name in self.config.replayed:
            given: tuple = (everyone(np.int32(list(STAND_INS).index(summary))),)
        else:
            strength, subtract = (config.anchor if summary else 0.0), float(summary == "anchor without F")
            given = (everyone(np.float32(strength)), everyone(np.float32(subtract)))
        keys = member_keys(config.seed, f"{name} in a stream", members)
        return keys, originals, everyone(requests), jax.tree.map(lambda v: everyone(np.float32(v)), numbers), given

    def _compile(self, name: str, static: dict[str, Any], problem: Problem, inputs: tuple, call: tuple) -> Any:
        config, places = self.config, self.places

        def stream(key, variables, requests, numbers, given, problem):
            if name in OWN:
                lifted = replayed(OWN[name][0](**static, **numbers), config.stand_in_size)
            elif name in config.replayed:
                method = METHODS[name].make(**static, **numbers)
                lifted = replayed(
                    lambda key, problem, variables, statistics: method(key, problem, variables), config.stand_in_size
                )
            else:
                held = fisher(problem, variables)
                lifted, given = anchored(METHODS[name].make(**static, **numbers)), (held, *given)
            after = lifted(key, problem, variables, requests, *given)
            return jax.tree.map(lambda leaf: leaf[places], after)

        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
        program = recorded(stream, *one, problem)
        whole = flops(refit, jax.random.key(0), problem)
        self.costs[name] = flops(program, *one, problem) / config.requests / whole
        return over_members(program, (True,) * len(one) + (False,), config.strategy).lower(*call, problem).compile()


def class_gaussians_alone(config: Config, setting: Setting, requests: dict[str, np.ndarray]) -> dict[str, Variables]:
    """Models trained from scratch on examples drawn from the class statistics that are left after all requests.

    They never saw a training example, and are as free of F as the statistics are: kind of stream -> models.
    """
    problem, members = setting.problem, config.members

    def one(key, requests, problem):
        draw_key, train_key = jax.random.split(key)
        statistics = keep(problem).after(problem, requests).statistics
        number, shape = problem.kept_count - requests.size, problem.train.images.shape[1:]
        drawn: Examples = pseudo_examples(draw_key, gaussians(statistics), number, shape)
        everything = jnp.ones(number, bool)
        return refit(
            train_key,
            problem.replace(train=drawn, kept=everything, forget=~everything, kept_count=number, forget_count=0),
        )

    keys = member_keys(config.seed, "class statistics alone", members * len(requests))
    rows = np.repeat(np.stack([of_kind.ravel() for of_kind in requests.values()]), members, axis=0)
    with working("class statistics alone"):
        program = over_members(one, (True, True, False), config.strategy)
        after = jax.tree.map(np.asarray, program(*padded((keys, rows)), shared(problem)))
    parts = {kind: slice(at * members, (at + 1) * members) for at, kind in enumerate(requests)}
    return {kind: jax.tree.map(lambda leaf, part=part: leaf[part], after) for kind, part in parts.items()}
