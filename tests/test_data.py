"""Data sets: splits that are exact, sources that are checked, augmentation against its definition."""

import collections
import gzip
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.data import sources
from unlearn_jax.data.augmentation import PAD, augmentation, crop
from unlearn_jax.data.images import load
from unlearn_jax.data.registry import DATASETS, dataset
from unlearn_jax.data.splits import generator, mislabel, random_halves, sample, stratified_order
from unlearn_jax.errors import ArgumentError, StorageError
from unlearn_jax.runs import Cache

few = settings(max_examples=30, deadline=None)
labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda labels: np.array(labels, np.int32))


# --- splits ---


@few
@given(labels_of, st.integers(0, 9))
def test_every_prefix_of_a_stratified_order_is_websters_apportionment(labels, seed):
    order = stratified_order(labels, generator("test", seed))
    assert sorted(order) == list(range(len(labels)))
    classes, counts = np.unique(labels, return_counts=True)
    for size in range(len(labels) + 1):
        taken = np.array([(labels[order[:size]] == label).sum() for label in classes])
        assert taken.sum() == size
        assert ((taken - 0.5) / counts).max() <= ((taken + 0.5) / counts).min() + 1e-12


@few
@given(labels_of, st.floats(0, 1), st.integers(0, 9))
def test_exactly_the_share_of_labels_is_wrong(labels, share, seed):
    noisy = mislabel(labels, share, 5, generator("test", seed))
    assert (noisy != labels).sum() == round(share * len(labels))
    assert noisy.dtype == labels.dtype and noisy.min() >= 0 and noisy.max() < 5


@given(st.lists(st.integers(0, 99), unique=True, max_size=20), st.integers(0, 25))
def test_a_sample_is_some_rows_in_order_and_a_larger_one_holds_a_smaller(rows, most):
    rows = np.array(rows, int)
    drawn, more = (sample(rows, size, generator("some", 3)) for size in (most, most + 1))
    assert len(drawn) == min(most, len(rows)) and set(drawn) <= set(more) <= set(rows) and (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(
        sample(len(rows), most, generator("some", 3)), sample(np.arange(len(rows)), most, generator("some", 3))
    )


def test_wrong_labels_are_uniform_over_the_other_classes():
    wrong = mislabel(np.full(4000, 3), 1.0, 5, generator("test"))
    assert np.abs(np.bincount(wrong, minlength=5) - [1000, 1000, 1000, 0, 1000]).max() < 120


@few
@given(rows=st.integers(2, 30), pairs=st.integers(1, 6), seed=st.integers(0, 99))
def test_random_halves_are_half_both_ways(rows, pairs, seed):
    held = random_halves(rows, 2 * pairs, np.random.default_rng(seed))
    assert (held.sum(axis=1) == rows // 2).all()
    assert (held.sum(axis=0) <= pairs).all()
    assert (rows % 2) or (held.sum(axis=0) == pairs).all()


def test_random_halves_lean_no_further_from_one_member_than_from_another():
    """Complements agree on no row; random halves of which each row is in half of the members agree a little less than half."""
    members, rows = 8, 2_000
    held = random_halves(rows, members, np.random.default_rng(0))
    agree = (held[:, None] == held[None]).mean(-1)[~np.eye(members, dtype=bool)]
    np.testing.assert_allclose(agree, (members / 2 - 1) / (members - 1), atol=0.05)


def test_every_matrix_of_halves_is_equally_likely():
    """Four members, four rows: there are 90 such matrices."""
    rng = np.random.default_rng(0)
    found = collections.Counter(random_halves(4, 4, rng).tobytes() for _ in range(900))
    assert len(found) == 90
    assert scipy.stats.chisquare(list(found.values())).pvalue > 1e-3


def test_generators_differ_by_purpose_seed_and_index():
    keys = [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a", 1, 1)]
    assert len({generator(*key).integers(2**62) for key in keys}) == len(keys)
    with pytest.raises(ArgumentError, match="seed -1"):
        generator("a", -1)


def rows(images):
    """The images as hashable rows; digits has no two equal images, so that a row names an example."""
    return [image.tobytes() for image in images]


def test_digits_splits_are_disjoint_stratified_and_complete():
    data = load("digits")
    parts = [data.train, data.held_out, data.test]
    assert [len(part.labels) for part in parts] == [1293, 144, 360]
    assert len(set().union(*(rows(part.images) for part in parts))) == 1797
    for part in parts:
        assert part.images.dtype == np.float32 and part.labels.dtype == np.int32 and part.images.shape[1:] == (8, 8, 1)
        assert np.ptp(np.bincount(part.labels)) <= 0.1 * len(part.labels) / 10 + 1
    published = np.concatenate([data.train.images, data.held_out.images])
    assert abs(published.mean()) < 1e-5 and abs(published.std() - 1) < 1e-5


@pytest.mark.parametrize("train_size", [None, 200])
def test_every_row_has_its_number_in_the_published_training_set(train_size):
    data, (published, _) = load("digits", train_size=train_size, label_noise=0.3, seed=5), sources.digits()
    assert data.published.total == len(published.labels)
    assert not set(data.published.train) & set(data.published.held_out)
    places = {"train": (data.train.images, data.clean_labels), "held_out": data.held_out}
    for name, (images, labels) in places.items():
        numbers = getattr(data.published, name)
        np.testing.assert_array_equal(published.labels[numbers], labels)
        scale = np.polyfit(published.images[numbers].ravel(), images.ravel(), 1)
        np.testing.assert_allclose(np.polyval(scale, published.images[numbers]), images, atol=1e-5)


def test_held_out_rows_and_standardisation_depend_on_neither_seed_sample_nor_noise():
    plain, other = load("digits"), load("digits", train_size=200, label_noise=0.3, seed=5)
    for ours, theirs in [(plain.held_out, other.held_out), (plain.test, other.test)]:
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    truth = dict(zip(rows(plain.train.images), plain.train.labels, strict=True))
    assert [truth[row] for row in rows(other.train.images)] == other.clean_labels.tolist()
    assert (other.train.labels != other.clean_labels).sum() == 60
    assert np.bincount(other.clean_labels).tolist() == pytest.approx([20] * 10, abs=1)


def test_loading_is_deterministic_and_the_fingerprint_sees_every_choice():
    choices = [{}, {"train_size": 500}, {"label_noise": 0.1}, {"held_out": 0.2}, {"label_noise": 0.1, "seed": 1}]
    prints = [load("digits", **choice).fingerprint for choice in choices]
    assert prints == [load("digits", **choice).fingerprint for choice in choices]
    assert len(set(prints)) == len(prints)


def test_a_smaller_sample_lies_inside_a_larger_one():
    small, large = (load("digits", train_size=size, held_out=0.0, seed=3) for size in (100, 400))
    assert len(small.held_out.labels) == 0
    assert set(rows(small.train.images)) < set(rows(large.train.images))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "imagenet"}, "dataset imagenet: one of digits, "),
        ({"train_size": 9}, "train_size 9: 10 to 1293 rows"),
        ({"train_size": 1294}, "train_size 1294"),
        ({"label_noise": 1.1}, "label_noise"),
        ({"label_noise": float("nan")}, "label_noise"),
        ({"held_out": -0.1}, "held_out"),
        ({"held_out": 1.0}, "held_out"),
        ({"seed": -1, "train_size": 50}, "seed"),
        ({"name": "fashion_mnist", "data_dir": __file__}, "data_dir"),
        ({"data_dir": "nowhere"}, "data_dir nowhere: a folder that exists"),
        ({"data_dir": "."}, "data_dir .: digits comes with"),
    ],
)
def test_impossible_options_are_refused(options, named):
    with pytest.raises(ArgumentError, match=named):
        load(**{"name": "digits"} | options)


def test_a_data_set_is_added_by_one_decorated_function(tmp_path):
    @dataset("stripes", classes=2, shape=(4, 4, 1), augment="crop", reference="an example", names=("across", "down"))
    def stripes(entry, folder, cache):
        labels = np.arange(20, dtype=np.int32) % 2
        down = np.tile(np.arange(4, dtype=np.uint8) % 2, (4, 1))[..., None]
        split = sources.Split(np.stack([down if label else down.swapaxes(0, 1) for label in labels]), labels)
        assert (entry.name, folder, cache) == ("stripes", tmp_path, tmp_path / "cache")
        return split, split

    try:
        data = load("stripes", data_dir=tmp_path, cache=tmp_path / "cache")
        assert (data.classes, len(data.train.labels), len(data.held_out.labels), len(data.test.labels)) == (2, 18, 2, 20)
        assert data.pixel_scale == (510.0,) and np.abs(data.train.images).max() == 1
        assert data.augment(jax.random.key(0), jnp.asarray(data.train.images)).shape == data.train.images.shape
        with pytest.raises(ValueError, match="stripes: already registered"):
            dataset("stripes")(stripes)
        with pytest.raises(ArgumentError, match=r"svhn_cropped, stripes, or an \.npz file, or a folder"):
            load("other")
    finally:
        del DATASETS["stripes"]


# --- IDX files ---


def write_idx(folder, compressed, train=200, test=50):
    """Writes a random data set in the shape of Fashion-MNIST, and returns its arrays."""
    random = np.random.default_rng(1)
    arrays = {}
    for split, count in (("train", train), ("t10k", test)):
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = random.integers(0, 10, count).astype(np.uint8)
    for name, array in arrays.items():
        content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content) if compressed else content)
    return arrays


@pytest.mark.parametrize("compressed", [False, True])
def test_a_folder_of_idx_files_is_read(tmp_path, compressed):
    arrays = write_idx(tmp_path, compressed)
    data = load("fashion_mnist", data_dir=tmp_path, held_out=0.0)
    images = arrays["train-images-idx3-ubyte"][..., None].astype(np.float64)
    np.testing.assert_allclose(data.train.images, (images - images.mean()) / images.std(), atol=1e-5)
    np.testing.assert_array_equal(data.train.labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.test.labels, arrays["t10k-labels-idx1-ubyte"])


def cut(content):
    return content[:-1]


def other_magic(content):
    return bytes((0, 0, 9)) + content[3:]


def other_size(content):
    return content[:4] + (7).to_bytes(4, "big") + content[8:]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("spoil", [cut, other_magic, other_size, lambda content: b"", lambda content: content[:6]])
@pytest.mark.parametrize("compressed", [False, True])
def test_spoilt_idx_files_are_refused(tmp_path, name, spoil, compressed):
    write_idx(tmp_path, compressed)
    path = tmp_path / (f"{name}.gz" if compressed else name)
    content = path.read_bytes()
    path.write_bytes(gzip.compress(spoil(gzip.decompress(content))) if compressed else spoil(content))
    with pytest.raises(ArgumentError, match=f"data_dir .*{name}"):
        load("fashion_mnist", data_dir=tmp_path)


@pytest.mark.parametrize("spoil", [cut, other_magic, lambda content: content[:100] + bytes(8) + content[108:], None])
def test_spoilt_archives_and_missing_files_are_refused(tmp_path, spoil):
    write_idx(tmp_path, True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.unlink()
    if spoil is not None:
        path.write_bytes(spoil(content))
    with pytest.raises(ArgumentError, match=r"data_dir .*train-images-idx3-ubyte\.gz"):
        load("fashion_mnist", data_dir=tmp_path)


def test_idx_files_that_do_not_belong_together_are_refused(tmp_path):
    write_idx(tmp_path, False)
    kept = (tmp_path / "t10k-labels-idx1-ubyte").read_bytes()
    for labels in (kept[:7] + bytes([49]) + kept[8:-1], kept[:-1] + bytes([10])):  # one too few; a class too many
        (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
        with pytest.raises(ArgumentError, match="as many t10k images of 28x28 as labels below 10"):
            load("fashion_mnist", data_dir=tmp_path)


@pytest.mark.skipif(not sources.DEBIAN_FASHION_MNIST.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_is_found_by_itself():
    train, test = sources.idx(sources.DEBIAN_FASHION_MNIST, (28, 28), 10)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[0] == 9
    data = load("fashion_mnist", train_size=1000)
    assert np.bincount(data.train.labels).tolist() == [100] * 10
    assert len(data.held_out.labels) == 6000 and len(data.test.labels) == 10000


# --- TFDS ---


def test_a_prepared_tfds_data_set_is_decoded_once(tmp_path, monkeypatch, capfd):
    pytest.importorskip("tensorflow", reason="TFDS needs TensorFlow to prepare images")
    tfds = pytest.importorskip("tensorflow_datasets")
    random = np.random.default_rng(2)
    images = {split: random.integers(0, 256, (count, 32, 32, 3), np.uint8) for split, count in (("train", 60), ("test", 20))}

    version = str(tfds.builder_cls("cifar10").VERSION)

    with tfds.core.registered.skip_registration():

        class Cifar10(tfds.core.GeneratorBasedBuilder):
            """In the place and the form of the real one, so that the real one finds it prepared."""

            VERSION = tfds.core.Version(version)

            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in images}

            def _generate_examples(self, split):
                for row, image in enumerate(images[split]):
                    yield row, {"id": f"{split}_{row:05d}", "image": image, "label": row % 10}

    Cifar10(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    first = load("cifar10", data_dir=tmp_path / "tfds", cache=tmp_path / "cache", held_out=0.1)
    assert first.train.images.shape == (54, 32, 32, 3) and np.bincount(first.test.labels).tolist() == [2] * 10

    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)  # from now on not importable
    assert load("cifar10", data_dir=tmp_path / "tfds", cache=tmp_path / "cache").fingerprint == first.fingerprint
    train, test = sources.tfds("cifar10", (32, 32, 3), 10, tmp_path / "tfds", tmp_path / "cache")
    assert train.images.dtype == np.uint8
    for split, name in ((train, "train"), (test, "test")):  # TFDS shuffles: pair the rows by their pixels
        label_of = {image.tobytes(): row % 10 for row, image in enumerate(images[name])}
        assert [label_of[row] for row in rows(split.images)] == split.labels.tolist()
    (cached,) = (tmp_path / "cache" / "data").iterdir()
    assert sorted(os.listdir(cached)) == [".lock", "arrays.npz"]
    whole = (cached / "arrays.npz").read_bytes()
    (cached / "arrays.npz").write_bytes(whole[:-1])
    with pytest.raises(ArgumentError, match="needs TFDS"):  # damaged, so that it would have to be decoded again
        load("cifar10", data_dir=tmp_path / "tfds", cache=tmp_path / "cache")
    assert "arrays.npz: damaged" in capfd.readouterr().err
    (cached / "arrays.npz").write_bytes(whole)

    with pytest.raises(ArgumentError, match=r"dataset cifar10: needs TFDS .*pip install 'unlearn_jax\[tfds\]'"):
        load("cifar10", data_dir=tmp_path, cache=tmp_path / "cache")
    assert load("cifar10", data_dir=tmp_path / "tfds", cache=tmp_path / "cache").fingerprint == first.fingerprint


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cache .*file"):
        load("cifar10", cache=tmp_path / "file")


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_labels": np.array([0, 10], np.int32)},
        {"test_labels": np.array([-1, 3], np.int32)},
        {"train_images": np.zeros((2, 32, 31, 3), np.uint8)},
        {"test_images": np.zeros((3, 32, 32, 3), np.uint8)},
        {"test_images": np.zeros((2, 32, 32, 3), np.float32)},
    ],
)
def test_what_is_no_cifar10_is_refused_though_it_was_prepared_under_its_name(tmp_path, wrong):
    """As a data set of one's own in TFDS's folder, or a cache that another version filled."""
    right = {f"{split}_images": np.zeros((2, 32, 32, 3), np.uint8) for split in ("train", "test")}
    right |= {f"{split}_labels": np.array([0, 9], np.int32) for split in ("train", "test")}
    folder = Cache(tmp_path / "data" / "cifar10")
    folder.keep("arrays.npz", {"dataset": "cifar10", "data_dir": None}, {**right, **wrong})
    (name,) = wrong
    with pytest.raises(ArgumentError, match=rf"data_dir .*cifar10 has {name.partition('_')[0]} images of 32x32x3 bytes"):
        sources.tfds("cifar10", (32, 32, 3), 10, None, tmp_path)
    folder.keep("arrays.npz", {"dataset": "cifar10", "data_dir": None}, right)
    assert sources.tfds("cifar10", (32, 32, 3), 10, None, tmp_path)[0].labels.tolist() == [0, 9]


def test_a_failing_tfds_is_one_line(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def offline(*args, **kwargs):
        raise ConnectionError("many lines\n\nno route to host\n")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    (tmp_path / "tfds").mkdir()
    with pytest.raises(ArgumentError, match=r"data_dir .*/tfds: .*cifar100.*\(no route to host\)") as raised:
        load("cifar100", data_dir=tmp_path / "tfds", cache=tmp_path / "cache")
    assert "\n" not in str(raised.value)


# --- augmentation ---


def literal_windows(image, pad):
    """Every window that a crop may give, by its offsets, cut out of the literally padded image."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    return {(y, x): padded[y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)}


@pytest.mark.parametrize(("flip", "pad"), [(False, PAD), (True, PAD), (True, 1)])
def test_crop_gives_every_window_of_the_reflected_image_and_no_other(flip, pad):
    image = np.random.default_rng(0).normal(size=(10, 10, 2)).astype(np.float32)
    windows = {cut.tobytes(): (place, False) for place, cut in literal_windows(image, pad).items()}
    if flip:
        windows |= {cut[:, ::-1].tobytes(): (place, True) for place, cut in literal_windows(image, pad).items()}
    draw = jax.jit(crop, static_argnames=("flip", "pad"))
    batch = draw(jax.random.key(0), jnp.tile(image, (3000, 1, 1, 1)), flip=flip, pad=pad)
    drawn = [windows[row] for row in rows(np.asarray(batch))]
    assert set(drawn) == set(windows.values())
    for values in zip(*[(*place, mirrored) for place, mirrored in drawn], strict=True):
        counts = np.unique(values, return_counts=True)[1]
        assert np.abs(counts - 3000 / len(counts)).max() < 5 * np.sqrt(3000 / len(counts))


def own(name):
    """The augmentation of a registered data set."""
    return augmentation(DATASETS[name].augment, DATASETS[name].shape)


@pytest.mark.parametrize("name", DATASETS)
def test_augmentation_laws(name):
    if DATASETS[name].augment == "none":
        assert own(name) is None
        return
    augment = jax.jit(own(name))
    images = jax.random.normal(jax.random.key(1), (3, 16, *DATASETS[name].shape))
    keys = jax.random.split(jax.random.key(2), 3)
    one_by_one = jnp.stack([augment(key, batch) for key, batch in zip(keys, images, strict=True)])
    assert one_by_one.shape == images.shape and one_by_one.dtype == images.dtype
    np.testing.assert_array_equal(one_by_one, jax.vmap(augment)(keys, images))
    np.testing.assert_array_equal(one_by_one, jax.lax.map(lambda pair: augment(*pair), (keys, images)))
    assert not np.array_equal(one_by_one[0], augment(keys[1], images[0]))


def test_a_forgotten_row_of_nan_stays_in_its_row():
    images = jnp.ones((8, 32, 32, 3)).at[2].set(jnp.nan)
    augmented = jax.jit(own("cifar10"))(jax.random.key(0), images)
    np.testing.assert_array_equal(jnp.isnan(augmented).any((1, 2, 3)), jnp.arange(8) == 2)
