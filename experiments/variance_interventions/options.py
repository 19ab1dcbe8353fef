"""Does the variance of the model impact losses on train and test, barriers between seeds, and what unlearning leaves?

The variance over seeds is changed in several ways: by the batch size, by the learning rate at the end, by averaging the weights
of the last epochs, by ensembles, and by giving all models of a draw the same initial weights. Each is a level, trained for the
number of epochs, found beforehand on other seeds, at which its mean training loss is nearest to the base's. Controls: a placebo
(the base with other seeds), and the base trained too briefly and too long (another loss, the same recipe). Everything is drawn
anew several times: the training subset, its wrong labels, the forget sets and the seeds; intervals are over these draws, and
differences from the base are paired. An interrupted run resumes.

    python benchmark.py --exp variance_interventions

Fewer levels with a ResNet-8, an hour or two on two cores:

    python benchmark.py --exp variance_interventions --model resnet8 --width 8 --train.epochs 15 --batches 16 --averages "" \\
        --ensembles 2 --draws 3 --members 4
"""

import dataclasses
from typing import Annotated, ClassVar, NamedTuple

from unlearn_jax.bench.kinds import MOST, Count, Name, Names, Real, Several, Whole, require
from unlearn_jax.bench.option_groups import RETAINED, SAME_SIZE, Retained, SizedForget, Train
from unlearn_jax.bench.options import ATTACKED, QUICK, SETS, Comparison, small

REFERENCES = ("original", "retrain")  # originals are always measured, and retrained models are the oracles
FEWEST_DRAWS = 3
BASE, PLACEBO = "base", "placebo"
MADE_BY = {"batch": "batches", "average": "averages", "ensemble": "ensembles", "one-start": "others", "constant-rate": "others"}
"""First word of a level's name -> the option that makes it; the names of the controls begin with their epochs."""
NETWORKS = 1000
"""The most networks of an ensemble."""
OTHERS = ("one-start", "constant-rate")  # levels without a dose
TRAIN = Train(epochs=30)
Doses = Annotated[tuple[int, ...], Several(Whole(least=1))]
Shares = Annotated[tuple[float, ...], Several(Real(above=0, most=1))]


class Level(NamedTuple):
    """One way to train.

    Attributes:
        name: as in tables.
        train: the recipe; its epochs are those of the base, unless it is a control of the loss.
        matched: whether its epochs are searched.
        networks: whose averaged prediction makes one model.
        average: the share of the epochs, the last ones, whose weights are averaged; 0: none.
        one_start: whether all models of a draw begin with the same weights.
        later: whether its models are the second half of the base's pool.
    """

    name: str
    train: Train
    matched: bool = True
    networks: int = 1
    average: float = 0.0
    one_start: bool = False
    later: bool = False

    @property
    def comparable(self) -> bool:
        """Whether its mean training loss should be the base's."""
        return self.matched or self.one_start or self.name in (BASE, PLACEBO)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison):
    """The options of the experiment `variance_interventions`."""

    exp: str = "variance_interventions"
    """The experiment. `--list` shows all."""
    train_size: Annotated[int, Whole(least=2)] | None = 500
    """Training examples to keep, drawn at random for each draw; None: all."""
    model: str = "mlp"
    """resnet8, resnet14, resnet20, ... (6n+2), resnet18, vit or mlp; or FILE.py:FUNCTION, see docs/bring-your-model.md."""
    width: Count = 64
    """Hidden units of the MLP, channels of a ResNet's first stage, features of a ViT's token."""
    train: Train = TRAIN
    """Of the base. Its training loss is the one that all levels are to have."""
    members: Annotated[int, Whole(least=ATTACKED)] = 6
    """Original models of each level and draw: at least 3; twice as many oracles are trained for each forget set."""
    forget: SizedForget = SAME_SIZE
    evaluation: Retained = RETAINED
    forget_sets: Annotated[int, Whole(least=1, most=SETS)] = 1
    """Forget sets of each draw, the same for every level."""
    methods: Names = ("finetune", "neggrad_plus", "scrub")
    """Names separated by commas, of methods that make one network. `--list` shows all."""
    draws: Annotated[int, Whole(least=FEWEST_DRAWS, most=1000)] = 5
    """Draws of the training subset, wrong labels, forget sets and seeds, at least 3. Draw i has the seed --seed + i."""
    batches: Doses = (16, 256)
    """Levels: batch sizes, separated by commas. An empty value leaves a kind of level out, also below."""
    averages: Shares = (0.5,)
    """Levels: the share of the epochs, the last ones, whose weights are averaged. The learning rate stays constant."""
    ensembles: Annotated[tuple[int, ...], Several(Whole(least=2, most=NETWORKS))] = (2, 4)
    """Levels: networks whose averaged prediction makes one model. Methods unlearn each of them."""
    others: Annotated[tuple[str, ...], Several(Name(*OTHERS))] = OTHERS
    """Levels: one-start (all models of a draw begin with the same weights), constant-rate (the learning rate does not decay)."""
    controls: Annotated[tuple[float, ...], Several(Real(above=0, below=1))] = (0.75,)
    """Controls of the loss: the base's recipe with this share of its epochs, and with its inverse."""
    points: Annotated[int, Whole(least=3)] = 9
    """Points of a line between two models, with its ends."""

    extendable: ClassVar[frozenset[str]] = frozenset({"draws", "batches", "averages", "ensembles", "others", "controls"})

    def check(self) -> None:
        """Raises ArgumentError on the first invalid value, or on values that contradict each other."""
        from unlearn_jax.methods import METHODS  # brings JAX with it, which --help must not

        super().check()
        require(self.train.schedule == "cosine", "--train.schedule", self.train.schedule, "expected cosine; constant is a level")
        for share in self.controls:
            accepted = f"its inverse is more than {MOST:,} epochs"
            require(self.train.epochs / share <= MOST, "--controls", f"{share:g}", accepted)
        seen: set[str] = set()
        for level in self.levels():
            option = MADE_BY.get(level.name.split()[0], "controls")
            shown = ",".join(map(str, getattr(self, option)))
            require(level.name not in seen, f"--{option}", shown, f"makes the level {level.name} twice")
            seen.add(level.name)
        for name in self.method_names():
            require(not METHODS[name].ensemble, "--methods", name, "makes several networks of one")

    def method_names(self) -> list[str]:
        """The names of the methods, without the two references."""
        return [name for name in super().method_names() if name not in REFERENCES]

    def levels(self) -> list[Level]:
        """All levels, the base first and the controls last."""
        base, constant = self.train, dataclasses.replace(self.train, schedule="constant")
        levels = [Level(BASE, base, False), Level(PLACEBO, base, False, later=True)]
        if "one-start" in self.others:
            levels.append(Level("one-start", base, False, one_start=True))
        levels += [Level(f"batch {size}", dataclasses.replace(base, batch_size=size)) for size in self.batches]
        if "constant-rate" in self.others:
            levels.append(Level("constant-rate", constant))
        levels += [Level(f"average {share:g}", constant, average=share) for share in self.averages]
        levels += [Level(f"ensemble {networks}", base, networks=networks) for networks in self.ensembles]
        for share in self.controls:
            for factor in (share, 1 / share):
                epochs = max(1, round(base.epochs * factor))
                levels.append(Level(f"{epochs} epochs", dataclasses.replace(base, epochs=epochs), False))
        return levels

    def drawn(self, seed: int, train: Train, members: int) -> "Config":
        """The options of one draw of a level."""
        return dataclasses.replace(self, seed=seed, train=train, members=members)


def smoke(config: Config) -> Config:
    """The whole path in seconds: few examples, few models, short training."""
    return small(
        config,
        hyper=QUICK,
        train_size=60,
        members=3,
        methods=("finetune",),
        train=Train(epochs=4, batch_size=20),
        evaluation=Retained(retain_size=40),
        draws=3,
        batches=(),
        ensembles=(2,),
        others=("one-start",),
        controls=(),
        points=3,
    )
