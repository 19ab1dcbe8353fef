"""Which characteristics beyond the loss show membership? Attacks by many features on originals, oracles and unlearned models.

The defaults take digits, 24 models each and 48 oracles; the attacks take most of the time.

    python benchmark.py --exp attack_features
    python benchmark.py --exp attack_features --comparison clean --attackers logistic    # what label noise alone gives away
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from unlearn_jax.bench.kinds import Count, Names, Whole, require
from unlearn_jax.bench.options import Comparison, Evaluation, Train


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
    """Models that an attacker learns from, and is then tested on with other examples. More make it stronger, and leave fewer
    groups to compare: a group is what intervals and nulls count."""
    comparison: Literal["matched", "clean", "right"] = "matched"
    """Who stands for non-members: test examples, with as large a share of wrong labels as the forget set has (matched) or with
    none (clean: any wrong label is then a member's, whatever the model says); right: with none, and the rightly labelled of the
    forget set alone."""
    features: Names = ("all",)
    """Names separated by commas, or all; the loss is always among them. An unknown one is answered with those that there are."""
    attackers: Names = ("logistic", "svc", "trees")
    """logistic, svc, trees, neighbours: names separated by commas, or all."""
    folds: Annotated[int, Whole(least=2)] = 5
    """Of the cross-validation: an attacker never saw the examples that it is asked about, in any model."""
    workers: Count | None = None
    """Processes that the attacks run in; None: one for each core."""

    immaterial: ClassVar[frozenset[str]] = Comparison.immaterial | {"workers"}
    extendable: ClassVar[frozenset[str]] = frozenset({"methods", "forget_sets"})

    def check(self) -> None:
        """Raises UsageError on the first invalid value, or on values that contradict each other."""
        super().check()
        pairs = self.together <= self.members // 2
        require(pairs, "--together", self.together, f"expected at most {self.members // 2}, half of --members")
        self.feature_names()
        self.attacker_names()

    def feature_names(self) -> list[str]:
        """The features that `features` asks for, the loss first, each once."""
        names = FEATURES if self.features == ("all",) else ("loss", *self.features)
        for name in names:
            require(name in FEATURES, "--features", name, f"there is {', '.join(FEATURES)}; or all")
        return list(dict.fromkeys(names))

    def attacker_names(self) -> list[str]:
        """The attackers that `attackers` asks for, each once."""
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
"""Everything that is read off a model, see `experiments.attack_features.study.features_of`."""


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
