"""What can be asked of an experiment: typed defaults that document themselves. Nothing here imports JAX."""

from configs import (
    attack_features,
    calibration,
    capacity,
    capacity_boundary,
    entropy,
    estimators,
    fitted_toy,
    gaming,
    hypernetwork,
    influence,
    memorisation,
    sensitivity,
    streaming,
    tuning,
    ulira,
    unlearn_one,
    unlearning,
    variance,
)

EXPERIMENTS = {
    "unlearning": (unlearning, "every unlearning method against the distribution of retrained models"),
    "ulira": (ulira, "whether an attack can tell, example by example, what was unlearned from what was never seen"),
    "attack_features": (attack_features, "which characteristics beyond the loss show that an example was trained on"),
    "tuning": (tuning, "hyperparameters for a data set, at an equal budget, on oracles that the evaluation does not use"),
    "sensitivity": (
        sensitivity,
        "how much each method depends on its hyperparameters: forgetting against utility",
    ),
    "gaming": (gaming, "what each metric can be made to say by answers that are plainly wrong"),
    "hypernetwork": (hypernetwork, "unlearning in one forward pass of a network that learned it from other forget sets"),
    "streaming": (streaming, "requests one after another without the retain set: how utility and forgetting drift"),
    "influence": (influence, "what each training point did to the boundary: exact leave-one-out on a toy"),
    "memorisation": (memorisation, "which examples are memorised, and which test answers hang on which of them"),
    "fitted_toy": (fitted_toy, "a toy in the plane on which models do as they do on images: its mixture is fitted"),
    "estimators": (estimators, "every estimator of influence against exact leave-one-out: agreement, cost, screening"),
    "unlearn_one": (unlearn_one, "every method forgets each point of a toy: held against exact leave-one-out"),
    "capacity_boundary": (
        capacity_boundary,
        "what capacity does to the boundary and to each point's exact influence: width, depth, steps, ...",
    ),
    "entropy": (entropy, "when it is useful to minimise, or to raise, the entropy and the loss on the forget set"),
    "variance": (
        variance,
        "variance over seeds: in the loss (bias and variance), on lines between models, in the sharpness of minima",
    ),
    "capacity": (
        capacity,
        "unlearning as overfitting: the gap, memorisation, an attack and the cost of unlearning against depth, width, ...",
    ),
    "calibration": (calibration, "how often a perfect method is called outside: the verdict's false-positive rate"),
}
"""Experiment -> (the module with its `Config` and `smoke`, one line on what it finds out)."""
