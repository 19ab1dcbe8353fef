"""Matching the outputs that retraining would give: of retrained models, or as a datamodel predicts them (arXiv 2410.23232)."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.training.descend import descend
from unlearn_jax.training.fit import fit, refit
from unlearn_jax.training.gradients import chunk_by_chunk
from unlearn_jax.training.objectives import Batch, Term, weighted
from unlearn_jax.training.sampling import subset
from unlearn_jax.types import Key, Method, Problem, Variables

PAPER = "arXiv 2410.23232"


@register(access="F+R", reference=PAPER, identity_at_zero=True, search={"learning_rate": (1e-5, 1e-2)})
def oracle_matching(*, oracles: int = 1, learning_rate: Number = 1e-3, epochs: int = 5, batch_size: int = 128) -> Method:
    """Oracle matching: retrains models without the forget set, and fine-tunes the original to their outputs.

    Adam minimises the mean over F and R of |f_θ(x) - f_o(x)|² / 2, where f_o are the mean logits of the retrained models, in eval
    mode. It costs more than retraining: the authors' upper bound for what matching outputs can do, not a way to save work.

    Args:
        oracles: retrained models.
        learning_rate: of Adam.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        oracle_key, descent_key = jax.random.split(key)
        outputs = jax.lax.map(lambda own: outputs_of(problem, refit(own, problem)), jax.random.split(oracle_key, oracles)).mean(
            axis=0
        )
        return matched(problem, outputs, learning_rate, epochs, batch_size)(descent_key, problem, variables)

    return method


@register(access="F+R", reference=PAPER, static=["share"], identity_at_zero=True, search={"learning_rate": (1e-5, 1e-2)})
def datamodel_matching(
    *, pairs: int = 4, share: float = 0.5, learning_rate: Number = 1e-3, epochs: int = 5, batch_size: int = 128
) -> Method:
    """Datamodel matching: predicts what forgetting does to the outputs from models on subsets, and fine-tunes to the prediction.

    Each pair is trained with one key on the same random share of R, once with F and once without. The mean difference of their
    logits is what F adds to the output on x; the target is f_θ0(x) minus it, and Adam minimises the mean over F and R of
    |f_θ(x) - target|² / 2. Deviation: the authors fit a weight for every training example, once, to some ten thousand models on
    random subsets, which serve all requests. Here models are trained for the request, so F is a single column of the
    datamodel, and the cost is that of 2 pairs x share retrainings.

    Args:
        pairs: of models.
        share: of R that each pair is trained on, in (0, 1]; the authors' half.
        learning_rate: of Adam.
        epochs: passes over R of the fine-tuning.
        batch_size: examples per step of it, of each set.
    """

    if not 0 < share <= 1:
        raise ArgumentError("datamodel_matching.share", share, "expected a share of R above 0, at most 1")

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        pairs_key, descent_key = jax.random.split(key)
        count = max(1, round(share * problem.retain_count))

        def added(own: Key) -> Float[Array, "examples classes"]:
            """What F adds to the outputs, by one pair."""
            subset_key, fit_key = jax.random.split(own)
            kept = subset(subset_key, problem.retain, count)
            with_forget = fit(
                jax.random.clone(fit_key), kept | problem.forget, count=count + problem.forget_count, problem=problem
            )
            without = fit(fit_key, kept, count=count, problem=problem)
            return outputs_of(problem, with_forget) - outputs_of(problem, without)

        effect = jax.lax.map(added, jax.random.split(pairs_key, pairs)).mean(axis=0)
        target = outputs_of(problem, variables) - effect
        return matched(problem, target, learning_rate, epochs, batch_size)(descent_key, problem, variables)

    return method


def outputs_of(problem: Problem, variables: Variables) -> Float[Array, "examples classes"]:
    """The logits on all rows that are kept, in eval mode; 0 on others, which are not read."""
    rows = jnp.nonzero(problem.kept, size=problem.kept_count)[0]
    logits = chunk_by_chunk(lambda some: problem.model.apply(variables, problem.train.images[some], train=False)[0], rows, 256)
    return jnp.zeros((len(problem.kept), problem.classes)).at[rows].set(logits)


def matched(
    problem: Problem, targets: Float[Array, "examples classes"], learning_rate: Number, epochs: int, batch_size: int
) -> Method:
    """Fine-tunes to target logits on F and R, with as many examples of each."""

    def apart(logits, batch: Batch):
        return jnp.sum((logits - targets[batch.rows]) ** 2, axis=-1) / 2

    steps = steps_for(problem, "retain", epochs, batch_size)
    objective = weighted(Term("retain", apart), Term("forget", apart), together=True)
    return descend(objective, optax.adam(learning_rate), steps=steps, batch_size=batch_size)
