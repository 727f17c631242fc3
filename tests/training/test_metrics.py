"""Metrics are sums that are divided once."""

import jax.numpy as jnp
import numpy as np

from jaxdrill.config.config import Loss
from jaxdrill.training import metrics


def test_sums_by_hand():
    logits = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    sums = metrics.compute(logits, jnp.array([1, 0, 0]))
    losses = [np.log(2), np.log1p(np.exp(-2)), np.log1p(np.exp(3))]
    np.testing.assert_allclose(sums.mean_loss, np.mean(losses), rtol=1e-6)
    assert (int(sums.correct), int(sums.count)) == (1, 3)
    assert sums.accuracy == 1 / 3


def test_invalid_images_do_not_count():
    logits, labels = jnp.array([[2.0, 0.0], [jnp.nan, 0.0]]), jnp.array([0, 0])
    sums = metrics.compute(logits, labels, jnp.array([True, False]))
    np.testing.assert_allclose(sums.mean_loss, np.log1p(np.exp(-2)), rtol=1e-6)
    assert (int(sums.correct), int(sums.count)) == (1, 1)


def test_the_batch_size_does_not_matter():
    generator = np.random.default_rng(0)
    logits, labels = (
        generator.normal(size=(101, 10)).astype(np.float32),
        generator.integers(0, 10, 101),
    )
    whole = metrics.compute(logits, labels)
    total = metrics.zero()
    for first in range(0, 101, 32):
        total = total + metrics.compute(logits[first : first + 32], labels[first : first + 32])
    assert (int(total.correct), int(total.count)) == (int(whole.correct), 101)
    np.testing.assert_allclose(total.mean_loss, whole.mean_loss, rtol=1e-6)


def test_label_smoothing_is_of_the_loss_alone():
    """Smoothing by 0.1 over two classes gives the targets 0.95 and 0.05."""
    logits, labels = jnp.array([[0.0, 2.0], [1.0, 0.0]]), jnp.array([1, 0])
    right, wrong = np.log1p(np.exp([-2.0, -1.0])), np.log1p(np.exp([2.0, 1.0]))
    plain = metrics.training_loss(Loss(), logits, labels)
    np.testing.assert_allclose(plain, right.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics.compute(logits, labels).loss, right.sum(), rtol=1e-6)
    smoothed = metrics.training_loss(Loss(label_smoothing=0.1), logits, labels)
    np.testing.assert_allclose(smoothed, (0.95 * right + 0.05 * wrong).sum(), rtol=1e-6)
