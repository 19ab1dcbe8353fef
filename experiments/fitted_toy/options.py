"""A toy in the plane that is as hard to learn as an image set: a mixture fitted so that models behave on it as on the images.

Ten overlapping classes, with sub-modes, wrong labels, and a long tail of rare sub-populations, which lie beside the class that
the images of theirs are taken for. The fit is to the test error, the train-test gap, and the distributions of memorisation,
margins, nearest-neighbour purity and confusions, all of the same MLP. The MLP sees a point as 256 pixels (waves across the
plane), whose contrast is fitted too; from two coordinates (`--waves 0`) it memorises nothing.

Then the test that matters: a dozen methods unlearn on the images, on the fitted toy, and on the toy before the fit. Does the toy
predict which methods come near retraining on the images? Their rank correlations have intervals over draws of the data, models
and forget sets; the ceiling is that of the images with other draws of them. An interrupted run resumes. Fashion-MNIST (2,000
examples), 144 mixtures with 32 models each, six draws of four originals and two forget sets for the methods: 12 minutes of
processor time, in all.

    python benchmark.py --exp fitted_toy

The same for CIFAR-10, where TFDS can fetch it: `--exp fitted_toy --dataset cifar10`.
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

from tyro.conf import Suppress

from unlearn_jax.bench.kinds import Count, Names, Real, Whole, fixed, require
from unlearn_jax.bench.option_groups import Retained, SizedForget, Train
from unlearn_jax.bench.options import ATTACKED, QUICK, SETS, Comparison

LONG = Train(epochs=40, batch_size=128)
SPACE = {
    "separation": (0.7, 5.0, "log"),
    "modes": (1.0, 12.0, "linear"),
    "spread": (0.0, 3.0, "linear"),
    "tail": (0.0, 2.5, "linear"),
    "rare": (0.0, 0.5, "linear"),
    "reach": (0.5, 2.5, "log"),
    "label_noise": (0.0, 0.1, "linear"),
    "scale": (0.2, 4.0, "log"),
    "kinship": (0.0, 1.0, "linear"),
    "contrast": (0.5, 6.0, "log"),
}
"""Parameter of the mixture -> its least and largest value, and the scale between them."""
TOLERANCE = {"test_error": 0.02, "gap": 0.02, "memorisation": 0.02, "margins": 1.0, "purity": 0.05, "confusion": 0.03}
"""Characteristic -> the mismatch that counts as one unit: margins are in nats, all others are shares."""


METHODS = (
    "finetune",
    "cf_k",
    "gradient_ascent",
    "projected_ascent",
    "neggrad_plus",
    "ssd",
    "bad_teacher",
    "scrub",
    "random_label",
    "l1_sparse",
    "distance_regularisation",
    "delete",
)
"""A dozen cheap ones of different families."""
REFERENCES = ("original", "retrain")  # always measured
TUNED_ON = "digits"
"""The data set whose tuned hyperparameters the methods have, on images and toys alike."""
FEWEST_DRAWS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
    """The models that methods unlearn, on the images and on each toy."""

    draws: Annotated[int, Whole(least=FEWEST_DRAWS)] = 6
    """Draws of the images (twice as many, for the ceiling) and of each toy: other examples, models and forget sets."""
    members: Annotated[int, Whole(least=ATTACKED)] = 4
    """Original models of each draw: at least 3; twice as many oracles are trained for each forget set."""


RANDOM, JUDGED = SizedForget(), Retained(retain_size=500)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `fitted_toy`."""

    exp: str = "fitted_toy"
    """The experiment. `--list` shows all."""
    dataset: str = "fashion_mnist"
    """The data set that the toy is fitted to. `--list` shows all."""
    train_size: Annotated[int, Whole(least=2)] = 2000
    """Training examples of images and toy."""
    label_noise: Annotated[float, Real(least=0, below=1)] = 0.0
    """Share of the images' labels that are made wrong; the toy has its own, which is fitted."""
    model: Suppress[str] = fixed("mlp")  # the pixels of a point have no spatial order, so networks for images do not fit
    normalisation: Suppress[Literal["batch", "group"]] = fixed("batch")
    convolution: Suppress[Literal["auto", "products", "patches", "grouped", "xla"]] = fixed("auto")
    width: Count = 64
    """Hidden units of each layer."""
    train: Train = LONG
    members: Annotated[int, Whole(least=8)] = 32
    """Models on random halves, for the images and for every mixture (a multiple of 4)."""
    waves: Annotated[int, Whole(least=0)] = 256
    """Pixels in which the MLP sees a point of the plane; 0: its two coordinates."""
    rounds: Count = 8
    """Rounds of the search: the first covers the space, each later one is drawn around the best of the round before."""
    candidates: Annotated[int, Whole(least=2)] = 18
    """Mixtures in a round."""
    elite: Annotated[int, Whole(least=2)] = 5
    """How many of the best mixtures the next round is drawn around."""
    test_size: Annotated[int, Whole(least=20)] = 2000
    """Test points, and test images at most."""
    seeds: Annotated[int, Whole(least=2)] = 3
    """Draws of images, toys and pools for the comparison, for standard deviations."""
    methods: Names = METHODS
    """Names, separated by commas, of methods that make one network: two or more. `--list` shows all. Their hyperparameters are
    those tuned on digits, on images and toys alike."""
    forget: SizedForget = RANDOM
    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 2
    """Forget sets of each draw."""
    evaluation: Retained = JUDGED
    unlearned: Draws = Draws()

    extendable: ClassVar[frozenset[str]] = frozenset({"rounds"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS as REGISTERED  # brings JAX with it, which --help must not
        from unlearn_jax.models import find

        super().check()
        require(find(self.model).points, "--model", self.model, "expected one that also learns points of the plane, as mlp")
        require(self.members % 4 == 0, "--members", self.members, "expected a multiple of 4, at least 8")
        enough = self.candidates >= self.elite
        require(enough, "--candidates", self.candidates, f"expected at least as many as --elite, {self.elite}")
        names = self.method_names()
        require(len(names) > 1, "--methods", ",".join(self.methods), "expected two or more besides original and retrain")
        for name in names:
            require(not REGISTERED[name].ensemble, "--methods", name, "makes several networks of one")

    def method_names(self) -> list[str]:
        """The names of the methods, without the two references."""
        return [name for name in super().method_names() if name not in REFERENCES]

    def drawn(self, seed: int) -> "Config":
        """The options of one draw for the methods."""
        return dataclasses.replace(self, seed=seed, members=self.unlearned.members)


def smoke(config: Config) -> Config:
    """The whole path in seconds, on digits."""
    return dataclasses.replace(
        config,
        smoke=True,
        dataset="digits",
        train_size=200,
        width=32,
        waves=32,
        label_noise=0.1,
        train=Train(epochs=20, batch_size=40),
        members=8,
        rounds=2,
        candidates=4,
        elite=2,
        test_size=200,
        seeds=2,
        methods=("finetune", "gradient_ascent", "scrub"),
        hyper=QUICK,
        forget_sets=1,
        evaluation=Retained(retain_size=60),
        unlearned=Draws(draws=3, members=3),
    )
