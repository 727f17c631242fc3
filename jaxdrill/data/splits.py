"""Training images kept apart, to choose between recipes without looking at the test images."""

from dataclasses import replace

import numpy as np

from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError, print_error


def hold_out(dataset: Dataset, count: int, evaluate_on: str, fold: int = 0) -> Dataset:
    """Split `count` training images off a dataset, and evaluate them in place of the test images.

    The choice is fixed and stratified by class. Where a dataset has `groups`, whole groups are split off, so that no
    drawing of a source image is trained on while another is evaluated. The number of images held out is then the
    multiple of the group size that is closest to `count`, and a line on stderr says so if it is not `count`.

    Args:
        dataset: images and labels; the groups, if any, all have the same size.
        count: how many training images are held out; 0 for none.
        evaluate_on: `test` evaluates the test images nevertheless; otherwise the images held out are evaluated.
        fold: 0 for one random choice; from 1, which of `images // count` parts of (about) equal size is held out. The
            parts share no image: cross-validation holds out each part once.

    Returns:
        The dataset with the remaining training images. Its `split` is `validation` unless `evaluate_on` is `test`.

    Raises:
        UsageError: `count` or `fold` does not fit the dataset, or no images are held out to be evaluated.
    """
    if not count:
        if evaluate_on == "validation" or fold:
            wish = f"fold is {fold}" if fold else "evaluate_on is 'validation'"
            raise UsageError(f"{wish}, and no images are held out; add --hold-out 10000")
        return dataset
    images = len(dataset.train_labels)
    size = (
        1 if dataset.groups is None else images // len(np.unique(dataset.groups))
    )  # images per group
    _assert_fits(dataset, count, fold, size)
    from sklearn.model_selection import StratifiedKFold, train_test_split

    # The groups are split as single images are, which is possible because they have one size and one label each. So
    # the counts are exact; scikit-learn's StratifiedGroupKFold only makes folds, of about equal size.
    groups = np.arange(images) if dataset.groups is None else dataset.groups
    members = np.argsort(groups, kind="stable").reshape(-1, size)  # the images of each group
    labels, every = dataset.train_labels[members[:, 0]], np.arange(len(members))
    if fold:
        kept, held = list(
            StratifiedKFold(images // count, shuffle=True, random_state=0).split(every, labels)
        )[fold - 1]
    else:
        kept, held = train_test_split(
            every, test_size=round(count / size), random_state=0, stratify=labels
        )
        if len(held) * size != count:
            print_error(
                f"{len(held) * size} images are held out instead of {count}: all {size} drawings of each of "
                f"{len(held)} source images"
            )
    kept, held = members[kept].ravel(), members[held].ravel()
    smaller = replace(
        dataset,
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
        groups=None if dataset.groups is None else groups[kept],
    )
    if evaluate_on == "test":
        return smaller
    held_out = {
        "test_images": dataset.train_images[held],
        "test_labels": dataset.train_labels[held],
    }
    return replace(smaller, **held_out, split="validation")


def _assert_fits(dataset: Dataset, count: int, fold: int, size: int) -> None:
    """Check that `count` images, in groups of `size` images, can be held out.

    Raises:
        UsageError: they cannot, or there is no such fold.
    """
    images, least = len(dataset.train_labels), size * len(np.unique(dataset.train_labels))
    if not least <= count <= images - least:
        allowed = f"0, or from {least} to {images - least}, so that each class has an image on either side"
        raise UsageError(f"hold_out is {count}; allowed for {dataset.name}: {allowed}")
    folds = images // count
    if fold and (fold > folds or folds < 2):
        parts = f"{images} training images make {folds} of {count}"
        raise UsageError(
            f"fold is {fold}; {parts}" + ("; hold out at most half of them" if folds < 2 else "")
        )
