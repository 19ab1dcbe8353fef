"""Edits by the curvature of the loss: no direction of descent, one change of the weights."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from unlearn_jax.methods.pieces import edit
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.training.gradients import squared_gradients
from unlearn_jax.training.sampling import subset
from unlearn_jax.types import Key, Method, Problem, Variables


@register(access="R", reference="arXiv 1911.04933")
def fisher(*, alpha: Number = 1e-7, samples: int = 1000) -> Method:
    """Fisher forgetting: noise on every weight, large where the retain set does not mind.

    F_i = E over x in R and y ~ p(y|x) of g_i², exactly over y; θ_i += sqrt(alpha min(1 / (F_i + 1e-8), 1e3)) ξ_i, ξ standard
    normal. The authors use all of R and larger noise on the head of a forgotten class; here there is one rule for all
    weights.

    Args:
        alpha: the noise's strength, 1e-9 to 1e-6.
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


@register(access="F+R", reference="arXiv 2308.07707")
def ssd(*, selection: Number = 10.0, dampening: Number = 1.0) -> Method:
    """Selective synaptic dampening: shrinks the weights that matter much more to the forget set than to the whole.

    I = mean over examples of g² at the labels. Where I_F > selection I_D: θ *= min(1, dampening I_D / I_F). Needs no training;
    I_D may be computed once and kept in place of the data.

    Args:
        selection: the authors' alpha.
        dampening: the authors' lambda.
    """

    def change(key: Key, problem: Problem, variables: Variables) -> Variables:
        sets = jnp.stack([problem.kept, problem.forget])
        importances = squared_gradients(problem, variables, problem.rows("kept"), parts=sets)

        def dampen(weight, importance):
            i_d, i_f = importance
            factor = jnp.minimum(1.0, dampening * i_d / jnp.where(i_f > 0, i_f, 1.0))
            return jnp.where(i_f > selection * i_d, weight * factor, weight)

        return variables._replace(params=jax.tree.map(dampen, variables.params, importances))

    return edit(change)
