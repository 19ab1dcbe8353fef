"""Data sets from anybody's arrays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import run_in_process

from unlearn_jax import ArgumentError, Dataset, Recipe, build, evaluate
from unlearn_jax.bench.setting import setting_of
from unlearn_jax.data import load
from unlearn_jax.data.sources import digits
from unlearn_jax.data.splits import generator

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (60, 6, 5, 3)).astype(np.uint8), np.arange(60) % 3
VECTORS = RNG.normal(2.0, [[0.5, 3.0, 0.0, 1.0]], (60, 4)).astype(np.float32)


def made(x=IMAGES, y=LABELS, **given):
    return Dataset.from_arrays(train=(x, y), test=(x[:20], y[:20]), **given)


def test_the_digits_from_arrays_are_the_digits():
    train, test = digits()
    own, theirs = Dataset.from_arrays(train=tuple(train), test=tuple(test)), load("digits")
    for part in ("train", "held_out", "test"):
        for a, b in zip(getattr(own, part), getattr(theirs, part), strict=True):
            np.testing.assert_array_equal(a, b)
    assert own.classes == 10 and own.published.total == 1437
    np.testing.assert_array_equal(own.published.train, theirs.published.train)


@pytest.mark.parametrize("x", [IMAGES, IMAGES / np.float32(255), VECTORS, VECTORS.astype(np.float16), IMAGES.reshape(60, 6, 15)])
def test_inputs_of_any_shape_are_standardised_over_the_training_rows(x):
    data = made(x)
    everything = np.concatenate([data.train.images, data.held_out.images]).reshape(-1, x.shape[-1])
    constant = np.ptp(x.reshape(-1, x.shape[-1]), axis=0) == 0
    np.testing.assert_allclose(everything.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(everything.std(0), ~constant, atol=2e-3)
    assert data.train.images.dtype == np.float32 and data.train.labels.dtype == np.int32
    assert (len(data.train.labels), len(data.held_out.labels), len(data.test.labels)) == (54, 6, 20)


def test_given_held_out_rows_leave_all_training_rows():
    data = made(held_out=(IMAGES[:7], LABELS[:7]), clean_labels=(LABELS + 1) % 3, classes=5)
    assert (len(data.train.labels), len(data.held_out.labels), data.classes) == (60, 7, 5)
    np.testing.assert_array_equal(data.clean_labels, (LABELS + 1) % 3)
    assert data.published.train.tolist() == list(range(60)) and not len(data.published.held_out)


def test_arrays_of_jax_and_torch_are_arrays():
    torch = pytest.importorskip("torch")
    plain = made(VECTORS)
    assert made(jnp.asarray(VECTORS), jnp.asarray(LABELS)).fingerprint == plain.fingerprint
    assert made(torch.tensor(VECTORS), torch.tensor(LABELS)).fingerprint == plain.fingerprint


def test_the_fingerprint_sees_values_labels_and_augmentation():
    other, wrong = IMAGES.copy(), LABELS.copy()
    other[59, 0, 0, 0] ^= 1
    wrong[3] = 1
    sets = [made(), made(other), made(IMAGES, wrong), made(clean_labels=wrong), made(augment="crop"), made(augment="crop_flip")]
    sets += [made(augment=lambda key, x, by=by: x + by * jax.random.normal(key, x.shape)) for by in (0.1, 0.2)]
    assert len({data.fingerprint for data in sets}) == len(sets)
    assert made(name="other").fingerprint == sets[0].fingerprint


def test_an_augmentation_is_used_in_training(tmp_path):
    data = made(augment="crop_flip")
    key = jax.random.key(0)
    changed = data.augment(key, jnp.asarray(data.train.images))
    assert changed.shape == data.train.images.shape and (np.asarray(changed) != data.train.images).any()


@pytest.mark.usefixtures("undrawn")
def test_vectors_go_through_the_whole_job(tmp_path):
    data = made(VECTORS, name="table")
    model = build("mlp", classes=3, width=4)
    asked = {"forget": np.arange(60) % 10 == generator("any").integers(1), "methods": ["original", "finetune", "retrain"]}
    asked["forget"][data.published.held_out] = False
    small = {"members": 2, "splits": 4, "retain_size": 20, "recipe": Recipe(epochs=1, batch_size=16)}
    board = evaluate(model, data, **asked, **small, cache=tmp_path, hyper={"*": {"epochs": 1}})
    assert {row.dataset for row in board.rows} == {"table"} and set(board.verdict) == set(asked["methods"])


class Elsewhere:
    """As a tensor that is not in the host's memory."""

    def __array__(self, *_, **__):
        raise TypeError("on a device\nand more")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": IMAGES}, "train: expected a pair"),
        ({"train": (IMAGES.astype(int), LABELS)}, "train: inputs of int64, expected uint8 or floating point"),
        ({"train": (np.array([object()]), LABELS[:1])}, "train: inputs of object"),
        ({"train": (IMAGES[:0], LABELS[:0])}, r"train: inputs of shape \(0, 6, 5, 3\), expected"),
        ({"train": (LABELS.astype(float), LABELS)}, r"train: inputs of shape \(60,\), expected"),
        ({"train": (np.where(VECTORS > 3, np.nan, VECTORS), LABELS)}, "train: inputs of .* rows are not finite, the first"),
        ({"train": (IMAGES, LABELS[1:])}, r"train: labels of int64 and shape \(59,\), expected an integer for each of 60 rows"),
        ({"train": (IMAGES, LABELS.astype(float))}, "train: labels of float64"),
        ({"train": (IMAGES, LABELS - 1)}, "train: labels from -1 to 1, expected 0 or more"),
        ({"test": (IMAGES[:, :5], LABELS)}, r"test: inputs uint8 \(5, 5, 3\), expected uint8 \(6, 5, 3\) as in train"),
        ({"test": (IMAGES / 255.0, LABELS)}, r"test: inputs float64 .* expected uint8"),
        ({"held_out": (VECTORS, LABELS)}, r"held_out: inputs float32 \(4,\), expected uint8"),
        ({"classes": 2}, "classes: 2 found, expected an integer of at least 3"),
        ({"clean_labels": LABELS + 1}, "clean_labels: labels from 1 to 3, expected 0 to 2"),
        ({"train": (IMAGES, LABELS * 0), "test": (IMAGES, LABELS * 0), "classes": 1}, "classes: 1 found, expected .* at least 2"),
        ({"augment": "flip"}, "augment: 'flip' found, expected none, crop, crop_flip"),
        ({**dict.fromkeys(("train", "test"), (VECTORS, LABELS)), "augment": "crop"}, r"augment: crop is of images .* \(4,\)"),
        ({"name": "a/b"}, "name: 'a/b' found"),
        ({"train": ([[1.0], [1.0, 2.0]], LABELS[:2])}, "train: inputs of list are no array"),
        ({"train": (Elsewhere(), LABELS)}, r"train: inputs of Elsewhere are no array \(on a device\)"),
    ],
)  # fmt: skip
def test_a_wrong_array_is_one_line_that_names_it(given, said):
    with pytest.raises(ValueError, match=rf"^{said}[^\n]*$"):
        Dataset.from_arrays(**{"train": (IMAGES, LABELS), "test": (IMAGES, LABELS), **given})


def test_labels_may_stand_in_a_column():
    assert made(IMAGES, LABELS[:, None]).fingerprint == made().fingerprint


def test_rows_that_stand_on_both_sides_are_counted_in_one_line(capsys):
    x, y = np.concatenate([IMAGES, IMAGES[:1]]), np.append(LABELS, 0)
    data = Dataset.from_arrays((x, y), (255 - IMAGES[:9], LABELS[:9]), (IMAGES[50:], LABELS[50:]), name="half seen")
    assert len(data.held_out.labels) == 10
    said = (
        "data set half seen: 10 of 10 held-out rows equal training rows, so what tells trained from unseen rows is wrong there\n"
    )
    assert capsys.readouterr().err == said
    made(name="all seen")
    assert capsys.readouterr().err.startswith("data set all seen: 18 of 20 test rows equal training rows")
    made(name="all seen")
    load("digits")
    Dataset.from_arrays((IMAGES, LABELS), (255 - IMAGES, LABELS))
    assert not capsys.readouterr().err  # said once, and never of what is apart


def test_images_that_look_turned_are_said(capsys):
    turned = RNG.random((60, 3, 6, 6), np.float32)
    Dataset.from_arrays((turned, LABELS), (turned[:9] + 1, LABELS[:9]), name="torch")
    said = "data set torch: inputs (3, 6, 6) look like channels first; images are taken as (height, width, channels)\n"
    assert capsys.readouterr().err == said


def saved(path, **arrays):
    np.savez(path, **{"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:20], "y_test": LABELS[:20], **arrays})
    return path


def test_a_file_is_a_data_set(tmp_path):
    data = load(str(saved(tmp_path / "mine.npz")))
    assert data.fingerprint == made().fingerprint and data.name == "mine"
    more = {"x_held_out": IMAGES[:7], "y_held_out": LABELS[:7], "clean_y_train": (LABELS + 1) % 3}
    whole = load(str(saved(tmp_path / "more.npz", **more)))
    given = made(held_out=(IMAGES[:7], LABELS[:7]), clean_labels=(LABELS + 1) % 3)
    assert whole.fingerprint == given.fingerprint


def test_a_file_goes_through_the_command_line(tmp_path):
    file = saved(tmp_path / "vectors.npz", x_train=VECTORS, x_test=VECTORS[:20])
    words = "--smoke --device cpu --members 2 --evaluation.splits 4 --train.epochs 1 --methods original,finetune"
    places = ("--out", tmp_path / "out", "--cache", tmp_path / "cache")
    done = run_in_process("--exp", "unlearning", "--dataset", file, "--forget.size", "6", *words.split(), *places)
    assert done.returncode == 0, done.stderr
    assert "data set vectors: 18 of 20 test rows" in done.stderr
    recorded = json.loads((tmp_path / "out/config.json").read_text())["config"]
    assert (recorded["train_size"], recorded["label_noise"], recorded["dataset"]) == (None, 0.0, str(file))
    for option, value in (("--train-size", "300"), ("--data-dir", tmp_path)):
        done = run_in_process("--dataset", file, option, value, "--out", tmp_path / "other", "--cache", tmp_path / "cache")
        assert done.returncode == 2 and f"{option} {value}: " in done.stderr and not (tmp_path / "other").exists()
    words = ("--out", tmp_path / "other", "--cache", tmp_path / "cache")
    done = run_in_process("--exp", "unlearning", "--dataset", file, *words)
    assert done.returncode == 2 and "--model resnet8: cannot take examples of shape (4,)" in done.stderr


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y_train": LABELS[1:]}, r"train: labels of int64 and shape \(59,\)"),
        ({"x_held_out": IMAGES}, "x_held_out and y_held_out belong together"),
        ({"x_test": np.array([{}], dtype=object)}, "no array of numbers"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, r"train: inputs of shape \(0, 6, 5, 3\)"),
        ({"x_train": np.full(IMAGES.shape, np.inf), "x_test": IMAGES / 1.0}, "train: inputs of 60 rows are not finite"),
        ({"y_test": LABELS[:20] / 2}, "test: labels of float64"),
    ],
)
def test_a_file_that_is_no_data_set_is_one_line(tmp_path, arrays, said):
    with pytest.raises(ArgumentError, match=rf"^dataset .*mine.npz: an .npz file with x_train, .* is needed \(.*{said}[^\n]*$"):
        load(str(saved(tmp_path / "mine.npz", **arrays)))


def test_a_file_that_lacks_arrays_or_is_none_is_one_line(tmp_path):
    np.savez(tmp_path / "half.npz", x_train=IMAGES)
    (tmp_path / "text.npz").write_text("no archive")
    for name, said in (("half", "y_train, x_test, y_test missing"), ("text", "not a zip file"), ("absent", "No such file")):
        with pytest.raises(ArgumentError, match=rf"^dataset .*{name}.npz: .*\(.*{said}"):
            load(str(tmp_path / f"{name}.npz"))


def test_a_file_that_decompresses_to_more_than_memory_holds_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(ArgumentError, match=r"\(0 GiB, where 0 GiB are accepted\)"):
        load(str(saved(tmp_path / "mine.npz")))


def test_what_32_bits_do_not_hold_and_masks_are_refused():
    for part, scale in (("train", {"train": 1e200, "test": 1.0}), ("test", {"train": 1.0, "test": 1e200})):
        with pytest.raises(ValueError, match=rf"^{part}: inputs too large for 32 bits"):
            Dataset.from_arrays(**{name: (VECTORS.astype(float) * by, LABELS) for name, by in scale.items()})
    with pytest.raises(ValueError, match=r"^train: inputs with a mask"):
        made(np.ma.masked_array(VECTORS, VECTORS > 3))


def test_other_data_or_another_model_of_the_same_name_is_another_setting():
    """What a pool is found by: no model that was trained on other values is ever taken for one of these."""
    other = IMAGES.copy()
    other[59, 0, 0, 0] ^= 1
    settings = [setting_of(data, build("mlp", classes=3, width=4), {"model": "mine"}, Recipe()) for data in (made(), made(other))]
    settings.append(setting_of(made(), build("mlp", classes=3, width=4), {"model": "theirs"}, Recipe()))
    identities = [setting.identity for setting in settings]
    assert all(identities[i] != identities[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    assert identities[0] == setting_of(made(), build("mlp", classes=3, width=4), {"model": "mine"}, Recipe()).identity
