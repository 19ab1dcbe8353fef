"""Which features beyond the loss reveal membership? Attacks by many features on originals, oracles and unlearned models.

The defaults are digits, 24 models of each kind and 48 oracles; the attacks take most of the time.

    python benchmark.py --exp attack_features
    python benchmark.py --exp attack_features --comparison clean --attackers logistic    # what label noise alone reveals
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from unlearn_jax.bench.kinds import Count, Names, Whole, require
from unlearn_jax.bench.option_groups import Evaluation, Train
from unlearn_jax.bench.options import Comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `attack_features`."""

    exp: str = "attack_features"
    """The experiment. `--list` shows all."""
    methods: Names = ("original", "retrain", "finetune", "neggrad_plus", "salun", "scrub", "bad_teacher", "l1_sparse")
    """Names separated by commas; main (the sixteen of the main job) or all. `--list` shows them."""
    members: Annotated[int, Whole(least=2)] = 24
    """Original models, each unlearned by each method; twice as many oracles are trained, for the null."""
    together: Count = 3
    """Models in a group, on which an attacker is trained, and tested with other examples. More make it stronger but leave fewer
    groups, which are the units of intervals and nulls."""
    comparison: Literal["matched", "clean", "right"] = "matched"
    """The non-members. matched: test examples with the forget set's share of wrong labels; clean: with correct labels, so that a
    wrong label alone reveals a member; right: with correct labels, against the correctly labelled forget set."""
    features: Names = ("all",)
    """Names separated by commas, or all; the loss is always included. An unknown name prints the list."""
    attackers: Names = ("logistic", "svc", "trees")
    """logistic, svc, trees, neighbours: names separated by commas, or all."""
    folds: Annotated[int, Whole(least=2)] = 5
    """Folds of the cross-validation. An attacker is tested on examples that it saw in no model."""
    workers: Count | None = None
    """Processes for the attacks; None: one for each core."""

    immaterial: ClassVar[frozenset[str]] = Comparison.immaterial | {"workers"}
    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "forget_sets"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        super().check()
        pairs = self.together <= self.members // 2
        require(pairs, "--together", self.together, f"expected at most {self.members // 2}, half of --members")
        self.feature_names()
        self.attacker_names()

    def feature_names(self) -> list[str]:
        """The features, the loss first, without repetition."""
        names = FEATURES if self.features == ("all",) else ("loss", *self.features)
        for name in names:
            require(name in FEATURES, "--features", name, f"there is {', '.join(FEATURES)}; or all")
        return list(dict.fromkeys(names))

    def attacker_names(self) -> list[str]:
        """The attackers, without repetition."""
        from unlearn_jax.metrics import ATTACKERS  # brings JAX with it, which --help must not

        names = ATTACKERS if self.attackers == ("all",) else self.attackers
        for name in names or [""]:
            require(name in ATTACKERS, "--attackers", name, f"there is {', '.join(ATTACKERS)}; or all")
        return list(dict.fromkeys(names))


FEATURES = (
    "loss",
    "confidence",
    "margin",
    "correctness",
    "entropy",
    "modified_entropy",
    "top_gaps",
    "sorted_probabilities",
    "augmented_loss",
    "gradient_norm",
    "block_gradient_norms",
    "retain_neighbours",
    "held_out_neighbours",
    "feature_neighbours",
    "feature_gaussian",
)
"""All features of a model, see `AttackedSet.read_features` of the study."""


def smoke(config: Config) -> Config:
    """The whole path in under a minute: tiny data, a small net, two models each, every feature and every attacker."""
    return dataclasses.replace(
        config,
        smoke=True,
        train_size=300,
        model="mlp",
        width=16,
        members=2,
        together=1,
        methods=("original", "finetune"),
        attackers=("all",),
        hyper=("*.epochs=1",),
        folds=2,
        workers=1,
        train=Train(epochs=2, batch_size=64),
        evaluation=Evaluation(splits=20, retain_size=200),
    )
