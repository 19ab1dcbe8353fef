"""Refined unlearning: parts of the forget set, ordered by memorisation, each by a method of its own (arXiv 2406.01257)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import METHODS, Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Term, cross_entropy, divergence, weighted
from unlearn_jax.types import Key, Method, Problem, Variables


@register(
    access="F+R+test-like",
    reference="arXiv 2406.01257 and 2410.16516",
    search={"middle_rate": (1e-3, 0.3), "high_rate": (1e-4, 0.1)},
)
def rum(
    *,
    low: str = "original",
    middle: str = "finetune",
    high: str = "salun",
    middle_rate: Number = 0.1,
    high_rate: Number = 0.1,
    middle_epochs: int = 10,
    high_epochs: int = 5,
    proxy_rate: Number = 0.01,
    proxy_epochs: int = 5,
    batch_size: int = 256,
) -> Method:
    """RUM (refined unlearning): splits the forget set by memorisation and unlearns each third by a method of its own.

    F is sorted by how much θ0's output on an example changes, in symmetric KL, when θ0 is fine-tuned on held-out data by SGD with
    momentum 0.9 (the authors' *held-out retraining* proxy: what is memorised changes most), and cut into thirds. Then `low`,
    `middle` and `high` unlearn the least memorised third, the next, and the most memorised, one after the other, each with R as
    the retain set. They may be any methods of the registry that return one network; their other hyperparameters are at their
    defaults. Default: the authors' order nothing, fine-tuning, SalUn.

    Args:
        low: method of the least memorised third.
        middle: method of the next third.
        high: method of the most memorised third.
        middle_rate: learning rate of `middle`, if it has one; the authors'.
        high_rate: learning rate of `high`, if it has one; theirs.
        middle_epochs: epochs of `middle`, if it has any; theirs.
        high_epochs: epochs of `high`, if it has any; theirs.
        proxy_rate: learning rate of the fine-tuning on held-out data.
        proxy_epochs: passes over the held-out data.
        batch_size: examples per step, of all three and of the proxy.
    """
    methods = [
        inner("low", low, {"batch_size": batch_size}),
        inner("middle", middle, {"learning_rate": middle_rate, "epochs": middle_epochs, "batch_size": batch_size}),
        inner("high", high, {"learning_rate": high_rate, "epochs": high_epochs, "batch_size": batch_size}),
    ]

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        proxy_key, *own_keys = jax.random.split(key, 1 + len(methods))
        changed = change_by_held_out(proxy_key, problem, variables, proxy_rate, proxy_epochs, batch_size)
        rows = jnp.nonzero(problem.forget, size=problem.forget_count)[0]
        order, first = rows[jnp.argsort(changed)], 0
        for number, (unlearn, own) in enumerate(zip(methods, own_keys, strict=True)):
            end = (number + 1) * problem.forget_count // len(methods)
            if end > first:
                part = jnp.zeros_like(problem.forget).at[order[first:end]].set(True)
                kept = problem.retain | part
                on_part = problem.replace(
                    forget=part, kept=kept, forget_count=end - first, kept_count=problem.retain_count + end - first
                )
                variables = unlearn(own, on_part, variables)
            first = end
        return variables

    return method


def inner(place: str, name: str, given: dict) -> Method:
    """The method of one third, with those of the given hyperparameters that it has.

    Raises:
        ArgumentError: there is no such method, it returns several networks, or it is `rum` itself.
    """
    if name not in METHODS or name == "rum" or METHODS[name].ensemble:
        names = ", ".join(other for other, entry in METHODS.items() if other != "rum" and not entry.ensemble)
        raise ArgumentError(f"rum.{place}", name, f"expected one of {names}")
    entry = METHODS[name]
    return entry.make(**{key: value for key, value in given.items() if key in entry.defaults})


def change_by_held_out(
    key: Key, problem: Problem, variables: Variables, rate: Number, epochs: int, batch_size: int
) -> Float[Array, " forget"]:
    """How much the outputs on F change, in symmetric KL, when the model is fine-tuned on held-out data; in the order of rows."""
    count = len(problem.held_out.labels)
    everything = jnp.ones(count, bool)
    elsewhere = problem.replace(train=problem.held_out, kept=everything, forget=~everything, kept_count=count, forget_count=0)
    steps = steps_for(elsewhere, "retain", epochs, batch_size)
    descent = descend(weighted(Term("retain", cross_entropy)), sgd(rate, 0.0), steps=steps, batch_size=batch_size)
    after = descent(key, elsewhere, variables)
    images = problem.train.images[jnp.nonzero(problem.forget, size=problem.forget_count)[0]]
    one, other = (problem.model.apply(each, images, train=False)[0] for each in (variables, after))
    return (divergence(one, other) + divergence(other, one)) / 2
