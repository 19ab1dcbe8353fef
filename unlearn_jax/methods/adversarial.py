"""Adversarial methods: jointly trained critics judge whether the forget set looks like unseen examples."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from unlearn_jax.methods.pieces import steps_for
from unlearn_jax.methods.registry import Number, register
from unlearn_jax.methods.retraining import sgd
from unlearn_jax.training.critics import characteristics, contest, disjoint_rows, fresh_critics
from unlearn_jax.training.descend import descend
from unlearn_jax.training.objectives import Batch, Objective, cross_entropy, forward_together
from unlearn_jax.types import Key, Method, Params, Problem, Variables


@register(
    access="F+R+test-like",
    reference="this project's, after arXiv 1406.2661",
    identity_at_zero=True,
    search={"fooling": (0.01, 3.0), "learning_rate": (1e-3, 0.1)},
)
def adversarial(
    *,
    fooling: Number = 0.3,
    learning_rate: Number = 0.01,
    critic_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """Adversarial: trains a critic to tell outputs on the forget set from those on held-out data, and the model to fool it.

    The critic, a small network, sees each example's sorted log-probabilities, loss and margin. Each step trains the critic by
    Adam to separate F from held-out examples, and the model by SGD with momentum 0.9 to minimise CE(R) + fooling E_F log(1 + exp
    d), where d is the critic's log-odds of F. All batches go through the network as one. Held-out labels are read: if F has wrong
    labels and the held-out data has none, the target is not what a retrained model would give.

    Args:
        fooling: weight of fooling the critic.
        learning_rate: of the model's SGD.
        critic_rate: of the critic's Adam.
        weight_decay: added to the model's gradient.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """
    chains = sgd(learning_rate, weight_decay), optax.adam(critic_rate)
    return unlike_the_seen(1, fooling, *chains, epochs=epochs, batch_size=batch_size)


@register(
    access="F+R+test-like",
    reference="this project's, after arXiv 1406.2661",
    identity_at_zero=True,
    search={"fooling": (0.01, 3.0), "learning_rate": (1e-3, 0.1)},
)
def gan(
    *,
    fooling: Number = 0.3,
    learning_rate: Number = 0.01,
    critic_rate: Number = 0.01,
    weight_decay: Number = 5e-4,
    epochs: int = 10,
    batch_size: int = 128,
) -> Method:
    """GAN-based: as `adversarial`, with two critics, each on its own half of the held-out data.

    The fooling loss is the mean over both critics, so what is peculiar to one half counts half. (One three-way critic would spend
    its capacity on separating the two halves, which do not differ.)

    Args:
        fooling: weight of fooling the critics.
        learning_rate: of the model's SGD.
        critic_rate: of the critics' Adam.
        weight_decay: added to the model's gradient.
        epochs: passes over R.
        batch_size: examples per step, of each set.
    """
    chains = sgd(learning_rate, weight_decay), optax.adam(critic_rate)
    return unlike_the_seen(2, fooling, *chains, epochs=epochs, batch_size=batch_size)


@register(
    access="F",
    reference="this project's, after arXiv 1406.2661",
    identity_at_zero=True,
    search={"learning_rate": (1e-5, 0.1), "critic_rate": (1e-3, 0.1)},
)
def gan_without_retain(
    *, learning_rate: Number = 1e-3, critic_rate: Number = 0.01, epochs: int = 10, batch_size: int = 256
) -> Method:
    """GAN-based, from the forget set alone: fools a critic that separates its losses from uniform ones on [0, log classes].

    A critic sees single losses and learns to separate those of F from uniform draws; the model learns to fool it. Each step
    trains both, the critic by Adam, the model by SGD with momentum 0.9. This is the game of `gan` with another target; its closed
    form would match sorted losses to uniform quantiles. log classes is the loss of a uniform prediction. Nothing preserves
    utility but a low learning rate and few epochs. BatchNorm is frozen, since batches hold F only.

    Args:
        learning_rate: of the model's SGD.
        critic_rate: of the critic's Adam.
        epochs: passes over F.
        batch_size: examples per step.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        critic_key, descent_key = jax.random.split(key)

        def value(forward, joint: Variables, batches: dict[str, Batch], progress):
            forget = batches["forget"]
            logits, statistics = forward(joint._replace(params=joint.params["model"]), forget.images)
            losses = cross_entropy(logits, forget)
            target_losses = jnp.log(problem.classes) * jax.random.uniform(jax.random.fold_in(forget.key, 1), losses.shape)
            return sum(contest(joint.params["critics"], losses[:, None], target_losses[None, :, None])), statistics

        critics, steps = fresh_critics(critic_key, 1, 1), steps_for(problem, "forget", epochs, batch_size)
        chains = optax.sgd(learning_rate, 0.9), optax.adam(critic_rate)
        play = against(critics, Objective(("forget",), value), *chains, steps, batch_size, statistics="freeze")
        return play(descent_key, problem, variables)

    return method


def unlike_the_seen(
    critics: int,
    fooling: float | Array,
    chain: optax.GradientTransformation,
    critics_chain: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
) -> Method:
    """Makes F look like held-out data to several critics, each with a disjoint part of that data, while training on R.

    Args:
        critics: number of critics.
        fooling: weight of the fooling loss of F.
        chain: the model's optax chain.
        critics_chain: the critics' optax chain.
        epochs: passes over R.
        batch_size: examples per step, of each set and of each critic's part.
    """

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        deal_key, critic_key, descent_key = jax.random.split(key, 3)
        rows = disjoint_rows(deal_key, len(problem.held_out.labels), critics)
        fresh = fresh_critics(critic_key, critics, problem.classes + 2)
        objective, steps = fooled_and_kept(problem, rows, fooling, batch_size), steps_for(problem, "retain", epochs, batch_size)
        return against(fresh, objective, chain, critics_chain, steps, batch_size, "update")(descent_key, problem, variables)

    return method


def fooled_and_kept(problem: Problem, rows: Int[Array, "critics rows"], fooling: float | Array, batch_size: int) -> Objective:
    """CE(R) + fooling x F's loss against the critics + the critics' own loss, over joint parameters `model` and `critics`.

    Args:
        problem: the examples.
        rows: the held-out rows of each critic; each step draws a batch of them.
        fooling: weight of the fooling loss of F.
        batch_size: held-out examples per step and critic, at most.
    """

    def value(forward, joint: Variables, batches: dict[str, Batch], progress):
        retain, forget = batches["retain"], batches["forget"]
        critics, count = rows.shape
        places = jax.random.randint(jax.random.fold_in(forget.key, 1), (critics, min(batch_size, count)), 0, count)
        drawn = jnp.take_along_axis(rows, places, axis=1).reshape(-1)
        unseen = Batch(problem.held_out.images[drawn], problem.held_out.labels[drawn], drawn, forget.key)
        images = [batch.images for batch in (retain, forget, unseen)]
        model = joint._replace(params=joint.params["model"])
        (on_retain, on_forget, on_unseen), statistics = forward_together(forward, model, images)
        unseen_inputs = characteristics(on_unseen, unseen).reshape(critics, places.shape[1], -1)
        critics_loss, fooling_loss = contest(joint.params["critics"], characteristics(on_forget, forget), unseen_inputs)
        return jnp.mean(cross_entropy(on_retain, retain)) + fooling * fooling_loss + critics_loss, statistics

    return Objective(("retain", "forget"), value)


def against(
    critics: Params,
    objective: Objective,
    chain: optax.GradientTransformation,
    critics_chain: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    statistics: str,
) -> Method:
    """Trains a model jointly with its critics, each by its own optax chain, and returns the model.

    Args:
        critics: initial weights.
        objective: over joint parameters `model` and `critics`; it stops gradients where one must not move the other.
        chain: the model's optax chain.
        critics_chain: the critics' optax chain.
        steps: number of steps.
        batch_size: see `descend`.
        statistics: see `descend`.
    """
    both = optax.partition({"model": chain, "critics": critics_chain}, {"model": "model", "critics": "critics"})

    def method(key: Key, problem: Problem, variables: Variables) -> Variables:
        joint = variables._replace(params={"model": variables.params, "critics": critics})
        after = descend(objective, both, steps=steps, batch_size=batch_size, statistics=statistics)(key, problem, joint)
        return after._replace(params=after.params["model"])

    return method
