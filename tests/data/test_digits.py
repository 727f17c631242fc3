"""scikit-learn's digits as 28x28 images."""

import numpy as np
from sklearn.datasets import load_digits

from jaxdrill import data


def test_digits_are_deterministic(all_digits):
    assert all_digits.train_images.shape == (8 * 1437, 28, 28, 1)
    assert all_digits.test_images.shape == (360, 28, 28, 1)
    assert (all_digits.train_images.min(), all_digits.train_images.max()) == (0, 255)
    assert np.bincount(all_digits.test_labels).min() >= 35
    assert all_digits.sha256 == "bd2c9fe5d7280f5d670200fe49de4319d1a4726c14d795462b0a31a07b8ef61c"


def test_training_and_test_images_show_different_digits(all_digits):
    """Each training digit is drawn eight times, each test digit once, and no digit is in both."""
    drawings = all_digits.train_images.reshape(8, 1437, -1)
    labels = all_digits.train_labels.reshape(8, 1437)
    assert (labels == labels[0]).all() and len(np.unique(drawings[:, 0], axis=0)) == 8
    images = load_digits().data.reshape(-1, 8, 8)
    test = data.digits.draw(images, 2.5, 0, 0).reshape(len(images), -1)
    train = data.digits.draw(images, 2.25, -1, -1).reshape(len(images), -1)
    in_test = {image.tobytes() for image in all_digits.test_images.reshape(360, -1)}
    in_train = {image.tobytes() for image in drawings[0]}
    parts = [
        (test[n].tobytes() in in_test, train[n].tobytes() in in_train) for n in range(len(images))
    ]
    assert parts.count((True, False)) == 360 and parts.count((False, True)) == 1437
