"""Critics: small networks that separate two sets of examples by a model's outputs, and the game of fooling them."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unlearn_jax.training.objectives import Batch, cross_entropy
from unlearn_jax.types import Key, Params

WIDTH = 32  # hidden units of a critic
LEAST_SPREAD = 0.1  # nats; keeps characteristics that hardly vary from being amplified


def characteristics(logits: Float[Array, "batch classes"], batch: Batch) -> Float[Array, "batch characteristics"]:
    """A critic's inputs for each example: log-probabilities in descending order, loss, margin; all in nats.

    The margin is log p_y - log (1 - p_y).
    """
    one_hot = jax.nn.one_hot(batch.labels, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(one_hot, -jnp.inf, logits), axis=-1)
    margins = jnp.sum(jnp.where(one_hot, logits, 0.0), axis=-1) - others
    ranked = -jnp.sort(-jax.nn.log_softmax(logits), axis=-1)
    return jnp.concatenate([ranked, cross_entropy(logits, batch)[:, None], margins[:, None]], axis=-1)


def fresh_critics(key: Key, critics: int, inputs: int) -> Params:
    """Initial weights of critics with one hidden layer of relus, stacked along a leading axis."""
    noise = jax.random.normal(key, (critics, inputs + 1, WIDTH))
    return {
        "hidden": {"kernel": noise[:, :-1] * math.sqrt(2.0 / inputs), "bias": jnp.zeros((critics, WIDTH))},
        "out": {"kernel": noise[:, -1] / math.sqrt(WIDTH), "bias": jnp.zeros(critics)},
    }


def suspicion(critic: Params, seen: Float[Array, "batch inputs"]) -> Float[Array, " batch"]:
    """One critic's log-odds that each example belongs to the first set."""
    hidden = jax.nn.relu(seen @ critic["hidden"]["kernel"] + critic["hidden"]["bias"][None])
    return hidden @ critic["out"]["kernel"] + critic["out"]["bias"]


def contest(
    critics: Params, suspects: Float[Array, "batch inputs"], innocents: Float[Array, "critics unseen inputs"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The two losses of the game: each critic separates the suspects from its own innocents; the suspects fool all critics.

    With d the log-odds of a critic, the critics' loss is E log(1 + exp(-d(suspects))) + E log(1 + exp(d(innocents))); its
    gradient reaches only the critics. The suspects' loss is E log(1 + exp(d(suspects))), the non-saturating form (arXiv
    1406.2661); its gradient reaches only the suspects. Both are means over the critics. Inputs are standardised by the innocents'
    mean and spread, without gradient.

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
    """Splits the row numbers below `count` at random into parts of equal size; a remainder is left out."""
    order = jnp.argsort(jax.random.bits(key, (count,)))
    return order[: count // parts * parts].reshape(parts, -1)
