"""Critics: small networks that tell two sets of examples apart by what a model says of them, and the game of fooling them."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unlearn_jax.training.objectives import Batch, cross_entropy
from unlearn_jax.types import Key, Params

WIDTH = 32  # hidden units of a critic
LEAST_SPREAD = 0.1  # nats; a characteristic that hardly varies is not blown up


def characteristics(logits: Float[Array, "batch classes"], batch: Batch) -> Float[Array, "batch characteristics"]:
    """What a critic sees of each example: its log-probabilities in descending order, its loss, its margin; all in nats.

    The margin is log p_y - log (1 - p_y).
    """
    own = jax.nn.one_hot(batch.labels, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    margins = jnp.sum(jnp.where(own, logits, 0.0), axis=-1) - others
    ranked = -jnp.sort(-jax.nn.log_softmax(logits), axis=-1)
    return jnp.concatenate([ranked, cross_entropy(logits, batch)[:, None], margins[:, None]], axis=-1)


def fresh_critics(key: Key, critics: int, inputs: int) -> Params:
    """The weights of critics with one hidden layer of relus, stacked along a leading axis."""
    noise = jax.random.normal(key, (critics, inputs + 1, WIDTH))
    return {
        "hidden": {"kernel": noise[:, :-1] * math.sqrt(2.0 / inputs), "bias": jnp.zeros((critics, WIDTH))},
        "out": {"kernel": noise[:, -1] / math.sqrt(WIDTH), "bias": jnp.zeros(critics)},
    }


def suspicion(critic: Params, seen: Float[Array, "batch inputs"]) -> Float[Array, " batch"]:
    """What one critic thinks of each example: its log-odds of being of the first set."""
    hidden = jax.nn.relu(seen @ critic["hidden"]["kernel"] + critic["hidden"]["bias"][None])
    return hidden @ critic["out"]["kernel"] + critic["out"]["bias"]


def contest(
    critics: Params, suspects: Float[Array, "batch inputs"], innocents: Float[Array, "critics unseen inputs"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The two losses of a game: critics tell suspects from innocents, each from a set of its own; suspects fool all of them.

    With d the log-odds of a critic, the critics' loss is E log(1 + exp(-d(suspects))) + E log(1 + exp(d(innocents))) and moves
    only them; that of the suspects E log(1 + exp(d(suspects))), the form that does not saturate (arXiv 1406.2661), moves only
    them. Both are means over the critics. Inputs are standardised by the innocents' mean and spread, which are held.

    Returns:
        The critics' loss and the suspects'.
    """
    hold = jax.lax.stop_gradient
    centre = hold(jnp.mean(innocents, axis=(0, 1)))
    spread = hold(jnp.std(innocents, axis=(0, 1))) + LEAST_SPREAD
    suspects, innocents = (suspects - centre[None]) / spread[None], hold((innocents - centre[None, None]) / spread[None, None])
    of_suspects = jax.vmap(suspicion, in_axes=(0, None))
    caught = jnp.mean(jax.nn.softplus(-of_suspects(critics, hold(suspects))))
    cleared = jnp.mean(jax.nn.softplus(jax.vmap(suspicion)(critics, innocents)))
    return caught + cleared, jnp.mean(jax.nn.softplus(of_suspects(hold(critics), suspects)))


def disjoint_rows(key: Key, count: int, parts: int) -> Int[Array, "parts rows"]:
    """Row numbers below `count`, dealt at random into parts of equal size; what does not go round is left out."""
    order = jnp.argsort(jax.random.bits(key, (count,)))
    return order[: count // parts * parts].reshape(parts, -1)
