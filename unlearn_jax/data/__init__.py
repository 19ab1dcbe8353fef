"""What is trained on: image data sets, and the examples that are to be forgotten."""

from unlearn_jax.data.augmentation import augmentation
from unlearn_jax.data.forget_sets import choose
from unlearn_jax.data.images import DATASETS, Dataset, load

__all__ = ["DATASETS", "Dataset", "augmentation", "choose", "load"]
