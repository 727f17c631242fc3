"""Training images kept apart, to choose between recipes without looking at the test images."""

from dataclasses import replace

import numpy as np

from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError


def hold_out(dataset: Dataset, count: int, evaluate_on: str, fold: int = 0) -> Dataset:
    """The dataset without `count` training images, a fixed choice of which each class gives its share. They are
    evaluated in place of the test images, unless `evaluate_on` is `test`. A `fold` from 1 is one of as many parts as
    the training images have of (about) that size, which share no image: cross-validation holds each out once.

    Raises:
        UsageError: there are not as many images, or none to evaluate.
    """
    if not count:
        if evaluate_on == "validation" or fold:
            wish = f"fold is {fold}" if fold else "evaluate_on is 'validation'"
            raise UsageError(f"{wish}, and no images are held out; add --hold-out 10000")
        return dataset
    images, classes = len(dataset.train_labels), len(np.unique(dataset.train_labels))
    if not classes <= count <= images - classes:
        allowed = f"0, or from {classes} to {images - classes}, so that each class has an image on either side"
        raise UsageError(f"hold_out is {count}; allowed for {dataset.name}: {allowed}")
    folds = images // count
    if fold and (fold > folds or folds < 2):
        parts = f"{images} training images make {folds} of {count}"
        raise UsageError(f"fold is {fold}; {parts}" + ("; hold out at most half of them" if folds < 2 else ""))
    from sklearn.model_selection import StratifiedKFold, train_test_split

    labels, every = dataset.train_labels, np.arange(images)
    if fold:
        kept, held = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(every, labels))[fold - 1]
    else:
        kept, held = train_test_split(every, test_size=count, random_state=0, stratify=labels)
    smaller = replace(dataset, train_images=dataset.train_images[kept], train_labels=dataset.train_labels[kept])
    if evaluate_on == "test":
        return smaller
    held_out = {"test_images": dataset.train_images[held], "test_labels": dataset.train_labels[held]}
    return replace(smaller, **held_out, split="validation")
