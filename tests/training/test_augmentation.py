"""Rotation and affine transformation against PIL, and scaling."""

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
    return augmentation.nearest(images, *augmentation.sources(28, angles), fill)


def test_rotation_by_0_is_the_identity_and_by_90_is_rot90(digits):
    images = digits.test_images[:8]
    assert np.array_equal(rotate(images, jnp.zeros(8), 1), images)
    assert np.array_equal(rotate(images, jnp.full(8, 90.0), 1), np.rot90(images, axes=(1, 2)))


@pytest.mark.parametrize(
    ("degrees", "pick"),
    [
        (7, augmentation.gather),
        (7, partial(augmentation.shifts, 2)),
        (7, augmentation.products),
        (180, augmentation.gather),
        (180, augmentation.products),
    ],
)
def test_rotation_agrees_with_pil(digits, degrees, pick, monkeypatch):
    monkeypatch.setattr(augmentation, "gather", pick)  # what is used on CPU
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
    """The bound is reached, and TPUs take the same pixels by shifts up to it."""
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), dtype=np.uint8)
    angles = np.linspace(-degrees, degrees, 64, dtype=np.float32)
    row, column = augmentation.sources(28, angles)
    bound = augmentation.max_displacement(Augmentation(rotation_degrees=degrees), 28)
    assert 0 < bound - np.abs(row - np.arange(28.0)[None, :, None]).max() < 0.01
    row, column = (np.round(a).astype(np.int32) for a in (row, column))
    inside = (row >= 0) & (row < 28) & (column >= 0) & (column < 28)
    expected, reach = augmentation.gather(images[..., 0], row, column), int(bound + 0.5)
    found = augmentation.shifts(reach, images[..., 0], row, column)
    assert np.array_equal(np.where(inside, found, 0), np.where(inside, expected, 0))
    if reach:
        nearer = augmentation.shifts(reach - 1, images[..., 0], row, column)
        assert not np.array_equal(np.where(inside, nearer, 0), np.where(inside, expected, 0))


def test_affine_transformations_displace_no_pixel_farther_than_the_bound():
    how = Augmentation(rotation_degrees=10, scale=0.07, shift_pixels=1.4)
    corners = np.array(list(itertools.product([-1, 1], repeat=4)), np.float32)
    row, column = augmentation.sources(
        28, 10 * corners[:, 0], 1 + 0.07 * corners[:, 1], 1.4 * corners[:, 2:]
    )
    bound = augmentation.max_displacement(how, 28)
    displaced = (
        np.abs(row - np.arange(28.0)[None, :, None]),
        np.abs(column - np.arange(28.0)[None, None, :]),
    )
    assert bound - 0.5 < np.max(displaced) < bound < 6  # cosine and sine are bounded one by one
    assert augmentation.MAX_SHIFTS["bilinear"] >= 6  # so a TPU sums shifted images for step 6


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


def affine(images, angles, scales, shifts, pick, fill=7):
    """Each image by PIL, from output to input, both in pixels from the corner."""
    for image, angle, scale, (down, right) in zip(
        images, np.deg2rad(angles), scales, shifts, strict=True
    ):
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        column = (cosine, -sine, 14 - cosine * (14 + right) + sine * (14 + down))
        row = (sine, cosine, 14 - sine * (14 + right) - cosine * (14 + down))
        picture = Image.fromarray(image[..., 0].astype(np.float32))
        yield np.asarray(
            picture.transform(
                (28, 28), Image.Transform.AFFINE, (*column, *row), pick, fillcolor=fill
            )
        )


@pytest.mark.parametrize(
    "mix",
    [
        augmentation.mixed_gather,
        augmentation.mixed_products,
        partial(augmentation.mixed_shifts, 27),
    ],
)
def test_affine_transformations_agree_with_pil(digits, mix, monkeypatch):
    monkeypatch.setattr(augmentation, "mixed_gather", mix)  # what is used on CPU
    rng, images = np.random.default_rng(0), digits.train_images[:200]
    angles, scales = (
        rng.uniform(-40, 40, 200).astype(np.float32),
        rng.uniform(0.7, 1.4, 200).astype(np.float32),
    )
    shifts = rng.uniform(-5, 5, (200, 2)).astype(np.float32)
    sources = augmentation.sources(28, angles, scales, shifts)
    ours = np.asarray(augmentation.bilinear(images, *sources, 7))[..., 0]
    expected = np.stack(list(affine(images, angles, scales, shifts, Image.Resampling.BILINEAR)))
    assert ours.dtype == np.float32 and np.mean(expected == 7) > 0.1
    differs = np.abs(ours - expected) > 2e-3
    assert (
        differs.mean() < 1e-4
    )  # a source on the very edge of the image is inside or outside by rounding
    ours = np.asarray(augmentation.nearest(images, *sources, 7))[..., 0]
    expected = np.stack(list(affine(images, angles, scales, shifts, Image.Resampling.NEAREST)))
    assert np.mean(ours == expected) > 0.999


def test_random_affine_draws_angle_size_and_place_of_each_image_within_their_ranges(monkeypatch):
    seen = {}

    def spy(side, degrees, scales, shifts):
        seen.update(degrees=degrees, scales=scales, shifts=shifts)
        return sources(side, degrees, scales, shifts)

    sources = augmentation.sources
    monkeypatch.setattr(augmentation, "sources", spy)
    recipe = Augmentation(
        rotation_degrees=10, scale=0.2, shift_pixels=1.5, interpolation="bilinear"
    )
    x = augmentation.augment(
        recipe, jax.random.split(jax.random.key(0), 500), jnp.zeros((500, 28, 28, 1), jnp.uint8)
    )
    assert x.shape == (500, 28, 28, 1) and x.dtype == jnp.float32
    digits = np.random.default_rng(0).integers(0, 256, (500, 28, 28, 1), dtype=np.uint8)
    for interpolation, pick in (
        ("bilinear", augmentation.bilinear),
        ("nearest", augmentation.nearest),
    ):
        recipe = recipe.model_copy(update={"interpolation": interpolation})
        x = augmentation.augment(
            recipe, jax.random.split(jax.random.key(0), 500), jnp.array(digits)
        )
        np.testing.assert_allclose(
            x,
            augmentation.normalize(pick(jnp.array(digits), *sources(28, *seen.values()), 1)),
            atol=1e-5,
        )
    drawn = [seen["degrees"] / 10, (seen["scales"] - 1) / 0.2, *(seen["shifts"].T / 1.5)]
    for value in drawn:  # uniform in -1..1
        np.testing.assert_allclose(
            np.quantile(value, [0, 0.25, 0.5, 0.75, 1]), [-1, -0.5, 0, 0.5, 1], atol=0.13
        )
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.15
    none = Augmentation(interpolation="bilinear", rotation_fill=9)
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
    same = augmentation.augment(none, jax.random.split(jax.random.key(0), 1), jnp.array(image))
    assert np.array_equal(same, augmentation.normalize(jnp.array(image)))


def test_normalize():
    images = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    expected = [-0.1307 / 0.3081, (1 - 0.1307) / 0.3081]
    np.testing.assert_allclose(augmentation.normalize(images).ravel(), expected, rtol=1e-6)
    every = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(augmentation.denormalize(augmentation.normalize(every)), every)
