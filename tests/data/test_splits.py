"""Held-out images and folds."""

import dataclasses

import numpy as np
import pytest

from jaxdrill import data
from jaxdrill.data import splits
from jaxdrill.errors import UsageError


def same(a: data.Dataset, b: data.Dataset) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in data.FILES)


@pytest.fixture(scope="module")
def source(all_digits) -> dict[bytes, int]:
    """The source digit of each training image."""
    return {image.tobytes(): n % 1437 for n, image in enumerate(all_digits.train_images)}


@pytest.mark.parametrize("count", [100, 400])
def test_held_out_images_are_fixed_stratified_and_not_trained_on(digits, count):
    held, again = (splits.hold_out(digits, count, "auto") for _ in range(2))
    assert same(held, again) and held.split == "validation"
    assert (len(held.train_labels), len(held.test_labels)) == (1437 - count, count)
    shares = np.bincount(digits.train_labels) * count / 1437
    assert (abs(np.bincount(held.test_labels) - shares) <= 1).all()
    both = np.concatenate([held.train_images, held.test_images]).reshape(1437, -1)
    assert np.array_equal(
        np.unique(both, axis=0), np.unique(digits.train_images.reshape(1437, -1), axis=0)
    )
    test = splits.hold_out(digits, count, "test")
    assert test.split == "test" and np.array_equal(test.test_images, digits.test_images)
    assert np.array_equal(test.train_images, held.train_images)


def test_all_drawings_of_a_digit_are_in_the_same_part(all_digits, source):
    held = splits.hold_out(all_digits, 1000, "auto")
    assert (len(held.train_labels), len(held.test_labels)) == (10_496, 1000)
    kept = {source[image.tobytes()] for image in held.train_images}
    out = {source[image.tobytes()] for image in held.test_images}
    assert (len(kept), len(out), kept & out) == (1312, 125, set())
    assert kept == set(held.groups.tolist())
    shares = np.bincount(all_digits.train_labels) * 1000 / 11_496
    assert (abs(np.bincount(held.test_labels) - shares) <= 8).all()
    again = splits.hold_out(held, 1000, "auto")  # The remaining images keep their groups.
    out = {source[image.tobytes()] for image in again.test_images}
    assert not out & {source[image.tobytes()] for image in again.train_images}


def test_folds_of_digits_share_no_source_digit(all_digits, source):
    folds = [splits.hold_out(all_digits, 2299, "auto", fold) for fold in range(1, 6)]
    out = [{source[image.tobytes()] for image in fold.test_images} for fold in folds]
    assert [len(fold.test_labels) for fold in folds] == [2304, 2304, 2296, 2296, 2296]
    assert [len(sources) for sources in out] == [288, 288, 287, 287, 287]
    assert len(set.union(*out)) == 1437
    for fold, sources in zip(folds, out, strict=True):
        assert not sources & {source[image.tobytes()] for image in fold.train_images}


@pytest.mark.parametrize(("count", "held"), [(700, 704), (1436, 1440), (1441, 1440)])
def test_a_count_is_rounded_to_whole_groups_with_a_message(all_digits, capsys, count, held):
    assert len(splits.hold_out(all_digits, count, "auto").test_labels) == held
    assert capsys.readouterr().err == (
        f"jaxdrill: {held} images are held out instead of {count}: all 8 drawings of each of "
        f"{held // 8} source images\n"
    )
    splits.hold_out(all_digits, held, "auto")
    assert capsys.readouterr().err == ""


def test_the_split_of_images_without_groups_never_changes(digits):
    """Old run folders depend on these bits. Groups of one image give the same split."""
    for dataset in (digits, dataclasses.replace(digits, groups=None)):
        held = splits.hold_out(dataset, 400, "auto")
        fold = splits.hold_out(dataset, 287, "auto", 2)
        assert held.sha256.startswith("8b1eede3b0de78f5")
        assert fold.sha256.startswith("5a8b0b5e9590fda1")


def test_folds_hold_out_each_image_once(digits):
    folds = [splits.hold_out(digits, 287, "auto", fold) for fold in range(1, 6)]
    assert [len(fold.test_labels) for fold in folds] == [288, 288, 287, 287, 287]
    for n, fold in enumerate(folds, start=1):
        assert same(fold, splits.hold_out(digits, 287, "auto", n))
    held = np.concatenate([fold.test_images for fold in folds]).reshape(1437, -1)
    assert np.array_equal(
        np.sort(held.sum(1)), np.sort(digits.train_images.reshape(1437, -1).sum(1))
    )
    shares = np.bincount(digits.train_labels) / 5
    for fold in folds:
        assert len(fold.train_labels) + len(fold.test_labels) == 1437 and fold.split == "validation"
        assert (abs(np.bincount(fold.test_labels) - shares) <= 1).all()


@pytest.mark.parametrize(
    ("count", "fold", "message"),
    [
        (287, 6, "fold is 6; 1437 training images make 5 of 287$"),
        (800, 1, "fold is 1; 1437 training images make 1 of 800; hold out at most half of them$"),
        (0, 2, "fold is 2, but no images are held out; add --hold-out 10000$"),
    ],
)
def test_a_fold_that_does_not_exist_is_rejected(digits, count, fold, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        splits.hold_out(digits, count, "auto", fold)


def test_a_count_that_does_not_fit_is_rejected(digits):
    assert splits.hold_out(digits, 0, "auto") is digits
    for count in (1, 9, 1428, 1437, 10_000):
        with pytest.raises(
            UsageError, match=f"hold_out is {count}; allowed for digits: 0, or from 10 to 1427"
        ):
            splits.hold_out(digits, count, "auto")
    with pytest.raises(UsageError, match="no images are held out; add --hold-out 10000"):
        splits.hold_out(digits, 0, "validation")


@pytest.mark.parametrize("count", [10, 79, 11_417])
def test_each_class_needs_a_group_in_both_parts(all_digits, count):
    with pytest.raises(
        UsageError,
        match=f"hold_out is {count}; allowed for digits: 0, or from 80 to 11416, so that",
    ):
        splits.hold_out(all_digits, count, "auto")


def test_the_splits_of_mnist_never_change(mnist_dir):
    """Old run folders and results depend on these bits."""
    mnist = data.load("mnist", mnist_dir)
    held, fold = splits.hold_out(mnist, 10_000, "auto"), splits.hold_out(mnist, 12_000, "auto", 3)
    assert held.sha256 == "c3322af42c120285ae3aff7756bb4e3d6ac74870ad8648817635224763fddc4e"
    assert fold.sha256 == "c992988800754456ad748ccd8168e3c19f8faff1a50f80d24f3a00875e40e64c"
