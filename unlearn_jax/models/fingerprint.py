"""A digest of what a model computes: two models with the same digest are the same functions."""

import hashlib

import jax
import numpy as np

from unlearn_jax.types import Model, Variables

BATCH = 16  # examples that a model is traced for


def fingerprint(model: Model, shape: tuple[int, ...]) -> str:
    """SHA-256 over the programs of `init`, of `apply` in training and outside it, and of the gradients, constants included.

    Another version of JAX may lower the same program differently, and then the digest differs.

    Args:
        model: any model.
        shape: of one example.

    Raises:
        ValueError: the model calls back into Python: what it computes cannot be known.
    """
    key = jax.eval_shape(jax.random.key, 0)
    images = jax.ShapeDtypeStruct((BATCH, *shape), np.float32)
    variables = jax.eval_shape(model.init, key, images)
    digest = hashlib.sha256()

    def add(function, *arguments) -> None:
        # As a program for one platform, whatever the devices here; what jaxprs print leaves nested constants out.
        program = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cpu",)).as_text()
        if "callback" in program:
            raise ValueError("model: calls back into Python, and nobody knows what is computed there")
        digest.update(program.encode())

    def train(variables, images, *key):
        return model.apply(variables, images, train=True, **dict(zip(("key",), key, strict=False)))

    def loss(params, statistics, images, *key):
        logits, _ = train(Variables(params, statistics), images, *key)
        return jax.nn.logsumexp(logits, axis=-1).sum()

    random = (key,) if model.random else ()
    add(model.init, key, images)
    add(train, variables, images, *random)
    add(lambda variables, images: model.apply(variables, images, train=False), variables, images)
    add(jax.grad(loss), *variables, images, *random)  # a rule of its own (custom_vjp) is in no other program
    if model.gradient:
        labels, weights = jax.ShapeDtypeStruct((BATCH,), np.int32), jax.ShapeDtypeStruct((BATCH,), np.float32)
        add(model.gradient, variables.params, images, labels, weights)
    return digest.hexdigest()
