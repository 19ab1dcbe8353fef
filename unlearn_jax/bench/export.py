"""The experiment `export`: a kit with which anybody can unlearn in any framework, and have the result judged by `--exp score`."""

import io

import numpy as np
import safetensors.numpy

from unlearn_jax.bench.export_options import Config
from unlearn_jax.bench.forget_set import ForgetSet, forget_mask, forget_name, forget_set
from unlearn_jax.bench.judging import train_oracles
from unlearn_jax.bench.option_groups import Evaluation
from unlearn_jax.bench.options import FEWEST
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members
from unlearn_jax.bench.setting import prepare
from unlearn_jax.checkpoints import SUFFIX, contents, single
from unlearn_jax.convert import to_torch
from unlearn_jax.progress import working
from unlearn_jax.runs import Run
from unlearn_jax.types import Cube, Variables

README = """\
# {dataset}, forget set {name}

A benchmark of machine unlearning: {members} models that were trained on all of the training set (*originals*), and the logits of
{oracles} models that were trained on the same rows without the forget set (*oracles*), each with a key of its own. Unlearn the
originals, and see whether what you get can be told from the oracles. Only the last command needs unlearn_jax.

* `data.npz`: `x_train` {train}, `y_train`, `x_held_out`, `y_held_out`, `x_test`, `y_test`. Inputs are as the models read them
  (standardised; images are height, width, channels), labels as trained on. `forget` and `retain` are row numbers of
  `x_train`: the {forget} examples to forget, and {retain} others that are judged too.
* `originals/`: the models to unlearn, {model}: a .safetensors file each, named as in unlearn_jax.
{torch}* `logits/originals/`, `logits/oracles/`: `forget.npy`, `retain.npy` and `test.npy`, float32 [models, examples, {classes}],
  on `x_train[forget]`, `x_train[retain]` and `x_test`.
* `labels.npz`: the labels of these examples.

All were trained by {recipe}.

Write the logits of your models, one for each original, as `mine/forget.npy`, `mine/retain.npy` and `mine/test.npy`. Then, in this
folder (in a checkout: `python benchmark.py` in place of `unlearn-jax`):

    {command}

The originals as they are should come out as different, models retrained without the forget set as not distinguished (in 19 of 20
cases). {verdict}
"""
TORCH = """\
* `originals-torch/`: the same by the names of torchvision (`conv1.weight`, `layer1.0.bn1.running_var`, `fc.bias`); with a first
  convolution of 3x3 pixels and no pooling after it.
"""
COMMAND = "unlearn-jax --exp score --unlearned mine --oracles logits/oracles --originals logits/originals --labels labels.npz"


def run(config: Config, folder: Run) -> None:
    """Trains originals and oracles, or finds them in the cache, and writes the kit.

    Raises:
        ArgumentError: the configuration cannot be run, or too many models diverged.
    """
    setting = prepare(config)
    mask, name = forget_mask(config, setting, 0), forget_name(config, setting, 0)
    forget = forget_set(config, folder, setting, mask, name)
    originals = pool(config, setting, setting.problem, mask | True, "original", config.members)
    lost_members(config, "original", originals.variables, 2)
    oracles = train_oracles(forget)
    with working("kit") as update:
        write_kit(forget, originals.variables, oracles.cube)
        update(1.0, f"{folder.folder / 'kit'}")


def write_kit(forget: ForgetSet, originals: Variables, oracles: Cube) -> None:
    """Writes the kit of a forget set into the run folder.

    Args:
        forget: the forget set.
        originals: the models to unlearn.
        oracles: the logits of the oracles that did not diverge.
    """
    folder, data = forget.folder, forget.setting.data
    parts = {"train": data.train, "held_out": data.held_out, "test": data.test}
    arrays = {f"x_{part}": examples.images for part, examples in parts.items()}
    arrays |= {f"y_{part}": examples.labels for part, examples in parts.items()}
    folder.write_npz("kit/data.npz", {**arrays, **forget.rows})
    folder.write_npz("kit/labels.npz", forget.labels._asdict())
    for number, content in enumerate(contents(originals)):
        folder.write_bytes(f"kit/originals/{number:05d}{SUFFIX}", content)
    for_torch = _write_for_torch(forget, originals)
    for role, cube in (("originals", forget.logits(originals)), ("oracles", oracles)):
        for split, logits in cube._asdict().items():
            file = io.BytesIO()
            np.save(file, logits)
            folder.write_bytes(f"kit/logits/{role}/{split}.npy", file.getvalue())
    folder.write_text("kit/README.md", _readme(forget, len(oracles.forget), for_torch))


def _write_for_torch(forget: ForgetSet, originals: Variables) -> bool:
    """Writes the originals by torchvision's names, and says whether they have such."""
    for number in range(forget.members):
        try:
            state = to_torch(single(originals, number), forget.problem.model)
        except ValueError:  # no ResNet
            return False
        forget.folder.write_bytes(f"kit/originals-torch/{number:05d}{SUFFIX}", safetensors.numpy.save(state))
    return True


def _readme(forget: ForgetSet, oracles: int, for_torch: bool) -> str:
    config, data = forget.config, forget.setting.data
    splits = config.evaluation.splits
    augmented = ", with augmented batches" if data.augment else ""
    padding = f", with the padding of {config.padding}" if for_torch else ""
    few = f"Fewer than {FEWEST} models have no verdict, as these {forget.members}."
    return README.format(
        dataset=data.name,
        name=forget.name,
        members=forget.members,
        oracles=oracles,
        train=list(data.train.images.shape),
        forget=len(forget.rows["forget"]),
        retain=len(forget.rows["retain"]),
        model=f"{config.model} of width {config.width}{padding}",
        classes=data.classes,
        torch=TORCH if for_torch else "",
        recipe=f"{forget.problem.recipe}{augmented}",
        command=COMMAND + (f" --evaluation.splits {splits}" if splits != Evaluation.splits else ""),
        verdict=few if forget.members < FEWEST else f"{forget.members} models are enough for a verdict.",
    )
