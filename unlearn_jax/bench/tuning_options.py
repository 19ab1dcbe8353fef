"""The hyperparameters of every method on one data set, found by a search of equal budget.

    python benchmark.py --exp tuning --dataset digits --out runs/tuning-digits
    cp runs/tuning-digits/tuned.json unlearn_jax/bench/tuned/digits.json

Originals, oracles and forget set are its own (their keys come from another seed), and utility is measured on held-out
training data: nothing that the evaluation uses is seen. Minutes on two cores for digits.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Whole, fixed, require
from unlearn_jax.bench.options import Forget, Judged, Methods, Requests, Train

LOG, LINEAR = "log", "linear"

SPACE: dict[str, dict[str, tuple[float, float, str]]] = {
    "finetune": {"learning_rate": (1e-3, 0.3, LOG)},
    "cf_k": {"learning_rate": (1e-3, 1.0, LOG)},
    "eu_k": {"learning_rate": (1e-3, 1.0, LOG)},
    "gradient_ascent": {"learning_rate": (1e-5, 1e-1, LOG)},
    "neggrad_plus": {"learning_rate": (1e-3, 0.3, LOG), "alpha": (0.8, 0.999, LINEAR)},
    "projected_ascent": {"learning_rate": (1e-5, 1e-1, LOG)},
    "adv_neggrad": {"learning_rate": (1e-4, 0.1, LOG)},
    "sfron": {"learning_rate": (1e-3, 0.1, LOG), "strength": (0.1, 50.0, LOG)},
    "mu_mis": {"learning_rate": (1e-6, 1e-1, LOG)},
    "neg_merge": {"learning_rate": (1e-3, 0.1, LOG), "scale": (0.1, 5.0, LOG)},
    "entropy": {"learning_rate": (1e-5, 1e-1, LOG), "entropy_weight": (0.1, 4.0, LOG)},
    "entropy_with_retain": {"forget_weight": (1e-3, 1.0, LOG), "entropy_weight": (1e-3, 1.0, LOG)},
    "variance_matching": {"mean_weight": (1e-3, 1.0, LOG), "spread_weight": (1e-3, 1.0, LOG)},
    "adversarial": {"fooling": (0.01, 3.0, LOG), "learning_rate": (1e-3, 0.1, LOG)},
    "gan": {"fooling": (0.01, 3.0, LOG), "learning_rate": (1e-3, 0.1, LOG)},
    "gan_without_retain": {"learning_rate": (1e-5, 0.1, LOG), "critic_rate": (1e-3, 0.1, LOG)},
    "random_label": {"learning_rate": (1e-5, 1e-2, LOG)},
    "successive_random_labels": {"learning_rate": (1e-5, 1e-2, LOG)},
    "salun": {"learning_rate": (1e-4, 0.1, LOG), "share": (0.1, 0.9, LINEAR)},
    "boundary_shrink": {"learning_rate": (1e-5, 1e-1, LOG), "size": (0.01, 0.4, LOG)},
    "boundary_expanding": {"learning_rate": (1e-5, 1e-1, LOG)},
    "amun": {"learning_rate": (1e-4, 0.1, LOG)},
    "amun_forget": {"learning_rate": (1e-5, 0.1, LOG)},
    "unsir": {"impair_rate": (1e-4, 0.05, LOG), "repair_rate": (1e-4, 0.05, LOG)},
    "l2ul": {"learning_rate": (1e-4, 0.1, LOG), "anchor": (0.1, 100.0, LOG)},
    "bad_teacher": {"learning_rate": (1e-5, 1e-2, LOG), "temperature": (0.5, 4.0, LOG)},
    "scrub": {
        "learning_rate": (1e-5, 1e-2, LOG),
        "alpha": (0.01, 2.0, LOG),
        "gamma": (0.1, 4.0, LOG),
        "weight_decay": (1e-5, 0.5, LOG),
    },
    "scrub_r": {
        "learning_rate": (1e-5, 1e-2, LOG),
        "alpha": (0.01, 2.0, LOG),
        "gamma": (0.1, 4.0, LOG),
        "weight_decay": (1e-5, 0.5, LOG),
    },
    "delete": {"learning_rate": (1e-5, 1e-1, LOG)},
    "gated_knowledge_transfer": {"learning_rate": (1e-4, 1e-2, LOG)},
    "l1_sparse": {"learning_rate": (1e-3, 0.3, LOG), "penalty": (1e-6, 1e-2, LOG)},
    "l1_sparse_proximal": {"learning_rate": (1e-3, 0.3, LOG), "penalty": (1e-6, 1e-2, LOG)},
    "fisher": {"alpha": (1e-10, 1e-4, LOG)},
    "ssd": {"selection": (1.05, 10.0, LOG), "dampening": (0.1, 2.0, LINEAR)},
    "lfssd": {"selection": (1.05, 10.0, LOG), "dampening": (0.1, 2.0, LINEAR)},
    "jit": {"learning_rate": (1e-3, 10.0, LOG), "noise": (0.01, 1.0, LOG)},
    "woodfisher": {"alpha": (0.02, 5.0, LOG), "damping": (1e-3, 1.0, LOG)},
    "newton": {"weight_decay": (1e-5, 1e-2, LOG)},
    "ntk": {"scale": (0.03, 3.0, LOG), "weight_decay": (1e-5, 0.1, LOG)},
    "fcs": {"learning_rate": (1e-3, 0.3, LOG), "forget_learning_rate": (1e-5, 1e-2, LOG)},
    "msg": {"learning_rate": (1e-3, 0.3, LOG), "share": (0.1, 0.9, LINEAR)},
    "cfw": {"learning_rate": (7e-4, 0.3, LOG), "noise": (0.01, 1.0, LOG)},
    "prmq": {"learning_rate": (5e-4, 0.3, LOG), "share": (0.3, 0.99, LINEAR)},
    "ct": {"learning_rate": (1e-3, 0.3, LOG)},
    "kde": {"learning_rate": (1e-3, 0.3, LOG), "distillation_learning_rate": (9e-4, 0.3, LOG)},
    "rni": {"learning_rate": (2e-4, 0.3, LOG), "last_learning_rate": (2e-4, 0.3, LOG)},
}
"""Method -> hyperparameter -> (lowest, highest, scale): around the authors' values, which are the first trial of each method.

SSD's selection: I_D is a mean over D, which F is part of, so that I_F is at most |D| / |F| times I_D. For a tenth of the data
nothing is ever selected beyond 10, the authors' value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(Forget):
    """Which training examples are to be forgotten: the next of the kind after the evaluation's."""

    file: Suppress[Path | None] = fixed(None)

    def check(self) -> None:
        """Raises UsageError for a kind of which there is one set, and as for other forget sets."""
        another = self.kind not in ("mislabelled", "file")
        require(another, "--forget.kind", self.kind, "settings are judged on another set of the kind: there is none")
        super().check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Methods, Requests):
    """What every setting of every method may spend."""

    members: Annotated[int, Whole(least=2)] = 4
    """Original models that each setting unlearns; as many oracles judge it."""
    epochs: Count = 5
    """Passes of every method that makes passes, instead of the authors': the same for all."""
    batch_size: Count = 64
    """Examples per step of every method that takes steps."""
    forget: Drawn = Drawn()
    evaluation: Judged = Judged()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Budget):
    """The options of the experiment `tuning`."""

    exp: str = "tuning"
    """The experiment. `--list` shows all."""
    trials: Annotated[int, Whole(least=2)] = 12
    """Settings of each method, the authors' own among them."""
    rounds: Count = 2
    """Trials are drawn from the whole space in the first round, around the best so far in the others."""

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        require(self.rounds <= self.trials, "--rounds", self.rounds, "expected at most the number of trials")


def smoke(config: Config) -> Config:
    """The whole path in seconds."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        members=2,
        trials=4,
        epochs=1,
        methods=("finetune", "fisher"),
        train=Train(epochs=2, batch_size=64),
    )
