"""Rotation against PIL, and scaling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdrill.recipe import Augmentation
from jaxdrill.training import augmentation


def test_rotation_by_0_is_the_identity_and_by_90_is_rot90(digits):
    images = digits.test_images[:8]
    assert np.array_equal(augmentation.rotate(images, jnp.zeros(8), 1), images)
    assert np.array_equal(augmentation.rotate(images, jnp.full(8, 90.0), 1), np.rot90(images, axes=(1, 2)))


@pytest.mark.parametrize(
    ("degrees", "pick"),
    [(7, augmentation.gather), (7, partial(augmentation.shifts, 2)), (7, augmentation.products),
     (180, augmentation.gather), (180, augmentation.products)],
)  # fmt: skip
def test_rotation_agrees_with_pil(digits, degrees, pick, monkeypatch):
    monkeypatch.setattr(augmentation, "gather", pick)  # what is used on CPU
    images = digits.train_images[:200]
    angles = np.random.default_rng(0).uniform(-degrees, degrees, 200).astype(np.float32)
    expected = [
        np.asarray(Image.fromarray(image[..., 0]).rotate(float(angle), Image.Resampling.NEAREST, fillcolor=1))
        for image, angle in zip(images, angles, strict=True)
    ]
    rotated = np.asarray(augmentation.rotate(images, angles, 1))
    assert rotated.dtype == np.uint8
    assert np.mean(rotated[..., 0] == np.stack(expected)) >= 0.999
    assert np.mean(rotated == images) < 0.95  # the angles matter


@pytest.mark.parametrize("degrees", [0.5, 3, 7, 12])
def test_shifts_reach_as_far_as_the_largest_angle_moves_a_pixel(degrees, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    angles = np.linspace(-degrees, degrees, 64, dtype=np.float32)
    expected, reach = augmentation.rotate(images, angles, 1), augmentation.farthest(degrees, 28)
    monkeypatch.setattr(augmentation, "gather", partial(augmentation.shifts, reach))
    assert np.array_equal(augmentation.rotate(images, angles, 1), expected)
    monkeypatch.setattr(augmentation, "gather", partial(augmentation.shifts, reach - 1))
    assert reach == 0 or not np.array_equal(augmentation.rotate(images, angles, 1), expected)


def test_random_rotation_draws_an_angle_for_each_image_within_the_range():
    image = np.arange(28 * 28, dtype=np.int64).reshape(1, 28, 28, 1) % 251
    images = np.repeat(image.astype(np.uint8), 64, axis=0)
    keys = jax.random.split(jax.random.key(0), 64)
    seven = Augmentation(rotation_degrees=7.0)
    seen = augmentation.augment(seven, keys, jnp.array(images))
    assert seen.dtype == jnp.float32
    rotated = np.asarray(augmentation.denormalize(seen))
    assert len(np.unique(rotated.reshape(64, -1), axis=0)) > 32
    # 7 degrees move no pixel within 3 of the centre by half a pixel; the corners, 19 away, move by up to 2.3.
    assert np.array_equal(rotated[:, 12:16, 12:16], images[:, 12:16, 12:16])
    assert np.mean(rotated[:, 0, 0, 0] == 1) > 0.5
    assert np.array_equal(seen, augmentation.augment(seven, keys, jnp.array(images)))
    none = augmentation.augment(Augmentation(), keys, jnp.array(images))
    assert np.array_equal(none, augmentation.normalize(jnp.array(images)))


def test_normalize():
    images = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    expected = [-0.1307 / 0.3081, (1 - 0.1307) / 0.3081]
    np.testing.assert_allclose(augmentation.normalize(images).ravel(), expected, rtol=1e-6)
    every = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(augmentation.denormalize(augmentation.normalize(every)), every)
