"""Forget sets: exact counts, fixed by seed and index, and impossible ones refused by the option's name."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.data.forget_sets import choose, class_of, numbered
from unlearn_jax.data.images import load
from unlearn_jax.data.sources import digits
from unlearn_jax.data.splits import Published
from unlearn_jax.errors import ArgumentError

few = settings(max_examples=50, deadline=None)
LABELS = np.repeat([0, 1, 2], [50, 30, 20])


@few
@given(st.integers(1, 99), st.integers(0, 99), st.integers(0, 9))
def test_random_takes_exactly_the_count_and_a_larger_set_contains_it(size, seed, index):
    options = {"kind": "random", "classes": 3, "seed": seed, "index": index}
    forget = choose(LABELS, size=size, **options)
    assert forget.dtype == bool and forget.shape == LABELS.shape and forget.sum() == size
    np.testing.assert_array_equal(forget, choose(LABELS, size=size, **options))
    assert choose(LABELS, size=99, **options)[forget].all()


@few
@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(0, 2))
def test_a_share_is_rounded_to_rows_of_all_or_of_the_class(share, label):
    in_class = (label == LABELS).sum()
    for kind, rows, most in (("random", 100, 99), ("class_part", in_class, in_class)):
        if 1 <= round(share * rows) <= most:
            forget = choose(LABELS, kind=kind, size=share, label=label, classes=3)
            assert forget.sum() == round(share * rows)
            assert kind == "random" or (LABELS[forget] == label).all()
        else:
            with pytest.raises(ArgumentError, match=r"size"):
                choose(LABELS, kind=kind, size=share, label=label, classes=3)


@pytest.mark.parametrize("kind", ["random", "class_part"])
def test_each_index_and_each_seed_draws_anew(kind):
    draws = [choose(LABELS, kind=kind, size=0.4, label=0, classes=3, seed=s, index=i) for s in range(3) for i in range(3)]
    assert len({draw.tobytes() for draw in draws}) == len(draws)


def test_class_takes_all_of_it_and_the_next_index_the_next_class():
    for index, label in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(choose(LABELS, kind="class", label=2, classes=3, index=index), label == LABELS)


def test_forget_sets_are_independent_of_label_noise_and_sampling():
    data = load("digits", train_size=1000, label_noise=0.2)
    wrong = data.train.labels != data.clean_labels
    for index in range(5):  # hypergeometric: 40 expected, standard deviation 5.4
        forget = choose(data.train.labels, kind="random", size=0.2, classes=10, index=index)
        assert 15 < (forget & wrong).sum() < 65


def test_mislabelled_takes_all_wrong_rows_once():
    wrong = np.arange(100) % 7 == 0
    np.testing.assert_array_equal(choose(LABELS, kind="mislabelled", wrong=wrong, classes=3), wrong)
    for options, said in (({"wrong": wrong, "index": 1}, "one forget set"), ({"wrong": ~wrong & wrong}, "no label is wrong")):
        with pytest.raises(ArgumentError, match=said):
            choose(LABELS, kind="mislabelled", classes=3, **options)


def test_some_of_the_mislabelled_are_drawn_anew_for_each_index():
    wrong = np.arange(100) % 7 == 0
    draws = [choose(LABELS, kind="mislabelled_part", wrong=wrong, size=0.4, classes=3, index=index) for index in range(3)]
    assert all(draw.sum() == 6 and not (draw & ~wrong).any() for draw in draws) and len({draw.tobytes() for draw in draws}) == 3
    with pytest.raises(ArgumentError, match=r"^kind mislabelled_part: no label is wrong"):
        choose(LABELS, kind="mislabelled_part", wrong=~wrong & wrong, size=0.4, classes=3)


def test_ranked_kinds_take_the_ends_and_go_on_to_the_next_rows():
    scores = np.random.default_rng(0).permutation(100).astype(float)
    for kind, order in (
        ("memorised", np.argsort(-scores)),
        ("exposed", np.argsort(-scores)),
        ("unmemorised", np.argsort(scores)),
    ):
        for index in range(3):
            found = choose(LABELS, kind=kind, scores=lambda: scores, size=0.3, classes=3, index=index)
            np.testing.assert_array_equal(np.flatnonzero(found), np.sort(order[30 * index : 30 * (index + 1)]))
        with pytest.raises(ArgumentError, match=r"size 0\.3: 100 rows do not make 4 sets of 30"):
            choose(LABELS, kind=kind, scores=lambda: scores, size=0.3, classes=3, index=3)


def test_models_are_not_trained_for_a_size_that_cannot_be():
    for size in (0, -1, float("nan"), 100):
        with pytest.raises(ArgumentError, match=r"size"):
            choose(LABELS, kind="memorised", scores=lambda: pytest.fail("asked"), size=size, classes=3)


def test_equal_scores_stand_in_random_order():
    draws = [choose(LABELS, kind="memorised", scores=lambda: np.zeros(100), size=10, classes=3, seed=seed) for seed in range(3)]
    assert len({draw.tobytes() for draw in draws}) == 3


@pytest.mark.parametrize("rows", [[3], [99, 0, 7], list(range(99))])
def test_a_file_lists_rows_as_text_or_as_npy(tmp_path, rows):
    (tmp_path / "rows.txt").write_text("\n".join(map(str, rows)))
    np.save(tmp_path / "rows.npy", np.array(rows))
    for name in ("rows.txt", "rows.npy"):
        forget = choose(LABELS, kind="file", file=tmp_path / name, classes=3)
        np.testing.assert_array_equal(np.flatnonzero(forget), sorted(rows))


ROWS = [99, 0, 7]
MASK = np.isin(np.arange(100), ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", "99, 0\n7"),
        ("mask.txt", "\n".join(map(str, MASK.astype(int)))),
        ("mask.txt", " ".join(map(str, MASK))),
        ("rows.csv", "99\n0\n7\n"),
        ("rows.csv", '"row"\r\n"99"\r\n0\r\n\r\n7'),
        ("rows.CSV", "99,0,7"),
        ("rows.csv", "99 0\n7"),
        ("mask.csv", "forget\n" + "\n".join(map(str, MASK))),
        ("rows.json", "[99, 0, 7]"),
        ("mask.json", json.dumps(MASK.tolist())),
        ("mask.json", json.dumps(MASK.astype(int).tolist())),
    ],
)
def test_rows_and_masks_in_any_text(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    np.testing.assert_array_equal(choose(LABELS, kind="file", file=tmp_path / name, classes=3), MASK)


def test_rows_and_masks_as_arrays_and_several_files(tmp_path):
    for number, array in enumerate((np.array(ROWS, np.uint8), MASK, MASK.astype(np.int8), MASK.astype(float)[ROWS].astype(bool))):
        np.save(tmp_path / f"{number}.npy", array)
        np.savez(tmp_path / f"{number}.npz", rows=array)
        np.savez_compressed(tmp_path / f"{number}c.npz", array)
    files = [f"{number}{kind}" for number in range(3) for kind in (".npy", ".npz", "c.npz")]
    for name in files:
        np.testing.assert_array_equal(choose(LABELS, kind="file", file=str(tmp_path / name), classes=3), MASK)
    with pytest.raises(ArgumentError, match=r"3\.npy: .* \(a mask needs a value for each of 100 rows; it has 3\)$"):
        choose(LABELS, kind="file", file=tmp_path / "3.npy", classes=3)
    (tmp_path / "one.txt").write_text("1")
    several = [tmp_path / "0.npy", tmp_path / "one.txt"]
    assert np.flatnonzero(choose(LABELS, kind="file", file=several, classes=3, index=1)).tolist() == [1]
    with pytest.raises(ArgumentError, match=r"one\.txt: 2 files give one forget set each; ask for 2"):
        choose(LABELS, kind="file", file=several, classes=3, index=2)


def test_zeros_and_ones_are_a_mask_where_they_could_not_be_rows():
    assert numbered([0, 1], 3) == [0, 1] and numbered([1], 3) == [1] and numbered([], 3) == []
    assert numbered([0, 1, 1], 3) == [1, 2] and numbered([False, True, False], 3) == [1]
    assert numbered([0, 1, 2], 3) == [0, 1, 2]
    for wrong, said in (
        ([0, 1, 0, 1], "a mask needs a value for each of 3 rows; it has 4"),
        ([True], "a mask needs a value for each of 3 rows; it has 1"),
        ([True, 1, 0], "neither integers alone nor truth values alone"),
        ([1.0], "neither integers alone nor truth values alone"),
        (["1"], "neither integers alone nor truth values alone"),
    ):
        with pytest.raises(ValueError, match=said):
            numbered(wrong, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", '{"rows": [1]}', "it holds a dict; a list is needed"),
        ("rows.json", "[1, [2]]", "neither integers alone nor truth values alone"),
        ("rows.json", "[1.0]", "neither integers alone nor truth values alone"),
        ("rows.json", "[" * 6000, "RecursionError|recursion"),
        ("rows.json", "[1", "delimiter"),
        ("rows.csv", ",row\n0,4\n1,5\n", "it has 2 columns; one, that of row numbers or of a mask, is needed"),
        ("rows.csv", "row\nx\n", "invalid literal"),
        ("rows.csv", "row\n", "1 to 99 different rows are needed; it lists 0"),
        ("rows.txt", "true 1", "invalid literal"),
        ("rows.npz", "text", "not a zip file"),
    ],
)
def test_text_that_is_neither_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ArgumentError, match=rf"^file .*{name}: [^\n]*({said})[^\n]*$"):
        choose(LABELS, kind="file", file=tmp_path / name, classes=3)


def test_archives_of_several_arrays_or_of_too_much_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.arange(3))
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros(10**7))
    np.savez(tmp_path / "objects.npz", np.array([{}], object))
    cases = (("two", "it holds 2 arrays"), ("bomb", "80,000,128 bytes, more than"), ("objects", "no array of numbers"))
    for name, said in cases:
        with pytest.raises(ArgumentError, match=rf"^file .*{name}\.npz: [^\n]*{said}[^\n]*$"):
            choose(LABELS, kind="file", file=tmp_path / f"{name}.npz", classes=3)


@pytest.mark.parametrize("train_size", [None, 300])
def test_the_numbers_of_a_file_are_those_of_the_published_training_set(tmp_path, train_size):
    data, (published, _) = load("digits", train_size=train_size, label_noise=0.5), digits()
    listed = data.published.train[[12, 3, 250]]
    assert listed[0] != 12
    np.savetxt(tmp_path / "rows.txt", listed, fmt="%d")
    forget = choose(data.train.labels, kind="file", file=tmp_path / "rows.txt", published=data.published, classes=10)
    np.testing.assert_array_equal(np.flatnonzero(forget), [3, 12, 250])
    np.testing.assert_array_equal(data.clean_labels[forget], published.labels[np.sort(listed)])


def test_a_number_that_is_not_trained_on_is_refused_and_said(tmp_path):
    published = Published(200, train=np.arange(0, 200, 2), held_out=np.array([1, 3, 5]))
    (tmp_path / "rows.txt").write_text("4 1 7 9 11 3 13 15 17 2")
    said = (
        r"rows.txt: rows that are trained on are needed; of the 10 listed 2 held out from training "
        r"\(no row is if the data bring held-out rows of their own\): 1, 3; "
        r"6 not in the sample of the training set: 7, 9, 11, 13, 15, \.\.\.$"
    )
    with pytest.raises(ArgumentError, match=said):
        choose(LABELS, kind="file", file=tmp_path / "rows.txt", published=published, classes=3)
    (tmp_path / "rows.txt").write_text("4 200")
    with pytest.raises(ArgumentError, match="rows of the published training set, 0 to 199, are needed; it lists 4 to 200"):
        choose(LABELS, kind="file", file=tmp_path / "rows.txt", published=published, classes=3)


@pytest.mark.parametrize(("kind", "held"), [("class", [2, 0, 1]), ("class_part", [2, 2, 2])])
def test_one_place_knows_which_class_a_set_holds(kind, held):
    for index, label in enumerate(held):
        forget = choose(LABELS, kind=kind, size=0.5, label=2, classes=3, index=index)
        assert class_of(kind, 2, 3, index) == label
        assert set(LABELS[forget]) == {label}
    assert class_of("random", 2, 3) is None


@pytest.mark.parametrize("text", ["", "1 1", "-1", "100", "1.5", "one", "9" * 30, "9" * 5000, " ".join(map(str, range(100)))])
def test_bad_text_files_are_refused(tmp_path, text):
    (tmp_path / "rows.txt").write_text(text)
    with pytest.raises(ArgumentError, match=r"file .*rows\.txt"):
        choose(LABELS, kind="file", file=tmp_path / "rows.txt", classes=3)


@pytest.mark.parametrize("array", [np.array([1.0]), np.array([[1, 2]]), np.array(3), np.array([{}]), LABELS[1:] == 0, LABELS < 3])
def test_bad_npy_files_are_refused(tmp_path, array):
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(ArgumentError, match=r"file .*rows\.npy"):
        choose(LABELS, kind="file", file=tmp_path / "rows.npy", classes=3)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "truncated.npy").write_bytes(b"\x93NUMPY\x01")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    for file in (None, tmp_path, tmp_path / "missing", tmp_path / "truncated.npy", tmp_path / "binary.txt"):
        with pytest.raises(ArgumentError, match=r"file"):
            choose(LABELS, kind="file", file=file, classes=3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"kind": "everything"},
            r"kind everything: one of random, class, class_part, mislabelled, mislabelled_part, .*file",
        ),
        *[({"size": size}, rf"size {size}: .* 1 to 99") for size in (None, 0, -1, -0.5, 100, 101, 1.5, 0.001, 0.999)],
        *[({"size": float(size)}, r"size") for size in ("nan", "inf", "-inf")],
        *[({"kind": "class_part", "size": size, "label": 2}, r"size .* 1 to 20") for size in (0, 21, 0.01)],
        *[({"kind": kind, "label": label}, r"label") for kind in ("class", "class_part") for label in (None, -1, 4)],
        ({"kind": "class", "label": 3}, r"label 3: has 0 of the 100"),  # a class without rows
        ({"kind": "class", "label": 0, "index": 4}, r"kind class: there are 4 classes"),
        ({"kind": "file", "file": __file__, "index": 1}, r"file .*one forget set"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_forget_sets_are_refused(options, named):
    with pytest.raises(ArgumentError, match=named):
        choose(LABELS, **{"kind": "random", "size": 0.1, "classes": 4} | options)


def test_the_only_class_cannot_be_forgotten_whole():
    for kind in ("class", "class_part"):
        with pytest.raises(ArgumentError, match=r"label 0: has 5 of the 5"):
            choose(np.zeros(5, int), kind=kind, size=1, label=0, classes=1)


class Opened:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_a_file_of_rows_is_never_unpickled(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([Opened(tmp_path / "mark")], object), allow_pickle=True)
    with pytest.raises(ArgumentError, match="row numbers, or of a mask of the training set, is needed"):
        choose(LABELS, kind="file", file=tmp_path / "rows.npy", classes=3)
    assert not (tmp_path / "mark").exists()


def test_times_are_no_row_numbers(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([4], "m8[s]"))
    everything = Published(100, np.arange(100), np.zeros(0, int))
    with pytest.raises(ArgumentError, match=r"file .*timedelta64"):
        choose(LABELS, kind="file", file=tmp_path / "rows.npy", published=everything, classes=3)
