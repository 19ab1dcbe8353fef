"""Retraining in full or in part: original, retraining, fine-tuning, and the last k blocks."""

import optax

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.pieces import edit, pipe, steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.training.descend import Descent, descend
from unlearn_jax.training.fit import beginning, refit
from unlearn_jax.training.objectives import Term, cross_entropy, weighted
from unlearn_jax.training.transforms import freeze_by_name
from unlearn_jax.types import Key, Method, Problem, Variables


@register(access="none", reference="-", identity_at_zero=True)
def original() -> Method:
    """Returns the original model unchanged: no unlearning at all."""
    return pipe()


@register(access="R", reference="-")
def retrain() -> Method:
    """Trains a new model on the retain set by the original's recipe: the result that all methods approximate."""

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        return refit(key, problem)

    return method


@register(
    access="R",
    reference="as in SalUn's comparison, arXiv 2310.12508",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 0.3)},
)
def finetune(*, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 10, batch_size: int = 256) -> Method:
    """Fine-tunes on the retain set and relies on catastrophic forgetting of the forget set.

    Minimises CE(R) by SGD with momentum 0.9.

    Args:
        learning_rate: of SGD.
        weight_decay: added to the gradient.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        transform = sgd(learning_rate, weight_decay)
        return descend_on_retain(problem, transform, epochs, batch_size)(key, problem, variables)

    return method


@register(
    access="R", reference="arXiv 2201.06640", needs=["blocks"], identity_at_zero=True, search={"learning_rate": (1e-3, 1.0)}
)
def cf_k(
    *, blocks: int = 1, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 10, batch_size: int = 256
) -> Method:
    """CF-k (catastrophic forgetting): fine-tunes only the last k blocks on the retain set.

    All other weights stay bit-identical. Deviations: BatchNorm's running statistics are frozen everywhere; in the authors' code
    they move, and so change the frozen blocks after all. k counts the blocks that a model declares; the authors' counts
    convolutions and dense layers, each with its norm. Both agree for k = 1 and for an MLP; a residual block is two or three of
    their layers.

    Args:
        blocks: k; the head is the last block.
        learning_rate: of SGD with momentum 0.9; that of SCRUB's comparison (2302.09880). The authors' cycles between 0.1 and
            0.005.
        weight_decay: added to the gradient; the authors' 5e-5.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        transform = freeze_by_name(sgd(learning_rate, weight_decay), all_but_last(problem, blocks))
        return descend_on_retain(problem, transform, epochs, batch_size, statistics="freeze")(key, problem, variables)

    return method


@register(access="R", reference="arXiv 2201.06640", needs=["blocks"], search={"learning_rate": (1e-3, 1.0)})
def eu_k(
    *, blocks: int = 1, learning_rate: Number = 0.01, weight_decay: Number = 5e-4, epochs: int = 10, batch_size: int = 256
) -> Method:
    """EU-k (exact unlearning): reinitialises the last k blocks and trains only them on the retain set.

    Reinitialises all parameters of these blocks, their norms included (the authors keep the norms), then trains as `cf_k`, with
    its deviations.

    Args:
        blocks: k; the head is the last block.
        learning_rate: of SGD with momentum 0.9; see `cf_k`.
        weight_decay: added to the gradient; see `cf_k`.
        epochs: passes over R.
        batch_size: examples per step.
    """

    def renew(key: Key, problem: Problem, variables: Variables) -> Variables:
        fresh, kept = beginning(key, problem).params, all_but_last(problem, blocks)
        params = {name: old if name in kept else fresh[name] for name, old in variables.params.items()}
        return variables._replace(params=params)

    train = cf_k(blocks=blocks, learning_rate=learning_rate, weight_decay=weight_decay, epochs=epochs, batch_size=batch_size)
    return pipe(edit(renew), train)


def sgd(learning_rate, weight_decay, momentum=0.9) -> optax.GradientTransformation:
    """SGD with coupled weight decay; momentum 0.9 as in most of the papers' code."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum))


def descend_on_retain(problem: Problem, transform, epochs: int, batch_size: int, statistics: str = "update") -> Descent:
    """Descends on the cross-entropy on the retain set."""
    steps = steps_for(problem, "retain", epochs, batch_size)
    return descend(weighted(Term("retain", cross_entropy)), transform, steps=steps, batch_size=batch_size, statistics=statistics)


def all_but_last(problem: Problem, blocks: int) -> list[str]:
    """The names of the parameter groups in front of the last `blocks` blocks.

    Raises:
        ArgumentError: `blocks` is below 1 or above the model's number of blocks.
    """
    total = len(problem.model.blocks)
    if not 1 <= blocks <= total:
        raise ArgumentError("*.blocks", blocks, f"the model has 1 to {total}")
    return [name for block in problem.model.blocks[: total - blocks] for name in block]
