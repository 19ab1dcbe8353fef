"""Representer points: the logits of a last layer with weight decay, as a sum over the training examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from unlearn_jax.influence import checks
from unlearn_jax.influence.response import Training, margin_of_logits
from unlearn_jax.training.precision import precise
from unlearn_jax.types import Examples, Model, Variables

HALVINGS = 10  # of a Newton step that is too long


class Representers(NamedTuple):
    """A last layer at its optimum, and what each example contributes to it: `weights = Σ_i features_i coefficients_i'`.

    Attributes:
        weights: of the layer; logits are `features @ weights`.
        coefficients: α_i of each example and class.
    """

    weights: Float[Array, "features classes"]
    coefficients: Float[Array, "points classes"]


@precise
def representers(
    features: Float[Array, "points features"], labels: Array, classes: int, decay: float, steps: int = 20
) -> Representers:
    """The minimum of the mean cross-entropy + λ|W|²/2, where W = Σ_i f_i α_i' with α_i = -∂ℓ_i/∂z_i / (λ n).

    By Newton's method from 0, each step the best of `HALVINGS` halvings of the full one. The sum equals W as far as the gradient
    is 0: the rest is |gradient| / λ.

    Args:
        features: inputs of the layer, with a last feature of 1 in place of a bias.
        labels: of the examples.
        classes: number of outputs.
        decay: λ, above 0.
        steps: of Newton's method.

    Raises:
        ValueError: `decay` is not above 0 or not finite, or the labels are not integers, not one for each example, or no class.
            Traced values are not checked; their shapes are.

    Source: Yeh et al. 2018, arXiv 1811.09720.
    """
    checks.positive("decay", decay)
    count, size = features.shape
    checks.labels("labels", labels, count, classes)

    def objective(flat: Array) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(features @ flat.reshape(size, classes), labels)
        return jnp.mean(losses) + decay / 2 * jnp.sum(flat**2)

    lengths = jnp.concatenate([0.5 ** jnp.arange(HALVINGS, dtype=features.dtype), jnp.zeros(1, features.dtype)])

    def step(flat: Array, _: None) -> tuple[Array, None]:
        direction = jnp.linalg.solve(jax.hessian(objective)(flat), jax.grad(objective)(flat))
        tried = flat[None] - lengths[:, None] * direction[None]
        return tried[jnp.nanargmin(jax.vmap(objective)(tried))], None

    flat, _ = jax.lax.scan(step, jnp.zeros(size * classes, features.dtype), length=steps)
    weights = flat.reshape(size, classes)
    errors = jax.nn.softmax(features @ weights) - jax.nn.one_hot(labels, classes, dtype=features.dtype)
    return Representers(weights, -errors / (decay * count))


@precise
def representer_points(
    run: Training, variables: Variables, targets: Examples, decay: float, steps: int = 20
) -> Float[Array, "points targets"]:
    """-∂f/∂z · α_i (h_i · h_x), h being the inputs of the last layer: minus what an example contributes to the margin f.

    In nats of the refitted head (with two classes minus their sum is its margin), but not an effect of removal: the other α are
    kept, where retraining would change them. Ignores all layers but the last. Deviations: the head is refitted by Newton's method
    from 0 and not fine-tuned (its minimum is unique), and its bias is penalised, too.

    Args:
        run: gives the examples and the model.
        variables: of the trained model; of its head only the shape matters.
        targets: the examples whose margins are f.
        decay: λ of the refitted head, above 0.
        steps: see `representers`.

    Raises:
        ValueError: the model does not declare its features, `decay` is not above 0 or not finite, there are no targets, or the
            labels of the training examples or of the targets are not integers, not one for each, or no class of the model.
            Traced values are not checked; their shapes are.

    Source: Yeh et al. 2018, arXiv 1811.09720.
    """
    checks.positive("decay", decay)
    classes = checks.labelled(run, variables, targets)
    own, wanted = (head_inputs(run.model, variables, examples) for examples in (run.examples, targets))
    weights, coefficients = representers(own, run.examples.labels, classes, decay, steps)
    read = jax.vmap(jax.grad(lambda logits, label: margin_of_logits(logits[None], label[None])[0]))
    slopes = read(wanted @ weights, jnp.asarray(targets.labels))
    return -(coefficients @ slopes.T) * (own @ wanted.T)


def head_inputs(model: Model, variables: Variables, examples: Examples) -> Float[Array, "examples features"]:
    """What the last layer reads of each example, in eval mode, with a last feature of 1.

    Raises:
        ValueError: the model does not declare its features.
    """
    if model.features is None:
        raise ValueError("model: does not declare Model.features, the inputs of its last layer")
    inputs = model.features(variables, jnp.asarray(examples.images))
    return jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)
