"""A data set in memory, from any arrays: split, standardised, and found again by a fingerprint."""

import functools
import hashlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Int32

from unlearn_jax.data.augmentation import Augmentation, augmentation
from unlearn_jax.data.splits import Published, generator, mislabel, stratified_order, training_sample
from unlearn_jax.errors import ArgumentError
from unlearn_jax.types import Examples

HELD_OUT = 0.1  # share of the training rows that are held out by default
Pair = Any  # inputs and labels; whatever comes is checked


class Dataset(NamedTuple):
    """A data set as a study uses it. Inputs are float32, images NHWC; labels int32, wrong ones only in `train.labels`."""

    name: str
    train: Examples  # labels as trained on
    clean_labels: Int32[np.ndarray, " train"]  # what train.labels are without label noise
    held_out: Examples  # methods may see it; nothing trains the original models on it
    test: Examples  # for evaluation alone
    classes: int
    fingerprint: str  # SHA-256 over all arrays
    pixel_scale: tuple[float, ...]  # of each channel: 1 / the standard deviation of pixels in [0, 1]
    published: Published  # the numbers of the rows of `train` and `held_out`, which files and tables use
    augment: Augmentation | None = None  # of training batches
    names: tuple[str, ...] = ()  # of the classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, their numbers where they have none."""
        return self.names or tuple(map(str, range(self.classes)))

    @staticmethod
    def from_arrays(
        train: Pair,
        test: Pair,
        held_out: Pair | None = None,
        clean_labels: Any = None,
        classes: int | None = None,
        name: str = "mine",
        augment: str | Augmentation | None = None,
    ) -> "Dataset":
        """A data set from arrays of NumPy, JAX or PyTorch.

        Inputs become float32 and are standardised by mean and standard deviation over the training rows (held-out ones
        included): of each channel of an image (its last axis), of each feature of a vector; what is constant becomes 0. Row
        numbers, of forget sets for instance, are those of the training arrays. A line on standard error says how many held-out
        and test rows equal rows that are trained on, and whether images seem to have their channels first.

        Args:
            train: inputs `[N, ...]`, uint8 or floating point, and integer labels `[N]` (or `[N, 1]`) from 0.
            test: likewise, for evaluation alone.
            held_out: likewise: what methods may see and nothing is trained on. By default a tenth of the training rows, drawn
                in the classes' proportions, which then are not trained on.
            clean_labels: the right labels of the training rows, where some that are trained on are wrong.
            classes: how many there are; by default one more than the largest label.
            name: as in results.csv.
            augment: of training batches: "crop" or "crop_flip" (images), or `(key, inputs[batch, ...]) -> inputs`.

        Raises:
            ValueError: an argument cannot be used; the message begins with its name.
        """
        parts = {"train": _inputs("train", train), "test": _inputs("test", test)}
        if held_out is not None:
            parts["held_out"] = _inputs("held_out", held_out)
        (x, y), shape = parts["train"], parts["train"][0].shape[1:]
        for part, (inputs, _) in parts.items():
            if inputs.shape[1:] != shape or (inputs.dtype == np.uint8) != (x.dtype == np.uint8):
                raise ValueError(f"{part}: inputs {inputs.dtype} {inputs.shape[1:]}, expected {x.dtype} {shape} as in train")
        most = max(int(labels.max()) for _, labels in parts.values())
        classes = most + 1 if classes is None else classes
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 2 or most >= classes:
            raise ValueError(f"classes: {classes!r} found, expected an integer of at least {max(most + 1, 2)}")
        clean = y if clean_labels is None else _labels("clean_labels", clean_labels, len(y), classes)
        rows, carved = np.arange(len(y)), np.arange(0)
        if held_out is None:
            order = stratified_order(y, generator("held out"))
            carved, rows = (np.sort(part) for part in np.split(order, [round(HELD_OUT * len(order))]))
            parts["held_out"] = x[carved], y[carved]
        if len(rows) < 2:
            raise ValueError(f"train: {len(rows)} rows are trained on, expected 2 or more")
        mean, std = moments(x)
        kept = Examples(standardised(x[rows], mean, std), y[rows])
        spare, tested = (
            Examples(standardised(inputs, mean, std), labels) for inputs, labels in (parts["held_out"], parts["test"])
        )
        for part, examples in (("train", kept), ("held_out", spare), ("test", tested)):
            if not np.isfinite(examples.images).all():
                raise ValueError(f"{part}: inputs too large for 32 bits, or too far from those of train")
        changing = augment if callable(augment) else augmentation(augment or "none", shape)
        _name(name)
        if len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] > 3:
            _say(f"data set {name}: inputs {shape} look like channels first; images are taken as (height, width, channels)")
        _say_leaks(name, kept, {"test": tested, "held-out": spare})
        return Dataset(
            name=name,
            train=kept,
            clean_labels=clean[rows],
            held_out=spare,
            test=tested,
            classes=classes,
            fingerprint=_fingerprint_of(clean[rows], kept, spare, tested, changing),
            pixel_scale=tuple(((255.0 if x.dtype == np.uint8 else 1.0) / np.where(std > 0, std, 1)).tolist()),
            published=Published(len(y), rows, carved),
            augment=changing,
        )


def drawn(data: Dataset, train_size: int | None, label_noise: float, seed: int) -> Dataset:
    """A sample of a data set's training rows, some of them with wrong labels; all else stays.

    Args:
        data: the data set; returned as it is if there is neither a size nor noise.
        train_size: as in `load`.
        label_noise: as in `load`.
        seed: as in `load`.

    Raises:
        ArgumentError: an impossible size, or noise on labels of which some are wrong already.
    """
    if train_size is None and not label_noise:
        return data
    images, labels = data.train
    if label_noise and (labels != data.clean_labels).any():
        raise ArgumentError("label_noise", label_noise, f"{data.name} brings wrong labels of its own; expected 0")
    rows = np.arange(len(labels))
    if train_size is not None:
        rows = np.sort(training_sample(data.clean_labels, train_size, data.classes, data.name, seed))
    clean = data.clean_labels[rows]
    noisy = mislabel(clean, label_noise, data.classes, generator("label noise", seed)) if label_noise else labels[rows]
    train = Examples(images[rows], noisy)
    return data._replace(
        train=train,
        clean_labels=clean,
        fingerprint=_fingerprint_of(clean, train, data.held_out, data.test, data.augment),
        published=data.published._replace(train=data.published.train[rows]),
    )


def moments(inputs: np.ndarray) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, " channels"]]:
    """Mean and standard deviation of each channel, or feature: the last axis. Exact for uint8.

    Args:
        inputs: `[examples, ..., channels]`, uint8 or floating point.
    """
    flat = inputs.reshape(-1, inputs.shape[-1])
    if inputs.dtype == np.uint8:
        mean = flat.sum(0, dtype=np.int64) / len(flat)
        return mean, np.sqrt(np.einsum("nc,nc->c", flat, flat, dtype=np.int64) / len(flat) - mean**2)
    with np.errstate(over="ignore", invalid="ignore"):
        return flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)


def standardised(inputs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Float[np.ndarray, "..."]:
    """Inputs in float32, less the mean, in standard deviations; 0 where nothing varies."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is looked for
        divisor = np.where(std > 0, std, 1).astype(np.float32)
        return ((inputs - mean.astype(np.float32)) / divisor).astype(np.float32)


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 over arrays, their types and shapes included."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _fingerprint_of(clean: np.ndarray, train: Examples, held_out: Examples, test: Examples, augment: Augmentation | None) -> str:
    program = np.frombuffer(_program(augment, train).encode(), np.uint8)  # pools are found by what augments them, too
    return fingerprint(clean, *train, *held_out, *test, program)


def _say_leaks(name: str, train: Examples, unseen: dict[str, Examples]) -> None:
    """Says how many rows of the other parts equal rows that are trained on: attacks would take these for never seen."""
    known = set(_digests(train.images))
    counts = {part: sum(digest in known for digest in _digests(examples.images)) for part, examples in unseen.items()}
    found = [f"{count} of {len(unseen[part].labels)} {part} rows" for part, count in counts.items() if count]
    if found:
        _say(f"data set {name}: {' and '.join(found)} equal training rows, so what tells trained from unseen rows is wrong there")


def _digests(inputs: np.ndarray) -> list[bytes]:
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in np.ascontiguousarray(inputs)]


@functools.cache  # the same data may be read again for every setting of a study
def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _inputs(name: str, given: Pair) -> tuple[np.ndarray, Int32[np.ndarray, " rows"]]:
    """Inputs and labels of one part, checked."""
    try:
        x, y = given
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a pair, inputs and labels") from None
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(f"{name}: inputs with a mask, which would be lost; fill it first")
    x = _array(f"{name}: inputs", x)
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"{name}: inputs of {x.dtype}, expected uint8 or floating point")
    if x.ndim < 2 or not x.size:
        raise ValueError(f"{name}: inputs of shape {x.shape}, expected [rows, ...], not empty")
    if not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
        raise ValueError(f"{name}: inputs of {len(bad)} rows are not finite, the first of them row {bad[0]}")
    return x, _labels(name, y, len(x))


def _labels(name: str, given: Any, rows: int, classes: int | None = None) -> Int32[np.ndarray, " rows"]:
    y: Int[np.ndarray, ...] = _array(f"{name}: labels", given)
    y = y[:, 0] if y.shape == (rows, 1) else y  # as Keras has them
    if y.dtype.kind not in "iu" or y.shape != (rows,):
        raise ValueError(f"{name}: labels of {y.dtype} and shape {y.shape}, expected an integer for each of {rows} rows")
    if y.min() < 0 or (classes is not None and y.max() >= classes):
        expected = "0 or more" if classes is None else f"0 to {classes - 1}"
        raise ValueError(f"{name}: labels from {y.min()} to {y.max()}, expected {expected}")
    return y.astype(np.int32)


def _array(what: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # ragged lists, tensors on a device, anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what} of {type(given).__name__} are no array ({reason})") from error


def _program(augment: Augmentation | None, examples: Examples) -> str:
    """An augmentation as a program for one platform, constants included; an empty text for none."""
    if augment is None:
        return ""
    key, batch = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((16, *examples.images.shape[1:]), np.float32)
    return jax.jit(augment).trace(key, batch).lower(lowering_platforms=("cpu",)).as_text()


def _name(name: str) -> None:
    if not isinstance(name, str) or not name or not name.isprintable() or "/" in name:
        raise ValueError(f"name: {name!r} found, expected a printable name without a slash")
