"""Unlearning with a guarantee that asks nothing of the loss: noisy fine-tuning on the retain set (arXiv 2506.06985)."""

import math

import jax
import jax.numpy as jnp
import optax

from unlearn_jax.errors import ArgumentError
from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import descend_on_retain, sgd
from unlearn_jax.training.fit import beginning
from unlearn_jax.training.transforms import gaussian_noise
from unlearn_jax.types import Key, Method, Problem, Variables


@register(access="R", reference="arXiv 2506.06985", search={"epsilon": (1.0, 1e5), "learning_rate": (1e-3, 0.3)})
def noisy_finetune(
    *,
    epsilon: Number = 1.0,
    delta: Number = 1e-5,
    radius: Number = 1.0,
    clip: Number = 1.0,
    noisy_rate: Number = 0.01,
    noisy_epochs: int = 1,
    learning_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    epochs: int = 10,
    batch_size: int = 256,
) -> Method:
    """Noisy fine-tuning: clips the weights, trains on the retain set with clipped gradients and noise, then without.

    θ ← θ0 min(1, radius / |θ0|); T steps θ ← θ - noisy_rate clip(∇CE(R)) + N(0, σ²), with gradients of norm at most `clip`; then
    `finetune`. σ is the smallest for which, by `deviation_for`, no test can tell the weights after the noisy steps from those
    that began at any other model within the radius, better than (epsilon, delta) allows: at one that never saw F, for instance.
    What comes after sees R alone and cannot undo that. It holds for any loss and any network, for F fixed before R is seen.
    BatchNorm's running statistics, which saw F, begin afresh. Deviations: σ follows from Gaussian differential privacy, which is
    tighter than the authors' bound; no weight decay in the noisy steps.

    Args:
        epsilon: of the guarantee.
        delta: of the guarantee.
        radius: to which the original's weights are clipped, in Euclidean norm.
        clip: the largest norm of a gradient in a noisy step.
        noisy_rate: learning rate of the noisy steps, of plain SGD.
        noisy_epochs: passes over R with noise.
        learning_rate: of SGD with momentum 0.9 afterwards.
        weight_decay: added to the gradient afterwards.
        epochs: passes over R afterwards.
        batch_size: examples per step.
    """

    if not noisy_epochs:
        raise ArgumentError("noisy_finetune.noisy_epochs", 0, "without noisy steps there is no guarantee; 1 or more")
    for name, value, most in (("epsilon", epsilon, math.inf), ("delta", delta, 1.0), ("radius", radius, math.inf)):
        if isinstance(value, int | float) and not 0 < value < most:
            raise ArgumentError(
                f"noisy_finetune.{name}", value, f"expected a number above 0{' and below 1' if most == 1 else ''}"
            )

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        fresh_key, noise_key, noisy_key, last_key = jax.random.split(key, 4)
        steps = steps_for(problem, "retain", noisy_epochs, batch_size)
        deviation = deviation_for(epsilon, delta, radius, clip * noisy_rate, steps)
        start = optax.tree.scale(jnp.minimum(1.0, radius / optax.tree.norm(variables.params)), variables.params)
        begun = Variables(start, beginning(fresh_key, problem).statistics)
        noisy = optax.chain(optax.clip_by_global_norm(clip), optax.sgd(noisy_rate), gaussian_noise(noise_key, deviation))
        after = descend_on_retain(problem, noisy, noisy_epochs, batch_size)(noisy_key, problem, begun)
        return descend_on_retain(problem, sgd(learning_rate, weight_decay), epochs, batch_size)(last_key, problem, after)

    return method


def deviation_for(epsilon: Number, delta: Number, radius: Number, longest: Number, steps: int) -> Number:
    """The standard deviation of the noise of each step that makes two starting points (epsilon, delta)-indistinguishable.

    Two runs on the same batches begin at most 2 radius apart, and each step moves them apart by 2 `longest` at most.
    Amplification by iteration (shifts; arXiv 1808.06651) gives a Rényi divergence of order α of at most α μ² / 2 with
    μ = 2 (radius + steps longest) / (σ sqrt(steps)): that of two Gaussians, reached by gradients that pull steadily apart. It
    implies (μ²/2 + μ sqrt(2 log(1/δ)), δ), which is solved for σ.

    Args:
        epsilon: of the guarantee.
        delta: of the guarantee.
        radius: of the ball in which both begin, in Euclidean norm.
        longest: the largest step without noise, learning rate times gradient.
        steps: with noise, one or more.
    """
    tail = 2 * jnp.log(1 / jnp.asarray(delta, jnp.float32))
    separation = jnp.sqrt(tail + 2 * epsilon) - jnp.sqrt(tail)
    return 2 * (radius + steps * longest) / (separation * steps**0.5)
