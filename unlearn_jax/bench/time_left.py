"""What the main job has ahead of it: from this, `progress` says how much time is left."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn_jax.bench.options import Seeded
from unlearn_jax.bench.setting import Setting
from unlearn_jax.progress import Ahead
from unlearn_jax.report.rows import REFERENCES

SHARE = 0.4  # of a retraining that a method is taken to cost, before it is compiled
COMPILING, SCORING = 3.0, 1.0  # seconds for each method that it takes, whatever the size of data and network


def stages(config: Seeded, setting: Setting, masks: Mapping[str, np.ndarray], methods: Sequence[str]) -> list[Ahead]:
    """Returns the stages of a run; their work is in passes over one training example.

    Args:
        config: `config.members` is a number.
        setting: data and model.
        masks: the training rows to forget, by forget set.
        methods: names, of which `original` costs nothing.
    """
    assert config.members != "auto"
    epochs = setting.problem.recipe.epochs
    unlearning = [name for name in methods if name not in REFERENCES]
    pools = {name: config.members * int((~mask).sum()) * epochs for name, mask in masks.items()}
    rows, trained = len(next(iter(masks.values()))), [name for name in masks if name not in setting.weights.oracles]
    ahead = [] if setting.weights.originals else [Ahead("original models", config.members * rows * epochs)]
    ahead += [Ahead("oracle models", 2 * pools[name]) for name in list(masks)[1:] if name in trained]
    for place, (name, work) in enumerate(pools.items()):
        ahead += [Ahead("oracle models", 2 * work * (place == 0))] * (name in trained)  # of later sets they are read again
        ahead += [Ahead("compiling", seconds=COMPILING * len(unlearning))] * bool(unlearning)
        for method in methods:
            for _ in range(config.unlearning_seeds):
                if method == "retrain":
                    ahead.append(Ahead("retrain models", work))
                elif method in unlearning:
                    ahead.append(Ahead(method, SHARE * work))
        ahead.append(Ahead("scores", seconds=SCORING * len(methods)))
    return ahead
