"""Hold out training images, to choose between recipes without using the test images."""

from dataclasses import replace

import numpy as np

from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError, print_error


def hold_out(dataset: Dataset, count: int, evaluate_on: str, fold: int = 0) -> Dataset:
    """Hold out `count` training images, and evaluate them instead of the test images.

    The split is fixed and stratified by class. If a dataset has `groups`, whole groups are held
    out, so that drawings of one source image are never in both parts. The number of held-out
    images is then the multiple of the group size that is closest to `count`, and a line on stderr
    states it if it differs from `count`.

    Args:
        dataset: the images and labels. All groups, if any, have the same size.
        count: the number of training images to hold out; 0 for none.
        evaluate_on: `test` evaluates the test images; any other value the held-out images.
        fold: 0 for one random split. From 1: which of `images // count` folds of (about) equal size
            to hold out. Folds share no image, so cross-validation holds out each image once.

    Returns:
        The dataset with the remaining training images. Its `split` is `validation` unless
        `evaluate_on` is `test`.

    Raises:
        UsageError: `count` or `fold` does not fit the dataset, or held-out images are requested and
            `count` is 0.
    """
    if not count:
        if evaluate_on == "validation" or fold:
            setting = f"fold is {fold}" if fold else "evaluate_on is 'validation'"
            raise UsageError(f"{setting}, but no images are held out; add --hold-out 10000")
        return dataset
    kept, held = _split(dataset, count, fold)
    smaller = replace(
        dataset,
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
        groups=None if dataset.groups is None else dataset.groups[kept],
    )
    if evaluate_on == "test":
        return smaller
    return replace(
        smaller,
        test_images=dataset.train_images[held],
        test_labels=dataset.train_labels[held],
        split="validation",
    )


def _split(dataset: Dataset, count: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the kept and of the held-out training images.

    Raises:
        UsageError: As `_check_count`.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    num_images = len(dataset.train_labels)
    groups = np.arange(num_images) if dataset.groups is None else dataset.groups
    size = num_images // len(np.unique(groups))  # images per group
    _check_count(dataset, count, fold, size)
    # Groups have one size and one label each, so they can be split as single images. scikit-learn's
    # StratifiedGroupKFold gives only folds, of approximate size.
    members = np.argsort(groups, kind="stable").reshape(-1, size)  # the images of each group
    numbers, labels = np.arange(len(members)), dataset.train_labels[members[:, 0]]
    if fold:
        folds = StratifiedKFold(num_images // count, shuffle=True, random_state=0)
        kept, held = list(folds.split(numbers, labels))[fold - 1]
    else:
        kept, held = train_test_split(
            numbers, test_size=round(count / size), random_state=0, stratify=labels
        )
        if len(held) * size != count:
            print_error(
                f"{len(held) * size} images are held out instead of {count}: all {size} drawings "
                f"of each of {len(held)} source images"
            )
    return members[kept].ravel(), members[held].ravel()


def _check_count(dataset: Dataset, count: int, fold: int, size: int) -> None:
    """Check that `count` images, in groups of `size` images, can be held out.

    Raises:
        UsageError: They cannot, or the fold does not exist.
    """
    num_images = len(dataset.train_labels)
    minimum = size * len(np.unique(dataset.train_labels))
    if not minimum <= count <= num_images - minimum:
        raise UsageError(
            f"hold_out is {count}; allowed for {dataset.name}: 0, or from {minimum} to "
            f"{num_images - minimum}, so that each class has an image in both parts"
        )
    folds = num_images // count
    if fold and (fold > folds or folds < 2):
        advice = "; hold out at most half of them" if folds < 2 else ""
        raise UsageError(
            f"fold is {fold}; {num_images} training images make {folds} of {count}{advice}"
        )
