"""Methods based on the sensitivity of loss or outputs, to the weights or to the image."""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from unlearn_jax.methods.pieces import edit, steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.training.descend import descend
from unlearn_jax.training.gradients import output_sensitivities, squared_gradients
from unlearn_jax.training.objectives import local_lipschitz
from unlearn_jax.training.sampling import subset
from unlearn_jax.types import Key, Method, Params, Problem, Variables


@register(access="R", reference="arXiv 1911.04933", search={"alpha": (1e-10, 1e-4)})
def fisher(*, alpha: Number = 1e-7, samples: int = 1000) -> Method:
    """Fisher forgetting: adds noise to every weight, more where the retain set's Fisher information is small.

    F_i = E over x in R and y ~ p(y|x) of g_i², exactly over y; θ_i += sqrt(alpha min(1 / (F_i + 1e-8), 1e3)) ξ_i, ξ standard
    normal. Deviations: F_i is estimated from `samples` examples of R, the authors' from all; all weights follow one rule, where
    in theirs the inputs of a unit share their variance, head and BatchNorm get more, and the head's weights of a forgotten class
    are replaced.

    Args:
        alpha: strength of the noise, 1e-9 to 1e-6.
        samples: examples of R that F is estimated from, at most |R|.
    """

    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        subset_key, noise_key = jax.random.split(key)
        count = min(samples, problem.retain_count)
        rows = subset(subset_key, problem.retain, count), count
        information = squared_gradients(problem, variables, rows, labels="expected")
        weights, structured = ravel_pytree(variables.params)
        variance = alpha * jnp.minimum(1.0 / (ravel_pytree(information)[0] + 1e-8), 1e3)
        noise = jax.random.normal(noise_key, weights.shape)  # for all weights at once: see `models.draw_kernels`
        return variables._replace(params=structured(weights + jnp.sqrt(variance) * noise))

    return edit(change)


# D contains F, so I_F <= |D| / |F| I_D: for a tenth of the data, 10 (the authors' value) selects nothing.
@register(access="F+R", reference="arXiv 2308.07707", search={"selection": (1.05, 10.0), "dampening": (0.1, 2.0, "linear")})
def ssd(*, selection: Number = 10.0, dampening: Number = 1.0) -> Method:
    """Selective synaptic dampening: shrinks the weights that matter much more to the forget set than to all data.

    I = mean over examples of g² at the labels. Where I_F > selection I_D: θ *= min(1, dampening I_D / I_F). Needs no training;
    I_D may be computed once and kept in place of the data. Deviation: g is the gradient of a single example; the authors' code
    squares batch means.

    Args:
        selection: the authors' alpha.
        dampening: the authors' lambda.
    """

    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        sets = jnp.stack([problem.kept, problem.forget])
        importances = squared_gradients(problem, variables, problem.rows("kept"), parts=sets)
        return variables._replace(params=dampened(variables.params, importances, selection, dampening))

    return edit(change)


@register(
    access="F+R",
    reference="Loss-free SSD, arXiv 2402.19308",
    search={"selection": (1.05, 10.0), "dampening": (0.1, 2.0, "linear")},
)
def lfssd(*, selection: Number = 10.0, dampening: Number = 1.0) -> Method:
    """Loss-free SSD: as `ssd`, with importances from the outputs instead of the loss, and so without labels.

    As `ssd`, with I = mean over examples of |∇ ‖f(x)‖²|, f the logits. Deviation: the absolute value is taken per example, as in
    memory aware synapses (arXiv 1711.09601), the source of this importance; the authors' code takes it of a batch's mean.

    Args:
        selection: the authors' alpha; 3.5 to 10 for random examples.
        dampening: the authors' lambda.
    """

    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        sets = jnp.stack([problem.kept, problem.forget])
        importances = output_sensitivities(problem, variables, problem.rows("kept"), parts=sets)
        return variables._replace(params=dampened(variables.params, importances, selection, dampening))

    return edit(change)


def dampened(params: Params, importances: Params, selection: Number, dampening: Number) -> Params:
    """The params, with weights that matter more than `selection` times as much to F as to D multiplied by min(1, dampening I_D /
    I_F).

    Args:
        params: the weights.
        importances: like the params, with a leading axis of two: for D, for F.
        selection: threshold on I_F / I_D.
        dampening: factor in the minimum.
    """

    def dampen(weight, importance):
        i_d, i_f = importance
        factor = jnp.minimum(1.0, dampening * i_d / jnp.where(i_f > 0, i_f, 1.0))
        return jnp.where(i_f > selection * i_d, weight * factor, weight)

    return jax.tree.map(dampen, params, importances)


@register(
    access="F",
    reference="JiT, arXiv 2402.01401",
    identity_at_zero=True,
    search={"learning_rate": (1e-3, 10.0), "noise": (0.01, 1.0)},
)
def jit(
    *, noise: Number = 0.5, learning_rate: Number = 0.04, samples: int = 25, epochs: int = 1, batch_size: int = 128
) -> Method:
    """JiT: minimises how much the outputs change under noise around each forget example.

    Minimises the mean over F and ξ ~ N(0, noise²) of ‖f(x) - f(x + ξ)‖ / ‖ξ‖, f the logits, by SGD; BatchNorm is frozen.
    Deviations: gradients flow through both terms of the difference (the authors' code stops them at f(x + ξ)), and noisy images
    are not clipped to the range of the batch.

    Args:
        noise: standard deviation, in the standardised units of the images; the authors take 0.01 to 0.8.
        learning_rate: of plain SGD; the authors' 3e-4 is for a sum over a batch of 128, this one for a mean.
        samples: noisy copies of each example.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        return descend(
            local_lipschitz("forget", noise, samples),
            optax.sgd(learning_rate),
            steps=steps_for(problem, "forget", epochs, batch_size),
            batch_size=batch_size,
            statistics="freeze",
        )(key, problem, variables)

    return method
