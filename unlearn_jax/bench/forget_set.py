"""One forget set: its rows, the examples that models are evaluated on, and models trained without it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from unlearn_jax.bench.model_metrics import metrics_for
from unlearn_jax.bench.options import Judging, Requests
from unlearn_jax.bench.pools import pool, train_on_halves
from unlearn_jax.bench.setting import Setting, forgetting
from unlearn_jax.data import choose, class_of
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS, Entry
from unlearn_jax.metrics import cross_entropy_losses, exposure, memorisation, scaled_logits
from unlearn_jax.progress import stage
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import predict
from unlearn_jax.training.pools import Pool
from unlearn_jax.training.predictions import predict_by
from unlearn_jax.training.relearning import POINTS, ROWS
from unlearn_jax.types import Cube, Labels, Model, Problem, Variables
from unlearn_jax.workers import current


@dataclasses.dataclass(frozen=True)
class ForgetSet:
    """One forget set of a run. Made by `forget_set`.

    Attributes:
        config: of the run; `config.members` is a number.
        folder: the run folder.
        setting: data and model.
        entries: the methods by name.
        name: of the set, as in results.csv.
        mask: the training rows to forget.
        problem: the unlearning problem that methods are given.
        rows: by split, the training rows that models are evaluated on.
        published: by split, their row numbers in the published training set.
        labels: of the examples that models are evaluated on.
        images: of the same examples.
        clean_labels: the right labels of the forget set if all of its training labels are wrong, so that forgetting repairs the
            model; else None.
        identity: all that logits in the run folder depend on besides the method: logits of another identity are made anew.
    """

    config: Judging
    folder: Run
    setting: Setting
    entries: Mapping[str, Entry]
    name: str
    mask: Bool[np.ndarray, " train"]
    problem: Problem
    rows: dict[str, Int[np.ndarray, " examples"]]
    published: dict[str, Int[np.ndarray, " examples"]]
    labels: Labels
    images: Cube
    clean_labels: Int[np.ndarray, " forget"] | None
    identity: dict[str, Any]

    @property
    def members(self) -> int:
        """The number of original models."""
        assert self.config.members != "auto"
        return self.config.members

    def pool(self, role: str, members: int) -> Pool:
        """Trains models without the forget set, or finds them in the cache."""
        return pool(self.config, self.setting, self.problem, ~self.mask, role, members, forget_set=self.name)

    @stage("predictions")
    def logits(self, variables: Variables, model: Model | None = None) -> Cube:
        """Returns the logits of models on forget, retain and test; `model` if it is not that of the problem."""
        what = model or self.problem.model, variables, np.concatenate(self.images), self.config.strategy
        logits = predict_by(current(), self.config.cache, *what)
        return Cube(*np.split(logits, np.cumsum([len(images) for images in self.images])[:2], axis=1))

    def losses(self, cube: Cube) -> dict[str, np.ndarray]:
        """Returns the cross-entropy of every member on every example, by split."""
        return {split: cross_entropy_losses(getattr(cube, split), getattr(self.labels, split)) for split in Cube._fields}


def forget_set(
    config: Judging, folder: Run, setting: Setting, mask: np.ndarray, name: str, entries: Mapping[str, Entry] = METHODS
) -> ForgetSet:
    """Makes a forget set, and writes its rows and labels to the run folder.

    Args:
        config: of the run; `config.members` is a number.
        folder: the run folder.
        setting: data and model.
        mask: the training rows to forget.
        name: of the set.
        entries: the methods by name.
    """
    problem = forgetting(setting, mask)
    retained = np.flatnonzero(~mask)
    drawn = generator("retained examples that are judged", config.seed).permutation(retained)[: config.evaluation.retain_size]
    rows = {"forget": np.flatnonzero(mask), "retain": np.sort(drawn)}
    train, test = setting.data.train, setting.data.test
    labels = Labels(train.labels[rows["forget"]], train.labels[rows["retain"]], test.labels)
    clean = setting.data.clean_labels[rows["forget"]]
    clean_labels = clean if np.all(clean != labels.forget) else None
    published = {split: setting.data.published.train[of_split] for split, of_split in rows.items()}
    folder.write_text(f"forget_sets/{name}.txt", "".join(f"{row}\n" for row in published["forget"]))
    numbers = {f"{split}_rows": of_split for split, of_split in published.items()}
    folder.write_npz(f"logits/{name}/labels.npz", {**labels._asdict(), **numbers})
    return ForgetSet(
        config=config,
        folder=folder,
        setting=setting,
        entries=entries,
        name=name,
        mask=mask,
        problem=problem,
        rows=rows,
        published=published,
        labels=labels,
        images=Cube(train.images[rows["forget"]], train.images[rows["retain"]], test.images),
        clean_labels=clean_labels,
        identity={
            **setting.identity,
            "forget": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
            "recipe": dataclasses.asdict(problem.recipe),
            "members": config.members,
            "retain_size": config.evaluation.retain_size,
            "seed": config.seed,
            "metrics": ["/".join(metric.on(split)) for metric, split in metrics_for(clean_labels)],
            "relearning": [POINTS, ROWS],
            **setting.weights.identity(name),
        },
    )


def forget_mask(config: Requests, setting: Setting, index: int) -> np.ndarray:
    """Returns the mask of the training rows in forget set number `index`."""
    request, data = config.forget, setting.data
    return choose(
        data.train.labels,
        kind=request.kind,
        size=request.size,
        label=request.label,
        file=request.files or None,
        published=data.published,
        wrong=data.train.labels != data.clean_labels,
        scores=lambda: ranking(config, setting, request.kind),
        classes=data.classes,
        seed=config.seed,
        index=index,
    )


def same_rows(masks: Mapping[str, np.ndarray]) -> str:
    """Says which two forget sets are the same rows, and hence no two samples; nothing if all differ."""
    names: dict[bytes, str] = {}
    for name, mask in masks.items():
        first = names.setdefault(mask.tobytes(), name)
        if first != name:
            return f"{first} and {name} are the same rows"
    return ""


def ranking(config: Requests, setting: Setting, kind: str) -> np.ndarray:
    """Returns the exposure or memorisation of each example, from models trained on random halves of the training set."""
    masks, variables = train_on_halves(config, setting, config.forget.models)
    logits = predict(setting.problem.model, variables, setting.data.train.images, config.strategy)
    labels = setting.data.train.labels
    if kind == "exposed":
        return exposure(scaled_logits(logits, labels), masks)
    return memorisation(logits.argmax(axis=-1) == labels, masks).score


def forget_class(config: Requests, setting: Setting, index: int) -> int | None:
    """Returns the class whose examples forget set number `index` holds; None if it may hold several classes."""
    return class_of(config.forget.kind, config.forget.label, setting.data.classes, index)


def forget_name(config: Requests, setting: Setting, index: int) -> str:
    """The name of a forget set: `random-0`, `file-0`, `class-3`; parts of a class: `class_part-3`, `class_part-3-1`, ..."""
    kind, label = config.forget.kind, forget_class(config, setting, index)
    if label is None:
        return f"{kind}-{index}"
    return f"{kind}-{label}" if kind == "class" or index == 0 else f"{kind}-{label}-{index}"
