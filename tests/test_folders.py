"""Data sets from anybody's folders of images: what is read, in which order, and what is refused."""

import functools
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import run_in_process
from test_fuzz import damaged, examples, refused_or

from unlearn_jax import ArgumentError, Dataset, build, load
from unlearn_jax.bench import command_line
from unlearn_jax.bench.experiments import EXPERIMENTS
from unlearn_jax.bench.setting import setting_of
from unlearn_jax.data.folder import read_folder
from unlearn_jax.data.sources import digits
from unlearn_jax.models.convolution import FORMS, convolve
from unlearn_jax.training.fit import fit
from unlearn_jax.types import Recipe

CLASSES = ("10", "2", "owl")  # sorted as text
COUNTS = {"train": 8, "test": 3}


def pixels(size=6, colour=True, parts=COUNTS, seed=0):
    """Arrays by part, of so many images a class, class by class."""
    rng = np.random.default_rng(seed)
    shape = (size, size, 3 if colour else 1)
    return {part: rng.integers(0, 256, (len(CLASSES) * count, *shape)).astype(np.uint8) for part, count in parts.items()}


def written(folder, arrays, suffix="png"):
    """The arrays as image files; every tenth name comes before its neighbours."""
    for part, images in arrays.items():
        for row, image in enumerate(images):
            name, number = CLASSES[row // (len(images) // len(CLASSES))], row % (len(images) // len(CLASSES))
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / part / name / f"{number}.{suffix}")
    return folder


def labels_of(images):
    return np.repeat(np.arange(len(CLASSES)), len(images) // len(CLASSES))


def same(data, **arrays):
    """Whether a data set is that of arrays."""
    pairs = {part: (images, labels_of(images)) for part, images in arrays.items()}
    return data.fingerprint == Dataset.from_arrays(**pairs).fingerprint


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "pets", pixels())


def test_a_folder_is_the_data_set_of_its_arrays(folder):
    data = load(str(folder))
    assert (data.name, data.class_names, data.classes) == ("pets", CLASSES, 3)
    assert same(data, **pixels())
    (folder / "train/.hidden").write_text("")
    (folder / "train/2/.DS_Store").write_text("")
    (folder / "README").write_text("")
    assert load(f"{folder}/").fingerprint == data.fingerprint
    more = pixels(parts={**COUNTS, "held_out": 2})
    written(folder, more)
    whole = load(str(folder))
    assert same(whole, **more) and (len(whole.train.labels), len(whole.held_out.labels)) == (24, 6)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
def test_grey_images_have_one_channel_in_formats_that_know_grey(tmp_path, suffix):
    arrays = pixels(colour=False)
    data = load(str(written(tmp_path, arrays, suffix)))
    if suffix in ("png", "bmp", "tiff"):
        assert same(data, **arrays)
    else:
        assert data.train.images.shape[1:] == (6, 6, 1 if suffix == "jpg" else 3)  # the others know colours and palettes only


def test_one_image_in_colour_makes_all_rgb_and_palettes_and_opaque_alpha_count_as_colour(folder):
    arrays = pixels(colour=False)
    shutil.rmtree(folder)
    written(folder, arrays)
    file = folder / "test/owl/1.png"
    grey = PIL.Image.open(file)
    wide = {part: np.repeat(images, 3, axis=-1) for part, images in arrays.items()}
    for other in (grey.convert("RGB"), grey.convert("RGBA"), grey.convert("P"), grey.convert("CMYK")):
        other.save(file, format="TIFF" if other.mode == "CMYK" else "PNG")
        assert same(load(str(folder)), **wide), other.mode
    grey.convert("LA").save(file)
    assert same(load(str(folder)), **arrays)


def test_links_are_followed_under_their_own_names(folder, tmp_path):
    linked = tmp_path / "linked"
    for part in COUNTS:
        (linked / part).mkdir(parents=True)
        (linked / part / "10").symlink_to(folder / part / "10")
        for name in CLASSES[1:]:
            (linked / part / name).mkdir()
            for file in (folder / part / name).iterdir():
                (linked / part / name / file.name).symlink_to(file)
    assert load(str(linked)).fingerprint == load(str(folder)).fingerprint


def without(folder, names):
    for part in COUNTS:
        for name in names:
            shutil.rmtree(folder / part / name)


def transparent(folder):
    PIL.Image.new("RGBA", (6, 6), (1, 2, 3, 254)).save(folder / "train/owl/9.png")


def animated(folder):
    frames = [PIL.Image.new("L", (6, 6), shade) for shade in (1, 90)]
    frames[0].save(folder / "train/owl/9.png", save_all=True, append_images=frames[1:])


def bomb(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
        PIL.Image.new("1", (10_000, 10_000)).save(folder / "train/owl/9.png")


def deep(folder):
    PIL.Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(folder / "train/owl/9.png")


def deep_colour(folder):
    """A PNG with 16 bits a channel, which Pillow would cut to 8."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(6 * bytes(1 + 6 * 3 * 2)),
        b"IEND": b"",
    }
    written = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks.items()
    ]
    (folder / "train/owl/9.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


def cut(folder):
    file = folder / "train/owl/7.png"
    file.write_bytes(file.read_bytes()[:60])


def link_to_nothing(folder):
    (folder / "train/owl/9.png").symlink_to("nowhere")


def link_to_itself(folder):
    (folder / "train/owl/9.png").symlink_to("9.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shutil.rmtree(folder / "test"), r"/test: a folder with train/CLASS/ and test/CLASS/ is needed"),
        (lambda folder: shutil.rmtree(folder / "test/2"), r"/test/2: every part needs the same classes"),
        (lambda folder: (folder / "test/zoo").mkdir(), r"/test/zoo: has no images"),
        (lambda folder: (folder / "train/10").rename(folder / "train/a"), r"/train/10: every part needs the same classes"),
        (lambda folder: without(folder, CLASSES), r"/train: .*it is empty"),
        (lambda folder: without(folder, CLASSES[1:]), r": .*classes: 1 found"),
        (lambda folder: (folder / "train/owl/9.png").write_text("text"), r"/train/owl/9\.png: an image of 8 bits is needed, BMP"),
        (lambda folder: (folder / "train/owl/9.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), r"/train/owl/9\.eps: .*none of"),
        (lambda folder: (folder / "train/owl/sub").mkdir(), r"/train/owl/sub: .*Is a directory"),
        (lambda folder: (folder / "train/list.csv").write_text(""), r"/train/list\.csv: .*Not a directory"),
        (lambda folder: os.mkfifo(folder / "train/owl/9.png"), r"/train/owl/9\.png: .*not a regular file"),
        (lambda folder: PIL.Image.new("RGB", (6, 7)).save(folder / "test/2/9.png"),
         r"/test/2/9\.png: images of one size are needed; it has 6x7 pixels, where train/10/0\.png has 6x6"),
        (transparent, r"/train/owl/9\.png: .*transparent in places"),
        (animated, r"/train/owl/9\.png: .*2 frames"),
        (bomb, r"/train/owl/9\.png: .*decompression bomb"),
        (deep, r"/train/owl/9\.png: .*I;16"),
        (deep_colour, r"/train/owl/9\.png: .*16 bits"),
        (cut, r"/train/owl/7\.png: an image of 8 bits is needed"),
        (link_to_nothing, r"/train/owl/9\.png: .*No such file"),
        (link_to_itself, r"/train/owl/9\.png: .*Too many levels"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_one_line_that_names_the_file(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ArgumentError, match=rf"^dataset {folder}{said}[^\n]*$"):
        load(str(folder))


def test_more_than_half_of_the_memory_is_refused_before_anything_is_decoded(folder, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr("unlearn_jax.data.folder._pixels", lambda image: pytest.fail("decoded"))
    with pytest.raises(ArgumentError, match=r"pets: 33 images of 6x6x3 take 0 GiB, where 0 GiB are accepted$"):
        load(str(folder))


def test_what_is_neither_a_name_nor_there_is_one_line(folder):
    for name in ("nowhere", "/nowhere/at/all", "~nobody/folder", "x" * 5000, "a\0b"):
        with pytest.raises(ArgumentError, match=r"or an \.npz file, or a folder of images by class, is needed$"):
            load(name)
    with pytest.raises(ArgumentError, match=r"^dataset .*: an \.npz file with"):
        load("~nobody/x.npz")
    with pytest.raises(ArgumentError, match=r"^data_dir \.: .*pets is where its data are; expected None"):
        load(str(folder), data_dir=".")
    with pytest.raises(ArgumentError, match=r"^held_out 0\.2: .*pets may hold held-out rows of its own; expected 0\.1"):
        load(str(folder), held_out=0.2)


@examples(60)
@given(data=st.data(), suffix=st.sampled_from(["png", "gif", "bmp", "jpg"]))
def test_any_content_of_an_image_is_read_or_refused(data, suffix):
    with tempfile.TemporaryDirectory() as made:
        folder = written(Path(made), pixels(2, parts={"train": 2, "test": 1}), suffix)
        file = folder / f"train/owl/1.{suffix}"
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        found = refused_or(lambda: read_folder(folder), "--dataset")
        assert found is None or found.train.images.shape[1:] in {(2, 2, 1), (2, 2, 3)}


# Noise and samples, of which a file has none unless they are typed


def test_noise_and_a_sample_of_ones_own_data_are_drawn_as_those_of_the_named():
    train, test = digits()
    with tempfile.TemporaryDirectory() as made:
        np.savez(f"{made}/mine.npz", x_train=train.images, y_train=train.labels, x_test=test.images, y_test=test.labels)
        plain = load(f"{made}/mine.npz")
        own, named = (load(name, label_noise=0.2, seed=3) for name in (f"{made}/mine.npz", "digits"))
        for part in ("train", "held_out", "test"):
            for a, b in zip(getattr(own, part), getattr(named, part), strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(own.clean_labels, plain.train.labels)
        small, large = (load(f"{made}/mine.npz", train_size=size, seed=3) for size in (60, 200))
        assert set(small.published.train) < set(large.published.train) < set(plain.published.train)
        assert np.bincount(small.train.labels).tolist() == [6] * 10
        np.testing.assert_array_equal(train.labels[small.published.train], small.train.labels)
        assert len({data.fingerprint for data in (plain, own, small, large)}) == 4
        everything = load(f"{made}/mine.npz", train_size=len(plain.train.labels))
        assert everything.fingerprint == plain.fingerprint
        for size in (9, 1294):
            with pytest.raises(ArgumentError, match=rf"^train_size {size}: 10 to 1293 rows of mine can be trained on"):
                load(f"{made}/mine.npz", train_size=size)
        wrong = np.where(np.arange(len(train.labels)) < 300, (train.labels + 1) % 10, train.labels)
        np.savez(
            f"{made}/wrong.npz", x_train=train.images, y_train=wrong, clean_y_train=train.labels,
            x_test=test.images, y_test=test.labels,
        )  # fmt: skip
        with pytest.raises(ArgumentError, match=r"^label_noise 0\.1: wrong brings wrong labels of its own; expected 0"):
            load(f"{made}/wrong.npz", label_noise=0.1)


def test_the_defaults_fit_data_of_ones_own_and_stay_for_the_named(folder, tmp_path, monkeypatch):
    def parsed(*words):
        config = command_line.parse([str(word) for word in words], EXPERIMENTS)
        return config.label_noise, config.train_size

    assert parsed() == (0.1, None) and parsed("--smoke") == (0.1, 300)
    for path in (folder, tmp_path / "absent.npz"):
        assert parsed("--dataset", path) == parsed("--dataset", path, "--smoke") == (0.0, None)
        assert parsed("--dataset", path, "--label-noise", 0.1, "--train-size", 30) == (0.1, 30)
    (tmp_path / "mine.toml").write_text(f"dataset = '{folder}'\ntrain_size = 20")
    assert parsed("--config", tmp_path / "mine.toml") == (0.0, 20)
    monkeypatch.chdir(tmp_path)
    assert parsed("--dataset", "pets") == (0.0, None)
    folder.rename("digits")
    assert parsed("--dataset", "digits") == (0.1, None) and parsed("--dataset", "./digits") == (0.0, None)
    assert load("digits").classes == 10 and load("./digits").classes == 3


# Larger images


@pytest.mark.parametrize(("name", "size", "form"), [("resnet8", 64, "xla"), ("resnet8", 96, "products"), ("mlp", 96, None)])
def test_larger_images_fit_the_built_in_networks(name, size, form):
    """Traced, not compiled: the shapes of a whole training and of its gradients."""
    rng = np.random.default_rng(0)
    arrays = rng.random((40, size, size, 3), np.float32), np.arange(40) % 5
    model = build(name, classes=5, width=8, **({"convolution": form} if form else {}))
    problem = setting_of(Dataset.from_arrays(arrays, arrays), model, {}, Recipe(epochs=1, batch_size=16)).problem
    train = functools.partial(fit, count=36, problem=problem)
    variables = jax.eval_shape(train, jax.random.key(0), jax.ShapeDtypeStruct((36,), bool))
    images = jax.ShapeDtypeStruct((16, size, size, 3), np.float32)
    assert jax.eval_shape(model.apply, variables, images)[0].shape == (16, 5)


@pytest.mark.parametrize(("size", "channels", "stride"), [(64, 8, 1), (96, 8, 1), (65, 8, 2), (96, 3, 1)])
def test_the_forms_of_a_convolution_agree_on_larger_images(size, channels, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(channels, size, size, 16)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, 8)).astype(np.float32)
    first, *others = (jax.jit(convolve, static_argnums=(2, 3))(x, kernel, stride, form) for form in FORMS)
    for other in others:
        np.testing.assert_allclose(first, other, rtol=1e-4, atol=1e-3)


def test_a_folder_goes_through_the_command_line(tmp_path):
    folder = written(tmp_path / "large", pixels(64, parts={"train": 10, "test": 4, "held_out": 2}))
    mask = np.arange(30) % 5 == 0
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "rows.csv").write_text("row\n1\n11\n21\n")
    words = "--smoke --device cpu --members 2 --evaluation.splits 2 --train.epochs 1 --width 4 --methods original"
    places = (
        "--dataset",
        folder,
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        "--forget.kind",
        "file",
        "--forget.file",
    )
    files = f"{tmp_path / 'mask.npy'},{tmp_path / 'rows.csv'}"
    done = run_in_process(*words.split(), *places, files)
    assert done.returncode == 0, done.stderr
    assert np.loadtxt(tmp_path / "out/forget_sets/file-0.txt").tolist() == np.flatnonzero(mask).tolist()
    assert np.loadtxt(tmp_path / "out/forget_sets/file-1.txt").tolist() == [1, 11, 21]
    refused = run_in_process(*words.split(), *places, files, "--forget-sets", "3")
    assert refused.returncode == 2
    assert "--forget-sets 3: expected 2, one for each file of --forget.file" in refused.stderr
    (tmp_path / "again.txt").write_text("21 11 1")
    twice = f"{tmp_path / 'rows.csv'},{tmp_path / 'again.txt'}"
    refused = run_in_process(*words.split(), *places, twice, "--out", tmp_path / "other")
    assert refused.returncode == 2
    assert "again.txt: file-0 and file-1 are the same rows" in refused.stderr
    refused = run_in_process("--exp", "ulira", "--smoke", *places, twice, "--out", tmp_path / "other")
    assert refused.returncode == 2
    assert "again.txt: --exp ulira takes one forget set" in refused.stderr
