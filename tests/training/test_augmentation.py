"""Rotation and affine transformation against PIL."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdrill.config.config import Augmentation
from jaxdrill.training import augmentation


def rotate(images, angles, fill):
    return augmentation.nearest(images, *augmentation.inverse_affine_grid(28, angles), fill)


def test_rotation_by_0_is_the_identity_and_by_90_is_rot90(digits):
    images = digits.test_images[:8]
    assert np.array_equal(rotate(images, jnp.zeros(8), 1), images)
    assert np.array_equal(rotate(images, jnp.full(8, 90.0), 1), np.rot90(images, axes=(1, 2)))


@pytest.mark.parametrize(
    ("degrees", "gather"),
    [
        (7, augmentation.gather),
        (7, partial(augmentation.gather_shifted, 2)),
        (180, augmentation.gather),
    ],
)
def test_rotation_agrees_with_pil(digits, degrees, gather, monkeypatch):
    monkeypatch.setattr(augmentation, "gather", gather)  # the one used on CPU
    images = digits.train_images[:200]
    angles = np.random.default_rng(0).uniform(-degrees, degrees, 200).astype(np.float32)
    expected = [
        np.asarray(
            Image.fromarray(image[..., 0]).rotate(
                float(angle), Image.Resampling.NEAREST, fillcolor=1
            )
        )
        for image, angle in zip(images, angles, strict=True)
    ]
    rotated = np.asarray(rotate(images, angles, 1))
    assert rotated.dtype == np.uint8
    assert np.mean(rotated[..., 0] == np.stack(expected)) >= 0.999
    assert np.mean(rotated == images) < 0.95  # the angles matter


@pytest.mark.parametrize("degrees", [0.5, 3, 7, 12])
def test_a_rotation_displaces_no_pixel_farther_than_the_bound(degrees):
    """The bound is reached, and on TPUs shifts up to it give the same pixels."""
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    angles = np.linspace(-degrees, degrees, 64, dtype=np.float32)
    row, column = augmentation.inverse_affine_grid(28, angles)
    bound = augmentation.max_displacement(Augmentation(rotation_degrees=degrees), 28)
    assert 0 < bound - np.abs(row - np.arange(28.0)[None, :, None]).max() < 0.01
    row, column = (np.round(a).astype(np.int32) for a in (row, column))
    inside = (row >= 0) & (row < 28) & (column >= 0) & (column < 28)
    expected, reach = augmentation.gather(images[..., 0], row, column), int(bound + 0.5)
    found = augmentation.gather_shifted(reach, images[..., 0], row, column)
    assert np.array_equal(np.where(inside, found, 0), np.where(inside, expected, 0))
    if reach:
        nearer = augmentation.gather_shifted(reach - 1, images[..., 0], row, column)
        assert not np.array_equal(np.where(inside, nearer, 0), np.where(inside, expected, 0))


def test_affine_transformations_displace_no_pixel_farther_than_the_bound():
    how = Augmentation(rotation_degrees=10, scale=0.07, shift_pixels=1.4)
    corners = np.array(list(itertools.product([-1, 1], repeat=4)), np.float32)
    row, column = augmentation.inverse_affine_grid(
        28, 10 * corners[:, 0], 1 + 0.07 * corners[:, 1], 1.4 * corners[:, 2:]
    )
    bound = augmentation.max_displacement(how, 28)
    position = np.arange(28.0)
    displacements = np.abs(row - position[None, :, None]), np.abs(column - position[None, None, :])
    assert bound - 0.5 < np.max(displacements) < bound < 6  # cosine and sine are bounded separately
    assert augmentation.MAX_SHIFTS["bilinear"] >= 6  # so a TPU sums shifted images for step 6


def test_random_rotation_draws_an_angle_within_the_range_for_each_image():
    image = np.arange(28 * 28, dtype=np.int64).reshape(1, 28, 28, 1) % 251
    images = np.repeat(image.astype(np.uint8), 64, axis=0)
    keys = jax.random.split(jax.random.key(0), 64)
    seven = Augmentation(rotation_degrees=7.0)
    rotated = np.asarray(augmentation.augment(seven, keys, jnp.array(images)))
    assert rotated.dtype == np.uint8
    assert len(np.unique(rotated.reshape(64, -1), axis=0)) > 32
    # 7 degrees displace no pixel within 3 of the centre by half a pixel. The corners, 19 away, are
    # displaced by up to 2.3.
    assert np.array_equal(rotated[:, 12:16, 12:16], images[:, 12:16, 12:16])
    assert np.mean(rotated[:, 0, 0, 0] == 1) > 0.5
    assert np.array_equal(rotated, augmentation.augment(seven, keys, jnp.array(images)))
    assert np.array_equal(augmentation.augment(Augmentation(), keys, jnp.array(images)), images)


def affine(images, angles, scales, shifts, resampling, fill=7):
    """Transform each image by PIL, from output to input, both in pixels from the corner."""
    settings = zip(images, np.deg2rad(angles), scales, shifts, strict=True)
    for image, angle, scale, (down, right) in settings:
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        column = (cosine, -sine, 14 - cosine * (14 + right) + sine * (14 + down))
        row = (sine, cosine, 14 - sine * (14 + right) - cosine * (14 + down))
        picture = Image.fromarray(image[..., 0].astype(np.float32))
        matrix, how = (*column, *row), Image.Transform.AFFINE
        yield np.asarray(picture.transform((28, 28), how, matrix, resampling, fillcolor=fill))


@pytest.mark.parametrize(
    "interpolate",
    [augmentation.gather_bilinear, partial(augmentation.gather_bilinear_shifted, 27)],
)
def test_affine_transformations_agree_with_pil(digits, interpolate, monkeypatch):
    monkeypatch.setattr(augmentation, "gather_bilinear", interpolate)  # the one used on CPU
    rng, images = np.random.default_rng(0), digits.train_images[:200]
    angles = rng.uniform(-40, 40, 200).astype(np.float32)
    scales = rng.uniform(0.7, 1.4, 200).astype(np.float32)
    shifts = rng.uniform(-5, 5, (200, 2)).astype(np.float32)
    grid = augmentation.inverse_affine_grid(28, angles, scales, shifts)
    ours = np.asarray(augmentation.bilinear(images, *grid, 7))[..., 0]
    expected = np.stack(list(affine(images, angles, scales, shifts, Image.Resampling.BILINEAR)))
    assert ours.dtype == np.float32 and np.mean(expected == 7) > 0.1
    # Rounding decides whether a source on the edge of the image is inside.
    assert np.mean(np.abs(ours - expected) > 2e-3) < 1e-4
    ours = np.asarray(augmentation.nearest(images, *grid, 7))[..., 0]
    expected = np.stack(list(affine(images, angles, scales, shifts, Image.Resampling.NEAREST)))
    assert np.mean(ours == expected) > 0.999


def test_random_affine_draws_angle_scale_and_translation_within_their_ranges(monkeypatch):
    drawn = {}

    def spy(side, degrees, scales, translations):
        drawn.update(degrees=degrees, scales=scales, translations=translations)
        return inverse_affine_grid(side, degrees, scales, translations)

    inverse_affine_grid = augmentation.inverse_affine_grid
    monkeypatch.setattr(augmentation, "inverse_affine_grid", spy)
    how = Augmentation(rotation_degrees=10, scale=0.2, shift_pixels=1.5)
    keys, random = jax.random.split(jax.random.key(0), 500), np.random.default_rng(0)
    images = jnp.array(random.integers(0, 256, (500, 28, 28, 1), dtype=np.uint8))
    for name, function in (
        ("bilinear", augmentation.bilinear),
        ("nearest", augmentation.nearest),
    ):
        found = augmentation.augment(how.model_copy(update={"interpolation": name}), keys, images)
        assert found.shape == (500, 28, 28, 1)
        assert found.dtype == (jnp.float32 if name == "bilinear" else jnp.uint8)
        expected = function(images, *inverse_affine_grid(28, *drawn.values()), 1)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    values = drawn["degrees"] / 10, (drawn["scales"] - 1) / 0.2, *(drawn["translations"].T / 1.5)
    for value in values:  # uniform in -1..1
        quantiles = np.quantile(value, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(quantiles, [-1, -0.5, 0, 0.5, 1], atol=0.13)
    assert np.abs(np.corrcoef(values) - np.eye(4)).max() < 0.15
    none = Augmentation(interpolation="bilinear", rotation_fill=9)
    assert np.array_equal(augmentation.augment(none, keys, images), images)
