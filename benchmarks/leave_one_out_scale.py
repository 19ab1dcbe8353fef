"""What exact leave-one-out takes where it is large: a small ResNet on images, and many points of the toy.

    python benchmarks/leave_one_out_scale.py images
    python benchmarks/leave_one_out_scale.py memory --points 4096

`images` trains a ResNet-8 on digits once without each image. `memory` says how much memory the process has held at most, with
the boundary and the margins of every training point followed; it does not depend on the number of steps, so a few will do.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    """Measure one of the two, and print a line or two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("images", "memory"))
    parser.add_argument("--devices", type=int, default=2, help="CPU devices, one member on each at a time")
    parser.add_argument("--points", type=int, default=200, help="examples, each left out once")
    parser.add_argument("--width", type=int, default=4, help="of the first stage (images) or of the layers (memory)")
    parser.add_argument("--epochs", type=int, default=10, help="of each training")
    arguments = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    start, processor = time.perf_counter(), time.process_time()
    (on_images if arguments.what == "images" else on_many_points)(arguments)
    took = f"{time.perf_counter() - start:.0f} s, {time.process_time() - processor:.0f} s of processor time, compilation included"
    print(f"{took}; {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most")


def on_images(arguments: argparse.Namespace) -> None:
    """Leave every image out of a ResNet-8's training."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from unlearn_jax import influence
    from unlearn_jax.data import load
    from unlearn_jax.models import build
    from unlearn_jax.types import Examples, Recipe

    data = load("digits", train_size=arguments.points, label_noise=0.1, seed=0)
    recipe = Recipe(epochs=arguments.epochs, batch_size=min(64, arguments.points))
    model = build("resnet8", classes=data.classes, width=arguments.width)
    examples = Examples(*map(jnp.asarray, data.train))
    run = influence.training(jax.random.key(0), model, examples, recipe)
    exact = influence.leave_one_out(run)
    wrong = data.train.labels != data.clean_labels
    own, others = np.diagonal(exact.change.losses), np.abs(exact.change.margins)
    np.fill_diagonal(others, np.nan)
    print(f"{arguments.points} images, {run.steps} steps, ResNet-8 of width {arguments.width}")
    print(f"own loss without it, median: {np.median(own[wrong]):+.2f} nats if mislabelled, else {np.median(own[~wrong]):+.2f}")
    print(f"another image's margin, median: {np.nanmedian(others):.2g} nats")


def on_many_points(arguments: argparse.Namespace) -> None:
    """Leave every point of the toy out of a short training."""
    import jax
    import jax.numpy as jnp

    from unlearn_jax import influence
    from unlearn_jax.data import discs
    from unlearn_jax.influence import Window
    from unlearn_jax.models import build
    from unlearn_jax.types import Examples, Recipe

    examples = Examples(*map(jnp.asarray, discs(arguments.points).train))
    recipe = Recipe(epochs=arguments.epochs, batch_size=arguments.points, learning_rate=1e-2, optimiser="adam", weight_decay=0.0)
    run = influence.training(jax.random.key(0), build("mlp", classes=2, width=arguments.width), examples, recipe)
    found = influence.leave_one_out(run, window=Window(-8.0, 8.0, 2.0, 8.0))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((found.without, found.change)))
    print(f"{arguments.points} points, {run.steps} steps, width {arguments.width}: {held / 2**30:.2f} GiB of results")


if __name__ == "__main__":
    main()
