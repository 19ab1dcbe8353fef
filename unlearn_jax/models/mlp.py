"""Fully connected networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unlearn_jax.models.linen import as_model
from unlearn_jax.models.registry import model
from unlearn_jax.types import Model, Params

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu}
FEW = 4  # largest number of terms for which a matrix product is not worth it


@model("mlp", "MLP with two hidden relu layers of --width units", points=True)
def mlp(*, classes: int, width: int = 16, layers: int = 2, activation: str = "relu") -> Model:
    """An `MLP` as pure functions.

    Args:
        classes: outputs.
        width: units in each hidden layer.
        layers: hidden layers.
        activation: a key of `ACTIVATIONS`.
    """
    return as_model(MLP(classes, width, layers, activation), block_names(layers), gradient if activation == "relu" else None)


class MLP(nn.Module):
    """Layers of one width and a linear head, on flattened inputs.

    Attributes:
        classes: outputs.
        width: units in each hidden layer.
        depth: hidden layers.
        activation: a key of `ACTIVATIONS`.
    """

    classes: int
    width: int = 64
    depth: int = 2
    activation: str = "relu"

    @nn.compact
    def __call__(self, images: Float[Array, "batch *image"], train: bool) -> Float[Array, "batch classes"]:
        """Logits of a batch; `train` changes nothing here."""
        x = images.reshape(images.shape[0], -1)
        for layer in range(self.depth):
            x = ACTIVATIONS[self.activation](nn.Dense(self.width, name=f"hidden{layer + 1}")(x))
        self.sow("intermediates", "features", x)
        return nn.Dense(self.classes, name="head")(x)


def block_names(depth: int) -> tuple[tuple[str, ...], ...]:
    """Parameter groups of an `MLP` from input to output."""
    return (*((f"hidden{layer + 1}",) for layer in range(depth)), ("head",))


def gradient(
    params: Params, images: Float[Array, "batch *image"], labels: Int[Array, " batch"], weights: Float[Array, " batch"]
) -> Params:
    """The gradient of a relu `MLP`'s weighted sum of cross-entropies Σ w ℓ, of any depth, written by hand.

    Samples are on the last axis throughout, so that every product reads and writes long rows: on a CPU that matters more than the
    order of the operations (docs/findings/influence-speed.md).
    """
    names = [*(f"hidden{layer + 1}" for layer in range(len(params) - 1)), "head"]
    inputs = [images.reshape(images.shape[0], -1).T]
    for name in names:
        inputs.append(_product(params[name]["kernel"].T, inputs[-1]) + params[name]["bias"][:, None])
        if name != "head":
            inputs[-1] = nn.relu(inputs[-1])
    logits = inputs.pop()
    target = jnp.arange(logits.shape[0])[:, None] == labels[None]
    error = (jax.nn.softmax(logits, axis=0) - target) * weights[None]
    gradients: Params = {}
    for name, x in zip(reversed(names), reversed(inputs), strict=True):
        if x.shape[0] <= FEW:  # one product for both: the sum over samples alone takes longer
            both = error @ jnp.concatenate([x, jnp.ones_like(x[:1])]).T
            gradients[name] = {"kernel": both[:, :-1].T, "bias": both[:, -1]}
        else:
            gradients[name] = {"kernel": x @ error.T, "bias": jnp.sum(error, axis=1)}
        if name != names[0]:
            error = jnp.where(x > 0, _product(params[name]["kernel"], error), 0.0)
    return gradients


def _product(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """`a @ b`; for few terms a sum of outer products, which the compiler merges with what follows.

    The barrier keeps the compiler from multiplying by a transposed kernel in place, which takes twice as long as to
    transpose it first.
    """
    if a.shape[1] > FEW:
        return jax.lax.optimization_barrier(a) @ b
    return sum((a[:, k, None] * b[None, k] for k in range(a.shape[1])), start=jnp.zeros([1, 1]))
