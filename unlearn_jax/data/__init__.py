"""Data: image data sets, toys in the plane, and forget sets."""

from unlearn_jax.data.augmentation import augmentation
from unlearn_jax.data.dataset import Dataset
from unlearn_jax.data.forget_sets import choose, class_of, numbered, places
from unlearn_jax.data.images import load
from unlearn_jax.data.registry import DATASETS, dataset
from unlearn_jax.data.toys import FASHION_PLANE, Mixture, Toy, discs, populations

__all__ = [
    "DATASETS",
    "FASHION_PLANE",
    "Dataset",
    "Mixture",
    "Toy",
    "augmentation",
    "choose",
    "class_of",
    "dataset",
    "discs",
    "load",
    "numbered",
    "places",
    "populations",
]
